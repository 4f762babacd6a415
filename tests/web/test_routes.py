"""The routes, each asked through the bridge."""

import pytest
from jsonschema import Draft202012Validator

from scm_trio.providers.vendor_lists import VendorList
from scm_trio.web.app import build_app

USER = {"Authorization": "Bearer user"}
ADMIN = {"Authorization": "bearer admin"}


async def test_healthz_answers_ok(site) -> None:
    answer = await site.ask("GET", "/healthz")

    assert (answer.status, answer.json) == (200, {"status": "ok"})


async def test_readyz_is_ok_when_every_check_is(site) -> None:
    answer = await site.ask("GET", "/readyz")

    assert answer.status == 200
    assert answer.json == {"status": "ok", "checks": {"store": "ok", "broker": "ok"}}


async def test_readyz_names_what_is_wrong(site, world) -> None:
    world.checks["store"] = "no answer"
    answer = await site.ask("GET", "/readyz")

    assert answer.status == 503
    assert answer.json == {"status": "unavailable", "checks": {"store": "no answer", "broker": "ok"}}


async def test_readyz_sends_traffic_away_while_draining(site, world) -> None:
    world.draining = True
    answer = await site.ask("GET", "/readyz")

    assert answer.status == 503
    assert answer.json == {"status": "draining", "checks": {"store": "ok", "broker": "ok"}}


async def test_readyz_does_not_wait_for_ever(site, world, autojump_clock) -> None:
    world.readiness_takes_s = 60.0
    answer = await site.ask("GET", "/readyz")

    assert answer.status == 503
    assert answer.json == {"status": "unavailable", "checks": {"readiness": "timed out"}}


async def test_metrics_are_prometheus_text(site, world) -> None:
    world.metrics.connection_opened("ann")
    answer = await site.ask("GET", "/metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"scm_connections_active 1.0" in answer.body


async def test_statistics_are_for_administrators(site) -> None:
    assert (await site.ask("GET", "/scm/ai/stats")).status == 401
    refused = await site.ask("GET", "/scm/ai/stats", headers=USER)
    assert (refused.status, refused.json) == (403, {"code": "FORBIDDEN", "message": "没有权限"})

    answer = await site.ask("GET", "/scm/ai/stats", headers=ADMIN)
    assert answer.status == 200
    assert answer.json["activeConnections"] == 0
    assert answer.json["activeRuns"] == []


async def test_models_are_listed_for_users(site) -> None:
    answer = await site.ask("GET", "/scm/ai/models", headers=USER)

    assert answer.json == {
        "items": [
            {"provider": "openai", "models": ["gpt-4o"], "default": True},
            {"provider": "spark", "models": [], "default": False},
        ],
        "next": None,
        "aliases": [{"alias": "fast", "provider": "openai", "model": "gpt-4o"}],
        "default": {"provider": "openai", "model": "gpt-4o"},
    }


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        (VendorList(("gpt-4o", "gpt-5")), {"models": ["gpt-4o", "gpt-5"], "error": None}),
        (VendorList((), "TIMEOUT"), {"models": [], "error": "TIMEOUT"}),
        (None, None),
    ],
)
async def test_what_the_vendors_list_is_told_where_it_is_asked_for(site, world, listed, told) -> None:
    world.vendor, world.default = listed, None
    answer = await site.ask("GET", "/scm/ai/models?vendor=true", headers=USER)

    assert [item["vendor"] for item in answer.json["items"]] == [told, None]
    assert answer.json["default"] is None
    quiet = await site.ask("GET", "/scm/ai/models?vendor=false", headers=USER)
    assert [sorted(item) for item in quiet.json["items"]] == [["default", "models", "provider"]] * 2


@pytest.mark.parametrize("value", ["", "1", "TRUE", "openai"])
async def test_whether_to_ask_the_vendors_is_said_by_true_or_false(site, value) -> None:
    answer = await site.ask("GET", f"/scm/ai/models?vendor={value}&lang=en", headers=USER)

    assert (answer.status, answer.json["code"]) == (400, "INVALID_MESSAGE")
    assert "vendor" in answer.json["message"]


async def test_a_valid_token_is_exchanged_for_a_new_one(site) -> None:
    answer = await site.ask("POST", "/scm/ai/token/refresh", headers=USER)

    assert answer.status == 200
    assert answer.json == {"token": "fresh", "userId": "ann", "expiresAt": "2001-09-09T01:56:40.000Z"}
    assert answer.headers["cache-control"] == "no-store"


async def test_a_new_token_keeps_the_roles(site, world) -> None:
    await site.ask("POST", "/scm/ai/token/refresh", headers=USER)

    assert world.tokens.known["fresh"].roles == {"reader"}


@pytest.mark.parametrize(("allow_refresh", "can_issue"), [(False, True), (True, False)])
async def test_a_server_that_does_not_issue_tokens_refuses(connected, world, allow_refresh, can_issue) -> None:
    world.tokens.can_issue = can_issue
    async with connected(build_app(world.services(allow_refresh=allow_refresh))) as peer:
        answer = await peer.ask("POST", "/scm/ai/token/refresh", headers=USER)

    assert (answer.status, answer.json["code"]) == (403, "FORBIDDEN")


async def test_a_plain_get_on_the_chat_path_is_asked_to_upgrade(site) -> None:
    answer = await site.ask("GET", "/scm/websocket/ai/chat?userId=ann&lang=en")

    assert answer.status == 426
    assert answer.headers["upgrade"] == "websocket"
    assert answer.json["code"] == "UPGRADE_REQUIRED"
    assert answer.json["message"] == "This address takes WebSocket connections only"


