"""One connection's life by the clock: beats, silence, tokens, and the goodbye."""

import pytest
import trio

from scm_trio.config import Auth, Heartbeat
from scm_trio.providers.scripted import Stall
from scm_trio.testing import SECRET, quiet_config

from .serving import ask, ended, frame, parse_frames, serving, text, upgrade, websocket


async def test_a_clients_heartbeat_is_answered(autojump_clock):
    async with serving() as server, server.peer() as peer:
        await peer.send("HEARTBEAT", request_id="beat-1", sessionId="other")
        beat = await peer.receive()
    assert (beat["type"], beat["requestId"], beat["sessionId"], beat["data"]) == ("HEARTBEAT", "beat-1", "other", {})


async def test_the_server_beats_every_30_s_after_a_spread_first_time(autojump_clock):
    async with serving() as server, server.peer() as peer:
        began, times = trio.current_time(), []
        for _ in range(4):
            assert (await peer.receive())["type"] == "HEARTBEAT"
            times.append(round(trio.current_time() - began, 6))
    # The tests' jitter is one half: 30 * (0.5 + 0.25).
    assert times == [22.5, 52.5, 82.5, 112.5]


async def test_each_beat_carries_a_ping_which_any_websocket_library_answers(autojump_clock):
    async with serving() as server:
        stream = server.dial()
        await stream.send_all(upgrade(token=server.token()))
        data = b""
        with trio.move_on_after(23):
            while True:
                data += bytes(await stream.receive_some())
        await stream.aclose()
    frames, rest = parse_frames(data.partition(b"\r\n\r\n")[2])
    assert [opcode for opcode, _ in frames] == [1, 1, 1, 9]
    assert rest == b""


async def open_raw(server):
    stream = server.dial()
    await stream.send_all(upgrade(token=server.token()))
    return stream


async def drain_until_closed(stream):
    data = b""
    while True:
        try:
            more = bytes(await stream.receive_some())
        except trio.BrokenResourceError:
            more = b""
        if not more:
            return parse_frames(data.partition(b"\r\n\r\n")[2])[0]
        data += more


async def test_five_minutes_of_silence_close_the_connection(autojump_clock):
    async with serving() as server:
        began = trio.current_time()
        frames = await drain_until_closed(await open_raw(server))
        # And two seconds that a silent peer has for answering our Close.
        assert trio.current_time() - began == pytest.approx(302, abs=0.1)
    assert b'"code":"SILENT"' in frames[-2][1]
    assert b'"reconnect":true' in frames[-2][1]
    assert frames[-1] == (8, (4408).to_bytes(2, "big") + b"SILENT")


async def test_a_pong_alone_keeps_a_connection_alive(autojump_clock):
    # The library behind the peer answers each ping; nothing else is sent.
    async with serving() as server, server.peer() as peer:
        with trio.move_on_after(1000):
            while True:
                assert (await peer.receive())["type"] == "HEARTBEAT"
        await peer.send("HEARTBEAT", request_id="still here")
        assert (await peer.receive())["requestId"] == "still here"


async def test_half_a_frame_is_no_life(autojump_clock):
    async with serving() as server:
        stream = await open_raw(server)

        async def dribble():
            whole = frame(1, b"x" * 1000)
            await stream.send_all(whole[:8])
            for byte in whole[8:]:
                await trio.sleep(30)
                try:
                    await stream.send_all(bytes([byte]))
                except trio.BrokenResourceError:
                    return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dribble)
            began = trio.current_time()
            frames = await drain_until_closed(stream)
            nursery.cancel_scope.cancel()
        # The frame's header is life, its payload is not.
        assert trio.current_time() - began == pytest.approx(302, abs=0.1)
    assert frames[-1][1][:2] == (4408).to_bytes(2, "big")


async def test_the_silence_is_as_long_as_configured(autojump_clock):
    config = websocket(heartbeat=Heartbeat(interval_s=1000, timeout_s=7))
    async with serving(config=config) as server, server.peer() as peer:
        began = trio.current_time()
        assert (await ended(peer))[1] == 4408
        assert trio.current_time() - began == 7.0


# ---- leaving


async def test_a_client_that_leaves_is_told_goodbye(autojump_clock):
    async with serving() as server, server.peer() as peer:
        await peer.send("DISCONNECT", {"reason": "done"})
        goodbye, code = await ended(peer)
    assert code == 1000
    assert goodbye == {"code": "BYE", "reason": "再见", "reconnect": False}


