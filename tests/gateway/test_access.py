"""Every verb that names a session or a message, by everybody: its owners, members, viewers and strangers.

Driven by the table of handlers: a new verb fails here until it has a row.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from attrs import frozen

from scm_trio.gateway.dispatch import HANDLERS
from scm_trio.providers.scripted import Stall
from scm_trio.testing import Peer

from .serving import ask, replies, serving
from .together import ANN, BOB, EVE, code, request, set_members

pytestmark = pytest.mark.usefixtures("both_databases")

DAN = "user004"
ROLES = {ANN: "owner", BOB: "member", EVE: "viewer", DAN: "stranger"}
USERS = {role: user for user, role in ROLES.items()}
STRANGER = "NOT_FOUND"


@frozen
class Place:
    """A session of Ann's that Bob may ask in and Eve may read, and what is in it.

    Attributes:
        session_id: its global id.
        question, answer: ids of stored messages.
        running: the id of an answer that is being given to the owner, and
        members: of one that is being given to the member.
    """

    session_id: str
    question: str
    answer: str
    running: str
    members: str


@frozen
class Row:
    """A verb, what it says, and what comes of it: by role, "ok" or the code of an error; a stranger finds nothing."""

    kind: str
    data: Callable[[Place], dict[str, Any]]
    owner: str
    member: str
    viewer: str
    stranger: str = STRANGER
    in_session: bool = True
    field: str | None = None
    done_by: str | None = None
    """The message that tells of success, where that is not the verb's own."""


def asks(**data: Any) -> Callable[[Place], dict[str, Any]]:
    return lambda place: {"message": "Hi", **{name: getattr(place, which) for name, which in data.items()}}


def in_it(**more: Any) -> Callable[[Place], dict[str, Any]]:
    return lambda place: {"sessionId": place.session_id, **more}


START, END = "CHAT_STREAM_START", "CHAT_STREAM_END"
SILENCE = "HEARTBEAT"
"""What has no answer when it succeeds is told by that of the heartbeat that follows it."""
ME_ALONE = [{"userId": ANN, "role": "owner"}]
EVERYBODY = [{"userId": user, "role": "owner"} for user in (ANN, BOB, EVE, DAN)]

ROWS = [
    Row("CHAT_REQUEST", asks(), "ok", "ok", "FORBIDDEN", done_by=START),
    Row("CHAT_REQUEST", asks(parentMessageId="answer"), "ok", "ok", "FORBIDDEN", done_by=START),
    Row("CHAT_REQUEST", asks(regenerateOf="answer"), "ok", "ok", "FORBIDDEN", done_by=START),
    Row("CHAT_REQUEST", asks(editOf="question"), "ok", "ok", "FORBIDDEN", done_by=START),
    # From a session of one's own nobody gets at a message of another, not even of one that he may read.
    *(
        Row(
            "CHAT_REQUEST",
            asks(**{name: which}),
            "NOT_FOUND",
            "NOT_FOUND",
            "NOT_FOUND",
            in_session=False,
            field=f"data.{name}",
        )
        for name, which in (("parentMessageId", "answer"), ("regenerateOf", "answer"), ("editOf", "question"))
    ),
    Row("CHAT_CANCEL", lambda place: {"messageId": place.running}, "ok", "FORBIDDEN", "FORBIDDEN", done_by=END),
    Row("CHAT_CANCEL", lambda place: {"messageId": place.members}, "ok", "ok", "FORBIDDEN", done_by=END),
    Row("CHAT_CANCEL", lambda place: {"messageId": place.answer}, "NOT_FOUND", "NOT_FOUND", "NOT_FOUND"),
    Row("CHAT_CANCEL", lambda _: {"requestId": "running"}, "ok", "NOT_FOUND", "NOT_FOUND", done_by=END),
    Row("CHAT_RESUME", lambda place: {"messageId": place.running}, "ok", "ok", "ok", done_by=START),
    Row("CHAT_RESUME", lambda place: {"messageId": place.answer}, "ok", "ok", "ok", done_by=START),
    Row("CHAT_RESUME", lambda place: {"messageId": place.question}, "NOT_FOUND", "NOT_FOUND", "NOT_FOUND"),
    Row("SESSION_UPDATE", in_it(title="t"), "ok", "ok", "FORBIDDEN"),
    Row("SESSION_UPDATE", in_it(archived=True), "ok", "ok", "FORBIDDEN"),
    Row("SESSION_UPDATE", in_it(systemPrompt="p"), "ok", "ok", "FORBIDDEN"),
    Row("SESSION_UPDATE", in_it(), "ok", "ok", "ok"),
    Row("SESSION_UPDATE", in_it(members=ME_ALONE), "ok", "FORBIDDEN", "FORBIDDEN"),
    Row("SESSION_UPDATE", in_it(members=EVERYBODY), "ok", "FORBIDDEN", "FORBIDDEN"),
    Row("SESSION_DELETE", in_it(), "ok", "FORBIDDEN", "FORBIDDEN"),
    Row("TYPING_START", in_it(), "ok", "ok", "FORBIDDEN", done_by=SILENCE),
    Row("TYPING_STOP", in_it(), "ok", "ok", "FORBIDDEN", done_by=SILENCE),
    Row("MESSAGE_READ", lambda place: in_it(messageId=place.answer)(place), "ok", "ok", "ok"),
    Row("MESSAGE_READ", in_it(messageId="msg-none"), "NOT_FOUND", "NOT_FOUND", "NOT_FOUND"),
]

