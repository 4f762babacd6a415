"""Side questions: few at a time, never in an answer's way, and each attempt once in the ledger."""

import pytest
import trio
from attrs import evolve

from scm_trio.chat import aside_run, asides
from scm_trio.chat.asides import Asides, Capacity
from scm_trio.errors import (
    Internal,
    NotFound,
    ProviderAuth,
    ProviderUnavailable,
    QuotaExceeded,
    RequestFailed,
    ServerBusy,
    ShuttingDown,
    StoreError,
    TimedOut,
)
from scm_trio.model import Delta, DeltaKind, Usage
from scm_trio.providers.fallback import Chain, Link, Terms
from scm_trio.providers.scripted import Batch, Fail, Pause, Scripted, SlowClose, Stall

from .side_question import ASIDE


class FakeLedger:
    """Keeps the rows. The ``fail_*`` are raised."""

    def __init__(self):
        self.rows = {}
        self.open_rows, self.fail_open, self.fail_save = 0, None, None
        self.open_s = 0.0

    def name_for(self, aside):
        return f"{aside.kind}-{len(self.rows)}"

    async def open(self, name, aside, first):
        if self.fail_open is not None:
            raise self.fail_open
        self.rows[f"{name}-0"] = [first.provider, first.model, None, first.prompt_tokens]
        self.open_rows += 1
        await trio.sleep(self.open_s)

    async def save(self, name, aside, attempts):
        await trio.lowlevel.checkpoint()
        if self.fail_save is not None:
            raise self.fail_save
        for each in attempts:
            row = f"{name}-{each.number}"
            if row in self.rows or not each.is_noted:
                self.rows[row] = [each.provider, each.model, each.outcome, each.usage]

    async def close(self, name, aside, attempts):
        await self.save(name, aside, attempts)
        self.open_rows -= 1

    @property
    def outcomes(self):
        return [(name, row[0], row[2]) for name, row in self.rows.items()]


class FakeTraffic:
    def __init__(self):
        self.live, self.waiting = 0, set()

    def live_at(self, provider):
        return self.live

    def is_waited_for(self, user_id):
        return user_id in self.waiting


class FakeObserver:
    def __init__(self):
        self.ended = []

    def aside_ended(self, kind, outcome, provider, usage):
        self.ended.append((kind, outcome, provider, usage))


class Stage:
    def __init__(self, provider, places=None):
        self.ledger, self.traffic, self.observer = FakeLedger(), FakeTraffic(), FakeObserver()
        self.provider = provider
        self.postponed = []
        capacity = Capacity({} if places is None else {provider.name: places})
        self.asides = Asides(self.choose, self.ledger, self.traffic, capacity, self.observer, self.postponed.append)
        self.told = []

    def choose(self, provider, model):
        if isinstance(self.provider, RequestFailed):
            raise self.provider
        return self.provider, model or "scripted-1"

    async def ask(self, **changes):
        """Keep what became of it, and when."""
        name = changes.get("answer_id", "msg-1")
        try:
            text = await self.asides.ask(evolve(ASIDE, **changes))
        except RequestFailed as exc:
            self.told.append((name, exc.code, trio.current_time()))
        else:
            self.told.append((name, text, trio.current_time()))


def numbered(number, **more):
    return {"session_id": f"s-{number}", "answer_id": f"msg-{number}", "user_id": f"user{number}", **more}


# ---- one question


async def test_the_model_s_text_comes_back_and_the_ledger_has_its_row(autojump_clock):
    provider = Scripted(["A ", "title", Usage(7, 3)])
    stage = Stage(provider)
    assert await stage.asides.ask(ASIDE) == "A title"
    (prompt,) = provider.prompts
    assert (prompt.turns, prompt.max_tokens, prompt.stream) == (ASIDE.turns, 50, True)
    assert stage.ledger.rows == {"title-0-0": ["scripted", "scripted-1", "completed", Usage(7, 3)]}
    assert stage.ledger.open_rows == 0
    assert stage.observer.ended == [("title", "completed", "scripted", Usage(7, 3))]


async def test_nobody_listens_longer_than_is_needed(autojump_clock):
    provider = Scripted(["A title\n", Stall()])
    stage = Stage(provider)
    assert await stage.asides.ask(ASIDE) == "A title\n"
    assert trio.current_time() < 1
    assert provider.open_streams == 0
    ((_, _, outcome, usage),) = stage.ledger.rows.values()
    assert outcome == "completed"
    assert usage.source == "estimated"
    assert usage.completion_tokens == 2


