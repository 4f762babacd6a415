"""Asking a provider, and what is left of its answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Self

from scm_trio.errors import RequestFailed
from scm_trio.model import Delta, Prompt, ProviderEvent, Restart, Turn
from scm_trio.providers.base import Batch, Provider

PROMPT = Prompt("m", (Turn("user", "hello"),))


class Reading:
    """A provider's stream of which every read is another call of ``read``."""

    def __init__(self, read: Callable[[], Awaitable[Batch]]) -> None:
        self._read = read

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        return await self._read()


async def ask(provider: Provider, prompt: Prompt = PROMPT) -> tuple[list[ProviderEvent], RequestFailed | None]:
    """All events and how it ended."""
    events: list[ProviderEvent] = []
    failure = None
    try:
        async with provider.stream(prompt) as batches:
            async for batch in batches:
                events += batch
    except RequestFailed as exc:
        failure = exc
    return events, failure


def text(events: Sequence[ProviderEvent]) -> str:
    """What a reader holds in the end."""
    said = ""
    for event in events:
        if isinstance(event, Restart):
            said = ""
        elif isinstance(event, Delta):
            said += event.text
    return said
