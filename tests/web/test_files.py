"""Uploads and downloads through the whole server."""

from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
import trio
from attrs import evolve
from sqlalchemy import select

from scm_trio.chat.files import MAX_UPLOADS_PER_USER
from scm_trio.config import Files
from scm_trio.errors import StoreError
from scm_trio.providers.scripted import Scripted
from scm_trio.store import blobs, schema
from scm_trio.testing import open_server, quiet_config

pytestmark = pytest.mark.usefixtures("both_databases")

PATH = "/scm/ai/files"
BOUNDARY = "b0undary"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256)) * 4
AGE_S = 600.0


def part(data: bytes, name: str = "a.png", field: str = "file") -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
    return head.encode() + data + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


class Site:
    """A server whose files lie in a folder of the test's own."""

    def __init__(self, server, calling, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self._calling = calling

    def call(self):
        return self._calling(self.server)

    def bearer(self, user: str = "ann", **more: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.server.token(user)}", **more}

    async def upload(self, data: bytes = PNG, name: str = "a.png", user: str = "ann", **headers: str):
        return await self.call().ask("POST", PATH, form(part(data, name)), {**self.bearer(user), **FORM, **headers})

    async def download(self, file_id: str, user: str = "ann", **headers: str):
        return await self.call().ask("GET", f"{PATH}/{file_id}", headers=self.bearer(user, **headers))

    def lying(self) -> list[str]:
        return sorted(each.name for each in self.folder.rglob("*") if each.is_file())

    async def rows(self) -> dict[str, str]:
        query = select(schema.files.c.file_id, schema.files.c.state)
        return dict(await self.server.house.database.read(lambda conn: conn.execute(query).all()))


@pytest.fixture
def opened(calling, tmp_path):
    @asynccontextmanager
    async def open_site(**limits):
        files = evolve(Files(path=str(tmp_path / "files")), **limits)
        async with open_server({"openai": Scripted(["ok"])}, quiet_config(files=files)) as server:
            yield Site(server, calling, tmp_path / "files")

    return open_site


async def test_a_file_comes_back_as_it_went_in(opened, autojump_clock) -> None:
    async with opened() as site:
        answer = await site.upload(name="图.png")
        file_id = answer.json["fileId"]
        assert answer.status == 201
        assert answer.headers["location"] == f"{PATH}/{file_id}"
        assert answer.json == {
            "fileId": file_id,
            "name": "图.png",
            "mediaType": "image/png",
            "size": len(PNG),
            "createdAt": "2023-11-14T22:13:20.000Z",
        }
        got = await site.download(file_id)
        assert (got.status, got.body) == (200, PNG)


async def test_a_download_is_saved_and_runs_nothing(opened, autojump_clock) -> None:
    async with opened() as site:
        file_id = (await site.upload(b"<b>hi</b>", "a.html")).json["fileId"]
        headers = (await site.download(file_id)).headers
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert headers["content-length"] == "9"
    assert headers["content-disposition"] == "attachment; filename=\"a.html.txt\"; filename*=UTF-8''a.html.txt"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert headers["cache-control"] == "private, no-cache"
    assert headers["cross-origin-resource-policy"] == "same-origin"


async def test_a_file_that_the_caller_has_is_not_sent_again(opened, autojump_clock) -> None:
    async with opened() as site:
        file_id = (await site.upload()).json["fileId"]
        etag = (await site.download(file_id)).headers["etag"]
        again = await site.download(file_id, **{"If-None-Match": etag})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", etag)
        assert (await site.download(file_id, user="bob", **{"If-None-Match": etag})).status == 404


async def test_nothing_of_the_name_or_the_user_is_on_the_disk(opened, autojump_clock) -> None:
    async with opened() as site:
        file_id = (await site.upload(name="secret-plan.png", user="ann")).json["fileId"]
        assert site.lying() == [file_id]
        assert not [each for each in site.folder.rglob("*") if "ann" in each.name or "secret" in each.name]


async def test_somebody_elses_file_is_not_found(opened, autojump_clock) -> None:
    async with opened() as site:
        file_id = (await site.upload()).json["fileId"]
        for answer in (await site.download(file_id, user="bob"), await site.download("f-none")):
            assert (answer.status, answer.json) == (404, {"code": "NOT_FOUND", "message": "未找到"})
        assert (await site.call().ask("GET", f"{PATH}/{file_id}")).status == 401
        assert (await site.call().ask("POST", PATH, form(part(PNG)), FORM)).status == 401


async def test_a_large_file_is_written_while_it_comes(opened, autojump_clock, monkeypatch) -> None:
    sizes = []
    append = blobs._append
    monkeypatch.setattr(
        blobs, "_append", lambda path, data, first: sizes.append(len(data)) or append(path, data, first)
    )
    data = b"0123456789abcdef" * 100_000
    async with opened() as site:
        file_id = (await site.upload(data, "a.txt")).json["fileId"]
        assert len(sizes) >= 6
        assert max(sizes) < 400_000
        got = await site.download(file_id)
        assert got.body == data


async def test_a_peer_is_read_no_faster_than_the_disk_writes(opened, autojump_clock, monkeypatch) -> None:
    async with opened(max_size_bytes=50_000_000) as site:
        folder = site.server.house.files.blobs
        stuck, append = trio.Event(), folder.append

        async def wait(name, data, *, first):
            await stuck.wait()
            await append(name, data, first=first)

        monkeypatch.setattr(folder, "append", wait)
        ours, theirs = trio.testing.lockstep_stream_pair()
        site.server.nursery.start_soon(site.server.house.listener.welcome, theirs)
        sent = 0
        body = part(b"x" * 10_000_000)
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body) + 100}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in {**site.bearer(), **FORM}.items())
        await ours.send_all(head.encode() + b"\r\n")
        with trio.move_on_after(30):
            while True:
                await ours.send_all(body[sent : sent + 16_384])
                sent += 16_384
        assert 262_144 <= sent < 500_000
        stuck.set()


