"""What a client may send, and what it costs when it sends something else."""

import orjson
import pytest
import trio

from scm_trio.config import Messages
from scm_trio.gateway.dispatch import HANDLERS
from scm_trio.protocol.messages import CLIENT_TYPES
from scm_trio.providers.scripted import Scripted, Stall

from .serving import ask, ended, frame, parse_frames, read_all, serving, text, upgrade, websocket


@pytest.mark.parametrize(
    ("sent", "code", "field"),
    [
        ("{", "BAD_JSON", None),
        ("[1]", "BAD_JSON", None),
        ("{}", "INVALID_MESSAGE", "type"),
        ('{"type": 7}', "INVALID_MESSAGE", "type"),
        ('{"type": "DANCE"}', "UNKNOWN_TYPE", "type"),
        ('{"type": "CHAT_RESPONSE"}', "UNKNOWN_TYPE", "type"),
        ('{"type": "HEARTBEAT", "sessionId": 7}', "INVALID_MESSAGE", "sessionId"),
        ('{"type": "HEARTBEAT", "userId": "user002"}', "INVALID_MESSAGE", "userId"),
        ('{"type": "CHAT_REQUEST"}', "INVALID_MESSAGE", "data.message"),
        ('{"type": "CHAT_REQUEST", "data": "Hi"}', "INVALID_MESSAGE", "data"),
        ('{"type": "CHAT_REQUEST", "data": {"message": "  \\n "}}', "INVALID_MESSAGE", "data.message"),
        ('{"type": "CHAT_REQUEST", "data": {"message": "a", "maxTokens": "7"}}', "INVALID_MESSAGE", "data.maxTokens"),
        ('{"type": "CHAT_REQUEST", "data": {"message": "a", "maxTokens": 0}}', "INVALID_MESSAGE", "data.maxTokens"),
        ('{"type": "CHAT_REQUEST", "data": {"message": "a", "timeoutMs": 0}}', "INVALID_MESSAGE", "data.timeoutMs"),
        ('{"type": "CHAT_REQUEST", "data": {"message": "a", "temperature": 3}}', "INVALID_MESSAGE", "data.temperature"),
        (
            '{"type": "CHAT_REQUEST", "data": {"message": "a", "parentMessageId": "m", "editOf": "m"}}',
            "INVALID_MESSAGE",
            "data.editOf",
        ),
        (
            '{"type": "CHAT_REQUEST", "data": {"message": "a", "attachments": ["f", "f"]}}',
            "INVALID_MESSAGE",
            "data.attachments[1]",
        ),
        (
            '{"type": "CHAT_REQUEST", "data": {"message": "a", "onOrphan": {}}}',
            "INVALID_MESSAGE",
            "data.onOrphan.graceMs",
        ),
        ('{"type": "CHAT_REQUEST", "data": {"message": "a", "provider": "no"}}', "PROVIDER_UNKNOWN", "data.provider"),
        ('{"type": "CHAT_REQUEST", "data": {"message": "a", "model": "no"}}', "MODEL_UNKNOWN", "data.model"),
        ('{"type": "CHAT_CANCEL", "data": {}}', "INVALID_MESSAGE", "data.requestId"),
        ('{"type": "CHAT_CANCEL", "data": {"requestId": "no"}}', "NOT_FOUND", None),
        ('{"type": "CHAT_RESUME", "data": {"messageId": "no"}}', "NOT_FOUND", None),
        ('{"type": "SESSION_LIST", "data": {"before": "no"}}', "INVALID_MESSAGE", "data.before"),
        ('{"type": "TYPING_START", "sessionId": "no"}', "NOT_FOUND", None),
        ('{"type": "TYPING_STOP", "data": {"sessionId": "no"}}', "NOT_FOUND", None),
        ('{"type": "TYPING_START", "data": {"userId": "user002"}}', "INVALID_MESSAGE", "data.userId"),
        ('{"type": "ONLINE_STATUS"}', "INVALID_MESSAGE", "data.status"),
        ('{"type": "ONLINE_STATUS", "data": {"status": "busy"}}', "INVALID_MESSAGE", "data.status"),
        ('{"type": "ONLINE_STATUS", "data": {"userIds": "user002"}}', "INVALID_MESSAGE", "data.userIds"),
    ],
)
async def test_a_bad_message_gets_one_error_that_names_the_field_and_the_connection_lives(
    autojump_clock, sent, code, field
):
    async with serving() as server, server.peer() as peer:
        await peer.send_text(sent)
        await peer.send("HEARTBEAT")
        error, beat = await peer.receive(), await peer.receive()
    assert beat["type"] == "HEARTBEAT"
    assert (error["type"], error["error"]["code"], error["error"].get("field")) == ("ERROR", code, field)
    assert error["error"]["generationStarted"] is False
    assert isinstance(error["data"], str)
    assert error["data"]


