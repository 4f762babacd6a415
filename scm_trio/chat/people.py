"""The people of this process: who is here, who types, and who belongs together. What connections need of all that."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import trio
from attrs import field, frozen

from scm_trio.chat.circles import Circles
from scm_trio.chat.lasting import lasting
from scm_trio.chat.presence import Presence
from scm_trio.chat.typists import Typists
from scm_trio.cluster.hub import Connection, Hub
from scm_trio.store.database import Database

Listener = Callable[[str, Mapping[str, str], Collection[str]], None]


@frozen
class People:
    """See the module.

    Attributes:
        on_change: further functions that want to hear of every ``changed``.
    """

    circles: Circles
    presence: Presence
    typists: Typists
    on_change: list[Listener] = field(factory=list)

    def joined(self, connection: Connection) -> None:
        self.presence.joined(connection)

    def left(self, connection: Connection) -> None:
        self.presence.left(connection)
        self.typists.left(connection)

    def changed(self, global_id: str, names: Mapping[str, str], removed: Collection[str] = ()) -> None:
        """A session has other members now, or other names: to be called after every such change was stored.

        Args:
            global_id: the session's.
            names: what each of its members calls it now; nobody: it is gone.
            removed: who was a member before, and is no more.
        """
        self.circles.forget(global_id, {*names, *removed})
        self.typists.changed(global_id, names, removed)
        for listener in self.on_change:
            listener(global_id, names, removed)

    async def run(self) -> None:
        """Keep the time of all this, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lasting, self.presence.run, "presence")
            nursery.start_soon(lasting, self.typists.run, "typists")


def people_of(database: Database, hub: Hub) -> People:
    """The people who come through this hub."""
    circles = Circles(database)
    people = People(circles, Presence(circles, hub), Typists(circles, hub))
    hub.on_leave = people.left
    return people
