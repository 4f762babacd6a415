"""Opening, living and leaving."""

import pytest
import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair
from trio_websocket import wrap_server_stream

from scm_trio.client import ChatError, ConnectionLost, HandshakeRefused, Unreachable, open_chat_over
from scm_trio.client.background import background
from scm_trio.client.line import MAX_KNOWN, MAX_PUSHES
from scm_trio.client.wire import open_wire_over
from scm_trio.protocol import messages
from tests.client.fake_server import CONNECT, URL, FakeServer, chat_with


async def test_the_handshake_carries_token_user_session_and_language(autojump_clock):
    server = FakeServer()
    async with chat_with(None, server, session_id="s 1", user_id="ann", lang="en") as chat:
        assert chat.connection == CONNECT
        assert chat.received_bytes > 0
        assert chat.lost is None
    assert server.path == "/scm/websocket/ai/chat?userId=ann&sessionId=s+1&lang=en"
    assert server.headers[b"authorization"] == b"Bearer token"
    assert server.headers.get(b"sec-websocket-protocol") is None
    assert server.kinds == ["DISCONNECT"]


@pytest.mark.parametrize(
    ("status", "headers", "body", "wanted"),
    [
        (401, [], b'{"code":"TOKEN_EXPIRED","message":"The token has expired"}', ("TOKEN_EXPIRED", None)),
        (503, [(b"Retry-After", b"7")], b'{"code":"SERVER_BUSY","message":"busy"}', ("SERVER_BUSY", 7.0)),
        (503, [(b"Retry-After", b"Sat, 01 Jan 2000 00:00:00 GMT")], b"", ("", 0.0)),
        (502, [(b"Retry-After", b"soon")], b"<h1>Bad gateway</h1>", ("", None)),
        (502, [(b"Retry-After", "²".encode())], b"", ("", None)),
        (404, [], b"[]", ("", None)),
        (426, [], b"", ("", None)),
    ],
)
async def test_a_refused_handshake_says_why(autojump_clock, status, headers, body, wanted):
    async def serve(stream):
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            await request.reject(status, extra_headers=headers, body=body)

    client_end, server_end = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, server_end)
        with pytest.raises(HandshakeRefused) as caught:
            async with open_chat_over(client_end, URL, "token"):
                raise AssertionError
    assert caught.value.status == status
    assert (caught.value.code, caught.value.retry_after_s) == wanted


async def first_bytes_then(stream, reply):
    await stream.receive_some()
    if reply is not None:
        await stream.send_all(reply)
        await stream.aclose()


@pytest.mark.parametrize("reply", [b"", b"220 mail.test ESMTP\r\n"])
async def test_a_server_that_hangs_up_or_speaks_something_else_is_unreachable(autojump_clock, reply):
    client_end, server_end = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first_bytes_then, server_end, reply)
        with pytest.raises(Unreachable, match="during the handshake"):
            async with open_chat_over(client_end, URL, "token"):
                raise AssertionError
    assert trio.current_time() == 0


async def test_a_connection_that_is_gone_before_the_first_byte_is_unreachable(autojump_clock):
    client_end, server_end = memory_stream_pair()
    await server_end.aclose()
    with pytest.raises(Unreachable, match="during the handshake"):
        async with open_chat_over(client_end, URL, None):
            raise AssertionError


async def test_a_server_that_says_nothing_is_given_up(autojump_clock):
    client_end, server_end = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first_bytes_then, server_end, None)
        with pytest.raises(Unreachable, match="did not shake hands within 3 s"):
            async with open_chat_over(client_end, URL, "token", connect_timeout_s=3):
                raise AssertionError
    assert trio.current_time() == pytest.approx(3)


async def test_a_close_before_the_first_word_is_a_lost_connection(autojump_clock):
    async def script(server):
        await server.say("SYSTEM_MESSAGE", messages.SystemMessage("wait"))
        await server.socket.aclose(1013, "full")

    client_end, server_end = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(FakeServer(connect=None).serve, server_end, script)
        with pytest.raises(ConnectionLost, match="full") as caught:
            async with open_chat_over(client_end, URL, "token"):
                raise AssertionError
    assert (caught.value.close_code, caught.value.reconnect) == (1013, True)


@pytest.mark.parametrize("token", ["two words", "line\nbreak", "密"])
async def test_a_token_that_cannot_stand_in_a_header_is_refused_here(autojump_clock, token):
    client_end, server_end = memory_stream_pair()
    with pytest.raises(ValueError, match="cannot stand in a header"):
        async with open_chat_over(client_end, URL, token):
            raise AssertionError
    assert await server_end.receive_some() == b""


async def test_the_blocks_own_exception_leaves_as_it_is(autojump_clock):
    client_end, server_end = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(FakeServer().serve, server_end, None)
        with pytest.raises(KeyError, match="mine"):
            async with open_chat_over(client_end, URL, "token"):
                raise KeyError("mine")


