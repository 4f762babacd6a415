"""What vendors say when they refuse: never to a user, and to the log without secrets and in short."""

from __future__ import annotations

import json

import pytest
from structlog.testing import capture_logs

from scm_trio.logs import without_values
from scm_trio.providers.refusals import MAX_DETAIL_CHARS
from scm_trio.testing import open_server

from .conftest import Peer
from .spark_server import KEY, SECRET
from .vendors import RAW, VENDORS, Vendor, response

OTHER_KEY = "sk-proj-of-somebody-else"


def wordy(vendor: Vendor) -> str:
    """Far too many words, with everything in them that must not be seen."""
    secrets = [KEY, OTHER_KEY, *([SECRET] if "api_secret" in vendor.settings else [])]
    return f"{RAW} {' '.join(secrets)} " + "blah " * 2000 + "THE-END"


async def by_its_status(peer: Peer, vendor: Vendor) -> None:
    body = json.dumps(vendor.refusals[500]).replace(RAW, wordy(vendor))
    await vendor.refuse(peer, response(500, body.encode()))


async def by_a_web_page(peer: Peer, vendor: Vendor) -> None:
    await vendor.refuse(peer, response(502, f"<html>{wordy(vendor)}</html>".encode(), "text/html"))


async def in_the_answer(peer: Peer, vendor: Vendor) -> None:
    await vendor.ready(peer)
    await vendor.send(peer, vendor.begin, vendor.failing_with(wordy(vendor)))
    await peer.send(vendor.bye)


async def after_a_word(peer: Peer, vendor: Vendor) -> None:
    await vendor.ready(peer)
    await vendor.send(peer, vendor.begin, vendor.say("a"), vendor.failing_with(wordy(vendor)))
    await peer.send(vendor.bye)


@pytest.mark.parametrize("refuse", [by_its_status, by_a_web_page, in_the_answer, after_a_word])
@pytest.mark.parametrize("lang", ["zh", "en"])
@pytest.mark.parametrize("name", VENDORS)
async def test_what_a_vendor_says_of_a_failure_is_for_the_log_alone(memory_net, autojump_clock, name, lang, refuse):
    vendor = VENDORS[name]

    async def act(peer: Peer) -> None:
        await refuse(peer, vendor)

    provider = vendor.provider(memory_net.dialer(act), api_key=KEY)
    with capture_logs() as events:
        async with open_server({"vendor": provider}) as server, server.peer(query=f"&lang={lang}") as peer:
            await peer.send("CHAT_REQUEST", {"message": "hello"})
            messages = await peer.until("CHAT_STREAM_END")
    assert [each["error"]["code"] for each in messages if each["type"] == "ERROR"] == ["PROVIDER_UNAVAILABLE"]
    told = json.dumps(messages, ensure_ascii=False)
    logged = [without_values(None, "", dict(event)) for event in events]
    (detail,) = [event["detail"] for event in logged if event["event"] == "provider said"]
    assert RAW in detail
    assert "***" in detail
    assert len(detail) <= MAX_DETAIL_CHARS == 500
    for words in (RAW, "blah", "THE-END"):
        assert words not in told
        assert words not in repr([event for event in logged if event["log_level"] != "debug"])
    for secret in (KEY, SECRET, OTHER_KEY):
        assert secret not in told
        assert secret not in repr(logged)


@pytest.mark.parametrize("name", VENDORS)
async def test_a_key_in_the_address_of_a_failed_connection_is_nowhere(memory_net, autojump_clock, name):
    """Such as Spark's, whose signature is a part of its URL."""
    vendor = VENDORS[name]
    asked = []

    async def act(peer: Peer) -> None:
        asked.append(bytes(await peer.stream.receive_some()).partition(b"\r\n")[0].decode())

    with capture_logs() as events:
        async with open_server({"vendor": vendor.provider(memory_net.dialer(act))}) as server, server.peer() as peer:
            await peer.send("CHAT_REQUEST", {"message": "hello"})
            messages = await peer.until("CHAT_STREAM_END")
    target = asked[0].split(" ")[1]
    assert target.startswith("/")
    assert target not in repr(events) + json.dumps(messages)
    assert "authorization=" not in repr(events) + json.dumps(messages)
