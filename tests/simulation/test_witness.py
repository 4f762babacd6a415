"""What the witness objects to, message by message."""

import orjson
import pytest

from .answers import Copy, Gap, digest
from .rules import Findings, Rule
from .witness import Witness

AT = "2026-01-02T03:04:05.678Z"
USAGE = {"promptTokens": 1, "completionTokens": 1, "reasoningTokens": 0, "source": "provider"}
CONNECT = {
    "connectionId": "c",
    "userId": "u",
    "sessionId": "s",
    "heartbeatIntervalMs": 1,
    "heartbeatTimeoutMs": 1,
    "limits": {"maxMessageBytes": 1, "ratePerMinute": 1, "maxStreams": 1},
    "activeRuns": [],
    "unread": [],
    "serverTime": AT,
}


def start(rev=0, **marks):
    data = {
        "messageId": "m",
        "model": "x",
        "provider": "x",
        "requestId": "r",
        "rev": rev,
        "resumed": False,
        "reset": False,
    }
    return {"type": "CHAT_STREAM_START", "requestId": "r", "data": {**data, **marks}}


def data(index, text, *, next_index=None, **more):
    frame = {
        "messageId": "m",
        "content": text,
        "delta": text,
        "index": index,
        "nextIndex": next_index or index + 1,
        "rev": 0,
    }
    return {"type": "CHAT_STREAM_DATA", "data": {**frame, **more}}


def end(text, reason="completed", **more):
    told = {"messageId": "m", "finished": True, "totalTokens": 2, "duration": 1, "finishReason": reason, "usage": USAGE}
    told |= {"length": len(text), "sha256": digest(text), "rev": 0}
    return {"type": "CHAT_STREAM_END", "data": {**told, **more}}


def error(code="TIMEOUT", **more):
    detail = {"code": code, "retryable": True, "generationStarted": False, **more}
    return {"type": "ERROR", "data": "a sentence", "error": detail}


def response(text="whole"):
    told = {"messageId": "m", "content": text, "model": "x", "provider": "x", "usage": USAGE}
    return {"type": "CHAT_RESPONSE", "data": {**told, "finishReason": "completed", "duration": 1}}


CANCELLED = {"upstreamClosed": True, "cancelMs": 3}
PUSH = {
    "type": "CHAT_MESSAGE",
    "data": {
        "messageId": "q",
        "sessionId": "s",
        "conversationId": "s",
        "parentMessageId": None,
        "role": "user",
        "userId": "u",
        "content": "?",
        "status": "sent",
        "createdAt": AT,
        "attachments": [],
    },
}


def hear(*messages, resumes=(), asks=1):
    findings = Findings()
    witness = Witness(findings, {}, "test")
    for _ in range(asks):
        witness.said_request("r")
    for index in resumes:
        witness.said_resume("m", index, f"resume-{index}")
    for message in (
        {"type": "CONNECT", "data": CONNECT},
        {"type": "SYSTEM_MESSAGE", "data": {"message": "hi"}},
        *messages,
    ):
        whole = {**message, "timestamp": AT}
        witness.heard(orjson.dumps(whole), whole)
    return [rule for rule, _ in findings.broken]


@pytest.mark.parametrize(
    "messages",
    [
        (start(), data(0, "a"), data(1, "b"), end("ab")),
        (start(), end("")),
        (start(), data(0, "", reasoning="hm"), data(1, "b"), end("b")),
        (start(), data(0, "a"), error(messageId="m"), end("a", "timeout")),
        (start(), end("", "cancelled", **CANCELLED)),
        (start(resumed=True), data(0, "a"), start(resumed=True), data(0, "a"), end("a")),
        (start(), data(0, "a"), start(1, reset=True), data(0, "b", rev=1), end("b", rev=1)),
        (PUSH, response()),
        (error("RATE_LIMITED"),),
        (start(), data(0, "a"), {"type": "DISCONNECT", "data": {"code": "BYE", "reason": "bye", "reconnect": False}}),
    ],
)
def test_what_the_contract_allows_is_fine(messages):
    assert hear(*messages) == []


