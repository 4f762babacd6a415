from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scm_trio.providers.sse import EventTooLarge, SseDecoder, SseEvent


def decode(*reads: bytes, limit: int = 1000) -> list[SseEvent]:
    decoder = SseDecoder(limit)
    events = [event for read in reads for event in decoder.feed(read)]
    return events + decoder.close()


def datas(*reads: bytes) -> list[bytes]:
    return [event.data for event in decode(*reads)]


def test_one_read_may_hold_many_events():
    assert datas(b"data: 1\n\ndata: 2\n\ndata: 3\n\n") == [b"1", b"2", b"3"]


def test_an_event_may_come_in_many_reads():
    assert datas(b"da", b"ta: on", b"e\n", b"\n", b"data: two\n\n") == [b"one", b"two"]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_lines_end_at_lf_cr_or_crlf(end):
    assert datas(end.join([b"data: 1", b"data: 2", b"", b"data: 3", b"", b""])) == [b"1\n2", b"3"]


def test_a_crlf_may_be_cut_in_two():
    assert datas(b"data: 1\r", b"\ndata: 2\r", b"\n\r", b"\n") == [b"1\n2"]


def test_a_cr_ends_its_event_without_waiting_for_a_line_feed():
    decoder = SseDecoder()
    assert decoder.feed(b"data: 1\r\r") == [SseEvent(b"1")]
    assert decoder.feed(b"\ndata: 2\r\r") == [SseEvent(b"2")]


def test_unicode_line_separators_do_not_end_lines():
    text = "a\u2028b\u2029c\u0085d".encode()
    assert datas(b"data: " + text + b"\n\n") == [text]


def test_comments_and_unknown_fields_are_skipped_also_inside_an_event():
    assert datas(b": hi\n\n:\n\ndata: a\n: in\nid: 7\nretry: 1\nfoo\ndata: b\n\n") == [b"a\nb"]


def test_at_most_one_space_after_the_colon_is_dropped():
    assert datas(b"data:a\n\ndata:  b\n\n") == [b"a", b" b"]


def test_a_field_without_a_colon_is_an_empty_line_of_data():
    assert datas(b"data: a\ndata\ndata: b\n\n") == [b"a\n\nb"]


def test_events_without_data_are_skipped():
    assert datas(b"data: \n\ndata\n\nevent: ping\n\n\n\n\ndata: x\n\n") == [b"x"]


def test_the_name_of_an_event_is_its_last_event_field():
    assert decode(b"event: one\nevent: two\ndata: x\n\n") == [SseEvent(b"x", b"two")]


def test_a_field_called_error_is_kept_even_without_data():
    assert decode(b'error: {"code":500}\n\n') == [SseEvent(b"", b"", b'{"code":500}')]


@pytest.mark.parametrize("reads", [(b"\xef\xbb\xbfdata: x\n\n",), (b"\xef", b"\xbb", b"\xbfdata: x\n\n")])
def test_a_byte_order_mark_at_the_start_is_dropped(reads):
    assert datas(*reads) == [b"x"]


def test_half_a_byte_order_mark_is_content():
    assert datas(b"\xef\xbb", b"data: x\n\ndata: y\n\n") == [b"y"]


def test_an_event_without_its_empty_line_is_dropped_at_the_end():
    assert datas(b"data: 1\n\ndata: 2\n") == [b"1"]


@pytest.mark.parametrize("end", [b"data: [DONE]", b"data: [DONE]\n", b"data:[DONE]\r"])
def test_a_dangling_done_counts(end):
    assert datas(b"data: 1\n\n" + end) == [b"1", b"[DONE]"]


def test_an_event_may_have_just_the_allowed_size():
    block = b"data: " + b"x" * 94
    assert len(decode(block + b"\n\n", limit=100)) == 1
    assert len(decode(block, b"\n", b"\n", limit=100)) == 1


@pytest.mark.parametrize("size", [1, 7, 64, 500])
def test_an_event_that_is_too_large_is_refused(size):
    stream = b"data: " + b"x" * 300 + b"\n\n"
    with pytest.raises(EventTooLarge):
        decode(*(stream[i : i + size] for i in range(0, len(stream), size)), limit=100)


def test_lines_without_an_end_are_not_held_without_limit():
    with pytest.raises(EventTooLarge):
        decode(*[b": keep-alive\n"] * 10, limit=100)


LINES = st.sampled_from(
    [b"data: a", b"data:b", b"data", b": c", b"event: e", b"error: x", b"", b"", b"data: \xe6\x98\xa5", b"data: [DONE]"]
)


@st.composite
def cut_streams(draw) -> tuple[bytes, list[bytes]]:
    bom = draw(st.sampled_from([b"", b"\xef\xbb\xbf", b"\xef\xbb"]))
    lines = draw(st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r", b"\r\n"])), min_size=1, max_size=30))
    stream = bom + b"".join(line + end for line, end in lines)
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(stream) - 1)), max_size=20)))
    bounds = [0, *cuts, len(stream)]
    return stream, [stream[a:b] for a, b in pairwise(bounds) if a < b]


@given(cut_streams())
@example((b"\n\ndata: a\r\n\r\n", [b"\n", b"\ndata: a\r", b"\n\r", b"\n"]))
def test_it_does_not_matter_where_the_bytes_are_cut(case):
    stream, reads = case
    one_by_one = [stream[i : i + 1] for i in range(len(stream))]
    assert decode(*reads) == decode(stream) == decode(*one_by_one)