# ---- refusals


@pytest.mark.parametrize(
    ("data", "name", "expected"),
    [
        (b"MZ\x90\x00" + bytes(100), "a.png", "PNG, JPEG"),
        (b"<svg xmlns='x'/>", "a.png", "PNG, JPEG"),
        (b"<!doctype html>", "a.txt", "PNG, JPEG"),
        (b"", "a.png", "it must not be empty"),
    ],
)
async def test_what_is_not_taken_leaves_nothing_behind(opened, autojump_clock, data, name, expected) -> None:
    async with opened() as site:
        answer = await site.upload(data, name, **{"Accept-Language": "en"})
        assert (answer.status, answer.json["code"]) == (400, "INVALID_MESSAGE")
        assert expected in answer.json["message"]
        assert site.lying() == []
        assert await site.rows() == {}


@pytest.mark.parametrize(
    ("body", "headers", "field"),
    [
        (b"x", {"Content-Type": "text/plain"}, "Content-Type"),
        (b"x", {}, "Content-Type"),
        (b"x", FORM, "body"),
        (form(), FORM, "file"),
        (form(part(PNG, field="other")), FORM, "file"),
        (form(part(PNG), part(PNG)), FORM, "file"),
        (part(PNG), FORM, "body"),
    ],
)
async def test_a_request_without_one_whole_file_is_refused(opened, autojump_clock, body, headers, field) -> None:
    async with opened() as site:
        answer = await site.call().ask("POST", f"{PATH}?lang=en", body, {**site.bearer(), **headers})
        assert (answer.status, answer.json["code"]) == (400, "INVALID_MESSAGE")
        assert answer.json["message"].startswith(f"Field {field} is invalid")
        assert site.lying() == []
        assert await site.rows() == {}


async def test_other_fields_of_the_form_do_not_count(opened, autojump_clock) -> None:
    async with opened() as site:
        body = form(part(b"\x00\x01", field="before"), part(PNG), part(b"\x00", field="after"))
        answer = await site.call().ask("POST", PATH, body, {**site.bearer(), **FORM})
        assert (answer.status, answer.json["size"]) == (201, len(PNG))


async def test_a_file_above_the_limit_is_refused_while_it_comes(opened, autojump_clock) -> None:
    async with opened(max_size_bytes=100_000) as site:
        assert (await site.upload(b"x" * 100_000, "a.txt")).status == 201
        answer = await site.upload(b"x" * 100_001, "a.txt", **{"Accept-Language": "en"})
        assert (answer.status, answer.json["code"]) == (413, "MESSAGE_TOO_LARGE")
        assert answer.json["message"] == "The file is too large: at most 100000 bytes"
        assert len(site.lying()) == len(await site.rows()) == 1


