"""What the database says in the end, read with plain SQL, held against what was asked, said and told."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from attrs import frozen

from scm_trio.chat.checkpoints import CHECKPOINT_S

from .answers import Ask, digest
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


def read_store(file: Path) -> Stored:
    with closing(sqlite3.connect(file)) as database:
        database.row_factory = sqlite3.Row
        tables = ("runs", "messages", "usage")
        return Stored(*([dict(row) for row in database.execute(f"SELECT * FROM {table}")] for table in tables))


def check_truth(world: World, stored: Stored) -> None:
    """Hold the end of a seed to the rules that need the store."""
    for rule, detail in _broken(world, stored):
        world.findings.add(rule, detail)


Broken = Iterator[tuple[Rule, str]]


def _broken(world: World, stored: Stored) -> Broken:
    questions = {row["message_id"]: row["content"] for row in stored.messages if row["role"] == "user"}
    runs_of: dict[str, list[Row]] = {}
    for run in stored.runs:
        if run["state"] != "ended":
            yield Rule.NO_ZOMBIE, f"{run['run_id']} is {run['state']}"
        runs_of.setdefault(questions.get(run["user_message_id"], "?"), []).append(run)
    yield from _check_answers(stored)
    asked = {ask.question for ask in world.asks}
    for question in set(runs_of) - asked:
        yield Rule.ONE_ANSWER, f"nobody asked {question!r}"
    for ask in world.asks:
        times = sum(content == ask.question for content in questions.values())
        yield from _check_ask(world, ask, times, runs_of.get(ask.question, []))
        yield from _check_ledger(world, ask, runs_of.get(ask.question, []), stored.attempts)
    yield from _check_texts(world, stored)


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


def _check_ask(world: World, ask: Ask, times: int, runs: list[Row]) -> Broken:
    if times != len(runs):
        yield Rule.ONE_ANSWER, f"{ask.question!r} is stored {times} times and has {len(runs)} runs"
    if times > 1:
        yield Rule.ONE_ANSWER, f"{ask.question!r} is stored {times} times"
    desks = [device.desk for device in world.devices]
    outcomes = [desk.outcomes[ask] for desk in desks if ask in desk.outcomes]
    if ask.message_id is not None and ask.message_id not in [run["message_id"] for run in runs]:
        yield Rule.KEPT, f"{ask.message_id} was told and is not stored"
    refused = bool(outcomes) and all(outcome.refusal is not None for outcome in outcomes)
    if refused and ask.times_sent == 1 and times:
        yield Rule.ONE_ANSWER, f"{ask.question!r} was refused ({outcomes[0].refusal}) and is stored"


def _check_ledger(world: World, ask: Ask, runs: list[Row], attempts: Sequence[Row]) -> Broken:
    calls = world.calls(ask.question)
    ids = [run["run_id"] for run in runs]
    rows = [row for row in attempts if row["run_id"] in ids]
    if calls and not runs:
        yield Rule.LEDGER, f"{ask.question!r} was asked upstream and has no run"
    for row in rows:
        if row["outcome"] == "running":
            yield Rule.LEDGER, f"{row['attempt_id']} is not settled"
    # A row is written before its attempt, which a cancel or a crash may then prevent.
    if runs and not max(1, len(calls)) <= len(rows) <= len(calls) + 1:
        yield Rule.LEDGER, f"{ask.question!r} was asked upstream {len(calls)} times, and has {len(rows)} rows"
    prevented = {"cancelled", "interrupted", "timeout"}
    if len(rows) > max(1, len(calls)) and rows[-1]["outcome"] not in prevented:
        yield Rule.LEDGER, f"{rows[-1]['attempt_id']} ended with {rows[-1]['outcome']} and was never made"


def _check_texts(world: World, stored: Stored) -> Broken:
    content = {row["message_id"]: row["content"] for row in stored.messages if row["role"] == "assistant"}
    asks = {run["run_id"]: ask for ask in world.asks for run in stored.runs if run["message_id"] == ask.message_id}
    for run in stored.runs:
        text = content.get(run["message_id"], "")
        end = world.ends.get(run["message_id"])
        if end is not None and end["finishReason"] != run["finish_reason"]:
            yield Rule.KEPT, f"{run['run_id']} was told as {end['finishReason']} and is {run['finish_reason']}"
        told = world.texts.get(run["message_id"], text)
        if told != text:
            yield (
                Rule.SAME_TEXT,
                f"{run['run_id']}: told {digest(told)} of {len(told)}, stored {digest(text)} of {len(text)}",
            )
        if run["run_id"] in asks:
            yield from _check_said(world, run, text, world.calls(asks[run["run_id"]].question))


def _check_said(world: World, run: Row, text: str, calls: list[tuple[int, Call]]) -> Broken:
    """The stored text is what the last provider that spoke said, all of it or up to where it was stopped."""
    spoken = [(life, call) for life, call in calls if call.text]
    if not spoken:
        if text:
            yield Rule.SAME_TEXT, f"{run['run_id']}: nobody said what is stored"
        return
    life, call = spoken[-1]
    if not call.text.startswith(text):
        yield Rule.SAME_TEXT, f"{run['run_id']}: something else was said than is stored"
    if run["finish_reason"] == "completed" and text != call.text:
        yield Rule.SAME_TEXT, f"{run['run_id']}: completed with {len(text)} of {len(call.text)}"
    fits = len(call.text.encode()) <= world.config.websocket.stream.max_response_bytes
    if run["finish_reason"] == "interrupted" and life in world.crashes and fits:
        # Each write waits for the one before it, and the text waits for the write before its own.
        durable = world.crashes[life] - CHECKPOINT_S - 4 * max(world.delays_s) - 0.001
        due = "".join(piece for at, piece in call.said if at < durable)
        if not text.startswith(due):
            yield Rule.RECENT, f"{run['run_id']}: {len(text)} of {len(due)} characters that were a second old"
