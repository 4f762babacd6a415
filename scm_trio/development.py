"""The signing secret of a server that was given none: made once, kept beside the database."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import attrs

from scm_trio.config import Config
from scm_trio.errors import ConfigError

_SQLITE = "sqlite:///"


def is_development(config: Config) -> bool:
    """Whether nothing in the configuration verifies tokens."""
    return not (config.auth.secret or config.auth.public_key or config.auth.jwks_url)


def completed(config: Config) -> Config:
    """The configuration as it is, or with the development secret where nothing verifies tokens.

    Raises:
        ConfigError: the server would be reachable from outside with it, or its file cannot be used.
    """
    if not is_development(config):
        return config
    check_is_local(config.server.host)
    return with_secret(config)


def secret_path(config: Config) -> Path:
    """Beside an SQLite database, else in the working directory."""
    url = config.store.url
    if url.startswith(_SQLITE) and len(url) > len(_SQLITE):
        return Path(url.removeprefix(_SQLITE).partition("?")[0]).with_suffix(".secret")
    return Path("scm-trio.secret")


def with_secret(config: Config) -> Config:
    """The configuration with a development secret in it, read or made.

    Raises:
        ConfigError: the file cannot be used.
    """
    path = secret_path(config)
    try:
        secret = _read_or_make(path)
    except OSError as exc:
        raise ConfigError(f"scm.auth.secret: not set, and {path} cannot be used: {exc.strerror}") from None
    return attrs.evolve(config, auth=attrs.evolve(config.auth, secret=secret, algorithm="HS256", refresh=True))


def check_is_local(host: str) -> None:
    """Anybody who reads the file could sign tokens: such a server stays on this machine.

    Raises:
        ConfigError: the host is not loopback.
    """
    try:
        local = ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local:
        raise ConfigError(
            f"scm.server.host: {host} is reachable from outside; set scm.auth.secret (or public-key, jwks-url) first"
        )


def _read_or_make(path: Path) -> str:
    if not path.exists():
        # Written aside and linked into place, so that nobody ever reads half of it.
        fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(48) + "\n")
            with suppress(FileExistsError):
                path.hardlink_to(fresh)
        finally:
            fresh.unlink()
    return path.read_text().strip()