async def test_a_server_that_does_not_answer_the_goodbye_costs_two_seconds(autojump_clock):
    async with chat_with(None, FakeServer(says_goodbye=False)):
        pass
    assert trio.current_time() == pytest.approx(2)


async def test_the_goodbye_is_said_and_limited_when_the_block_is_cancelled(autojump_clock):
    server = FakeServer(says_goodbye=False)
    client_end, server_end = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, server_end, None)
        with trio.move_on_after(1) as scope:
            async with open_chat_over(client_end, URL, "token"):
                await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() == pytest.approx(3)
    assert server.kinds == ["DISCONNECT"]


async def test_heartbeats_keep_a_quiet_connection_alive(autojump_clock):
    server = FakeServer()
    async with chat_with(None, server) as chat:
        await trio.sleep(1000)
        assert server.kinds == ["HEARTBEAT"] * 33
        assert await chat.ping() == 0
        await server.say("HEARTBEAT", messages.Heartbeat())
        await trio.sleep(1)
        assert len(server.received) == 34


async def test_a_server_that_misses_its_heartbeats_is_given_up(autojump_clock):
    class Mute(FakeServer):
        async def _read(self):
            await trio.sleep_forever()

    async with chat_with(None, Mute()) as chat:
        with pytest.raises(ConnectionLost, match="silent"):
            await chat.ask("?").finish()
        assert trio.current_time() == pytest.approx(90)


async def test_a_frame_that_nobody_takes_ends_the_connection(autojump_clock):
    # A lockstep stream holds its sender until the other side reads.
    client_end, server_end = lockstep_stream_pair()
    held = HeldStream(server_end)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(FakeServer().serve, held, None)
        async with open_chat_over(client_end, URL, "token", write_timeout_s=4) as chat:
            held.reads = False
            with pytest.raises(ConnectionLost, match="takes no data") as caught:
                async with chat.ask("?" * 10):
                    # The first frame is taken by the read that was under way.
                    await chat.ask("?").finish()
            assert caught.value.reconnect
            assert trio.current_time() == pytest.approx(4)
        nursery.cancel_scope.cancel()


class HeldStream(trio.abc.Stream):
    """Reads as long as ``reads`` says so."""

    def __init__(self, stream):
        self.stream = stream
        self.reads = True

    async def receive_some(self, max_bytes=None):
        if not self.reads:
            await trio.sleep_forever()
        return await self.stream.receive_some(max_bytes)

    async def send_all(self, data):
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self):
        await self.stream.wait_send_all_might_not_block()

    async def aclose(self):
        await self.stream.aclose()


async def test_notices_and_unasked_messages_are_pushes(autojump_clock):
    async def script(server):
        await server.say("SYSTEM_MESSAGE", messages.SystemMessage("welcome"))
        request = await server.next("CHAT_REQUEST")
        await server.say("INFO", messages.Info("RETRY", "another provider"), request.request_id)
        await server.answer(request.request_id, "ok")
        await server.start("not-ours")
        await server.socket.send_message('{"type":"FROM_THE_FUTURE","data":{}}')
        await server.socket.send_message("{")
        await server.refuse(None, "BAD_JSON")
        await server.socket.aclose(1000)

    async with chat_with(script) as chat:
        await chat.ask("?").finish()
        kinds = [push.kind async for push in chat.pushes]
    assert kinds == ["SYSTEM_MESSAGE", "INFO", "ERROR"]


async def test_a_message_that_is_told_again_or_was_read_here_is_no_push(autojump_clock):
    def stored(message_id):
        return messages.StoredMessage(message_id, "s-1", "s-1", None, "assistant", "ann", "text", "sent", "now")

    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        await server.say("CHAT_MESSAGE", stored("m-1"))
        await server.end(rid, "")
        for message_id in ("m-1", "m-2", "m-2", *(f"x-{number}" for number in range(MAX_KNOWN)), "m-2"):
            await server.say("CHAT_MESSAGE", stored(message_id))
        await server.socket.aclose(1000)

    pushed = []

    async def follow(chat):
        async for push in chat.pushes:
            pushed.append(push.data.message_id)  # noqa: PERF401

    async with trio.open_nursery() as nursery, chat_with(script) as chat:
        nursery.start_soon(follow, chat)
        await chat.ask("?").finish()
        await trio.sleep(1)
    # Only so many are remembered.
    assert (pushed[0], pushed.count("m-1"), pushed.count("m-2")) == ("m-2", 0, 2)
    assert len(pushed) == MAX_KNOWN + 2


async def test_unread_pushes_are_bounded_and_the_oldest_go_first(autojump_clock):
    async def script(server):
        for number in range(MAX_PUSHES + 10):
            await server.say("INFO", messages.Info("N", str(number)))
        await server.socket.aclose(1000)

    async with chat_with(script) as chat:
        await trio.sleep(1)
        texts = [push.data.message async for push in chat.pushes]
    assert texts == [str(number) for number in range(10, MAX_PUSHES + 10)]


