"""URLs of the configuration: what may be shown of one, and what it has to be like."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

MASK = "***"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SHOWABLE = re.compile(
    r"""(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)
        (?P<user>[^/?#]*@)?
        (?P<place>(\[[0-9A-Fa-f:.]*\]|[^\s/?\#@:\[\]\\]*)(:[0-9]+)?(/[^?\#@\s]*)?)
        (?P<query>\?[^\#@]*)?
        (?P<fragment>\#[^@]*)?""",
    re.VERBOSE,
)
"""An ``@`` behind the first ``/``, ``?`` or ``#`` may end a password that was not quoted, or stand in a harmless query."""
_FILE = re.compile(r"(?P<place>sqlite(\+[a-z]+)?:///[^?]*)(?P<query>\?.*)?", re.DOTALL)

_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[^\s/?#@:\[\]\\%]+")
_PORT = re.compile(r":[0-9]*$")
_SQLITE = frozenset({"sqlite", "sqlite+pysqlite"})
_POSTGRES = frozenset({"postgresql", "postgres", "postgresql+psycopg"})
_POSTGRES_PARTS = re.compile(
    r"""([^:/]*(:[^@]*)?@)?
        (?P<host>\[[^/?]+\]|[^/:?]+)?
        (:(?P<port>[^/?]+))?
        (/(?P<database>[^?]*))?
        (\?.*)?""",
    re.VERBOSE | re.DOTALL,
)
"""As SQLAlchemy takes it apart: a user may hold an ``@``, a password anything else."""


def masked(text: str) -> str:
    """A URL without user, password, query and fragment; only its scheme where the rest is unclear."""
    if found := _FILE.fullmatch(text):
        return found["place"] + (f"?{MASK}" if found["query"] else "")
    found = _SHOWABLE.fullmatch(text)
    if found is None:
        scheme = _SCHEME.match(text)
        return f"{scheme[0] if scheme else ''}{MASK}"
    user = f"{MASK}@" if found["user"] else ""
    # Its names as well: a value that is not quoted may go on behind an &.
    query = f"?{MASK}" if found["query"] else ""
    fragment = f"#{MASK}" if found["fragment"] else ""
    return f"{found['scheme']}{user}{found['place']}{query}{fragment}"


def is_url(text: str, *schemes: str) -> bool:
    """Whether it is an absolute URL of one of these schemes, fit for a request."""
    if not text.isprintable() or " " in text:
        return False
    try:
        parts = urlsplit(text)
        host = _PORT.sub("", parts.netloc.rpartition("@")[2])
        (parts.hostname or "").encode("idna")
    except ValueError:
        return False
    return parts.scheme in schemes and bool(_HOST.fullmatch(host)) and parts.port != 0


def store_problem(text: str) -> str | None:
    """What is expected of ``store.url`` where this is something else."""
    scheme, separator, rest = text.partition("://")
    if separator and scheme in _SQLITE:
        return None if _is_file(rest) else "sqlite:///RELATIVE/FILE or sqlite:////ABSOLUTE/FILE and nothing more"
    if not separator or scheme not in _POSTGRES:
        return "sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"
    parts = _POSTGRES_PARTS.fullmatch(rest)
    if parts is None or not re.fullmatch("[0-9]{1,5}", parts["port"] or "0"):
        return "postgresql://USER:PASSWORD@HOST:PORT/NAME"
    if set("@#") & set(f"{parts['host']}{parts['database']}"):
        # Rather the rest of a password that is not quoted than such a name.
        return "postgresql://USER:PASSWORD@HOST/NAME, where @ : / ? # within a part are written %40 %3A %2F %3F %23"
    return None


def _is_file(rest: str) -> bool:
    path, _, query = rest.partition("?")
    return (path == "" or path.startswith("/")) and not query and not unquote(path).startswith("/file:")
