"""Quotas: what is set aside, what is charged, and who is refused."""

import attrs
import pytest
import trio

from scm_trio.chat.prompt import estimate_turns
from scm_trio.chat.quota import Limits, Quotas, uncontended
from scm_trio.config import Ai, Alias, Price, Quota, Store, UserQuota
from scm_trio.config import Provider as ProviderSettings
from scm_trio.errors import ProviderUnavailable
from scm_trio.model import Finish, FinishReason, Message, Turn, Usage
from scm_trio.providers.fallback import Chain, Link, Terms
from scm_trio.providers.scripted import Batch, Fail, Pause, Scripted, Stall
from scm_trio.store import messages, quota, runs
from scm_trio.store.database import inline, open_database
from scm_trio.store.quota import Amounts, Contended
from scm_trio.testing import EPOCH_S, open_server, quiet_config

DAY_S = 86_400
TODAY = int(EPOCH_S // DAY_S)
MIDNIGHT_S = (TODAY + 1) * DAY_S
ASKED = estimate_turns([Turn("user", "Hi")])


def answering(prompt_tokens=10, completion_tokens=20, *steps):
    ending = Batch([Usage(prompt_tokens, completion_tokens), Finish(FinishReason.COMPLETED)])
    return Scripted([*(steps or ("a",)), ending], models=("scripted-1", "other"))


def limited(*, prices=None, aliases=None, **keys):
    provider = ProviderSettings(kind="scripted", models=("scripted-1", "other"), prices=prices or {})
    return quiet_config(ai=Ai(providers={"scripted": provider}, aliases=aliases or {}, quota=Quota(**keys)))


async def ask(peer, request_id=None, **data):
    """Ask, and read to the end; returns the last message."""
    await peer.send("CHAT_REQUEST", {"message": "Hi", **data}, request_id=request_id)
    return (await peer.until("CHAT_STREAM_END", "CHAT_RESPONSE", "ERROR"))[-1]


async def amounts(server, user="user001", day=TODAY):
    return await server.house.database.read(quota.amounts, user, day)


def table_sizes(conn):
    tables = ("sessions", "messages", "runs", "usage", "reservations")
    return {name: conn.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar() for name in tables}


# ---- the rules


@pytest.mark.parametrize(
    ("limits", "spent", "wanted", "name"),
    [
        (Limits(), Amounts(10**9, 10**9, 1e9), Amounts(1, 1, 1.0), None),
        (Limits(tokens=100), Amounts(90), Amounts(10), None),
        (Limits(tokens=100), Amounts(90), Amounts(11), "tokens"),
        (Limits(requests=3), Amounts(requests=2), Amounts(1, 1), None),
        (Limits(requests=3), Amounts(requests=3), Amounts(0, 1), "requests"),
        (Limits(cost=1.5), Amounts(cost=1.0), Amounts(1, 1, 0.5), None),
        (Limits(cost=1.5), Amounts(cost=1.0), Amounts(1, 1, 0.6), "cost"),
        (Limits(5, 5, 5.0), Amounts(5, 5, 5.0), Amounts(1, 1, 1.0), "tokens"),
    ],
)
def test_a_limit_may_be_reached_and_not_passed(limits, spent, wanted, name):
    assert limits.exceeded(spent, wanted) == name


def test_a_users_own_keys_come_before_those_for_everybody():
    users = {
        "more": UserQuota(tokens_per_day=9000),
        "free": UserQuota(tokens_per_day=0, requests_per_day=0),
        "priced": UserQuota(cost_per_day=1.5),
    }
    quotas = Quotas(Quota(tokens_per_day=5000, requests_per_day=7, users=users), {})
    assert quotas.limits_of("anybody") == Limits(5000, 7, 0.0)
    assert quotas.limits_of("more") == Limits(9000, 7, 0.0)
    assert quotas.limits_of("free") is None
    assert quotas.limits_of("priced") == Limits(5000, 7, 1.5)
    assert Quotas(Quota(users=users), {}).limits_of("anybody") is None
    assert Quotas(Quota(users=users), {}).limits_of("more") == Limits(9000, 0, 0.0)


async def test_what_is_contended_is_tried_again_until_it_is_not(autojump_clock):
    tries = []

    async def attempt():
        tries.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if len(tries) < 4:
            raise Contended
        return "done"

    assert await uncontended(attempt) == "done"
    assert tries == pytest.approx([0, 0.01, 0.02, 0.03])


# ---- refused


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("", "今日剩余额度不足，将于 2023-11-15 00:00（UTC）重置"),
        ("&lang=en", "What is left of today's quota is not enough; it resets at 2023-11-15 00:00 UTC"),
    ],
)
async def test_who_has_nothing_left_is_told_until_when_and_nobody_is_asked(autojump_clock, query, sentence):
    provider = answering()
    async with (
        open_server({"scripted": provider}, limited(requests_per_day=1)) as server,
        server.peer(query=query) as peer,
        server.peer("user002") as other,
    ):
        assert (await ask(peer, "r1"))["type"] == "CHAT_STREAM_END"
        before = await server.house.database.read(table_sizes)
        await trio.sleep(100)
        refused = await ask(peer, "r2", conversationId="another")
        assert await server.house.database.read(table_sizes) == before
        assert (await ask(other))["type"] == "CHAT_STREAM_END"
    assert refused["requestId"] == "r2"
    assert refused["data"] == sentence
    assert refused["error"] == {
        "code": "QUOTA_EXCEEDED",
        "retryable": True,
        "generationStarted": False,
        "retryAfterMs": pytest.approx((MIDNIGHT_S - EPOCH_S - 100) * 1000, abs=1),
        "field": "scm.ai.quota.requests-per-day",
    }
    assert len(provider.prompts) == 2


