"""Follows one request on one connection, frame by frame, and holds the server to its promises."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from uuid import uuid4

import trio

from scm_trio.client.failures import Diverged
from scm_trio.client.transcript import Transcript
from scm_trio.client.wire import Wire
from scm_trio.protocol import codec, messages


class BrokenPromise(Exception):
    """The server did something that its protocol rules out; the text says what."""


class RateLimited(Exception):
    """The server wants the harness to wait; ``retry_after_s`` says how long."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s


class Witness:
    """One question and everything that came back for it.

    Attributes:
        request_id: the question's.
        frames: how many DATA frames came.
        end: its END, None until it comes.
        error: the ERROR that came before the END.
        refused_cancels: how many CHAT_CANCEL were answered with NOT_FOUND.
    """

    def __init__(self, wire: Wire, request_id: str) -> None:
        self._wire = wire
        self._cancel_ids: set[str] = set()
        self._heartbeats: set[str] = set()
        self.request_id = request_id
        self.transcript = Transcript()
        self.asked_at = trio.current_time()
        self.started = False
        self.ended_at = inf
        self.cancelled_at = inf
        self.frames = 0
        self.end: messages.ChatStreamEnd | None = None
        self.error: messages.Error | None = None
        self.refused_cancels = 0

    @property
    def took_s(self) -> float:
        """Seconds from the question to the END; infinite while there is none."""
        return self.ended_at - self.asked_at

    def ending(self) -> messages.ChatStreamEnd:
        """Its END.

        Raises:
            BrokenPromise: there is none.
        """
        if self.end is None:
            raise BrokenPromise("no END")
        return self.end

    # ---- what the client does

    async def ask(self, request: messages.ChatRequest) -> None:
        await self._wire.send("CHAT_REQUEST", request, request_id=self.request_id)

    async def cancel(self, *, through: Wire | None = None, message_id: str | None = None) -> None:
        """Send CHAT_CANCEL, by request id or by message id, from this connection or another."""
        by_message = None if message_id is None else messages.Id(message_id)
        by_request = messages.Id(self.request_id) if message_id is None else None
        cancel_id = uuid4().hex
        self._cancel_ids.add(cancel_id)
        cancel = messages.ChatCancel(request_id=by_request, message_id=by_message)
        self.cancelled_at = min(self.cancelled_at, trio.current_time())
        await (through or self._wire).send("CHAT_CANCEL", cancel, request_id=cancel_id)

    # ---- what the server says

    async def until(self, seen: Callable[[Witness], bool], what: str, limit_s: float) -> None:
        """Take messages until ``seen`` says so.

        Raises:
            BrokenPromise: it did not come within ``limit_s`` seconds, or something came that must not.
            RateLimited: the question was refused for the time being.
            ConnectionLost: the connection ended first.
        """
        with trio.move_on_after(limit_s):
            while not seen(self):
                self.take(await self._wire.receive())
            return
        raise BrokenPromise(f"no {what} within {limit_s:g} s")

    async def settle(self, quiet_s: float, limit_s: float) -> None:
        """Prove that the connection still works, and that nothing follows the END for ``quiet_s`` seconds."""
        heartbeat = uuid4().hex
        self._heartbeats.add(heartbeat)
        await self._wire.send("HEARTBEAT", messages.Heartbeat(), request_id=heartbeat)
        await self.until(lambda _: heartbeat not in self._heartbeats, "answer to HEARTBEAT after the END", limit_s)
        with trio.move_on_after(quiet_s):
            while True:
                self.take(await self._wire.receive())

    def take(self, message: codec.Received) -> None:
        """Note one message; those of other requests mean nothing here.

        Raises:
            BrokenPromise: it breaks one.
            RateLimited: the question was refused for the time being.
        """
        if message.kind == "HEARTBEAT":
            self._heartbeats.discard(message.request_id or "")
        elif message.request_id in self._cancel_ids:
            self._take_word_on_cancel(message)
        elif message.request_id == self.request_id:
            if self.end is not None:
                raise BrokenPromise(f"{message.kind} came after END")
            try:
                self._take_answer(message.data)
            except Diverged as exc:
                raise BrokenPromise(exc.detail) from exc

    def _take_word_on_cancel(self, message: codec.Received) -> None:
        code = message.data.detail.code if isinstance(message.data, messages.Error) else message.kind
        if code != "NOT_FOUND":
            raise BrokenPromise(f"CHAT_CANCEL was answered with {code}")
        if self.end is None:
            raise BrokenPromise("CHAT_CANCEL was answered with NOT_FOUND before END")
        self.refused_cancels += 1

    def _take_answer(self, data: object) -> None:
        match data:
            case messages.ChatStreamStart():
                self.started = True
                self.transcript.begin(data)
            case messages.ChatStreamData():
                self.frames += 1
                self.transcript.add(data)
            case messages.ChatStreamEnd():
                self.end, self.ended_at = data, trio.current_time()
                self.transcript.verify(data)
            case messages.Error(detail=detail) if not self.started:
                if detail.code == "RATE_LIMITED":
                    raise RateLimited((detail.retry_after_ms or 1000) / 1000)
                raise BrokenPromise(f"the question was refused: {detail.code}")
            case messages.Error() if self.error is not None:
                raise BrokenPromise("two ERRORs for one question")
            case messages.Error():
                self.error = data
            case _:
                # INFO and the like.
                pass
