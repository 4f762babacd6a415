"""The ways in which an answer is stopped, each once through and judged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from uuid import uuid4

import attrs
import trio
from attrs import frozen

from scm_trio.client.wire import Wire
from scm_trio.console.witness import BrokenPromise, Witness
from scm_trio.protocol import messages

CROSSING_S = 0.25
"""An answer that was cancelled may still end by itself when its END comes this soon: the two crossed."""
VANISHED_S = 0.5
"""How long the server has to notice a connection that is gone, before the same question is asked again."""
STALL_S = 1.0
"""How long the client that stops reading does so."""
SHORT_ANSWER_TOKENS = 16


@frozen
class Lab:
    """What every case needs.

    Attributes:
        open_wire: opens another connection of the same user.
        request: the question; its answer should be a long one.
        limit_s: seconds within which everything has to come.
        quiet_s: seconds for which nothing may follow an END.
        whole_s: how long an answer takes that nobody stops.
        short_index: the position at which a short answer ends.
    """

    open_wire: Callable[[], AbstractAsyncContextManager[Wire]]
    request: messages.ChatRequest
    limit_s: float
    quiet_s: float
    whole_s: float = 0.0
    short_index: int = 0

    @property
    def short_request(self) -> messages.ChatRequest:
        return attrs.evolve(self.request, max_tokens=messages.Count(SHORT_ANSWER_TOKENS))

    async def ask(self, wire: Wire, request: messages.ChatRequest | None = None, again: str | None = None) -> Witness:
        """Ask; ``again`` is the request id of a question that was asked before.

        Every question has a conversation of its own, so that no round has a longer history than the one before.
        """
        witness = Witness(wire, again or uuid4().hex)
        conversation_id = messages.Id(uuid4().hex)
        await witness.ask(attrs.evolve(request or self.request, conversation_id=conversation_id))
        return witness

    async def finish(self, witness: Witness, *, limit_s: float | None = None) -> messages.ChatStreamEnd:
        await witness.until(lambda seen: seen.end is not None, "END", limit_s or self.limit_s)
        await witness.settle(self.quiet_s, self.limit_s)
        return witness.ending()

    async def first_text(self, witness: Witness) -> None:
        await witness.until(lambda seen: seen.frames > 0 or seen.end is not None, "text", 10 * self.limit_s)


@frozen
class Outcome:
    """A round in which every promise was kept.

    ``own_end``: the answer ended by itself before it could be stopped, so that the round proves little.
    """

    cancel_ms: int | None = None
    end_after_s: float | None = None
    own_end: bool = False


Case = Callable[[Lab, int], Awaitable[Outcome]]
"""Runs one round, whose number it is given.

Raises:
    BrokenPromise: the server broke one.
    ClientError: the connection failed.
