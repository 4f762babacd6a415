import pytest
import trio

from scm_trio.config import Connections, Streams
from scm_trio.providers.scripted import Stall
from scm_trio.testing import EPOCH_S

from .serving import PATH, ask, exchange, read_all, serving, upgrade, websocket


async def test_connect_tells_a_client_all_it_needs(autojump_clock):
    config = websocket(stream=Streams(max_per_connection=3))
    async with serving(config=config) as server, server.peer("user007", "s-1") as peer:
        data = peer.connect["data"]
    assert peer.connect["type"] == "CONNECT"
    assert (data["userId"], data["sessionId"]) == ("user007", "s-1")
    assert data["connectionId"]
    assert (data["heartbeatIntervalMs"], data["heartbeatTimeoutMs"]) == (30_000, 300_000)
    assert data["limits"] == {"maxMessageBytes": 1_048_576, "ratePerMinute": 100, "maxStreams": 3}
    assert (data["activeRuns"], data["unread"]) == ([], [])
    assert data["serverTime"].startswith("2023-11-14T22:13:2")
    assert data["serverTime"].endswith("Z")


async def test_connect_names_the_answers_that_are_under_way(autojump_clock):
    async with serving("Hello", Stall()) as server, server.peer() as first:
        await ask(first)
        start, _ = await first.until("CHAT_STREAM_DATA")
        async with server.peer(session_id="other") as second:
            (run,) = second.connect["data"]["activeRuns"]
        async with server.peer("user002") as stranger:
            assert stranger.connect["data"]["activeRuns"] == []
    assert run == {"messageId": start["data"]["messageId"], "sessionId": "session001", "rev": 0, "nextIndex": 1}


@pytest.mark.parametrize(("query", "sentence"), [("", "已连接，请提问"), ("&lang=en", "Connected. Ask away.")])
async def test_the_greeting_comes_in_the_language_asked_for(autojump_clock, query, sentence):
    async with serving() as server:
        stream = server.dial()
        await stream.send_all(upgrade(token=server.token(), query=f"?userId=user001{query}"))
        data = b""
        while b"SYSTEM_MESSAGE" not in data:
            data += bytes(await stream.receive_some())
        await stream.aclose()
    assert sentence in data.decode(errors="replace")


async def test_a_connection_without_a_session_gets_one(autojump_clock):
    async with serving() as server, server.peer(session_id="") as one, server.peer(session_id="") as two:
        ids = {peer.connect["data"]["sessionId"] for peer in (one, two)}
    assert len(ids) == 2


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"token": None}, 401, "UNAUTHORIZED"),
        ({"token": "no.token.atall"}, 401, "UNAUTHORIZED"),
        ({"query": "?userId=user002"}, 403, "FORBIDDEN"),
        ({"Origin": "https://evil.example"}, 403, "FORBIDDEN"),
        ({"Origin": "null"}, 403, "FORBIDDEN"),
        ({"Origin": "http://["}, 403, "FORBIDDEN"),
        ({"Sec_WebSocket_Key": "c2hvcnQ="}, 400, "INVALID_MESSAGE"),
        ({"Sec_WebSocket_Key": "!"}, 400, "INVALID_MESSAGE"),
        ({"without": ("Sec-WebSocket-Key",)}, 400, "INVALID_MESSAGE"),
        ({"query": "?coalesceMs=501"}, 400, "INVALID_MESSAGE"),
        ({"query": "?coalesceMs=05000"}, 400, "INVALID_MESSAGE"),
        ({"query": "?coalesceMs=-1"}, 400, "INVALID_MESSAGE"),
        ({"query": "?sessionId=" + "x" * 129}, 400, "INVALID_MESSAGE"),
        ({"query": "?sessionId=a%0Ab"}, 400, "INVALID_MESSAGE"),
        ({"query": "?" + "&".join(f"a{n}=1" for n in range(40))}, 400, "INVALID_MESSAGE"),
        ({"Sec_WebSocket_Protocol": "B\xe9arer"}, 400, "INVALID_MESSAGE"),
        ({"without": ("Upgrade",)}, 426, "INVALID_MESSAGE"),
        ({"without": ("Connection",)}, 426, "INVALID_MESSAGE"),
        ({"Sec_WebSocket_Version": "8"}, 426, "INVALID_MESSAGE"),
    ],
)
async def test_each_refusal_is_an_http_answer_with_code_and_message(autojump_clock, change, status, code):
    async with serving() as server:
        request = upgrade(**{"token": server.token(), **change})
        answer = await exchange(server, request)
        assert server.house.gate.hub.active == 0
        async with server.peer():
            pass
    assert (answer.status, answer.body["code"]) == (status, code)
    assert answer.body["message"]
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["connection"] == "close"
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
    if status == 426:
        assert (answer.headers["upgrade"], answer.headers["sec-websocket-version"]) == ("websocket", "13")


async def test_an_expired_token_is_refused_as_expired(autojump_clock):
    async with serving() as server:
        token = server.token(ttl_s=60)
        await trio.sleep(71)
        answer = await exchange(server, upgrade(token=token))
    assert (answer.status, answer.body["code"]) == (401, "TOKEN_EXPIRED")


@pytest.mark.parametrize(("lang", "sentence"), [("zh", "令牌缺失或无效"), ("en", "The token is missing or invalid")])
async def test_a_refusal_speaks_the_language_asked_for(autojump_clock, lang, sentence):
    async with serving() as server:
        assert (await exchange(server, upgrade(query=f"?lang={lang}"))).body["message"] == sentence


