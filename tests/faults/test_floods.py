"""Too much of everything."""

from __future__ import annotations

import json
import socket

import pytest

from tests.e2e.client import PATIENCE_S, chatting
from tests.e2e.process import ServerProcess, until
from tests.e2e.upstream import LONG, FakeUpstream
from tests.faults.conftest import serves
from tests.faults.peer import (
    CONTINUATION,
    PING,
    TEXT,
    close_code,
    dial,
    frame,
    open_chat,
    parse_close,
    reset,
    rest,
    upgrade_head,
)

STALLED = 100
MEBIBYTE = 2**20


def pour(peer: socket.socket, data: bytes, times: int) -> bytes:
    """Send as long as it is taken; returns what the server said."""
    heard = b""
    peer.settimeout(0.0)
    for _ in range(times):
        rest_of_it = data
        while rest_of_it:
            try:
                rest_of_it = rest_of_it[peer.send(rest_of_it) :]
            except BlockingIOError:
                peer.settimeout(PATIENCE_S)
                if not (said := peer.recv(65_536)):
                    return heard
                heard += said
                peer.settimeout(0.0)
            except (BrokenPipeError, ConnectionResetError):
                return heard
    peer.settimeout(PATIENCE_S)
    return heard + rest(peer)


@pytest.mark.parametrize(
    "piece",
    [frame(PING), frame(PING, b"x" * 125), frame(CONTINUATION, fin=False)],
    ids=["empty pings", "full pings", "empty fragments"],
)
def test_a_flood_of_small_frames_is_closed(server: ServerProcess, piece: bytes) -> None:
    with open_chat(server) as peer:
        peer.sendall(frame(TEXT, b"{", fin=False))
        heard = pour(peer, piece * 500, 40)
        serves(server)
    assert b"HTTP" not in heard
    assert parse_close(heard) in {4429, None}, "a reset may swallow the reason"


@pytest.mark.parametrize("declared", [2**62, 2**63 - 1, 2**32])
def test_a_huge_frame_is_refused_by_its_header(server: ServerProcess, declared: int) -> None:
    before = server.rss_bytes()
    with open_chat(server) as peer:
        peer.sendall(frame(TEXT, b"x" * 1000, declared=declared))
        assert close_code(peer) == 1009
    assert server.rss_bytes() < before + 16 * MEBIBYTE


def test_a_length_beyond_the_format_ends_its_connection(server: ServerProcess) -> None:
    with open_chat(server) as peer:
        peer.sendall(b"\x81\xff" + b"\xff" * 8 + b"\0\0\0\0")
        assert close_code(peer) in {1002, 1009}


def test_deep_json_is_an_invalid_message(server: ServerProcess) -> None:
    with open_chat(server) as peer:
        peer.sendall(frame(TEXT, b"[" * 4000) + frame(TEXT, b'{"a":' * 800))
        heard = b""
        while heard.count(b'"BAD_JSON"') < 2:
            heard += peer.recv(65_536)


def test_invalid_messages_are_answered_until_there_are_too_many(server: ServerProcess) -> None:
    with open_chat(server) as peer:
        peer.sendall(frame(TEXT, b"?") * 30)
        heard = rest(peer)
    assert heard.count(b'"BAD_JSON"') == 10
    assert parse_close(heard) == 4400


def test_a_message_in_single_bytes_is_a_message(server: ServerProcess) -> None:
    with open_chat(server) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in frame(TEXT, b'{"type":"HEARTBEAT"}'):
            peer.sendall(bytes((byte,)))
        assert b"HEARTBEAT" in peer.recv(65_536)


def test_two_thousand_connections_that_are_reset_leave_nothing(server: ServerProcess) -> None:
    head = upgrade_head()
    for number in range(2000):
        peer = dial(server)
        peer.sendall(head[: (number * 37) % (len(head) + 1)])
        reset(peer)
    serves(server)


def test_clients_that_are_reset_in_the_middle_of_an_answer_leave_nothing(
    server: ServerProcess, fault_upstream: FakeUpstream
) -> None:
    question = json.dumps({"type": "CHAT_REQUEST", "data": {"message": "slow reset"}}).encode()
    peers = [open_chat(server, f"reset-{number}") for number in range(60)]
    for peer in peers:
        peer.sendall(frame(TEXT, question))
    fault_upstream.asked("slow reset")
    for peer in peers:
        reset(peer)
    until(lambda: fault_upstream.open_answers == 0, "nobody is generated for")


def test_a_hundred_readers_that_stall_cost_little_memory_and_nobody_else(
    server: ServerProcess, fault_upstream: FakeUpstream
) -> None:
    request = {"type": "CHAT_REQUEST", "requestId": "stall", "data": {"message": "gate stall"}}
    peers = []
    try:
        with chatting(server, "stalled") as client:
            client.ask("gate stall", "stall")
            client.until("CHAT_STREAM_START")
            for _ in range(STALLED):
                peer = open_chat(server, "stalled", receive_buffer=4096)
                peers.append(peer)
                peer.sendall(frame(TEXT, json.dumps(request).encode()))
                while b"CHAT_STREAM_START" not in peer.recv(4096):
                    pass
            before = server.rss_bytes()
            fault_upstream.asked("gate stall").release()
            end = client.until("CHAT_STREAM_END")[-1]["data"]
            assert end["finishReason"] == "completed"
            assert end["length"] == sum(map(len, LONG))
            serves(server)
            assert server.rss_bytes() < before + 64 * MEBIBYTE
    finally:
        for peer in peers:
            reset(peer)
