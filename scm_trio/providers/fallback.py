"""Asking again, and asking somebody else: a provider that stands for a row of them.

All of it happens before the first word of an answer. After it only the next in line is asked, if the terms say so, and
what was said stands until that one begins to speak.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import trio
from attrs import evolve, field, frozen

from scm_trio.errors import (
    ContentFiltered,
    ProviderAuth,
    ProviderRateLimited,
    ProviderUnavailable,
    RequestFailed,
    ServerBusy,
    TimedOut,
)
from scm_trio.model import Attempt, AttemptFailed, Delta, Finish, Prompt, Queued, Restart, ToolCall
from scm_trio.providers.base import Batch, Provider
from scm_trio.providers.breaker import Breaker, Breakers
from scm_trio.providers.keys import KeyRing
from scm_trio.providers.places import Places
from scm_trio.providers.vendor_lists import Lister

MAX_WAIT_S = 30.0
"""Who asks us to wait longer is not asked again."""
FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 8.0

Fit = Callable[[Prompt, int], Prompt | None]
"""A prompt that leaves its answer room in a context of so many tokens; None: it has none itself."""


@frozen
class Link:
    """A provider as a member of chains, which share its breakers and keys.

    Attributes:
        retries: how often it is asked again before its first word.
        first_token_s: an attempt to stream that stays silent for so long, once it has its place, has failed; None: for half
            of the answer's patience that is left, if another one can be asked then.
        idle_s: a stream that says nothing new for so long has broken off.
        keys: its keys, where it has some; a refused one is replaced by the next, which counts as no retry.
        places: one is held while it is asked, where they are counted.
    """

    provider: Provider
    retries: int = 2
    first_token_s: float | None = None
    idle_s: float = math.inf
    keys: KeyRing | None = None
    places: Places | None = None
    breakers: Breakers = field(factory=Breakers)

    def model_for(self, asked: str) -> str:
        """The model asked for if it is on offer here, else the default one."""
        models = self.provider.models
        return asked if not models or asked in models else models[0]

    def blocked(self, model: str, now: float) -> RequestFailed | None:
        """Why asking would be of no use now; None: it may be tried."""
        if wait_s := self.breakers.of(model).wait_s(now):
            return ProviderUnavailable(f"{self.provider.name}: failed too often", retry_after_s=wait_s)
        return self.keys.failure() if self.keys is not None else None

    def has_another_key(self, failure: RequestFailed) -> bool:
        """Whether the failure was about a key, and there is one that does not rest."""
        return (
            isinstance(failure, ProviderAuth | ProviderRateLimited)
            and self.keys is not None
            and len(self.keys) > 1
            and self.keys.failure() is None
        )


@frozen
class Terms:
    """What a chain goes by.

    Attributes:
        jitter: a number from 0 to 1, at random.
        fit: makes a prompt fit another provider's context than the one that it was made for.
        patience_s: a streamed answer that is given up after so long without a word is its provider's failure.
        restart: an answer that breaks off after its first word begins anew at the next provider.
    """

    jitter: Callable[[], float] = random.random
    fit: Fit = lambda prompt, _tokens: prompt
    patience_s: float = 60.0
    restart: bool = False


class Chain:
    """The first link's provider, helped out by the others in their order; see ``base.Provider``.

    Besides an answer's events its streams tell each ``Attempt`` before it begins, each ``AttemptFailed``, and in the batch
    with its first word that an answer begins anew (``Restart``).
    """

    def __init__(self, links: Sequence[Link], terms: Terms | None = None) -> None:
        self.links = tuple(links)
        self.primary = self.links[0].provider
        self._terms = terms or Terms()

    @property
    def name(self) -> str:
        return self.primary.name

    @property
    def models(self) -> tuple[str, ...]:
        return self.primary.models

    @property
    def context_tokens(self) -> int | None:
        return self.primary.context_tokens

    @property
    def takes_images(self) -> bool:
        return self.primary.takes_images

    @asynccontextmanager
    async def stream(self, prompt: Prompt) -> AsyncIterator[AsyncIterator[Batch]]:
        """Ask. All failures come while iterating: the primary's own, if nobody else could help."""
        async with AsyncExitStack() as upstream:
            answer = _Answer(self.links, self._terms, prompt, upstream)
            try:
                yield answer
            finally:
                answer.leave()

    async def list_models(self) -> tuple[str, ...] | None:
        """Ask the primary's vendor; see ``vendor_lists.Lister``."""
        return await self.primary.list_models() if isinstance(self.primary, Lister) else None

    async def aclose(self) -> None:
        """Close the primary; every other provider is some other chain's primary."""
        await self.primary.aclose()


