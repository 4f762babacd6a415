"""The ``scm-trio`` command. It alone, with ``serve``, reads the configuration."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import trio
from cyclopts import App, Parameter

from scm_trio import __version__, config_loader, logs
from scm_trio.auth import authenticator
from scm_trio.config import Config
from scm_trio.development import completed, is_development, secret_path
from scm_trio.errors import ConfigError, StoreError
from scm_trio.jwks import fetch_jwks

if TYPE_CHECKING:
    from scm_trio.house import House

DEFAULT_FILE = Path("scm-trio.yml")
DAY_S = 86_400.0

app = App(name="scm-trio", version=__version__, help="A real-time AI chat gateway.", backend="trio")
# Named by their places, so that a short command does not import what a long one needs.
for _name in ("chat", "load", "cancel"):
    app.command(f"scm_trio.console.{_name}:run", name=_name)

ConfigFile = Annotated[
    Path | None, Parameter(name="--config", help="YAML file; without it ./scm-trio.yml where there is one.")
]


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line; failures are one clear line each and exit status 1.

    Args:
        words: what stands behind the program's name; None: the process's own.
    """
    failures: list[BaseException] = []
    try:
        app(words)
    except* (ConfigError, StoreError) as group:
        failures = _leaves(group)
    # Out here, because what is raised inside of ``except*`` becomes a group itself.
    for failure in failures:
        print(f"scm-trio: {failure}", file=sys.stderr)
    if failures:
        sys.exit(1)


@app.command(name="serve")
def serve_command(*, config: ConfigFile = None, host: str | None = None, port: int | None = None) -> None:
    """Run the server.

    Args:
        config: configuration file.
        host: address to listen on, instead of the configured one.
        port: port to listen on, instead of the configured one; 0 takes any free one.
    """
    from scm_trio import serve  # noqa: PLC0415 - see above

    loaded = _load(config)
    logs.configure(loaded.log)
    serve.run(loaded, host=host, port=port, announce=partial(_announce, is_development(loaded)))


@app.command
def config(*, config: ConfigFile = None) -> None:
    """Print the effective configuration, secrets hidden."""
    loaded = config_loader.load(_file(config), os.environ)
    print(config_loader.effective(loaded.config, origins=loaded.origins), end="")


@app.command
def token(
    *,
    user: str,
    ttl: float = DAY_S,
    role: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    config: ConfigFile = None,
) -> None:
    """Issue a token, signed with the configured or the development secret.

    Args:
        user: whom it is for.
        ttl: seconds that it lasts.
        role: roles it carries, for example admin.
        config: configuration file.
    """
    loaded = completed(_load(config))
    if ttl <= 0:
        raise ConfigError(f"--ttl: {ttl:g}: a number of seconds above 0 is expected")
    issuer = authenticator(loaded.auth, fetch=fetch_jwks, now=time.time)
    print(issuer.issue(user, ttl_s=ttl, roles=role))


@app.command
def migrate(*, config: ConfigFile = None) -> None:
    """Create the database, or bring it up to this version."""
    from scm_trio.store.database import open_database  # noqa: PLC0415 - see above

    loaded = _load(config)

    async def run() -> None:
        async with open_database(loaded.store.url) as database:
            await database.ping()

    trio.run(run)
    print("The database is up to date.")


@app.command
def export_user(user: str, *, out: Path | None = None, config: ConfigFile = None) -> None:
    """Write everything that is kept about a person as JSON lines.

    Args:
        user: whom it is about.
        out: a new file for it, which its owner alone can read; without it the lines go to the standard output.
        config: configuration file.
    """
    from scm_trio.store import person  # noqa: PLC0415 - see above
    from scm_trio.store.database import open_database  # noqa: PLC0415 - see above

    loaded = _load(config)

    async def run() -> int:
        async with open_database(loaded.store.url) as database:
            with _new_file(out) if out else nullcontext(sys.stdout.buffer) as lines:
                return await database.read(person.write_export, user, lines)

    print(f"{trio.run(run)} records about {user}.", file=sys.stderr)


@app.command
def delete_user(user: str, *, yes: bool = False, config: ConfigFile = None) -> None:
    """Delete everything that is kept about a person; the ledger keeps its sums without the name.

    Args:
        user: whom it is about.
        yes: do not ask.
        config: configuration file.
    """
    from scm_trio.store import housekeeping  # noqa: PLC0415 - see above
    from scm_trio.store.blobs import Folder  # noqa: PLC0415 - see above
    from scm_trio.store.database import in_thread, open_database  # noqa: PLC0415 - see above

    loaded = _load(config)
    folder = Folder(secret_path(loaded).parent / loaded.files.path, in_thread)
    if not (yes or _agreed(f"Delete everything that is kept about {user}? It cannot be brought back. [y/N] ")):
        print("Nothing was deleted.")
        sys.exit(1)

    async def run() -> bool:
        async with open_database(loaded.store.url) as database, trio.open_nursery() as nursery:
            await nursery.start(database.run_writer)
            found = await housekeeping.erase_user(database, folder, user)
            nursery.cancel_scope.cancel()
        return found

    print(f"Deleted everything about {user}." if trio.run(run) else f"Nothing was kept about {user}.")


def _new_file(path: Path) -> BinaryIO:
    try:
        return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb")
    except OSError as exc:
        raise ConfigError(f"--out: {path}: {exc.strerror}") from None


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("--yes is needed where nobody can be asked")
    return input(question).strip().lower() in {"y", "yes"}


def _load(path: Path | None) -> Config:
    return config_loader.load_config(_file(path), os.environ)


def _file(path: Path | None) -> Path | None:
    return path or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)


def _announce(development: bool, house: House, port: int) -> None:
    """Tell a person where to go; a token only where it is a development one."""
    loaded = house.config
    scheme = "https" if house.listener.tls else "http"
    host = f"[{loaded.server.host}]" if ":" in loaded.server.host else loaded.server.host
    page = f"{scheme}://{host}:{port}/"
    names = ", ".join(house.providers) or "none: set OPENAI_API_KEY, or install scm-trio[local]"
    lines = [f"scm_trio {__version__}", f"  providers  {names}"]
    if development:
        issued = house.gate.tokens.authenticator.issue("dev", ttl_s=DAY_S, roles=("admin",))
        lines += [
            f"  page       {page}#token={issued}",
            f"  chat       scripts/chat.py ws{scheme[4:]}://{host}:{port} --token {issued}",
            f"  token      {issued}",
            "",
            "  DEVELOPMENT MODE: tokens are signed with a secret made for this database.",
            "  开发模式：令牌由本数据库的开发密钥签发。对外服务前请设置 scm.auth.secret。",
        ]
    else:
        lines.append(f"  page       {page}")
    print("\n".join(lines), flush=True)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for each in group.exceptions:
        found += _leaves(each) if isinstance(each, BaseExceptionGroup) else [each]
    return found
