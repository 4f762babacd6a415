"""What a file is, by its bytes; and what it may be called."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scm_trio.chat import media
from scm_trio.chat.media import ALLOWED, MAX_NAME_CHARS, Sniffer, download_name, label
from scm_trio.chat.signatures import HEAD_BYTES
from scm_trio.errors import InvalidMessage

# The beginnings are those of real files; behind them are zeros.
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06" + bytes(41)
TABLE = b"\xff\xdb\x00\x43" + bytes(65)
JFIF = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01" + bytes(7) + TABLE + bytes(20)
EXIF = b"\xff\xd8\xff\xe1\x20\x00Exif\x00\x00" + bytes(0x2000 - 8) + TABLE
BARE_JPEG = b"\xff\xd8" + TABLE + TABLE
SCREEN = b"GIF89a\x01\x00\x01\x00"
IMAGE = b"\x2c" + bytes(8) + b"\x00\x02\x02\x44\x01\x00\x3b"
GIF = SCREEN + b"\x80\x00\x00" + bytes(6) + b"\x21\xf9\x04\x01\x00\x00\x00\x00" + IMAGE
GIF_OF_256 = SCREEN + b"\xf7\x00\x00" + bytes(768) + IMAGE
GIF_WITHOUT_COLOURS = SCREEN + b"\x77\x00\x00" + IMAGE
WEBP = b"RIFF\x24\x00\x00\x00WEBPVP8 \x18\x00\x00\x00\x30\x01\x00\x9d\x01\x2a" + bytes(18)
WEBP_LOSSLESS = b"RIFF\x1a\x00\x00\x00WEBPVP8L\x0d\x00\x00\x00\x2f" + bytes(13)
WEBP_EXTENDED = b"RIFF\x24\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x10" + bytes(23)
PDF = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\n"


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
        (JFIF, "image/jpeg"),
        (EXIF, "image/jpeg"),
        (BARE_JPEG, "image/jpeg"),
        (GIF, "image/gif"),
        (GIF.replace(b"89", b"87"), "image/gif"),
        (GIF_OF_256, "image/gif"),
        (GIF_WITHOUT_COLOURS, "image/gif"),
        (WEBP, "image/webp"),
        (WEBP_LOSSLESS, "image/webp"),
        (WEBP_EXTENDED, "image/webp"),
        (PDF, "application/pdf"),
        (PDF.replace(b"1.7\n", b"2.0\r"), "application/pdf"),
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
    "data",
    [
        PNG[:66],
        PNG.replace(b"IHDR\x00\x00\x00\x01", b"IHDR\x00\x00\x00\x00"),
        PNG.replace(b"\rIHDR", b"\x0eIHDR"),
        b"\xff\xd8\xff",
        JFIF[:99],
        JFIF.replace(TABLE, bytes(69)),
        JFIF.replace(b"\x00\x10JFIF", b"\x00\x01JFIF"),
        b"\xff\xd8\xff\xd9" + bytes(200),
        b"\xff\xd8\xff\x00" + bytes(200),
        b"GIF89a",
        b"GIF89a<script>alert(document.domain)</script>" + b" " * 40,
        b"GIF89a=1;" + b"x" * 2000,
        GIF[:25],
        GIF_OF_256.replace(IMAGE, b"\x00" * 40),
        GIF_OF_256[:700],
        WEBP[:20],
        WEBP.replace(b"\x9d\x01\x2a", b"\x9d\x01\x2b"),
        WEBP.replace(b"VP8 ", b"VP8?"),
        WEBP_LOSSLESS.replace(b"\x2f", b"\x2e"),
        WEBP_EXTENDED.replace(b"\x0a", b"\x0b"),
        b"%PDF-",
        b"%PDF-1.7\n",
        b"%PDF-<script>" + b"x" * 100,
        b"%PDF-1.77" + b"x" * 100,
    ],
)
@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_a_signature_alone_is_no_file_of_its_kind_and_no_text_either(data, piece):
    assert refusal(data, "a.txt", piece) == "media_type"


def test_what_only_has_a_signature_is_refused_before_the_rest_has_come():
    sniffer = Sniffer()
    sniffer.feed(b"GIF89a=1;" + b"x" * (HEAD_BYTES - 10))
    with pytest.raises(InvalidMessage):
        sniffer.feed(b"x")


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
    assert len(sniffer._head) <= HEAD_BYTES
    assert sniffer.media_type("x") == "text/plain"


BEGINNINGS = st.sampled_from(
    [b"", PNG[:24], JFIF[:20], b"\xff\xd8\xff", SCREEN, WEBP[:26], b"RIFF0000WEBPVP8", b"%PDF-1.4"]
)


@given(st.builds(bytes.__add__, BEGINNINGS, st.binary(max_size=200)), st.integers(1, 40))
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
