"""One server and one fake provider for all tests that need no server of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.process import ServerProcess, running_server
from tests.e2e.upstream import FakeUpstream, fake_upstream

NODE = Path(__file__).parent / "node"
NPM_LIMIT_S = 120.0


@pytest.fixture(scope="session")
def node_packages() -> None:
    """What scripts/test installs; here for those who call pytest themselves."""
    if not (NODE / "node_modules").exists():
        subprocess.run(
            ["npm", "ci", "--ignore-scripts"], cwd=NODE, check=True, capture_output=True, timeout=NPM_LIMIT_S
        )


@pytest.fixture(scope="session")
def upstream() -> Iterator[FakeUpstream]:
    with fake_upstream() as server:
        yield server


@pytest.fixture(scope="session")
def server(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """As most would configure it, but without a rate limit and without titles."""
    with running_server(tmp_path_factory.mktemp("server"), upstream.url) as running:
        yield running
