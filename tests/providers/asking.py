"""Asking a provider, and what is left of its answer."""

from __future__ import annotations

from collections.abc import Sequence

from scm_trio.errors import RequestFailed
from scm_trio.model import Delta, Prompt, ProviderEvent, Restart, Turn
from scm_trio.providers.base import Provider

PROMPT = Prompt("m", (Turn("user", "hello"),))


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
