"""One open connection, as its tasks see it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Any

import trio

from scm_trio.chat.answer import Answer, Notice
from scm_trio.chat.registry import session_key
from scm_trio.cluster.hub import SessionEvent, StateNews
from scm_trio.errors import CloseCode, Disconnect, NotFound, RequestFailed
from scm_trio.gateway.gate import Gate, Visit
from scm_trio.gateway.news import News
from scm_trio.gateway.outbox import Outbox
from scm_trio.gateway.wire import Wire, text_frame
from scm_trio.model import Message, Session
from scm_trio.protocol import frames
from scm_trio.protocol.codec import encode, timestamp

MAX_OPEN_SESSIONS = 64
"""Sessions that one connection can watch; when there are more, the one opened first is left."""
SHOW_DELAY_S = 0.25
"""How long an answer that runs already waits for a CHAT_RESUME before it is shown unasked."""
MAX_UNASKED = 64
"""Answers shown unasked on one connection at a time; others can still be asked for by CHAT_RESUME."""


class Viewer:
    """One connection's place in one run.

    Attributes:
        request_id: the client's name for its request, where it has one.
        asked: whether this connection asked for it; otherwise it is shown because the session is open here.
        cursor: index of the next delta to send, in the answer's beginning that ``rev`` counts.
        told: how many of the run's notices it was told; those from before it came do not concern it.
        failure: why nothing more may be sent, once that is so, and
        name: what the user called the session then.
        scope: around everything that waits to send more.
        announce: how the next START is to be marked, when one is due: ``resumed``, ``reset`` or neither.
        over: set when nothing more will be sent, be it because of the END.
    """

    def __init__(
        self, run: Answer, request_id: str | None, cursor: int = 0, *, asked: bool = True, **announce: bool
    ) -> None:
        self.run = run
        self.request_id = request_id
        self.asked = asked
        self.cursor, self.rev = cursor, run.rev
        self.told = len(run.notices)
        self.announce: dict[str, bool] | None = announce
        self.failure: RequestFailed | None = None
        self.name: str | None = None
        self.scope = trio.CancelScope()
        self.over = trio.Event()

    @property
    def news(self) -> Notice | None:
        """The next notice to tell."""
        return self.run.notices[self.told] if self.told < len(self.run.notices) else None

    @property
    def must_start(self) -> bool:
        """A START is due before anything else is sent: told by ``announce``, or because the answer began anew."""
        return self.announce is not None or self.rev != self.run.rev

    def take_start(self) -> dict[str, bool]:
        """How the START that is due is to be marked; the cursor is right for it then."""
        announce, self.announce = self.announce, None
        if self.rev != self.run.rev:
            self.rev, self.cursor = self.run.rev, 0
            # Who has been told nothing yet has nothing to forget.
            return {} if announce == {} else {"reset": True}
        return announce or {}

    @property
    def is_done(self) -> bool:
        """Everything has been sent, and nothing will be added."""
        log = self.run.log
        return not self.must_start and log.sealed and self.cursor >= log.next_index

    def would_skip(self, cursor: int) -> bool:
        """Whether to go on there would leave something out, for a client that began anew with the START it was sent here.

        It may have asked before that START came, because of what it had been sent on another connection, or for an earlier
        request.
        """
        return not self.must_start and cursor > self.cursor

    def adopt(self, request_id: str | None) -> None:
        """Be asked for after all."""
        self.request_id, self.asked = request_id, True

    def move(self, cursor: int, **announce: bool) -> None:
        """Go on from another place, told by a new START."""
        self.cursor, self.rev, self.announce = cursor, self.run.rev, announce
        self.run.log.nudge()

    def end(self, failure: RequestFailed, name: str) -> None:
        """Send nothing more of it; the failure alone is told."""
        self.failure, self.name = failure, name
        self.scope.cancel()


Stream = Callable[["Link", Viewer], Awaitable[None]]


class Link:
    """See the module.

    Attributes:
        principal: whose connection it is; a refreshed token replaces it.
        refreshed: set when that happens.
        reason: why the connection is to end, once it is.
        nursery: holds the tasks of this connection; everything in it dies with the connection.
        viewers: the runs that are being sent, by their answers' ids.
        stream: the task that sends one of them.
        outbox: what else it is told of its sessions, in order.
        news: how things are that it is told of, the newest only.
        losses: how often its user lost a session; who looks up what he may see looks again when that has changed.
    """

    def __init__(self, gate: Gate, visit: Visit, wire: Wire, nursery: trio.Nursery, stream: Stream) -> None:
        self.gate = gate
        self.connection_id = f"conn-{gate.clock.new_id()}"
        self.principal = visit.principal
        self.session_id = visit.session_id
        self.lang = visit.lang
        self.coalesce_s = visit.coalesce_s
        self.nursery = nursery
        self.refreshed = trio.Event()
        self.reason: Disconnect | None = None
        self.viewers: dict[str, Viewer] = {}
        self.wire = wire
        self.stream = stream
        self.losses = 0
        self.outbox = Outbox(nursery, wire.send, self.event_frame, self._given, self._fall_behind)
        self.news = News(nursery, wire.send, self._state_frame, self._fall_behind)
        self._open: dict[Hashable, None] = {}
        self._ended: set[str] = set()
        self._has_left = False

    @property
    def user_id(self) -> str:
        return self.principal.user_id

    # ---- answers and sessions

    @property
    def asked(self) -> int:
        """How many answers that it asked for are being sent."""
        return sum(viewer.asked for viewer in self.viewers.values())

    def view(self, viewer: Viewer) -> None:
        """Start to send an answer; the next message already finds its viewer."""
        self.viewers[viewer.run.key] = viewer
        self.nursery.start_soon(self.stream, self, viewer)

    def attach(self, answer: Answer, request_id: str | None, cursor: int = 0, **announce: bool) -> None:
        """Send an answer that is asked for, from there on; where that is being done, it goes on there for this request."""
        viewer = self.viewer_of(answer)
        if viewer is None:
            self.view(Viewer(answer, request_id, cursor, **announce))
        else:
            viewer.adopt(request_id)
            viewer.move(cursor, **(announce or {"resumed": True}))

    def viewer_of(self, answer: Answer, *, but: Viewer | None = None) -> Viewer | None:
        """Who sends that answer; one that was read back may be there as another object, of a known request for instance."""
        others = (each for each in self.viewers.values() if each is not but)
        return next((each for each in others if each.run.info.message_id == answer.info.message_id), None)

    def shows(self, key: str) -> bool:
        """Whether that answer is being sent."""
        return key in self.viewers

    def has_seen(self, key: str, message: Message) -> bool:
        """Whether that answer, which has just been stored, is being sent, or was to its end."""
        self.outbox.came(message)
        if key in self._ended:
            self._ended.discard(key)
            self._given(message)
            return True
        return self.shows(key)

    def remember(self, key: str) -> None:
        """That answer was sent to its end, and is not stored yet."""
        self._ended.add(key)

    def show(self, answer: Answer, **announce: bool) -> bool:
        """Send an answer that it did not ask for, unless that is being done; ``announce`` marks its START.

        Returns:
            Whether it is being sent: there may be too many.
        """
        if answer.key not in self.viewers:
            if len(self.viewers) - self.asked >= MAX_UNASKED:
                return False
            self.view(Viewer(answer, None, asked=False, **announce))
            if answer.asked is not None and not announce:  # its question is told before it
                self.outbox.came(answer.asked)
        return True

    def open_session(self, name: str) -> None:
        """Watch a session from now on: the answers that are being given there, and all to come.

        Whoever calls knows that the user may see what has that name for him: it is his own, whether it is there yet or
        not, or the global id of one that he is a member of.
        """
        key = session_key(self.user_id, name)
        # A task that was woken already when the connection broke goes on for a step: nobody would take that out again.
        if self._has_left or key in self._open:
            return
        self._open[key] = None
        self.gate.hub.open(self, key)
        if len(self._open) > MAX_OPEN_SESSIONS:
            self.close_session(next(iter(self._open)))
        if self.gate.service.live_in(key):
            self.nursery.start_soon(self._show_running, key)

    async def _show_running(self, key: Hashable) -> None:
        # A client that was here before asks at once for the rest of what it has: it should not get all of it first.
        await trio.sleep(SHOW_DELAY_S)
        if key in self._open:
            for run in self.gate.service.live_in(key):
                self.show(run, resumed=True)

    def close_session(self, key: Hashable) -> None:
        self._open.pop(key, None)
        self.gate.hub.close(self, key)

    def gain(self, global_id: str) -> None:
        """The user has become a member of a session; it is opened if that is the one that this connection named."""
        if global_id == self.session_id:
            self.open_session(global_id)

    def lose(self, global_id: str) -> None:
        """The session is the user's no more: what has happened there and was not sent is not sent any more."""
        self.losses += 1
        self.outbox.drop(global_id)
        self.news.drop(global_id)
        self.close_session(global_id)

    def cut_off(self, global_id: str) -> None:
        """End the answers of a session that are being sent, with a word, here alone."""
        for viewer in self.viewers.values():
            session = viewer.run.session
            if session is not None and session.global_id == global_id:
                viewer.end(NotFound("no member any more"), self.name_of(session))

    def leave(self) -> None:
        """Be found by nobody any more, and tell nothing to who has found it before."""
        self._has_left = True
        self.outbox.close()
        self.news.close()
        for key in tuple(self._open):
            self.close_session(key)
        self.gate.hub.leave(self)

    def name_of(self, session: Session) -> str:
        """What this user calls a session: its owner has a name of his own for it."""
        return session.name_for(self.user_id)

    def session_name(self, answer: Answer) -> str:
        """What this user calls the session that the answer is given in."""
        return answer.session_id if answer.session is None else self.name_of(answer.session)

    async def told(self) -> None:
        """Wait until no answer is being sent any more."""
        while self.viewers:
            await next(iter(self.viewers.values())).over.wait()

    def disconnect(self, reason: Disconnect | None) -> None:
        """End the connection; the first reason counts, None is the peer's own leaving, after which none counts."""
        if self.reason is None and not self._has_left:
            self.reason = reason
        self.nursery.cancel_scope.cancel()

    def tell(self, event: SessionEvent) -> None:
        """Send it when its turn comes. Does not wait."""
        self.outbox.put(event)

    def event_frame(self, event: SessionEvent) -> bytes:
        return self.frame(event.kind, event.data, event.request_id, event.name, event.user_id)

    def tell_state(self, news: StateNews) -> None:
        """Send it when the socket is free, in the place of what still waits about the same. Does not wait."""
        self.news.put(news)

    def _state_frame(self, news: StateNews) -> bytes:
        self.gate.metrics.message_out(news.kind)
        at = timestamp(self.gate.clock.now())
        return text_frame(encode(news.kind, news.data, at=at, session_id=news.name, user_id=news.user_id))

    def _given(self, message: Message) -> None:
        self.gate.deliveries.note(self.user_id, message)

    def _fall_behind(self) -> None:
        self.disconnect(Disconnect(CloseCode.SLOW, "SLOW"))

    def frame(
        self,
        kind: str,
        data: Any,
        request_id: str | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
    ) -> bytes:
        """One message as a WebSocket frame; counted as sent. It is about this connection's user and session, unless told."""
        self.gate.metrics.message_out(kind)
        return text_frame(
            encode(
                kind,
                data,
                at=timestamp(self.gate.clock.now()),
                session_id=session_id or self.session_id,
                user_id=user_id or self.principal.user_id,
                request_id=request_id,
            )
        )

    async def send(self, kind: str, data: Any, request_id: str | None = None, session_id: str | None = None) -> None:
        """Send one message when it is its turn.

        Raises:
            trio.BrokenResourceError: the connection is over.
        """
        await self.wire.send(lambda: self.frame(kind, data, request_id, session_id))

    async def send_error(self, failure: RequestFailed, request_id: str | None = None, **more: Any) -> None:
        """Tell a failure; ``more`` as in ``frames.error``, and ``session_id``."""
        session_id = more.pop("session_id", None)
        self.gate.metrics.error(failure.code)
        await self.send("ERROR", frames.error(failure, self.lang, **more), request_id, session_id)
