"""Whatever happens to an answer, the ledger has one row for each attempt that was made at it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from attrs import define, evolve, frozen
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from scm_trio.chat.prompt import estimate_tokens
from scm_trio.config import Ai, Price, Quota, Streams, WebSocket
from scm_trio.config import Provider as ProviderSettings
from scm_trio.errors import (
    ContentFiltered,
    ProviderAuth,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
    StoreError,
    TimedOut,
)
from scm_trio.model import Attempt, Finish, FinishReason, Restart, Usage
from scm_trio.providers.fallback import Chain, Link, Terms
from scm_trio.providers.scripted import Batch, Fail, Pause, Reasoning, Scripted, SlowClose, Stall
from scm_trio.store import ledger, quota, runs
from scm_trio.testing import EPOCH_S, open_server, quiet_config

NAMES = ("one", "two", "three")
PRICES = {"m": Price(prompt=1_000_000.0, completion=2_000_000.0)}
TODAY = int(EPOCH_S // 86_400)

FAILURES = [
    ProviderUnavailable("down"),
    ProviderRateLimited(retry_after_s=2.0),
    ProviderRateLimited(retry_after_s=100.0),
    TimedOut(field="connect"),
    ProviderAuth(),
    ProviderRejected(),
    ContentFiltered(),
    ZeroDivisionError("a bug"),
]
steps = st.one_of(
    st.sampled_from(["word ", "更多", Reasoning("hm"), Batch(["a", "b", "c"]), Batch([Usage(5, 0), "x"])]),
    st.builds(Pause, st.sampled_from([0.3, 1.0, 4.0, 20.0])),
    st.sampled_from([Usage(7, 3), Usage(9, source="estimated"), SlowClose(2.0), SlowClose(50.0)]),
    st.sampled_from([Stall(), Finish(FinishReason.LENGTH)]),
    st.sampled_from([Fail(failure) for failure in FAILURES]),
)
ends = st.sampled_from([[], [Fail(FAILURES[0])], [Fail(FAILURES[1])], [Pause(1.0), Fail(FAILURES[0])]])
script = st.builds(lambda before, end: [*before, *end], st.lists(steps, max_size=3), ends)
free = st.lists(st.lists(script, min_size=1, max_size=3), min_size=1, max_size=3)
"""Anything at all."""
breaks = st.builds(lambda wait, end: ["word ", Pause(wait), *end], st.sampled_from([0.2, 3.0]), ends.filter(bool))
breaking = st.builds(
    lambda first, last: [*([each] for each in first), last],
    st.lists(breaks, min_size=1, max_size=2),
    st.lists(script, min_size=1, max_size=2),
)
"""Providers that break off after their first word, and another one after them."""


@frozen
class Story:
    """What the providers do, in the order in which they are asked, and what happens meanwhile."""

    scripts: list
    retries: int
    restart: bool
    streaming: bool
    cancel_at_s: float | None
    leave_at_s: float | None
    seal_at_s: float | None
    fail_writes: int
    cut_at_bytes: int


common = {
    "retries": st.integers(0, 2),
    "streaming": st.booleans(),
    "seal_at_s": st.none() | st.sampled_from([0.0, 0.6, 2.5, 12.0]),
    "fail_writes": st.integers(0, 2),
    "cut_at_bytes": st.sampled_from([1024, 1_048_576]),
}
stories = st.builds(
    Story,
    scripts=free,
    restart=st.booleans(),
    cancel_at_s=st.none() | st.sampled_from([0.0, 0.5, 1.1, 5.0, 31.0]),
    leave_at_s=st.none() | st.sampled_from([0.1, 2.0]),
    **common,
) | st.builds(
    Story,
    scripts=breaking,
    restart=st.just(value=True),
    cancel_at_s=st.none() | st.sampled_from([1.1, 5.0]),
    leave_at_s=st.none(),
    **common,
)


@define
class Watched:
    """A chain, and the attempts that it announces."""

    chain: Chain
    announced: list
    restarts: int = 0

    @property
    def name(self):
        return self.chain.name

    @property
    def models(self):
        return self.chain.models

    @property
    def context_tokens(self):
        return self.chain.context_tokens

    takes_images = False

    @asynccontextmanager
    async def stream(self, prompt):
        async with self.chain.stream(prompt) as events:
            yield self._watch(events)

    def _watch(self, events) -> AsyncIterator:
        watched = self

        class Events:
            def __aiter__(self):
                return self

            async def __anext__(self):
                batch = await anext(events)
                watched.announced += [each for each in batch if isinstance(each, Attempt)]
                watched.restarts += sum(isinstance(each, Restart) for each in batch)
                return batch

        return Events()

    async def aclose(self):
        await self.chain.aclose()


class Moods(Scripted):
    def __init__(self, name, waiting):
        self.waiting = [list(script) for script in waiting]
        super().__init__(self._next, name=name, models=("m",))

    def _next(self, _prompt):
        return self.waiting.pop(0) if len(self.waiting) > 1 else self.waiting[0]


def configured(story):
    streams = Streams(
        first_token_timeout_s=6.0,
        idle_timeout_s=5.0,
        total_timeout_s=30.0,
        orphan_grace_s=3.0,
        max_response_bytes=story.cut_at_bytes,
    )
    settings_ = ProviderSettings(kind="scripted", models=("m",), prices=PRICES)
    ai = Ai(providers=dict.fromkeys(NAMES, settings_), quota=Quota(tokens_per_day=10**9))
    return quiet_config(ai=ai, websocket=WebSocket(stream=streams))


async def live(story):
    """Let the story happen; returns what was announced, asked and written, and how the run ended."""
    row = [Moods(name, waiting) for name, waiting in zip(NAMES, story.scripts, strict=False)]
    links = [Link(each, retries=story.retries) for each in row]
    watched = Watched(Chain(links, Terms(jitter=lambda: 0.5, patience_s=6.0, restart=story.restart)), [])
    async with open_server({"one": watched}, configured(story)) as server:
        service, database = server.house.gate.service, server.house.database
        forget_writes(service._journal, story.fail_writes)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(converse, server, story)
            if story.seal_at_s is not None:
                # As a crash at this moment would be cleared up after; it settles only what nobody has settled.
                await trio.sleep(story.seal_at_s)
                await database.write(runs.seal_interrupted, 0.0, estimate_tokens, price)
        run = service.find("user001", request_id="r1")
        await run.ended.wait()
        attempts = await database.read(ledger.attempts, "user001", 0.0, 2 * EPOCH_S)
        left = await database.read(lambda conn: conn.exec_driver_sql("SELECT count(*) FROM reservations").scalar())
        spent = await database.read(quota.amounts, "user001", TODAY)
    return watched, row, run, attempts[::-1], left, spent


def forget_writes(journal, times):
    """The first so many times that attempts are to be written down on the way, the database is gone."""
    real, left = journal.attempt, [None] * times

    async def attempt(run):
        if left:
            left.pop()
            raise StoreError("gone for a moment")
        await real(run)

    journal.attempt = attempt


async def converse(server, story):
    async with server.peer() as peer, trio.open_nursery() as nursery:
        await peer.send("CHAT_REQUEST", {"message": "Hi", "streaming": story.streaming}, request_id="r1")

        async def cancel():
            await trio.sleep(story.cancel_at_s)
            await peer.send("CHAT_CANCEL", {"requestId": "r1"})

        async def repeat():
            await trio.sleep(1.0)
            await peer.send("CHAT_REQUEST", {"message": "Hi", "streaming": story.streaming}, request_id="r1")

        if story.cancel_at_s is not None:
            nursery.start_soon(cancel)
        nursery.start_soon(repeat)
        with trio.move_on_after(story.leave_at_s if story.leave_at_s is not None else 1000):
            await peer.until("CHAT_STREAM_END", "CHAT_RESPONSE")
        nursery.cancel_scope.cancel()


def price(provider, model, usage):
    table = PRICES[model]
    return (usage.prompt_tokens * table.prompt + usage.completion_tokens * table.completion) / 1_000_000


@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(stories)
def test_the_ledger_has_exactly_one_row_per_attempt(story):
    watched, row, run, attempts, reserved, spent = trio.run(live, story, clock=MockClock(autojump_threshold=0))
    announced = watched.announced
    event(f"attempts: {len(announced)}, restarts: {watched.restarts}, {run.ending.reason.value}")

    # One row per attempt that was announced, in order; an answer that asked nobody has its one row as well.
    assert [each.attempt_id for each in attempts] == [
        f"{run.info.message_id}-{number}" for number in range(max(1, len(announced)))
    ]
    told = [(each.provider, each.model) for each in attempts]
    assert told[: len(announced)] == [(each.provider, each.model) for each in announced]

    # No provider was asked without its row, and at most the last announced one was not asked any more.
    for provider in row:
        assert len(provider.prompts) <= [name for name, _ in told].count(provider.name)
    assert 0 <= len(announced) - sum(len(provider.prompts) for provider in row) <= 1

    # Each is settled, once, at its price, and nothing stays set aside.
    assert "running" not in {each.outcome for each in attempts}
    for each in attempts:
        assert each.cost == price(each.provider, each.model, each.usage)
    assert [each.outcome for each in attempts[:-1]].count("completed") == 0
    assert reserved == 0
    assert spent.tokens == sum(each.usage.total_tokens for each in attempts)
    assert spent.requests == 1
    if story.seal_at_s is None:
        # The text that was told is one attempt's, with what that attempt spent.
        assert (run.info.provider, run.info.model) in told
        assert run.ending.usage in [each.usage for each in attempts]
        assert run.rev == watched.restarts


def test_the_stories_tell_of_everything_that_can_happen():
    """The property would hold of an empty world: here are the ends that its stories have come to."""
    calm = Story(
        scripts=[[["word "]]],
        retries=1,
        restart=True,
        streaming=True,
        cancel_at_s=None,
        leave_at_s=None,
        seal_at_s=None,
        fail_writes=0,
        cut_at_bytes=1024,
    )
    down, late = [Fail(ProviderUnavailable())], [Pause(1.0), Fail(ProviderUnavailable())]
    told = {}
    for name, story in {
        "completed": calm,
        "retried": evolve(calm, scripts=[[down, ["word "]]]),
        "fallen back": evolve(calm, scripts=[[late], [["word "]]]),
        "restarted": evolve(calm, scripts=[[["old ", *late]], [["word "]]]),
        "cancelled": evolve(calm, scripts=[[["word ", Stall()]]], cancel_at_s=1.1),
        "orphaned": evolve(
            calm, scripts=[[["a", *[step for _ in range(9) for step in (Pause(1.0), "b")]]]], leave_at_s=0.1
        ),
        "cut": evolve(calm, scripts=[[["x" * 2000]]]),
        "crashed": evolve(calm, scripts=[[["word ", Pause(4.0)]]], seal_at_s=2.5),
        "unwritten": evolve(calm, scripts=[[late, ["word "]]], fail_writes=2),
    }.items():
        *_, run, attempts, _, _ = trio.run(live, story, clock=MockClock(autojump_threshold=0))
        told[name] = ([each.outcome for each in attempts], run.ending.reason.value)
    gone = "PROVIDER_UNAVAILABLE"
    assert told == {
        "completed": (["completed"], "completed"),
        "retried": ([gone, "completed"], "completed"),
        "fallen back": ([gone, gone, "completed"], "completed"),
        "restarted": ([gone, "completed"], "completed"),
        "cancelled": (["cancelled"], "cancelled"),
        "orphaned": (["cancelled"], "cancelled"),
        "cut": (["too_large"], "too_large"),
        "crashed": (["interrupted"], "completed"),
        "unwritten": ([gone, "completed"], "completed"),
    }
