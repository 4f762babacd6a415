"""One server and one fake provider for all tests that need no server of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.process import ServerProcess, running_server
from tests.e2e.upstream import FakeUpstream, fake_upstream


@pytest.fixture(scope="session")
def upstream() -> Iterator[FakeUpstream]:
    with fake_upstream() as server:
        yield server


@pytest.fixture(scope="session")
def server(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """As most would configure it, but without a rate limit."""
    with running_server(tmp_path_factory.mktemp("server"), upstream.url) as running:
        yield running
