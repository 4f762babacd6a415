"""What an answer says, as wire messages."""

import pytest
from attrs import evolve

from scm_trio.errors import NotFound, RateLimited, TimedOut
from scm_trio.model import AnswerInfo, Chunk, Ending, FinishReason, Usage
from scm_trio.protocol import codec, frames, messages

from .examples import AT, NOTHING

INFO = AnswerInfo(message_id="m1", user_message_id="m0", request_id="r1", model="gpt-4", provider="openai")
USAGE = Usage(prompt_tokens=12, completion_tokens=34, reasoning_tokens=5, cached_tokens=3)
ENDING = Ending(FinishReason.COMPLETED, USAGE, duration_s=2.5004)
ON_THE_WIRE = messages.TokenUsage(prompt_tokens=12, completion_tokens=34, reasoning_tokens=5, source="provider")


def test_a_start_names_the_answer():
    assert frames.start(INFO, rev=0) == messages.ChatStreamStart("m1", "gpt-4", "openai", "r1", "m0")


def test_a_start_of_a_resumed_answer_says_so():
    start = frames.start(INFO, rev=2, resumed=True, reset=True)
    assert (start.rev, start.resumed, start.reset) == (2, True, True)


def test_data_carries_the_new_text_twice_as_the_seed_has_it():
    data = frames.data(INFO, Chunk(7, 11, "供应链", reasoning=False, appended_at=0.0), rev=1)
    assert data == messages.ChatStreamData("m1", "供应链", "供应链", 7, 11, rev=1)


def test_reasoning_stays_out_of_the_content():
    data = frames.data(INFO, Chunk(0, 2, "hm", reasoning=True, appended_at=0.0), rev=0)
    assert (data.content, data.delta, data.reasoning) == ("", "", "hm")


def test_the_largest_data_frame_stays_below_a_mebibyte():
    for char in ("\x01", "🚀", "\\"):
        for reasoning in (False, True):
            chunk = Chunk(0, 1, char * frames.MAX_FRAME_CHARS, reasoning=reasoning, appended_at=0.0)
            text = codec.encode("CHAT_STREAM_DATA", frames.data(INFO, chunk, rev=0), at=AT, request_id="🚀" * 128)
            assert len(text) < 1_048_576


def test_an_end_tells_how_it_went_in_milliseconds():
    assert frames.end(INFO, ENDING, rev=1, length=5, sha256=NOTHING) == messages.ChatStreamEnd(
        message_id="m1",
        finished=True,
        total_tokens=46,
        duration=2500,
        finish_reason="completed",
        usage=ON_THE_WIRE,
        length=5,
        sha256=NOTHING,
        rev=1,
    )


def test_the_end_of_a_cancelled_answer_says_how_long_that_took():
    ending = evolve(ENDING, reason=FinishReason.CANCELLED, upstream_closed=False, cancel_s=0.0)
    end = frames.end(INFO, ending, rev=0, length=0, sha256=NOTHING)
    assert (end.finish_reason, end.upstream_closed, end.cancel_ms) == ("cancelled", False, 0)
    slower = frames.end(INFO, evolve(ending, cancel_s=0.0126), rev=0, length=0, sha256=NOTHING)
    assert slower.cancel_ms == 13


def test_a_response_is_the_whole_answer():
    assert frames.response(INFO, "好", ENDING) == messages.ChatResponse(
        "m1", "好", "gpt-4", "openai", ON_THE_WIRE, "completed", 2500
    )


def test_an_error_without_more_to_say_has_the_least_detail():
    assert frames.error(NotFound(), "en") == messages.Error(
        "Not found", messages.ErrorDetail("NOT_FOUND", retryable=False)
    )


@pytest.mark.parametrize(
    ("wait_s", "wait_ms", "said"), [(1.2, 1200, "2"), (0.0, 0, "1"), (0.0004, 0, "1"), (30, 30_000, "30")]
)
def test_an_error_says_how_long_to_wait_and_never_too_short(wait_s, wait_ms, said):
    error = frames.error(RateLimited(retry_after_s=wait_s), "en")
    assert error.text == f"Too many messages; try again in {said} s"
    assert error.detail.retry_after_ms == wait_ms


def test_an_error_in_the_middle_of_an_answer_names_it():
    error = frames.error(TimedOut(field="idle"), "zh", started=True, message_id="m1")
    assert error.text == "等待超时：下一个词元"
    assert error.detail == messages.ErrorDetail(
        "TIMEOUT", retryable=True, generation_started=True, message_id="m1", field="idle"
    )
