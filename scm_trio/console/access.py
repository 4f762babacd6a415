"""Where the console programs get their token from, and how they say that a server does not want them."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from scm_trio.client import ClientError, GaveUp, HandshakeRefused, TokenSource
from scm_trio.client.transport import Address, credentials

DEFAULT_URL = "ws://127.0.0.1:8088"
TOKEN_VARIABLE = "SCM_TOKEN"  # noqa: S105  # its name, not its value

OK, FAILED, USAGE = 0, 1, 2
"""Exit codes."""


class UsageError(Exception):
    """The command was called wrongly; the text is for the person who called it."""


def find_token(token: str | None, token_file: Path | None) -> str | None:
    """The token given, else the one in the file, else the one in ``SCM_TOKEN``, else none.

    Raises:
        UsageError: the file cannot be read.
    """
    if token is not None:
        return token
    if token_file is not None:
        try:
            return token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise UsageError(f"cannot read the token file {token_file}: {exc}") from exc
    return os.environ.get(TOKEN_VARIABLE)


def token_source(token: str | None, token_file: Path | None) -> TokenSource:
    """As ``find_token``; a file is read again when the server wants a new token, for it may hold one by then."""
    if token is None and token_file is not None:
        return partial(find_token, None, token_file)
    return find_token(token, token_file)


def check_target(url: str, token: str | None) -> None:
    """See whether these can be used at all, before anything is opened.

    Raises:
        UsageError: the URL or the token is not one.
    """
    try:
        Address.parse(url)
        credentials(token)
    except ValueError as exc:
        raise UsageError(str(exc)) from exc


def explain(failure: ClientError) -> str:
    """One line for a person: what happened and, where there is something to do about it, what."""
    if isinstance(failure, GaveUp) and isinstance(failure.__cause__, HandshakeRefused):
        failure = failure.__cause__
    if not isinstance(failure, HandshakeRefused):
        return str(failure)
    if failure.status == 401:
        what = "token expired" if failure.code == "TOKEN_EXPIRED" else "token missing or not accepted"
        return f"{what}: make one with scm-trio token --user NAME"
    later = "" if failure.retry_after_s is None else f" (try again in {failure.retry_after_s:g} s)"
    return f"{failure}{later}"
