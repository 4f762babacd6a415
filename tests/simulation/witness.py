"""Holds one connection to the wire contract, message by message. Pure."""

from __future__ import annotations

from typing import Any

from attrs import define, field

from scm_trio.errors import BadJson, InvalidMessage, RequestFailed, UnknownType
from scm_trio.model import FinishReason
from scm_trio.protocol.codec import decode_server

from .answers import Copy, Gap
from .rules import Findings, Rule

Message = dict[str, Any]

CODES = frozenset(kind.code for kind in RequestFailed.__subclasses__())
REASONS = frozenset(reason.value for reason in FinishReason)
FAILED = ("error", "timeout", "too_large")
"""Reasons that an ERROR explains."""
CLOSE_LIMIT_MS = 5000


@define(eq=False)
class View:
    """What one connection is shown of one answer.

    Attributes:
        allowed: how many STARTs (or CHAT_RESPONSEs) may come: one unasked, one for every resume, and one for every
            attempt that begins afresh; and one for every time that one of ``requests`` was sent.
        from_indices: where resumes asked to go on.
        expected: where the next frame has to begin; more than one right after a START.
        carried: the envelopes' request ids of the STARTs, in order.
        is_open: START has come, END has not.
        is_fresh: no frame has come since START.
        has_failed: an ERROR about it has come; END has to be next.
    """

    allowed: int = 1
    requests: set[str | None] = field(factory=set)
    starts: int = 0
    rev: int = 0
    from_indices: set[int] = field(factory=lambda: {0})
    expected: set[int] = field(factory=set)
    carried: list[str | None] = field(factory=list)
    is_open: bool = False
    is_fresh: bool = False
    has_failed: bool = False


