"""Full text search over what a user may read, the newest message first.

The index is filled afterwards, in batches, so that storing a message costs nothing more; ``housekeeping.catch_up``
before a search lets it find all that was stored until then. Newest first and not best first: that is what people look for in
conversations, pages stay as they are while messages come, and no more rows are read than a page needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from attrs import frozen
from sqlalchemy import ColumnElement, Connection, Select, and_, delete, exists, func, insert, select

from scm_trio.model import Message
from scm_trio.store.access import name_for, resolve
from scm_trio.store.files import with_attachments
from scm_trio.store.messages import COLUMNS, message_from
from scm_trio.store.paging import MAX_NUMBER, Page, decode_cursor, encode_cursor, fitting, page_size
from scm_trio.store.prepared import Prepared
from scm_trio.store.schema import members, message_search, messages, search_queue, sessions
from scm_trio.store.words import Term, normalised, parse_query

BATCH = 200
"""Messages that one transaction indexes,"""
BATCH_CHARS = 1_000_000
"""or fewer, if they are as long as this together."""

MERGE_PAGES = 200
"""What one transaction writes anew of the index."""

FEW = 4000
"""A user with fewer messages is searched by reading them, and not through everybody's index."""
FIRST_MATCHES = 64
"""In everybody's index this many matches are taken first and looked through for the user's, then"""
GROWTH = 8
"""times as many,"""
MAX_MATCHES = 300_000
"""until it were so many: then a page is told as it is, even an empty one, and its cursor goes on."""

PHRASE_WORDS = 8
"""FTS5 tries each word of a phrase at every place where one of them stands. Of a longer phrase it is asked for the first
words; whether the others follow is read in the texts that have these."""

CLOCKS_DIFFER_S = 86_400.0
"""Messages are stored in the order of their times, but for clocks that differ by less than this."""
NEIGHBOURS = 200


@frozen
class SearchQuery:
    """What is looked for.

    Attributes:
        text: words, all of which have to be there; "in quotes" they follow one another.
        session: only in this session, by the user's reference.
        since: only what was stored at this time or later, seconds since the epoch,
        until: and before this one.
        before: the cursor of the page before.
        limit: how many at most.
    """

    text: str
    session: str | None = None
    since: float | None = None
    until: float | None = None
    before: str | None = None
    limit: int = 20


@frozen
class Hit:
    """A message that matches. ``session_id`` is what the user calls its session."""

    message: Message
    sequence: int
    session_id: str


def find(conn: Connection, user_id: str, query: SearchQuery) -> Page[Hit]:
    """A page of the messages that match, of all sessions that the user is a member of.

    Raises:
        InvalidMessage: the query is too long, or the cursor is none of this list.
        NotFound: he is no member of that session.
    """
    terms = parse_query(query.text)
    before = None if query.before is None else int(decode_cursor(query.before, int)[0])
    readable = _readable(conn, user_id, query)
    if not terms:
        return Page(())
    size = page_size(query.limit)
    first, last = _bounds(conn, query)
    before = last + 1 if before is None else min(before, last + 1)
    # Which ones match, and how long they are: texts are read of those alone that the page has room for.
    wanted = _within(query, readable).with_only_columns(messages.c.sequence, _LENGTH)
    if _are_few(conn, readable):
        matches, next_before = _among_own(conn, wanted, terms, before, size), None
    else:
        matches, next_before = _through_index(conn, wanted, terms, range(first, before), size)
    fit = fitting(length for _, length in matches[:size])
    if len(matches) > fit:
        next_before = matches[fit - 1][0]
    shown = readable.where(messages.c.sequence.in_([sequence for sequence, _ in matches[:fit]]))
    rows = conn.execute(shown.order_by(messages.c.sequence.desc())).all()
    found = with_attachments(conn, [message_from(row[2:]) for row in rows])
    items = tuple(Hit(message, row[0], row[1]) for message, row in zip(found, rows, strict=True))
    return Page(items, None if next_before is None else encode_cursor(next_before))


