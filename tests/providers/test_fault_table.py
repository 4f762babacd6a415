"""Every vendor's every fault, and what the one who asked is told of it. In virtual time, through a whole server."""

from __future__ import annotations

import json

import pytest
import trio
from attrs import evolve, frozen

from scm_trio.config import Streams, WebSocket
from scm_trio.providers.fallback import Chain, Link
from scm_trio.providers.places import WAIT_LIMIT_S, Places
from scm_trio.providers.upstream import MAX_BODY_BYTES
from scm_trio.testing import open_server, quiet_config

from .conftest import Peer
from .faults import FAULTS, WORD, dialer_to
from .vendors import RAW, VENDORS, SparkSocket, Vendor, hold, response

CONNECT_S, FIRST_TOKEN_S, IDLE_S, TOTAL_S = 3.0, 20.0, 10.0, 60.0


@frozen
class Told:
    """What the one who asked is told.

    Attributes:
        code, retryable, field, retry_after_ms: of the ERROR.
        text: what was said before, and is kept.
        after_s: when.
    """

    code: str
    retryable: bool = True
    field: str | None = None
    text: str = ""
    after_s: float = 0.0
    retry_after_ms: int | None = None


UNAVAILABLE = Told("PROVIDER_UNAVAILABLE")
AUTH = Told("PROVIDER_AUTH", retryable=False)
REJECTED = Told("PROVIDER_REJECTED", retryable=False)
LIMITED = Told("PROVIDER_RATE_LIMITED")
UNKNOWN = Told("MODEL_UNKNOWN", retryable=False)
TOO_LARGE = Told("RESPONSE_TOO_LARGE", retryable=False)


def timeout(field: str, after_s: float, text: str = "") -> Told:
    return Told("TIMEOUT", field=field, after_s=after_s, text=text)


def saying(told: Told, text: str) -> Told:
    return evolve(told, text=text)


TABLE: dict[str, Told] = {
    # before anything was asked
    "connection refused": UNAVAILABLE,
    "connect timeout": timeout("connect", CONNECT_S),
    "no TLS": UNAVAILABLE,
    "a certificate of nobody": UNAVAILABLE,
    "hung up on the question": UNAVAILABLE,
    # instead of an answer
    "401": AUTH,
    "403": evolve(AUTH, field="permission"),
    "404": REJECTED,
    "429": LIMITED,
    "429 with Retry-After": evolve(LIMITED, retry_after_ms=7000),
    "500": UNAVAILABLE,
    "503": UNAVAILABLE,
    "a web page": REJECTED,
    "a body that is no JSON": UNAVAILABLE,
    "no head": timeout("first_token", FIRST_TOKEN_S),
    # before the first word
    "garbage at once": UNAVAILABLE,
    "failing at once": UNAVAILABLE,
    "denying at once": AUTH,
    "limiting at once": LIMITED,
    "cut before the first word": UNAVAILABLE,
    "ended before the first word": UNAVAILABLE,
    "silence before the first word": timeout("first_token", FIRST_TOKEN_S),
    "keep-alives before the first word": timeout("first_token", FIRST_TOKEN_S),
    "an event too large": TOO_LARGE,
    # after it
    "failing in the middle": saying(UNAVAILABLE, WORD),
    "denying in the middle": saying(AUTH, WORD),
    "limiting in the middle": saying(LIMITED, WORD),
    "garbage in the middle": saying(UNAVAILABLE, WORD),
    "cut in the middle": saying(UNAVAILABLE, WORD),
    "cut within a word": saying(UNAVAILABLE, WORD),
    "ended in the middle": saying(UNAVAILABLE, WORD),
    "silence in the middle": timeout("idle", IDLE_S, WORD),
    "keep-alives in the middle": timeout("idle", IDLE_S, WORD),
    "an event too large in the middle": saying(TOO_LARGE, WORD),
    "a word now and then for ever": timeout("total", TOTAL_S, "春" * 15),
}
APART: dict[tuple[str, str], Told] = {
    ("openai", "404"): UNKNOWN,
    ("azure", "404"): UNKNOWN,
    ("anthropic", "404"): UNKNOWN,
    # Its handshake is a part of connecting.
    ("spark websocket", "no head"): timeout("connect", CONNECT_S),
    # There is no body where a handshake was expected.
    ("spark websocket", "a body that is no JSON"): REJECTED,
    # The one 403 that it documents is about clocks.
    ("spark websocket", "403"): evolve(AUTH, field="clock"),
}


REASONS = {"TIMEOUT": "timeout", "RESPONSE_TOO_LARGE": "too_large"}


@pytest.mark.parametrize("fault", TABLE)
@pytest.mark.parametrize("name", VENDORS)
async def test_every_fault_of_every_vendor_is_told_as_the_table_says(memory_net, autojump_clock, name, fault):
    vendor, told = VENDORS[name], APART.get((name, fault), TABLE[fault])
    tls = fault in {"no TLS", "a certificate of nobody"}
    provider = vendor.provider(dialer_to(memory_net, vendor, fault), tls=tls)
    streams = Streams(first_token_timeout_s=FIRST_TOKEN_S, idle_timeout_s=IDLE_S, total_timeout_s=TOTAL_S)
    settings = quiet_config(websocket=WebSocket(stream=streams))
    async with open_server({"vendor": provider}, settings) as server, server.peer() as peer:
        await peer.send("CHAT_REQUEST", {"message": "春天怎么样？"}, request_id="r1")
        messages = await peer.until("CHAT_STREAM_END")
        after_s = trio.current_time()
    *before, error, end = messages
    text = "".join(each["data"]["content"] for each in before if each["type"] == "CHAT_STREAM_DATA")
    known = error["error"]
    assert error["type"] == "ERROR"
    assert heard(error, text, told.after_s) == told
    assert after_s == pytest.approx(told.after_s, abs=0.5)
    assert known["generationStarted"] == bool(told.text)
    assert end["data"]["finishReason"] == REASONS.get(told.code, "error")
    assert end["data"]["length"] == len(told.text)
    assert RAW not in json.dumps(messages)
    for stream in memory_net.client_ends:
        with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
            await stream.send_all(b"is it closed?")


