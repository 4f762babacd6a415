"""``scm-trio cancel``: hold a running server to its promises about stopping answers."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar
from uuid import uuid4

import trio
from attrs import define, field, frozen
from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from scm_trio.client import ClientError
from scm_trio.client.wire import Wire, open_wire
from scm_trio.console.access import DEFAULT_URL, FAILED, OK, USAGE, UsageError, check_target, explain, find_token
from scm_trio.console.cancel_cases import CASES, Case, Lab, Outcome, calibrated
from scm_trio.console.terminal import Screen, one_line
from scm_trio.console.witness import BrokenPromise, RateLimited
from scm_trio.protocol import messages

QUESTION = "Tell a very long story about a freight train that crosses a continent. Do not stop early."
MAX_WAITS = 5
"""How often in a row one round waits for the rate limit."""

OpenWire = Callable[..., AbstractAsyncContextManager[Wire]]
Result = TypeVar("Result")


@frozen
class Surroundings:
    """What the program meets outside itself; tests bring their own."""

    opener: OpenWire = open_wire
    screen: Screen | None = None


@define
class Row:
    """What came out of one case."""

    case: str
    kept: list[Outcome] = field(factory=list)
    broken: list[str] = field(factory=list)

    def cells(self) -> tuple[str, ...]:
        rounds = len(self.kept) + len(self.broken)
        cancel = [float(each.cancel_ms) for each in self.kept if each.cancel_ms is not None]
        after = [each.end_after_s * 1000 for each in self.kept if each.end_after_s is not None]
        own = sum(each.own_end for each in self.kept)
        reasons = "; ".join(dict.fromkeys(map(one_line, self.broken)))
        return (self.case, str(rounds), str(len(self.kept)), str(own), _spread(cancel), _spread(after), reasons)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} / {max(values):.0f}" if values else "-"


async def run(  # noqa: PLR0913  # one argument for every option of the command
    url: str = DEFAULT_URL,
    *,
    rounds: int = 3,
    message: str = QUESTION,
    token: str | None = None,
    token_file: Path | None = None,
    model: str | None = None,
    provider: str | None = None,
    max_tokens: int = 200,
    limit_s: float = 2.0,
    quiet_s: float = 0.05,
    surroundings: Annotated[Surroundings | None, Parameter(parse=False)] = None,
) -> int:
    """Check a live server: stop answers in every way there is, and see whether it keeps its promises.

    Each way is tried several times: before the first token, in the middle, at the end, twice, from another connection,
    by vanishing, without reading, by a time limit. Promised are: one END for every START and nothing after it, the upstream
    connection closed, text that agrees with its length and checksum, and a connection that still works.
    The column "by itself" counts rounds in which the answer ended before it was stopped; such a round proves little, a
    slower model or a larger --max-tokens helps.

    Args:
        url: the server, ws://HOST:PORT or wss://HOST:PORT.
        rounds: how often every way is tried.
        message: a question with a long answer.
        token: the token; better use a file or SCM_TOKEN, which other users of the machine cannot see.
        token_file: a file that holds the token.
        model: the model that answers; without one the server's default.
        provider: the provider that answers; without one the server's default.
        max_tokens: the longest answer, in tokens.
        limit_s: seconds within which the END has to come once an answer is stopped.
        quiet_s: seconds for which nothing may follow an END.
        surroundings: for tests.

    Returns:
        The exit code: 0 all promises kept, 1 some broken or no connection, 2 the command was called wrongly.
    """
    outside = surroundings or Surroundings()
    screen = outside.screen or Screen()
    request = messages.ChatRequest(
        messages.Text(message),
        model=_id(model),
        provider=_id(provider),
        max_tokens=messages.Count(max_tokens),
    )
    try:
        secret = find_token(token, token_file)
        check_target(url, secret)
        opener = partial(outside.opener, url, secret, session_id=f"cancel-{uuid4().hex[:12]}")
        lab = await _patiently(partial(calibrated, Lab(opener, request, limit_s, quiet_s)), screen)
        screen.note(f"an answer that nobody stops takes {lab.whole_s:.1f} s")
        rows = [await _try(name, case, lab, rounds, screen) for name, case in CASES.items()]
    except UsageError as exc:
        screen.error(str(exc))
        return USAGE
    except BrokenPromise as exc:
        screen.error(f"an answer that nobody stops is not as promised: {exc}")
        return FAILED
    except ClientError as exc:
        screen.error(explain(exc))
        return FAILED
    _show(rows, screen)
    return FAILED if any(row.broken for row in rows) else OK


async def _try(name: str, case: Case, lab: Lab, rounds: int, screen: Screen) -> Row:
    row = Row(name)
    for number in range(rounds):
        try:
            row.kept.append(await _patiently(partial(case, lab, number), screen))
        except BrokenPromise as exc:
            row.broken.append(str(exc))
        except ClientError as exc:
            row.broken.append(explain(exc))
    screen.note(f"{name}: {len(row.kept)} of {rounds} kept")
    return row


async def _patiently(action: Callable[[], Awaitable[Result]], screen: Screen) -> Result:
    """Run the action again after the pause that a rate limit asks for.

    Raises:
        BrokenPromise: the server refuses again and again.
    """
    for _ in range(MAX_WAITS):
        try:
            return await action()
        except RateLimited as exc:
            screen.note(f"the server's rate limit asks for a pause of {exc.retry_after_s:.0f} s")
            await trio.sleep(exc.retry_after_s)
    raise BrokenPromise("RATE_LIMITED again after the pause that it asked for")


def _show(rows: list[Row], screen: Screen) -> None:
    columns = ("case", "rounds", "kept", "by itself", "cancelMs p50 / max", "END after ms p50 / max", "broken promise")
    table = Table(*columns, title="stopping answers")
    for row in rows:
        table.add_row(*map(Text, row.cells()), style="red" if row.broken else None)
    screen.output.print(table)


def _id(text: str | None) -> messages.Id | None:
    return None if text is None else messages.Id(text)
