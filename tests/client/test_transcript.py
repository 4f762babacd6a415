from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scm_trio.client.failures import Diverged
from scm_trio.client.transcript import Replay, Transcript
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


# ---- frames that tell again what is held


def frame(pieces, begin, end):
    """The frame that carries these pieces, all of one kind: (is reasoning, text)."""
    joined = "".join(text for _, text in pieces[begin:end])
    is_reasoning = pieces[begin][0]
    return data("" if is_reasoning else joined, begin, next_index=end, reasoning=joined if is_reasoning else None)


def written(pieces, kind):
    return "".join(text for is_reasoning, text in pieces if is_reasoning is kind)


PIECES = st.lists(st.tuples(st.booleans(), st.text("ab", max_size=3)), min_size=1, max_size=12)
MOVES = st.lists(st.tuples(st.booleans(), st.one_of(st.none(), st.integers(0, 9)), st.integers(1, 12)), max_size=20)


@given(PIECES, MOVES)
def test_a_position_may_move_anywhere_it_was_asked_to_and_nothing_comes_twice(pieces, moves):
    transcript, asked, shown, cursor = begun(), [0], ["", ""], 0
    to_the_end = [(True, -1, 12)] + [(False, None, 12)] * len(pieces)
    for asks, jump, size in [*moves, *to_the_end]:
        if asks:
            asked.append(transcript.ask())
        if jump is not None or cursor == len(pieces):
            transcript.begin(start(resumed=True))
            cursor = asked[(jump or 0) % len(asked)]
        if cursor < len(pieces):
            kind = pieces[cursor][0]
            same = next((at for at in range(cursor, len(pieces)) if pieces[at][0] != kind), len(pieces))
            end = min(cursor + size, same)
            fresh = transcript.merge(frame(pieces, cursor, end))
            shown[0] += fresh.delta if fresh else ""
            shown[1] += (fresh.reasoning or "") if fresh else ""
            cursor = end
    assert [transcript.text, transcript.reasoning] == shown == [written(pieces, False), written(pieces, True)]


@pytest.mark.parametrize(
    ("again", "told"),
    [
        (data("axc", 0, next_index=3), "something else than before"),
        (data("abc", 0, next_index=2), "says more than before"),
        (data("b", 1), "index 1 came where 2 was due"),
        (data("ab", 0, next_index=-1), "index 0"),
        (data("ab", 0, rev=1), "revision 1"),
        (data("ab", 0, message_id="m-2"), "a frame of m-2"),
    ],
)
def test_what_is_told_again_has_to_be_the_same(again, told):
    transcript = begun()
    transcript.merge(data("a", 0))
    transcript.merge(data("b", 1))
    transcript.merge(data("ab", 0, next_index=2))
    with pytest.raises(Diverged, match=told):
        transcript.merge(again)
    transcript.merge(data("c", 2))
    assert transcript.text == "abc"


def replayed(shown, *frames):
    """What readers get of frames that come after a reset, when they got ``shown`` before: (text, reasoning) each."""
    replay, transcript, news = Replay(*shown), begun(), []
    for each in frames:
        transcript.add(each)
        if not replay.agrees(transcript):
            return [*news, "anew"]
        piece = replay.news(transcript, each)
        news += [] if piece is None else [(piece.delta, piece.reasoning)]
    return [*news, "over" if replay.is_over(transcript) else "not over"]


@pytest.mark.parametrize(
    ("frames", "wanted"),
    [
        ([data("ab", 0)], ["over"]),
        ([data("a", 0)], ["not over"]),
        ([data("a", 0), data("bc", 1), data("d", 2)], [("c", None), ("d", None), "over"]),
        ([data("abcd", 0)], [("cd", None), "over"]),
        ([data("", 0, reasoning="x"), data("abc", 1)], [("", "x"), ("c", None), "over"]),
        ([data("a", 0), data("x", 1)], ["anew"]),
    ],
)
def test_a_replay_gives_what_readers_have_not_got(frames, wanted):
    assert replayed(("ab", ""), *frames) == wanted


def test_a_replay_counts_text_and_reasoning_apart():
    assert replayed(("ab", "hm"), data("", 0, reasoning="hm!"), data("abc", 1)) == [("", "!"), ("c", None), "over"]
    assert replayed(("ab", "hm"), data("", 0, reasoning="oh")) == ["anew"]
    assert replayed(("ab", "hm"), data("abc", 0)) == [("c", None), "not over"]


def test_a_second_replay_counts_what_came_with_the_first():
    extended = Replay("ab", "hm!").extended("abc", "hm")
    assert extended == Replay("abc", "hm!")
