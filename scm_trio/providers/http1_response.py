"""Parsing one HTTP/1.1 response: no clock, no network."""

from __future__ import annotations

import httptools

MAX_OVERHEAD_BYTES = 65_536
"""Bytes in a row without any payload: heads, interim responses, chunk extensions, trailers."""


class MalformedResponse(Exception):
    """What came is no HTTP response, or it ended too early."""


class _Surplus(Exception):
    """Something follows the response."""


class ResponseParser:
    """One response, in reads cut anywhere.

    Attributes:
        status: set with ``head_complete``.
        headers: names and values as they came, without those of trailers.
        head_complete: whether the head of the final response has been read; 1xx responses are skipped.
        complete: whether the whole response has been read.
        reusable: whether the connection may carry another request; counts once ``complete``.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.head_complete = False
        self.complete = False
        self.reusable = False
        self._overhead_bytes = 0
        self._parts: list[bytes] = []
        # The parser calls this for every chunk, that is for every token: the C method, with nothing of ours around it.
        self.on_body = self._parts.append
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> bytes:
        """Return all the payload in ``data`` as one piece, maybe empty.

        Raises:
            MalformedResponse: this is not HTTP, or there is too much around the payload.
        """
        if self._parser is None:
            self.reusable = False
            return b""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            # A complete response is good, whatever follows it; and payload before the fault is not lost: the parser
            # will tell the same fault again.
            if not self.complete and not self._parts:
                raise MalformedResponse(f"{type(exc).__name__}: {exc}") from exc
            self.reusable = False
        if self.complete:
            self.close()
        return self._payload(len(data))

    def feed_eof(self) -> None:
        """Tell that the peer has closed.

        Raises:
            MalformedResponse: the response was not over.
        """
        names = {name.lower() for name, _ in self.headers}
        framed = b"content-length" in names or b"transfer-encoding" in names
        if not self.complete and (framed or not self.head_complete):
            raise MalformedResponse("the peer closed the connection before the end of its response")
        self.complete = True
        self.reusable = False
        self.close()

    def close(self) -> None:
        """Let go of the C parser: it and this object hold each other, which only a garbage collection would undo."""
        self._parser = None

    def _payload(self, fed_bytes: int) -> bytes:
        parts = self._parts
        if not parts:
            self._overhead_bytes += fed_bytes
            if self._overhead_bytes > MAX_OVERHEAD_BYTES and not self.complete:
                raise MalformedResponse(f"more than {MAX_OVERHEAD_BYTES} bytes without payload")
            return b""
        self._overhead_bytes = 0
        payload = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        return payload

    # What the C parser calls.

    def on_message_begin(self) -> None:
        if self.complete:
            raise _Surplus

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.head_complete:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.status = self._live_parser.get_status_code()
        if self.status >= 200:
            self.head_complete = True
        else:
            self.headers.clear()

    def on_message_complete(self) -> None:
        if self.head_complete:
            self.complete = True
            self.reusable = self._live_parser.should_keep_alive()

    @property
    def _live_parser(self) -> httptools.HttpResponseParser:
        assert self._parser is not None  # noqa: S101 - it is the parser itself that is calling
        return self._parser
