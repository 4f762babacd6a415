"""Files come in, are read, and go: the rules around the rows (``store/files.py``) and the bytes (``store/blobs.py``)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
import trio
from attrs import define, evolve, field
from sqlalchemy import Connection

from scm_trio import config
from scm_trio.chat.media import Sniffer, label
from scm_trio.errors import Conflict, MessageTooLarge, NotFound, QuotaExceeded, RateLimited, ServerBusy, StoreError
from scm_trio.model import File
from scm_trio.store import files
from scm_trio.store.blobs import Blobs
from scm_trio.store.database import Database

log = structlog.get_logger(__name__)

MAX_UPLOADS = 64
"""Of all users at once."""
MAX_UPLOADS_PER_USER = 4
WRITE_BYTES = 262_144
"""What a coming file has in memory at most, besides the piece that just came."""
READ_BYTES = 262_144
SWEEP_BATCH = 200
CLEANUP_LIMIT_S = 5.0


class Files:
    """All files of this server.

    Args:
        database: its writer must be running.
        blobs: where the bytes lie.
        limits: sizes, quota and ages.
        now: wall clock, seconds since the epoch.
        new_id: makes unguessable ids.
    """

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        limits: config.Files,
        now: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self.database = database
        self.blobs = blobs
        self.limits = limits
        self._now = now
        self._new_id = new_id
        self._coming: dict[str, list[Upload]] = {}

    # ---- coming

    @asynccontextmanager
    async def upload(self, user_id: str, name: str) -> AsyncIterator[Upload]:
        """Take a file in; one that is not complete when the context is left is taken away again.

        Args:
            user_id: whose it will be.
            name: what its sender calls it; a cleaned label is all that is kept of it.

        Raises:
            RateLimited, ServerBusy: too many are coming already.
            StoreError: the database failed.
        """
        self._check_room(user_id)
        upload = Upload(self, File(f"f-{self._new_id()}", user_id, label(name), "", 0, self._now()))
        mine = self._coming.setdefault(user_id, [])
        mine.append(upload)
        try:
            upload.used_bytes = await self.database.write(files.announce, upload.file)
            yield upload
        finally:
            mine.remove(upload)
            if not mine:
                del self._coming[user_id]
            if not upload.is_complete:
                await self._discard(upload.file.file_id)

    def coming_bytes(self, user_id: str) -> int:
        """How much has come so far of this user's files that are not complete."""
        return sum(upload.size_bytes for upload in self._coming.get(user_id, ()))

    def _check_room(self, user_id: str) -> None:
        if len(self._coming.get(user_id, ())) >= MAX_UPLOADS_PER_USER:
            raise RateLimited("uploads", retry_after_s=1, notice="TOO_MANY_UPLOADS", limit=MAX_UPLOADS_PER_USER)
        if sum(map(len, self._coming.values())) >= MAX_UPLOADS:
            raise ServerBusy("uploads", retry_after_s=2)

    async def _discard(self, file_id: str) -> None:
        # Shielded: whoever gave up should not leave half a file. What cannot be done now is the sweeper's.
        with trio.move_on_after(CLEANUP_LIMIT_S, shield=True):
            try:
                await self.blobs.delete(file_id)
                await self.database.write(files.forget, [file_id])
            except StoreError as exc:
                log.warning("upload not discarded", file_id=file_id, error=str(exc))

    # ---- being read

    async def find(self, user_id: str, file_id: str) -> File:
        """Return the file, if this user may read it.

        Raises:
            NotFound: there is none, or it is none of the user's business.
            StoreError: the database failed.
        """
        file = await self.database.read(files.find_readable, user_id, file_id)
        if file is None:
            raise NotFound("no such file")
        return file

    async def read(self, file: File, start: int, limit: int = READ_BYTES) -> bytes:
        """Return at most ``limit`` bytes of a file from ``start``, which is before its end.

        Raises:
            NotFound: they are gone.
            StoreError: the disk failed.
        """
        data = await self.blobs.read(file.file_id, start, limit)
        if not data:
            log.error("file without its bytes", file_id=file.file_id)
            raise NotFound("bytes are gone")
        return data

    # ---- going

    async def sweep(self) -> None:
        """Delete some of what nobody needs any more: never attached for too long, or attached to nothing any more."""
        try:
            before = self._now() - self.limits.orphan_age_s
            if not await self.database.read(files.is_littered, unattached_before=before):
                return
            going = await self.database.write(files.sweep, unattached_before=before, limit=SWEEP_BATCH)
            gone = [file_id for file_id in going if await self._delete(file_id)]
            if gone:
                await self.database.write(files.forget, gone)
                log.info("files swept", count=len(gone))
        except StoreError as exc:
            log.warning("files not swept", error=str(exc))

    async def _delete(self, file_id: str) -> bool:
        try:
            await self.blobs.delete(file_id)
        except StoreError as exc:
            log.warning("file not deleted", file_id=file_id, error=str(exc))
            return False
        return True


@define(eq=False)
class Upload:
    """A file that is coming. It is judged while it comes, so that one that is not taken ends early.

    Attributes:
        used_bytes: what the other files of its owner cost of the quota.
        size_bytes: how much has come.
    """

    _files: Files
    file: File
    used_bytes: int = field(default=0, init=False)
    size_bytes: int = field(default=0, init=False)
    is_complete: bool = field(default=False, init=False)
    _sniffer: Sniffer = field(factory=Sniffer, init=False)
    _waiting: bytearray = field(factory=bytearray, init=False)
    _is_begun: bool = field(default=False, init=False)

    async def write(self, data: bytes) -> None:
        """Take the next bytes; waits for the disk, so that the peer is read no faster than that.

        Raises:
            MessageTooLarge, QuotaExceeded, InvalidMessage: the file is not taken.
            StoreError: the disk failed.
        """
        self.size_bytes += len(data)
        limits = self._files.limits
        if self.size_bytes > limits.max_size_bytes:
            raise MessageTooLarge("file", field="file", limit=limits.max_size_bytes, notice="FILE_TOO_LARGE")
        if self.used_bytes + self._files.coming_bytes(self.file.user_id) > limits.quota_bytes:
            raise _no_room(limits)
        self._sniffer.feed(data)
        self._waiting += data
        if len(self._waiting) >= WRITE_BYTES:
            await self._flush()

    async def complete(self) -> File:
        """All bytes have come: returns the file as it is kept.

        Raises:
            InvalidMessage, QuotaExceeded: the file is not taken.
            Conflict: it took so long that it was swept away.
            StoreError: the disk or the database failed.
        """
        media_type = self._sniffer.media_type(self.file.name)
        await self._flush()
        await self._files.blobs.seal(self.file.file_id)
        self.file = evolve(self.file, media_type=media_type, size_bytes=self.size_bytes)
        await self._files.database.write(_complete, self.file, self._files.limits)
        self.is_complete = True
        return self.file

    async def _flush(self) -> None:
        data = bytes(self._waiting)
        self._waiting.clear()
        await self._files.blobs.append(self.file.file_id, data, first=not self._is_begun)
        self._is_begun = True


def _complete(conn: Connection, file: File, limits: config.Files) -> None:
    if not files.complete(conn, file):
        raise Conflict("swept while it came")
    # Once more: several files may have come at once, over several servers.
    if files.used_bytes(conn, file.user_id) > limits.quota_bytes:
        raise _no_room(limits)


def _no_room(limits: config.Files) -> QuotaExceeded:
    return QuotaExceeded("files", field="file", notice="FILE_QUOTA", limit=limits.quota_bytes)
