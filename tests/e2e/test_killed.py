"""kill -9 at any moment: the next start seals what was running, before the port opens, and nothing is doubled or lost.

Every moment is an event, not a time: what the provider has said, what the client has got, or an SQL statement.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from websockets.exceptions import ConnectionClosed

from tests.e2e.client import Client, Message, chatting
from tests.e2e.process import ServerProcess, settings, until
from tests.e2e.upstream import SLOW, Exchange, FakeUpstream
from tests.simulation.answers import Copy, digest

WHOLE = "".join(SLOW)
MORTAL = str(Path(__file__).with_name("mortal.py"))
QUESTION, ROW = "INSERT INTO messages .*'user'", "INSERT INTO runs"
CHECKPOINT, ENDING, ANSWER = "UPDATE runs SET rev=", "UPDATE runs SET .*'ended'", "INSERT INTO messages .*'assistant'"
FAILED_ATTEMPT = "UPDATE usage SET .*PROVIDER_UNAVAILABLE"


class House:
    """One database file, and the server that lives on it at the moment."""

    def __init__(self, folder: Path, upstream: FakeUpstream) -> None:
        self.file = folder / "chat.db"
        self.upstream = upstream
        self._folder = folder
        self._orders = folder / "orders"
        self._orders.write_text("")
        self.server = self._start()

    def _start(self) -> ServerProcess:
        program = (MORTAL, str(self._orders))
        return ServerProcess(self._folder, settings(self._folder, self.upstream.url), measured=False, program=program)

    def order(self, when: str, pattern: str) -> None:
        self._orders.write_text(f"{when} {pattern}")

    def restart(self) -> None:
        """Start again after a kill."""
        self.server.wait()
        self._orders.write_text("")
        self.server = self._start()

    def rows(self, query: str, *values: str) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(self.file)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(query, values)]


@pytest.fixture(scope="module")
def house(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("killed"), upstream)
    try:
        yield house
        house.server.stop()
    finally:
        house.server.kill()


class Scene:
    """One question, up to the death of the server.

    Attributes:
        name: of the session, the request and the question.
        copy: what the client has of the answer.
        kinds: the types of the messages that it got.
    """

    def __init__(self, house: House, client: Client, name: str) -> None:
        self.house = house
        self.client = client
        self.name = name
        self.copy = Copy()
        self.kinds: list[str] = []
        self.message_id: str | None = None

    def ask(self, plan: str = "step", **options: Any) -> None:
        self.question = f"{plan} {self.name}"
        self.client.ask(self.question, self.name, **options)

    @property
    def exchange(self) -> Exchange:
        return self.house.upstream.asked(self.question)

    @property
    def times_asked(self) -> int:
        return sum(each.question == self.question for each in self.house.upstream.exchanges)

    def hear(self, kind: str, times: int = 1) -> None:
        """Read until so many messages of a type have come, counted from the first."""
        while self.kinds.count(kind) < times:
            self._take(self.client.receive())

    def _take(self, message: Message) -> None:
        data = message["data"]
        self.kinds.append(message["type"])
        if message["type"] == "CHAT_STREAM_START":
            self.message_id = data["messageId"]
        elif message["type"] == "CHAT_STREAM_DATA":
            self.copy.take(data)
        elif message["type"] in ("CHAT_STREAM_END", "CHAT_RESPONSE"):
            self.message_id, self.copy.end = data["messageId"], data

    def say(self, steps: int) -> None:
        """Let the provider say so much, and see it arrive."""
        exchange = self.exchange
        exchange.step(steps)
        said = "".join(SLOW[: min(exchange.written, len(SLOW))])
        while self.copy.text != said:
            self._take(self.client.receive())

    def kill(self) -> None:
        self.house.server.kill()

    def die(self, when: str, pattern: str) -> None:
        """Have the server die at a statement that is yet to come."""
        self.house.order(when, pattern)

    def wait_for_death(self) -> None:
        """Read what still comes, and wait until the process is gone."""
        try:
            while True:
                self._take(self.client.receive())
        except ConnectionClosed:
            self.house.server.wait()

    def stored(self) -> list[dict[str, Any]]:
        return self.house.rows("SELECT * FROM runs WHERE request_id = ?", self.name)


# ---- the moments


def as_the_question_comes(scene: Scene) -> None:
    scene.die("before", ROW)
    scene.ask()
    scene.wait_for_death()


def between_the_run_and_its_question(scene: Scene) -> None:
    scene.die("before", QUESTION)
    scene.ask()
    scene.wait_for_death()


def at_the_commit_of_the_question(scene: Scene) -> None:
    scene.die("commit", ROW)
    scene.ask()
    scene.wait_for_death()


def right_after_the_question_is_stored(scene: Scene) -> None:
    scene.die("after", ROW)
    scene.ask()
    scene.wait_for_death()


def after_start(scene: Scene) -> None:
    scene.ask()
    scene.hear("CHAT_STREAM_START")
    scene.kill()


def before_the_first_token(scene: Scene) -> None:
    scene.ask()
    assert scene.exchange.written == 0
    scene.kill()


def as_the_first_token_is_written(scene: Scene) -> None:
    scene.ask()
    scene.exchange.step()
    scene.kill()


def in_the_middle(scene: Scene) -> None:
    scene.ask()
    scene.say(20)
    scene.kill()


def at_a_checkpoint(scene: Scene) -> None:
    scene.die("before", CHECKPOINT)
    scene.ask()
    scene.exchange.allowed += 3
    scene.wait_for_death()


def some_words_after_a_checkpoint(scene: Scene) -> None:
    scene.ask()
    scene.say(5)
    until(lambda: scene.stored()[0]["content"] == "".join(SLOW[:5]), "the text so far is durable")
    scene.say(4)
    scene.kill()


def between_two_attempts(scene: Scene) -> None:
    scene.die("after", FAILED_ATTEMPT)
    scene.ask("busy")
    scene.wait_for_death()


def when_the_second_attempt_speaks(scene: Scene) -> None:
    scene.ask("busy")
    scene.hear("INFO")
    until(lambda: scene.times_asked == 2, "the provider is asked again")
    scene.say(2)
    scene.kill()


def before_the_end_is_stored(scene: Scene) -> None:
    scene.die("before", ENDING)
    scene.ask()
    scene.say(len(SLOW))
    scene.exchange.allowed += 2
    scene.wait_for_death()


def between_the_end_and_the_answer(scene: Scene) -> None:
    scene.die("before", ANSWER)
    scene.ask()
    scene.say(len(SLOW))
    scene.exchange.allowed += 2
    scene.wait_for_death()


def at_the_commit_of_the_end(scene: Scene) -> None:
    scene.die("commit", ENDING)
    scene.ask()
    scene.say(len(SLOW))
    scene.exchange.allowed += 2
    scene.wait_for_death()


def right_after_the_end_is_stored(scene: Scene) -> None:
    scene.die("after", ENDING)
    scene.ask()
    scene.say(len(SLOW))
    scene.exchange.allowed += 2
    scene.wait_for_death()


def after_end(scene: Scene) -> None:
    scene.ask()
    scene.say(len(SLOW))
    scene.exchange.allowed += 2
    scene.hear("CHAT_STREAM_END")
    scene.kill()


def while_a_cancel_is_stored(scene: Scene) -> None:
    scene.ask()
    scene.say(7)
    scene.die("commit", ENDING)
    scene.client.send("CHAT_CANCEL", {"requestId": scene.name})
    assert scene.exchange.left.wait(20)
    scene.wait_for_death()


def after_a_cancel(scene: Scene) -> None:
    scene.ask()
    scene.say(7)
    scene.client.send("CHAT_CANCEL", {"requestId": scene.name})
    scene.hear("CHAT_STREAM_END")
    scene.kill()


def while_a_whole_answer_is_waited_for(scene: Scene) -> None:
    scene.ask(streaming=False)
    assert scene.exchange.written == 0
    scene.kill()


def while_the_server_drains(scene: Scene) -> None:
    scene.ask()
    scene.say(6)
    scene.house.server.terminate()
    until(lambda: "shutting down" in scene.house.server.log(), "the server has heard")
    scene.say(2)
    scene.kill()


def while_what_was_running_is_sealed(scene: Scene) -> None:
    """The next start is killed as well, in the middle of mending."""
    scene.ask()
    scene.say(4)
    scene.kill()
    scene.house.server.wait()
    scene.house.order("commit", ENDING)
    with pytest.raises(AssertionError, match="the server did not start"):
        scene.house._start()


@frozen
class Left:
    """What is there afterwards: how the answer ended, None where the question was not stored, and the text at least."""

    reason: str | None
    text: str = ""


MOMENTS: list[tuple[Callable[[Scene], None], Left]] = [
    (as_the_question_comes, Left(None)),
    (between_the_run_and_its_question, Left(None)),
    (at_the_commit_of_the_question, Left(None)),
    (right_after_the_question_is_stored, Left("interrupted")),
    (after_start, Left("interrupted")),
    (before_the_first_token, Left("interrupted")),
    (as_the_first_token_is_written, Left("interrupted")),
    (in_the_middle, Left("interrupted")),
    (at_a_checkpoint, Left("interrupted")),
    (some_words_after_a_checkpoint, Left("interrupted", "".join(SLOW[:5]))),
    (between_two_attempts, Left("interrupted")),
    (when_the_second_attempt_speaks, Left("interrupted")),
    (before_the_end_is_stored, Left("interrupted")),
    (between_the_end_and_the_answer, Left("interrupted")),
    (at_the_commit_of_the_end, Left("interrupted")),
    (right_after_the_end_is_stored, Left("completed", WHOLE)),
    (after_end, Left("completed", WHOLE)),
    (while_a_cancel_is_stored, Left("interrupted")),
    (after_a_cancel, Left("cancelled", "".join(SLOW[:7]))),
    (while_a_whole_answer_is_waited_for, Left("interrupted")),
    (while_the_server_drains, Left("interrupted")),
    (while_what_was_running_is_sealed, Left("interrupted")),
]


@pytest.mark.parametrize(("moment", "left"), MOMENTS, ids=[moment.__name__ for moment, _ in MOMENTS])
def test_a_server_that_is_killed(house: House, moment: Callable[[Scene], None], left: Left) -> None:
    name = moment.__name__
    with chatting(house.server, session=name, close_timeout=0.1) as client:
        scene = Scene(house, client, name)
        try:
            moment(scene)
        finally:
            house.server.kill()
            house.restart()
    _check_sealed(house)
    runs = scene.stored()
    assert len(runs) == (left.reason is not None)
    times_asked = scene.times_asked
    with chatting(house.server, session=name) as client:
        if left.reason is not None:
            _check_kept(scene, client, runs[0], left)
        _check_again(scene, client, left)
        assert scene.times_asked == times_asked + (left.reason is None)
        _check_next(scene, client)
    _check_rows(scene, max(1, scene.times_asked))


def _check_sealed(house: House) -> None:
    """What was running is settled as soon as somebody can come."""
    assert house.rows("SELECT run_id FROM runs WHERE state <> 'ended'") == []
    assert house.rows("SELECT attempt_id FROM usage WHERE outcome = 'running'") == []


def _check_kept(scene: Scene, client: Client, run: dict[str, Any], left: Left) -> None:
    """The answer that was begun is there, with what was said, and ends for whoever comes back for it."""
    message_id = run["message_id"]
    assert scene.message_id in (None, message_id)
    if scene.copy.end is not None:
        assert scene.copy.end["finishReason"] == left.reason
    client.send("CHAT_RESUME", {"messageId": message_id, "rev": 0, "fromIndex": scene.copy.cursor}, request_id="back")
    again = Scene(scene.house, client, scene.name)
    again.hear("CHAT_STREAM_END" if run["streaming"] else "CHAT_RESPONSE")
    end = again.copy.end
    assert end is not None
    assert end["finishReason"] == left.reason
    if run["streaming"]:
        assert (end["length"], end["sha256"]) == (len(again.copy.text), digest(again.copy.text))
        # What was sealed meanwhile is delivered as a message too, since nobody had been given it.
        assert next(kind for kind in again.kinds if kind != "CHAT_MESSAGE") == "CHAT_STREAM_START"
    assert WHOLE.startswith(again.copy.text)
    assert again.copy.text.startswith(left.text)
    assert len(scene.house.rows("SELECT 1 FROM messages WHERE message_id = ?", message_id)) == 1


def _check_again(scene: Scene, client: Client, left: Left) -> None:
    """The same request is the same answer; one that was not stored is answered now."""
    is_whole = "while_a_whole_answer" in scene.name
    client.ask(scene.question, scene.name, **({"streaming": False} if is_whole else {}))
    again = Scene(scene.house, client, scene.name)
    if left.reason is None:
        until(lambda: scene.exchange.written == 0, "the provider is asked")
        scene.exchange.step(len(SLOW) + 2)
    again.hear("CHAT_RESPONSE" if is_whole else "CHAT_STREAM_END")
    assert again.copy.end is not None
    assert again.copy.end["finishReason"] == (left.reason or "completed")
    assert again.message_id == scene.stored()[0]["message_id"]
    if left.reason is None:
        assert again.copy.text == WHOLE


def _check_next(scene: Scene, client: Client) -> None:
    """The conversation goes on, and the model is told what is remembered."""
    client.answer(f"and after {scene.name}")
    (answer,) = scene.house.rows("SELECT content FROM messages WHERE message_id = ?", scene.stored()[0]["message_id"])
    turns = scene.house.upstream.asked(f"and after {scene.name}").body["messages"]
    remembered = [scene.question, *([answer["content"]] if answer["content"] else [])]
    assert [turn["content"] for turn in turns] == [*remembered, f"and after {scene.name}"]


def _check_rows(scene: Scene, attempts: int) -> None:
    """One question, one answer, one row per attempt."""
    (run,) = scene.stored()
    (question,) = scene.house.rows("SELECT * FROM messages WHERE message_id = ?", run["user_message_id"])
    assert question["content"] == scene.question
    assert len(scene.house.rows("SELECT 1 FROM messages WHERE content = ?", scene.question)) == 1
    answers = scene.house.rows("SELECT * FROM messages WHERE parent_id = ?", run["user_message_id"])
    assert [answer["message_id"] for answer in answers] == [run["message_id"]]
    rows = scene.house.rows("SELECT * FROM usage WHERE run_id = ?", run["run_id"])
    assert len(rows) == attempts
    assert all(re.fullmatch("[a-zA-Z_]+", row["outcome"]) and row["outcome"] != "running" for row in rows)
