"""Tasks that serve a block of the caller's code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio


class Crew:
    """The tasks of one ``background`` block."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        # A dict for its order: tasks end in the order in which they were started.
        self._scopes: dict[trio.CancelScope, None] = {}
        self._cancelled = False

    def start_soon(self, task: Callable[[], Awaitable[None]]) -> None:
        if self._cancelled:
            return
        scope = trio.CancelScope(shield=True)
        self._scopes[scope] = None

        async def run() -> None:
            with scope:
                await task()
            del self._scopes[scope]

        self._nursery.start_soon(run)

    async def start(self, task: Callable[[trio.TaskStatus[None]], Awaitable[None]]) -> None:
        """Start a task and wait until it says that it is ready; until then it can be cancelled from outside."""
        scope = trio.CancelScope()
        self._scopes[scope] = None

        async def run(task_status: trio.TaskStatus[None]) -> None:
            with scope:
                await task(task_status)

        await self._nursery.start(run)
        scope.shield = True

    def cancel(self) -> None:
        self._cancelled = True
        for scope in self._scopes:
            scope.cancel()


@asynccontextmanager
async def background() -> AsyncIterator[Crew]:
    """Run tasks beside the block, to its very end: when it is cancelled it still needs them for its goodbyes.

    So they are shielded from cancellation from outside; the end of the block is the shield's limit.
    What the block raises leaves as it is: callers write ``except ChatError``, never ``except*``. Only a crash of
    a background task, which is a bug, leaves as an exception group.
    """
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            crew = Crew(nursery)
            try:
                yield crew
            except BaseException as exc:
                failure = exc
                raise
            finally:
                crew.cancel()
    except BaseExceptionGroup as group:
        if failure is None or _crashed(group, failure):
            raise
    if failure is not None:
        raise failure


def _crashed(group: BaseExceptionGroup[BaseException], failure: BaseException) -> bool:
    """Whether the group holds more than the block's failure and cancellations."""
    return any(
        _crashed(each, failure) if isinstance(each, BaseExceptionGroup) else not isinstance(each, trio.Cancelled)
        for each in group.exceptions
        if each is not failure
    )
