"""What the database says in the end, read with plain SQL, held against what was asked, said and told."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from attrs import frozen

from scm_trio.chat.checkpoints import CHECKPOINT_S

from .answers import Ask
from .providers import Call
from .rules import Rule
from .world import World

Row = dict[str, Any]


@frozen
class Stored:
    """All rows that matter."""

    runs: Sequence[Row]
    messages: Sequence[Row]
    attempts: Sequence[Row]
    reservations: Sequence[Row]


def read_store(file: Path) -> Stored:
    with closing(sqlite3.connect(file)) as database:
        database.row_factory = sqlite3.Row
        tables = ("runs", "messages", "usage", "reservations")
        return Stored(*([dict(row) for row in database.execute(f"SELECT * FROM {table}")] for table in tables))


def check_truth(world: World, stored: Stored) -> None:
    """Hold the end of a seed to the rules that need the store."""
    for rule, detail in _broken(world, stored):
        world.findings.add(rule, detail)


Broken = Iterator[tuple[Rule, str]]


def _broken(world: World, stored: Stored) -> Broken:
    for run in stored.runs:
        if run["state"] != "ended":
            yield Rule.NO_ZOMBIE, f"{run['run_id']} is {run['state']}"
    for reservation in stored.reservations:
        yield Rule.NOTHING_LEFT, f"{reservation['tokens']} tokens are set aside for {reservation['run_id']}"
    yield from _check_answers(stored)
    questions = [row for row in stored.messages if row["role"] == "user"]
    by_text: dict[str, list[Ask]] = {}
    for ask in world.asks:
        by_text.setdefault(ask.question, []).append(ask)
    for row in questions:
        if row["content"] not in by_text:
            yield Rule.ONE_ANSWER, f"nobody asked {row['content']!r}"
    for text, asks in by_text.items():
        ids = [row["message_id"] for row in questions if row["content"] == text]
        runs = [run for run in stored.runs if run["user_message_id"] in ids]
        yield from _check_question(world, asks, ids, runs)
        yield from _check_ledger(world, text, runs, stored.attempts)
        yield from _check_texts(world, text, runs, stored)


def _check_answers(stored: Stored) -> Broken:
    answers: dict[str, int] = {}
    for row in stored.messages:
        if row["role"] == "assistant":
            answers[row["message_id"]] = answers.get(row["message_id"], 0) + 1
    for run in stored.runs:
        if answers.pop(run["message_id"], 0) > 1:
            yield Rule.ONE_ANSWER, f"{run['run_id']} has several answers"
    for message_id in answers:
        yield Rule.ONE_ANSWER, f"{message_id} is an answer without a run"


def _check_question(world: World, asks: list[Ask], ids: list[str], runs: list[Row]) -> Broken:
    """A question is asked once; whoever wants another answer asks again without repeating it."""
    text = asks[0].question
    # A question whose storing took too long is taken out again, unless somebody has gone on from it meanwhile.
    if (len(ids) > 1 or bool(ids) != bool(runs)) and not world.disk.excuses:
        yield Rule.ONE_ANSWER, f"{text!r} is stored {len(ids)} times and has {len(runs)} runs"
    for ask in asks:
        mine = [
            run for run in runs if run["message_id"] == ask.message_id or (run["request_id"] or "") == ask.request_id
        ]
        if len(mine) > 1:
            yield Rule.ONE_ANSWER, f"{ask.request_id} has {len(mine)} runs"
        if ask.message_id is not None and not mine:
            yield Rule.KEPT, f"{ask.message_id} was told and is not stored"
        desks = [device.desk for device in world.devices]
        outcomes = [desk.outcomes[ask] for desk in desks if ask in desk.outcomes]
        refused = bool(outcomes) and all(outcome.refusal is not None for outcome in outcomes)
        if refused and ask.times_sent == 1 and mine:
            yield Rule.ONE_ANSWER, f"{ask.request_id} was refused ({outcomes[0].refusal}) and is stored"
    named = {ask.request_id for ask in asks if ask.request_id}
    if len([run for run in runs if run["request_id"] not in named]) > sum(ask.request_id is None for ask in asks):
        yield Rule.ONE_ANSWER, f"{text!r} has answers that nobody asked for"


def _check_ledger(world: World, text: str, runs: list[Row], attempts: Sequence[Row]) -> Broken:
    calls = world.calls(text)
    rows = [row for row in attempts if row["run_id"] in [run["run_id"] for run in runs]]
    if calls and not runs:
        yield Rule.LEDGER, f"{text!r} was asked upstream and has no run"
    for row in rows:
        if row["outcome"] == "running":
            yield Rule.LEDGER, f"{row['attempt_id']} is not settled"
    # A row is written before its attempt, which a cancel or a crash may then prevent.
    prevented = sum(row["outcome"] in ("cancelled", "interrupted", "timeout") for row in rows)
    # A run whose providers all rest has asked nobody, and still has its one row.
    idle = sum(row["attempt_id"].endswith("-0") and row["outcome"] == "PROVIDER_UNAVAILABLE" for row in rows)
    if not len(calls) <= len(rows) <= len(calls) + prevented + idle:
        yield Rule.LEDGER, f"{text!r} was asked upstream {len(calls)} times, and has {len(rows)} rows"


def _check_texts(world: World, text: str, runs: list[Row], stored: Stored) -> Broken:
    content = {row["message_id"]: row["content"] for row in stored.messages if row["role"] == "assistant"}
    for run in runs:
        answer = content.get(run["message_id"], "")
        end = world.ends.get(run["message_id"])
        if end is not None and end["finishReason"] != run["finish_reason"]:
            yield Rule.KEPT, f"{run['run_id']} was told as {end['finishReason']} and is {run['finish_reason']}"
        told = world.texts.get(run["message_id"], answer)
        if told != answer:
            yield Rule.SAME_TEXT, f"{run['run_id']}: told {len(told)} characters, stored {len(answer)}, or others"
        yield from _check_said(world, run, answer, world.calls(text), is_alone=len(runs) == 1)


def _check_said(world: World, run: Row, text: str, calls: list[tuple[int, Call]], *, is_alone: bool) -> Broken:
    """The stored text is what a provider said, all of it or up to where it was stopped."""
    said = [(life, call) for life, call in calls if call.text.startswith(text) and call.text]
    if text and not said:
        yield Rule.SAME_TEXT, f"{run['run_id']}: nobody said what is stored"
    if run["finish_reason"] == "completed" and text and text not in [call.text for _, call in said]:
        yield Rule.SAME_TEXT, f"{run['run_id']}: completed with {len(text)} characters, which nobody ended with"
    # Of several runs one may have been stopped before anybody was asked: then the call is another's.
    if run["finish_reason"] == "interrupted" and len(calls) == 1 and is_alone:
        ((life, call),) = calls
        yield from _check_recent(world, run, text, life, call)


def _check_recent(world: World, run: Row, text: str, life: int, call: Call) -> Broken:
    if life not in world.crashes or len(call.text.encode()) > world.config.websocket.stream.max_response_bytes:
        return
    # Each write waits for the one before it, and the text waits for the write before its own.
    durable = world.crashes[life] - CHECKPOINT_S - 4 * max(world.disk.delays_s) - 0.001
    due = "".join(piece for at, piece in call.said if at < durable)
    if not text.startswith(due):
        yield Rule.RECENT, f"{run['run_id']}: {len(text)} of {len(due)} characters that were a second old"