NAME_NOTHING = {"HEARTBEAT", "AUTH_REFRESH", "DISCONNECT", "SESSION_CREATE", "SESSION_LIST", "ONLINE_STATUS"}
"""Verbs that name no session and no message."""


def test_every_verb_has_its_row():
    assert {row.kind for row in ROWS} | NAME_NOTHING == set(HANDLERS)


@asynccontextmanager
async def inhabited():
    async with serving("a", Stall()) as server, AsyncExitStack() as stack:
        peers = {role: await stack.enter_async_context(server.peer(user, "own")) for role, user in USERS.items()}
        yield peers, await furnish(peers["owner"], peers["member"])


async def furnish(ann: Peer, bob: Peer) -> Place:
    await ask(ann, "What?", "first", session_id="session001")
    first = (await replies(ann, "first", START))[-1]["data"]
    await ann.send("CHAT_CANCEL", {"requestId": "first"})
    await replies(ann, "first", END)
    shared = await set_members(ann, "session001", **{ANN: "owner", BOB: "member", EVE: "viewer"})
    global_id = shared["data"]["globalId"]
    running = []
    for peer, request_id, name in ((ann, "running", "session001"), (bob, "members", global_id)):
        await ask(peer, "More?", request_id, session_id=name)
        running.append((await replies(peer, request_id, START))[-1]["data"]["messageId"])
    return Place(global_id, first["userMessageId"], first["messageId"], *running)


async def attempt(peer: Peer, row: Row, place: Place) -> dict[str, Any]:
    """Do what the row says; returns the reply that tells how it went."""
    data = row.data(place)
    await peer.send(row.kind, data, request_id="walk", **({"sessionId": place.session_id} if row.in_session else {}))
    if row.done_by == SILENCE:
        await peer.send("HEARTBEAT", request_id="after")
        messages = [await peer.receive()]
        while messages[-1].get("requestId") != "after":
            messages.append(await peer.receive())
        return next((each for each in messages if each.get("requestId") == "walk"), messages[-1])
    while True:
        message = await peer.receive()
        kind, told = message["type"], message["data"]
        is_reply = message.get("requestId") == "walk" and kind in (row.done_by or row.kind, "ERROR")
        # What a cancel brings about is the END of the answer, for all who watch; a resume may move who watches already.
        is_told = kind == row.done_by and (kind == END or (row.kind == "CHAT_RESUME" and told["resumed"]))
        if is_reply or (is_told and told["messageId"] == data.get("messageId", place.running)):
            return message


@pytest.mark.parametrize("role", USERS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.kind)
async def test_everybody_can_do_what_his_role_lets_him_and_nothing_else(autojump_clock, row, role):
    expected = getattr(row, role)
    async with inhabited() as (peers, place):
        reply = await attempt(peers[role], row, place)
    assert ("ok" if reply["type"] != "ERROR" else code(reply)) == expected
    if reply["type"] == "ERROR":
        assert reply["error"].get("field") == (row.field if expected == "NOT_FOUND" else None)
    elif reply["type"] == END:
        assert reply["data"]["finishReason"] == "cancelled"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.kind)
async def test_a_stranger_cannot_tell_what_is_there_from_what_is_not(autojump_clock, row):
    nowhere = Place("s-" + "0" * 24, *(f"msg-{number}" for number in range(4)))
    async with inhabited() as (peers, place):
        there = await attempt(peers["stranger"], row, place)
        not_there = await attempt(peers["stranger"], row, nowhere)
        for message in (there, not_there):
            message.pop("timestamp")
            message.pop("sessionId")  # as he said it
    assert there == not_there


@pytest.mark.parametrize("kind", ["SESSION_UPDATE", "SESSION_DELETE", "MESSAGE_READ"])
async def test_the_owners_own_name_means_nothing_to_others(autojump_clock, kind):
    async with inhabited() as (peers, place):
        for role in ("member", "viewer", "stranger"):
            reply = await request(peers[role], kind, {"sessionId": "session001", "messageId": place.answer})
            assert code(reply) == "NOT_FOUND"


async def test_a_question_under_the_owners_name_is_asked_in_a_session_of_ones_own(autojump_clock):
    async with inhabited() as (peers, place):
        await ask(peers["stranger"], "Hi", "own", session_id="session001")
        start = (await replies(peers["stranger"], "own", START, "ERROR"))[-1]
        assert (start["type"], start["sessionId"]) == (START, "session001")
        listed = await request(peers["stranger"], "SESSION_LIST")
        assert place.session_id not in [each["globalId"] for each in listed["data"]["items"]]
