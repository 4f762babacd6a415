"""Failures are JSON with a code and a sentence, whatever failed."""

import pytest
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route

from scm_trio import errors
from scm_trio.web.app import build_app
from scm_trio.web.errors import STATUS


def app_raising(world, failure: Exception) -> Starlette:
    async def fail(request):
        raise failure

    app = build_app(world.services())
    app.router.routes.append(Route("/fail", fail))
    del app.state.openapi  # it knows nothing of that route
    return app


def test_every_error_code_has_a_status() -> None:
    assert set(STATUS) == {failure.code for failure in errors.RequestFailed.__subclasses__()}


async def test_a_failed_request_becomes_its_code(connected, world) -> None:
    async with connected(app_raising(world, errors.ModelUnknown(field="model", model="gpt-9"))) as peer:
        answer = await peer.ask("GET", "/fail", headers={"Accept-Language": "en-GB,zh;q=0.5"})

    assert answer.status == 400
    assert answer.json == {"code": "MODEL_UNKNOWN", "message": "This model is not on offer: gpt-9"}
    assert answer.headers["cache-control"] == "no-store"


async def test_a_wait_is_told_in_whole_seconds(connected, world) -> None:
    async with connected(app_raising(world, errors.ServerBusy(retry_after_s=1.2))) as peer:
        answer = await peer.ask("GET", "/fail")

    assert (answer.status, answer.headers["retry-after"]) == (503, "2")


async def test_a_code_nobody_knows_is_a_500(connected, world) -> None:
    class Odd(errors.RequestFailed):
        code = "ODD"

    async with connected(app_raising(world, Odd())) as peer:
        assert (await peer.ask("GET", "/fail")).status == 500


@pytest.mark.parametrize(
    ("target", "headers", "message"),
    [
        ("/nowhere", {}, "未找到"),
        ("/nowhere", {"Accept-Language": "fr"}, "未找到"),
        ("/nowhere?lang=en", {}, "Not found"),
        ("/nowhere", {"Accept-Language": "en-US,en;q=0.9"}, "Not found"),
        ("/nowhere?lang=zh", {"Accept-Language": "en"}, "未找到"),
    ],
)
async def test_sentences_are_chinese_unless_english_is_asked_for(site, target, headers, message) -> None:
    answer = await site.ask("GET", target, headers=headers)

    assert (answer.status, answer.json) == (404, {"code": "NOT_FOUND", "message": message})


async def test_a_wrong_method_is_405_and_names_the_right_one(site) -> None:
    answer = await site.ask("POST", "/healthz", b"")

    assert (answer.status, answer.json["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


async def test_a_slash_too_many_is_not_redirected_to_a_host_of_the_peers_choice(site) -> None:
    answer = await site.ask("GET", "/healthz/", headers={"X-Forwarded-Host": "evil.example"})

    assert answer.status == 404
    assert "location" not in answer.headers


async def test_what_starlette_refuses_has_a_code_too(connected, world) -> None:
    async with connected(app_raising(world, HTTPException(400))) as peer:
        answer = await peer.ask("GET", "/fail")

    assert (answer.status, answer.json["code"]) == (400, "BAD_REQUEST")


async def test_a_bug_is_a_500_without_details(connected, world) -> None:
    with structlog.testing.capture_logs() as logs:
        async with connected(app_raising(world, ZeroDivisionError("secret"))) as peer:
            answer = await peer.ask("GET", "/fail?lang=en")

    assert answer.status == 500
    assert answer.json == {"code": "INTERNAL", "message": "Something went wrong on the server"}
    assert [entry["event"] for entry in logs] == ["http request failed"]


async def test_every_answer_has_the_safe_headers(site) -> None:
    for target in ("/healthz", "/nowhere", "/scm/ai/models"):
        headers = (await site.ask("GET", target)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
