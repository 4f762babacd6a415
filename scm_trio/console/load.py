"""``scm-trio load``: many clients ask at once, and a table says how fast the answers came."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import attrs
import jwt
import trio
from attrs import frozen
from cyclopts import Parameter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from scm_trio.client import AskOptions, Backoff, Chat, ClientError, ConnectionLost, HandshakeRefused, open_chat
from scm_trio.client.background import background
from scm_trio.console.access import DEFAULT_URL, FAILED, OK, USAGE, UsageError, check_target, find_token
from scm_trio.console.tally import Report, Tally, code_of
from scm_trio.console.terminal import Interrupts, Screen, ctrl_c, one_line
from scm_trio.protocol import messages

OPENING_AT_ONCE = 50
"""Handshakes that run at the same time; more would measure the accept queue."""
MAX_CLIENTS = 10_000
MAX_ANSWERS = 1_000_000
GRACE_S = 10.0
PATIENCE_S = 30.0
"""How long a client tries to come back; its other questions have failed then."""
TOKEN_LIFE_S = 24 * 3600
QUESTION = "Name five goods that travel by train, one line each."

OpenChat = Callable[..., AbstractAsyncContextManager[Chat]]


@frozen
class Surroundings:
    """What the program meets outside itself; tests bring their own."""

    opener: OpenChat = open_chat
    interrupts: Interrupts = ctrl_c
    screen: Screen | None = None
    clock: Callable[[], float] = time.perf_counter


@frozen
class Plan:
    """What every client does."""

    url: str
    requests: int
    message: str
    options: AskOptions
    token: str | None
    secret: str | None
    answer_limit_s: float
    """Longer than what the server is asked to keep to: this one is for a server that does not answer at all."""

    def token_of(self, number: int) -> str | None:
        """The token of one client; with a secret each is a user of its own, so that no per-user limit is measured."""
        if self.secret is None:
            return self.token
        claims = {"sub": f"load-{number}", "exp": int(time.time()) + TOKEN_LIFE_S}
        return jwt.encode(claims, self.secret, algorithm="HS256")


async def run(  # noqa: PLR0913  # one argument for every option of the command
    url: str = DEFAULT_URL,
    *,
    clients: int = 10,
    requests: int = 5,
    message: str = QUESTION,
    token: str | None = None,
    token_file: Path | None = None,
    users_from_secret: str | None = None,
    model: str | None = None,
    provider: str | None = None,
    max_tokens: int | None = None,
    timeout_s: float = 120.0,
    json_output: Annotated[bool, Parameter(name="--json", negative=())] = False,
    surroundings: Annotated[Surroundings | None, Parameter(parse=False)] = None,
) -> int:
    """Load a server: N clients, each on a connection of its own, ask M questions one after the other.

    Ctrl-C ends the run; what was measured until then is shown.

    Args:
        url: the server, ws://HOST:PORT or wss://HOST:PORT.
        clients: how many clients.
        requests: how many questions each of them asks.
        message: the question.
        token: the token of all clients; per-user limits then apply to all of them together.
        token_file: a file that holds the token.
        users_from_secret: the server's HS256 secret: every client signs a token as user load-1, load-2, …
        model: the model that answers; without one the server's default.
        provider: the provider that answers; without one the server's default.
        max_tokens: the longest answer, in tokens.
        timeout_s: seconds for one answer; the server is asked to stop it then.
        json_output: print the result as JSON.
        surroundings: for tests.

    Returns:
        The exit code: 0 every answer was whole, 1 something failed, 2 the command was called wrongly.
    """
    outside = surroundings or Surroundings()
    screen = outside.screen or Screen()
    try:
        _check(clients, requests)
        options: AskOptions = {"model": model, "provider": provider, "max_tokens": max_tokens, "timeout_s": timeout_s}
        secret = find_token(token, token_file)
        check_target(url, secret)
        plan = Plan(url, requests, message, options, secret, users_from_secret, timeout_s + GRACE_S)
        report = await _load(plan, clients, outside, screen)
    except UsageError as exc:
        screen.error(str(exc))
        return USAGE
    _show(report, screen, as_json=json_output)
    return OK if report.answers_ok == clients * requests and not report.divergences else FAILED


def _check(clients: int, requests: int) -> None:
    if not (1 <= clients <= MAX_CLIENTS and requests >= 1 and clients * requests <= MAX_ANSWERS):
        limits = f"1 to {MAX_CLIENTS} clients and at most {MAX_ANSWERS} answers"
        raise UsageError(f"{clients} clients with {requests} requests: only {limits} are possible")


async def _load(plan: Plan, clients: int, outside: Surroundings, screen: Screen) -> Report:
    columns = (TextColumn("answers"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen.errors, transient=True) as progress:
        bar = progress.add_task("answers", total=clients * plan.requests)
        tally = Tally(outside.clock, partial(progress.advance, bar))
        opening = trio.CapacityLimiter(OPENING_AT_ONCE)
        began = outside.clock()
        with outside.interrupts() as interrupts, trio.CancelScope() as scope:

            async def interrupt() -> None:
                async for _ in interrupts:
                    scope.cancel()

            async with background() as crew, trio.open_nursery() as nursery:
                crew.start_soon(interrupt)
                for number in range(1, clients + 1):
                    nursery.start_soon(_client, plan, number, outside.opener, opening, tally)
        return tally.report(clients, outside.clock() - began)


async def _client(plan: Plan, number: int, opener: OpenChat, opening: trio.CapacityLimiter, tally: Tally) -> None:
    left = plan.requests
    try:
        async with AsyncExitStack() as stack:
            async with opening:
                session_id = f"load-{number}-{uuid4().hex[:8]}"
                backoff, token = Backoff(give_up_after_s=PATIENCE_S), plan.token_of(number)
                connecting = opener(plan.url, token, session_id=session_id, reconnect=backoff)
                chat = await stack.enter_async_context(connecting)
            try:
                while left:
                    await _ask(chat, plan, tally)
                    left -= 1
            finally:
                tally.leave(chat)
    except (ConnectionLost, HandshakeRefused) as exc:
        tally.fail(code_of(exc), left)


async def _ask(chat: Chat, plan: Plan, tally: Tally) -> None:
    """Ask one question and count its answer.

    Raises:
        ConnectionLost: the connection ended first; that is not counted here.
    """
    began, first = tally.clock(), None
    # A conversation of its own: a growing history would make every question slower than the one before.
    options: AskOptions = {**plan.options, "conversation_id": uuid4().hex}
    answer = chat.ask(plan.message, **options)
    with trio.move_on_after(plan.answer_limit_s) as limit:
        try:
            async for event in answer.events():
                if first is None and isinstance(event, messages.ChatStreamData):
                    first = tally.clock() - began
        except ConnectionLost:
            raise
        except ClientError as exc:
            tally.fail(code_of(exc))
            return
    if limit.cancelled_caught:
        tally.fail("NO END")
        return
    total = tally.clock() - began
    tally.succeed(total if first is None else first, total, answer.usage)


def _show(report: Report, screen: Screen, *, as_json: bool) -> None:
    if as_json:
        screen.output.out(json.dumps(attrs.asdict(report)), highlight=False)
        return
    table = Table("", "p50", "p90", "p99", title=f"{report.clients} clients, {report.seconds:g} s")
    for name, spread in (("first token, ms", report.first_token_ms), ("whole answer, ms", report.total_ms)):
        table.add_row(
            name, *("-" if value is None else f"{value:.1f}" for value in (spread.p50, spread.p90, spread.p99))
        )
    screen.output.print(table)
    screen.output.out(
        f"answers: {report.answers_ok} ok, {report.failed} failed; "
        f"{report.tokens_per_s:g} tokens/s; {report.received_bytes} bytes received; "
        f"{report.reconnects} reconnects, {report.divergences} divergences",
        highlight=False,
    )
    for code, count in report.errors.items():
        screen.output.out(f"  {count} x {one_line(code)}", highlight=False)
