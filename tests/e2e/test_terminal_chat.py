"""The terminal chat as a person meets it: a real terminal, a real server, a network that breaks."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.e2e.process import ServerProcess, running_server, token, until
from tests.e2e.relay import relay
from tests.e2e.terminal import CTRL_C, CTRL_D, Terminal, terminal
from tests.e2e.upstream import ANSWER, FIRST, REST, SLOW, FakeUpstream

CHAT = Path(__file__).parents[2] / "scripts" / "chat.py"
PROMPT = "you> "
LOST, BACK = "[The connection is lost; reconnecting]", "[Connected again]"


@contextmanager
def chatting(port: int, folder: Path, session: str) -> Iterator[Terminal]:
    file = folder / "token"
    file.write_text(token("terminal-user"))
    options = ["--token-file", str(file), "--session", session, "--lang", "en"]
    with terminal([sys.executable, str(CHAT), f"ws://127.0.0.1:{port}", *options], folder) as person:
        person.until(PROMPT)
        yield person


def test_a_person_asks_stops_asks_again_and_leaves(
    server: ServerProcess, upstream: FakeUpstream, tmp_path: Path
) -> None:
    with chatting(server.port, tmp_path, "person") as person:
        person.type("slow wagons\n")
        person.until(SLOW[3])
        person.type(CTRL_C)
        person.until("[stopped, upstream closed in ")
        assert upstream.asked("slow wagons").left.wait(20)
        assert SLOW[-1] not in person.shown
        person.until(PROMPT)
        person.type("and now?\n")
        person.until(ANSWER)
        person.until(PROMPT)
        person.type(CTRL_D)
        assert person.leave() == 0
    history = (tmp_path / "scm-trio" / "chat-history").read_text()
    assert history.splitlines() == ["slow wagons", "and now?"]


def test_an_answer_goes_on_when_the_network_breaks(
    server: ServerProcess, upstream: FakeUpstream, tmp_path: Path
) -> None:
    with relay(server.port) as network, chatting(network.port, tmp_path, "broken-network") as person:
        person.type("hold the line\n")
        person.until("".join(FIRST))
        network.cut()
        person.until(LOST)
        person.until(BACK)
        upstream.asked("hold the line").release()
        assert person.until("".join(REST)) == "\n" + "".join(REST)
        person.until("tokens")
        person.until(PROMPT)
        person.type("/quit\n")
        assert person.leave() == 0
    assert [each.question for each in upstream.exchanges].count("hold the line") == 1


def test_ctrl_c_works_at_once_while_there_is_no_network(
    server: ServerProcess, upstream: FakeUpstream, tmp_path: Path
) -> None:
    with relay(server.port) as network, chatting(network.port, tmp_path, "no-network") as person:
        person.type("hold on\n")
        person.until("".join(FIRST))
        network.target = None
        network.cut()
        person.until(LOST)
        person.type(CTRL_C)
        person.until("[Stopped; the server will be told when the connection is back]")
        person.until(PROMPT)
        assert not upstream.asked("hold on").left.is_set()
        network.target = server.port
        person.until(BACK)
        assert upstream.asked("hold on").left.wait(20), "the cancel was said with the new connection"
        person.type("once more\n")
        person.until(ANSWER)
        person.until(PROMPT)
        person.type(CTRL_C)
        assert person.leave() == 0


def test_a_killed_server_is_found_again_with_what_it_had_said(tmp_path: Path, upstream: FakeUpstream) -> None:
    doomed = running_server(tmp_path, upstream.url, measured=False)
    with doomed as first, relay(first.port) as network, chatting(network.port, tmp_path, "killed") as person:
        person.type("hold until the end\n")
        person.until("".join(FIRST))
        until(lambda: "".join(FIRST) in stored(tmp_path, "runs"), "the text so far is stored")
        first.kill()
        person.until(LOST)
        with running_server(tmp_path, upstream.url) as second:
            network.target = second.port
            person.until(BACK)
            person.until("interrupted]")
            person.until(PROMPT)
            person.type("and now?\n")
            person.until(ANSWER)
            person.until(PROMPT)
            person.type(CTRL_D)
            assert person.leave() == 0
    assert person.shown.count("".join(FIRST)) == 2, "once for each answer"
    assert stored(tmp_path, "messages") == ["hold until the end", "".join(FIRST), "and now?", ANSWER]


def stored(folder: Path, table: str) -> list[str]:
    with closing(sqlite3.connect(folder / "chat.db")) as database:
        return [content for (content,) in database.execute(f"SELECT content FROM {table} ORDER BY rowid")]
