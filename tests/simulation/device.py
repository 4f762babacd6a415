"""A client: one program of one user. It asks, loses its connection, comes back and goes on where it was."""

from __future__ import annotations

from .answers import Ask, Copy, Message
from .desk import Outcome
from .presence import Presence, Visit

ROOM_S = 2.0
"""After so long a resume that found no room is tried again."""


class Device(Presence):
    """What stories do with a client; ``live`` is its task."""

    # ---- asking

    async def ask(self, ask: Ask) -> None:
        """Ask, or send the same request again; without a connection it is sent with the next one."""
        self.desk.adopt(ask)
        if self.is_online:
            await self._request(ask)

    async def watch(self, ask: Ask) -> None:
        """Count an answer as this device's own, and go on with it where its copy ends."""
        self.desk.adopt(ask)
        await self._go_on(ask)

    async def cancel(self, ask: Ask, *, by_message: bool = False) -> str:
        """Send a CHAT_CANCEL; returns its own request id, with which an ERROR would come."""
        by_message = by_message and ask.message_id is not None
        return await self.say(
            "CHAT_CANCEL", {"messageId": ask.message_id} if by_message else {"requestId": ask.request_id}
        )

    async def resume(self, ask: Ask, from_index: int | None = None, rev: int | None = None) -> str | None:
        """Send a CHAT_RESUME, by default from where the copy ends; returns its own request id, None if it cannot be."""
        if ask.message_id is None or self.visit is None:
            return None
        copy = self.desk.copies.setdefault(ask.message_id, Copy())
        place = copy.cursor if from_index is None else from_index
        request_id = self.world.new_request_id("resume")
        self.visit.witness.said_resume(ask.message_id, place, request_id)
        self.desk.said_resume(request_id, ask)
        rev = copy.rev if rev is None else rev
        await self.say(
            "CHAT_RESUME", {"messageId": ask.message_id, "rev": rev, "fromIndex": place}, requestId=request_id
        )
        return request_id

    async def moved(self, ask: Ask, from_index: int, rev: int) -> None:
        """Resume from some place, and wait until that is answered: only then it is known where the copy ends."""
        visit = self.visit
        view = visit.witness.views.get(ask.message_id or "") if visit else None
        if visit is not None and view is not None:
            said, started = visit.witness.said, len(view.carried)
            before = len(said)
            resume = await self.resume(ask, from_index, rev)

            def is_answered() -> bool:
                """By a START of its own, or of what was said later; one that comes meanwhile may answer what was said before."""
                if visit.code is not None or resume in self.desk.errors:
                    return True
                return not set(view.carried[started:]).isdisjoint(said[before:]) and not (
                    view.is_open and view.is_fresh
                )

            await self.until(is_answered, f"a frame of {ask.message_id}")

    # ---- waiting

    async def settled(self, ask: Ask) -> Outcome:
        """Wait until the ask has ended, was refused, or is lost."""
        await self.until(lambda: ask in self.desk.outcomes, f"the end of {ask.question!r} {ask.message_id}")
        return self.desk.outcomes[ask]

    async def started(self, ask: Ask) -> None:
        """Wait until the answer has begun, or is settled."""
        desk = self.desk
        await self.until(lambda: ask in desk.outcomes or desk.copy_of(ask) is not None, f"START of {ask.question!r}")

    async def reached(self, ask: Ask, cursor: int) -> None:
        """Wait until so many deltas are there, or the ask is settled."""

        def is_there() -> bool:
            copy = self.desk.copy_of(ask)
            return ask in self.desk.outcomes or (copy is not None and copy.cursor >= cursor)

        await self.until(is_there, f"delta {cursor} of {ask.question!r}")

    async def saw(self, ask: Ask, visit: Visit | None) -> None:
        """Wait until a connection that has the session open was shown an answer to its end, or is lost."""

        def is_over() -> bool:
            if visit is None or visit.code is not None or ask.message_id is None:
                return True
            view = visit.witness.views.get(ask.message_id)
            return ask.message_id in visit.witness.pushed or (view is not None and view.starts > 0 and not view.is_open)

        await self.until(is_over, f"{ask.message_id} to be shown unasked")

    async def error_of(self, request_id: str) -> Message | None:
        """Wait for the ERROR of a request; None: the connection was lost before."""
        visit, errors = self.visit, self.desk.errors
        await self.until(lambda: request_id in errors or self.visit is not visit, f"ERROR of {request_id}")
        return errors.get(request_id)

    async def finish(self) -> None:
        """See everything settled, also what the last connection is shown beside that, and say goodbye."""
        for ask in list(self.desk.asks):
            await self.settled(ask)
        visit = self.visit
        await self.until(
            lambda: visit is None or visit.code is not None or not visit.witness.is_under_way, "the last END"
        )
        await self.say_goodbye()

    # ---- inside

    async def greeted(self) -> None:
        """Go on with everything that is not settled."""
        for ask in self.desk.open_asks:
            await self._go_on(ask)

    def heard(self) -> None:
        """Try again what found no room."""
        while self.desk.to_resume:
            self.world.later(ROOM_S, self._go_on, self.desk.to_resume.pop())

    async def _go_on(self, ask: Ask) -> None:
        if not self.is_online or ask in self.desk.outcomes:
            return
        if ask.message_id is not None:
            await self.resume(ask)
        else:
            await self._request(ask)

    async def _request(self, ask: Ask) -> None:
        if self.visit is not None:
            self.visit.witness.said_request(ask.request_id)
            ask.times_sent += 1
            await self._send(ask.request())