def has_pending(conn: Connection, upto: int | None = None) -> bool:
    """Whether there are messages that the search does not know yet, of those with numbers up to ``upto``."""
    if conn.dialect.name == "postgresql":
        early = [] if upto is None else [search_queue.c.sequence <= upto]
        return bool(conn.execute(select(exists().select_from(search_queue).where(*early))).scalar_one())
    early = [] if upto is None else [messages.c.sequence <= upto]
    return conn.execute(select(messages.c.sequence).where(_is_new(), *early).limit(1)).first() is not None


def pending_upto(conn: Connection) -> int | None:
    """The number of the newest message that the search does not know yet, None where it knows all."""
    row = _NEWEST_PENDING.one(conn, {})
    return None if row is None else row[0]


def index_pending(conn: Connection, limit: int = BATCH) -> int:
    """Make up to ``limit`` stored messages known to the search, the oldest first; return how many it were.

    0 means that nothing is left, or that another process is at work on the rest.
    """
    length = func.length(messages.c.content)
    if conn.dialect.name == "postgresql":
        waiting = select(search_queue.c.sequence, func.coalesce(length, 0)).order_by(search_queue.c.sequence)
        waiting = waiting.outerjoin(messages, messages.c.sequence == search_queue.c.sequence)
        waiting = waiting.with_for_update(of=search_queue, skip_locked=True)
    else:
        waiting = select(messages.c.sequence, length).where(_is_new()).order_by(messages.c.sequence)
    batch = _up_to(BATCH_CHARS, conn.execute(waiting.limit(limit)).all())
    if not batch:
        return 0
    # Locked, because a message that is deleted meanwhile would be none that the index may refer to.
    texts = select(messages.c.sequence, messages.c.content).where(messages.c.sequence.in_(batch))
    locked = texts.with_for_update(read=True, key_share=True)
    rows = [{"rowid": sequence, "words": f" {normalised(text)} "} for sequence, text in conn.execute(locked)]
    if rows:
        conn.execute(insert(message_search), rows)
    if conn.dialect.name == "postgresql":
        conn.execute(delete(search_queue).where(search_queue.c.sequence.in_(batch)))
    return len(batch)


def merge_index(conn: Connection) -> bool:
    """Take a step in writing the index anew without what was deleted; return whether there is more to do.

    FTS5 only notes what is deleted, and drops its words when it happens to merge that part. PostgreSQL has VACUUM.
    """
    if conn.dialect.name == "postgresql":
        return False
    changes = select(func.total_changes())
    before: int = conn.execute(changes).scalar_one()
    step = "INSERT INTO message_search (message_search, rank) VALUES ('merge', ?)"
    conn.exec_driver_sql(step, (-MERGE_PAGES,))
    # As FTS5 documents it: fewer than two changes mean that nothing was left to merge.
    after: int = conn.execute(changes).scalar_one()
    return after - before >= 2


def _is_new() -> ColumnElement[bool]:
    """On SQLite numbers are handed out in the order of the commits: the index knows all up to its last one."""
    last = select(message_search.c.rowid).order_by(message_search.c.rowid.desc()).limit(1).scalar_subquery()
    return messages.c.sequence > func.coalesce(last, 0)


def _newest_pending(dialect: str) -> Select[Any]:
    if dialect == "postgresql":
        return select(func.max(search_queue.c.sequence))
    return select(func.max(messages.c.sequence)).where(_is_new())


def _up_to(chars: int, lengths: Iterable[tuple[int, int]]) -> list[int]:
    batch: list[int] = []
    for sequence, length in lengths:
        chars -= length
        if batch and chars < 0:
            break
        batch.append(sequence)
    return batch


def _readable(conn: Connection, user_id: str, query: SearchQuery) -> Select[Any]:
    """What the user may read, or of it what stands in the session that he asks for."""
    columns = (messages.c.sequence, name_for(user_id), *COLUMNS)
    found = select(*columns).join(members, members.c.session_id == messages.c.session_id)
    found = found.join(sessions, sessions.c.global_id == messages.c.session_id).where(members.c.user_id == user_id)
    if query.session is not None:
        found = found.where(messages.c.session_id == resolve(conn, user_id, query.session).global_id)
    return found


def _within(query: SearchQuery, found: Select[Any]) -> Select[Any]:
    """Of these messages those of the time that is asked for."""
    if query.since is not None:
        found = found.where(messages.c.created_at >= query.since)
    if query.until is not None:
        found = found.where(messages.c.created_at < query.until)
    return found


