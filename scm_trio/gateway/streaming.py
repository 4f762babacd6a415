"""One request's stream: a viewer follows a run until its end, or until the connection's."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import structlog
import trio
from attrs import evolve

from scm_trio.chat.answer import Answer
from scm_trio.chat.audience import message_event
from scm_trio.cluster.hub import SessionEvent
from scm_trio.errors import Internal, RequestFailed
from scm_trio.gateway.link import Link, Viewer
from scm_trio.model import AnswerInfo, Message
from scm_trio.protocol import frames

log = structlog.get_logger(__name__)


class _CutOff(Exception):
    """The viewer has been ended while it waited for its turn."""


async def stream_answer(link: Link, viewer: Viewer) -> None:
    """The streaming task. A bug in it costs this one answer, told by an ERROR; the connection lives."""
    run = viewer.run
    link.viewers[run.key] = viewer
    try:
        with run.viewer(), suppress(trio.BrokenResourceError):  # the wire has told the connection why it ends
            try:
                with viewer.scope, suppress(_CutOff):
                    await _show(link, viewer)
            except trio.BrokenResourceError:
                raise
            except Exception:
                log.exception("stream broke", connection_id=link.connection_id, message_id=run.info.message_id)
                await _apologise(link, viewer)
            if viewer.failure is not None:
                # Nothing follows, not even END: so it is told as what a client waits no further after.
                await _tell_failure(link, viewer, viewer.failure, started=False)
    finally:
        _retire(link, viewer)
        viewer.over.set()


def _retire(link: Link, viewer: Viewer) -> None:
    """From here on a CHAT_RESUME begins anew."""
    if link.viewers.get(viewer.run.key) is viewer:
        del link.viewers[viewer.run.key]


async def _show(link: Link, viewer: Viewer) -> None:
    run = viewer.run
    await run.opened.wait()
    if run.refusal is not None:
        await link.send_error(run.refusal, viewer.request_id, session_id=link.session_name(run))
        return
    if run.is_read_back and (other := link.viewer_of(run, but=viewer)) is not None:
        # A connection has one position in an answer; by which request it turned out to be this one does not matter.
        other.adopt(viewer.request_id)
        other.move(0, resumed=True)
        return
    if await _is_told(link, viewer):
        return
    while viewer.announce is not None:  # again where a CHAT_RESUME came while the END was waiting for its turn
        if run.streaming:
            await _follow(link, viewer)
        else:
            await _wait_for_whole(link, viewer)
            viewer.announce = None
        if run.failure is not None:
            await _tell_failure(link, viewer, run.failure)
        await _tell_end(link, viewer)
    _retire(link, viewer)  # nobody looks at it any more
    if run.said is not None:
        await link.outbox.receipt([run.said])
    elif not run.is_stored:
        link.remember(run.key)


async def _is_told(link: Link, viewer: Viewer) -> bool:
    """Let what is older be told first, and then what stands before the stream; True when that was all."""
    run = viewer.run
    if run.session is None:
        return False
    if viewer.asked:
        link.open_session(link.session_name(run))
    async with link.outbox.in_order(run.session.global_id):
        if viewer.asked:
            return False
        if viewer.announce == {}:  # it began before the eyes of this connection
            await _tell_stored(link, viewer, run.asked)
        if run.said is not None and link.outbox.has_told(run.said):
            return True
    if run.streaming or viewer.asked:
        return False
    await run.ended.wait()
    await _tell_stored(link, viewer, run.said)
    return not viewer.asked


async def _say(link: Link, viewer: Viewer, kind: str, data: Any) -> None:
    """Send a message about the viewer's answer, unless the viewer has been ended when its turn comes."""
    await link.wire.send(lambda: _frame(link, viewer, kind, data))


def _frame(link: Link, viewer: Viewer, kind: str, data: Any) -> bytes:
    if viewer.failure is not None:
        raise _CutOff
    return link.frame(kind, data, viewer.request_id, link.session_name(viewer.run))


