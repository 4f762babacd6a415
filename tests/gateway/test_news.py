"""What is pushed to a connection: nothing before its greeting, the newest of each subject, and not without end."""

import trio

from scm_trio.cluster.hub import StateNews
from scm_trio.gateway.news import MAX_WAITING, News

from .serving import serving
from .sharing import GLOBAL_ID, share


class Socket:
    """Takes a frame whenever it is told to."""

    def __init__(self):
        self.sent, self.turns, self.is_broken, self.overflows = [], trio.Semaphore(0), False, 0

    async def send(self, make):
        await self.turns.acquire()
        if self.is_broken:
            raise trio.BrokenResourceError
        frame = make()
        if frame is not None:
            self.sent.append(frame)

    def overflow(self):
        self.overflows += 1


def about(subject, text, global_id=None):
    return StateNews("INFO", text, subject, global_id)


def news_of(nursery, socket):
    return News(nursery, socket.send, lambda news: news.data, socket.overflow)


async def give(socket, turns):
    for _ in range(turns):
        socket.turns.release()
        await trio.testing.wait_all_tasks_blocked()


async def test_of_what_waits_about_one_subject_the_newest_is_sent_in_the_oldest_s_place(autojump_clock, nursery):
    socket = Socket()
    news = news_of(nursery, socket)
    news.open()
    for subject, text in (("a", "a1"), ("b", "b1"), ("a", "a2"), ("c", "c1"), ("b", "b2")):
        news.put(about(subject, text))
    await give(socket, 5)
    assert socket.sent == ["a2", "b2", "c1"]


async def test_what_comes_later_is_sent_too(autojump_clock, nursery):
    socket = Socket()
    news = news_of(nursery, socket)
    news.open()
    for text in ("one", "two"):
        news.put(about("a", text))
        await give(socket, 1)
    assert socket.sent == ["one", "two"]


async def test_before_the_greeting_everything_waits(autojump_clock, nursery):
    socket = Socket()
    news = news_of(nursery, socket)
    news.put(about("a", "early"))
    await give(socket, 1)
    assert socket.sent == []
    news.open()
    await trio.testing.wait_all_tasks_blocked()
    assert socket.sent == ["early"]


async def test_what_waits_about_a_lost_session_is_not_told(autojump_clock, nursery):
    socket = Socket()
    news = news_of(nursery, socket)
    news.open()
    news.put(about("a", "of it", "s-1"))
    news.put(about("a", "of another", "s-2"))
    news.put(about("a", "of none"))
    news.drop("s-1")
    await give(socket, 3)
    assert socket.sent == ["of another", "of none"]


async def test_a_broken_connection_ends_it_quietly(autojump_clock, nursery):
    socket = Socket()
    news = news_of(nursery, socket)
    news.open()
    socket.is_broken = True
    news.put(about("a", "one"))
    await give(socket, 1)
    assert socket.sent == []


async def test_too_much_news_is_the_end_of_a_connection_that_takes_none(autojump_clock, nursery):
    socket = Socket()
    news = news_of(nursery, socket)
    for number in range(MAX_WAITING):
        news.put(about(str(number), "x"))
    assert socket.overflows == 0
    news.put(about("one more", "x"))
    assert socket.overflows == 1


async def test_a_peer_that_reads_nothing_while_much_happens_is_cut(autojump_clock):
    async with serving() as server:
        await share(server, "user002")
        async with server.peer("user002", GLOBAL_ID, pair=trio.testing.lockstep_stream_pair) as slow:
            (connection,) = server.house.gate.hub.of_user("user002")
            for number in range(MAX_WAITING + 1):
                connection.tell_state(about(str(number), "x"))
            assert await slow.close_reason() == 4410
        assert server.house.gate.hub.of_user("user002") == []