def _bounds(conn: Connection, query: SearchQuery) -> tuple[int, int]:
    """The first and the last sequence number that a message of that time can have.

    Many neighbours are asked and the widest answer taken, because a clock may have been wrong when one was stored.
    """
    number, time = messages.c.sequence, messages.c.created_at
    first, last = 0, MAX_NUMBER - 1
    if query.since is not None:
        after = select(number).where(time >= query.since - CLOCKS_DIFFER_S).order_by(time).limit(NEIGHBOURS).subquery()
        first = conn.execute(select(func.min(after.c.sequence))).scalar_one() or last
    if query.until is not None:
        earlier = select(number).where(time < query.until + CLOCKS_DIFFER_S).order_by(time.desc())
        some = earlier.limit(NEIGHBOURS).subquery()
        last = conn.execute(select(func.max(some.c.sequence))).scalar_one() or first
    return first, last


def _are_few(conn: Connection, readable: Select[Any]) -> bool:
    some = readable.with_only_columns(messages.c.sequence).limit(FEW + 1).subquery()
    return conn.execute(select(func.count()).select_from(some)).scalar_one() <= FEW


def _among_own(conn: Connection, wanted: Select[Any], terms: Sequence[Term], before: int, size: int) -> Sequence[Any]:
    """The newest matches before a number, one more than ``size`` if there are as many: by reading all that is wanted."""
    known = exists().where(message_search.c.rowid == messages.c.sequence, _contains(conn, terms))
    found = wanted.where(known, messages.c.sequence < before).order_by(messages.c.sequence.desc())
    return conn.execute(found.limit(size + 1)).all()


def _through_index(
    conn: Connection, wanted: Select[Any], terms: Sequence[Term], numbers: range, size: int
) -> tuple[list[Any], int | None]:
    """The same by taking matches from everybody's index, more and more of them; and where to go on if it were too many."""
    rows: list[Any] = []
    width, looked_at = FIRST_MATCHES, 0
    while looked_at < MAX_MATCHES:
        here = message_search.c.rowid >= numbers.start, message_search.c.rowid < numbers.stop
        match = select(message_search.c.rowid).where(_matches(conn, terms), *here)
        some = match.order_by(message_search.c.rowid.desc()).limit(width).subquery()
        found = wanted.join(some, some.c.rowid == messages.c.sequence).order_by(messages.c.sequence.desc())
        rows += conn.execute(found.limit(size + 1 - len(rows))).all()
        if len(rows) > size:
            return rows, None
        count, last = conn.execute(select(func.count(), func.min(some.c.rowid))).one()
        if count < width:
            return rows, None
        numbers, width, looked_at = range(numbers.start, last), width * GROWTH, looked_at + count
    return rows, numbers.stop


def _matches(conn: Connection, terms: Sequence[Term]) -> ColumnElement[bool]:
    if conn.dialect.name == "postgresql":
        return _contains(conn, terms)
    # Words hold letters and digits alone: whatever the user typed, this is an expression that FTS5 can read.
    are_long = any(len(term.words) > PHRASE_WORDS for term in terms)
    matched = message_search.c.words.op("MATCH", is_comparison=True)(" AND ".join(map(_phrase, terms)))
    return and_(matched, _contains(conn, terms)) if are_long else matched


def _phrase(term: Term) -> str:
    """What FTS5 looks for: the term, or the beginning of a long one."""
    words = term.words[:PHRASE_WORDS]
    return f'"{" ".join(words)}"{" *" if term.is_prefix and len(words) == len(term.words) else ""}'


def _contains(conn: Connection, terms: Sequence[Term]) -> ColumnElement[bool]:
    if conn.dialect.name == "postgresql":
        # Words hold no %, _ or backslash: nothing has to be escaped.
        return and_(*(message_search.c.words.like(f"%{term.pattern}%") for term in terms))
    return and_(*(func.instr(message_search.c.words, term.pattern) > 0 for term in terms))


_LENGTH = func.length(messages.c.content) + func.length(messages.c.reasoning)
_NEWEST_PENDING = Prepared(_newest_pending)
