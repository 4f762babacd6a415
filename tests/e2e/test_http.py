"""Plain HTTP on the port of the WebSocket."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.e2e.client import chatting
from tests.e2e.process import ServerProcess, running_server, settings, token
from tests.e2e.upstream import ANSWER, FakeUpstream

OFFER = {
    "items": [
        {"provider": "openai", "models": [], "default": True},
        {"provider": "echo", "models": ["echo"], "default": False},
    ],
    "next": None,
    "aliases": [],
    "default": {"provider": "openai", "model": "gpt-4"},
}


def get(server: ServerProcess, path: str, **headers: str) -> httpx.Response:
    return httpx.get(server.base_url + path, headers=headers, trust_env=False, timeout=30)


def bearer(user: str = "user001") -> dict[str, str]:
    return {"Authorization": f"Bearer {token(user)}"}


def test_the_chat_page_and_its_parts_are_served(server: ServerProcess) -> None:
    page = get(server, "/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    script = get(server, "/assets/main.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert get(server, "/assets/main.js", **{"If-None-Match": script.headers["etag"]}).status_code == 304


def test_it_is_alive_and_ready(server: ServerProcess) -> None:
    assert get(server, "/healthz").json() == {"status": "ok"}
    ready = get(server, "/readyz")
    assert ready.status_code == 200
    assert ready.json()["status"] == "ok"
    assert ready.json()["checks"]["store"] == "ok"


def test_what_happens_is_counted(server: ServerProcess) -> None:
    with chatting(server) as client:
        client.answer("count me")
        text = get(server, "/metrics").text
    assert "# HELP" in text
    active = next(line for line in text.splitlines() if line.startswith("scm_connections_active "))
    assert float(active.split()[-1]) >= 1


def test_a_session_has_its_title_from_the_model_and_that_is_in_the_ledger(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    ai = {**settings(tmp_path, upstream.url)["ai"], "titles": True}
    with running_server(tmp_path, upstream.url, ai=ai) as server:
        with chatting(server) as client:
            client.answer("what is a title?")
            (title,) = (
                each["data"]["title"] for each in client.until("SESSION_UPDATE") if each["type"] == "SESSION_UPDATE"
            )
        rows = get(server, "/scm/ai/usage?detail=attempts", **bearer()).json()["rows"]
    assert title != "what is a title?"
    assert title in ANSWER
    assert {row["attemptId"].split("-")[0]: row["outcome"] for row in rows} == {
        "msg": "completed",
        "title": "completed",
    }


def test_models_are_offered_to_those_with_a_token(server: ServerProcess) -> None:
    assert get(server, "/scm/ai/models", **bearer()).json() == OFFER
    refused = get(server, "/scm/ai/models")
    assert refused.status_code == 401
    assert refused.json()["code"] == "UNAUTHORIZED"


@pytest.mark.parametrize(("path", "status"), [("/scm/websocket/ai/chat", 426), ("/nowhere", 404)])
def test_what_is_not_there_is_told_as_json(server: ServerProcess, path: str, status: int) -> None:
    answer = get(server, path)
    assert answer.status_code == status
    assert set(answer.json()) == {"code", "message"}


def test_an_upgrade_on_another_path_is_not_found(server: ServerProcess) -> None:
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    answer = get(server, "/other", **upgrade, **{"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="})
    assert answer.status_code == 404


def test_a_connection_serves_one_request_after_the_other(server: ServerProcess) -> None:
    with httpx.Client(base_url=server.base_url, trust_env=False, timeout=30) as client:
        assert [client.get("/healthz").status_code for _ in range(20)] == [200] * 20


def test_a_valid_token_is_exchanged_for_a_fresh_one_with_the_same_roles(server: ServerProcess) -> None:
    old = token("user007", roles=["admin"])
    address = server.base_url + "/scm/ai/token/refresh"
    answer = httpx.post(address, headers={"Authorization": f"Bearer {old}"}, trust_env=False, timeout=30)
    assert answer.status_code == 200
    assert answer.json()["userId"] == "user007"
    fresh = answer.json()["token"]
    assert fresh != old
    assert get(server, "/scm/ai/stats", Authorization=f"Bearer {fresh}").status_code == 200
    assert get(server, "/scm/ai/stats", **bearer()).status_code == 403
    assert httpx.post(address, trust_env=False, timeout=30).status_code == 401
