"""How long a user with 100,000 messages waits for lists, pages, searches and counts: ``python benchmarks/store.py``.

Fills a database (SQLite in a temporary file, or ``--url``) with conversations in Chinese and English of realistic lengths,
all of them unread, and prints median and 95th percentile of the time that a request would wait for ``Database.read`` or
``write``, and the median of this process's CPU time. The aim on SQLite is below 50 ms for everything.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import trio
from sqlalchemy import Connection, insert

from scm_trio.store import schema
from scm_trio.store.database import Database, open_database
from scm_trio.store.deliveries import arrive, mark_given, waiting_for
from scm_trio.store.history import HistoryFilter, history_page, newest_leaf
from scm_trio.store.housekeeping import catch_up
from scm_trio.store.markers import mark_read
from scm_trio.store.paging import encode_cursor
from scm_trio.store.search import SearchQuery, find
from scm_trio.store.session_list import SessionFilter, list_sessions
from scm_trio.store.sessions import NewSession, create_session
from scm_trio.store.unread import unread

SESSIONS = 300
DAY_S = 86_400.0
COMMON = "供应链管理是什么如何降低库存成本提高效率请说明数据分析模型的优点和缺点"
TERMS = ["supply", "chain", "management", "inventory", "forecast", "demand", "the", "of", "and", "to", "a", "in", "is"]


class Speech:
    """Makes texts: half of them Chinese, half English, words as frequent as in Zipf's law."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        rare = [chr(code) for code in self.random.sample(range(0x4E00, 0x9FA5), 3000)]
        self.characters = list(dict.fromkeys([*COMMON, *rare]))
        letters = "etaoinshrdlucmfwypvbgk"
        made = {"".join(self.random.choices(letters, k=self.random.randint(3, 10))) for _ in range(8000)}
        self.words = [*TERMS, *sorted(made)]

    def text(self, chars: int) -> str:
        if self.random.random() < 0.5:
            return "".join(self._some(self.characters, chars))
        return " ".join(self._some(self.words, max(1, chars // 6)))

    def _some(self, vocabulary: list[str], count: int) -> list[str]:
        weights = [1 / (rank + 5) for rank in range(len(vocabulary))]
        return self.random.choices(vocabulary, weights, k=count)


def conversations(speech: Speech, messages: int) -> Iterator[dict[str, Any]]:
    """Questions of about 60 characters and answers of about 450, spread over the sessions and a year."""
    parents: dict[int, str] = {}
    for number in range(messages):
        session = number // 2 % SESSIONS
        is_answer = bool(number % 2)
        chars = int(speech.random.lognormvariate(6.0 if is_answer else 4.0, 0.7))
        yield {
            "message_id": f"m{number}",
            "session_id": f"s-{session}",
            "conversation_id": "c",
            "parent_id": parents.get(session),
            "role": "assistant" if is_answer else "user",
            "user_id": "ann",
            "content": speech.text(chars),
            "reasoning": "",
            "created_at": 365 * DAY_S * number / messages,
        }
        parents[session] = f"m{number}"


async def fill(database: Database, messages: int) -> Speech:
    speech = Speech(1)
    rows = conversations(speech, messages)

    def begin(conn: Connection) -> None:
        for number in range(SESSIONS):
            title = f"{'供应链' if number % 3 else 'Chain'} {number}"
            create_session(conn, "ann", f"s-{number}", NewSession(title=title), 365 * DAY_S + number)

    def add_some(conn: Connection) -> bool:
        batch = list(islice(rows, 1000))
        if batch:
            conn.execute(insert(schema.messages), batch)
        return len(batch) == 1000

    await database.write(begin)
    while await database.write(add_some):
        pass
    return speech


Reading = Callable[[Connection], object]


def readings(speech: Speech, messages: int) -> dict[str, Reading]:
    """What a user waits for, by name; each one looks at another place every time."""
    pick = speech.random
    rare = speech.characters[-500:]

    def look(text: str, **wanted: Any) -> Reading:
        return lambda conn: find(conn, "ann", SearchQuery(text, **wanted))

    def look_for_rare(**wanted: Any) -> Reading:
        return lambda conn: find(conn, "ann", SearchQuery(pick.choice(rare), **wanted))

    def look_in_a_session(conn: Connection) -> object:
        return find(conn, "ann", SearchQuery("供", session=f"s-{pick.randrange(SESSIONS)}"))

    def page(**wanted: Any) -> Reading:
        return lambda conn: history_page(conn, "ann", f"s-{pick.randrange(SESSIONS)}", HistoryFilter(**wanted))

    def branch(conn: Connection) -> object:
        number = pick.randrange(messages - SESSIONS, messages)
        return history_page(conn, "ann", f"s-{number // 2 % SESSIONS}", HistoryFilter(leaf=f"m{number}"))

    def sessions(**wanted: Any) -> Reading:
        return lambda conn: list_sessions(conn, "ann", SessionFilter(**wanted))

    deep = encode_cursor(messages // 2)
    month = {"since": 30 * DAY_S, "until": 60 * DAY_S}
    return {
        "list: first page": sessions(),
        "list: page in the middle": sessions(before=encode_cursor(365 * DAY_S + SESSIONS / 2, "s-0")),
        "list: title with 供应": sessions(query="供应"),
        "history: newest page": page(),
        "history: page in the middle": page(before=deep),
        "history: a branch": branch,
        "history: newest leaf from the first question": lambda conn: newest_leaf(conn, "ann", "s-7", "m14"),
        "search: 供, in most messages": look("供"),
        "search: a rare character": look_for_rare(),
        "search: 供应, two characters": look("供应"),
        "search: 供应 管理 降低": look("供应 管理 降低"),
        "search: four characters, no match": look("".join(speech.characters[40:44])),
        "search: supply": look("supply"),
        "search: t, the first letter of many words": look("t"),
        "search: sup man": look("sup man"),
        'search: "supply chain"': look('"supply chain"'),
        "search: of the to": look("of the to"),
        "search: page in the middle": look("供", before=deep),
        "search: in one session": look_in_a_session,
        "search: a month, many matches elsewhere": look("供", **month),
        "search: a month, rare": look_for_rare(**month),
        "unread of all sessions, everything unread": lambda conn: unread(conn, "ann"),
        "arrival, everything undelivered": lambda conn: arrive(conn, "ann", "s-1", []),
        "undelivered: read 16 of all": lambda conn: waiting_for(conn, "ann", 0, 16),
        "undelivered: read 16 in the middle": lambda conn: waiting_for(conn, "ann", messages // 2, 16),
    }


def writings(speech: Speech, messages: int) -> dict[str, Reading]:
    pick = speech.random

    def read_some(conn: Connection) -> object:
        number = pick.randrange(messages)
        return mark_read(conn, "ann", f"s-{number // 2 % SESSIONS}", f"m{number}")

    return {"mark as read": read_some, "mark 16 as given": lambda conn: give(conn, 16)}


def give(conn: Connection, limit: int) -> int:
    """Mark the next messages of all that wait as given; returns how many."""
    waiting = waiting_for(conn, "ann", 0, limit)
    for each in waiting:
        mark_given(conn, {("ann", each.message.session_id): [each.message.sequence]})
    return len(waiting)


async def measure(name: str, run: Callable[[Reading], Awaitable[object]], reading: Reading, times: int) -> None:
    taken, worked = [], []
    for _ in range(times):
        began, began_work = time.perf_counter(), time.process_time()
        await run(reading)
        taken.append((time.perf_counter() - began) * 1000)
        worked.append((time.process_time() - began_work) * 1000)
    p95 = statistics.quantiles(taken, n=20)[-1]
    print(f"{name:<50}{statistics.median(taken):>9.2f}{p95:>9.2f}{statistics.median(worked):>9.2f}", flush=True)


async def main(url: str, messages: int, times: int) -> None:
    async with open_database(url) as database, trio.open_nursery() as nursery:
        await nursery.start(database.run_writer)
        speech = await fill(database, messages)
        began = time.perf_counter()
        await catch_up(database)
        print(f"{messages} messages indexed in {time.perf_counter() - began:.1f} s")
        print(f"{'milliseconds':<50}{'median':>9}{'p95':>9}{'CPU':>9}")
        for name, reading in readings(speech, messages).items():
            await measure(name, database.read, reading, times)
        for name, writing in writings(speech, messages).items():
            await measure(name, database.write, writing, times)
        await measure("unread of all sessions, some of it read", database.read, lambda conn: unread(conn, "ann"), times)
        while await database.write(give, 5000):
            pass
        await measure("arrival, nothing undelivered", database.read, lambda conn: arrive(conn, "ann", "s-1", []), times)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", help="an empty database; without it SQLite in a temporary file")
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=40)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trio.run(main, asked.url or f"sqlite:///{Path(folder) / 'bench.db'}", asked.messages, asked.times)
