"""What a file is, by its bytes; and what it may be called."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scm_trio.chat import media
from scm_trio.chat.media import ALLOWED, MAX_NAME_CHARS, Sniffer, download_name, label
from scm_trio.errors import InvalidMessage

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(40)
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(40)
GIF = b"GIF89a" + bytes(40)
WEBP = b"RIFF\x24\x00\x00\x00WEBPVP8 " + bytes(40)
PDF = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"


def sniff(data: bytes, name: str = "file", piece: int = 7) -> str:
    sniffer = Sniffer()
    for start in range(0, len(data), piece):
        sniffer.feed(data[start : start + piece])
    return sniffer.media_type(name)


def refusal(data: bytes, name: str = "file", piece: int = 7) -> str:
    with pytest.raises(InvalidMessage) as caught:
        sniff(data, name, piece)
    assert caught.value.field == "file"
    return caught.value.params["expected"]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PNG, "image/png"),
        (JPEG, "image/jpeg"),
        (GIF, "image/gif"),
        (GIF.replace(b"89", b"87"), "image/gif"),
        (WEBP, "image/webp"),
        (PDF, "application/pdf"),
        (b"plain", "text/plain"),
        ("供应链 🚚\r\n\tok\x0c\x1b[1m".encode(), "text/plain"),
        (b"\xef\xbb\xbfwith a mark", "text/plain"),
        (b" ", "text/plain"),
    ],
)
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_the_content_alone_says_what_it_is(data, kind, piece):
    for name in ("x.exe", "x.html", "x.pdf", "x"):
        assert sniff(data, name, piece) == kind


@pytest.mark.parametrize(
    ("data", "name", "kind"),
    [
        (b"# Hi", "a.md", "text/markdown"),
        (b"# Hi", "A.MARKDOWN", "text/markdown"),
        (b"a,b\n1,2", "a.csv", "text/csv"),
        (b'{"a": 1}', "a.json", "application/json"),
        (b"\xef\xbb\xbf \n[1,\n2]\n\n", "a.json", "application/json"),
        (b'{"a": 1}', "a.txt", "text/plain"),
        (b"not JSON", "a.json", "text/plain"),
        (b'{"a": 1} and more', "a.json", "text/plain"),
        (b"{]", "a.json", "text/plain"),
    ],
)
@pytest.mark.parametrize("piece", [1, 1000])
def test_the_name_chooses_only_among_the_kinds_of_text(data, name, kind, piece):
    assert sniff(data, name, piece) == kind


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02",
        b"text\x00text",
        b"MZ\x90\x00" + bytes(60),
        b"\x7fELF" + bytes(60),
        b"PK\x03\x04" + bytes(60),
        b"\x1f\x8b\x08" + bytes(60),
        "供应".encode("gbk"),
        "text".encode("utf-16"),
        b"half a character \xe4\xbe",
        b"\xff\xfe",
        b"\xed\xa0\x80 a surrogate",
        b"\x89PNG\r\n\x1a\nno header",
        b"RIFF\x24\x00\x00\x00AVI LIST",
    ],
)
@pytest.mark.parametrize("piece", [1, 1000])
def test_everything_else_is_refused(data, piece):
    assert refusal(data, "a.png", piece) == "media_type"


@pytest.mark.parametrize(
    "text",
    [
        "<!DOCTYPE html><p>",
        "<html>",
        "  \n\t<HTML lang=en>",
        "\ufeff<?xml version='1.0'?><svg/>",
        "<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'>",
        "<svg:svg xmlns:svg='http://www.w3.org/2000/svg'>",
        "<!-- a --> <!-- b -->\n<svg>",
        "<script>alert(1)</script>",
        "<!--" + "x" * 60_000 + "--><body onload=alert(1)>",
        "<iframe src=//x>",
    ],
)
@pytest.mark.parametrize("piece", [1000, 100_000])
def test_pages_and_drawings_that_could_run_something_are_refused(text, piece):
    assert refusal(text.encode(), "a.txt", piece) == "media_type"


@pytest.mark.parametrize(
    "text", ["<p align=center>a readme</p>", "<!-- only a comment -->", "a < b > c", "<header>", "# <svg>"]
)
def test_a_text_may_speak_of_pages(text):
    assert sniff(text.encode(), "a.md") == "text/markdown"


def test_a_row_of_comments_is_read_once():
    # With a backtracking pattern this takes longer than anybody waits.
    assert sniff(("<!---->" * 9_000 + "x").encode(), piece=65_536) == "text/plain"


def test_an_empty_file_is_refused_as_such():
    assert refusal(b"") == "empty"


def test_what_cannot_be_a_file_of_ours_is_refused_as_soon_as_it_shows():
    sniffer = Sniffer()
    sniffer.feed(b"x" * 100)
    with pytest.raises(InvalidMessage):
        sniffer.feed(b"\x00")


def test_a_sniffer_keeps_no_more_than_the_beginning():
    sniffer = Sniffer()
    for _ in range(50):
        sniffer.feed(b"x" * 65_536)
    assert len(sniffer._beginning) <= 2 * media._MARKUP_CHARS
    assert sniffer.media_type("x") == "text/plain"


@given(st.binary(max_size=200), st.integers(1, 40))
@example(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHD", 3)
def test_the_verdict_does_not_depend_on_how_the_bytes_come(data, piece):
    def verdict(size):
        try:
            return sniff(data, "a.json", size)
        except InvalidMessage as exc:
            return exc.params["expected"]

    assert verdict(piece) == verdict(1000)
    assert verdict(1000) in {*ALLOWED, "media_type", "empty"}


# ---- names


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("报告.pdf", "报告.pdf"),
        ("../../etc/passwd", "passwd"),
        (r"C:\Users\me\photo.jpg", "photo.jpg"),
        ("a\x00b\nc\td.txt", "abcd.txt"),
        ("  a   b .txt ", "a b .txt"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        ("e\u0301.txt", "é.txt"),
        ("", "file"),
        ("...", "file"),
        ("/", "file"),
        ("\ud800", "file"),
        (".env", "env"),
    ],
)
def test_a_label_is_one_visible_line_without_a_path(raw, name):
    assert label(raw) == name


def test_a_long_label_keeps_its_ending():
    assert label("x" * 500 + ".markdown") == "x" * (MAX_NAME_CHARS - 9) + ".markdown"
    assert label("x" * 500 + "." + "y" * 50) == "x" * MAX_NAME_CHARS


@given(st.text(max_size=300))
def test_any_name_makes_a_label_and_a_label_stays_as_it_is(raw):
    made = label(raw)
    assert 1 <= len(made) <= MAX_NAME_CHARS
    assert label(made) == made
    assert not set(made) & set("/\\\n\r\x00")
    made.encode()


@pytest.mark.parametrize(
    ("name", "kind", "saved"),
    [
        ("a.png", "image/png", "a.png"),
        ("a.JPEG", "image/jpeg", "a.JPEG"),
        ("a.exe", "image/png", "a.exe.png"),
        ("a", "application/pdf", "a.pdf"),
        ("notes.md", "text/markdown", "notes.md"),
        ("run.bat", "text/plain", "run.bat.txt"),
        ("page.html", "text/plain", "page.html.txt"),
        ("html", "text/plain", "html.txt"),
        ("a.html", "application/json", "a.html.txt"),
    ],
)
def test_a_saved_file_never_has_an_ending_that_runs_it(name, kind, saved):
    assert download_name(name, kind) == saved