"""


def judge(witness: Witness, *, may_end_itself: bool = False) -> Outcome:
    """What the END of an answer that was cancelled has to be."""
    end, after_s = witness.ending(), witness.ended_at - witness.cancelled_at
    if end.finish_reason == "cancelled":
        if not end.upstream_closed:
            raise BrokenPromise("the upstream connection was not closed")
        if end.cancel_ms is None:
            raise BrokenPromise("cancelMs is missing")
        return Outcome(end.cancel_ms, max(after_s, 0.0))
    if witness.error is not None:
        raise BrokenPromise(f"the answer failed: {witness.error.detail.code}")
    if after_s <= CROSSING_S or may_end_itself:
        return Outcome(own_end=True)
    raise BrokenPromise(f"it went on for {after_s:.2f} s after the cancel and ended with {end.finish_reason}")


async def undisturbed(lab: Lab, _: int) -> Outcome:
    """Nobody stops it: the measure for all others."""
    async with lab.open_wire() as wire:
        witness = await lab.ask(wire)
        end = await lab.finish(witness, limit_s=60 * lab.limit_s)
        if witness.error is not None:
            raise BrokenPromise(f"the answer failed: {witness.error.detail.code}")
        if end.finish_reason in ("cancelled", "timeout"):
            raise BrokenPromise(f"nobody stopped it, but it ended with {end.finish_reason}")
        return Outcome(own_end=True)


async def before_the_first_token(lab: Lab, _: int) -> Outcome:
    async with lab.open_wire() as wire:
        witness = await lab.ask(wire)
        await witness.cancel()
        await lab.finish(witness)
        return judge(witness)


async def in_the_middle(lab: Lab, _: int) -> Outcome:
    async with lab.open_wire() as wire:
        witness = await lab.ask(wire)
        await lab.first_text(witness)
        await witness.cancel()
        await lab.finish(witness)
        return judge(witness)


async def at_the_end(lab: Lab, number: int) -> Outcome:
    """The cancel meets the END on its way; which of them is first differs from round to round."""
    position = lab.short_index - number % 3
    async with lab.open_wire() as wire:
        witness = await lab.ask(wire, lab.short_request)
        await witness.until(
            lambda seen: seen.transcript.next_index >= position or seen.end is not None, "text", 10 * lab.limit_s
        )
        await witness.cancel()
        await lab.finish(witness)
        return judge(witness, may_end_itself=True)


async def twice(lab: Lab, _: int) -> Outcome:
    async with lab.open_wire() as wire:
        witness = await lab.ask(wire)
        await lab.first_text(witness)
        await witness.cancel()
        await witness.cancel()
        await lab.finish(witness)
        return judge(witness)


async def from_another_connection(lab: Lab, number: int) -> Outcome:
    """By message id and by request id in turn."""
    async with lab.open_wire() as wire, lab.open_wire() as other:
        witness = await lab.ask(wire)
        await lab.first_text(witness)
        await witness.cancel(through=other, message_id=witness.transcript.message_id if number % 2 else None)
        await lab.finish(witness)
        return judge(witness)


async def client_vanishes(lab: Lab, _: int) -> Outcome:
    """The connection ends without a goodbye; who asks the same again is told how the answer ended."""
    request = attrs.evolve(lab.request, on_orphan="cancel")
    async with lab.open_wire() as wire:
        gone = await lab.ask(wire, request)
        await lab.first_text(gone)
        await wire.abort()
    rest_s = lab.whole_s - VANISHED_S
    await trio.sleep(VANISHED_S)
    async with lab.open_wire() as wire:
        witness = await lab.ask(wire, request, again=gone.request_id)
        end = await lab.finish(witness, limit_s=60 * lab.limit_s)
    if end.finish_reason == "cancelled":
        return Outcome(end.cancel_ms)
    if rest_s > CROSSING_S:
        raise BrokenPromise(f"the model went on for a client that was gone, and ended with {end.finish_reason}")
    return Outcome(own_end=True)


async def client_stops_reading(lab: Lab, _: int) -> Outcome:
    """It is stopped from another connection meanwhile; then everything is still there, in order."""
    async with lab.open_wire() as wire, lab.open_wire() as other:
        witness = await lab.ask(wire)
        await lab.first_text(witness)
        await trio.sleep(STALL_S / 2)
        await witness.cancel(through=other)
        await trio.sleep(STALL_S / 2)
        await lab.finish(witness)
        # When it ended cannot be seen from here.
        return attrs.evolve(judge(witness, may_end_itself=lab.whole_s < STALL_S), end_after_s=None)


async def timeout(lab: Lab, _: int) -> Outcome:
    """The question itself limits the answer's time."""
    limit_ms = max(20, round(lab.whole_s * 1000 / 3))
    async with lab.open_wire() as wire:
        witness = await lab.ask(wire, attrs.evolve(lab.request, timeout_ms=messages.Count(limit_ms)))
        end = await lab.finish(witness, limit_s=limit_ms / 1000 + lab.limit_s)
    if end.finish_reason == "timeout":
        if witness.error is None or witness.error.detail.code != "TIMEOUT":
            raise BrokenPromise("END says timeout, but no ERROR TIMEOUT came before it")
        return Outcome()
    if witness.took_s > limit_ms / 1000 + CROSSING_S:
        took_ms = round(witness.took_s * 1000)
        raise BrokenPromise(f"timeoutMs was {limit_ms}, it ran for {took_ms} ms and ended with {end.finish_reason}")
    return Outcome(own_end=True)


CASES: dict[str, Case] = {
    "before the first token": before_the_first_token,
    "in the middle": in_the_middle,
    "at the end": at_the_end,
    "twice": twice,
    "from another connection": from_another_connection,
    "client vanishes": client_vanishes,
    "client stops reading": client_stops_reading,
    "timeout": timeout,
}


async def calibrated(lab: Lab) -> Lab:
    """Measure two answers that nobody stops: a whole one and a short one.

    Raises:
        BrokenPromise: even those are not as they should be.
    """
    began = trio.current_time()
    await undisturbed(lab, 0)
    whole_s = trio.current_time() - began - lab.quiet_s
    async with lab.open_wire() as wire:
        witness = await lab.ask(wire, lab.short_request)
        await lab.finish(witness, limit_s=60 * lab.limit_s)
    return attrs.evolve(lab, whole_s=whole_s, short_index=witness.transcript.next_index)
