"""Requests with one reply."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar
from uuid import uuid4

import trio

from scm_trio.client.failures import AskedOtherwise, CallLost, ChatError, ClientError, Withdrawn
from scm_trio.client.pending import Pending, Word
from scm_trio.errors import ShuttingDown
from scm_trio.protocol import messages

Reply = TypeVar("Reply")


def new_request_id() -> str:
    return uuid4().hex


class Call(Pending, Generic[Reply]):
    """One request with one reply, of the type given; messages of other types are not for it.

    It belongs to its connection and is not said again on another one.
    """

    def __init__(self, kind: str, data: object, reply_type: type[Reply], request_id: str | None = None) -> None:
        super().__init__(request_id or new_request_id())
        self._word = Word(kind, data, self.request_id)
        self._type = reply_type
        self._done = trio.Event()
        self._replies: list[Reply] = []
        self._failure: ClientError | None = None

    @property
    def closed(self) -> bool:
        return self._done.is_set()

    def words(self) -> Iterator[Word]:
        self.was_told = True
        yield self._word

    def take(self, data: object) -> None:
        if isinstance(data, messages.Error):
            self.fail(ChatError(data.text, data.detail))
        elif isinstance(data, self._type):
            self._replies.append(data)
            self._done.set()

    def fail(self, failure: ClientError) -> None:
        self._failure = self._failure or failure
        self._done.set()

    def lose(self) -> None:
        self.fail(CallLost())

    async def reply(self) -> Reply:
        """Wait for the reply's data.

        Raises:
            ClientError: it was an ERROR, or the connection is gone.
        """
        await self._done.wait()
        if self._failure is not None:
            raise self._failure
        return self._replies[0]


class WholeAnswer(Call[messages.ChatResponse]):
    """A question whose answer comes in one piece; on every connection it is asked again, as the same request."""

    cancel_on_leave = True

    def __init__(self, request: messages.ChatRequest, request_id: str, *, comes_back: bool) -> None:
        super().__init__("CHAT_REQUEST", request, messages.ChatResponse, request_id)
        self._cancel = messages.ChatCancel(request_id=messages.Id(request_id))
        self._comes_back = comes_back
        self._asked = False
        self._put_off = False
        self._cancel_wanted = False
        self._cancel_said = False

    def words(self) -> Iterator[Word]:
        if not self._asked:
            self._asked = self.was_told = True
            yield self._word
        if self._cancel_wanted and not self._cancel_said:
            self._cancel_said = True
            yield Word("CHAT_CANCEL", self._cancel, new_request_id())

    def take(self, data: object) -> None:
        if isinstance(data, messages.Error) and data.detail.code == ShuttingDown.code and self._comes_back:
            # Nothing was begun. The next connection is one to a server that stays.
            self._put_off = True
            return
        if isinstance(data, messages.ChatResponse):
            self.message_id = data.message_id
        elif isinstance(data, messages.ChatStreamEnd):
            self.fail(AskedOtherwise())
        super().take(data)

    def want_cancel(self) -> None:
        self._cancel_wanted = True
        if not self.was_told or self._put_off:
            self.fail(Withdrawn())
        self.nudge()

    def lose(self) -> None:
        self._asked = self._cancel_said = self._put_off = False
