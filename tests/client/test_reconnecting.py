"""When a chat comes back, and when it does not."""

import attrs
import pytest
import trio
from trio.testing import memory_stream_pair

from scm_trio.client import (
    Backoff,
    ConnectionLost,
    GaveUp,
    HandshakeRefused,
    NoToken,
    State,
    Unreachable,
    open_chat,
)
from scm_trio.client.backoff import STABLE_S
from scm_trio.protocol import messages
from tests.client.dialing import EVEN, Refuse, nothing, opening, returning
from tests.client.fake_server import CONNECT, URL, FakeServer


def close(code, *, after_s=0.0, word=None, **more):
    """A server that closes, with DISCONNECT where there is a word for it."""

    async def script(server):
        await trio.sleep(after_s)
        if word is not None:
            await server.say("DISCONNECT", messages.Disconnect(word, "bye", **more))
        if code == 1006:
            await server.stream.aclose()
        elif code == 1005:
            await server.stream.send_all(b"\x88\x00")
        else:
            await server.socket.aclose(code)

    return script


async def over(chat):
    """Wait until the chat is over; returns why."""
    async for _ in chat.states():
        pass
    return chat.lost


# ---- close codes


@pytest.mark.parametrize("code", [1001, 1005, 1006, 1011, 1012, 1013, 4408, 4410])
async def test_a_connection_that_may_come_back_does(autojump_clock, code):
    async with returning(close(code), nothing) as (chat, dialer):
        await trio.sleep(1)
        assert (chat.state, chat.reconnects) == (State("open"), 1)
        assert dialer.dialed_at == pytest.approx([0, 0.25])


@pytest.mark.parametrize("word", [{}, {"word": "WHY", "reconnect": True}])
@pytest.mark.parametrize("code", [4400, 4401, 4403, 4409, 4429])
async def test_no_word_brings_a_chat_back_that_must_not(autojump_clock, code, word):
    async with returning(close(code, **word), nothing) as (chat, dialer):
        lost = await over(chat)
        assert (type(lost), lost.close_code) == (ConnectionLost, code)
        assert chat.state == State("closed", failure=lost)
        with pytest.raises(ConnectionLost) as caught:
            await chat.ask("?").finish()
        assert caught.value is lost
        assert len(dialer.dialed_at) == 1


@pytest.mark.parametrize("code", [1000, 1003, 1007, 1009, 4999])
async def test_other_codes_are_for_good(autojump_clock, code):
    async with returning(close(code), nothing) as (chat, _):
        assert (await over(chat)).close_code == code


async def test_the_servers_farewell_counts_also_when_the_close_is_lost(autojump_clock):
    forbidden = close(1006, word="FORBIDDEN", reconnect=False)
    later = close(1006, word="SHUTTING_DOWN", reconnect=True, retry_after_ms=2000)
    async with returning(later, forbidden) as (chat, dialer):
        assert (await over(chat)).code == "FORBIDDEN"
        assert dialer.dialed_at == pytest.approx([0, 2.25])


async def test_without_coming_back_a_broken_connection_is_the_end(autojump_clock):
    async with returning(close(1006), nothing, reconnect=False) as (chat, _):
        assert (await over(chat)).close_code == 1006


# ---- pauses


async def test_pauses_grow_until_a_connection_lasts(autojump_clock):
    plans = [
        close(1011),
        OSError("no route"),
        ConnectionRefusedError("nobody"),
        close(1011, after_s=1),
        close(1011, after_s=STABLE_S),
        nothing,
    ]
    async with returning(*plans) as (chat, dialer):
        await trio.sleep(60)
        assert chat.reconnects == 3
    gaps = [later - sooner for sooner, later in zip(dialer.dialed_at, dialer.dialed_at[1:], strict=False)]
    assert gaps == pytest.approx([0.25, 0.5, 1, 1 + 2, STABLE_S + 0.25])


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_a_handshake_that_may_go_well_later_is_tried_again_after_the_pause_it_asks_for(autojump_clock, status):
    async with returning(close(1001), Refuse(status, "7"), Refuse(status), nothing) as (chat, dialer):
        await trio.sleep(60)
        assert chat.state.name == "open"
        assert dialer.dialed_at == pytest.approx([0, 0.25, 0.25 + 7.5, 0.25 + 7.5 + 1])


