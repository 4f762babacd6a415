"""The terminal chat against a scripted server."""

from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import memory_stream_pair
from trio_websocket import wrap_server_stream

from scm_trio.client import open_chat
from scm_trio.console import chat
from scm_trio.console.terminal import Screen
from scm_trio.protocol import messages
from tests.client.fake_server import FakeServer


class Sitting:
    """One run of the program: a server, a person who types, and what the terminal showed.

    The scripts in ``later`` are for the connections after the first; with None the chat does not come back at all. Where
    there is none left, nobody listens.
    """

    def __init__(self, script, *lines, serve=None, later=None):
        self.scripts = [script, *(later or ())]
        self.comes_back = later is not None
        self.lines = list(lines)
        self.serve = serve
        self.interrupt, self.interrupts = trio.open_memory_channel(10)
        self.screen = Screen(color=False, output=StringIO(), errors=StringIO())
        self.opened = ()
        self.prompts = []

    def _open(self, url, token, **options):
        self.opened = (url, token, options)
        self.backoff = options.pop("reconnect")
        reconnect = self.comes_back and attrs.evolve(self.backoff, chance=lambda: 0.5)
        return open_chat(url, token, **options, connector=self._connect, reconnect=reconnect)

    async def _connect(self):
        await trio.lowlevel.checkpoint()
        if not self.scripts:
            raise ConnectionRefusedError("nobody listens")
        client_end, server_end = memory_stream_pair()
        if self.serve:
            self.nursery.start_soon(self.serve, server_end)
        else:
            self.nursery.start_soon(FakeServer().serve, server_end, self.scripts.pop(0))
        return client_end

    async def _read_line(self, prompt):
        self.prompts.append(prompt)
        await trio.sleep(0.5)
        if not self.lines:
            return None
        line = self.lines.pop(0)
        if line == "…":
            await trio.sleep_forever()
        return line

    @contextmanager
    def _lines(self, history):
        self.history = history
        yield self._read_line

    @contextmanager
    def _interrupts(self):
        yield self.interrupts

    async def run(self, **options):
        outside = chat.Surroundings(self._open, self._lines, self._interrupts, self.screen)
        async with trio.open_nursery() as self.nursery:
            self.code = await chat.run("ws://fake", surroundings=outside, **{"token": "t", **options})
            self.nursery.cancel_scope.cancel()
        return self.code

    @property
    def shown(self):
        return self.screen.output.file.getvalue()

    @property
    def notes(self):
        return self.screen.errors.file.getvalue()


async def test_one_question_prints_the_answer_alone_on_standard_output(autojump_clock):
    async def script(server):
        request = await server.next("CHAT_REQUEST")
        assert (request.data.message, request.data.model, request.data.provider) == ("hi?", "tiny", "fake")
        await server.answer(request.request_id, "Hello [bold]you", "[/bold] :smile:\n", "2")

    sitting = Sitting(script)
    options = {"once": "hi?", "model": "tiny", "provider": "fake", "user": "ann", "session": "s", "lang": "en"}
    assert await sitting.run(**options) == 0
    assert sitting.shown == "Hello [bold]you[/bold] :smile:\n2\n"
    assert sitting.notes == "[tiny · 10 tokens · 0.0 s]\n"
    assert sitting.opened == ("ws://fake", "t", {"user_id": "ann", "session_id": "s", "lang": "en"})


async def test_text_of_a_model_cannot_drive_the_terminal(autojump_clock):
    async def script(server):
        request = await server.next("CHAT_REQUEST")
        rid = request.request_id
        await server.start(rid, model="ti\x1b]0;owned\x07ny")
        await server.data(rid, "", 0, reasoning="a\x1b[2Jb\x9b31m")
        await server.data(rid, "x\x1b", 1)
        await server.data(rid, "[31mred\r\x08\u202eevil", 2)
        await server.end(rid, "x\x1b[31mred\r\x08\u202eevil")

    sitting = Sitting(script)
    assert await sitting.run(once="?") == 0
    assert sitting.shown == "x[31mredevil\n"
    assert sitting.notes == "a[2Jb31m\n[ti]0;ownedny · 10 tokens · 0.0 s]\n"


async def test_who_loses_the_session_is_told_and_may_ask_on(autojump_clock):
    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        await server.data(rid, "half an ans", 0)
        await server.refuse(rid, "NOT_FOUND", message_id="m-1")
        await server.answer_next("fine")

    sitting = Sitting(script, "a", "b")
    with trio.fail_after(60):
        assert await sitting.run() == 1
    assert sitting.shown == "half an ans\nfine\n"
    assert "sorry: NOT_FOUND (NOT_FOUND)" in sitting.notes


