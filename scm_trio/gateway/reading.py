"""What a peer says is read here, and handed on to be done: cancels at once, all else in its order.

The reader never waits for the store, nor for a peer that takes no answer: behind any message there may be a cancel.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from functools import partial

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from scm_trio.chat.limits import Verdict
from scm_trio.errors import CloseCode, Disconnect, RateLimited, RequestFailed, StoreError
from scm_trio.gateway.dispatch import UNCOUNTED, cancel_at_once, dispatch, repeatable, request_id_of
from scm_trio.gateway.inbox import Inbox
from scm_trio.gateway.link import Link
from scm_trio.protocol.codec import Received, decode_client
from scm_trio.protocol.codec import request_id_of as request_id_in

MAX_INVALID = 10
INVALID_WINDOW_S = 60.0


async def read(link: Link, websocket: WebSocketConnection, inbox: Inbox) -> None:
    """Read until the connection ends. That the peer has left, or broken a rule, is told when all before is done.

    Raises:
        Disconnect: the peer was silent for too long.
    """
    timeout_s = link.gate.settings.heartbeat.timeout_s
    with trio.move_on_after(timeout_s) as silence:

        def heard() -> None:
            silence.deadline = trio.current_time() + timeout_s

        link.wire.on_frame = heard
        try:
            await _read_on(link, websocket, inbox)
        except ConnectionClosed:
            inbox.close()
        except Disconnect as exc:
            await inbox.put(partial(_end, exc))
        # What is being done may need the store, which has as long as the peer would have.
        await trio.sleep_forever()
    raise Disconnect(CloseCode.SILENT, "SILENT")


async def _read_on(link: Link, websocket: WebSocketConnection, inbox: Inbox) -> None:
    invalid: deque[float] = deque(maxlen=MAX_INVALID)
    while True:
        text = await websocket.get_message()
        if isinstance(text, bytes):
            raise Disconnect(CloseCode.UNSUPPORTED, "BINARY")
        try:
            received = decode_client(text)
        except RequestFailed as exc:
            link.gate.metrics.message_in("invalid")
            await inbox.put(partial(link.send_error, exc, request_id_in(text)))
            _judge(invalid)
            continue
        link.gate.metrics.message_in(received.kind)
        if not cancel_at_once(link, received):
            await inbox.put(partial(_do, link, received), len(text))


def _judge(invalid: deque[float]) -> None:
    """Note an invalid message.

    Raises:
        Disconnect: there were too many.
    """
    now = trio.current_time()
    invalid.append(now)
    if len(invalid) == MAX_INVALID and now - invalid[0] < INVALID_WINDOW_S:
        raise Disconnect(CloseCode.INVALID_MESSAGES, "INVALID_MESSAGES")


async def _end(reason: Disconnect) -> None:
    raise reason


# ---- in order


async def _do(link: Link, received: Received) -> None:
    if await _may_pass(link, received):
        await dispatch(link, received)


async def _may_pass(link: Link, received: Received) -> bool:
    """Charge a counted message to its user's rate. What a repeat has paid, it gets back when it is known for one."""
    request_id = repeatable(received)
    service = link.gate.service
    if received.kind in UNCOUNTED or (request_id is not None and service.has(link.user_id, request_id)):
        return True
    verdict, wait_s = link.gate.rates.charge(link.user_id, trio.current_time())
    if verdict is Verdict.PASS:
        return True
    if verdict is Verdict.FLOOD:
        raise Disconnect(CloseCode.FLOOD, "FLOOD", retry_after_s=wait_s)
    if request_id is not None:
        with suppress(StoreError):
            if await service.knows(link.user_id, request_id):
                link.gate.rates.lend(link.user_id)
                return True
    await link.send_error(RateLimited(retry_after_s=wait_s), request_id_of(received), session_id=received.session_id)
    return False
