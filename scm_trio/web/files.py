"""Uploads, and downloads of what was uploaded."""

from __future__ import annotations

from contextlib import AsyncExitStack, aclosing

from attrs import define, field, frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from scm_trio.chat.files import Files, Upload
from scm_trio.chat.media import download_name
from scm_trio.errors import InvalidMessage
from scm_trio.model import File
from scm_trio.protocol import messages, records
from scm_trio.protocol.codec import plain
from scm_trio.web.disposition import attachment
from scm_trio.web.multipart import FormParts, PartBegins
from scm_trio.web.openapi import BYTES, ERROR, ID, Answer, Operation, Parameter, model, object_of
from scm_trio.web.services import WebServices, path_id

FILES_PATH = "/scm/ai/files"
FIELD = "file"


_INFO = model(messages.FileInfo)
_FILE = Parameter("id", "The file's id", "path", ID)


@frozen
class FileRoutes:
    services: WebServices

    def operations(self) -> list[Operation]:
        fine = Answer("The file as it is kept", _INFO, headers={"Location": "Where it can be read"})
        return [
            Operation(
                "POST",
                FILES_PATH,
                self.upload,
                "Upload a file, to attach it to a message",
                {
                    201: fine,
                    400: Answer("No form, no file in it, or none of a kind that is taken", ERROR),
                    408: Answer("The file came too slowly", ERROR),
                    409: Answer("The file came so slowly that it was given up", ERROR),
                    413: Answer("The file is too large", ERROR),
                    429: Answer("The user's files take up all of the room, or too many are coming at once", ERROR),
                    503: Answer("The database or the disk does not answer", ERROR),
                },
                access="user",
                form=object_of(**{FIELD: BYTES}),
            ),
            Operation(
                "GET",
                FILES_PATH + "/{id}",
                self.download,
                "Read a file that one uploaded",
                {
                    200: Answer("The file, to be saved", BYTES, "*/*"),
                    304: Answer("The caller has it already", media_type=None),
                    404: Answer("No such file, or not for the caller", ERROR),
                    503: Answer("The database or the disk does not answer", ERROR),
                },
                access="user",
                parameters=(_FILE,),
            ),
        ]

    async def upload(self, request: Request) -> Response:
        """Streams the field ``file`` to where files are kept; nothing else of the form counts."""
        principal = await self.services.user(request)
        parts = FormParts(request.headers.get("content-type", ""))
        upload: Upload | None = None
        is_file = False
        async with AsyncExitStack() as stack, aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                for event in parts.feed(chunk):
                    if isinstance(event, PartBegins):
                        is_file = event.name == FIELD
                        if is_file and upload is not None:
                            raise InvalidMessage(field=FIELD, expected="one_file")
                        if is_file:
                            coming = self.services.files.upload(principal.user_id, event.file_name)
                            upload = await stack.enter_async_context(coming)
                    elif is_file and upload is not None:
                        await upload.write(event.data)
            parts.close()
            if upload is None:
                raise InvalidMessage(field=FIELD, expected="missing")
            file = await upload.complete()
        location = f"{FILES_PATH}/{file.file_id}"
        return JSONResponse(plain(records.file(file)), 201, {"Location": location})

    async def download(self, request: Request) -> Response:
        principal = await self.services.user(request)
        file_id = path_id(request)
        file = await self.services.files.find(principal.user_id, file_id)
        etag = f'"{file.file_id}"'
        headers = {
            # Asked for again each time, so that who loses the right loses the file; answered with 304.
            "Cache-Control": "private, no-cache",
            "Content-Security-Policy": "sandbox; default-src 'none'",
            "Cross-Origin-Resource-Policy": "same-origin",
            "ETag": etag,
        }
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        first = await self.services.files.read(file, 0)
        headers |= {
            "Content-Disposition": attachment(download_name(file.name, file.media_type)),
            "Content-Length": str(file.size_bytes),
            "Content-Type": file.media_type + ("; charset=utf-8" if file.media_type.startswith("text/") else ""),
        }
        return StreamingResponse(_Pieces(self.services.files, file, first), headers=headers)


@define
class _Pieces:
    """A file's bytes, read as fast as its reader takes them. No generator, for it may be left in the middle."""

    _files: Files
    _file: File
    _next: bytes
    _position: int = field(default=0, init=False)

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> bytes:
        piece = self._next
        if not piece:
            raise StopAsyncIteration
        self._position += len(piece)
        is_last = self._position >= self._file.size_bytes
        self._next = b"" if is_last else await self._files.read(self._file, self._position)
        return piece
