"""One streamed answer over all the connections that carry it: asked for, put together, checked and mended."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from scm_trio.client.events import Events
from scm_trio.client.failures import AnswerGone, AskedOtherwise, ChatError, ClientError, Diverged, Withdrawn
from scm_trio.client.pending import Pending, Word
from scm_trio.client.transcript import Transcript
from scm_trio.errors import NotFound, ShuttingDown
from scm_trio.protocol import messages

MAX_REFUSED_RESUMES = 8
"""How often in a row a resume is asked for again that the server refuses for the time being."""

log = logging.getLogger(__name__)


class Feed(Pending):
    """See the module.

    Args:
        request: the question; None for an answer that somebody else asked for.
        request_id: the request's.
        message_id: the answer's, where that is known from the start.
        comes_back: another connection will follow one that breaks.
        on_divergence: called when the text turns out not to be what the server sent.

    Attributes:
        is_shown: somebody else asked for it.
        cancel_refusal: why the server did not stop it when it was told to.
    """

    def __init__(
        self,
        request: messages.ChatRequest | None,
        request_id: str | None,
        *,
        message_id: str | None = None,
        comes_back: bool = False,
        on_divergence: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(request_id, message_id)
        self.cancel_on_leave = request is not None and request.on_orphan is None
        self.transcript = Transcript()
        self.events = Events(self.transcript)
        self.start: messages.ChatStreamStart | None = None
        self.end: messages.ChatStreamEnd | None = None
        self.cancel_refusal: ChatError | None = None
        self._request = request
        self._comes_back = comes_back
        self._on_divergence = on_divergence
        # What was said on this connection, and on how many.
        self._joined = False
        self._joins = 0
        self._resuming = False
        self._refused_resumes = 0
        self._put_off = False
        self._cancel_wanted = False
        self._cancel_said = False
        # What went wrong.
        self._told: ChatError | None = None
        self._mended_at: int | None = None
        self._healed = False

    @property
    def closed(self) -> bool:
        return self.events.closed

    @property
    def is_shown(self) -> bool:
        return self._request is None

    def ending(self) -> messages.ChatStreamEnd:
        """The END of a closed feed.

        Raises:
            ClientError: it ended without one.
        """
        if self.end is None:
            raise self.events.failure or RuntimeError("this answer has not ended")
        return self.end

    # ---- what the server is told

    def words(self) -> Iterator[Word]:
        self.was_told = True
        if not self._joined:
            self._joined = True
            self._joins += 1
            yield self._join()
        if self._cancel_wanted and not self._cancel_said:
            self._cancel_said = True
            yield Word("CHAT_CANCEL", self._cancel(), refused=self._refuse_cancel)

    def _join(self) -> Word:
        if self.message_id is None and self._request is not None:
            return Word("CHAT_REQUEST", self._request, self.request_id)
        self._resuming = True
        place = messages.Count(self.transcript.rev), messages.Count(self.transcript.ask())
        resume = messages.ChatResume(messages.Id(self.message_id or ""), *place)
        return Word("CHAT_RESUME", resume, refused=self._refuse_resume)

    def _cancel(self) -> messages.ChatCancel:
        if self._request is not None and self.request_id is not None:
            return messages.ChatCancel(request_id=messages.Id(self.request_id))
        return messages.ChatCancel(message_id=messages.Id(self.message_id or ""))

    def want_cancel(self) -> None:
        if self.closed:
            return
        self._cancel_wanted, self.cancel_refusal = True, None
        if self._request is not None and (not self.was_told or self._put_off):
            self.fail(Withdrawn())
        self.nudge()

    def lose(self) -> None:
        self._joined = self._resuming = self._put_off = self._cancel_said = False
        self._mended_at = None
        self.events.wake()

    def fail(self, failure: ClientError) -> None:
        self.events.fail(failure)
        self.events.close()

    # ---- what the server says

    def follow(self, start: messages.ChatStreamStart) -> None:
        """Begin with a START that came unasked: the server need not be asked for it."""
        self._joined = True
        self._joins += 1
        self.take(start)

    def take(self, data: object) -> None:
        match data:
            case messages.Error(text, detail):
                self._take_error(ChatError(text, detail))
            case messages.ChatStreamEnd():
                self._take_end(data)
            case _ if self.events.failure is not None:
                # What is not to be trusted is read to its END only.
                pass
            case messages.ChatStreamStart():
                self._take_start(data)
            case messages.ChatStreamData():
                self._take_data(data)
            case messages.ChatResponse():
                self.fail(AskedOtherwise())

    def _take_error(self, failure: ChatError) -> None:
        if failure.code == NotFound.code and failure.message_id is not None and not failure.generation_started:
            # The user has lost the session: of this answer nothing follows, not even END.
            self.fail(AnswerGone(failure.text, failure.detail))
        elif self.start is not None:
            # Its END is still to come.
            self._told = failure
        elif failure.code == ShuttingDown.code and self._comes_back and not self._cancel_wanted:
            # Nothing was begun. The next connection is one to a server that stays.
            self._put_off = True
        else:
            self.fail(failure)

    def _take_start(self, start: messages.ChatStreamStart) -> None:
        if start.reset:
            self.events.expect_again()
        try:
            self.transcript.begin(start)
        except Diverged as exc:
            self._mend(exc)
            return
        self._resuming, self._refused_resumes = False, 0
        self.start, self.message_id = start, start.message_id
        self.request_id = self.request_id or start.request_id
        self.events.begin(start)

    def _take_data(self, data: messages.ChatStreamData) -> None:
        try:
            fresh = self.transcript.merge(data)
        except Diverged as exc:
            self.message_id = self.message_id or data.message_id
            self._mend(exc)
            return
        if fresh is not None:
            self.events.show(fresh)

    def _take_end(self, end: messages.ChatStreamEnd) -> None:
        if self.events.failure is not None:
            self.end = end
            self.events.close()
            return
        try:
            self.transcript.verify(end)
        except Diverged as exc:
            self._take_wrong_end(end, exc)
            return
        self.end = end
        self.events.end(end)
        if self._told is not None:
            self.events.fail(self._told)

    def _take_wrong_end(self, end: messages.ChatStreamEnd, wrong: Diverged) -> None:
        if self._resuming:
            # It was under way before the server heard that something is missing, and comes again.
            return
        if self.message_id is None:
            self.message_id = end.message_id
            self._mend(wrong)
        elif not self._heal(wrong):
            self.end = end
            self.events.close()

    def _refuse_resume(self, failure: ChatError) -> float | None:
        if failure.message_id is not None:
            # The resumed answer's own failure.
            self._take_error(failure)
        elif failure.code == NotFound.code:
            self.fail(AnswerGone(failure.text, failure.detail))
        elif (failure.retryable or failure.retry_after_s) and self._refused_resumes < MAX_REFUSED_RESUMES:
            self._refused_resumes += 1
            self._joined = False
            return failure.retry_after_s or 2.0 ** (self._refused_resumes - 1)
        else:
            self.fail(failure)
        return None

    def _refuse_cancel(self, failure: ChatError) -> None:
        if failure.code == NotFound.code and self._joins > 1:
            # It ended while there was no connection; how, the resumed answer says.
            return
        self._cancel_wanted = self._cancel_said = False
        self.cancel_refusal = failure
        self.events.wake()

    # ---- mending

    def _mend(self, gap: Diverged) -> None:
        """Something is missing: have the server go on from here."""
        if self._resuming:
            # What was under way before the server heard of it.
            return
        if self._mended_at == self.transcript.next_index:
            self._heal(gap)
            return
        self._mended_at = self.transcript.next_index
        log.warning("part of answer %s is missing: %s", self.message_id, gap.detail)
        self._join_again()

    def _heal(self, wrong: Diverged) -> bool:
        """The text is not what was sent: have all of it told again, once; False when that did not help."""
        if self._healed:
            # It still runs on the server until its END.
            self.events.fail(wrong)
            return False
        self._healed, self._mended_at = True, None
        self._on_divergence()
        log.warning("answer %s is not what was sent: %s", self.message_id, wrong.detail)
        self.events.expect_again()
        self.transcript.rewind()
        self._join_again()
        return True

    def _join_again(self) -> None:
        # Until the server has heard, what comes does not fit either.
        self._joined, self._resuming = False, True
        self.nudge()
