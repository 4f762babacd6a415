"""A token -> who it is: where a request carries it, and whether it is to be believed.

Nothing here logs or raises with a token or its claims in the text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jwt
from attrs import field, frozen

from scm_trio.config import Auth
from scm_trio.errors import ConfigError, TokenExpired, Unauthorized
from scm_trio.jwks import Fetch, KeySet, PublicKey, is_safe_url, key_from_pem
from scm_trio.model import Principal
from scm_trio.protocol.codec import is_id

MAX_TOKEN_BYTES = 16 * 1024
MIN_SECRET_BYTES = 32
MAX_TIME = 2**53
"""Beyond it a claim is no time, and would not survive as a float."""

_HTTP_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_JWT_SHAPE = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)

Key = str | PublicKey
FindKey = Callable[[str | None], Awaitable[Key | None]]

# ---- where the token is


@frozen
class PickedToken:
    """``subprotocol`` is what the handshake has to select; None: it must not select any."""

    token: str = field(repr=False)
    subprotocol: str | None = field(repr=False)


def pick_token(
    headers: Mapping[str, Sequence[str]],
    subprotocols: Sequence[str],
    query: Mapping[str, str],
    *,
    query_allowed: bool,
) -> PickedToken:
    """Find the token: ``Authorization`` beats ``Sec-WebSocket-Protocol`` beats ``?token=``.

    Args:
        headers: by lower-case name.
        subprotocols: what the client offers, in order; empty for plain HTTP.
        query: the parameters of the URL.
        query_allowed: whether ``?token=`` counts.

    Raises:
        Unauthorized: there is none.
    """
    offered, selected = _from_subprotocols(subprotocols)
    token = _from_header(headers.get("authorization", ())) or offered
    if token is None and query_allowed:
        token = query.get("token")
    if not token:
        raise Unauthorized("no token")
    return PickedToken(token, selected)


def _from_header(values: Sequence[str]) -> str | None:
    for value in values:
        scheme, _, token = value.strip().partition(" ")
        if scheme.lower() == "bearer":
            return token.strip() or None
    return None


def _from_subprotocols(offers: Sequence[str]) -> tuple[str | None, str | None]:
    """The token among the offers, and the offer to select.

    Browsers drop the connection unless one of their offers is selected; a token is, only where it stands alone.
    """
    if "Bearer" in offers:
        following = offers[offers.index("Bearer") + 1 :]
        return (following[0] if following else None), "Bearer"
    if len(offers) != 1 or not _HTTP_TOKEN.fullmatch(offers[0]):
        return None, None
    return (offers[0] if _JWT_SHAPE.fullmatch(offers[0]) else None), offers[0]


# ---- what it says


def authenticator(settings: Auth, *, fetch: Fetch | None, now: Callable[[], float]) -> Authenticator:
    """Build what verifies tokens.

    Args:
        settings: with HS256 its ``secret`` has to be set.
        fetch: gets the key set where ``jwks_url`` is configured.
        now: seconds since the epoch.

    Raises:
        ConfigError: the key is missing, weak or not for the algorithm.
    """
    if settings.algorithm == "HS256":
        return Authenticator(settings, _constant(_secret(settings)), now)
    if (settings.public_key is None) == (settings.jwks_url is None):
        text = f"scm.auth: {settings.algorithm} needs either public-key or jwks-url"
        raise ConfigError(text)
    if settings.public_key is not None:
        key = key_from_pem(_pem(settings.public_key), settings.algorithm)
        return Authenticator(settings, _constant(key), now)
    if settings.jwks_url is None or not is_safe_url(settings.jwks_url):
        raise ConfigError("scm.auth.jwks-url: expected https, or http on loopback")
    if fetch is None:
        raise ConfigError("scm.auth.jwks-url: nothing here can fetch it")
    return Authenticator(settings, KeySet(settings.jwks_url, settings.algorithm, fetch).key, now)


def _secret(settings: Auth) -> str:
    if settings.public_key or settings.jwks_url:
        raise ConfigError("scm.auth: HS256 knows no public-key and no jwks-url; set scm.auth.algorithm")
    secret = settings.secret or ""
    if len(secret.encode()) < MIN_SECRET_BYTES:
        text = f"scm.auth.secret: HS256 needs at least {MIN_SECRET_BYTES} bytes, got {len(secret.encode())}"
        raise ConfigError(text)
    try:
        jwt.encode({}, secret, algorithm="HS256")
    except jwt.PyJWTError:
        raise ConfigError("scm.auth.secret: expected a secret, got an asymmetric key") from None
    return secret


def _pem(text: str) -> str:
    """The PEM itself; variables often carry its line breaks as backslash and n."""
    if text.lstrip().startswith("-----BEGIN"):
        return text.replace("\\n", "\n")
    try:
        return Path(text).read_text(encoding="utf-8")
    except (OSError, ValueError) as exc:
        text = f"scm.auth.public-key: the file cannot be read: {type(exc).__name__}"
        raise ConfigError(text) from exc


def _constant(key: Key) -> FindKey:
    async def find(_key_id: str | None) -> Key:
        return key

    return find


@frozen
class Authenticator:
    """Verifies tokens, and issues them where it holds the secret."""

    _settings: Auth
    _find_key: FindKey = field(repr=False)
    _now: Callable[[], float] = field(repr=False)

    async def verify(self, token: str) -> Principal:
        """Return whom a token stands for. ``expires_at`` is its ``exp``, without leeway.

        Raises:
            Unauthorized: it is malformed, not signed by the configured key, not for us, not yet valid, or its key
                cannot be had.
            TokenExpired: it was valid until ``exp``.
        """
        key = await self._find_key(self._key_id(token))
        if key is None:
            raise Unauthorized("no key for the token")
        claims = self._claims(token, key)
        expires_at = self._check_times(claims)
        return Principal(_user_id(claims.get(self._settings.user_claim)), _roles(claims.get("roles")), expires_at)

    @property
    def can_issue(self) -> bool:
        return self._settings.algorithm == "HS256"

    def issue(self, user_id: str, *, ttl_s: float, roles: Iterable[str] = ()) -> str:
        """Make a token that ``verify`` accepts for ``ttl_s`` seconds, rounded up to a whole one.

        Raises:
            ConfigError: only HS256 can sign.
            Unauthorized: no token can carry this user id.
        """
        if not self.can_issue:
            text = f"scm.auth.algorithm: {self._settings.algorithm} only verifies; tokens come from elsewhere"
            raise ConfigError(text)
        issued_at = self._now()
        claims: dict[str, Any] = {
            self._settings.user_claim: _user_id(user_id),
            "iat": int(issued_at),
            "exp": math.ceil(issued_at + ttl_s),
            "iss": self._settings.issuer,
            "aud": self._settings.audience,
            "roles": sorted(set(roles)) or None,
        }
        present = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(present, self._settings.secret or "", algorithm="HS256")

    def _key_id(self, token: str) -> str | None:
        """The key a token names. One of another algorithm is refused here, before it can cause a fetch."""
        if len(token) > MAX_TOKEN_BYTES or not token.isascii():
            raise Unauthorized("no token of a possible size and alphabet")
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise Unauthorized("malformed token") from None
        if header.get("alg") != self._settings.algorithm:
            raise Unauthorized("token of another algorithm")
        return header.get("kid")

    def _claims(self, token: str, key: Key) -> dict[str, Any]:
        wanted = self._settings
        try:
            return jwt.decode(
                token,
                key,
                algorithms=[wanted.algorithm],
                issuer=wanted.issuer,
                audience=wanted.audience,
                # Times are checked by our own clock, which tests can turn.
                options={
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_sub": False,
                    "verify_jti": False,
                    "verify_iss": wanted.issuer is not None,
                    "verify_aud": wanted.audience is not None,
                },
            )
        except jwt.PyJWTError as exc:
            text = f"token refused: {type(exc).__name__}"
            raise Unauthorized(text) from None

    def _check_times(self, claims: Mapping[str, Any]) -> float:
        now, leeway_s = self._now(), self._settings.leeway_s
        expires_at = _time(claims.get("exp"))
        if "nbf" in claims and _time(claims["nbf"]) > now + leeway_s:
            raise Unauthorized("token not yet valid")
        if expires_at + leeway_s <= now:
            raise TokenExpired("token expired")
        return expires_at


def _time(claim: object) -> float:
    if isinstance(claim, bool) or not isinstance(claim, (int, float)) or not -MAX_TIME < claim < MAX_TIME:
        raise Unauthorized("a time is missing from the token, or is none")
    return float(claim)


def _user_id(claim: object) -> str:
    """The wire's rule for ids, see ``protocol.messages.Id``."""
    if not isinstance(claim, str) or not is_id(claim):
        raise Unauthorized("the token names no possible user")
    return claim


def _roles(claim: object) -> frozenset[str]:
    """A list of texts, or one text with spaces or commas; whatever else stands there gives no right."""
    if isinstance(claim, str):
        return frozenset(claim.replace(",", " ").split())
    if isinstance(claim, list):
        return frozenset(role for role in claim if isinstance(role, str) and role)
    return frozenset()
