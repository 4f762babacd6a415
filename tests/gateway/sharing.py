"""A session with several members, and quick ways to see what they are told."""

from contextlib import suppress
from typing import Any

import trio

from scm_trio.chat.sessions import Caller
from scm_trio.protocol import messages
from scm_trio.store.members import Member
from scm_trio.store.sessions import NewSession, create_session
from scm_trio.testing import Peer, Server

GLOBAL_ID = f"s-{1:024x}"


async def share(server: Server, *others: str, owner: str = "user001", global_id: str = GLOBAL_ID, **roles: str) -> str:
    """A session of this owner with these members (``viewer="user009"`` names one with another role)."""
    people = [Member(user, "member") for user in others]
    people += [Member(user, role) for role, user in roles.items()]
    new = NewSession(members=tuple(people))
    await server.house.database.write(create_session, owner, global_id, new, 1.0)
    return global_id


async def set_members(server: Server, *, by: str = "user001", global_id: str = GLOBAL_ID, **roles: str) -> None:
    """Make these the members, as ``user001="owner"``."""
    wanted = tuple(messages.Member(user, role) for user, role in roles.items())
    await server.house.gate.sessions.update(Caller(by), messages.SessionUpdate(global_id, members=wanted))


async def delete(server: Server, *, by: str = "user001", global_id: str = GLOBAL_ID) -> None:
    await server.house.gate.sessions.delete(Caller(by), global_id)


async def heard(peer: Peer, seconds: float = 0.5) -> list[dict[str, Any]]:
    """Everything that comes within this time, heartbeats left out."""
    messages = []
    with suppress(trio.TooSlowError), trio.fail_after(seconds):
        while True:
            messages.append(await peer.receive())
    return [each for each in messages if each["type"] != "HEARTBEAT"]


def told(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Types and whom they are about."""
    return [(each["type"], each["userId"]) for each in messages]


def statuses(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Whom the ONLINE_STATUS messages are about, and how they are."""
    users = [user for each in messages if each["type"] == "ONLINE_STATUS" for user in each["data"]["users"]]
    return [(user["userId"], user["status"]) for user in users]
