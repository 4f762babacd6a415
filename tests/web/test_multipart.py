"""A form, whole or in pieces, as events."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scm_trio.errors import InvalidMessage
from scm_trio.web.multipart import MAX_PARTS, FormParts, PartBegins, PartData

TYPE = "multipart/form-data; boundary=b0undary"
FORM = (
    b'--b0undary\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n'
    b'--b0undary\r\nContent-Disposition: form-data; name="file"; filename="\xe5\x9b\xbe.png"\r\n'
    b"Content-Type: text/html\r\n\r\n\x89PNG\r\n--b0undar\r\n\r\n--b0undary--\r\n"
)
READ = [("note", "", b"hello"), ("file", "图.png", b"\x89PNG\r\n--b0undar\r\n")]


def read(data: bytes, piece: int = 10_000, content_type: str = TYPE) -> list[tuple[str, str, bytes]]:
    parts, found = FormParts(content_type), []
    for start in range(0, len(data), piece):
        for event in parts.feed(data[start : start + piece]):
            if isinstance(event, PartBegins):
                found.append((event.name, event.file_name, b""))
            else:
                assert isinstance(event, PartData)
                name, file_name, so_far = found.pop()
                found.append((name, file_name, so_far + event.data))
    parts.close()
    return found


@given(st.integers(1, len(FORM)))
@settings(derandomize=True, database=None, deadline=None)
def test_a_form_is_the_same_however_it_comes(piece):
    assert read(FORM, piece) == READ


def test_data_is_handed_over_as_it_comes():
    parts = FormParts(TYPE)
    parts.feed(FORM[: FORM.index(b"\x89")])
    assert parts.feed(b"x" * 1000) == [PartData(b"x" * 1000)]


@pytest.mark.parametrize(
    ("disposition", "name", "file_name"),
    [
        (b'form-data; name="file"', "file", ""),
        (b'form-data; name="file"; filename=""', "file", ""),
        (b'FORM-DATA; filename="a\\"b.txt"; name=file', "file", 'a"b.txt'),
        (b'form-data; name="file"; filename="caf\xe9.txt"', "file", "café.txt"),
        (b'form-data; name="file"; filename="C:\\\\x\\\\a.txt"', "file", "a.txt"),
        (b"attachment", "", ""),
    ],
)
def test_names_are_read_as_browsers_and_others_write_them(disposition, name, file_name):
    form = b"--b0undary\r\ncontent-DISPOSITION: " + disposition + b"\r\n\r\nx\r\n--b0undary--"
    assert read(form) == [(name, file_name, b"x")]


def test_a_part_without_headers_has_no_name():
    assert read(b"--b0undary\r\n\r\nx\r\n--b0undary--") == [("", "", b"x")]


@pytest.mark.parametrize(
    "content_type",
    ["", "application/json", "multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed; boundary=x"],
)
def test_another_content_type_is_refused(content_type):
    with pytest.raises(InvalidMessage) as caught:
        FormParts(content_type)
    assert (caught.value.field, caught.value.params["expected"]) == ("Content-Type", "form")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no form at all",
        FORM[:-4],
        FORM[:60],
        b"--b0undary\r\nno colon\r\n\r\nx\r\n--b0undary--",
        b"--b0undary\r\nX: " + b"x" * 10_000 + b"\r\n\r\nx\r\n--b0undary--",
        b"--b0undary\r\n" + b"X: x\r\n" * 20 + b"\r\nx\r\n--b0undary--",
        b"--b0undary\r\n\r\nx\r\n" * (MAX_PARTS + 1) + b"--b0undary--",
    ],
)
def test_what_is_no_whole_form_is_refused(data):
    with pytest.raises(InvalidMessage):
        read(data)


def test_a_boundary_of_impossible_length_is_refused():
    with pytest.raises(InvalidMessage):
        FormParts(f"multipart/form-data; boundary={'x' * 300}")


@given(st.binary(max_size=300), st.integers(1, 50))
@settings(derandomize=True, database=None, deadline=None)
def test_nothing_else_than_a_refusal_comes_of_any_bytes(data, piece):
    with suppress(InvalidMessage):
        read(b"--b0undary\r\n" + data, piece)
