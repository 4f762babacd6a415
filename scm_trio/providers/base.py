"""What every provider looks like to the rest of the house."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from scm_trio.model import Prompt, ProviderEvent

Batch = Sequence[ProviderEvent]
"""The events of one network read, in order. A burst of tokens costs one step instead of one per token."""


class Provider(Protocol):
    """One configured source of answers."""

    @property
    def name(self) -> str:
        """The name it has in the configuration."""

    @property
    def models(self) -> tuple[str, ...]:
        """Models on offer, the default one first; empty: any name is passed on."""

    @property
    def context_tokens(self) -> int | None:
        """How many tokens prompt and answer may have together; None: unknown, nothing is trimmed."""

    @property
    def takes_images(self) -> bool:
        """Whether it is shown the images of a prompt; else it is asked without them."""

    def stream(self, prompt: Prompt) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        """Ask, and iterate over the answer in batches of events.

        An answer that the provider ended properly has exactly one ``Finish`` as its last event; ``Usage``, where the
        provider tells it, comes before. A ``Usage`` that is ``estimated`` knows the prompt's tokens only; it may come
        at the very beginning. With ``prompt.stream`` false the vendor is asked for one whole body, which
        comes as one batch. When the context is left, for whatever reason, the upstream connection is closed or idle:
        nothing is generated any more. A provider that asks again or elsewhere tells its attempts beside the answer.

        Raises (on entering or while iterating):
            TimedOut: no connection within the connect timeout (``field`` = ``connect``).
            ProviderUnavailable, ProviderAuth, ProviderRateLimited, ProviderRejected, ContextTooLong,
            ContentFiltered, ModelUnknown: what the vendor answered, or a stream that was cut before its end.
        """

    async def aclose(self) -> None:
        """Release idle connections and child processes."""