@pytest.mark.parametrize("status", [400, 401, 403, 404, 426])
async def test_a_handshake_that_will_not_go_well_is_the_end(autojump_clock, status):
    async with returning(close(1001), Refuse(status), nothing) as (chat, _):
        lost = await over(chat)
        assert isinstance(lost, GaveUp)
        assert (lost.__cause__.status, str(status) in str(lost)) == (status, True)


async def test_it_gives_up_when_the_outage_lasts_too_long(autojump_clock):
    async with returning(close(1006), reconnect=Backoff(give_up_after_s=20, chance=lambda: 0.5)) as (chat, dialer):
        answer = chat.ask("?")
        with pytest.raises(GaveUp, match="nobody listens") as caught:
            await answer.finish()
        assert isinstance(caught.value.__cause__, Unreachable)
        assert trio.current_time() == pytest.approx(20)
        assert dialer.dialed_at[-1] == pytest.approx(20)


async def test_the_first_connection_is_tried_once(autojump_clock):
    assert isinstance(await opening(ConnectionRefusedError("nobody"), nothing), Unreachable)
    assert isinstance(await opening(Refuse(503, "1"), nothing), HandshakeRefused)
    assert trio.current_time() == 0


# ---- tokens


class Tokens:
    """Gives one token after the other; an exception is raised."""

    def __init__(self, *tokens):
        self.tokens = list(tokens)
        self.asked_at = []

    def __call__(self):
        self.asked_at.append(trio.current_time())
        token = self.tokens.pop(0)
        if isinstance(token, Exception):
            raise token
        return token


def asynchronous(tokens):
    async def get():
        await trio.sleep(1)
        return tokens()

    return get


EXPIRED = [close(4401), close(1006, word="TOKEN_EXPIRED", reconnect=False)]


@pytest.mark.parametrize("expire", EXPIRED)
async def test_an_expired_token_is_replaced(autojump_clock, expire):
    tokens = Tokens("one", "two")
    async with returning(expire, close(1006), nothing, token=tokens) as (chat, dialer):
        await trio.sleep(5)
        assert chat.state.name == "open"
        # A connection that just breaks is opened again with the token that is good.
        assert (dialer.tokens(), tokens.tokens) == (["one", "two", "two"], [])


async def test_a_token_may_come_from_an_asynchronous_function(autojump_clock):
    source = asynchronous(Tokens("one", "two"))
    async with returning(close(4401), nothing, token=source) as (_, dialer):
        assert trio.current_time() == pytest.approx(1)
        await trio.sleep(5)
        assert dialer.tokens() == ["one", "two"]


async def test_a_refused_handshake_is_tried_again_with_a_new_token(autojump_clock):
    tokens = Tokens("one", "two", "three")
    plans = [Refuse(401), close(1006), Refuse(401), nothing]
    async with returning(*plans, token=tokens) as (_, dialer):
        await trio.sleep(5)
        assert dialer.tokens() == ["two", "three"]


@pytest.mark.parametrize(
    "tokens",
    [("one", "one"), ("one", None, None), ("one", "two"), (None, "two")],
    ids=["same", "none", "refused too", "none before"],
)
async def test_a_token_that_does_not_help_ends_it(autojump_clock, tokens):
    async with returning(close(1006), Refuse(401), Refuse(401), nothing, token=Tokens(*tokens)) as (chat, _):
        lost = await over(chat)
        assert (type(lost), lost.__cause__.status) == (GaveUp, 401)


async def test_a_first_token_that_is_refused_is_renewed_once(autojump_clock):
    tokens = Tokens("one", "two", "three")
    assert (await opening(Refuse(401), Refuse(401), nothing, token=tokens)).status == 401
    assert tokens.tokens == ["three"]


@pytest.mark.parametrize("failure", [ZeroDivisionError("x"), "two words"], ids=["raises", "no token"])
async def test_a_token_function_that_fails_is_asked_again(autojump_clock, failure):
    tokens = Tokens("one", failure, "two")
    async with returning(close(4401), nothing, token=tokens) as (chat, dialer):
        await trio.sleep(0.3)
        assert (chat.state.name, type(chat.state.failure)) == ("waiting", NoToken)
        await trio.sleep(5)
        assert dialer.tokens() == ["one", "two"]
        assert tokens.asked_at == pytest.approx([0, 0.25, 0.75])