async def test_a_finish_that_comes_with_the_last_word_counts(autojump_clock):
    provider = Scripted([Batch(["A title\n", Usage(7, 3)])])
    stage = Stage(provider)
    await stage.asides.ask(evolve(ASIDE, is_enough=lambda _: False))
    assert stage.ledger.rows["title-0-0"][3] == Usage(7, 3)


@pytest.mark.parametrize(
    ("steps", "field", "seconds"),
    [
        ([Stall()], "first_token", aside_run.FIRST_TOKEN_S),
        ([Pause(2), "A", Stall()], "total", aside_run.TOTAL_S),
        ([Pause(2), Delta("hm", DeltaKind.REASONING), Stall()], "total", aside_run.TOTAL_S),
        ([step for _ in range(99) for step in ("a", Pause(1))], "total", aside_run.TOTAL_S),
    ],
)
async def test_it_has_deadlines_of_its_own(autojump_clock, steps, field, seconds):
    provider = Scripted(steps)
    stage = Stage(provider)
    with pytest.raises(TimedOut) as caught:
        await stage.asides.ask(ASIDE)
    assert caught.value.field == field
    assert trio.current_time() == pytest.approx(seconds)
    assert provider.open_streams == 0
    assert stage.ledger.outcomes == [("title-0-0", "scripted", "TIMEOUT")]


async def test_a_failure_is_told_with_its_code_and_settled(autojump_clock):
    stage = Stage(Scripted(["half", Fail(ProviderUnavailable("cut"))]))
    with pytest.raises(ProviderUnavailable):
        await stage.asides.ask(ASIDE)
    assert stage.ledger.outcomes == [("title-0-0", "scripted", "PROVIDER_UNAVAILABLE")]
    assert stage.observer.ended[0][1] == "PROVIDER_UNAVAILABLE"


async def test_a_stream_that_just_stops_is_a_failure(autojump_clock):
    class Stops(Scripted):
        def stream(self, prompt):
            return _Empty()

    stage = Stage(Stops([]))
    with pytest.raises(ProviderUnavailable):
        await stage.asides.ask(ASIDE)


class _Empty:
    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await trio.lowlevel.checkpoint()

    def __aiter__(self):
        return self

    async def __anext__(self):
        await trio.lowlevel.checkpoint()
        raise StopAsyncIteration


async def test_a_bug_of_a_provider_is_a_failure_like_others(autojump_clock):
    stage = Stage(Scripted([Fail(ZeroDivisionError())]))
    with pytest.raises(Internal):
        await stage.asides.ask(ASIDE)
    assert stage.ledger.outcomes == [("title-0-0", "scripted", "INTERNAL")]


def chain(*providers, **more):
    return Chain([Link(each, retries=1) for each in providers], Terms(jitter=lambda: 0.5, **more))


async def test_every_attempt_has_one_row(autojump_clock):
    first = Scripted([Fail(ProviderUnavailable("down"))], name="first")
    second = Scripted(["A title"], name="second", models=("other",))
    stage = Stage(chain(first, second))
    assert await stage.asides.ask(ASIDE) == "A title"
    assert stage.ledger.outcomes == [
        ("title-0-0", "first", "PROVIDER_UNAVAILABLE"),
        ("title-0-1", "first", "PROVIDER_UNAVAILABLE"),
        ("title-0-2", "second", "completed"),
    ]
    assert stage.ledger.rows["title-0-0"][3] == Usage(source="estimated")  # nothing was accepted
    assert stage.ledger.rows["title-0-2"][1] == "other"


async def test_the_last_failure_of_a_row_is_settled_once(autojump_clock):
    stage = Stage(chain(Scripted([Fail(ProviderAuth("no"))], name="first")))
    with pytest.raises(ProviderAuth):
        await stage.asides.ask(ASIDE)
    assert stage.ledger.outcomes == [("title-0-0", "first", "PROVIDER_AUTH")]


async def test_a_text_that_begins_anew_replaces_the_old_one(autojump_clock):
    first = Scripted(["old", Pause(0.1), Fail(ProviderUnavailable("cut"))], name="first")
    stage = Stage(chain(first, Scripted(["new"], name="second"), restart=True))
    assert await stage.asides.ask(ASIDE) == "new"
    assert stage.ledger.outcomes == [
        ("title-0-0", "first", "PROVIDER_UNAVAILABLE"),
        ("title-0-1", "second", "completed"),
    ]


async def test_without_a_row_nobody_is_asked(autojump_clock):
    provider = Scripted(["A title"])
    stage = Stage(provider)
    stage.ledger.fail_open = StoreError("down")
    with pytest.raises(Internal):
        await stage.asides.ask(ASIDE)
    stage.observer.ended.clear()
    stage.ledger.fail_open = QuotaExceeded("tokens")
    with pytest.raises(QuotaExceeded):
        await stage.asides.ask(ASIDE)
    assert provider.prompts == []
    assert stage.ledger.rows == {}
    assert stage.observer.ended == [], "nothing was spent"


