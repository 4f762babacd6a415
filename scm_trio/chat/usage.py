"""What answers cost, by the price table of the configuration."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from scm_trio.config import Price
from scm_trio.model import Usage

_PER = 1_000_000


@frozen
class Cost:
    """One provider's prices, by model."""

    prices: Mapping[str, Price]

    def of(self, model: str, usage: Usage) -> float | None:
        """In the table's currency; None where the model has no price."""
        price = self.prices.get(model)
        if price is None:
            return None
        return (usage.prompt_tokens * price.prompt + usage.completion_tokens * price.completion) / _PER
