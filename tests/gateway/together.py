"""Sessions with several people in them."""

from typing import Any

from scm_trio.testing import Peer

from .serving import replies

ANN, BOB, EVE = "user001", "user002", "user003"


async def request(peer: Peer, kind: str, data: Any = None, request_id: str = "q", **envelope: Any) -> dict[str, Any]:
    """Send a request; returns its one reply, be it an ERROR."""
    await peer.send(kind, data, request_id=request_id, **envelope)
    return (await replies(peer, request_id, kind, "ERROR", "SESSION_DELETE"))[-1]


async def create(peer: Peer, members: dict[str, str] | None = None, **data: Any) -> dict[str, Any]:
    """Create a session with these members besides its creator, by role; returns it."""
    people = [{"userId": user, "role": role} for user, role in (members or {}).items()]
    reply = await request(peer, "SESSION_CREATE", {**data, "members": people}, "create")
    assert reply["type"] == "SESSION_CREATE", reply
    return reply["data"]


async def set_members(peer: Peer, session_id: str, **roles: str) -> dict[str, Any]:
    people = [{"userId": user, "role": role} for user, role in roles.items()]
    return await request(peer, "SESSION_UPDATE", {"sessionId": session_id, "members": people}, "members")


async def nothing_more(peer: Peer) -> None:
    """The peer has been told nothing else, whatever it did not read yet: only its heartbeat is answered."""
    await peer.send("HEARTBEAT", request_id="nothing")
    while (message := await peer.receive()).get("requestId") != "nothing":
        assert message["type"] == "HEARTBEAT", message


def code(message: dict[str, Any]) -> str:
    assert message["type"] == "ERROR", message
    found: str = message["error"]["code"]
    return found