async def test_another_path_is_not_found(autojump_clock):
    async with serving() as server:
        answer = await exchange(server, upgrade("/scm/websocket/ai/chatter", Connection="close"))
    assert (answer.status, answer.body["code"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize("origin", ["https://app.example", "https://chat.example", "http://chat.example"])
async def test_allowed_origins_and_the_servers_own_may_come_in(autojump_clock, origin):
    async with serving(config=websocket(allowed_origins=("https://app.example",))) as server:
        stream = server.dial()
        await stream.send_all(upgrade(token=server.token(), Origin=origin))
        assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 101")
        await stream.aclose()


@pytest.mark.parametrize(("offer", "chosen"), [("Bearer, {}", "Bearer"), ("{}", "{}"), (None, None)])
async def test_the_subprotocol_selected_is_the_one_that_browsers_accept(autojump_clock, offer, chosen):
    async with serving() as server:
        token = server.token()
        stream = server.dial()
        given = {"Sec_WebSocket_Protocol": offer.format(token)} if offer else {"token": token}
        await stream.send_all(upgrade(**given))
        head = bytes(await stream.receive_some()).decode().lower()
        await stream.aclose()
    if chosen is None:
        assert "sec-websocket-protocol" not in head
    else:
        assert f"sec-websocket-protocol: {chosen.format(token).lower()}\r\n" in head


# ---- how many


async def test_a_user_may_have_so_many_connections_and_no_more(autojump_clock):
    async with serving(config=websocket(session=Connections(max_connections_per_user=2))) as server:
        async with server.peer(), server.peer(session_id="b"), server.peer("user002"):
            answer = await exchange(server, upgrade(token=server.token()))
        assert (answer.status, answer.headers["retry-after"]) == (429, "5")
        await trio.testing.wait_all_tasks_blocked()
        async with server.peer():
            pass


async def test_a_full_server_says_so(autojump_clock):
    async with serving(config=websocket(session=Connections(max_connections=1))) as server, server.peer():
        answer = await exchange(server, upgrade(token=server.token("user002")))
    assert (answer.status, answer.body["code"], answer.headers["retry-after"]) == (503, "SERVER_BUSY", "5")


async def test_exactly_as_many_as_allowed_come_in_however_they_race(autojump_clock):
    statuses = []

    async def rush(server):
        stream = server.dial()
        await stream.send_all(upgrade(token=server.token()))
        first = bytes(await stream.receive_some())
        statuses.append(first.split()[1])
        await trio.sleep(5)
        await trio.aclose_forcefully(stream)

    config = websocket(session=Connections(max_connections=100, max_connections_per_user=10))
    async with serving(config=config) as server:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(rush, server)
        await trio.sleep(10)
        assert server.house.gate.hub.active == 0
    assert (statuses.count(b"101"), statuses.count(b"429")) == (10, 40)


async def test_a_draining_server_lets_nobody_in(autojump_clock):
    async with serving() as server:
        await server.house.drain(0, trio.Event())
        answer = await exchange(server, upgrade(token=server.token()))
    assert (answer.status, answer.body["code"], answer.headers["retry-after"]) == (503, "SHUTTING_DOWN", "5")


# ---- rudeness


async def test_a_handshake_may_break_off_at_any_byte(autojump_clock):
    async with serving() as server:
        request = upgrade(token=server.token())
        for size in range(len(request) + 1):
            stream = server.dial()
            await stream.send_all(request[:size])
            await stream.send_eof() if size % 2 else await stream.aclose()
        await trio.sleep(20)
        assert server.house.gate.hub.active == 0
        async with server.peer():
            pass


async def test_a_handshake_that_comes_byte_by_byte_is_understood(autojump_clock):
    async with serving() as server:
        stream = server.dial()
        for byte in upgrade(token=server.token()):
            await stream.send_all(bytes([byte]))
        assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 101")
        await stream.aclose()


async def test_frames_before_our_answer_are_refused_since_nobody_has_metered_them(autojump_clock):
    async with serving() as server:
        answer = await exchange(server, upgrade(token=server.token()) + b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\n")
    assert answer.status == 400


async def test_a_token_check_that_hangs_ends_with_the_handshakes_time(autojump_clock, monkeypatch):
    async def hang(self, token):
        await trio.sleep_forever()

    async with serving() as server:
        monkeypatch.setattr(type(server.house.gate.tokens.authenticator), "verify", hang)
        began = trio.current_time()
        answer = await exchange(server, upgrade(token="a.b.c"))
        assert trio.current_time() - began == 10.0
    assert answer.status == 503


async def test_a_bug_before_the_upgrade_costs_one_connection_only(autojump_clock, monkeypatch):
    async def broken(self, token):
        raise KeyError(token)

    async with serving() as server:
        with monkeypatch.context() as patch:
            patch.setattr(type(server.house.gate.tokens.authenticator), "verify", broken)
            stream = server.dial()
            await stream.send_all(upgrade(token="a.b.c"))
            assert await read_all(stream) == b""
        async with server.peer():
            pass


async def test_a_refused_visitor_who_does_not_read_is_given_up(autojump_clock):
    async with serving() as server:
        stream = server.dial(trio.testing.lockstep_stream_pair)
        await stream.send_all(upgrade())
        await trio.sleep(6)
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")


def test_the_path_is_the_one_of_the_contract():
    assert PATH == "/scm/websocket/ai/chat"
    assert EPOCH_S == 1_700_000_000.0