async def test_an_error_echoes_the_request_id_of_a_message_that_could_not_be_read(autojump_clock):
    async with serving() as server, server.peer() as peer:
        await peer.send("CHAT_REQUEST", {"message": 7}, request_id="r1")
        assert (await peer.receive())["requestId"] == "r1"
        await peer.send("CHAT_REQUEST", {"message": 7, "requestId": "r2"})
        assert (await peer.receive())["requestId"] == "r2"


def test_every_type_of_a_client_is_served():
    assert set(HANDLERS) == set(CLIENT_TYPES)


async def test_ones_own_user_id_may_be_named(autojump_clock):
    async with serving() as server, server.peer() as peer:
        await peer.send("HEARTBEAT", userId="user001")
        assert (await peer.receive())["type"] == "HEARTBEAT"


async def test_ten_invalid_messages_within_a_minute_close_the_connection(autojump_clock):
    async with serving() as server, server.peer() as peer:
        for _ in range(10):
            await peer.send_text("?")
            await peer.receive()
        goodbye, code = await ended(peer)
    assert (goodbye["code"], goodbye["reconnect"], code) == ("INVALID_MESSAGES", False, 4400)


async def test_ten_invalid_messages_in_more_than_a_minute_are_borne(autojump_clock):
    async with serving() as server, server.peer() as peer:
        for _ in range(30):
            await peer.send_text("?")
            while (await peer.receive())["type"] != "ERROR":
                pass
            await trio.sleep(6.7)


async def test_a_binary_message_closes_the_connection(autojump_clock):
    async with serving() as server, server.peer() as peer:
        await peer.websocket.send_message(b"\x00")
        goodbye, code = await ended(peer)
    assert (goodbye["code"], code) == ("BINARY", 1003)


async def raw(server):
    stream = server.dial()
    await stream.send_all(upgrade(token=server.token()))
    head = bytes(await stream.receive_some())
    assert head.startswith(b"HTTP/1.1 101")
    return stream


async def close_code(stream):
    """Read until the server closes, and agree."""
    data = b""
    while True:
        more = bytes(await stream.receive_some())
        assert more, f"closed without a word after {data!r}"
        data += more
        frames, _ = parse_frames(data.partition(b"\r\n\r\n")[2] if data.startswith(b"HTTP") else data)
        if frames and frames[-1][0] == 8:
            await stream.send_all(frame(8, frames[-1][1][:2]))
            return int.from_bytes(frames[-1][1][:2], "big"), frames


async def test_text_that_is_no_utf8_closes_the_connection(autojump_clock):
    async with serving() as server:
        stream = await raw(server)
        await stream.send_all(frame(1, b'{"type": "\xff"}'))
        code, _ = await close_code(stream)
    assert code == 1007


@pytest.mark.parametrize(
    "sent",
    [
        frame(1, ("链" * 400).encode()),
        frame(1, b"a" * 1025),
        frame(1, b"a" * 600, fin=False) + frame(0, b"a" * 425),
        frame(1, b"a" * 1025) + frame(1, b"a" * 1025),
        frame(1, b"a" * 1025) + frame(9, b"ping"),
        text("HEARTBEAT") + frame(1, b"a" * 2000) + text("HEARTBEAT"),
        frame(1, b"\x88" * 2000),
        b"\x81\xff" + (2**40).to_bytes(8, "big") + b"\x00" * 4,
    ],
    ids=["chinese", "bytes", "fragments", "two", "with a ping", "between others", "like closes", "a promise of 1 TiB"],
)
async def test_a_message_of_too_many_bytes_is_answered_with_1009_that_the_peer_can_read(autojump_clock, sent):
    async with serving(config=websocket(message=Messages(max_size_bytes=1024))) as server:
        stream = await raw(server)
        await stream.send_all(sent)
        with trio.fail_after(3):
            code, frames = await close_code(stream)
        assert code == 1009
        assert b'"code":"MESSAGE_TOO_LARGE"' in frames[-2][1]
        async with server.peer("user002"):
            pass