async def test_a_client_that_just_goes_leaves_nothing_behind(autojump_clock):
    async with serving("a", Stall()) as server:
        async with server.peer() as peer:
            await ask(peer)
            await peer.until("CHAT_STREAM_DATA")
        await trio.sleep(1)
        assert server.house.gate.hub.active == 0
        assert server.house.gate.service.live_runs == 1
        await trio.sleep(60)
        assert server.house.gate.service.live_runs == 0


async def test_a_client_that_closes_properly_is_let_go(autojump_clock):
    async with serving() as server, server.peer() as peer:
        await peer.websocket.aclose(1000, "bye")
        await trio.testing.wait_all_tasks_blocked()
        assert server.house.gate.hub.active == 0


async def test_a_draining_server_says_when_to_come_back(autojump_clock):
    async with serving() as server, server.peer(query="&lang=en") as peer, trio.open_nursery() as nursery:
        nursery.start_soon(server.house.drain, 0, trio.Event())
        goodbye, code = await ended(peer)
    assert code == 1001
    assert goodbye == {
        "code": "SHUTTING_DOWN",
        "reason": "The server is restarting; try again shortly",
        "reconnect": True,
        "retryAfterMs": 2500,
    }


# ---- tokens


def expiring_config(*, refresh):
    return quiet_config(auth=Auth(secret=SECRET, leeway_s=0.0, refresh=refresh))


async def skip_beats(peer, kind):
    while (message := await peer.receive())["type"] != kind:
        assert message["type"] == "HEARTBEAT"
    return message


async def test_a_minute_before_its_end_a_token_is_warned_of_and_then_the_connection_closes(autojump_clock):
    async with serving(config=expiring_config(refresh=False)) as server:
        began = trio.current_time()
        async with server.peer(token=server.token(ttl_s=100)) as peer:
            warning = await skip_beats(peer, "WARNING")
            assert trio.current_time() - began == pytest.approx(40)
            goodbye, code = await ended(peer)
            assert trio.current_time() - began == pytest.approx(100)
    assert warning["data"]["code"] == "TOKEN_EXPIRING"
    assert warning["data"]["expiresAt"] == "2023-11-14T22:15:00.000Z"
    assert "token" not in warning["data"]
    assert (goodbye["code"], code, goodbye["reconnect"]) == ("TOKEN_EXPIRED", 4401, False)


async def test_the_warning_carries_a_fresh_token_where_the_server_issues_them(autojump_clock):
    async with (
        serving(config=expiring_config(refresh=True)) as server,
        server.peer(token=server.token(ttl_s=100, roles=("admin",))) as peer,
    ):
        fresh = (await skip_beats(peer, "WARNING"))["data"]["token"]
        await peer.send("AUTH_REFRESH", {"token": fresh}, request_id="a1")
        answer = await skip_beats(peer, "AUTH_REFRESH")
        assert answer["requestId"] == "a1"
        assert answer["data"]["expiresAt"] > "2023-11-14T23"
        with trio.move_on_after(2000):
            while True:
                assert (await peer.receive())["type"] == "HEARTBEAT"
        # And the refreshed token is warned of in its own time.
        assert (await skip_beats(peer, "WARNING"))["data"]["token"]


async def test_a_token_counts_so_much_longer_as_the_leeway_says(autojump_clock):
    async with serving() as server:
        began = trio.current_time()
        async with server.peer(token=server.token(ttl_s=30)) as peer:
            await skip_beats(peer, "WARNING")
            assert (await ended(peer))[1] == 4401
            assert trio.current_time() - began == pytest.approx(40)


async def test_another_users_token_ends_the_connection(autojump_clock):
    async with serving() as server, server.peer() as peer:
        await peer.send("AUTH_REFRESH", {"token": server.token("user002")})
        goodbye, code = await ended(peer)
    assert (goodbye["code"], goodbye["reconnect"], code) == ("FORBIDDEN", False, 4403)


async def test_a_bad_token_is_refused_and_the_old_one_stays(autojump_clock):
    async with serving() as server, server.peer() as peer:
        await peer.send("AUTH_REFRESH", {"token": "rubbish"}, request_id="a1")
        error = await peer.receive()
        assert (error["error"]["code"], error["requestId"]) == ("UNAUTHORIZED", "a1")
        await peer.send("HEARTBEAT")
        assert (await peer.receive())["type"] == "HEARTBEAT"


async def test_a_message_of_the_first_read_after_the_handshake_is_heard(autojump_clock):
    async with serving() as server:
        stream = await open_raw(server)
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(text("HEARTBEAT", requestId="b1") + text("DISCONNECT"))
        frames = await drain_until_closed(stream)
    assert any(b'"requestId":"b1"' in payload for _, payload in frames)
    assert frames[-1][0] == 8