# ---- tokens


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer  ", "Basic user", "Bearer wrong"])
async def test_without_a_valid_bearer_token_the_answer_is_401(site, value) -> None:
    answer = await site.ask("GET", "/scm/ai/models", headers={"Authorization": value} if value else {})

    assert (answer.status, answer.json["code"]) == (401, "UNAUTHORIZED")
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_an_expired_token_is_told_apart(site) -> None:
    answer = await site.ask("GET", "/scm/ai/models", headers={"Authorization": "Bearer old"})

    assert (answer.status, answer.json["code"]) == (401, "TOKEN_EXPIRED")


async def test_a_token_in_the_query_is_never_taken(site) -> None:
    assert (await site.ask("GET", "/scm/ai/models?token=user")).status == 401


# ---- the document


def shape_of(app) -> set[tuple[str, str]]:
    return {(method, route.path) for route in app.routes for method in route.methods - {"HEAD"}}


async def test_the_openapi_document_has_exactly_the_routes_of_the_application(site, world) -> None:
    document = (await site.ask("GET", "/scm/ai/openapi.json")).json
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}

    assert document["openapi"].startswith("3.1.")
    assert described == shape_of(build_app(world.services()))


async def test_what_the_document_protects_is_protected(site) -> None:
    document = (await site.ask("GET", "/scm/ai/openapi.json")).json
    protected, public = set(), set()
    for path, item in document["paths"].items():
        for method, operation in item.items():
            target = path.replace("{name}", "main.js").replace("{id}", "some-id")
            status = (await site.ask(method.upper(), target)).status
            assert str(status) in operation["responses"], path
            (protected if status == 401 else public).add((method, path, bool(operation["security"])))

    assert all(secured for _, _, secured in protected)
    # The handshake of the WebSocket has tests of its own; a plain GET does not get as far as its token.
    assert {path for _, path, secured in public if secured} == {"/scm/websocket/ai/chat"}
    assert {(method, path) for method, path, _ in protected} == {
        ("get", "/scm/ai/stats"),
        ("get", "/scm/ai/models"),
        ("post", "/scm/ai/token/refresh"),
        ("get", "/scm/ai/usage"),
        ("get", "/scm/ai/sessions"),
        ("post", "/scm/ai/sessions"),
        ("get", "/scm/ai/sessions/{id}"),
        ("patch", "/scm/ai/sessions/{id}"),
        ("delete", "/scm/ai/sessions/{id}"),
        ("get", "/scm/ai/sessions/{id}/messages"),
        ("get", "/scm/ai/search"),
        ("get", "/scm/ai/sessions/{id}/export"),
        ("get", "/scm/ai/sessions/{id}/suggestions"),
        ("post", "/scm/ai/files"),
        ("get", "/scm/ai/files/{id}"),
    }


def references(value) -> list[str]:
    if isinstance(value, dict):
        return [value["$ref"]] if "$ref" in value else [ref for each in value.values() for ref in references(each)]
    return [ref for each in value for ref in references(each)] if isinstance(value, list) else []


async def test_operation_ids_are_unique_and_references_resolve(site) -> None:
    document = (await site.ask("GET", "/scm/ai/openapi.json")).json
    names = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(names) == len(set(names))

    found = references(document)
    assert {"#/components/schemas/Error", "#/components/schemas/StoredMessage"} < set(found)
    for reference in found:
        value = document
        for step in reference.removeprefix("#/").split("/"):
            value = value[step]


async def test_every_schema_of_the_document_is_a_schema(site) -> None:
    document = (await site.ask("GET", "/scm/ai/openapi.json")).json
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    contents = [
        media
        for item in document["paths"].values()
        for operation in item.values()
        for part in [*operation["responses"].values(), operation.get("requestBody", {})]
        for media in part.get("content", {}).values()
    ]
    assert len(contents) > 20
    for media in contents:
        Draft202012Validator.check_schema(media["schema"])


@pytest.mark.parametrize("allowed", [True, False])
async def test_the_document_tells_of_the_query_token_only_where_it_is_taken(connected, world, allowed) -> None:
    async with connected(build_app(world.services(query_token=allowed))) as peer:
        document = (await peer.ask("GET", "/scm/ai/openapi.json")).json
    ways = [*document["paths"]["/scm/websocket/ai/chat"]["get"]["security"]]

    assert ways == [{"bearer": []}, {"subprotocol": []}, *([{"queryToken": []}] if allowed else [])]
    assert ("queryToken" in document["components"]["securitySchemes"]) == allowed
    assert {name for way in ways for name in way} == set(document["components"]["securitySchemes"])


async def test_a_method_that_a_path_does_not_take_is_told_which_it_does(site) -> None:
    answer = await site.ask("DELETE", "/scm/ai/files")

    assert (answer.status, answer.json["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("bad", ["%00", "a%0Ab", "x" * 129])
async def test_what_can_be_no_id_is_not_found(site, bad) -> None:
    for path in (
        "/scm/ai/files/{}",
        "/scm/ai/sessions/{}",
        "/scm/ai/sessions/{}/messages",
        "/scm/ai/sessions/{}/export",
    ):
        answer = await site.ask("GET", path.format(bad), headers=USER)
        assert (answer.status, answer.json["code"]) == (404, "NOT_FOUND")
