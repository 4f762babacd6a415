"""The house as a whole: what survives when it is left in a hurry."""

from contextlib import suppress

import orjson
import pytest
import trio
import trio.testing
from sqlalchemy import func, select

from scm_trio.client import ChatError
from scm_trio.config import Ai, Files, Retention, Store
from scm_trio.config import Provider as ProviderSettings
from scm_trio.errors import ConfigError, ProviderUnavailable, StoreError
from scm_trio.house import HURRIED_LIMIT_S, Parts, open_house
from scm_trio.model import FinishReason, Message
from scm_trio.providers.scripted import Fail, Pause, Scripted, Stall
from scm_trio.store import runs
from scm_trio.store.database import Database, inline, open_database
from scm_trio.store.messages import ensure_session
from scm_trio.store.schema import messages
from scm_trio.store.search import has_pending
from scm_trio.testing import Server, open_server, quiet_config, virtual_clock


async def test_a_house_that_is_cancelled_from_outside_still_stores_its_answers(autojump_clock, tmp_path):
    config = quiet_config(store=Store(f"sqlite:///{tmp_path / 'house.db'}"))
    provider = Scripted(["so far", Stall()])
    parts = Parts(clock=virtual_clock(), offload=inline, providers={"openai": provider})
    with trio.CancelScope() as outside:
        async with (
            open_house(config, parts) as house,
            trio.open_nursery() as nursery,
            Server(house, nursery).peer() as peer,
        ):
            await peer.send("CHAT_REQUEST", {"message": "Hi"}, request_id="r1")
            message_id = (await peer.until("CHAT_STREAM_DATA"))[-1]["data"]["messageId"]
            outside.cancel()
            await trio.sleep_forever()
    assert provider.open_streams == 0
    async with open_database(config.store.url, offload=inline) as database:
        row = await database.read(runs.find_run, message_id)
    assert (row.state, row.finish_reason) == ("ended", FinishReason.INTERRUPTED.value)


async def test_answers_that_a_crash_left_behind_are_sealed_before_anybody_comes(autojump_clock, tmp_path):
    config = quiet_config(store=Store(f"sqlite:///{tmp_path / 'house.db'}"))
    parts = Parts(clock=virtual_clock(), offload=inline, providers={"openai": Scripted([])})
    async with open_database(config.store.url, offload=inline) as database, trio.open_nursery() as nursery:
        await nursery.start(database.run_writer)
        await database.write(_leave_behind)
        nursery.cancel_scope.cancel()
    async with open_house(config, parts) as house, trio.open_nursery() as nursery:
        async with Server(house, nursery).peer("user001") as peer:
            await peer.send("CHAT_RESUME", {"messageId": "msg-a"})
            messages = await peer.until("CHAT_STREAM_END")
        nursery.cancel_scope.cancel()
    assert "".join(m["data"]["content"] for m in messages if m["type"] == "CHAT_STREAM_DATA") == "half an ans"
    assert messages[-1]["data"]["finishReason"] == "interrupted"


def _leave_behind(conn) -> None:
    session = ensure_session(conn, "user001", "session001", "s-1", 1.0)
    asked = Message("msg-q", session.global_id, "session001", None, "user", "user001", "Hi", created_at=1.0)
    runs.open_run(
        conn,
        runs.NewRun(
            "msg-a", "msg-a", "msg-q", session.global_id, "session001", "user001", "m", "openai", 1.0, "r1", True, asked
        ),
    )
    runs.checkpoint(conn, [runs.Checkpoint("msg-a", "half an ans", "", 0)])


async def test_a_house_builds_the_providers_of_its_configuration_and_closes_them(autojump_clock, monkeypatch):
    closed = []

    async def aclose(self):
        closed.append(self.name)

    monkeypatch.setattr(Scripted, "aclose", aclose)
    config = quiet_config(ai=Ai(providers={"echo": ProviderSettings(kind="scripted")}))
    async with open_house(config, Parts(offload=inline)) as house, trio.open_nursery() as nursery:
        assert list(house.providers) == ["echo"]
        async with Server(house, nursery).peer() as peer:
            await peer.send("CHAT_REQUEST", {"message": "one two"})
            messages = await peer.until("CHAT_STREAM_END")
        nursery.cancel_scope.cancel()
    assert "".join(m["data"]["content"] for m in messages if m["type"] == "CHAT_STREAM_DATA") == "one two"
    assert closed == ["echo"]


@pytest.mark.parametrize(("restart", "said"), [(False, "half"), (True, "whole")])
async def test_the_configuration_decides_whether_a_broken_answer_begins_anew(autojump_clock, restart, said):
    one, two = ProviderSettings(kind="scripted"), ProviderSettings(kind="scripted")
    ai = Ai(fallback=("two",), providers={"one": one, "two": two}, restart=restart)
    async with open_house(quiet_config(ai=ai), Parts(offload=inline)) as house, trio.open_nursery() as nursery:
        house.providers["one"].primary.script = ["half", Fail(ProviderUnavailable("cut"))]
        house.providers["two"].primary.script = ["whole"]
        async with Server(house, nursery).chat() as chat:
            answer = chat.ask("Hi")
            with suppress(ChatError):
                await answer.finish()
        nursery.cancel_scope.cancel()
    assert answer.text == said