async def test_a_body_far_above_the_limit_is_refused_before_it_comes(opened, autojump_clock) -> None:
    async with opened(max_size_bytes=100_000) as site:
        peer = site.call()
        head = f"POST {PATH} HTTP/1.1\nHost: x\nContent-Length: 900000000\nExpect: 100-continue\n\n"
        await peer.say(head)
        assert (await peer.answer()).status == 413


async def test_a_large_body_is_taken_on_the_path_of_uploads_alone(opened, autojump_clock) -> None:
    async with opened() as site:
        peer = site.call()
        await peer.say("POST /scm/ai/token/refresh HTTP/1.1\nHost: x\nContent-Length: 2000000\n\n")
        assert (await peer.answer()).status == 413
        assert (await site.upload(b"x" * 2_000_000, "a.txt")).status == 201


async def test_a_users_files_have_a_quota(opened, autojump_clock) -> None:
    async with opened(quota_bytes=300_000) as site:
        assert (await site.upload(b"x" * 200_000, "a.txt")).status == 201
        answer = await site.upload(b"x" * 150_000, "b.txt", **{"Accept-Language": "en"})
        assert (answer.status, answer.json["code"]) == (429, "QUOTA_EXCEEDED")
        assert "300000 bytes" in answer.json["message"]
        assert (await site.upload(b"x" * 150_000, "b.txt", user="bob")).status == 201
        assert (await site.upload(b"x" * 90_000, "b.txt")).status == 201
        assert len(site.lying()) == 3


async def test_files_that_come_at_once_share_the_quota(opened, autojump_clock) -> None:
    statuses = []
    async with opened(quota_bytes=500_000) as site:

        async def upload(name):
            statuses.append((await site.upload(b"x" * 200_000, name)).status)

        async with trio.open_nursery() as nursery:
            for number in range(MAX_UPLOADS_PER_USER):
                nursery.start_soon(upload, f"{number}.txt")
        assert len(site.lying()) == statuses.count(201) <= 2
        assert statuses.count(429) == len(statuses) - statuses.count(201)


async def begin_upload(site, user="ann", data=b"x" * 50_000):
    """A peer whose file has begun to come; returns it."""
    peer = site.call()
    lines = {**site.bearer(user), **FORM, "Host": "x", "Content-Length": "1000000"}
    head = f"POST {PATH} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    await peer.stream.send_all(head.encode() + b"\r\n" + part(data))
    await trio.testing.wait_all_tasks_blocked()
    return peer


async def test_a_user_uploads_so_many_files_at_once_and_no_more(opened, autojump_clock) -> None:
    async with opened() as site:
        for _ in range(MAX_UPLOADS_PER_USER):
            await begin_upload(site)
        answer = await site.upload(**{"Accept-Language": "en"})
        assert (answer.status, answer.json["code"]) == (429, "RATE_LIMITED")
        assert answer.json["message"] == "Too many files are being uploaded at once: at most 4"
        assert answer.headers["retry-after"] == "1"
        assert (await site.upload(user="bob")).status == 201


async def test_all_users_together_upload_so_many_files_and_no_more(opened, autojump_clock, monkeypatch) -> None:
    monkeypatch.setattr("scm_trio.chat.files.MAX_UPLOADS", 3)
    async with opened() as site:
        for user in ("ann", "bob", "cyd"):
            await begin_upload(site, user)
        answer = await site.upload(user="dan")
        assert (answer.status, answer.json["code"]) == (503, "SERVER_BUSY")


# ---- peers that fail


async def test_an_upload_that_breaks_off_leaves_nothing_behind(opened, autojump_clock) -> None:
    async with opened() as site:
        peer = await begin_upload(site, data=b"x" * 600_000)
        assert len(site.lying()) == 1
        assert list((await site.rows()).values()) == ["coming"]
        await peer.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert site.lying() == []
        assert await site.rows() == {}


async def test_an_upload_that_stalls_is_given_up(opened, autojump_clock) -> None:
    async with opened() as site:
        began_at = trio.current_time()
        peer = await begin_upload(site)
        answer = await peer.answer()
        assert (answer.status, answer.json["code"]) == (408, "TIMEOUT")
        assert 60 <= trio.current_time() - began_at < 70
        await trio.testing.wait_all_tasks_blocked()
        assert await site.rows() == {}