async def test_pushes_that_the_user_closed_are_dropped(autojump_clock):
    async def script(server):
        await server.next("CHAT_REQUEST")
        await server.say("INFO", messages.Info("N", "x"))
        await server.refuse((await server.next("CHAT_REQUEST")).request_id, "INTERNAL")

    async with chat_with(script) as chat:
        chat.pushes.close()
        async with chat.ask("1", on_orphan="continue"):
            with pytest.raises(ChatError):
                await chat.ask("2").finish()


async def test_a_new_token_can_be_given(autojump_clock):
    async def script(server):
        request = await server.next("AUTH_REFRESH")
        assert request.data.token == "new"
        await server.say("AUTH_REFRESH", messages.AuthRefreshed("2026"), request.request_id)
        await server.refuse((await server.next("AUTH_REFRESH")).request_id, "TOKEN_EXPIRED")

    async with chat_with(script) as chat:
        assert (await chat.refresh("new")).expires_at == "2026"
        with pytest.raises(ChatError, match="TOKEN_EXPIRED"):
            await chat.refresh("old")


async def test_an_aborted_wire_says_nothing_more(autojump_clock):
    server = FakeServer()
    client_end, server_end = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, server_end, None)
        async with open_wire_over(client_end, URL, "token") as wire:
            await wire.abort()
            await wire.abort("again")
            with pytest.raises(ConnectionLost, match="aborted by this client"):
                await wire.send("HEARTBEAT", messages.Heartbeat())
            with pytest.raises(ConnectionLost, match="aborted by this client"):
                await wire.receive()
    assert server.received == []


async def test_sending_into_a_connection_that_the_server_has_closed_fails(autojump_clock):
    async def script(server):
        await server.socket.aclose(4401)

    client_end, server_end = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(FakeServer().serve, server_end, script)
        async with open_wire_over(client_end, URL, "token") as wire:
            await trio.sleep(1)
            with pytest.raises(ConnectionLost) as caught:
                await wire.send("HEARTBEAT", messages.Heartbeat())
    assert (caught.value.close_code, caught.value.reconnect) == (4401, False)


async def test_a_farewell_counts_also_when_a_sender_meets_the_end_first(autojump_clock):
    async def script(server):
        await server.say("DISCONNECT", messages.Disconnect("FORBIDDEN", "no", reconnect=False))
        await server.stream.aclose()

    client_end, server_end = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(FakeServer().serve, server_end, script)
        async with open_wire_over(client_end, URL, "token") as wire:
            await trio.sleep(1)
            with pytest.raises(ConnectionLost) as caught:
                await wire.send("HEARTBEAT", messages.Heartbeat())
            assert (caught.value.reconnect, caught.value.code) == (True, None)
            assert (await wire.receive()).kind == "DISCONNECT"
            with pytest.raises(ConnectionLost) as caught:
                await wire.receive()
            assert (caught.value.reconnect, caught.value.code) == (False, "FORBIDDEN")
            assert wire.lost is caught.value


async def test_nothing_is_begun_behind_a_block_that_is_over():
    async def task():
        raise AssertionError

    async with background() as crew:
        await trio.lowlevel.checkpoint()
    crew.start_soon(task)


async def test_a_crash_of_a_background_task_is_not_hidden():
    async def crash():
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    async def block():
        async with background() as crew:
            crew.start_soon(crash)
            await trio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as caught:
        await block()
    assert caught.group_contains(ZeroDivisionError)


async def test_bytes_that_break_the_protocol_end_the_connection(autojump_clock):
    async def script(server):
        await server.next("CHAT_REQUEST")
        await server.stream.send_all(b"\xff\xff\xff\xff")

    async with chat_with(script) as chat:
        with pytest.raises(ConnectionLost):
            await chat.ask("?").finish()


async def test_nonsense_from_a_server_that_is_gone_costs_this_connection_only(autojump_clock):
    async def script(server):
        await server.next("CHAT_REQUEST")
        # The answer to a broken frame meets a stream that is closed already.
        await server.stream.send_all(b"\xff\xff\xff\xff")
        await server.stream.aclose()

    async with chat_with(script) as chat:
        with pytest.raises(ConnectionLost):
            await chat.ask("?").finish()


async def test_a_ping_that_crosses_our_close_costs_this_connection_only(autojump_clock):
    async def script(server):
        await server.next("CHAT_REQUEST")
        # A message over the limit, which this side closes for, and a ping behind it in the same read.
        await server.stream.send_all(b"\x81\x7e\x03\xe8" + b"x" * 1000 + b"\x89\x00")

    async with chat_with(script, max_message_chars=900) as chat:
        with pytest.raises(ConnectionLost) as caught:
            await chat.ask("?").finish()
        assert caught.value.close_code == 1009
