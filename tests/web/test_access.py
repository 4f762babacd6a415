"""Every route that names a session, a message or a file, by everybody: its owners, members, viewers and strangers.

Driven by the table of routes: a new one fails here until it has a row.
"""

from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from attrs import frozen

from scm_trio.config import Files
from scm_trio.providers.scripted import Scripted
from scm_trio.testing import open_server, quiet_config
from scm_trio.web.app import operations

pytestmark = pytest.mark.usefixtures("both_databases")

USERS = {"owner": "user001", "member": "user002", "viewer": "user003", "stranger": "user004"}
BOUNDARY = "b0undary"
UPLOAD = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nhello\r\n--{BOUNDARY}--\r\n'
)


@frozen
class Place:
    """A session of the first user's, and what is in it; ids as they stand in a path."""

    session_id: str
    question: str
    answer: str
    file_id: str


NOWHERE = Place("s-" + "0" * 24, "msg-1", "msg-2", "file-1")


@frozen
class Row:
    """A route, what is asked of it, and the status by role; a stranger finds nothing."""

    method: str
    path: str
    owner: int
    member: int
    viewer: int
    body: Any = None
    query: Callable[[Place], str] = lambda _: ""
    stranger: int = 404


def leaf(which: str, name: str = "leaf") -> Callable[[Place], str]:
    return lambda place: f"?{name}={getattr(place, which)}"


ONE = "/scm/ai/sessions/{id}"
ALONE = [{"userId": USERS["owner"], "role": "owner"}]
ROWS = [
    Row("GET", ONE, 200, 200, 200),
    Row("PATCH", ONE, 200, 200, 403, {"title": "t"}),
    Row("PATCH", ONE, 200, 200, 403, {"archived": True}),
    Row("PATCH", ONE, 200, 200, 403, {"systemPrompt": "p"}),
    Row("PATCH", ONE, 200, 403, 403, {"members": ALONE}),
    Row("DELETE", ONE, 200, 403, 403),
    Row("GET", f"{ONE}/messages", 200, 200, 200),
    Row("GET", f"{ONE}/messages", 200, 200, 200, query=leaf("answer")),
    Row("GET", f"{ONE}/messages", 200, 200, 200, query=leaf("question", "through")),
    Row("GET", f"{ONE}/messages", 404, 404, 404, query=lambda _: "?leaf=msg-none"),
    Row("GET", f"{ONE}/export", 200, 200, 200),
    Row("GET", f"{ONE}/export", 200, 200, 200, query=lambda place: f"?format=json&branch={place.answer}"),
    Row("GET", f"{ONE}/export", 200, 200, 200, query=lambda _: "?format=html&tree=true"),
    Row("GET", f"{ONE}/suggestions", 200, 200, 200),
    Row("GET", "/scm/ai/search", 200, 200, 200, query=lambda place: f"?q=Hi&sessionId={place.session_id}"),
    Row("GET", "/scm/ai/files/{id}", 200, 200, 200),
]

NAME_NOTHING = {
    ("GET", "/scm/ai/models"),
    ("GET", "/scm/ai/usage"),
    ("GET", "/scm/ai/stats"),
    ("GET", "/scm/ai/sessions"),
    ("POST", "/scm/ai/sessions"),
    ("POST", "/scm/ai/files"),
    ("POST", "/scm/ai/token/refresh"),
}
"""Routes for users that name no session, no message and no file."""


def test_every_route_for_users_has_its_row(world):
    for_users = {(each.method, each.path) for each in operations(world.services()) if each.access != "public"}
    assert {(row.method, row.path) for row in ROWS} | NAME_NOTHING == for_users


@pytest.fixture
def inhabited(calling, tmp_path):
    return lambda: _inhabited(calling, quiet_config(files=Files(path=str(tmp_path / "files"))))


@asynccontextmanager
async def _inhabited(calling, config):
    """A server, what asks it as somebody, and the place."""
    async with open_server({"openai": Scripted(["a"])}, config) as server, server.peer() as ann:

        async def call(user, method, target, body=None, content_type="application/json"):
            data = orjson.dumps(body) if isinstance(body, dict) else body
            headers = {"Authorization": f"Bearer {server.token(user)}", "Content-Type": content_type}
            return await calling(server).ask(method, target, data, headers)

        form = f"multipart/form-data; boundary={BOUNDARY}"
        file = (await call(USERS["owner"], "POST", "/scm/ai/files", UPLOAD.encode(), form)).json
        await ann.send("CHAT_REQUEST", {"message": "Hi", "attachments": [file["fileId"]]})
        start = (await ann.until("CHAT_STREAM_END"))[0]["data"]
        people = [{"userId": user, "role": role} for role, user in USERS.items() if role != "stranger"]
        await ann.send("SESSION_UPDATE", {"sessionId": "session001", "members": people})
        session_id = (await ann.until("SESSION_UPDATE"))[-1]["data"]["globalId"]
        yield call, Place(session_id, start["userMessageId"], start["messageId"], file["fileId"])


def target(row, place, reference=None):
    found = place.file_id if "files" in row.path else reference or place.session_id
    return row.path.replace("{id}", found) + row.query(place)


@pytest.mark.parametrize("role", USERS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.method} {row.path}")
async def test_everybody_can_do_what_his_role_lets_him_and_nothing_else(inhabited, autojump_clock, row, role):
    async with inhabited() as (call, place):
        answer = await call(USERS[role], row.method, target(row, place), row.body)
    assert answer.status == getattr(row, role)
    if answer.status != 200:
        assert answer.json["code"] == {403: "FORBIDDEN", 404: "NOT_FOUND"}[answer.status]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.method} {row.path}")
async def test_a_stranger_cannot_tell_what_is_there_from_what_is_not(inhabited, autojump_clock, row):
    async with inhabited() as (call, place):
        answers = [await call(USERS["stranger"], row.method, target(row, each), row.body) for each in (place, NOWHERE)]
    for answer in answers:
        answer.headers.pop("date")
    assert answers[0] == answers[1]


@pytest.mark.parametrize("role", ["member", "viewer", "stranger"])
async def test_the_owners_own_name_means_nothing_to_others(inhabited, autojump_clock, role):
    async with inhabited() as (call, place):
        for row in ROWS:
            if "sessions" in row.path:
                answer = await call(USERS[role], row.method, target(row, place, "session001"), row.body)
                assert answer.status == 404


async def test_who_is_taken_off_loses_all_of_it_at_once(inhabited, autojump_clock):
    async with inhabited() as (call, place):
        await call(USERS["owner"], "PATCH", f"/scm/ai/sessions/{place.session_id}", {"members": ALONE})
        for row in ROWS:
            assert (await call(USERS["member"], row.method, target(row, place), row.body)).status == 404


async def test_an_export_is_the_members_own_view(inhabited, autojump_clock):
    async with inhabited() as (call, place):
        path = f"/scm/ai/sessions/{place.session_id}/export?format=json"
        for role, name in (("owner", "session001"), ("viewer", place.session_id)):
            exported = (await call(USERS[role], "GET", path)).json
            session = exported["session"]
            assert (session["sessionId"], session["role"], len(session["members"])) == (name, role, 3)
            assert {each["sessionId"] for each in exported["messages"]} == {name}
            assert {each["conversationId"] for each in exported["messages"]} == {name}
            assert exported["messages"][0]["attachments"][0]["fileId"] == place.file_id