async def test_a_token_function_that_fails_at_once_is_told(autojump_clock):
    failure = await opening(nothing, token=Tokens(ZeroDivisionError("secret")))
    assert (type(failure), type(failure.__cause__)) == (NoToken, ZeroDivisionError)
    assert "secret" not in str(failure)


async def test_a_long_outage_may_need_a_token_again(autojump_clock):
    tokens = Tokens("one", "two", "three")
    plans = [close(4401), OSError("down"), Refuse(401), nothing]
    async with returning(*plans, token=tokens) as (_, dialer):
        await trio.sleep(5)
        assert dialer.tokens() == ["one", "three"]


class Warn:
    """Warns of the token's end, and takes AUTH_REFRESH only for the good token."""

    def __init__(self, token, *, good, times=1, break_after_s=1.0):
        self.token, self.good, self.times, self.break_after_s = token, good, times, break_after_s

    async def __call__(self, server: FakeServer):
        for _ in range(self.times):
            await server.say("WARNING", messages.Warning("TOKEN_EXPIRING", "soon", token=self.token))
        with trio.move_on_after(self.break_after_s):
            while True:
                request = await server.next("AUTH_REFRESH")
                if request.data.token == self.good:
                    await server.say("AUTH_REFRESH", messages.AuthRefreshed("later"), request.request_id)
                else:
                    await server.refuse(request.request_id, "TOKEN_EXPIRED")
        await server.stream.aclose()


@pytest.mark.parametrize(
    ("offered", "source", "good", "tried", "next_token"),
    [
        ("fresh", "old", "fresh", ["fresh"], "fresh"),
        ("fresh", ("old", "mine"), "fresh", ["fresh"], "fresh"),
        ("stale", ("old", "mine"), "mine", ["stale", "mine"], "mine"),
        (None, ("old", "mine"), "mine", ["mine"], "mine"),
        (None, ("old", "old"), None, [], "old"),
        (None, ("old", ZeroDivisionError()), None, [], "old"),
        (None, "old", None, [], "old"),
        ("stale", "old", None, ["stale"], "old"),
    ],
)
async def test_a_warning_is_answered_with_a_new_token_that_later_connections_show(
    autojump_clock, offered, source, good, tried, next_token
):
    source = source if isinstance(source, str) else Tokens(*source)
    async with returning(Warn(offered, good=good), nothing, token=source) as (chat, dialer):
        await trio.sleep(5)
        assert [message.data.token for message in dialer.servers[0].received] == tried
        assert dialer.tokens() == ["old", next_token]
        assert (await chat.pushes.receive()).data.code == "TOKEN_EXPIRING"


@pytest.mark.parametrize("token", ["two words", "密"])
async def test_a_token_that_cannot_be_shown_is_not_taken(autojump_clock, token):
    async with returning(Warn(token, good=None), nothing) as (chat, dialer):
        with pytest.raises(ValueError, match="cannot stand in a header"):
            await chat.refresh(token)
        await trio.sleep(5)
        assert dialer.tokens() == ["token", "token"]


async def test_warnings_while_a_token_is_renewed_are_not_answered_again(autojump_clock):
    async with returning(Warn("fresh", good="fresh", times=5), nothing) as (_, dialer):
        await trio.sleep(5)
        assert len(dialer.servers[0].received) <= 2


async def test_a_renewal_whose_connection_breaks_is_tried_on_the_next_one(autojump_clock):
    async def script(server):
        await server.say("WARNING", messages.Warning("TOKEN_EXPIRING", "soon", token="fresh"))
        await server.say("WARNING", messages.Warning("SOMETHING_ELSE", "x", token="wrong"))
        await server.next("AUTH_REFRESH")
        await server.stream.aclose()

    async with returning(script, nothing) as (_, dialer):
        await trio.sleep(5)
        assert dialer.tokens() == ["token", "fresh"]


# ---- what is seen of it