async def test_the_quota_is_new_at_midnight_in_utc(autojump_clock):
    async with open_server({"scripted": answering()}, limited(requests_per_day=1)) as server:
        async with server.peer() as peer:
            await ask(peer)
            wait_s = (await ask(peer))["error"]["retryAfterMs"] / 1000
        await trio.sleep(wait_s - 1)
        async with server.peer() as peer:
            assert (await ask(peer))["error"]["code"] == "QUOTA_EXCEEDED"
            await trio.sleep(1)
            assert (await ask(peer))["type"] == "CHAT_STREAM_END"
            assert (await ask(peer))["type"] == "ERROR"


async def test_tokens_are_charged_as_they_were_spent(autojump_clock):
    config = limited(tokens_per_day=1500, answer_tokens=1000)
    async with open_server({"scripted": answering(10, 200)}, config) as server, server.peer() as peer:
        kinds = [(await ask(peer))["type"] for _ in range(4)]
        assert await amounts(server) == Amounts(630, 3, 0.0)
    # 210 each, and room for a thousand is needed: the fourth finds 870.
    assert kinds == ["CHAT_STREAM_END"] * 3 + ["ERROR"]


@pytest.mark.parametrize(("max_tokens", "passes"), [(300, True), (700, False), (None, False)])
async def test_a_request_that_limits_its_answer_sets_no_more_aside(autojump_clock, max_tokens, passes):
    config = limited(tokens_per_day=1500, answer_tokens=1000)
    more = {"maxTokens": max_tokens} if max_tokens else {}
    async with open_server({"scripted": answering(500, 400)}, config) as server, server.peer() as peer:
        await ask(peer)
        assert ((await ask(peer, **more))["type"] == "CHAT_STREAM_END") == passes


async def test_no_answer_is_taken_to_be_longer_than_its_models_context(autojump_clock):
    provider = answering()
    provider.context_tokens = 512
    config = limited(tokens_per_day=1500, answer_tokens=1000)
    async with open_server({"scripted": provider}, config) as server, server.peer() as peer:
        assert (await ask(peer, maxTokens=10**12))["type"] == "CHAT_STREAM_END"


async def test_a_running_answer_holds_what_it_may_come_to(autojump_clock):
    config = limited(tokens_per_day=1500, answer_tokens=1000)
    provider = answering(10, 20, "a", Pause(5), "b")
    async with open_server({"scripted": provider}, config) as server, server.peer() as peer, server.peer() as other:
        await peer.send("CHAT_REQUEST", {"message": "Hi"})
        await peer.until("CHAT_STREAM_DATA")
        assert await amounts(server) == Amounts(ASKED + 1000, 1, 0.0)
        assert (await ask(other))["error"]["field"] == "scm.ai.quota.tokens-per-day"
        await peer.until("CHAT_STREAM_END")
        assert await amounts(server) == Amounts(30, 1, 0.0)
        assert (await ask(other))["type"] == "CHAT_STREAM_END"


async def test_of_many_requests_at_once_only_as_many_pass_as_there_is_room_for(autojump_clock):
    provider = answering(10, 20, "a", Pause(5), "b")
    config = limited(tokens_per_day=3 * (ASKED + 1000), answer_tokens=1000)
    ends = []

    async def one(server, number):
        async with server.peer() as peer:
            ends.append((await ask(peer, conversationId=f"c{number}"))["type"])

    async with open_server({"scripted": provider}, config) as server, trio.open_nursery() as nursery:
        for number in range(9):
            nursery.start_soon(one, server, number)
    assert sorted(ends) == ["CHAT_STREAM_END"] * 3 + ["ERROR"] * 6
    assert len(provider.prompts) == 3


