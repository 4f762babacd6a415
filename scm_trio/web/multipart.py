"""A form with files (RFC 7578) as events, while its bytes come. Pure.

Starlette's own form parser goes by the same ``python-multipart``, but it only hands a part over when the whole form has
been written to a temporary file of its choice: too late to refuse anything.
"""

from __future__ import annotations

from attrs import frozen
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from scm_trio.errors import InvalidMessage

MAX_PARTS = 16
OVERHEAD_BYTES = 65_536
"""Room for everything in a form that is not the file itself."""


@frozen
class PartBegins:
    """``file_name`` is empty where the part has none."""

    name: str
    file_name: str


@frozen
class PartData:
    data: bytes


Event = PartBegins | PartData


class FormParts:
    """One form. Its limits are those of the bridge for the whole body, the library's for headers, and ``MAX_PARTS``."""

    def __init__(self, content_type: str) -> None:
        """Take the request's ``Content-Type``.

        Raises:
            InvalidMessage: it is not that of such a form.
        """
        media_type, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if media_type != b"multipart/form-data" or not boundary:
            raise InvalidMessage("no form", field="Content-Type", expected="form")
        self._events: list[Event] = []
        self._parts = 0
        self._header = b""
        self._disposition = b""
        self._is_over = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_begin": self._begin_header,
                    "on_header_field": self._name_header,
                    "on_header_value": self._read_header,
                    "on_headers_finished": self._announce,
                    "on_part_data": self._read,
                    "on_end": self._end,
                },
            )
        except FormParserError:
            raise _malformed() from None

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes; returns what is known because of them.

        Raises:
            InvalidMessage: this is no form, or one of too many parts.
        """
        try:
            self._parser.write(data)
        except FormParserError:
            raise _malformed() from None
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """The body is at its end.

        Raises:
            InvalidMessage: the form is not: a part may have been cut.
        """
        if not self._is_over:
            raise _malformed()

    def _begin(self) -> None:
        self._parts += 1
        self._disposition = b""
        if self._parts > MAX_PARTS:
            raise _malformed()

    def _begin_header(self) -> None:
        self._header = b""

    def _name_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _read_header(self, data: bytes, start: int, end: int) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition += data[start:end]

    def _announce(self) -> None:
        _, options = parse_options_header(self._disposition)
        name, file_name = (_text(options.get(key, b"")) for key in (b"name", b"filename"))
        self._events.append(PartBegins(name, file_name))

    def _read(self, data: bytes, start: int, end: int) -> None:
        self._events.append(PartData(data[start:end]))

    def _end(self) -> None:
        self._is_over = True


def _text(raw: bytes) -> str:
    """Browsers write names as UTF-8; what is none is still a name."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _malformed() -> InvalidMessage:
    return InvalidMessage("malformed form", field="body", expected="form")
