"""Everything but the port: store, providers, chat service, gate and HTTP app, built once and running.

The server opens a port in front of it (``serve.py``), tests put memory streams there (``testing.py``).
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog
import trio
from attrs import field, frozen

from scm_trio.auth import authenticator
from scm_trio.chat.aside_ledger import AsideLedger
from scm_trio.chat.asides import Asides, Capacity
from scm_trio.chat.audience import Audience
from scm_trio.chat.conversations import Conversations
from scm_trio.chat.deliveries import Deliveries
from scm_trio.chat.files import Files
from scm_trio.chat.history import History
from scm_trio.chat.journal import StoreJournal
from scm_trio.chat.lasting import lasting
from scm_trio.chat.limits import UserRates
from scm_trio.chat.offer import Offer
from scm_trio.chat.people import People, people_of
from scm_trio.chat.plan import Opened
from scm_trio.chat.prompt import estimate_tokens, fitted
from scm_trio.chat.quota import Quotas
from scm_trio.chat.run import Run
from scm_trio.chat.searching import Search
from scm_trio.chat.service import ChatService, Rules
from scm_trio.chat.sessions import Sessions
from scm_trio.chat.sidework import Sidework, sidework_of
from scm_trio.chat.usage import Cost, Spending, cost_of
from scm_trio.cluster.hub import Connection, Hub
from scm_trio.config import Config
from scm_trio.development import secret_path
from scm_trio.errors import CloseCode, Disconnect, StoreError
from scm_trio.gateway.gate import Clock, Gate, Tokens
from scm_trio.jwks import fetch_jwks
from scm_trio.listener import Listener
from scm_trio.metrics import Metrics
from scm_trio.providers.base import Provider
from scm_trio.providers.catalogue import build_providers, chain_providers
from scm_trio.providers.fallback import Terms
from scm_trio.providers.local import Local
from scm_trio.store import runs
from scm_trio.store.blobs import Folder
from scm_trio.store.database import Database, Offload, in_thread, open_database, threads
from scm_trio.store.housekeeping import keep_house
from scm_trio.web.app import build_app
from scm_trio.web.files import FILES_PATH
from scm_trio.web.multipart import OVERHEAD_BYTES
from scm_trio.web.services import WebServices

log = structlog.get_logger(__name__)

TOKEN_TTL_S = 3600.0
RECONNECT_SPREAD_S = 5.0
"""Clients that are sent away together come back spread over this time."""
FAREWELL_LIMIT_S = 5.0
HURRIED_LIMIT_S = 0.5
"""How long each of these may take after a second signal."""
CLOSE_LIMIT_S = 20.0
"""How long answers may take to be sealed when the house is left in a hurry."""
DISK_THREADS = 4
EXPORT_THREADS = 2
SNIPPET_THREADS = 2


def _system_clock() -> Clock:
    return Clock(now=time.time, new_id=lambda: secrets.token_hex(12), jitter=random.random)


@frozen
class Parts:
    """What tests replace."""

    clock: Clock = field(factory=_system_clock)
    offload: Offload = in_thread
    providers: Mapping[str, Provider] | None = None
    """None: those of the configuration, with retries and fallback around them."""

    def threads(self, count: int) -> Offload:
        """Threads for blocking work other than SQL; where SQL needs none, that neither."""
        return threads(count) if self.offload is in_thread else self.offload


@frozen
class House:
    """The running whole."""

    config: Config
    gate: Gate
    listener: Listener
    database: Database
    files: Files
    providers: Mapping[str, Provider]
    sidework: Sidework

    async def drain(self, grace_s: float, hurry: trio.Event) -> None:
        """Finish what runs, interrupt the rest, and send everybody away with a word, each as soon as he watches nothing.

        HTTP requests that are being answered have the same grace. ``hurry`` ends every patience but that of the store.
        """
        self.gate.service.draining = True
        self.sidework.close()
        async with trio.open_nursery() as requests:
            requests.start_soon(self._answer_requests, grace_s, hurry)
            async with trio.open_nursery() as farewells:
                for connection in self.gate.hub.everyone():
                    farewells.start_soon(self._send_away_in_time, connection)
                await self.gate.service.drain(grace_s, hurry)
                # The runs have ended; that has yet to be told.
                async with _patience(FAREWELL_LIMIT_S, hurry):
                    for connection in self.gate.hub.everyone():
                        await connection.told()
                farewells.cancel_scope.cancel()
            for connection in self.gate.hub.everyone():
                self._send_away(connection)
            async with _patience(FAREWELL_LIMIT_S, hurry):
                await self.gate.hub.wait_empty()

    async def _answer_requests(self, grace_s: float, hurry: trio.Event) -> None:
        async with _patience(grace_s, hurry):
            await self.listener.finish()

    async def _send_away_in_time(self, connection: Connection) -> None:
        await connection.told()
        self._send_away(connection)

    def _send_away(self, connection: Connection) -> None:
        wait_s = self.gate.clock.jitter() * RECONNECT_SPREAD_S
        connection.disconnect(Disconnect(CloseCode.GOING_AWAY, "SHUTTING_DOWN", retry_after_s=wait_s))


@asynccontextmanager
async def _patience(limit_s: float, hurry: trio.Event) -> AsyncIterator[None]:
    """Leave the block after this time, or a moment after ``hurry``: who takes his frames has got the last one by then."""
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + limit_s
        nursery.start_soon(_shorten_when, hurry, nursery.cancel_scope)
        yield
        nursery.cancel_scope.cancel()


async def _shorten_when(hurry: trio.Event, scope: trio.CancelScope) -> None:
    await hurry.wait()
    scope.deadline = min(scope.deadline, trio.current_time() + HURRIED_LIMIT_S)


@asynccontextmanager
async def open_house(config: Config, parts: Parts | None = None) -> AsyncIterator[House]:
    """Build everything and run its long-lived tasks; at the end, whatever still runs is sealed and stored.

    Raises:
        ConfigError: a value that only its user can judge, such as a key.
        StoreError: the database cannot be used.
    """
    parts = parts or Parts()
    # First of all, since a wrong key should be told before a model is loaded.
    tokens = Tokens(
        authenticator=authenticator(config.auth, fetch=fetch_jwks, now=parts.clock.now),
        query_allowed=config.auth.query_token,
        refresh=config.auth.refresh,
        ttl_s=TOKEN_TTL_S,
        leeway_s=config.auth.leeway_s,
    )
    folder = Folder(secret_path(config).parent / config.files.path, parts.threads(DISK_THREADS))
    async with open_database(config.store.url, offload=parts.offload) as database, trio.open_nursery() as tasks:
        writing, running, models = (trio.CancelScope(shield=True) for _ in range(3))
        try:
            await tasks.start(_hosted, writing, database.run_writer)
            price = partial(cost_of, _costs(config))
            sealed = await database.write(runs.seal_interrupted, parts.clock.now(), estimate_tokens, price)
            if sealed:
                log.warning("sealed interrupted answers", count=sealed)
            providers = parts.providers
            if providers is None:
                streams = config.websocket.stream
                configured = build_providers(config.ai, connect_timeout_s=streams.connect_timeout_s)
                for provider in configured.values():
                    if isinstance(provider, Local):
                        await tasks.start(_hosted, models, provider.run)
                terms = Terms(parts.clock.jitter, fitted, streams.first_token_timeout_s, restart=config.ai.restart)
                providers = chain_providers(configured, config.ai, terms)
            nursery = await tasks.start(_hosted, running, _runs_nursery)
            files = Files(database, folder, config.files, parts.clock.now, parts.clock.new_id)
            house = _build(config, parts, tokens, files, providers, nursery)
            tasks.start_soon(lasting, partial(_sweep, house), "sweeper")
            interval_s, tell = config.websocket.session.cleanup_interval_s, house.gate.sessions.expired
            keep = partial(keep_house, database, config.store.retention, parts.clock.now, interval_s, tell)
            tasks.start_soon(lasting, keep, "housekeeping")
            tasks.start_soon(lasting, house.gate.service.keep_checkpoints, "checkpoints")
            tasks.start_soon(house.gate.deliveries.keep)
            tasks.start_soon(house.gate.people.run)
            try:
                yield house
            finally:
                # Shielded: the answers so far are worth a moment, also when somebody cancels the whole house.
                with trio.move_on_after(CLOSE_LIMIT_S, shield=True):
                    await _close(house)
                    for provider in providers.values():
                        await provider.aclose()
        finally:
            # Also when the house could not be built: nothing else ends these.
            for scope in (running, models, writing):
                scope.cancel()
            tasks.cancel_scope.cancel()


async def _hosted(
    scope: trio.CancelScope,
    task: Callable[..., Awaitable[object]],
    *,
    task_status: trio.TaskStatus[Any],
) -> None:
    """Run a task that outlives a cancel of the house, until its own scope is cancelled: it has to serve the closing."""
    with scope:
        await task(task_status=task_status)


async def _runs_nursery(*, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    async with trio.open_nursery() as nursery:
        task_status.started(nursery)
        await trio.sleep_forever()


async def _close(house: House) -> None:
    """Seal what was not drained; for a house that is left in a hurry."""
    house.sidework.close()
    service = house.gate.service
    if not service.draining or service.live_runs:
        hurry = trio.Event()
        hurry.set()
        await service.drain(0, hurry)
    await house.sidework.wait_idle()
    try:
        await house.gate.deliveries.settle()
    except StoreError as exc:
        log.warning("deliveries not stored", error=str(exc))


def _costs(config: Config) -> dict[str, Cost]:
    return {name: Cost(settings.prices) for name, settings in config.ai.providers.items() if settings.prices}


def _build(
    config: Config,
    parts: Parts,
    tokens: Tokens,
    files: Files,
    providers: Mapping[str, Provider],
    running: trio.Nursery,
) -> House:
    settings, clock, database = config.websocket, parts.clock, files.database
    metrics = Metrics(now=trio.current_time)
    costs = _costs(config)
    rules = Rules(settings.stream, config.ai, settings.message.max_prompt_chars, config.files.max_per_message)
    quotas = Quotas(config.ai.quota, costs)
    journal = StoreJournal(database, clock.now, clock.new_id, costs, files, quotas)
    hub = Hub(
        max_connections=settings.session.max_connections,
        max_connections_per_user=settings.session.max_connections_per_user,
    )
    service = ChatService(providers, journal, metrics, rules, clock.new_id)
    audience, people = Audience(hub), people_of(database, hub)
    sessions = Sessions(database, service, audience, clock.now, clock.new_id)
    sessions.on_members = people.changed
    gate = Gate(
        service=service,
        sessions=sessions,
        deliveries=Deliveries(database, lambda user_id: bool(hub.of_user(user_id))),
        hub=hub,
        people=people,
        rates=UserRates(settings.message.rate_limit_per_minute),
        metrics=metrics,
        settings=settings,
        tokens=tokens,
        clock=clock,
        runs=running,
    )
    sidework = _sidework(config, gate, database, AsideLedger(database, clock.now, clock.new_id, costs, quotas))
    people.on_change.append(sidework.changed)
    service.on_begun, service.on_said = partial(_begun, audience, people, sidework), audience.said
    service.on_ended = sidework.ended
    app = build_app(_web_services(gate, parts, files, Offer(providers, config.ai), quotas, sidework))
    body_limits = {FILES_PATH: config.files.max_size_bytes + OVERHEAD_BYTES}
    return House(config, gate, Listener(gate, app, body_limits=body_limits), database, files, providers, sidework)


def _sidework(config: Config, gate: Gate, database: Database, ledger: AsideLedger) -> Sidework:
    # A local model has one processor for all; what a scripted provider says back is of use as an answer only.
    special = {"local": 1, "scripted": 0}
    configured = config.ai.providers.items()
    places = {name: special.get(settings.kind, settings.max_concurrency) for name, settings in configured}
    asides = Asides(gate.service.offer, ledger, gate.service, Capacity(places), gate.metrics, gate.runs.start_soon)
    return sidework_of(database, asides, gate.sessions.give_title, config.ai, gate.runs)


def _begun(audience: Audience, people: People, sidework: Sidework, run: Run, opened: Opened) -> None:
    sidework.begun(run)
    people.typists.asked(opened.session.global_id, run.user_id)
    audience.begun(run, opened)


def _web_services(
    gate: Gate, parts: Parts, files: Files, offer: Offer, quotas: Quotas, sidework: Sidework
) -> WebServices:
    database = files.database
    return WebServices(
        authenticator=gate.tokens.authenticator,
        metrics=gate.metrics,
        readiness=_readiness(gate, database),
        draining=lambda: gate.service.draining,
        stats=gate.metrics.connection_stats,
        models=lambda ask_vendors: offer.read(ask_vendors=ask_vendors),
        token_ttl_s=gate.tokens.ttl_s,
        allow_refresh=gate.tokens.refresh,
        query_token=gate.tokens.query_allowed,
        usage=Spending(database, gate.clock.now).read,
        quota=lambda user_id: quotas.standing(database, user_id, gate.clock.now()),
        files=files,
        sessions=gate.sessions,
        history=History(database, gate.deliveries),
        charge=lambda user_id: gate.rates.wait_s(user_id, trio.current_time()),
        conversations=Conversations(database),
        offload=parts.threads(EXPORT_THREADS),
        now=gate.clock.now,
        search=Search(database, gate.deliveries, parts.threads(SNIPPET_THREADS)),
        suggestions=sidework.suggestions,
    )


def _readiness(gate: Gate, database: Database) -> Callable[[], Awaitable[Mapping[str, str]]]:
    async def check() -> Mapping[str, str]:
        try:
            await database.ping()
        except StoreError:
            store = "unreachable"
        else:
            store = "ok"
        return {"store": store, "broker": "ok", "draining": "yes" if gate.service.draining else "ok"}

    return check


async def _sweep(house: House) -> None:
    """The sweeper: forgets ended runs, quiet users and unneeded files, and says once in a while how busy the house is."""
    interval_s = house.config.websocket.session.cleanup_interval_s
    while True:
        await trio.sleep(interval_s)
        now = trio.current_time()
        house.gate.service.sweep(now)
        house.gate.rates.sweep(now)
        await house.files.sweep()
        log.debug("statistics", **house.gate.metrics.connection_stats())