async def test_cost_is_reserved_and_charged_by_the_price_table(autojump_clock):
    prices = {"scripted-1": Price(prompt=1000.0, completion=2000.0)}  # 0.001 and 0.002 a token
    config = limited(prices=prices, cost_per_day=2.5, answer_tokens=1000)
    async with open_server({"scripted": answering(100, 200)}, config) as server, server.peer() as peer:
        kinds = [(await ask(peer))["type"] for _ in range(3)]
        assert (await amounts(server)).cost == pytest.approx(0.5)
        # It may still ask for a short one, and for a model that costs nothing.
        assert (await ask(peer, maxTokens=500))["type"] == "CHAT_STREAM_END"
        assert (await ask(peer, model="other"))["type"] == "CHAT_STREAM_END"
    assert kinds == ["CHAT_STREAM_END", "ERROR", "ERROR"]


async def test_an_alias_sets_aside_what_its_model_costs(autojump_clock):
    prices = {"other": Price(completion=1000.0)}
    aliases = {"dear": Alias("scripted", "other")}
    config = limited(prices=prices, aliases=aliases, cost_per_day=0.9, answer_tokens=1000)
    async with open_server({"scripted": answering()}, config) as server, server.peer() as peer:
        assert (await ask(peer, model="dear"))["error"]["field"] == "scm.ai.quota.cost-per-day"
        assert (await ask(peer))["type"] == "CHAT_STREAM_END"


async def test_users_without_limits_set_nothing_aside(autojump_clock):
    config = limited(tokens_per_day=1500, users={"user001": UserQuota(tokens_per_day=0)})
    statements = []
    async with open_server({"scripted": answering()}, config) as server, server.peer() as peer:
        with traced(server, statements):
            for _ in range(3):
                assert (await ask(peer, maxTokens=5000))["type"] == "CHAT_STREAM_END"
    assert statements
    assert not [each for each in statements if "reservations" in each]


@pytest.mark.parametrize(("keys", "more"), [({}, 0), ({"requests_per_day": 100}, 3)])
async def test_without_quotas_a_request_costs_no_statement_more(autojump_clock, keys, more):
    counts = []
    for each in ({}, keys):
        statements = []
        async with open_server({"scripted": answering()}, limited(**each)) as server, server.peer() as peer:
            await ask(peer)  # the first one has a session to make
            with traced(server, statements):
                await ask(peer)
        counts.append(len(statements))
    assert counts[1] == counts[0] + more


class traced:  # noqa: N801 - stands for a function
    """Notes the statements that SQLite runs, without those that only bracket others."""

    def __init__(self, server, statements):
        self.connection = server.house.database._reading.raw_connection().driver_connection
        self.statements = statements

    def __enter__(self):
        self.connection.set_trace_callback(self._note)

    def __exit__(self, *_):
        self.connection.set_trace_callback(None)

    def _note(self, text):
        if text.split()[0] in {"SELECT", "INSERT", "UPDATE", "DELETE", "WITH"}:
            self.statements.append(text)


# ---- charged once, whatever happens


@pytest.mark.parametrize("later_s", [1, 1000])
async def test_a_request_that_is_known_is_neither_charged_nor_refused_again(autojump_clock, later_s):
    provider = answering()
    async with open_server({"scripted": provider}, limited(requests_per_day=1)) as server:
        for _ in range(3):
            async with server.peer() as peer:
                assert (await ask(peer, "r1"))["type"] == "CHAT_STREAM_END"
            await trio.sleep(later_s)
        assert await amounts(server) == Amounts(30, 1, 0.0)
    assert len(provider.prompts) == 1


async def test_a_request_that_was_refused_may_be_sent_again(autojump_clock):
    async with open_server({"scripted": answering()}, limited(requests_per_day=1)) as server:
        async with server.peer() as peer:
            await ask(peer, "r1")
            wait_s = (await ask(peer, "r2"))["error"]["retryAfterMs"] / 1000
        await trio.sleep(wait_s)
        async with server.peer() as peer:
            assert (await ask(peer, "r2"))["type"] == "CHAT_STREAM_END"