async def test_a_conversation_goes_on_until_the_lines_end(autojump_clock):
    async def script(server):
        first = await server.next("CHAT_REQUEST")
        await server.answer(first.request_id, "one")
        second = await server.next("CHAT_REQUEST")
        assert first.data.conversation_id is None
        assert second.data.conversation_id is not None
        await server.answer(second.request_id, "two")

    sitting = Sitting(script, "a", "", "  ", "/help", "/new", " b ")
    assert await sitting.run(history=False) == 0
    assert sitting.shown == "one\ntwo\n"
    assert "/new begins a new conversation" in sitting.notes
    assert "[a new conversation]" in sitting.notes
    assert sitting.history is False
    assert set(sitting.prompts) == {"you> "}
    assert sitting.opened[2]["session_id"].startswith("terminal-")


async def test_quit_leaves(autojump_clock):
    sitting = Sitting(None, "/quit", "not read")
    assert await sitting.run() == 0
    assert sitting.lines == ["not read"]


async def test_an_interrupt_at_the_prompt_leaves(autojump_clock):
    sitting = Sitting(None, "…")
    sitting.interrupt.send_nowait(2)
    assert await sitting.run() == 0


async def test_an_interrupt_while_answering_stops_the_answer_only(autojump_clock):
    sitting = None

    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        await server.data(rid, "once upon", 0)
        await trio.sleep(1)
        sitting.interrupt.send_nowait(2)
        await server.next("CHAT_CANCEL")
        await server.stopped(rid, "once upon")
        await server.answer_next("fine")

    sitting = Sitting(script, "long?", "short?")
    assert await sitting.run() == 0
    assert sitting.shown == "once upon\nfine\n"
    assert "[stopped, upstream closed in 12 ms]" in sitting.notes


async def test_a_second_interrupt_leaves_without_waiting_for_the_end(autojump_clock):
    sitting = None

    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        for _ in range(2):
            await trio.sleep(1)
            sitting.interrupt.send_nowait(2)

    sitting = Sitting(script, "long?", "not read")
    assert await sitting.run() == 0
    assert "[left before the server had stopped]" in sitting.notes
    assert sitting.lines == ["not read"]
    assert trio.current_time() < 5


async def test_an_upstream_that_could_not_be_closed_is_told(autojump_clock):
    sitting = None

    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        sitting.interrupt.send_nowait(2)
        await server.next("CHAT_CANCEL")
        await server.end(rid, "", "cancelled", upstream_closed=False, cancel_ms=5000)

    sitting = Sitting(script)
    assert await sitting.run(once="?") == 1
    assert "[stopped, upstream not closed yet]" in sitting.notes


async def test_an_interrupt_that_meets_an_error_shows_the_error(autojump_clock):
    sitting = None

    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        sitting.interrupt.send_nowait(2)
        await server.next("CHAT_CANCEL")
        await server.refuse(rid, "SERVER_BUSY")

    sitting = Sitting(script)
    assert await sitting.run(once="?") == 1
    assert "sorry: SERVER_BUSY (SERVER_BUSY)" in sitting.notes


async def wrong_answer(server, request_id):
    await server.start(request_id)
    await server.data(request_id, "x", 0)
    await server.end(request_id, "y")


async def test_an_error_is_shown_and_the_conversation_goes_on(autojump_clock):
    async def script(server):
        await server.refuse((await server.next("CHAT_REQUEST")).request_id, "RATE_LIMITED")
        rid = (await server.next("CHAT_REQUEST")).request_id
        await wrong_answer(server, rid)
        await server.next("CHAT_RESUME")
        await wrong_answer(server, rid)
        await server.answer_next("good")

    sitting = Sitting(script, "a", "b", "c")
    assert await sitting.run() == 1
    assert "sorry: RATE_LIMITED (RATE_LIMITED)" in sitting.notes
    assert "is not what the server sent: the checksum differs" in sitting.notes
    assert sitting.shown.endswith("good\n")


async def test_an_answer_cut_short_and_one_started_again_say_so(autojump_clock):
    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        await server.data(rid, "old", 0)
        await server.start(rid, rev=1, reset=True, model="other")
        await server.data(rid, "new", 0, rev=1)
        await server.end(rid, "new", "length", rev=1)

    sitting = Sitting(script)
    assert await sitting.run(once="?") == 0
    assert sitting.shown == "old\nnew\n"
    assert "[starting again with other]" in sitting.notes
    assert "[other · 10 tokens · 0.0 s · length]" in sitting.notes


async def test_a_lost_connection_is_one_line(autojump_clock):
    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        await server.data(rid, "half", 0)
        await server.say("DISCONNECT", messages.Disconnect("SHUTTING_DOWN", "restart", reconnect=True))
        await server.socket.aclose(1001)

    sitting = Sitting(script, "?")
    assert await sitting.run() == 1
    assert sitting.shown == "half\n"
    assert sitting.notes == "connection lost (1001): SHUTTING_DOWN: restart\n"


