"""A peer without manners: raw sockets, hand-made heads and frames."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.process import ServerProcess, token

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
PATIENCE_S = 30.0
NO_CODE = 1005
CONTINUATION, TEXT, BINARY, CLOSE, PING = 0, 1, 2, 8, 9


def upgrade_head(user: str = "rude", *, protocol: bytes | None = None, extra: bytes = b"") -> bytes:
    """A correct request for the chat, unless told otherwise."""
    offered = b"Bearer, " + token(user).encode() if protocol is None else protocol
    return (
        b"GET /scm/websocket/ai/chat?userId=" + user.encode() + b"&sessionId=rude HTTP/1.1\r\nHost: chat\r\n"
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: " + KEY + b"\r\nSec-WebSocket-Protocol: " + offered + b"\r\n" + extra + b"\r\n"
    )


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, declared: int | None = None, mask: int = 1) -> bytes:
    """A frame under a mask of zeros; ``declared`` is the length that it claims to have."""
    size = len(payload) if declared is None else declared
    first = opcode | (0x80 if fin else 0)
    if size < 126:
        head = bytes((first, mask << 7 | size))
    elif size < 65_536:
        head = bytes((first, mask << 7 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, mask << 7 | 127)) + size.to_bytes(8, "big")
    return head + (b"\0\0\0\0" if mask else b"") + payload


def dial(server: ServerProcess, *, receive_buffer: int | None = None) -> socket.socket:
    peer = socket.socket()
    peer.settimeout(PATIENCE_S)
    if receive_buffer is not None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    peer.connect(("127.0.0.1", server.port))
    return peer


def reset(peer: socket.socket) -> None:
    """Leave with an RST instead of a FIN."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


@contextmanager
def dialled(server: ServerProcess) -> Iterator[socket.socket]:
    with dial(server) as peer:
        yield peer


def open_chat(server: ServerProcess, user: str = "rude", *, receive_buffer: int | None = None) -> socket.socket:
    """A connection past its handshake; its greeting has been read."""
    peer = dial(server, receive_buffer=receive_buffer)
    peer.sendall(upgrade_head(user))
    head = b""
    while b"SYSTEM_MESSAGE" not in head:
        head += receive(peer)
        assert head.startswith(b"HTTP/1.1 101"[: len(head)]), head
    return peer


def receive(peer: socket.socket) -> bytes:
    data = peer.recv(65_536)
    if not data:
        pytest.fail("the server closed the connection")
    return data


def rest(peer: socket.socket) -> bytes:
    """Everything until the server closes; a reset ends it too."""
    heard = b""
    try:
        while data := peer.recv(65_536):
            heard += data
    except ConnectionResetError:
        pass
    return heard


def close_code(peer: socket.socket) -> int | None:
    """The code of the server's Close; None when the connection ends without one."""
    heard = b""
    try:
        while (code := parse_close(heard)) is None and (data := peer.recv(65_536)):
            heard += data
    except ConnectionResetError:
        return None
    return code


def parse_close(data: bytes) -> int | None:
    at = 0
    while at + 2 <= len(data):
        size, begin = data[at + 1] & 0x7F, at + 2
        if size >= 126:
            begin += 2 if size == 126 else 8
            size = int.from_bytes(data[at + 2 : begin], "big")
        if data[at] & 0x0F == CLOSE and not size:
            return NO_CODE
        if data[at] & 0x0F == CLOSE and begin + 2 <= len(data):
            return int.from_bytes(data[begin : begin + 2], "big")
        at = begin + size
    return None