async def test_an_upload_over_a_slow_line_has_the_time_that_it_needs(opened, autojump_clock) -> None:
    async with opened() as site:
        body = form(part(b"x" * 3_000_000, "a.txt"))
        peer = site.call()
        lines = {**site.bearer(), **FORM, "Host": "x", "Content-Length": str(len(body))}
        head = f"POST {PATH} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        await peer.stream.send_all(head.encode() + b"\r\n")
        for start in range(0, len(body), 20_000):
            await trio.sleep(1)
            await peer.stream.send_all(body[start : start + 20_000])
        assert (await peer.answer()).status == 201
        assert trio.current_time() > 120


async def test_a_disk_that_fails_is_a_busy_server(opened, autojump_clock, monkeypatch) -> None:
    def full(path, data, first):
        raise StoreError("files: ENOSPC")

    async with opened() as site:
        with monkeypatch.context() as patch:
            patch.setattr(blobs, "_append", full)
            answer = await site.upload()
        assert (answer.status, answer.json["code"], answer.headers["retry-after"]) == (503, "SERVER_BUSY", "2")
        assert await site.rows() == {}


async def test_a_file_whose_bytes_are_gone_is_not_found(opened, autojump_clock) -> None:
    async with opened() as site:
        file_id = (await site.upload()).json["fileId"]
        next(site.folder.rglob(file_id)).unlink()
        with structlog.testing.capture_logs() as logs:
            assert (await site.download(file_id)).status == 404
    assert [entry["event"] for entry in logs] == ["file without its bytes"]


async def test_a_file_that_is_shorter_than_it_should_be_is_never_told_whole(opened, autojump_clock) -> None:
    async with opened() as site:
        file_id = (await site.upload(b"x" * 700_000, "a.txt")).json["fileId"]
        place = next(site.folder.rglob(file_id))
        place.write_bytes(b"x" * 300_000)
        peer = site.call()
        await peer.stream.send_all(
            f"GET {PATH}/{file_id} HTTP/1.1\r\nHost: x\r\n".encode()
            + f"Authorization: {site.bearer()['Authorization']}\r\n\r\n".encode()
        )
        with structlog.testing.capture_logs() as logs:
            data = await peer.everything()
        head, _, body = data.partition(b"\r\n\r\n")
        assert b"content-length: 700000" in head.lower()
        assert len(body) < 700_000
    assert "file without its bytes" in [entry["event"] for entry in logs]


# ---- the sweeper


async def test_a_file_that_nobody_attaches_is_swept_after_its_time(opened, autojump_clock) -> None:
    async with opened(orphan_age_s=AGE_S) as site:
        old = (await site.upload()).json["fileId"]
        await trio.sleep(AGE_S - 100)
        new = (await site.upload()).json["fileId"]
        assert sorted(site.lying()) == sorted([old, new])
        await trio.sleep(200)
        assert site.lying() == [new]
        assert await site.rows() == {new: "ready"}
        assert (await site.download(old)).status == 404


async def test_what_could_not_be_cleaned_up_is_swept(opened, autojump_clock, monkeypatch) -> None:
    def fail(path):
        raise StoreError("files: EIO")

    async with opened(orphan_age_s=AGE_S) as site:
        peer = await begin_upload(site, data=b"x" * 600_000)
        with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
            patch.setattr(blobs, "_delete", fail)
            await peer.stream.aclose()
            await trio.testing.wait_all_tasks_blocked()
            assert len(site.lying()) == 1
            await trio.sleep(AGE_S + 60)
        assert {"upload not discarded", "file not deleted"} <= {entry["event"] for entry in logs}
        assert len(site.lying()) == 1
        await trio.sleep(60)
        assert site.lying() == []
        assert await site.rows() == {}


async def test_a_database_that_fails_costs_a_sweep_and_no_more(opened, autojump_clock, monkeypatch) -> None:
    async def fail(*_, **__):
        raise StoreError("gone")

    async with opened(orphan_age_s=AGE_S) as site:
        await site.upload()
        with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
            patch.setattr(site.server.house.files.database, "read", fail)
            await trio.sleep(65)
        assert [entry["event"] for entry in logs].count("files not swept") == 2
        await trio.sleep(AGE_S)
        assert site.lying() == []
