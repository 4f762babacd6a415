from hashlib import sha256

import pytest

from scm_trio.client.failures import Diverged
from scm_trio.client.transcript import Transcript
from scm_trio.protocol import messages

USAGE = messages.TokenUsage(1, 1, 0, "provider")


def start(rev=0, *, message_id="m-1", reset=False, resumed=False):
    return messages.ChatStreamStart(message_id, "tiny", "fake", "r-1", rev=rev, reset=reset, resumed=resumed)


def data(text, index, rev=0, *, next_index=None, message_id="m-1", reasoning=None):
    return messages.ChatStreamData(message_id, text, text, index, next_index or index + 1, rev, reasoning)


def end(text, *, rev=0, length=None, message_id="m-1"):
    digest = sha256(text.encode()).hexdigest()
    size = len(text) if length is None else length
    return messages.ChatStreamEnd(message_id, True, 2, 5, "completed", USAGE, size, digest, rev)


def begun():
    transcript = Transcript()
    transcript.begin(start())
    return transcript


def test_text_and_reasoning_are_put_together():
    transcript = begun()
    transcript.add(data("", 0, reasoning="hm"))
    transcript.add(data("供", 1, next_index=4))
    transcript.add(data("应链🚚", 4))
    transcript.verify(end("供应链🚚"))
    assert (transcript.text, transcript.reasoning, transcript.next_index) == ("供应链🚚", "hm", 5)


def test_a_reset_starts_the_text_anew():
    transcript = begun()
    transcript.add(data("old", 0, reasoning="x"))
    transcript.begin(start(rev=1, reset=True))
    transcript.add(data("new", 0, rev=1))
    transcript.verify(end("new", rev=1))
    assert transcript.text == "new"
    assert transcript.reasoning == ""


def test_a_resumed_start_goes_on_where_the_text_was():
    transcript = begun()
    transcript.add(data("a", 0))
    transcript.begin(start(resumed=True))
    transcript.add(data("b", 1))
    transcript.verify(end("ab"))


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        (data("x", 1), "index 1 came where 0 was due"),
        (data("x", 0, next_index=-1), "index 0"),
        (data("x", 0, rev=1), "revision 1 came without a reset"),
        (data("x", 0, message_id="m-2"), "a frame of m-2"),
    ],
)
def test_a_frame_that_does_not_go_on_is_told(frame, told):
    with pytest.raises(Diverged, match=told):
        begun().add(frame)


def test_text_before_a_start_is_told():
    with pytest.raises(Diverged, match="no START"):
        Transcript().add(data("x", 0))


def test_a_second_start_of_another_answer_is_told():
    with pytest.raises(Diverged, match="m-2"):
        begun().begin(start(message_id="m-2"))


@pytest.mark.parametrize(
    ("ending", "told"),
    [(end("other"), "0 code points are here, 5"), (end("x", length=0), "checksum"), (end("", rev=2), "revision 2")],
)
def test_an_end_that_does_not_fit_is_told(ending, told):
    with pytest.raises(Diverged, match=told) as caught:
        begun().verify(ending)
    assert caught.value.message_id == "m-1"
