"""Heads that are half, slow, huge, ambiguous, or no HTTP at all."""

from __future__ import annotations

import random
import socket
import time

import pytest

from tests.e2e.process import ServerProcess
from tests.faults.conftest import HANDSHAKE_LIMIT_S, serves
from tests.faults.peer import dial, dialled, rest, upgrade_head

SLOW_PEERS = 300


def test_a_handshake_that_ends_at_any_byte_is_forgotten(server: ServerProcess) -> None:
    head = upgrade_head()
    for length in range(len(head)):
        with dialled(server) as peer:
            peer.sendall(head[:length])


def test_a_handshake_in_single_bytes_is_a_handshake(server: ServerProcess) -> None:
    with dialled(server) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in upgrade_head():
            peer.sendall(bytes((byte,)))
        assert peer.recv(65_536).startswith(b"HTTP/1.1 101 ")


def test_half_closing_after_the_handshake_is_leaving(server: ServerProcess) -> None:
    with dialled(server) as peer:
        peer.sendall(upgrade_head())
        peer.shutdown(socket.SHUT_WR)
        assert rest(peer).startswith(b"HTTP/1.1 101 ")


def test_three_hundred_slow_handshakes_disturb_nobody_and_are_dropped(server: ServerProcess) -> None:
    head = upgrade_head()
    peers = []
    try:
        for number in range(SLOW_PEERS):
            peer = dial(server)
            peers.append(peer)
            peer.sendall(head[: number % len(head)])
        began = time.monotonic()
        serves(server)
        for peer in peers:
            assert b"101" not in rest(peer)
        assert time.monotonic() - began > HANDSHAKE_LIMIT_S / 4, "they were dropped by the limit, not at once"
    finally:
        for peer in peers:
            peer.close()


def test_garbage_is_refused(server: ServerProcess) -> None:
    chance = random.Random(20_261_122)
    for _ in range(100):
        with dialled(server) as peer:
            peer.sendall(chance.randbytes(chance.randrange(1, 4000)))
            peer.shutdown(socket.SHUT_WR)
            heard = rest(peer)
        assert not heard or heard.startswith(b"HTTP/1.1 400 ")


HTTP_GARBAGE = {
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "no version": b"GET / \r\n\r\n",
    "NUL in the target": b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    "space before the colon": b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "NUL in a header": b"GET / HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
}


@pytest.mark.parametrize("data", HTTP_GARBAGE.values(), ids=HTTP_GARBAGE.keys())
def test_what_is_no_http_is_a_bad_request(server: ServerProcess, data: bytes) -> None:
    with dialled(server) as peer:
        peer.sendall(data)
        heard = rest(peer)
    assert heard.startswith(b"HTTP/1.1 4")
    assert heard.count(b"HTTP/1.1 ") == heard.count(b"HTTP/1.1 4")


SECOND = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
SMUGGLING = {
    "length and chunks": b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SECOND,
    "two lengths": b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(SECOND) + SECOND,
    "a list of lengths": b"Content-Length: 0, %d\r\n\r\n" % len(SECOND) + SECOND,
    "a signed length": b"Content-Length: +0\r\n\r\n" + SECOND,
    "a hexadecimal length": b"Content-Length: 0x0\r\n\r\n" + SECOND,
    "a negative length": b"Content-Length: -1\r\n\r\n" + SECOND,
    "an unknown coding": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SECOND,
    "a coding in disguise": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SECOND,
    "a hidden coding": b"Transfer-Encoding\x0b: chunked\r\n\r\n0\r\n\r\n" + SECOND,
    "a bad chunk length": b"Transfer-Encoding: chunked\r\n\r\n-0\r\n\r\n" + SECOND,
    "an endless chunk length": b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 5000 + b"\r\n\r\n" + SECOND,
}


@pytest.mark.parametrize("data", SMUGGLING.values(), ids=SMUGGLING.keys())
def test_an_ambiguous_body_hides_no_second_request(server: ServerProcess, data: bytes) -> None:
    with dialled(server) as peer:
        peer.sendall(b"POST /scm/ai/token/refresh HTTP/1.1\r\nHost: x\r\n" + data)
        peer.shutdown(socket.SHUT_WR)
        heard = rest(peer)
    assert heard.count(b"HTTP/1.1 ") <= 1
    assert b"# HELP" not in heard


@pytest.mark.parametrize(
    "bomb",
    [
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(20_000)),
        b"GET / HTTP/1.1\r\nX: " + b"y" * 300_000,
        b"GET /" + b"y" * 300_000,
        b"y" * 300_000,
        b"\r\n" * 100_000,
        upgrade_head()[:-2] + b"".join(b"X-%d: y\r\n" % number for number in range(20_000)),
    ],
    ids=["many headers", "one long header", "long target", "one long word", "empty lines", "upgrade with many headers"],
)
def test_a_head_that_does_not_end_is_refused_early(server: ServerProcess, bomb: bytes) -> None:
    before = server.rss_bytes()
    with dialled(server) as peer:
        try:
            peer.sendall(bomb)
        except (BrokenPipeError, ConnectionResetError):
            return
        heard = rest(peer)
    assert b"HTTP/1.1 2" not in heard
    assert b"HTTP/1.1 101" not in heard
    assert server.rss_bytes() < before + 32 * 2**20


def test_many_requests_in_one_write_are_answered_in_order(server: ServerProcess) -> None:
    with dialled(server) as peer:
        peer.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
        peer.shutdown(socket.SHUT_WR)
        assert rest(peer).count(b'{"status":"ok"}') == 200
