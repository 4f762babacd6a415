"""What can go wrong on the other side, whoever that is; each is done by a server in memory."""

from __future__ import annotations

import json
import ssl
from collections.abc import Awaitable, Callable
from functools import cache

import trio
import trustme

from scm_trio.providers.connections import Dialer
from scm_trio.providers.sse import MAX_EVENT_BYTES

from .conftest import MemoryNet, Peer
from .vendors import RAW, Vendor, hold, response

KEEP_ALIVE_S = 4.0
Fault = Callable[[Peer, Vendor], Awaitable[None]]
WORD = "春天"


def refusing(status: int, more: str = "") -> Fault:
    async def fault(peer: Peer, vendor: Vendor) -> None:
        await vendor.refuse(peer, response(status, json.dumps(vendor.refusals[status]).encode(), more=more))

    return fault


def answering(body: bytes, content_type: str) -> Fault:
    async def fault(peer: Peer, vendor: Vendor) -> None:
        await vendor.refuse(peer, response(200, body, content_type))

    return fault


def saying_only(*parts: str, end: str = "") -> Fault:
    """Send parts of the vendor's words, then hang up, after a ``bye`` or in the middle of an event."""

    async def fault(peer: Peer, vendor: Vendor) -> None:
        await vendor.ready(peer)
        words = {"word": vendor.say(WORD), "garbage": vendor.raw(b'{"choices": [' + RAW.encode())}
        words["huge"] = vendor.raw(b"x" * (MAX_EVENT_BYTES + 1))
        await vendor.send(peer, vendor.begin, *(words.get(part) or getattr(vendor, part) for part in parts))
        if end == "bye":
            await peer.send(vendor.bye)
        elif end == "half":
            await peer.send(vendor.framed(vendor.say(WORD))[:-7])
        elif end == "hold":
            await hold(peer)

    return fault


def keeping_alive(*parts: str) -> Fault:
    async def fault(peer: Peer, vendor: Vendor) -> None:
        await vendor.ready(peer)
        await vendor.send(peer, vendor.begin, *(vendor.say(part) for part in parts))
        while True:
            await trio.sleep(KEEP_ALIVE_S)
            await vendor.send(peer, vendor.keep_alive)

    return fault


async def now_and_then(peer: Peer, vendor: Vendor) -> None:
    await vendor.ready(peer)
    await vendor.send(peer, vendor.begin)
    while True:
        await vendor.send(peer, vendor.say("春"))
        await trio.sleep(KEEP_ALIVE_S)


async def speak_no_tls(peer: Peer, _: Vendor) -> None:
    await peer.stream.receive_some()
    await peer.send(b"220 mail ready\r\n")


async def hang_up(peer: Peer, _: Vendor) -> None:
    await peer.stream.receive_some()


async def never_begin(peer: Peer, _: Vendor) -> None:
    await hold(peer)


@cache
def strangers_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("vendor.example").configure_cert(context)
    return context


async def show_a_strangers_certificate(peer: Peer, _: Vendor) -> None:
    await trio.SSLStream(peer.stream, strangers_context(), server_side=True).do_handshake()


FAULTS: dict[str, Fault] = {
    "no TLS": speak_no_tls,
    "a certificate of nobody": show_a_strangers_certificate,
    "hung up on the question": hang_up,
    **{str(status): refusing(status) for status in (401, 403, 404, 429, 500, 503)},
    "429 with Retry-After": refusing(429, "Retry-After: 7\r\n"),
    "a web page": answering(f"<html>{RAW}</html>".encode(), "text/html; charset=utf-8"),
    "a body that is no JSON": answering(f"{{{RAW}".encode(), "application/json"),
    "garbage at once": saying_only("garbage", "whole", end="bye"),
    "no head": never_begin,
    "failing at once": saying_only("failing", "whole", end="bye"),
    "denying at once": saying_only("denying", end="bye"),
    "limiting at once": saying_only("limiting", end="bye"),
    "cut before the first word": saying_only(),
    "ended before the first word": saying_only(end="bye"),
    "silence before the first word": saying_only(end="hold"),
    "keep-alives before the first word": keeping_alive(),
    "an event too large": saying_only("huge"),
    "failing in the middle": saying_only("word", "failing", "whole", end="bye"),
    "denying in the middle": saying_only("word", "denying", end="bye"),
    "limiting in the middle": saying_only("word", "limiting", end="bye"),
    "garbage in the middle": saying_only("word", "garbage", "whole", end="bye"),
    "cut in the middle": saying_only("word"),
    "cut within a word": saying_only("word", end="half"),
    "ended in the middle": saying_only("word", end="bye"),
    "silence in the middle": saying_only("word", end="hold"),
    "keep-alives in the middle": keeping_alive(WORD),
    "an event too large in the middle": saying_only("word", "huge"),
    "a word now and then for ever": now_and_then,
}


def dialer_to(memory_net: MemoryNet, vendor: Vendor, fault: str) -> Dialer:
    async def refuse(host: str, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        raise ConnectionRefusedError(111, "Connection refused")

    async def hang(host: str, port: int) -> trio.abc.Stream:
        await trio.sleep_forever()

    async def act(peer: Peer) -> None:
        await FAULTS[fault](peer, vendor)

    if fault == "connection refused":
        return Dialer(open_stream=refuse)
    return Dialer(open_stream=hang) if fault == "connect timeout" else memory_net.dialer(act)