class _Answer:
    """One answer: a state machine that is stepped by the one who reads it.

    The provider's context is held in a stack of the chain's stream, so that it is left in order, with the exception
    that ended the reading; an async generator could not promise that.
    """

    def __init__(self, links: tuple[Link, ...], terms: Terms, prompt: Prompt, upstream: AsyncExitStack) -> None:
        self._links = links
        self._terms = terms
        self._prompt = self._asking = prompt
        self._upstream = upstream
        self._began_at = self._asked_at = trio.current_time()
        self._number = -1
        self._at = 0  # the link that is or will be asked
        self._retries = self._rotations = 0  # of this link
        self._wait_s = 0.0
        self._is_queued = False
        self._breaker: Breaker | None = None  # set while an attempt is under way that has said nothing
        self._is_probe = False
        self._events: AsyncIterator[Batch] | None = None
        self._has_spoken = False
        self._has_finished = False
        self._silence = trio.CancelScope()  # its deadline is when the current attempt's next word is due
        self._stands = False  # what an attempt said that broke off, until another one speaks
        self._failure: RequestFailed | None = None  # the first link's, or that of the text which stands
        self._is_over = False

    def __aiter__(self) -> _Answer:
        return self

    async def __anext__(self) -> Batch:
        if self._has_spoken and self._events is not None:
            return await self._read_on()
        if self._is_over:
            raise self._failure or ProviderUnavailable("nobody could be asked")
        if self._breaker is None:
            return await self._begin()
        try:
            return await self._read()
        except RequestFailed as exc:
            return await self._fail(exc, self._breaker)

    def leave(self) -> None:
        """The reader goes. Who is silent when his patience is over, and was not asked just before that, has failed."""
        if self._breaker is not None:
            now, patience_s = trio.current_time(), self._terms.patience_s
            is_over = now - self._began_at >= patience_s
            if self._prompt.stream and is_over and now - self._asked_at >= patience_s / 4:
                self._breaker.fail(now, probe=self._is_probe)
            else:
                self._breaker.abandon(probe=self._is_probe)
            self._breaker = None

    async def _begin(self) -> Batch:
        """Wait as agreed, find who can be asked, and tell it."""
        if self._wait_s:
            await trio.sleep(self._wait_s)
            self._wait_s = 0.0
        while self._at < len(self._links):
            link = self._links[self._at]
            model = self._model()
            prompt = self._fitted(link)
            blocked = link.blocked(model, trio.current_time())
            if blocked is None and prompt is not None:
                if link.places is not None and link.places.are_taken and not self._is_queued:
                    self._is_queued = True
                    return (Queued(),)
                blocked = await self._find_place(link, model)
            if blocked is None and prompt is not None:
                is_blind = prompt.has_images and not link.provider.takes_images
                self._asking = evolve(prompt.without_images() if is_blind else prompt, model=model)
                self._breaker = link.breakers.of(model)
                self._is_probe = self._breaker.begin()
                self._number += 1
                self._asked_at = trio.current_time()
                return (Attempt(self._number, link.provider.name, model, is_blind),)
            self._failure = self._failure or blocked
            self._next_link()
        self._is_over = True
        failure = self._failure or ProviderUnavailable("nobody could be asked")
        # Who never asked anybody tells that too: no tokens were spent.
        return (AttemptFailed(failure.code),) if self._number < 0 else await self.__anext__()

    async def _find_place(self, link: Link, model: str) -> RequestFailed | None:
        """Hold a place of the link's; why it cannot be asked, if that is so."""
        if link.places is None:
            return None
        self._is_queued = False
        try:
            await self._upstream.enter_async_context(link.places.one())
        except ServerBusy as exc:
            return exc
        if blocked := link.blocked(model, trio.current_time()):  # by what happened to others meanwhile
            await self._upstream.aclose()
        return blocked

    async def _read(self) -> Batch:
        """Open the attempt, and read it until its first word.

        Raises:
            RequestFailed: it failed before that.
        """
        batch = await self._listen()
        if batch is None:
            raise ProviderUnavailable(f"{self._links[self._at].provider.name}: ended without a word")
        if any(isinstance(event, Delta | ToolCall | Finish) for event in batch):
            self._has_spoken = True
            self._note(batch)
            if self._breaker is not None:
                self._breaker.succeed()
            self._breaker = None
            if self._stands:
                self._stands = False
                return (Restart(), *batch)
        return batch

    async def _read_on(self) -> Batch:
        """Read what follows the first word. Where that breaks off, the next in line is asked from the beginning.

        Raises:
            RequestFailed: there is nobody else, or nobody else could do better, or is to be asked.
        """
        try:
            batch = await self._listen()
            if batch is None and not self._has_finished:
                raise ProviderUnavailable(f"{self._links[self._at].provider.name}: ended without a finish")
        except RequestFailed as exc:
            is_last = not self._terms.restart or self._at + 1 == len(self._links)
            if self._has_finished or not exc.elsewhere or is_last:
                raise
            return await self._break_off(exc)
        if batch is None:
            raise StopAsyncIteration
        self._note(batch)
        return batch

    async def _listen(self) -> Batch | None:
        """Open the attempt if it is not, and wait for what comes next; None: nothing does.

        Raises:
            RequestFailed: it failed, or (``TimedOut``) stayed silent for too long.
        """
        try:
            if self._events is None:
                self._events = await self._open(self._links[self._at])
            batch = await anext(self._events, None)
        except (trio.Cancelled, BaseExceptionGroup):
            # Only by leaving the attempt with what ended it can its scope take the cancel back.
            if not self._silence.cancel_called or not await self._upstream.__aexit__(*sys.exc_info()):
                raise
            raise self._too_silent() from None
        if self._silence.cancel_called:  # it spoke too late: all that is awaited in its scope is cancelled now
            raise self._too_silent()
        return batch

    def _too_silent(self) -> TimedOut:
        return TimedOut(field="idle" if self._has_spoken else "first_token")

    async def _open(self, link: Link) -> AsyncIterator[Batch]:
        self._asked_at = trio.current_time()
        # Around all of the attempt: what a provider opens on entering is open until it is left.
        self._silence = self._upstream.enter_context(trio.CancelScope())
        self._silence.deadline = self._asked_at + self._patience_s(link)
        return await self._upstream.enter_async_context(link.provider.stream(self._asking))

    def _patience_s(self, link: Link) -> float:
        """How long the link may stay silent."""
        if not self._prompt.stream:
            return math.inf  # a whole body comes at the end: only the answer's own total deadline can judge it
        if link.first_token_s is not None:
            return link.first_token_s
        left_s = self._began_at + self._terms.patience_s - self._asked_at
        return left_s / 2 if self._somebody_else(self._asked_at) else math.inf

    def _note(self, batch: Batch) -> None:
        """See when the next word is due; none is after the finish."""
        for event in batch:
            if isinstance(event, Finish):
                self._has_finished, self._silence.deadline = True, math.inf
            elif isinstance(event, Delta | ToolCall) and not self._has_finished:
                idle_s = self._links[self._at].idle_s
                self._silence.deadline = trio.current_time() + idle_s if idle_s < math.inf else math.inf

    async def _break_off(self, failure: RequestFailed) -> Batch:
        """Close an attempt that failed after its first word, and let the next in line begin."""
        self._has_spoken = False
        await self._close()
        self._failure, self._stands = failure, True
        self._began_at = trio.current_time()
        self._next_link()
        return (AttemptFailed(failure.code, True, None, failure.field, failure.detail),)

    async def _fail(self, failure: RequestFailed, breaker: Breaker) -> Batch:
        """Judge, close the attempt, decide what comes next, and tell it."""
        link = self._links[self._at]
        # A filter has read the question: vendors charge for that.
        was_accepted = self._events is not None or isinstance(failure, ContentFiltered)
        another_key = link.has_another_key(failure) and self._rotations + 1 < len(link.keys or ())
        # Before its place goes to the next one, who should know.
        if another_key:
            breaker.abandon(probe=self._is_probe)
        elif failure.retryable:
            breaker.fail(trio.current_time(), probe=self._is_probe)
        else:
            breaker.succeed()  # it is there, and refuses
        self._breaker = None
        await self._close()
        now = trio.current_time()
        if self._at == 0 or self._failure is None:
            self._failure = failure
        retry_in_s = 0.0 if another_key else self._retry_in_s(link, failure, now)
        if another_key:
            self._rotations += 1
        elif retry_in_s is not None:
            self._retries += 1
            self._wait_s = retry_in_s
        elif self._may_go_on(failure):
            self._next_link()
        else:
            self._failure = (self._failure if self._stands else None) or failure
            self._is_over = True
        return (AttemptFailed(failure.code, was_accepted, retry_in_s, failure.field, failure.detail),)

    async def _close(self) -> None:
        self._events = None
        await self._upstream.aclose()
        # A reader who has left while that took its time is not told of another attempt.
        await trio.lowlevel.checkpoint()

    def _retry_in_s(self, link: Link, failure: RequestFailed, now: float) -> float | None:
        """Seconds until the same provider is asked again; None: it is not."""
        if not (failure.retryable and failure.again_here) or self._retries >= link.retries:
            return None
        if isinstance(failure, TimedOut) and failure.field == "first_token":
            return None  # who has waited so long for a word has waited long enough
        # With several keys it is the first of them to wake that counts.
        resting = link.keys.failure() if link.keys is not None else None
        told_s = (resting or failure).retry_after_s or 0.0
        limit_s = MAX_BACKOFF_S if self._somebody_else(now) else MAX_WAIT_S
        if told_s > limit_s or link.breakers.of(self._model()).wait_s(now):
            return None
        wait_s = told_s + self._terms.jitter() * min(FIRST_BACKOFF_S * (1 << self._retries), MAX_BACKOFF_S)
        # Else the answer's deadline would pass in the wait, and hide why.
        is_in_time = not self._prompt.stream or now + wait_s < self._began_at + self._terms.patience_s
        return wait_s if is_in_time else None

    def _somebody_else(self, now: float) -> bool:
        """Whether there is another link that can be asked at once."""
        return any(
            link.blocked(link.model_for(self._prompt.model), now) is None and self._fitted(link) is not None
            for link in self._links[self._at + 1 :]
        )

    def _may_go_on(self, failure: RequestFailed) -> bool:
        """Whether somebody else could do better: the failure is about the provider, not about the question."""
        if self._at:
            return not isinstance(failure, ContentFiltered)
        return failure.elsewhere or isinstance(failure, ProviderAuth)

    def _next_link(self) -> None:
        self._at += 1
        self._retries = self._rotations = 0

    def _model(self) -> str:
        return self._links[self._at].model_for(self._prompt.model) if self._at else self._prompt.model

    def _fitted(self, link: Link) -> Prompt | None:
        """The primary's context is what the prompt was trimmed for."""
        tokens = link.provider.context_tokens
        if link is self._links[0] or tokens is None:
            return self._prompt
        return self._terms.fit(self._prompt, tokens)
