"""What a client keeps: its questions, its copies of answers, and how each question ended. Pure."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define

from .answers import Ask, Copy, Message
from .rules import Findings, Rule


@define(eq=False)
class Outcome:
    """What became of an ask on one device: its END or CHAT_RESPONSE, or the code of the refusal, or neither: lost."""

    end: Message | None = None
    refusal: str | None = None
    retry_after_s: float = 0.0

    @property
    def reason(self) -> str | None:
        return self.end["finishReason"] if self.end else None


class Desk:
    """See the module.

    Args:
        findings: where broken rules go.
        told_end: called with an answer's id, the data of its END or CHAT_RESPONSE, and the copy.

    Attributes:
        asks: what this device wants to know, in order.
        copies: of answers, by their ids.
        outcomes: how its asks ended.
        errors: the ERRORs that answered a request, by its id.
        to_resume: asks whose resume was refused, but may succeed later.
    """

    def __init__(self, findings: Findings, told_end: Callable[[str, Message, Copy], None]) -> None:
        self.asks: list[Ask] = []
        self.copies: dict[str, Copy] = {}
        self.outcomes: dict[Ask, Outcome] = {}
        self.errors: dict[str, Message] = {}
        self.to_resume: list[Ask] = []
        self._findings = findings
        self._told_end = told_end
        self._resumes: dict[str, Ask] = {}
        self._pushed: set[str] = set()

    def adopt(self, ask: Ask) -> None:
        """Wait for this one from now on, also where it has ended before."""
        self.outcomes.pop(ask, None)
        if ask not in self.asks:
            self.asks.append(ask)

    @property
    def open_asks(self) -> list[Ask]:
        return [ask for ask in self.asks if ask not in self.outcomes]

    def copy_of(self, ask: Ask) -> Copy | None:
        return self.copies.get(ask.message_id or "")

    def said_resume(self, request_id: str, ask: Ask) -> None:
        self._resumes[request_id] = ask

    def lost_connection(self) -> None:
        """Without a request id an ask whose answer's id is not known cannot be found again."""
        for ask in self.open_asks:
            if ask.request_id is None and ask.message_id is None:
                self.outcomes[ask] = Outcome()

    def hear(self, message: Message) -> None:
        """Take what a message says about the asks; the witness has taken the text."""
        kind, data, request_id = message["type"], message["data"], message.get("requestId")
        if kind == "CHAT_MESSAGE":
            self._pushed.add(data["messageId"])
        elif kind == "CHAT_STREAM_START":
            is_others = data["resumed"] or data.get("userMessageId") in self._pushed
            ask = self._find(data["requestId"], data["messageId"], named=is_others)
            self._learn(ask, data["messageId"])
            if ask is not None:
                ask.user_message_id = data.get("userMessageId")
        elif kind in ("CHAT_STREAM_END", "CHAT_RESPONSE"):
            ask = self._find(request_id, data["messageId"], named=kind == "CHAT_STREAM_END")
            self._learn(ask, data["messageId"])
            self._told_end(data["messageId"], data, self.copies[data["messageId"]])
            if ask is not None:
                self.outcomes[ask] = Outcome(end=data)
        elif kind == "ERROR" and message["error"].get("messageId") is None:
            self._refused(message["error"], request_id)

    def _refused(self, error: Message, request_id: str | None) -> None:
        if request_id is not None:
            self.errors[request_id] = error
        if (resumed := self._resumes.get(request_id or "")) is not None:
            self._resume_refused(resumed, error)
            return
        ask = self._find(request_id, None)
        if ask is not None:
            if ask.message_id is not None and not error["retryable"]:
                self._findings.add(Rule.KEPT, f"{ask.message_id} was begun, and is refused now: {error['code']}")
            self.outcomes[ask] = Outcome(refusal=error["code"], retry_after_s=error.get("retryAfterMs", 0) / 1000)

    def _resume_refused(self, ask: Ask, error: Message) -> None:
        if error["code"] in ("TOO_MANY_STREAMS", "INTERNAL"):
            self.to_resume.append(ask)
        else:
            self._findings.add(Rule.KEPT, f"{ask.message_id} cannot be resumed: {error['code']}")

    def _find(self, request_id: str | None, message_id: str | None, *, named: bool = False) -> Ask | None:
        """Which of the asks a message is about; one without a request id is told by its turn, unless ``named``."""
        for ask in self.asks:
            if message_id is not None and ask.message_id == message_id:
                return ask
        for ask in self.asks:
            if ask.request_id == request_id and (request_id is not None or not (named or ask in self.outcomes)):
                return ask
        return None

    def _learn(self, ask: Ask | None, message_id: str) -> None:
        if ask is None:
            return
        if ask.message_id not in (None, message_id):
            self._findings.add(Rule.ONE_ANSWER, f"{ask.request_id} is {ask.message_id} and {message_id}")
        ask.message_id = message_id