class Witness:
    """Hears what a connection says, and what it is told.

    Args:
        findings: where broken rules go.
        copies: the device's copies of answers, by their ids; kept up to date here.
        name: of the connection, for details.

    Attributes:
        views: by the answers' ids.
        pushed: the messages that came as CHAT_MESSAGE.
        said: the ids of all requests and resumes, in order.
    """

    def __init__(self, findings: Findings, copies: dict[str, Copy], name: str) -> None:
        self._findings = findings
        self._copies = copies
        self._name = name
        self._heard = 0
        self._is_leaving = False
        self.views: dict[str, View] = {}
        self.pushed: set[str] = set()
        self.said: list[str | None] = []
        self._requests: dict[str | None, int] = {}

    # ---- what the client said

    def said_resume(self, message_id: str, from_index: int, request_id: str) -> None:
        self.said.append(request_id)
        view = self.views.setdefault(message_id, View())
        view.allowed += 1
        view.from_indices.add(from_index)

    def said_request(self, request_id: str | None) -> None:
        self.said.append(request_id)
        self._requests[request_id] = self._requests.get(request_id, 0) + 1

    # ---- what the server said

    def heard(self, text: bytes, message: Message) -> None:
        """Judge the server's next message."""
        kind = message["type"]
        self._heard += 1
        try:
            decode_server(text)
        except (BadJson, InvalidMessage, UnknownType) as exc:
            self._find(Rule.CONTRACT, f"{kind}: {exc}")
            return
        expected = {1: "CONNECT", 2: "SYSTEM_MESSAGE"}.get(self._heard)
        if expected is not None and kind not in (expected, "DISCONNECT"):
            self._find(Rule.CONTRACT, f"message {self._heard} is {kind}")
        if self._is_leaving:
            self._find(Rule.CONTRACT, f"{kind} after DISCONNECT")
        judge = _JUDGES.get(kind)
        if judge is not None:
            judge(self, message)

    def _start(self, message: Message) -> None:
        data = message["data"]
        view = self.views.setdefault(data["messageId"], View())
        copy = self._copies.setdefault(data["messageId"], Copy())
        if data["reset"] and view.starts and data["rev"] > view.rev:
            view.allowed += 1
        if view.is_open and not (data["resumed"] or data["reset"]):
            self._find(Rule.NOTHING_TWICE, f"{data['messageId']} begins again while it is under way")
        self._count(view, data["messageId"], data["requestId"])
        if data["rev"] < view.rev:
            self._find(Rule.CONTIGUOUS, f"rev {data['rev']} after {view.rev}")
        view.carried.append(message.get("requestId"))
        view.rev, view.is_open, view.has_failed = data["rev"], True, False
        view.is_fresh = True
        view.expected = view.from_indices if data["resumed"] else {0}
        if not data["resumed"] or data["rev"] != copy.rev:
            copy.restart(data["rev"])

    def _count(self, view: View, message_id: str, request_id: str | None) -> None:
        view.starts += 1
        view.requests.add(request_id)
        if view.starts > view.allowed + sum(self._requests.get(name, 0) for name in view.requests):
            self._find(Rule.NOTHING_TWICE, f"{message_id} is shown for the {view.starts}. time")

    def _data(self, message: Message) -> None:
        data = message["data"]
        view = self._opened(data["messageId"], "DATA")
        if data["index"] not in view.expected:
            self._find(Rule.CONTIGUOUS, f"{data['messageId']}: {data['index']} where {sorted(view.expected)} was due")
        if data["nextIndex"] <= data["index"] or data["rev"] != view.rev or data["content"] != data["delta"]:
            self._find(Rule.CONTRACT, f"a frame with {data['index']} {data['nextIndex']} {data['rev']}")
        if data.get("reasoning") and data["content"]:
            self._find(Rule.CONTRACT, "thinking and text in one frame")
        if view.has_failed:
            self._find(Rule.CONTRACT, f"{data['messageId']} goes on after its ERROR")
        view.expected, view.is_fresh = {data["nextIndex"]}, False
        try:
            self._copies.setdefault(data["messageId"], Copy()).take(data)
        except Gap as exc:
            self._find(Rule.CONTIGUOUS, f"{data['messageId']}: {exc}")

    def _end(self, message: Message) -> None:
        data = message["data"]
        view = self._opened(data["messageId"], "END")
        view.is_open = False
        copy = self._copies.setdefault(data["messageId"], Copy())
        if (data["length"], data["sha256"]) != (len(copy.text), copy.sha256):
            self._find(Rule.SAME_TEXT, f"{data['messageId']}: END has {data['length']}, there are {len(copy.text)}")
        self._check_reason(data, view)
        if data.get("upstreamClosed") is False and data["cancelMs"] < CLOSE_LIMIT_MS:
            self._find(Rule.CLOSED_FIRST, f"given up after {data['cancelMs']} ms")
        if data["rev"] != view.rev:
            self._find(Rule.CONTRACT, f"END of rev {data['rev']} after START of {view.rev}")
        copy.end = data

    def _check_reason(self, data: Message, view: View) -> None:
        reason = data["finishReason"]
        if reason not in REASONS or (reason != "cancelled" and "upstreamClosed" in data):
            self._find(Rule.CONTRACT, f"an end with {reason}")
        if reason in FAILED and not view.has_failed:
            self._find(Rule.CONTRACT, f"{data['messageId']} ended with {reason}, and no ERROR said why")

    def _response(self, message: Message) -> None:
        data = message["data"]
        message_id = data["messageId"]
        known = self._copies.setdefault(message_id, Copy())
        view = self.views.setdefault(message_id, View())
        self._count(view, message_id, message.get("requestId"))
        self._check_reason(data, view)
        view.has_failed = False
        known.restart(known.rev)
        known.take({"index": 0, "nextIndex": 1, "content": data["content"]})
        known.end = data

    def _error(self, message: Message) -> None:
        error = message["error"]
        if error["code"] not in CODES or not message["data"]:
            self._find(Rule.CONTRACT, f"ERROR {error['code']}")
        if message_id := error.get("messageId"):
            self.views.setdefault(message_id, View()).has_failed = True

    def _push(self, message: Message) -> None:
        data = message["data"]
        if data["messageId"] in self.pushed or "requestId" in message:
            self._find(Rule.NOTHING_TWICE, f"{data['messageId']} is pushed again, or as an answer")
        self.pushed.add(data["messageId"])

    def _info(self, message: Message) -> None:
        if message["data"]["code"] not in ("RETRYING", "FALLBACK", "EMPTY_ANSWER"):
            self._find(Rule.CONTRACT, f"INFO {message['data']['code']}")

    def _goodbye(self, _: Message) -> None:
        self._is_leaving = True

    @property
    def is_under_way(self) -> bool:
        """Whether something that was started has not ended."""
        return any(view.is_open for view in self.views.values())

    def _opened(self, message_id: str, what: str) -> View:
        view = self.views.setdefault(message_id, View())
        if not view.is_open:
            self._find(Rule.ONE_END, f"{what} of {message_id}, which is not under way")
        return view

    def _find(self, rule: Rule, detail: str) -> None:
        self._findings.add(rule, f"{self._name}: {detail}")


_JUDGES = {
    "CHAT_STREAM_START": Witness._start,
    "CHAT_STREAM_DATA": Witness._data,
    "CHAT_STREAM_END": Witness._end,
    "CHAT_RESPONSE": Witness._response,
    "ERROR": Witness._error,
    "INFO": Witness._info,
    "CHAT_MESSAGE": Witness._push,
    "DISCONNECT": Witness._goodbye,
}
