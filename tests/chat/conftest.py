import pytest

from .building import open_stage


@pytest.fixture
async def stage():
    """Its tests take ``autojump_clock`` too: time is virtual only where a test itself asks for it."""
    async with open_stage() as stage:
        yield stage
