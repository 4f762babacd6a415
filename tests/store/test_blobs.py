"""Bytes on the disk: what lies where, and what its failures look like."""

import errno
import os
import stat
from pathlib import Path

import pytest

from scm_trio.errors import ConfigError, StoreError
from scm_trio.store import blobs
from scm_trio.store.blobs import Folder
from scm_trio.store.database import inline, threads

NAME = "f-0123456789abcdef"


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "files", inline)


def descriptors():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def lying(path):
    return sorted(str(each.relative_to(path)) for each in path.rglob("*") if each.is_file())


async def test_what_is_appended_is_read_back_in_pieces(folder):
    await folder.append(NAME, b"one ", first=True)
    await folder.append(NAME, b"two", first=False)
    await folder.seal(NAME)
    assert await folder.read(NAME, 0, 100) == b"one two"
    assert await folder.read(NAME, 2, 3) == b"e t"
    assert await folder.read(NAME, 7, 100) == b""


async def test_nobody_else_on_the_machine_can_read_it(folder, tmp_path):
    await folder.append(NAME, b"x", first=True)
    place = tmp_path / "files" / "ef" / NAME
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    for above in (place.parent, place.parent.parent):
        assert stat.S_IMODE(above.stat().st_mode) == 0o700


async def test_the_folder_is_made_with_its_first_blob_and_not_before(folder, tmp_path):
    assert await folder.read(NAME, 0, 10) == b""
    await folder.delete(NAME)
    assert not (tmp_path / "files").exists()
    await folder.append(NAME, b"x", first=True)
    assert lying(tmp_path) == [f"files/ef/{NAME}"]


async def test_a_blob_is_begun_once(folder):
    await folder.append(NAME, b"x", first=True)
    with pytest.raises(StoreError, match=r"^files: EEXIST$"):
        await folder.append(NAME, b"y", first=True)
    assert await folder.read(NAME, 0, 10) == b"x"


async def test_a_blob_that_was_not_begun_cannot_grow(folder):
    with pytest.raises(StoreError, match=r"^files: ENOENT$"):
        await folder.append(NAME, b"x", first=False)


async def test_deleting_twice_is_no_failure(folder, tmp_path):
    await folder.append(NAME, b"x", first=True)
    await folder.delete(NAME)
    await folder.delete(NAME)
    assert lying(tmp_path) == []
    assert await folder.read(NAME, 0, 10) == b""


async def test_a_link_in_the_way_is_not_followed(folder, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    place = tmp_path / "files" / "ef" / NAME
    place.parent.mkdir(parents=True)
    place.symlink_to(secret)
    for attempt in (folder.read(NAME, 0, 10), folder.append(NAME, b"x", first=False)):
        with pytest.raises(StoreError, match="ELOOP"):
            await attempt
    assert secret.read_bytes() == b"secret"


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "a\x00", "a.b", "x" * 129, "名"])
async def test_only_names_of_ours_become_paths(folder, name):
    with pytest.raises(ValueError, match="name"):
        await folder.read(name, 0, 10)


async def test_a_disk_that_takes_a_little_at_a_time_gets_everything(folder, monkeypatch):
    write = os.write
    monkeypatch.setattr(blobs.os, "write", lambda fd, data: write(fd, bytes(data)[:3]))
    await folder.append(NAME, b"0123456789", first=True)
    assert await folder.read(NAME, 0, 100) == b"0123456789"


async def test_a_full_disk_is_told_without_a_path_and_leaves_no_descriptor(folder, monkeypatch):
    def full(fd, data):
        raise OSError(errno.ENOSPC, "No space left on device", f"/somewhere/{NAME}")

    before = descriptors()
    monkeypatch.setattr(blobs.os, "write", full)
    with pytest.raises(StoreError, match=r"^files: ENOSPC$") as caught:
        await folder.append(NAME, b"x", first=True)
    assert caught.value.__suppress_context__
    assert descriptors() == before


async def test_threads_carry_the_same_calls(tmp_path):
    folder = Folder(tmp_path, threads(2))
    await folder.append(NAME, b"x", first=True)
    await folder.seal(NAME)
    assert await folder.read(NAME, 0, 10) == b"x"


def test_a_file_in_place_of_the_folder_stops_the_start(tmp_path):
    (tmp_path / "files").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"scm\.files\.path: .*files is not a folder that can be written to"):
        Folder(tmp_path / "files", inline)