async def test_a_cancelled_answer_is_charged_for_what_it_said(autojump_clock):
    config = limited(tokens_per_day=1500, answer_tokens=1000)
    provider = Scripted(["four", Stall()])
    async with open_server({"scripted": provider}, config) as server, server.peer() as peer:
        await peer.send("CHAT_REQUEST", {"message": "Hi"}, request_id="r1")
        await peer.until("CHAT_STREAM_DATA")
        await peer.send("CHAT_CANCEL", {"requestId": "r1"})
        await peer.until("CHAT_STREAM_END")
        assert await amounts(server) == Amounts(ASKED + 1, 1, 0.0)


def chain(*scripts, retries=0):
    row = [
        Scripted(list(script), name=name, models=("scripted-1",))
        for name, script in zip(("scripted", "backup"), scripts, strict=False)
    ]
    return Chain([Link(each, retries=retries) for each in row], Terms(jitter=lambda: 1.0, restart=True))


@pytest.mark.parametrize(
    ("scripts", "retries", "tokens"),
    [
        # Refused at once: nothing was spent, but it was a request.
        ([[Fail(ProviderUnavailable())]], 2, 0),
        # Accepted and then broken: the prompt counts each time.
        ([[Pause(1), Fail(ProviderUnavailable())]], 2, 3 * ASKED),
        ([[Pause(1), Fail(ProviderUnavailable())], ["four"]], 0, 2 * ASKED + 1),
        # Begun anew: both texts count.
        ([["four", Fail(ProviderUnavailable())], ["eightchr"]], 0, 2 * ASKED + 1 + 2),
        ([["four", Fail(ProviderUnavailable())]], 0, ASKED + 1),
    ],
)
async def test_every_attempt_is_charged_and_nothing_stays_reserved(autojump_clock, scripts, retries, tokens):
    config = limited(tokens_per_day=5000)
    async with open_server({"scripted": chain(*scripts, retries=retries)}, config) as server, server.peer() as peer:
        await peer.send("CHAT_REQUEST", {"message": "Hi"})
        await peer.until("CHAT_STREAM_END")
        assert await amounts(server) == Amounts(tokens, 1, 0.0)
        assert (await server.house.database.read(table_sizes))["reservations"] == 0


async def test_between_two_attempts_the_reservation_stays(autojump_clock):
    config = limited(tokens_per_day=2000, answer_tokens=1000)
    provider = chain([Pause(1), Fail(ProviderUnavailable())], retries=2)
    async with open_server({"scripted": provider}, config) as server, server.peer() as peer, server.peer() as other:
        await peer.send("CHAT_REQUEST", {"message": "Hi"})
        await trio.sleep(1.2)
        assert await amounts(server) == Amounts(ASKED + ASKED + 1000, 1, 0.0)
        assert (await ask(other))["error"]["code"] == "QUOTA_EXCEEDED"
        await peer.until("CHAT_STREAM_END")


def leave_behind(conn):
    """A running answer, as a process that died would."""
    session = messages.ensure_session(conn, "user001", "session001", "s-1", EPOCH_S)
    asked = Message("msg-q", session.global_id, "session001", None, "user", "user001", "Hi", created_at=EPOCH_S)
    ids = ("msg-a", "msg-a", "msg-q", session.global_id, "session001", "user001", "scripted-1", "scripted")
    runs.open_run(conn, runs.NewRun(*ids, EPOCH_S, "r1", user_message=asked))
    ids = ("msg-a-0", "msg-a", "msg-a", "user001", "scripted", "scripted-1")
    runs.open_attempt(conn, runs.Attempt(*ids, EPOCH_S, prompt_tokens=7))
    quota.reserve(conn, quota.Reservation("msg-a", "user001", TODAY, 4000, 4.0))
    runs.checkpoint(conn, [runs.Checkpoint("msg-a", "eightchr", "", 0)])


async def test_a_crash_is_charged_for_what_was_said_and_holds_nothing_more(autojump_clock, tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'house.db'}")
    async with open_database(store.url, offload=inline) as database, trio.open_nursery() as nursery:
        await nursery.start(database.run_writer)
        await database.write(leave_behind)
        assert await database.read(quota.amounts, "user001", TODAY) == Amounts(4000, 1, 4.0)
        nursery.cancel_scope.cancel()
    prices = {"scripted-1": Price(prompt=100_000.0, completion=200_000.0)}
    config = attrs.evolve(limited(prices=prices, tokens_per_day=4096), store=store)
    async with open_server({"scripted": answering()}, config) as server, server.peer() as peer:
        assert await amounts(server) == Amounts(9, 1, pytest.approx(1.1))
        assert (await ask(peer))["type"] == "CHAT_STREAM_END"
