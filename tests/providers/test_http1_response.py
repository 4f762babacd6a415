from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scm_trio.providers.http1_response import MAX_OVERHEAD_BYTES, MalformedResponse, ResponseParser

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"


def parse(*reads: bytes) -> tuple[ResponseParser, list[bytes]]:
    parser = ResponseParser()
    return parser, [parser.feed(read) for read in reads]


def parse_on(parser: ResponseParser, *reads: bytes) -> None:
    for read in reads:
        parser.feed(read)


def test_all_chunks_of_one_read_come_as_one_piece():
    parser, payload = parse(CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n", b"1\r\nf\r\n0\r\nTrailer: 1\r\n\r\n")
    assert payload == [b"abcde", b"f"]
    assert (parser.status, parser.headers) == (200, [(b"Transfer-Encoding", b"chunked")])
    assert parser.complete
    assert parser.reusable


@pytest.mark.parametrize("head", [b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 200 OK\r\nConnection: close\r\n"])
def test_a_server_that_will_close_is_not_asked_again(head):
    parser, payload = parse(head + b"Content-Length: 3\r\n\r\nabc")
    assert payload == [b"abc"]
    assert parser.complete
    assert not parser.reusable


def test_a_body_without_a_length_ends_with_the_connection():
    parser, payload = parse(b"HTTP/1.1 200 OK\r\n\r\n", b"abc", b"def")
    assert not parser.complete
    parser.feed_eof()
    assert payload == [b"", b"abc", b"def"]
    assert parser.complete
    assert not parser.reusable


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 20", SIZED + b"ab", CHUNKED + b"3\r\nabc\r\n"])
def test_an_early_end_is_noticed(start):
    parser, _ = parse(start)
    with pytest.raises(MalformedResponse, match="before the end"):
        parser.feed_eof()


def test_interim_responses_are_skipped():
    interim = b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    parser, payload = parse(*interim, SIZED + b"abc")
    assert payload == [b"", b"", b"abc"]
    assert parser.headers == [(b"Content-Length", b"3")]
    assert parser.reusable


@pytest.mark.parametrize("rest", [b"HTTP/1.1 200 OK\r\n\r\n", b"garbage"])
def test_a_connection_with_something_after_the_response_is_not_reused(rest):
    parser, payload = parse(SIZED + b"abc" + rest)
    assert payload == [b"abc"]
    assert parser.complete
    assert not parser.reusable


def test_what_comes_after_the_response_in_another_read_is_no_payload():
    parser, payload = parse(SIZED + b"abc", b"more")
    assert payload == [b"abc", b""]
    assert not parser.reusable


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        CHUNKED + b"nonsense\r\n",
        CHUNKED + b"fffffffffffffffff\r\n",
    ],
)
def test_what_is_no_response_is_refused(data):
    with pytest.raises(MalformedResponse):
        parse(data)


def test_payload_before_a_fault_is_not_lost():
    parser, payload = parse(CHUNKED + b"3\r\nabc\r\nnonsense\r\n")
    assert payload == [b"abc"]
    with pytest.raises(MalformedResponse):
        parser.feed(b"more")


@pytest.mark.parametrize(
    ("start", "filler"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X: " + b"x" * 1000 + b"\r\n"),
        (b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 40),
        (CHUNKED + b"1;x=", b"x" * 1000),
        (CHUNKED + b"0\r\n", b"X: " + b"x" * 1000 + b"\r\n"),
    ],
)
def test_what_is_around_the_payload_is_limited(start, filler):
    parser, _ = parse(start)
    for _ in range((MAX_OVERHEAD_BYTES - 100) // len(filler) - 1):
        parser.feed(filler)
    with pytest.raises(MalformedResponse, match="without payload"):
        parse_on(parser, filler, filler, filler)


def test_much_payload_with_little_around_it_is_not_limited():
    chunk = b"400\r\n" + b"x" * 1024 + b"\r\n"
    parser, payload = parse(CHUNKED, *[chunk] * 200, b"0\r\n\r\n")
    assert parser.complete
    assert sum(map(len, payload)) == 200 * 1024


WHOLE = b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + b"3\r\nabc\r\n4\r\ndefg\r\n0\r\nT: x\r\n\r\n"


@given(st.sets(st.integers(1, len(WHOLE) - 1), max_size=12))
def test_it_does_not_matter_where_the_bytes_are_cut(cuts):
    bounds = [0, *sorted(cuts), len(WHOLE)]
    parser, payload = parse(*(WHOLE[start:end] for start, end in pairwise(bounds)))
    assert b"".join(payload) == b"abcdefg"
    assert parser.complete
    assert parser.reusable