async def test_a_row_that_cannot_be_settled_does_not_cost_the_text(autojump_clock):
    stage = Stage(Scripted(["A title"]))
    stage.ledger.fail_save = StoreError("down")
    assert await stage.asides.ask(ASIDE) == "A title"
    assert trio.current_time() == aside_run.STORE_LIMIT_S
    # It is settled when the database is back.
    (later,) = stage.postponed
    stage.ledger.fail_save = None
    await later()
    assert stage.ledger.outcomes == [("title-0-0", "scripted", "completed")]
    assert stage.ledger.open_rows == 0


async def test_a_row_is_settled_at_once_when_the_database_fails_for_a_moment(autojump_clock):
    stage = Stage(Scripted([Pause(1), "A title"]))
    stage.ledger.fail_save = StoreError("down")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.asides.ask, ASIDE)
        await trio.sleep(2)
        stage.ledger.fail_save = None
    assert trio.current_time() < 3
    assert stage.ledger.outcomes == [("title-0-0", "scripted", "completed")]
    assert stage.postponed == []


async def test_who_gives_up_while_the_row_is_written_leaves_no_open_row(autojump_clock):
    provider = Scripted(["A title"])
    stage = Stage(provider)
    stage.ledger.open_s = 2.0
    with trio.move_on_after(1):
        await stage.asides.ask(ASIDE)
    assert provider.prompts == []
    assert stage.ledger.outcomes == [("title-0-0", "scripted", "cancelled")]
    assert stage.observer.ended[0][3].total_tokens == 0, "nobody was asked"


# ---- turns


async def test_only_so_many_are_asked_at_a_time(autojump_clock):
    provider = Scripted([Pause(1), "text"])
    stage = Stage(provider)
    async with trio.open_nursery() as nursery:
        for number in range(asides.MAX_ASKED + 2):
            nursery.start_soon(lambda n=number: stage.ask(**numbered(n)))
        await trio.sleep(0.5)
        assert provider.open_streams == asides.MAX_ASKED
    assert sorted(round(at) for _, _, at in stage.told) == [1] * asides.MAX_ASKED + [2, 2]


async def test_never_two_about_one_session_and_few_of_one_user(autojump_clock):
    provider = Scripted([Pause(1), "text"])
    stage = Stage(provider)
    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(lambda n=number: stage.ask(**numbered(n, session_id="s-1")))
        await trio.sleep(0.5)
        assert provider.open_streams == 1
    provider.prompts.clear()
    async with trio.open_nursery() as nursery:
        for number in range(asides.MAX_ASKED_PER_USER + 1):
            nursery.start_soon(lambda n=number: stage.ask(**numbered(n, user_id="ann")))
        await trio.sleep(0.5)
        assert provider.open_streams == asides.MAX_ASKED_PER_USER


async def test_who_waits_for_an_answer_s_first_word_asks_nothing_else(autojump_clock):
    stage = Stage(Scripted(["text"]))
    stage.traffic.waiting.add("ann")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.ask)
        nursery.start_soon(lambda: stage.ask(**numbered(2)))
        await trio.sleep(5)
        assert [name for name, _, _ in stage.told] == ["msg-2"]
        stage.traffic.waiting.clear()
    assert stage.told[1][0] == "msg-1"
    assert stage.told[1][2] <= 5 + asides.RECHECK_S


async def test_one_place_at_the_provider_stays_free_for_an_answer(autojump_clock):
    provider = Scripted([Pause(1), "text"])
    stage = Stage(provider, places=3)
    stage.traffic.live = 1
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(lambda n=number: stage.ask(**numbered(n)))
        await trio.sleep(0.5)
        assert provider.open_streams == 1
        stage.traffic.live = 0
        stage.asides.stir()
        await trio.sleep(0.1)
        assert provider.open_streams == 2
        nursery.cancel_scope.cancel()


async def test_where_there_is_a_single_place_it_is_taken_when_nobody_needs_it(autojump_clock):
    stage = Stage(Scripted(["text"]), places=1)
    stage.traffic.live = 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.ask)
        await trio.sleep(3)
        assert stage.told == []
        stage.traffic.live = 0
        stage.asides.stir()
        await trio.testing.wait_all_tasks_blocked()
        assert stage.told == [("msg-1", "text", 3.0)]