async def _tell_stored(link: Link, viewer: Viewer, stored: Message | None) -> None:
    """Push a message that this connection did not cause, unless it has been told among those from before."""
    session = viewer.run.session
    if stored is None or session is None:
        return
    event = message_event(stored, session, link.user_id, viewer.run.members)
    if event.message is None or not link.outbox.has_told(event.message):
        await link.wire.send(lambda: _event_frame(link, viewer, event))
        await link.outbox.receipt([event.message])


def _event_frame(link: Link, viewer: Viewer, event: SessionEvent) -> bytes:
    if viewer.failure is not None:
        raise _CutOff
    return link.event_frame(event)


async def _apologise(link: Link, viewer: Viewer) -> None:
    """After a bug of ours: an ERROR, and the END that a started stream always gets."""
    await _tell_failure(link, viewer, Internal("stream"), started=True)
    if viewer.run.refusal is None:
        with suppress(_CutOff):
            await _tell_end(link, viewer)


async def _follow(link: Link, viewer: Viewer) -> None:
    """Send START, and deltas until the log is sealed and all of it is sent."""
    run = viewer.run
    while True:
        if viewer.must_start:
            start = frames.start(_info(link, run), rev=run.rev, **viewer.take_start())
            await _say(link, viewer, "CHAT_STREAM_START", start)
        await _tell_notices(link, viewer)
        if not viewer.must_start:
            await run.log.wait(viewer.cursor)
        if viewer.news or viewer.must_start:
            continue
        if viewer.is_done:
            return
        sent_at = trio.current_time()
        await link.wire.send(lambda: _newest(link, viewer))
        if link.coalesce_s and not run.log.sealed:
            await trio.sleep_until(sent_at + link.coalesce_s)


def _info(link: Link, run: Answer) -> AnswerInfo:
    """What START tells: the name that somebody else gave his request is no business of this user's."""
    return run.info if run.user_id == link.user_id else evolve(run.info, request_id=None)


async def _wait_for_whole(link: Link, viewer: Viewer) -> None:
    while True:
        await _tell_notices(link, viewer)
        if viewer.run.log.sealed:
            return
        await viewer.run.log.wait(viewer.run.log.next_index)


async def _tell_notices(link: Link, viewer: Viewer) -> None:
    while notice := viewer.news:
        viewer.told += 1
        info = frames.notice(viewer.run.info, notice.code, link.lang, provider=notice.provider)
        await _say(link, viewer, "INFO", info)


def _newest(link: Link, viewer: Viewer) -> bytes | None:
    """Everything that is newer than the viewer's cursor, as one frame; called when the socket is free for it."""
    run = viewer.run
    chunk = run.log.take(viewer.cursor, frames.MAX_FRAME_CHARS)
    if chunk is None or viewer.must_start or viewer.news:
        return None
    frame = _frame(link, viewer, "CHAT_STREAM_DATA", frames.data(run.info, chunk, rev=run.rev))
    viewer.cursor = chunk.next_index
    link.gate.metrics.relayed(chunk.next_index - chunk.index, trio.current_time() - chunk.appended_at)
    return frame


async def _tell_failure(link: Link, viewer: Viewer, failure: RequestFailed, *, started: bool | None = None) -> None:
    run = viewer.run
    await link.send_error(
        failure,
        viewer.request_id,
        started=bool(run.log.next_index) if started is None else started,
        message_id=run.info.message_id,
        session_id=viewer.name or link.session_name(run),
    )


async def _say_last(link: Link, viewer: Viewer, kind: str, data: Any) -> None:
    """Send what ends the stream, unless it has been moved when the turn comes: then it is not over."""
    await link.wire.send(lambda: None if viewer.announce is not None else _frame(link, viewer, kind, data))


async def _tell_end(link: Link, viewer: Viewer) -> None:
    run = viewer.run
    await run.ended.wait()
    if run.ending is None:
        raise AssertionError("a run has ended without an ending")
    if run.streaming:
        end = frames.end(run.info, run.ending, rev=run.rev, length=run.log.length, sha256=run.log.sha256)
        await _say_last(link, viewer, "CHAT_STREAM_END", end)
    else:
        response = frames.response(run.info, run.log.content, run.ending)
        await _say_last(link, viewer, "CHAT_RESPONSE", response)