def heard(error: dict, text: str, after_s: float) -> Told:
    """An ERROR in the table's words."""
    known = error["error"]
    return Told(known["code"], known["retryable"], known.get("field"), text, after_s, known.get("retryAfterMs"))


WHOLE: dict[str, Told] = {
    "an error that calls itself a success": UNAVAILABLE,
    "a body that is no JSON": UNAVAILABLE,
    "a body without an answer": UNAVAILABLE,
    "a body that is cut": UNAVAILABLE,
    "a body too large": TOO_LARGE,
    "a body that never ends": timeout("total", TOTAL_S),
    "no head": timeout("total", TOTAL_S),
}
CUT_BODY = response(200, b'{"choices": [' + b" " * 99)[:-50]


def whole_fault(fault: str, vendor: Vendor) -> bytes:
    """What the vendor sends of its one body."""
    bodies = {
        "an error that calls itself a success": json.dumps(vendor.refusals[500]).encode(),
        "a body that is no JSON": f"{{{RAW}".encode(),
        "a body without an answer": b"{}",
        "a body too large": b" " * (MAX_BODY_BYTES + 1),
    }
    return response(200, bodies[fault]) if fault in bodies else CUT_BODY


@pytest.mark.parametrize("fault", WHOLE)
@pytest.mark.parametrize("name", [name for name, vendor in VENDORS.items() if not isinstance(vendor, SparkSocket)])
async def test_faults_of_answers_in_one_body_are_told_too(memory_net, autojump_clock, name, fault):
    vendor, told = VENDORS[name], WHOLE[fault]

    async def act(peer: Peer) -> None:
        await peer.request()
        if fault != "no head":
            await peer.send(whole_fault(fault, vendor))
        if fault in {"no head", "a body that never ends"}:
            await hold(peer)

    provider = vendor.provider(memory_net.dialer(act))
    settings = quiet_config(websocket=WebSocket(stream=Streams(total_timeout_s=TOTAL_S)))
    async with open_server({"vendor": provider}, settings) as server, server.peer() as peer:
        await peer.send("CHAT_REQUEST", {"message": "春天怎么样？", "streaming": False})
        *_, error, answer = await peer.until("CHAT_RESPONSE")
        after_s = trio.current_time()
    assert heard(error, answer["data"]["content"], told.after_s) == told
    assert after_s == pytest.approx(told.after_s, abs=0.5)
    assert answer["data"]["finishReason"] == REASONS.get(told.code, "error")
    assert RAW not in json.dumps([error, answer])


@pytest.mark.parametrize("name", VENDORS)
async def test_who_finds_no_place_at_a_vendor_is_told_so_after_a_while(memory_net, autojump_clock, name):
    vendor = VENDORS[name]

    async def act(peer: Peer) -> None:
        await vendor.ready(peer)
        await vendor.send(peer, vendor.begin, vendor.say(WORD))
        await hold(peer)

    places = Places("vendor", 1)
    provider = Chain([Link(vendor.provider(memory_net.dialer(act)), places=places)])
    async with open_server({"vendor": provider}) as server, server.peer() as peer:
        await peer.send("CHAT_REQUEST", {"message": "first"}, request_id="r1")
        await peer.until("CHAT_STREAM_DATA")
        async with server.peer("user002") as other:
            await other.send("CHAT_REQUEST", {"message": "second"}, request_id="r2")
            *_, error, end = await other.until("CHAT_STREAM_END")
    told = Told("SERVER_BUSY", after_s=WAIT_LIMIT_S, retry_after_ms=round(WAIT_LIMIT_S * 1000))
    assert heard(error, "", WAIT_LIMIT_S) == told
    assert end["data"]["finishReason"] == "error"
    assert len(memory_net.opened) == 1


@pytest.mark.parametrize("name", VENDORS)
async def test_without_a_fault_every_vendor_answers(memory_net, autojump_clock, name):
    vendor = VENDORS[name]

    async def act(peer: Peer) -> None:
        await vendor.ready(peer)
        await vendor.send(peer, vendor.begin, vendor.keep_alive, vendor.say("春"), vendor.say("天"), vendor.whole)
        await peer.send(vendor.bye)

    provider = vendor.provider(memory_net.dialer(act))
    async with open_server({"vendor": provider}) as server, server.peer() as peer:
        await peer.send("CHAT_REQUEST", {"message": "春天怎么样？"})
        messages = await peer.until("CHAT_STREAM_END")
    assert [each["type"] for each in messages if each["type"] == "ERROR"] == []
    assert "".join(each["data"]["content"] for each in messages if each["type"] == "CHAT_STREAM_DATA") == "春天"
    assert messages[-1]["data"]["finishReason"] == "completed"


def test_the_table_knows_every_fault():
    assert set(TABLE) == {*FAULTS, "connection refused", "connect timeout"}
    assert {fault for _, fault in APART} <= set(TABLE)
