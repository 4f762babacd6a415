"""Five peers that end a stock server of the WebSocket library, and their relatives; each costs its own connection."""

from __future__ import annotations

import json

import pytest

from tests.e2e.process import ServerProcess
from tests.faults.conftest import MAX_MESSAGE_BYTES
from tests.faults.peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    NO_CODE,
    PING,
    TEXT,
    close_code,
    dial,
    dialled,
    frame,
    open_chat,
    reset,
    rest,
    upgrade_head,
)

OVERSIZE = frame(TEXT, b"x" * (MAX_MESSAGE_BYTES + 1))
GOODBYE = frame(TEXT, json.dumps({"type": "DISCONNECT"}).encode())


def test_a_ping_that_crosses_our_close_is_ignored(server: ServerProcess) -> None:
    with open_chat(server) as peer:
        peer.sendall(GOODBYE + frame(PING, b"late") * 5)
        assert close_code(peer) == 1000


def test_a_ping_after_our_close_is_ignored(server: ServerProcess) -> None:
    with open_chat(server) as peer:
        peer.sendall(GOODBYE)
        heard = b""
        while b"BYE" not in heard[-40:]:
            heard += peer.recv(65_536)
        peer.sendall(frame(PING, b"late") * 5)
        rest(peer)


@pytest.mark.parametrize("offered", ["供应链".encode(), b"Bearer, \xff\xfe", b"Bearer, \xe4\xb8"])
def test_a_subprotocol_that_is_not_ascii_is_a_bad_request(server: ServerProcess, offered: bytes) -> None:
    with dialled(server) as peer:
        peer.sendall(upgrade_head(protocol=offered))
        assert rest(peer).startswith(b"HTTP/1.1 400 ")


def test_resets_during_accept_are_nothing(server: ServerProcess) -> None:
    for _ in range(300):
        reset(dial(server))


@pytest.mark.parametrize(
    "data",
    [
        OVERSIZE + frame(PING, b"and"),
        frame(PING, b"and") + OVERSIZE,
        OVERSIZE + OVERSIZE,
        OVERSIZE + b"\xff" * 100,
    ],
    ids=["ping behind", "ping before", "two", "garbage behind"],
)
def test_an_oversize_message_with_company_in_one_read_is_closed_with_1009(server: ServerProcess, data: bytes) -> None:
    with open_chat(server) as peer:
        peer.sendall(data)
        assert close_code(peer) == 1009


def test_an_oversize_message_with_a_close_behind_it_is_the_end(server: ServerProcess) -> None:
    with open_chat(server) as peer:
        peer.sendall(OVERSIZE + frame(CLOSE, b"\x03\xe8"))
        assert close_code(peer) in {1009, None}, "who has said goodbye need not be told"


def test_the_limit_counts_bytes_and_not_characters(server: ServerProcess) -> None:
    characters = "链" * (MAX_MESSAGE_BYTES // 3 + 1)
    with open_chat(server) as peer:
        peer.sendall(frame(TEXT, characters.encode()))
        assert close_code(peer) == 1009


def test_fragments_count_together(server: ServerProcess) -> None:
    part = b"x" * (MAX_MESSAGE_BYTES // 2)
    with open_chat(server) as peer:
        peer.sendall(frame(TEXT, part, fin=False) + frame(CONTINUATION, part, fin=False) + frame(CONTINUATION, b"x"))
        assert close_code(peer) == 1009


@pytest.mark.parametrize(
    ("data", "codes"),
    [
        (frame(BINARY, b"\0\1"), {1003}),
        (frame(TEXT, b"\xff\xfe"), {1007}),
        (frame(TEXT, b"hello", mask=0), {1002}),
        (frame(CONTINUATION, b"of nothing"), {1002}),
        (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), {1002}),
        (frame(3, b"reserved"), {1002}),
        (frame(11, b"reserved"), {1002}),
        (b"\xf1\x81\0\0\0\0x", {1002}),
        (frame(PING, b"x" * 126), {1002}),
        (frame(PING, b"x", fin=False), {1002}),
        (frame(CLOSE, b"\x03"), {1002}),
        (frame(CLOSE, b"\x03\xed"), {1002}),
        (frame(CLOSE, b"\x03\xe8\xff\xfe"), {1002, 1007}),
        (frame(CLOSE, b"\x03\xe8bye") + GOODBYE, {1000}),
        (frame(CLOSE), {NO_CODE}),
    ],
    ids=[
        "binary",
        "not UTF-8",
        "unmasked",
        "continuation of nothing",
        "message inside a message",
        "reserved data opcode",
        "reserved control opcode",
        "reserved bits",
        "long ping",
        "fragmented ping",
        "half a close code",
        "reserved close code",
        "close reason not UTF-8",
        "words after the close",
        "close without code",
    ],
)
def test_a_frame_against_the_rules_ends_its_connection(server: ServerProcess, data: bytes, codes: set[int]) -> None:
    with open_chat(server) as peer:
        peer.sendall(data)
        assert close_code(peer) in codes
