"""Answers that somebody else asked for: another device of the same user, or the page before it was reloaded."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from weakref import WeakSet

import trio

from scm_trio.client.answer import Answer
from scm_trio.client.events import AnswerEvent
from scm_trio.client.feed import Feed
from scm_trio.client.line import Line
from scm_trio.protocol import messages

MAX_UNSEEN = 256
"""So many answers wait for a watcher; for more, the oldest is dropped."""
MAX_RUNNING = 1024
"""So many running answers are remembered while nobody watches."""


class Watching:
    """Takes what the server shows unasked, the answers that run in the chat's sessions, and gives it to whoever watches.

    While nobody does, only the ids of running answers are kept.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._watchers: WeakSet[Watcher] = WeakSet()
        self._running: dict[str, None] = {}

    def watch(self) -> AsyncIterator[Answer]:
        watcher = Watcher()
        self._watchers.add(watcher)
        running, self._running = self._running, {}
        for message_id in running:
            self._show(Feed(None, None, message_id=message_id, on_divergence=self._line.diverged))
        return watcher

    def opened(self) -> None:
        """A new connection shows again what runs."""
        self._running.clear()

    def take(self, frame: AnswerEvent) -> None:
        """A frame of an answer that nobody here knows."""
        if isinstance(frame, messages.ChatStreamEnd):
            self._running.pop(frame.message_id, None)
        elif isinstance(frame, messages.ChatStreamStart):
            if self._watchers:
                feed = Feed(None, None, on_divergence=self._line.diverged)
                feed.follow(frame)
                self._show(feed)
            elif len(self._running) < MAX_RUNNING:
                self._running[frame.message_id] = None

    def close(self) -> None:
        """There will be no connection any more."""
        for watcher in self._watchers:
            watcher.close()

    def _show(self, feed: Feed) -> None:
        self._line.enter(feed)
        feed.nudge()
        for watcher in self._watchers:
            watcher.give(Answer(self._line, feed))


class Watcher:
    """Answers, as they come; it watches for as long as somebody holds it."""

    def __init__(self) -> None:
        self._answers: deque[Answer] = deque(maxlen=MAX_UNSEEN)
        self._changed = trio.Event()
        self._closed = False

    def give(self, answer: Answer) -> None:
        self._answers.append(answer)
        self._wake()

    def close(self) -> None:
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def __aiter__(self) -> AsyncIterator[Answer]:
        return self

    async def __anext__(self) -> Answer:
        await trio.lowlevel.checkpoint()
        while not self._answers:
            if self._closed:
                raise StopAsyncIteration
            await self._changed.wait()
        return self._answers.popleft()