async def readiness(server):
    stream = server.dial()
    await stream.send_all(b"GET /readyz HTTP/1.1\r\nHost: chat.example\r\nConnection: close\r\n\r\n")
    data = b""
    while more := bytes(await stream.receive_some()):
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), orjson.loads(body)["checks"]


async def test_a_house_is_ready_unless_its_store_is_gone_or_it_is_being_left(autojump_clock, monkeypatch):
    async def gone(self):
        raise StoreError("gone")

    async with open_server({"openai": Scripted(["a"])}) as server:
        assert await readiness(server) == (200, {"store": "ok", "broker": "ok", "draining": "ok"})
        with monkeypatch.context() as patch:
            patch.setattr(Database, "ping", gone)
            status, checks = await readiness(server)
            assert (status, checks["store"]) == (503, "unreachable")
        await server.house.drain(0, trio.Event())
        status, checks = await readiness(server)
        assert (status, checks["draining"]) == (503, "yes")


async def test_a_drained_house_has_told_every_viewer_the_end_before_it_sends_them_away(autojump_clock):
    provider = Scripted(["half", Stall()])
    async with (
        open_server({"openai": provider}) as server,
        server.peer() as one,
        server.peer(session_id="session002") as two,
    ):
        await one.send("CHAT_REQUEST", {"message": "Hi"}, request_id="r1")
        await one.until("CHAT_STREAM_DATA")
        await two.send("CHAT_REQUEST", {"message": "Hi"}, request_id="r1")
        await two.until("CHAT_STREAM_DATA")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.house.drain, 2.0, trio.Event())
            for peer in (one, two):
                messages = await peer.until("DISCONNECT")
                assert [m["type"] for m in messages] == ["CHAT_STREAM_END", "DISCONNECT"]
                assert messages[0]["data"]["finishReason"] == "interrupted"
                assert await peer.close_reason() == 1001
        assert trio.current_time() < 3.0


async def test_who_watches_nothing_is_sent_away_as_soon_as_a_house_drains(autojump_clock):
    provider = Scripted([Pause(5), "a"])
    async with (
        open_server({"openai": provider}) as server,
        server.peer() as busy,
        server.peer("user002") as idle,
        trio.open_nursery() as nursery,
    ):
        await busy.send("CHAT_REQUEST", {"message": "Hi"}, request_id="r1")
        await busy.until("CHAT_STREAM_START")
        nursery.start_soon(server.house.drain, 30.0, trio.Event())
        goodbye = (await idle.until("DISCONNECT"))[-1]["data"]
        assert (goodbye["code"], goodbye["reconnect"]) == ("SHUTTING_DOWN", True)
        assert trio.current_time() < 1
        await busy.send("CHAT_REQUEST", {"message": "Hi"}, request_id="r2")
        (refused,) = await busy.until("ERROR")
        assert (refused["error"]["code"], refused["error"]["retryable"]) == ("SHUTTING_DOWN", True)
        messages = await busy.until("DISCONNECT")
        assert messages[-2]["data"]["finishReason"] == "completed"
        assert trio.current_time() == pytest.approx(5, abs=0.1)


async def test_who_has_seen_the_last_of_his_answers_is_sent_away_while_others_still_wait(autojump_clock):
    provider = Scripted(lambda prompt: ["a", *((Pause(2), "b") if prompt.turns[-1].content == "short" else (Stall(),))])
    async with (
        open_server({"openai": provider}) as server,
        server.peer("user001") as patient,
        server.peer("user002") as quick,
        trio.open_nursery() as nursery,
    ):
        for peer, question in ((patient, "long"), (quick, "short")):
            await peer.send("CHAT_REQUEST", {"message": question}, request_id="r1")
            await peer.until("CHAT_STREAM_DATA")
        nursery.start_soon(server.house.drain, 30.0, trio.Event())
        messages = await quick.until("DISCONNECT")
        assert [m["type"] for m in messages] == ["CHAT_STREAM_DATA", "CHAT_STREAM_END", "DISCONNECT"]
        assert messages[1]["data"]["finishReason"] == "completed"
        assert await quick.close_reason() == 1001
        assert trio.current_time() == pytest.approx(2, abs=0.1)
        messages = [m for m in await patient.until("DISCONNECT") if m["type"] != "HEARTBEAT"]
        assert [m["type"] for m in messages] == ["CHAT_STREAM_END", "DISCONNECT"]
        assert trio.current_time() == pytest.approx(30, abs=0.1)


