"""The house as a whole: what survives when it is left in a hurry."""

import trio

from scm_trio.config import Store
from scm_trio.house import Parts, open_house
from scm_trio.model import FinishReason, Message
from scm_trio.providers.scripted import Scripted, Stall
from scm_trio.store import runs
from scm_trio.store.database import inline, open_database
from scm_trio.store.messages import ensure_session
from scm_trio.testing import Server, quiet_config, virtual_clock


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
    runs.checkpoint(conn, "msg-a", "half an ans", "", 0)
