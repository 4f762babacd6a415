"""Where the bytes of files lie: a folder on this machine's disk, behind what an object store could do as well.

Nothing is held open between two calls, so that neither a slow peer nor a cancel leaves a descriptor behind.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from scm_trio.errors import ConfigError, StoreError
from scm_trio.store.writer import Offload

_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")


class Blobs(Protocol):
    """Pieces of bytes by names that the server made. Every method may raise ``StoreError``."""

    async def append(self, name: str, data: bytes, *, first: bool) -> None:
        """Add bytes at the end; the ``first`` ones begin a blob that must not exist yet."""

    async def seal(self, name: str) -> None:
        """Make what has been appended survive a crash of the machine."""

    async def read(self, name: str, start: int, limit: int) -> bytes:
        """Return at most ``limit`` bytes from ``start``; none behind the end, nor of a blob that is not there."""

    async def delete(self, name: str) -> None:
        """Delete the blob; one that is not there is no failure."""


class Folder:
    """Blobs as files, readable by this account alone. The folder is made with the first of them.

    Args:
        path: the folder.
        offload: carries the blocking calls; ``inline`` under virtual time.

    Raises:
        ConfigError: the path is something else than a folder to write in.
    """

    def __init__(self, path: Path, offload: Offload) -> None:
        if path.exists() and not (path.is_dir() and os.access(path, os.W_OK | os.X_OK)):
            raise ConfigError(f"scm.files.path: {path} is not a folder that can be written to")
        self._path = path
        self._offload = offload

    async def append(self, name: str, data: bytes, *, first: bool) -> None:
        """See ``Blobs``."""
        await self._offload(_append, self._place(name), data, first)

    async def seal(self, name: str) -> None:
        """See ``Blobs``."""
        await self._offload(_seal, self._place(name))

    async def read(self, name: str, start: int, limit: int) -> bytes:
        """See ``Blobs``."""
        data: bytes = await self._offload(_read, self._place(name), start, limit)
        return data

    async def delete(self, name: str) -> None:
        """See ``Blobs``."""
        await self._offload(_delete, self._place(name))

    def _place(self, name: str) -> Path:
        """Two characters of the name make a folder, since a hundred thousand files in one are slow to list."""
        if not _NAME.fullmatch(name):
            raise ValueError("no name of ours")
        return self._path / name[-2:] / name


def _append(path: Path, data: bytes, first: bool) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    with _translated():
        if first:
            path.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            flags |= os.O_CREAT | os.O_EXCL
        with _opened(path, flags) as descriptor:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]


def _seal(path: Path) -> None:
    with _translated():
        for place, flags in ((path, os.O_RDONLY), (path.parent, os.O_RDONLY | os.O_DIRECTORY)):
            with _opened(place, flags | os.O_CLOEXEC) as descriptor:
                os.fsync(descriptor)


def _read(path: Path, start: int, limit: int) -> bytes:
    with _translated():
        try:
            with _opened(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW) as descriptor:
                return os.pread(descriptor, limit, start)
        except FileNotFoundError:
            return b""


def _delete(path: Path) -> None:
    with _translated():
        path.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        # The code alone: the message would name the file.
        raise StoreError(f"files: {errno.errorcode.get(exc.errno or 0, type(exc).__name__)}") from None
