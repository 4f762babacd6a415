"""One request's stream: a viewer follows a run until its end, or until the connection's."""

from __future__ import annotations

from contextlib import suppress

import structlog
import trio

from scm_trio.errors import Internal
from scm_trio.gateway.link import Link, Viewer
from scm_trio.model import Message
from scm_trio.protocol import frames, records

log = structlog.get_logger(__name__)


async def stream_answer(link: Link, viewer: Viewer) -> None:
    """The streaming task. A bug in it costs this one answer, told by an ERROR; the connection lives."""
    run = viewer.run
    link.viewers[run.key] = viewer
    try:
        with run.viewer(), suppress(trio.BrokenResourceError):  # the wire has told the connection why it ends
            try:
                await _show(link, viewer)
            except trio.BrokenResourceError:
                raise
            except Exception:
                log.exception("stream broke", connection_id=link.connection_id, message_id=run.info.message_id)
                await _apologise(link, viewer)
    finally:
        link.viewers.pop(run.key, None)
        viewer.over.set()


async def _show(link: Link, viewer: Viewer) -> None:
    run = viewer.run
    await run.opened.wait()
    if run.refusal is not None:
        await link.send_error(run.refusal, viewer.request_id, session_id=link.session_name(run))
        return
    if not viewer.asked and viewer.announce == {}:  # it began before the eyes of this connection
        await _tell_stored(link, viewer, run.asked)
    if not viewer.asked and not run.streaming:
        await run.ended.wait()
        await _tell_stored(link, viewer, run.said)
        if not viewer.asked:
            return
    while viewer.announce is not None:  # again where a CHAT_RESUME came while the END was waiting for its turn
        if run.streaming:
            await _follow(link, viewer)
        else:
            await _wait_for_whole(link, viewer)
            viewer.announce = None
        await _tell_failure(link, viewer)
        await _tell_end(link, viewer)


async def _tell_stored(link: Link, viewer: Viewer, stored: Message | None) -> None:
    """Push a message that this connection did not cause."""
    session = viewer.run.session
    if stored is not None and session is not None:
        name = link.name_of(session)
        await link.send("CHAT_MESSAGE", records.message(stored, name), session_id=name)


async def _apologise(link: Link, viewer: Viewer) -> None:
    """After a bug of ours: an ERROR, and the END that a started stream always gets."""
    run = viewer.run
    await link.send_error(Internal("stream"), viewer.request_id, started=True, message_id=run.info.message_id)
    if run.refusal is None:
        await _tell_end(link, viewer)


async def _follow(link: Link, viewer: Viewer) -> None:
    """Send START, and deltas until the log is sealed and all of it is sent."""
    run = viewer.run
    while True:
        if viewer.must_start:
            start = frames.start(run.info, rev=run.rev, **viewer.take_start())
            await link.send("CHAT_STREAM_START", start, viewer.request_id, link.session_name(run))
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


async def _wait_for_whole(link: Link, viewer: Viewer) -> None:
    while True:
        await _tell_notices(link, viewer)
        if viewer.run.log.sealed:
            return
        await viewer.run.log.wait(viewer.run.log.next_index)


async def _tell_notices(link: Link, viewer: Viewer) -> None:
    run = viewer.run
    while notice := viewer.news:
        viewer.told += 1
        info = frames.notice(run.info, notice.code, link.lang, provider=notice.provider)
        await link.send("INFO", info, viewer.request_id, link.session_name(run))


def _newest(link: Link, viewer: Viewer) -> bytes | None:
    """Everything that is newer than the viewer's cursor, as one frame; called when the socket is free for it."""
    run = viewer.run
    chunk = run.log.take(viewer.cursor, frames.MAX_FRAME_CHARS)
    if chunk is None or viewer.must_start or viewer.news:
        return None
    viewer.cursor = chunk.next_index
    link.gate.metrics.relayed(chunk.next_index - chunk.index, trio.current_time() - chunk.appended_at)
    data = frames.data(run.info, chunk, rev=run.rev)
    return link.frame("CHAT_STREAM_DATA", data, viewer.request_id, link.session_name(run))


async def _tell_failure(link: Link, viewer: Viewer) -> None:
    run = viewer.run
    if run.failure is not None:
        await link.send_error(
            run.failure,
            viewer.request_id,
            started=bool(run.log.next_index),
            message_id=run.info.message_id,
            session_id=link.session_name(run),
        )


async def _tell_end(link: Link, viewer: Viewer) -> None:
    run = viewer.run
    await run.ended.wait()
    if run.ending is None:
        raise AssertionError("a run has ended without an ending")
    if run.streaming:
        end = frames.end(run.info, run.ending, rev=run.rev, length=run.log.length, sha256=run.log.sha256)
        await link.send("CHAT_STREAM_END", end, viewer.request_id, link.session_name(run))
    else:
        response = frames.response(run.info, run.log.content, run.ending)
        await link.send("CHAT_RESPONSE", response, viewer.request_id, link.session_name(run))
