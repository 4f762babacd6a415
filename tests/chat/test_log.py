import hashlib

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from scm_trio.chat.log import MAX_DELTA_CHARS, AnswerLog
from scm_trio.model import Delta, DeltaKind


def log_of(*texts, max_bytes=1_000_000):
    log = AnswerLog(max_bytes)
    for text in texts:
        log.append([Delta(text)], 0.0)
    return log


def thought(text):
    return Delta(text, DeltaKind.REASONING)


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def read(log, max_chars=10**9, cursor=0):
    chunks = []
    while (chunk := log.take(cursor, max_chars)) is not None:
        chunks.append(chunk)
        cursor = chunk.next_index
    return chunks


def test_what_piles_up_is_taken_in_one_chunk():
    (chunk,) = read(log_of("供", "应", "链"))
    assert (chunk.index, chunk.next_index, chunk.text) == (0, 3, "供应链")


def test_each_cursor_reads_for_itself():
    log = log_of("a", "b")
    assert log.take(0, 10).text == "ab"
    assert log.take(1, 10).text == "b"
    assert log.take(2, 10) is None
    log.append([Delta("c")], 1.0)
    assert log.take(2, 10).text == "c"


def test_thinking_and_text_never_share_a_chunk():
    log = AnswerLog(100)
    log.append([thought("h"), thought("m"), Delta("a"), thought("x"), Delta("b")], 0.0)
    assert [(chunk.text, chunk.reasoning) for chunk in read(log)] == [
        ("hm", True),
        ("a", False),
        ("x", True),
        ("b", False),
    ]
    assert (log.content, log.reasoning, log.length) == ("ab", "hmx", 2)
    assert log.sha256 == sha("ab")


def test_a_refusal_of_the_model_is_text():
    log = AnswerLog(100)
    log.append([Delta("I can't", DeltaKind.REFUSAL)], 0.0)
    assert log.content == "I can't"


def test_a_chunk_stays_below_its_limit_but_never_splits_a_delta():
    log = log_of("aaaa", "bbbb", "cccccccccc")
    assert [chunk.text for chunk in read(log, 9)] == ["aaaabbbb", "cccccccccc"]
    assert [chunk.text for chunk in read(log, 1)] == ["aaaa", "bbbb", "cccccccccc"]


def test_a_chunk_knows_when_its_oldest_delta_came():
    log = AnswerLog(100)
    log.append([Delta("a")], 1.0)
    log.append([Delta("b")], 2.0)
    assert log.take(0, 10).appended_at == 1.0
    assert log.take(1, 10).appended_at == 2.0


def test_a_very_long_delta_is_split_so_that_each_fits_into_a_frame():
    text = "x" * (2 * MAX_DELTA_CHARS + 1)
    log = log_of(text, max_bytes=10**7)
    assert log.next_index == 3
    assert log.content == text
    assert log.sha256 == sha(text)


def test_an_empty_delta_takes_no_place():
    log = log_of("")
    assert log.next_index == 0


@pytest.mark.parametrize(
    ("text", "max_bytes", "kept"),
    [
        ("abcdef", 4, "abcd"),
        ("供应链", 8, "供应"),
        ("供应链", 9, "供应链"),
        ("a😀b", 4, "a"),
        ("a😀b", 5, "a😀"),
    ],
)
def test_an_answer_is_cut_at_a_whole_character(text, max_bytes, kept):
    log = AnswerLog(max_bytes)
    assert log.append([Delta(text), Delta("never")], 0.0) is (kept == text and max_bytes > len(kept.encode()))
    assert log.content == kept
    assert log.length == len(kept)
    assert log.sha256 == sha(kept)


def test_an_answer_of_exactly_its_limit_is_not_cut():
    log = AnswerLog(4)
    assert log.append([Delta("ab"), Delta("cd")], 0.0)
    assert not log.append([Delta("e")], 0.0)
    assert log.content == "abcd"


def test_thinking_takes_room_as_well():
    log = AnswerLog(4)
    assert not log.append([thought("abc"), Delta("de")], 0.0)
    assert (log.reasoning, log.content) == ("abc", "d")


def test_text_that_is_no_unicode_leaves_length_and_sum_right():
    log = AnswerLog(100)
    with pytest.raises(UnicodeEncodeError):
        log.append([Delta("ok"), Delta("\ud800")], 0.0)
    assert (log.content, log.length, log.sha256) == ("ok", 2, sha("ok"))


async def test_a_reader_waits_only_where_there_is_nothing_newer(autojump_clock):
    log = log_of("a")
    with trio.fail_after(1):
        await log.wait(0)
    with trio.move_on_after(1) as scope:
        await log.wait(1)
    assert scope.cancelled_caught


@pytest.mark.parametrize("wake", [lambda log: log.append([Delta("b")], 0.0), AnswerLog.seal, AnswerLog.nudge])
async def test_all_readers_wake_on_text_on_the_seal_and_on_a_nudge(autojump_clock, wake):
    log = log_of("a")
    with trio.fail_after(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.wait, 1)
            nursery.start_soon(log.wait, 1)
            await trio.sleep(1)
            wake(log)


async def test_a_sealed_log_lets_nobody_wait(autojump_clock):
    log = log_of("a")
    log.seal()
    with trio.fail_after(1):
        await log.wait(1)


pieces = st.lists(st.tuples(st.booleans(), st.text(max_size=6)), max_size=5)
steps = st.lists(st.one_of(pieces, st.integers(1, 12)), max_size=30)


@given(steps=steps, max_bytes=st.integers(1, 120))
def test_however_appends_and_takes_interleave_nothing_is_lost_and_nothing_comes_twice(steps, max_bytes):
    log, chunks, cursor = AnswerLog(max_bytes), [], 0
    for step in [*steps, 10**6, 10**6, 10**6]:
        if isinstance(step, list):
            log.append([Delta(text, DeltaKind.REASONING if thinks else DeltaKind.TEXT) for thinks, text in step], 0.0)
        elif (chunk := log.take(cursor, step)) is not None:
            chunks.append(chunk)
            cursor = chunk.next_index
    chunks += read(log, cursor=cursor)
    assert [chunk.index for chunk in chunks] == [0, *(chunk.next_index for chunk in chunks)][: len(chunks)]
    assert "".join(chunk.text for chunk in chunks if not chunk.reasoning) == log.content
    assert "".join(chunk.text for chunk in chunks if chunk.reasoning) == log.reasoning
    assert len((log.content + log.reasoning).encode()) <= max_bytes
    assert log.length == len(log.content)
    assert log.sha256 == sha(log.content)