async def test_a_connection_lost_at_the_prompt_ends_the_program(autojump_clock):
    async def script(server):
        await trio.sleep(3)
        await server.socket.aclose(1011)

    sitting = Sitting(script, "…")
    assert await sitting.run() == 1
    assert "connection lost (1011)" in sitting.notes


# ---- breaks


async def half(server):
    """Begins an answer, and the connection breaks."""
    rid = (await server.next("CHAT_REQUEST")).request_id
    await server.start(rid)
    await server.data(rid, "ha", 0)
    await server.stream.aclose()


@pytest.mark.parametrize(
    ("lang", "lost", "back"),
    [
        ("en", "[The connection is lost; reconnecting]", "[Connected again]"),
        ("zh", "[连接已断开，正在重新连接]", "[已重新连接]"),
        (None, "[连接已断开，正在重新连接]", "[已重新连接]"),
    ],
)
async def test_an_answer_goes_on_after_a_break_that_is_told_in_one_line(autojump_clock, lang, lost, back):
    async def second(server):
        await server.say("SYSTEM_MESSAGE", messages.SystemMessage("welcome"))
        resume = await server.next("CHAT_RESUME")
        await server.start(resume.request_id, resumed=True)
        await server.data(resume.request_id, "lf", 1)
        await server.end(resume.request_id, "half")

    sitting = Sitting(half, later=[second])
    assert await sitting.run(once="?", lang=lang) == 0
    assert sitting.shown == "half\n"
    assert sitting.notes == f"\n{lost}\n{back}\n[tiny · 10 tokens · 0.0 s]\n"


async def test_a_long_break_at_the_prompt_is_told_once_and_the_conversation_goes_on(autojump_clock):
    async def first(server):
        await server.answer_next("one")
        await server.stream.aclose()

    async def second(server):
        await server.socket.aclose(1013)

    async def third(server):
        await server.answer_next("two")

    sitting = Sitting(first, "a", "", "", "", "", "b", later=[second, third])
    assert await sitting.run(lang="en") == 0
    assert sitting.shown == "one\ntwo\n"
    assert sitting.notes.count("reconnecting") == 2
    assert sitting.notes.count("Connected again") == 2