async def test_the_state_can_be_followed(autojump_clock):
    seen = []

    async def follow(chat):
        async for state in chat.states():
            seen.append((state.name, state.wait_s, type(state.failure)))  # noqa: PERF401  # it may be cancelled

    plans = (close(1011, after_s=1), Refuse(503), nothing)
    async with trio.open_nursery() as nursery, returning(*plans) as (chat, _):
        nursery.start_soon(follow, chat)
        await trio.sleep(5)
    assert seen == [
        ("open", None, type(None)),
        ("waiting", 0.25, ConnectionLost),
        ("connecting", None, type(None)),
        ("waiting", 0.5, HandshakeRefused),
        ("connecting", None, type(None)),
        ("open", None, type(None)),
        ("closed", None, type(None)),
    ]


async def test_who_is_slow_sees_the_newest_state_only(autojump_clock):
    async with returning(close(1011, after_s=1), OSError("down"), nothing) as (chat, _):
        states = chat.states()
        assert (await anext(states)).name == "open"
        await trio.sleep(5)
        assert (await anext(states)).name == "open"


async def test_a_session_that_the_server_made_is_kept(autojump_clock):
    async with returning(close(1006), nothing) as (chat, dialer):
        await trio.sleep(1)
        assert [server.path.partition("?")[2] for server in dialer.servers] == ["", "sessionId=s-1"]
        assert chat.connection == CONNECT


async def test_without_a_session_there_is_none_to_keep(autojump_clock):
    async def connector():
        await trio.lowlevel.checkpoint()
        client_end, server_end = memory_stream_pair()
        servers.append(FakeServer(attrs.evolve(CONNECT, session_id=None)))
        nursery.start_soon(servers[-1].serve, server_end, close(1006) if len(servers) == 1 else None)
        return client_end

    servers = []
    async with trio.open_nursery() as nursery:
        async with open_chat(URL, "token", connector=connector, reconnect=EVEN):
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert [server.path.partition("?")[2] for server in servers] == ["", ""]


async def test_bytes_are_counted_over_all_connections(autojump_clock):
    async with returning(close(1006, after_s=1), nothing) as (chat, _):
        await trio.sleep(0.5)
        before = chat.received_bytes
        await trio.sleep(5)
        assert chat.received_bytes > 1.5 * before > 0


async def test_the_welcome_is_told_once_and_pushes_go_on(autojump_clock):
    async def first(server):
        await server.say("SYSTEM_MESSAGE", messages.SystemMessage("welcome"))
        await server.stream.aclose()

    async def second(server):
        await server.say("SYSTEM_MESSAGE", messages.SystemMessage("welcome"))
        await server.say("SYSTEM_MESSAGE", messages.SystemMessage("maintenance tonight"))
        await server.socket.aclose(1000)

    async with returning(first, second) as (chat, _):
        assert [push.data.message async for push in chat.pushes] == ["welcome", "maintenance tonight"]


# ---- leaving


@pytest.mark.parametrize("after_s", [0.1, 0.3])
async def test_leaving_without_a_connection_takes_no_time(autojump_clock, after_s):
    async def hang():
        if dialed:
            await trio.sleep_forever()
        dialed.append(1)
        client_end, server_end = memory_stream_pair()
        nursery.start_soon(FakeServer().serve, server_end, close(1006))
        return client_end

    dialed = []
    async with trio.open_nursery() as nursery:
        async with open_chat(URL, "token", connector=hang, reconnect=EVEN) as chat:
            answer = chat.ask("?")
            with trio.move_on_after(after_s):
                await answer.finish()
            assert chat.state.name == ("waiting" if after_s < 0.25 else "connecting")
        nursery.cancel_scope.cancel()
    assert trio.current_time() == pytest.approx(after_s)


async def test_a_server_that_falls_silent_is_left_for_another_connection(autojump_clock):
    class Mute(FakeServer):
        async def _read(self):
            await trio.sleep_forever()

    async def connector():
        await trio.lowlevel.checkpoint()
        client_end, server_end = memory_stream_pair()
        nursery.start_soon(servers.pop(0).serve, server_end, lambda server: server.answer_next("yes"))
        return client_end

    servers = [Mute(), FakeServer()]
    async with trio.open_nursery() as nursery:
        async with open_chat(URL, "token", connector=connector, reconnect=EVEN) as chat:
            assert (await chat.ask("?").finish()).length == 3
            assert trio.current_time() == pytest.approx(90.25)
        nursery.cancel_scope.cancel()
