"""Full text search over what a user may read."""

from __future__ import annotations

import trio
from attrs import evolve, frozen
from sqlalchemy import Connection

from scm_trio.chat.deliveries import Deliveries
from scm_trio.chat.turns import Turns
from scm_trio.model import MessageStatus
from scm_trio.store.database import Database, Offload
from scm_trio.store.files import with_attachments
from scm_trio.store.housekeeping import catch_up
from scm_trio.store.markers import status_of
from scm_trio.store.members import markers_of
from scm_trio.store.paging import Page
from scm_trio.store.search import Hit, SearchQuery, find
from scm_trio.store.words import parse_query, snippet

CATCH_UP_LIMIT_S = 1.0
"""A search does not wait longer until the newest messages can be found, too."""
AT_ONCE = 4
"""Searches in the database, one of a user: half of what it does at once, since a search may take it long."""


@frozen
class Found:
    """A message that matches, and how far it has come, as the user sees it. ``snippet`` is HTML."""

    hit: Hit
    status: MessageStatus
    snippet: str = ""


class Search:
    """The search of this server.

    Args:
        database: its writer must be running.
        deliveries: what is known of messages' status and not in there yet.
        offload: carries the making of snippets, which the database has no part in.
    """

    def __init__(self, database: Database, deliveries: Deliveries, offload: Offload) -> None:
        self._database = database
        self._deliveries = deliveries
        self._offload = offload
        self._turns = Turns()
        self._places = trio.CapacityLimiter(AT_ONCE)
        # One at a time: two at once would only make the writer's transactions longer for everybody.
        self._indexing = trio.Lock()

    async def find(self, user_id: str, query: SearchQuery) -> Page[Found]:
        """A page of what matches, the newest first. One search of a user at a time, the others wait for it.

        Raises:
            InvalidMessage: the query is too long, or the cursor is none of this list.
            NotFound: he is no member of that session.
            StoreError: the database failed.
        """
        async with self._turns.of(user_id):
            with trio.move_on_after(CATCH_UP_LIMIT_S):
                await self.catch_up()
            await self._deliveries.settle()
            async with self._places:
                page = await self._database.read(_find, user_id, query)
            result: Page[Found] = await self._offload(_with_snippets, page, query.text)
            return result

    async def catch_up(self) -> None:
        """Make everything that is stored known to the search.

        Raises:
            StoreError: the database failed.
        """
        async with self._indexing:
            await catch_up(self._database)


def _find(conn: Connection, user_id: str, query: SearchQuery) -> Page[Found]:
    page = find(conn, user_id, query)
    messages = with_attachments(conn, [hit.message for hit in page.items])
    markers = {each.session_id: markers_of(conn, each.session_id) for each in messages}
    return Page(
        tuple(
            Found(evolve(hit, message=each), status_of(each, hit.sequence, user_id, markers[each.session_id]))
            for hit, each in zip(page.items, messages, strict=True)
        ),
        page.next,
    )


def _with_snippets(page: Page[Found], text: str) -> Page[Found]:
    terms = parse_query(text)
    items = tuple(evolve(each, snippet=snippet(each.hit.message.content, terms)) for each in page.items)
    return Page(items, page.next)