async def test_who_leaves_by_himself_while_a_house_drains_is_not_said_to_be_sent_away(autojump_clock):
    async with open_server({"openai": Scripted(["a", Stall()])}) as server, trio.open_nursery() as nursery:
        async with server.peer() as peer:
            await peer.send("CHAT_REQUEST", {"message": "Hi"})
            await peer.until("CHAT_STREAM_DATA")
            nursery.start_soon(server.house.drain, 3.0, trio.Event())
            await trio.sleep(1)
            await peer.websocket.aclose(1000)
        await trio.sleep(1)
        page, _ = server.house.gate.metrics.render()
        assert b'scm_closes_total{code="1000"} 1.0' in page
        assert b'code="1001"' not in page


@pytest.mark.parametrize("hurry_after_s", [1.0, 4.0])
async def test_a_second_signal_does_not_wait_for_who_takes_nothing(autojump_clock, hurry_after_s):
    talk = [step for _ in range(3000) for step in ("x" * 50, Pause(0.1))]
    async with (
        open_server({"openai": Scripted(talk)}) as server,
        server.peer("user001", pair=trio.testing.lockstep_stream_pair) as stuck,
        server.peer("user002") as well,
        trio.open_nursery() as nursery,
    ):
        for peer in (stuck, well):
            await peer.send("CHAT_REQUEST", {"message": "Hi"})
            await peer.until("CHAT_STREAM_START")
        hurry = trio.Event()

        async def watch():
            messages = await well.until("DISCONNECT")
            assert [m["type"] for m in messages[-2:]] == ["CHAT_STREAM_END", "DISCONNECT"]
            assert messages[-2]["data"]["finishReason"] == "interrupted"

        async def hurry_later():
            await trio.sleep(hurry_after_s)
            hurry.set()

        nursery.start_soon(watch)
        nursery.start_soon(hurry_later)
        # The grace may be over already, so that the signal comes during the farewells.
        await server.house.drain(3.0, hurry)
        assert trio.current_time() <= hurry_after_s + 2 * HURRIED_LIMIT_S + 0.1


async def test_a_house_with_a_stuck_viewer_is_left_all_the_same(autojump_clock):
    async with (
        open_server({"openai": Scripted(["a"])}) as server,
        server.peer(pair=trio.testing.lockstep_stream_pair) as stuck,
    ):
        await stuck.send("CHAT_REQUEST", {"message": "Hi"})
        await stuck.receive()
        with trio.fail_after(60):
            await server.house.drain(0, trio.Event())


async def test_files_lie_beside_the_database(autojump_clock, tmp_path):
    config = quiet_config(store=Store(f"sqlite:///{tmp_path / 'data' / 'house.db'}"))
    (tmp_path / "data").mkdir()
    async with (
        open_server({"openai": Scripted([])}, config) as server,
        server.house.files.upload("user001", "a.txt") as upload,
    ):
        await upload.write(b"x")
        file = await upload.complete()
    assert [path.name for path in (tmp_path / "data" / "scm-trio-files").rglob("f-*")] == [file.file_id]


async def test_a_house_does_not_begin_with_a_folder_that_is_none(autojump_clock, tmp_path):
    (tmp_path / "files").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"scm\.files\.path"):
        async with open_server({"openai": Scripted([])}, quiet_config(files=Files(path=str(tmp_path / "files")))):
            pass


async def test_a_bug_in_the_background_is_no_end_of_the_house(autojump_clock, monkeypatch):
    calls = []

    async def broken(*_):
        calls.append(trio.current_time())
        if len(calls) == 1:
            raise ZeroDivisionError
        await trio.sleep_forever()

    monkeypatch.setattr("scm_trio.house.keep_house", broken)
    async with open_server({"openai": Scripted(["a"])}) as server, server.peer() as peer:
        await trio.sleep(10)
        await peer.send("CHAT_REQUEST", {"message": "Hi"})
        assert (await peer.until("CHAT_STREAM_END"))[-1]["data"]["finishReason"] == "completed"
    assert len(calls) == 2


async def test_messages_are_indexed_and_old_ones_removed_while_the_house_stands(autojump_clock):
    config = quiet_config(store=Store("sqlite://", retention=Retention(max_messages_per_session=2)))
    async with open_server({"openai": Scripted(["a"])}, config) as server, server.peer() as peer:
        for _ in range(3):
            await peer.send("CHAT_REQUEST", {"message": "Hi"})
            await peer.until("CHAT_STREAM_END")
        database = server.house.database
        assert await database.read(has_pending) is True
        before = server.house.gate.metrics.connection_stats()
        await trio.sleep(config.websocket.session.cleanup_interval_s + 5)
        assert await database.read(has_pending) is False
        kept = await database.read(lambda conn: conn.execute(select(func.count()).select_from(messages)).scalar_one())
        assert kept == 2
        after = server.house.gate.metrics.connection_stats()
        assert {**before, "uptimeSeconds": 0, "messagesOut": 0} == {**after, "uptimeSeconds": 0, "messagesOut": 0}
