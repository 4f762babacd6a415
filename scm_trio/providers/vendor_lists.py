"""What the vendors list, asked rarely and never waited for long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import structlog
import trio
from attrs import define, evolve, field, frozen

from scm_trio.errors import RequestFailed, TimedOut
from scm_trio.providers.base import Provider

log = structlog.get_logger(__name__)

TIME_LIMIT_S = 5.0
"""What a vendor may take, and what anybody waits for all of them."""
FRESH_S = 300.0
"""How long a list is told again before the vendor is asked anew."""
FAILED_S = 30.0
"""The same for a vendor that did not answer."""


@runtime_checkable
class Lister(Protocol):
    """A provider whose vendor may have a list of models."""

    async def list_models(self) -> tuple[str, ...] | None:
        """Ask for it; None: there is none.

        Raises:
            RequestFailed: the vendor did not answer.
        """


@frozen
class VendorList:
    """The models on offer at a vendor. With an ``error``, the code of why it did not answer, they are those it told before."""

    models: tuple[str, ...] = ()
    error: str | None = None


@define
class _Shelf:
    """One vendor's list; whoever finds it old asks, and the others wait for that."""

    lock: trio.Lock = field(factory=trio.Lock, init=False)
    told: VendorList | None = field(default=None, init=False)
    good_until: float = field(default=float("-inf"), init=False)

    @property
    def is_fresh(self) -> bool:
        return trio.current_time() < self.good_until

    def keep(self, told: VendorList | None, for_s: float) -> None:
        self.told, self.good_until = told, trio.current_time() + for_s


class VendorLists:
    """The lists of all providers' vendors, each kept for some minutes.

    Args:
        providers: by name; what they have as ``models`` is all that is told of their vendor's list, if it is anything.
    """

    def __init__(self, providers: Mapping[str, Provider]) -> None:
        self._listers = {name: each for name, each in providers.items() if isinstance(each, Lister)}
        self._allowed = {name: frozenset(providers[name].models) for name in self._listers}
        self._shelves = {name: _Shelf() for name in self._listers}

    async def read(self) -> Mapping[str, VendorList]:
        """Return the lists by provider, those that are old after asking for them all at once.

        A provider whose vendor has no list is left out.
        """
        async with trio.open_nursery() as nursery:
            for name, shelf in self._shelves.items():
                if not shelf.is_fresh:
                    nursery.start_soon(self._refresh, name, shelf)
        return {name: shelf.told for name, shelf in self._shelves.items() if shelf.told is not None}

    async def _refresh(self, name: str, shelf: _Shelf) -> None:
        # The wait for somebody else's question counts as well.
        with trio.move_on_after(TIME_LIMIT_S) as limit:
            async with shelf.lock:
                if not shelf.is_fresh:
                    await self._ask(name, shelf)
        if limit.cancelled_caught and not shelf.is_fresh:
            self._keep_failure(name, shelf, TimedOut.code)

    async def _ask(self, name: str, shelf: _Shelf) -> None:
        try:
            models = await self._listers[name].list_models()
        except RequestFailed as exc:
            self._keep_failure(name, shelf, exc.code)
            return
        allowed = self._allowed[name]
        told = None if models is None else VendorList(tuple(each for each in models if not allowed or each in allowed))
        shelf.keep(told, FRESH_S)

    def _keep_failure(self, name: str, shelf: _Shelf, code: str) -> None:
        log.info("vendor list not read", provider=name, error=code)
        shelf.keep(evolve(shelf.told or VendorList(), error=code), FAILED_S)