async def test_an_answer_that_needs_the_place_gets_it_at_once(autojump_clock):
    provider = Scripted(["a", Pause(1), "b"])
    stage = Stage(provider, places=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.ask)
        await trio.sleep(0.5)
        assert provider.open_streams == 1
        stage.traffic.live = 1
        stage.asides.make_way("another")
        await trio.sleep(0.1)
        assert provider.open_streams == 1
        stage.asides.make_way("scripted")
        await trio.testing.wait_all_tasks_blocked()
        assert provider.open_streams == 0
        stage.traffic.live = 0
        stage.asides.stir()
    assert [text for _, text, _ in stage.told] == ["ab"]
    assert [row[2] for row in stage.ledger.rows.values()] == ["cancelled", "completed"]
    assert stage.ledger.open_rows == 0


async def test_only_as_many_make_way_as_have_to_and_the_latest_first(autojump_clock):
    provider = Scripted([Pause(5), "text"])
    stage = Stage(provider, places=4)
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(lambda n=number: stage.ask(**numbered(n)))
            await trio.sleep(0.1)
        stage.traffic.live = 1
        stage.asides.make_way("scripted")
        await trio.sleep(0.1)
        assert provider.open_streams == 3
        stage.traffic.live = 3
        stage.asides.make_way("scripted")
        await trio.sleep(0.1)
        assert provider.open_streams == 1
        await trio.sleep(5)
        assert [name for name, _, _ in stage.told] == ["msg-0"]
        nursery.cancel_scope.cancel()


async def test_nobody_waits_for_his_turn_for_ever(autojump_clock):
    stage = Stage(Scripted(["text"]), places=1)
    stage.traffic.live = 1
    await stage.ask()
    assert stage.told == [("msg-1", "SERVER_BUSY", pytest.approx(asides.WAIT_S))]
    assert stage.ledger.rows == {}


async def test_too_many_may_not_even_wait(autojump_clock, monkeypatch):
    monkeypatch.setattr(asides, "MAX_WAITING", 2)
    stage = Stage(Scripted([Stall()]))
    async with trio.open_nursery() as nursery:
        for number in range(asides.MAX_ASKED + 2):
            nursery.start_soon(lambda n=number: stage.ask(**numbered(n)))
        await trio.sleep(0.5)
        with pytest.raises(ServerBusy):
            await stage.asides.ask(evolve(ASIDE, **numbered(99)))
        nursery.cancel_scope.cancel()


async def test_a_provider_without_places_takes_none(autojump_clock):
    assert Stage(Scripted([])).asides.takes(ASIDE) is True
    assert Stage(Scripted([]), places=0).asides.takes(ASIDE) is False
    nobody = Stage(Scripted([]))
    nobody.provider = NotFound("nobody")
    assert nobody.asides.takes(ASIDE) is False


# ---- ending


async def test_a_session_that_is_gone_ends_its_questions_asked_or_waiting(autojump_clock):
    provider = Scripted([Stall()])
    stage = Stage(provider)
    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(lambda n=number: stage.ask(**numbered(n, session_id="s-1")))
        nursery.start_soon(lambda: stage.ask(**numbered(7)))
        await trio.sleep(1)
        stage.asides.forget_session("s-1")
        await trio.sleep(1)
        assert sorted(stage.told) == [("msg-0", "NOT_FOUND", 1.0), ("msg-1", "NOT_FOUND", 1.0)]
        assert provider.open_streams == 1
        nursery.cancel_scope.cancel()
    assert {row[2] for row in stage.ledger.rows.values()} == {"cancelled"}


async def test_a_house_that_closes_ends_all_of_them_and_takes_none_any_more(autojump_clock):
    provider = Scripted([SlowClose(2.0), "a", Stall()])
    stage = Stage(provider)
    async with trio.open_nursery() as nursery:
        for number in range(asides.MAX_ASKED + 1):
            nursery.start_soon(lambda n=number: stage.ask(**numbered(n)))
        await trio.sleep(1)
        stage.asides.close()
        await stage.asides.wait_idle()
        assert trio.current_time() == pytest.approx(3)
        assert provider.open_streams == 0
    assert {code for _, code, _ in stage.told} == {"SHUTTING_DOWN"}
    assert stage.ledger.open_rows == 0
    with pytest.raises(ShuttingDown):
        await stage.asides.ask(ASIDE)


async def test_who_gives_up_closes_the_stream_and_the_row(autojump_clock):
    provider = Scripted(["a", Stall()])
    stage = Stage(provider)
    with trio.move_on_after(1):
        await stage.asides.ask(ASIDE)
    assert provider.open_streams == 0
    assert stage.ledger.outcomes == [("title-0-0", "scripted", "cancelled")]
    await stage.asides.wait_idle()