@pytest.mark.parametrize(
    ("rule", "messages"),
    [
        (Rule.CONTIGUOUS, (start(), data(1, "b"))),
        (Rule.CONTIGUOUS, (start(), data(0, "a"), data(2, "c"))),
        (Rule.CONTIGUOUS, (start(), data(0, "a"), data(0, "a"))),
        (Rule.CONTIGUOUS, (start(1), start(0, reset=True))),
        (Rule.SAME_TEXT, (start(), data(0, "a"), end("ab"))),
        (Rule.SAME_TEXT, (start(), data(0, "a"), end("b"))),
        (Rule.ONE_END, (start(), end(""), end(""))),
        (Rule.ONE_END, (data(0, "a"),)),
        (Rule.ONE_END, (start(), data(0, "a"), end("a"), data(1, "b"))),
        (Rule.NOTHING_TWICE, (start(), start())),
        (Rule.NOTHING_TWICE, (start(), end(""), start(), end(""), start())),
        (Rule.NOTHING_TWICE, (response(), response(), response())),
        (Rule.NOTHING_TWICE, (PUSH, PUSH)),
        (Rule.NOTHING_TWICE, ({**PUSH, "requestId": "r"},)),
        (Rule.CONTRACT, (start(), end("", "timeout"))),
        (Rule.CONTRACT, (start(), error(messageId="m"), data(0, "a"))),
        (Rule.CONTRACT, (start(), end("", "tired"))),
        (Rule.CONTRACT, (start(), end("", **CANCELLED))),
        (Rule.CONTRACT, (start(), end("", rev=1))),
        (Rule.CONTRACT, (start(), data(0, "a", rev=1))),
        (Rule.CONTRACT, (start(), data(0, "a", delta="b"))),
        (Rule.CONTRACT, (start(), data(0, "a", reasoning="hm"))),
        (Rule.CONTRACT, (start(), data(0, "a", next_index=-1))),
        (Rule.CONTRACT, (error("NOBODY_HOME"),)),
        (Rule.CONTRACT, ({"type": "INFO", "data": {"code": "RUMOUR", "message": "psst"}},)),
        (Rule.CONTRACT, ({"type": "NOISE", "data": {}},)),
        (
            Rule.CONTRACT,
            (start("0"),),
        ),
        (Rule.CLOSED_FIRST, (start(), end("", "cancelled", upstreamClosed=False, cancelMs=100))),
    ],
)
def test_what_it_does_not_allow_is_found(rule, messages):
    assert rule in hear(*messages)


def test_the_greeting_comes_first_and_nothing_after_the_goodbye():
    findings = Findings()
    witness = Witness(findings, {}, "test")
    for kind, body in (
        ("SYSTEM_MESSAGE", {"message": "hi"}),
        ("DISCONNECT", {"code": "BYE", "reason": "b", "reconnect": False}),
    ):
        witness.heard(orjson.dumps({"type": kind, "data": body, "timestamp": AT}), {"type": kind, "data": body})
    assert len(findings.broken) == 1
    witness.heard(orjson.dumps({**PUSH, "timestamp": AT}), PUSH)
    assert len(findings.broken) == 2


def test_a_resume_may_go_on_anywhere_and_is_answered_once():
    early = (start(), data(0, "a"), data(1, "b"))
    again = (start(resumed=True), data(1, "b"), end("ab"))
    assert hear(*early, *again, resumes=[1]) == []
    assert Rule.NOTHING_TWICE in hear(*early, *again, *again, *again, resumes=[1])
    assert Rule.CONTIGUOUS in hear(*early, start(resumed=True), data(5, "f"), resumes=[1])


# ---- copies


def test_a_copy_takes_what_goes_on_or_repeats_and_nothing_else():
    copy = Copy()
    for index, text in enumerate("abc"):
        copy.take(data(index, text)["data"])
    copy.take(data(0, "ab", next_index=2)["data"])
    assert (copy.text, copy.cursor, copy.positions) == ("abc", 3, [0, 1, 2, 3])
    copy.take(data(2, "cd", next_index=4)["data"])
    assert (copy.text, copy.cursor) == ("abcd", 4)
    for wrong in (data(6, "x"), data(1, "x"), data(2, "x", next_index=9)):
        with pytest.raises(Gap):
            copy.take(wrong["data"])
    copy.restart(1)
    assert (copy.text, copy.cursor, copy.rev, copy.sha256) == ("", 0, 1, digest(""))