async def test_an_interrupt_while_disconnected_stops_at_once(autojump_clock):
    sitting = None

    async def interrupt():
        await trio.sleep(0.1)
        sitting.interrupt.send_nowait(2)

    async def first(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        await server.data(rid, "ha", 0)
        sitting.nursery.start_soon(interrupt)
        await server.stream.aclose()

    sitting = Sitting(first, "long?", "/quit", later=[])
    assert await sitting.run(lang="en") == 0
    assert sitting.shown == "ha\n"
    assert "[Stopped; the server will be told when the connection is back]" in sitting.notes
    # Half a second for each line that is typed.
    assert trio.current_time() == pytest.approx(0.5 + 0.1 + 0.5)


async def test_a_break_while_an_answer_is_being_stopped_is_not_waited_for(autojump_clock):
    sitting = None

    async def first(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        sitting.interrupt.send_nowait(2)
        await server.next("CHAT_CANCEL")
        await server.stream.aclose()

    sitting = Sitting(first, "long?", later=[])
    assert await sitting.run(lang="en", once="long?") == 1
    assert "[Stopped; the server will be told" in sitting.notes
    assert trio.current_time() == 0


async def test_a_question_that_was_never_sent_is_taken_back(autojump_clock):
    sitting = None

    async def interrupt():
        await trio.sleep(0.7)
        sitting.interrupt.send_nowait(2)

    async def first(server):
        sitting.nursery.start_soon(interrupt)
        await server.stream.aclose()

    sitting = Sitting(first, "lost?", "/quit", later=[])
    assert await sitting.run(lang="en") == 0
    assert "[Stopped; the server will be told when the connection is back]" in sitting.notes
    assert sitting.shown == "\n"


async def test_a_question_that_waits_for_the_next_server_is_taken_back(autojump_clock):
    async def script(server):
        await server.refuse((await server.next("CHAT_REQUEST")).request_id, "SHUTTING_DOWN")
        await trio.sleep(1)
        sitting.interrupt.send_nowait(2)

    sitting = Sitting(script, "later?", "/quit", later=[])
    assert await sitting.run(lang="en") == 0
    assert "[Stopped]" in sitting.notes


async def test_without_a_person_it_gives_up_in_the_end(autojump_clock):
    sitting = Sitting(half, later=[])
    assert await sitting.run(once="?", lang="en") == 1
    assert trio.current_time() == pytest.approx(chat.PATIENCE_S)
    assert sitting.notes.endswith("not connected again: cannot connect: nobody listens\n")


async def test_with_a_person_it_never_gives_up(autojump_clock, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    sitting = Sitting(None, "/quit")
    assert await sitting.run() == 0
    assert sitting.backoff.give_up_after_s is None


async def test_a_token_that_is_refused_on_the_way_back_is_one_line(autojump_clock):
    async def serve(stream):
        if sitting.refused:
            async with trio.open_nursery() as nursery:
                request = await wrap_server_stream(nursery, stream)
                await request.reject(401, body=b'{"code":"TOKEN_EXPIRED","message":"x"}')
        sitting.refused = True
        await FakeServer().serve(stream, half)

    sitting = Sitting(None, serve=serve, later=[])
    sitting.refused = False
    assert await sitting.run(once="?") == 1
    assert sitting.notes.endswith("token expired: make one with scm-trio token --user NAME\n")


async def test_a_token_file_is_read_again_when_its_token_has_expired(autojump_clock, tmp_path):
    async def first(server):
        assert server.headers[b"authorization"] == b"Bearer one"
        file.write_text("two")
        await server.socket.aclose(4401)

    async def second(server):
        assert server.headers[b"authorization"] == b"Bearer two"
        await server.answer_next("yes")

    file = tmp_path / "token"
    file.write_text("one")
    sitting = Sitting(first, later=[second])
    assert await sitting.run(once="?", token=None, token_file=file) == 0
    assert sitting.shown == "yes\n"


async def test_notices_are_shown_and_a_fresh_token_is_taken(autojump_clock):
    async def script(server):
        await server.say("SYSTEM_MESSAGE", messages.SystemMessage("welcome\x1b[0m\nfriend"))
        await server.say("WARNING", messages.Warning("TOKEN_EXPIRING", "soon", token="fresh"))
        refresh = await server.next("AUTH_REFRESH")
        assert refresh.data.token == "fresh"
        await server.say("AUTH_REFRESH", messages.AuthRefreshed("later"), refresh.request_id)
        await server.say("WARNING", messages.Warning("TOKEN_EXPIRING", "soon", token="stale"))
        await server.refuse((await server.next("AUTH_REFRESH")).request_id, "TOKEN_EXPIRED")
        await server.say("WARNING", messages.Warning("TOKEN_EXPIRING", "your token expires"))
        await server.say("ONLINE_STATUS", messages.OnlineStatuses(()))

    sitting = Sitting(script, "", "")
    assert await sitting.run() == 0
    assert sitting.notes == "welcome[0m friend\nyour token expires\n"


@pytest.mark.parametrize(
    ("status", "code", "headers", "line"),
    [
        (401, "TOKEN_EXPIRED", [], "token expired: make one with scm-trio token --user NAME"),
        (401, "UNAUTHORIZED", [], "token missing or not accepted: make one with scm-trio token --user NAME"),
        (
            503,
            "SERVER_BUSY",
            [(b"Retry-After", b"9")],
            "the server refused the connection: 503 SERVER_BUSY no (try again in 9 s)",
        ),
        (403, "FORBIDDEN", [], "the server refused the connection: 403 FORBIDDEN no"),
    ],
)
async def test_a_refused_connection_is_one_line(autojump_clock, status, code, headers, line):
    async def serve(stream):
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            body = f'{{"code":"{code}","message":"no"}}'.encode()
            await request.reject(status, extra_headers=headers, body=body)

    sitting = Sitting(None, serve=serve)
    assert await sitting.run() == 1
    assert sitting.notes == line + "\n"


async def test_the_token_comes_from_the_option_then_the_file_then_the_environment(
    autojump_clock, monkeypatch, tmp_path
):
    monkeypatch.setenv("SCM_TOKEN", "from-environment")
    file = tmp_path / "token"
    file.write_text("from-file\n")
    for options, wanted in (
        ({"token": "from-option", "token_file": file}, "from-option"),
        ({"token": None, "token_file": file}, "from-file"),
        ({"token": None}, "from-environment"),
    ):
        sitting = Sitting(None)
        assert await sitting.run(**options) == 0
        token = sitting.opened[1]
        assert (token() if callable(token) else token) == wanted


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"token": "two words"}, "the token holds characters that cannot stand in a header"),
        ({"token": None, "token_file": Path("/nowhere")}, "cannot read the token file /nowhere"),
    ],
)
async def test_a_wrong_call_is_exit_code_two(autojump_clock, options, line):
    sitting = Sitting(None)
    assert await sitting.run(**options) == 2
    assert line in sitting.notes
