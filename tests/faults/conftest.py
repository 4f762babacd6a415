"""One server for all abuse. After each test the same process still serves, and holds no more than before."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.e2e.client import chatting
from tests.e2e.process import ServerProcess, running_server, until
from tests.e2e.upstream import FakeUpstream, fake_upstream

HANDSHAKE_LIMIT_S = 2.0
MAX_MESSAGE_BYTES = 4096
PROMPTLY_S = 10.0
SPARE_DESCRIPTORS = 4
"""Idle connections to the provider and to the database come and go."""


@pytest.fixture(scope="session")
def fault_upstream() -> Iterator[FakeUpstream]:
    with fake_upstream() as running:
        yield running


@pytest.fixture(scope="session")
def server(fault_upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    limits = {
        "session": {"handshake-timeout": round(HANDSHAKE_LIMIT_S * 1000), "max-connections-per-user": 1000},
        "message": {"rate-limit": 0, "max-size": MAX_MESSAGE_BYTES, "write-timeout": 60_000},
        "stream": {"orphan-grace": 0},
    }
    with running_server(tmp_path_factory.mktemp("faults"), fault_upstream.url, websocket=limits) as running:
        serves(running)
        yield running


@pytest.fixture(autouse=True)
def _survives(server: ServerProcess) -> Iterator[None]:
    before = server.descriptors()
    yield
    assert server.is_running(), server.log()
    serves(server)
    until(
        lambda: server.descriptors() <= before + SPARE_DESCRIPTORS,
        f"the descriptors are closed: there were {before}, there are {server.descriptors()}",
    )


def serves(server: ServerProcess) -> None:
    """A well-behaved client is answered promptly."""
    began = time.monotonic()
    with chatting(server, "polite") as client:
        text, end = client.answer("one two three", provider="echo", model="echo")
    assert text == "one two three"
    assert end["data"]["finishReason"] == "completed"
    assert time.monotonic() - began < PROMPTLY_S
