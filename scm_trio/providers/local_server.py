"""The child process of the local model: xllamacpp behind its own OpenAI-compatible HTTP server.

``python -m scm_trio.providers.local_server`` reads one JSON line of ``ServerSettings`` from its stdin and writes one
JSON line to its stdout: ``{"port": 40123}`` once it answers, or ``{"error": "…"}``. It lives until its stdin ends, so it
never outlives its parent, however that one dies.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from importlib import import_module
from types import ModuleType
from typing import Any, BinaryIO

from attrs import asdict, field, frozen

SLOTS = 2
"""Answers that are generated at the same time; more requests wait for a free one."""

TINY_ANSWER_TOKENS = 512
"""The longest answer of a tiny model, unless the request says otherwise."""

_BATCH_TOKENS = 64  # A prompt is read in such steps; a cancel is noticed between two of them. 128 is no faster.
_PREFIX_CACHE_MIB = 128


@frozen
class ServerSettings:
    """What the child is told.

    Attributes:
        model_path: a GGUF file.
        model: the name the model is called by.
        api_key: the bearer token without which the server answers 401.
        context_tokens: prompt and answer of one request together.
        cores: processor cores that it may use.
        tiny: a model so small that its answers have to be kept short and from going round in circles.
        port: on 127.0.0.1; 0 for any free one.
    """

    model_path: str
    model: str
    api_key: str = field(repr=False)
    context_tokens: int
    cores: int
    tiny: bool = False
    port: int = 0

    def to_line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


def server_params(settings: ServerSettings, xllamacpp: ModuleType) -> Any:
    """Translate ``settings`` into the library's own parameters."""
    params = xllamacpp.CommonParams()
    params.model.path = settings.model_path
    params.model_alias = {settings.model}
    params.port = settings.port
    params.api_keys = [settings.api_key]
    # The library divides its context among the slots.
    params.n_ctx = settings.context_tokens * SLOTS
    params.n_parallel = SLOTS
    params.n_batch = params.n_ubatch = _BATCH_TOKENS
    # Every token waits for the slowest thread: where another process takes a core at times, using them all for answers
    # has measured as low as 3 tokens/s, one less a steady 60. Reading prompts suffers less and gains more.
    params.cpuparams.n_threads = max(1, settings.cores - 1)
    params.cpuparams_batch.n_threads = settings.cores
    # Beginnings of conversations that lost their slot: a next question need not read them all again.
    params.cache_ram_mib = _PREFIX_CACHE_MIB
    if settings.tiny:
        _tame(params)
    params.ui = False
    params.endpoint_slots = False  # It would show what others are asking.
    params.verbosity = 0
    return params


def _tame(params: Any) -> None:
    """Set what a request gets that says nothing itself: a tiny model wanders off, repeats itself and does not end."""
    params.n_predict = TINY_ANSWER_TOKENS
    params.sampling.temp = 0.0
    params.sampling.penalty_repeat = 1.1
    # Against repeating whole phrases; single words would suffer from a stronger penalty above.
    params.sampling.dry_multiplier = 0.8
    params.sampling.dry_allowed_length = 4
    params.sampling.dry_penalty_last_n = 512


def start_server(settings: ServerSettings) -> tuple[object, int]:
    """Load the model and start the threads that answer on 127.0.0.1.

    Returns:
        The server, which stops when it is garbage collected, and its port.

    Raises:
        ImportError: the runtime is not installed.
        RuntimeError: the file is no model, or the port is taken.
    """
    xllamacpp = import_module("xllamacpp")
    server = xllamacpp.Server(server_params(settings, xllamacpp))
    return server, int(server.listening_address.rsplit(":", 1)[1])


def _take_stdout() -> BinaryIO:
    """Keep stdout for announcements alone; what the library prints, there or to stderr, goes nowhere."""
    announcements = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    return announcements


def _announce(stdout: BinaryIO, message: dict[str, object]) -> None:
    stdout.write(json.dumps(message).encode() + b"\n")
    stdout.flush()


def _exit_at_eof() -> None:
    # The bare descriptor: a thread waiting inside sys.stdin would break the interpreter's exit after a failed load.
    os.read(0, 1)
    # Not sys.exit: tearing the library down while it computes has crashed.
    os._exit(0)


def main() -> None:
    """Serve until stdin ends."""
    # Ctrl-C and a service manager's signal reach the whole group, but the parent may still have answers to finish.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stdout = _take_stdout()
    settings = ServerSettings(**json.loads(sys.stdin.buffer.readline()))
    watch = threading.Thread(target=_exit_at_eof, daemon=True)
    watch.start()
    try:
        _server, port = start_server(settings)
    except (ImportError, RuntimeError) as exc:
        _announce(stdout, {"error": f"{exc} ({settings.model_path})"})
        return
    _announce(stdout, {"port": port})
    watch.join()


if __name__ == "__main__":
    main()
