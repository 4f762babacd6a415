"""What users may ask for: providers with their models, aliases, and what a request gets that names neither."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from scm_trio.chat.choice import choose
from scm_trio.config import Ai, Alias
from scm_trio.errors import RequestFailed
from scm_trio.providers.base import Provider
from scm_trio.providers.vendor_lists import VendorList, VendorLists


@frozen
class OfferedProvider:
    """One provider. ``models`` is its allow-list, the default one first; empty: any name is passed on."""

    name: str
    models: tuple[str, ...]
    vendor: VendorList | None = None
    """What its vendor lists of that; None: it was not asked, or has no list."""


@frozen
class OnOffer:
    """The whole offer; the default provider comes first. ``default`` is None where a request has to name a model."""

    providers: tuple[OfferedProvider, ...]
    aliases: Mapping[str, Alias]
    default: Alias | None


class Offer:
    """Tells it.

    Args:
        providers: by name, the default one first.
        ai: defaults and aliases.
    """

    def __init__(self, providers: Mapping[str, Provider], ai: Ai) -> None:
        self._providers = providers
        self._aliases = {name: alias for name, alias in ai.aliases.items() if alias.provider in providers}
        self._default = _default(providers, ai)
        self._lists = VendorLists(providers)

    async def read(self, *, ask_vendors: bool) -> OnOffer:
        """Return the offer; vendors are asked only where that is wanted, and told from memory for some minutes."""
        lists = await self._lists.read() if ask_vendors else {}
        offered = (OfferedProvider(name, each.models, lists.get(name)) for name, each in self._providers.items())
        return OnOffer(tuple(offered), self._aliases, self._default)


def _default(providers: Mapping[str, Provider], ai: Ai) -> Alias | None:
    try:
        provider, model = choose(providers, ai, None, None)
    except RequestFailed:
        return None
    return Alias(provider.name, model)