async def test_a_message_of_exactly_the_limit_is_taken(autojump_clock):
    async with serving(config=websocket(message=Messages(max_size_bytes=1024))) as server, server.peer() as peer:
        padding = "链" * 300
        body = orjson.dumps({"type": "HEARTBEAT", "data": {"x": padding}}).decode()
        await peer.send_text(body + " " * (1024 - len(body.encode())))
        assert (await peer.receive())["type"] == "HEARTBEAT"


async def test_a_peer_that_goes_on_sending_after_1009_still_gets_to_read_it(autojump_clock):
    async with serving(config=websocket(message=Messages(max_size_bytes=1024))) as server:
        stream = await raw(server)
        await stream.send_all(frame(1, b"a" * 5000))
        await stream.send_all(frame(1, b"a" * 5000) * 5)
        assert (await close_code(stream))[0] == 1009
        assert await read_all(stream) == b""


@pytest.mark.parametrize(
    "flood",
    [frame(9) * 601, frame(1, fin=False) + frame(0, fin=False) * 600, frame(10, b"x") * 601],
    ids=["pings", "empty fragments", "pongs"],
)
async def test_a_flood_of_frames_closes_the_connection(autojump_clock, flood):
    async with serving() as server:
        stream = await raw(server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, flood)
            code, frames = await close_code(stream)
    assert code == 4429
    assert b'"code":"FLOOD"' in frames[-2][1]


async def test_frames_at_a_human_pace_are_no_flood(autojump_clock):
    async with serving() as server:
        stream = await raw(server)
        for _ in range(200):
            await stream.send_all(frame(10, b"x") * 10)
            await trio.sleep(0.1)
        await stream.send_all(text("DISCONNECT"))
        assert (await close_code(stream))[0] == 1000


async def test_a_ping_that_crosses_our_close_costs_this_connection_only(autojump_clock):
    async with serving() as server:
        stream = await raw(server)
        await stream.send_all(text("DISCONNECT") + frame(9, b"crossing") + frame(9, b"again"))
        await read_all(stream)
        async with server.peer("user002"):
            pass


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x83\x80\x01\x02\x03\x04",
        b"\xf1\x80\x01\x02\x03\x04",
        b"\x81\x02hi",
        b"\x89\xfe\x00\x7e" + b"\x00" * 130,
        frame(0, b"x"),
    ],
    ids=["an unknown opcode", "reserved bits", "no mask", "a long ping", "a continuation of nothing"],
)
async def test_frames_that_break_the_websocket_rules_cost_this_connection_only(autojump_clock, garbage):
    async with serving() as server:
        stream = await raw(server)
        await stream.send_all(garbage)
        await read_all(stream)
        async with server.peer("user002"):
            pass


@pytest.mark.parametrize("lang", ["zh", "en"])
async def test_a_server_without_a_provider_says_how_to_get_one(autojump_clock, lang):
    async with serving() as server:
        server.house.gate.service.providers = {}
        async with server.peer(query=f"&lang={lang}") as peer:
            await ask(peer)
            error = await peer.receive()
    assert error["error"]["code"] == "PROVIDER_UNKNOWN"
    assert error["data"].startswith("没有可用的 AI 服务" if lang == "zh" else "No AI service: set OPENAI_API_KEY")


async def test_a_session_named_in_a_message_is_the_one_that_is_asked_in(autojump_clock):
    async with serving(provider=Scripted(["a", Stall()])) as server, server.peer() as peer:
        await peer.send("CHAT_REQUEST", {"message": "Hi"}, sessionId="s-2")
        start = await peer.receive()
    assert start["sessionId"] == "s-2"
