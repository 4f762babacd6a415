"""A connection arrives: what is its user told, and what has come while he was away?

Messages from his absence are given once over all of his connections: one of them at a time reads a batch, sends it, notes
what has left, and reads on. A second one lets what is new wait for a moment only. What was not handed to the socket when it
broke comes again; so does what the process had noted for less than a second when it died.
"""

from __future__ import annotations

from contextlib import suppress

import structlog
import trio

from scm_trio.cluster.hub import SessionEvent
from scm_trio.errors import StoreError
from scm_trio.gateway.link import Link
from scm_trio.protocol import messages, records
from scm_trio.store.access import is_global_id
from scm_trio.store.deliveries import Arrival, Undelivered

log = structlog.get_logger(__name__)

PATIENCE_S = 1.0
"""How long what is new waits on a connection while another one of its user, which may be slow, gives what is older."""


async def arrive(link: Link) -> Arrival:
    """Look up what a new connection has to be told; nothing where the store is out of order."""
    global_ids = {run.session.global_id for run in link.gate.service.visible(link.user_id) if run.session is not None}
    circles = link.gate.people.circles
    while True:
        losses, changes = link.losses, circles.changes
        try:
            arrival = await link.gate.deliveries.arrive(link.user_id, link.session_id, global_ids)
        except StoreError as exc:
            log.warning("nothing known of a user", user_id=link.user_id, error=str(exc))
            return Arrival()
        if losses == link.losses:
            break
    if arrival.companions is not None:
        circles.learn(link.user_id, arrival.companions, changes)
    if arrival.access is not None:
        link.session_id = arrival.access.name
    return arrival


def active_runs(link: Link, arrival: Arrival) -> tuple[messages.ActiveRun, ...]:
    """The answers being given that the user may see."""
    return tuple(
        messages.ActiveRun(run.info.message_id, link.session_name(run), run.rev, run.log.next_index)
        for run in link.gate.service.visible(link.user_id)
        if (run.session.global_id in arrival.seen if run.session is not None else run.user_id == link.user_id)
    )


def settle_in(link: Link, arrival: Arrival) -> None:
    """After the greeting: give what waits, and show what happens in the session that the connection names."""
    link.outbox.open(arrival.behind)
    if arrival.behind:
        link.nursery.start_soon(_catch_up, link)
    if arrival.access is not None or not is_global_id(link.session_id):  # the latter is his own, and not there yet
        link.open_session(link.session_id)


async def _catch_up(link: Link) -> None:
    deliveries, after, has_turn = link.gate.deliveries, 0, trio.Event()
    if deliveries.is_busy(link.user_id):
        link.nursery.start_soon(_lose_patience, link, has_turn)
    with suppress(trio.BrokenResourceError):  # the wire has told the connection why it ends
        try:
            async with deliveries.turn(link.user_id):
                has_turn.set()
                while waiting := await deliveries.waiting(link.user_id, after):
                    for each in waiting:
                        await _give(link, each)
                    after = waiting[-1].message.sequence
        except StoreError as exc:
            log.warning("messages from an absence not read", user_id=link.user_id, error=str(exc))
        link.outbox.caught_up()


async def _lose_patience(link: Link, has_turn: trio.Event) -> None:
    with trio.move_on_after(PATIENCE_S):
        await has_turn.wait()
        return
    link.outbox.release()


async def _give(link: Link, undelivered: Undelivered) -> None:
    """Send a message, and note that once it has left."""
    message, name = undelivered.message, undelivered.session_id
    if link.gate.deliveries.is_noted(link.user_id, message) or link.outbox.holds(message):
        return  # it came when another connection was there, or this one
    data = records.message(message, name, "delivered", offline=True)
    event = SessionEvent("CHAT_MESSAGE", data, message.session_id, name, message.user_id, message)

    def frame() -> bytes | None:
        if not link.outbox.is_due(message):
            return None
        link.outbox.tells(message)
        return link.event_frame(event)

    await link.wire.send(frame)
    if link.outbox.has_told(message):
        await link.outbox.receipt([message])
