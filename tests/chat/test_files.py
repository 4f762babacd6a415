"""The rules around files, on a database and a folder of the test's own."""

from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest
import structlog
import trio
from sqlalchemy import select

from scm_trio import config
from scm_trio.chat.files import Files
from scm_trio.errors import Conflict, NotFound, QuotaExceeded, StoreError
from scm_trio.model import File
from scm_trio.store import files, schema
from scm_trio.store.blobs import Folder
from scm_trio.store.database import inline, open_database
from scm_trio.testing import cancel_at_every_step


@asynccontextmanager
async def opened(folder: Path, **limits):
    numbers = count(1)
    async with open_database("sqlite://", offload=inline) as database, trio.open_nursery() as nursery:
        await nursery.start(database.run_writer)
        blobs = Folder(folder, inline)
        yield Files(database, blobs, config.Files(**limits), trio.current_time, lambda: f"{next(numbers):04d}")
        nursery.cancel_scope.cancel()


async def put(desk, data=b"hello", name="a.txt", user="ann"):
    async with desk.upload(user, name) as upload:
        await upload.write(data)
        return await upload.complete()


def lying(folder):
    return sorted(each.name for each in folder.rglob("*") if each.is_file())


async def rows(desk):
    query = select(schema.files.c.file_id, schema.files.c.state)
    return dict(await desk.database.read(lambda conn: conn.execute(query).all()))


async def test_a_file_is_kept_under_its_label(autojump_clock, tmp_path):
    async with opened(tmp_path) as desk:
        file = await put(desk, b"a,b", "/tmp/表\x00格.csv")
        assert (file.file_id, file.name, file.media_type, file.size_bytes) == ("f-0001", "表格.csv", "text/csv", 3)
        assert await desk.find("ann", file.file_id) == file
        assert await desk.read(file, 0) == b"a,b"
        assert await desk.read(file, 1, 1) == b","


async def test_leaving_without_completing_leaves_nothing(autojump_clock, tmp_path):
    async with opened(tmp_path) as desk:
        async with desk.upload("ann", "a.txt") as upload:
            await upload.write(b"x" * 300_000)
            assert lying(tmp_path) == ["f-0001"]
        assert lying(tmp_path) == []
        assert await rows(desk) == {}
        assert desk.coming_bytes("ann") == 0


async def test_a_file_that_came_too_slowly_is_given_up(autojump_clock, tmp_path):
    async with opened(tmp_path, orphan_age_s=60.0) as desk:
        async with desk.upload("ann", "a.txt") as upload:
            await upload.write(b"x")
            await trio.sleep(100)
            await desk.sweep()
            with pytest.raises(Conflict):
                await upload.complete()
        assert lying(tmp_path) == []
        assert await rows(desk) == {}


async def test_the_quota_is_looked_at_again_when_all_is_there(autojump_clock, tmp_path):
    async with opened(tmp_path, quota_bytes=10_000) as desk, desk.upload("ann", "a.txt") as first:
        await first.write(b"x" * 6000)
        async with desk.upload("ann", "b.txt") as second:
            with pytest.raises(QuotaExceeded):
                await second.write(b"x" * 6000)
        # As if another server had taken a file in meanwhile.
        first.used_bytes = 0
        await desk.database.write(files.announce, File("f-theirs", "ann", "c.txt", "text/plain", 6000))
        with pytest.raises(QuotaExceeded):
            await first.complete()


async def test_a_database_that_fails_at_the_beginning_leaves_no_place_taken(autojump_clock, tmp_path, monkeypatch):
    async def fail(*_, **__):
        raise StoreError("gone")

    async with opened(tmp_path) as desk:
        with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
            patch.setattr(desk.database, "write", fail)
            with pytest.raises(StoreError):
                await put(desk)
        assert [entry["event"] for entry in logs] == ["upload not discarded"]
        assert (await put(desk)).size_bytes == 5


async def test_reading_what_is_gone_is_told_and_logged(autojump_clock, tmp_path):
    async with opened(tmp_path) as desk:
        file = await put(desk)
        await desk.blobs.delete(file.file_id)
        with structlog.testing.capture_logs() as logs, pytest.raises(NotFound):
            await desk.read(file, 0)
        assert logs[0]["event"] == "file without its bytes"


def test_an_upload_may_be_cancelled_at_every_step(tmp_path):
    """Whatever happened, every file on the disk has its row, and what a user can see is whole."""
    folders = (tmp_path / str(n) for n in count())

    async def scenario(scope):
        folder = next(folders)
        async with opened(folder) as desk:
            with scope:
                async with desk.upload("ann", "a.txt") as upload:
                    for _ in range(3):
                        await upload.write(b"x" * 200_000)
                    await upload.complete()
            known = await rows(desk)
            assert set(lying(folder)) <= set(known)
            for file_id, state in known.items():
                if state == "ready":
                    file = await desk.find("ann", file_id)
                    assert len(await desk.read(file, 0, 1_000_000)) == file.size_bytes == 600_000
            assert desk.coming_bytes("ann") == 0
            # The sweeper finds what is left.
            await trio.sleep(2 * 86_400)
            await desk.sweep()
            assert lying(folder) == []
            assert await rows(desk) == {}

    assert cancel_at_every_step(scenario) > 10


def test_a_sweep_may_be_cancelled_at_every_step(tmp_path):
    folders = (tmp_path / str(n) for n in count())

    async def scenario(scope):
        folder = next(folders)
        async with opened(folder) as desk:
            for _ in range(3):
                await put(desk)
            await trio.sleep(2 * 86_400)
            with scope:
                await desk.sweep()
            assert set(lying(folder)) <= set(await rows(desk))
            await desk.sweep()
            assert lying(folder) == []
            assert await rows(desk) == {}

    assert cancel_at_every_step(scenario) > 5
