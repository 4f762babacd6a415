"""What was said in a session, for one of its members: in pages."""

from __future__ import annotations

from attrs import evolve
from sqlalchemy import Connection

from scm_trio.chat.deliveries import Deliveries
from scm_trio.protocol import messages, records
from scm_trio.store.access import resolve
from scm_trio.store.database import Database
from scm_trio.store.history import HistoryFilter, history_page, newest_leaf


class History:
    """The histories of all sessions.

    Args:
        database: where they are.
        deliveries: what is known of their status and not in there yet.
    """

    def __init__(self, database: Database, deliveries: Deliveries) -> None:
        self._database = database
        self._deliveries = deliveries

    async def page(
        self, user_id: str, reference: str, wanted: HistoryFilter, through: str | None = None
    ) -> messages.MessagePage:
        """A page of a session's history: the newest page first, the oldest message of a page first.

        Args:
            user_id: whose session it is.
            reference: what he calls it, or its global id.
            wanted: which part.
            through: a message: the branch through it, down to where it was talked on last, instead of ``wanted.leaf``.

        Raises:
            NotFound: he is no member of such a session, or it has no such message.
            InvalidMessage: the cursor is none of this list.
            StoreError: the database failed.
        """
        await self._deliveries.settle()
        return await self._database.read(_page, user_id, reference, wanted, through)


def _page(
    conn: Connection, user_id: str, reference: str, wanted: HistoryFilter, through: str | None
) -> messages.MessagePage:
    name = resolve(conn, user_id, reference).name
    if through is not None:
        wanted = evolve(wanted, leaf=newest_leaf(conn, user_id, reference, through))
    page = history_page(conn, user_id, reference, wanted)
    items = (
        evolve(
            records.message(said.message, name, said.status),
            siblings=said.siblings if len(said.siblings) > 1 else None,
        )
        for said in page.items
    )
    return messages.MessagePage(tuple(items), page.next)
