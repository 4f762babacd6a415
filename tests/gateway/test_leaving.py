"""A connection that has broken is found by nobody, whatever its tasks were about to do."""

import trio
import trio.testing

from scm_trio.chat.service import ChatService
from scm_trio.cluster.hub import SessionEvent, StateNews
from scm_trio.gateway.news import News
from scm_trio.gateway.outbox import Outbox
from scm_trio.providers.scripted import Pause

from .serving import answer, ask, said, serving
from .sharing import GLOBAL_ID, heard, share, told


class LateEvent:
    """Wakes who waits for it only after his connection has broken, although it was set before."""

    def __init__(self, event, connections):
        self._event, self._connections = event, connections

    def is_set(self):
        return self._event.is_set()

    def set(self):
        self._event.set()

    async def wait(self):
        await self._event.wait()
        for connection in self._connections():
            connection.disconnect(None)
        with trio.move_on_after(1, shield=True):
            await trio.sleep_forever()


async def test_a_question_whose_connection_breaks_as_it_is_stored_leaves_nobody_in_its_session(
    autojump_clock, monkeypatch
):
    begin = ChatService.begin

    async with serving("a", Pause(1), "b") as server:
        await share(server, "user002")
        hub = server.house.gate.hub

        def begin_late(*args):
            run = begin(*args)
            run.opened = LateEvent(run.opened, lambda: hub.of_user("user002"))
            return run

        async with server.peer("user001", GLOBAL_ID) as ann:
            async with server.peer("user002", GLOBAL_ID) as bob:
                with monkeypatch.context() as patch:
                    patch.setattr(ChatService, "begin", begin_late)
                    await ask(bob, request_id="b1")
                    await trio.sleep(3)
            assert hub.of_user("user002") == []
            assert {each.user_id for each in hub.watching([GLOBAL_ID])} == {"user001"}
            # Typing is told to all who have it open, and that costs the typist nothing.
            await ann.send("TYPING_START")
            assert "DISCONNECT" not in [kind for kind, _ in told(await heard(ann))]
            assert said(await answer(ann, request_id="a1")) == "ab"


async def closed_nursery():
    async with trio.open_nursery() as nursery:
        pass
    return nursery


def unexpected(*_):
    raise AssertionError("nothing is sent any more")


async def test_news_for_who_has_left_is_no_news(autojump_clock):
    news = News(await closed_nursery(), unexpected, unexpected, unexpected)
    news.open()
    news.close()
    for number in range(2000):
        news.put(StateNews("INFO", "x", f"user{number}"))


async def test_events_for_who_has_left_are_dropped(autojump_clock):
    outbox = Outbox(await closed_nursery(), unexpected, unexpected, unexpected, unexpected)
    outbox.open(held=["s-1"])
    outbox.put(SessionEvent("INFO", "waits", "s-1", "s-1", "user001"))
    outbox.close()
    for _ in range(2000):
        outbox.put(SessionEvent("INFO", "x", "s-2", "s-2", "user001"))
    outbox.caught_up()
