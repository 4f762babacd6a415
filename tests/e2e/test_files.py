"""Files through a real server: threads, a real disk, other makers' HTTP clients."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import httpx
import pytest

from tests.e2e.client import chatting
from tests.e2e.process import ServerProcess, running_server, token
from tests.e2e.upstream import FakeUpstream

MIB = 1_048_576
LARGE = 48 * MIB


def bearer(user: str = "user001") -> dict[str, str]:
    return {"Authorization": f"Bearer {token(user)}"}


@pytest.fixture(scope="module")
def server(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory):
    files = {"max-size": 64 * MIB, "quota": 256 * MIB}
    with running_server(tmp_path_factory.mktemp("files"), upstream.url, files=files) as running:
        yield running


@pytest.fixture
def client(server: ServerProcess):
    with httpx.Client(base_url=server.base_url, headers=bearer(), trust_env=False, timeout=60) as client:
        yield client


def test_a_large_file_goes_through_without_being_held_in_memory(
    server: ServerProcess, client: httpx.Client, tmp_path: Path
) -> None:
    line = b"0123456789abcde\n"
    source = tmp_path / "large.txt"
    source.write_bytes(line * (LARGE // len(line)))
    client.get("/readyz")
    before = server.rss_bytes()
    with source.open("rb") as stream:
        answer = client.post("/scm/ai/files", files={"file": ("large.txt", stream)})
    assert answer.status_code == 201, answer.text
    assert answer.json()["size"] == LARGE
    received = 0
    with client.stream("GET", answer.headers["location"]) as download:
        assert int(download.headers["content-length"]) == LARGE
        for chunk in download.iter_bytes():
            received += len(chunk)
            assert not chunk.strip(line)
    assert received == LARGE
    assert server.rss_bytes() - before < LARGE // 3
    place = next(server.config_file.parent.joinpath("scm-trio-files").rglob("f-*"))
    assert place.stat().st_size == LARGE


def test_a_refused_file_gets_its_answer_although_its_sender_goes_on(client: httpx.Client) -> None:
    answer = client.post("/scm/ai/files", files={"file": ("a.png", bytes(16 * MIB))})
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_MESSAGE")


def test_an_attached_text_reaches_the_provider(
    server: ServerProcess, client: httpx.Client, upstream: FakeUpstream
) -> None:
    answer = client.post("/scm/ai/files", files={"file": ("清单.csv", "料号,数量\nA1,7\n".encode(), "image/png")})
    assert answer.json()["mediaType"] == "text/csv"
    with chatting(server, session="attached") as chat:
        chat.answer("How many?", attachments=[answer.json()["fileId"]])
    # Found by this text, or the test waits in vain.
    upstream.asked('Attached file "清单.csv" (text/csv):\n```\n料号,数量\nA1,7\n\n```\n\nHow many?')
    (question, _) = client.get("/scm/ai/sessions/attached/export?format=json").json()["messages"]
    assert [each["name"] for each in question["attachments"]] == ["清单.csv"]


def test_files_survive_a_crash_and_half_ones_do_not_show(tmp_path: Path) -> None:
    with running_server(tmp_path, measured=False) as server:
        with httpx.Client(base_url=server.base_url, headers=bearer(), trust_env=False, timeout=60) as client:
            whole = client.post("/scm/ai/files", files={"file": ("a.txt", b"whole")}).json()["fileId"]
        server.kill()
    with running_server(tmp_path, measured=False) as server:
        got = httpx.get(f"{server.base_url}/scm/ai/files/{whole}", headers=bearer(), trust_env=False, timeout=60)
        assert (got.status_code, got.content) == (200, b"whole")


def test_an_attached_image_reaches_the_provider_as_data(
    server: ServerProcess, client: httpx.Client, upstream: FakeUpstream
) -> None:
    png = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(200))
    file_id = client.post("/scm/ai/files", files={"file": ("a.png", png)}).json()["fileId"]
    with chatting(server, session="seen") as chat:
        chat.answer("What is this?", attachments=[file_id])
    (text, image) = upstream.exchanges[-1].body["messages"][-1]["content"]
    assert text == {"type": "text", "text": '[Attached image: "a.png"]\n\nWhat is this?'}
    assert image["image_url"]["url"] == f"data:image/png;base64,{b64encode(png).decode()}"
