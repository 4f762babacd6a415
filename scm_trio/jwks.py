"""Public keys for tokens: one from a PEM text, or a set behind a URL that rotates."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import orjson
import structlog
import trio
from attrs import define, field
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from scm_trio.errors import ConfigError

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey
Fetch = Callable[[str], Awaitable[bytes]]
"""Gets the body behind a URL, or raises ``FetchFailed``."""

MAX_AGE_S = 300.0
MAX_STALE_S = 3600.0
"""How long keys are still used while they cannot be fetched again."""
REFETCH_AFTER_S = 30.0
"""The least time between two fetches, whatever tokens ask for."""
FETCH_LIMIT_S = 10.0
MAX_BODY_BYTES = 256 * 1024
MIN_RSA_BITS = 2048

_KEY_TYPES = {"RS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}
_PUBLIC_MEMBERS = ("kty", "crv", "n", "e", "x", "y")

log = structlog.get_logger(__name__)


class FetchFailed(Exception):
    """The key set could not be had; the text says why."""


def fits(key: object, algorithm: str) -> bool:
    """Whether a key is of the algorithm's type, and strong enough."""
    if algorithm == "RS256":
        return isinstance(key, RSAPublicKey) and key.key_size >= MIN_RSA_BITS
    if algorithm == "ES256":
        return isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)
    return isinstance(key, (Ed25519PublicKey, Ed448PublicKey))


def key_from_pem(pem: str, algorithm: str) -> PublicKey:
    """Read a public key, or that of a certificate.

    Raises:
        ConfigError: it is no PEM, or its key is not for this algorithm.
    """
    try:
        if "BEGIN CERTIFICATE" in pem:
            key: object = load_pem_x509_certificate(pem.encode()).public_key()
        else:
            key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError("scm.auth.public-key: expected a public key or a certificate in PEM") from None
    if not fits(key, algorithm):
        text = f"scm.auth.public-key: the key is not for {algorithm}, or too weak"
        raise ConfigError(text)
    return key  # type: ignore[return-value]  # fits() has seen its type


def keys_from_set(body: bytes, algorithm: str) -> dict[str | None, PublicKey]:
    """Read the keys of a JWKS that verify this algorithm, by key id; whatever else is in there is left out.

    Raises:
        FetchFailed: it is no key set, or holds no such key.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise FetchFailed("the key set is no JSON") from None
    members = document.get("keys") if isinstance(document, dict) else None
    keys = {}
    for member in members if isinstance(members, list) else []:
        if isinstance(member, dict) and _is_for(member, algorithm):
            key_id = member.get("kid")
            key = _key(member, algorithm)
            if key and (key_id is None or isinstance(key_id, str)):
                keys[key_id] = key
    if not keys:
        text = f"the key set has no key for {algorithm}"
        raise FetchFailed(text)
    return keys


def _is_for(member: Mapping[str, Any], algorithm: str) -> bool:
    operations = member.get("key_ops", ["verify"])
    return (
        member.get("kty") == _KEY_TYPES[algorithm]
        and member.get("use", "sig") == "sig"
        and member.get("alg", algorithm) in (algorithm, "Ed25519" if algorithm == "EdDSA" else algorithm)
        and isinstance(operations, list)
        and "verify" in operations
    )


def _key(member: Mapping[str, Any], algorithm: str) -> PublicKey | None:
    # Only what is public: a set that leaks a private key must not make this server hold it.
    public = {name: member[name] for name in _PUBLIC_MEMBERS if isinstance(member.get(name), str)}
    try:
        key = jwt.PyJWK(public, algorithm).key
    except (jwt.PyJWTError, ValueError, UnsupportedAlgorithm):
        return None
    return key if fits(key, algorithm) else None


@define
class KeySet:
    """The keys behind a URL: fetched when first needed, cached, and fetched again when they are old or one is missing.

    Times are Trio's clock. Tokens with made-up key ids cause no more than one fetch in ``REFETCH_AFTER_S``, and
    everyone who needs a fetch waits for the same one.
    """

    _url: str
    _algorithm: str
    _fetch: Fetch
    _lock: trio.Lock = field(factory=trio.Lock, init=False)
    _keys: dict[str | None, PublicKey] = field(factory=dict, init=False)
    _loaded_at: float = field(default=float("-inf"), init=False)
    _tried_at: float = field(default=float("-inf"), init=False)

    async def key(self, key_id: str | None) -> PublicKey | None:
        """The key a token names; None: there is none, or the set cannot be had.

        A token that names no key gets the only one, if it is the only one.
        """
        if self._age() >= MAX_AGE_S and not (self._is_usable() and self._lock.locked()):
            await self._refresh()
        found = self._find(key_id)
        if found is None:
            await self._refresh()
            found = self._find(key_id)
        return found

    def _age(self) -> float:
        return trio.current_time() - self._loaded_at

    def _is_usable(self) -> bool:
        return self._age() < MAX_STALE_S

    def _find(self, key_id: str | None) -> PublicKey | None:
        if not self._is_usable():
            return None
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    async def _refresh(self) -> None:
        async with self._lock:
            if trio.current_time() - self._tried_at < REFETCH_AFTER_S:
                return
            self._tried_at = trio.current_time()
            # Shielded: the one who asks first fetches for all who wait, and may leave before it is done.
            with trio.move_on_after(FETCH_LIMIT_S, shield=True) as limit:
                try:
                    self._keys = keys_from_set(await self._fetch(self._url), self._algorithm)
                    self._loaded_at = trio.current_time()
                except FetchFailed as exc:
                    log.warning("key set not fetched", reason=str(exc))
            if limit.cancelled_caught:
                log.warning("key set not fetched", reason="too slow")


def is_safe_url(url: str) -> bool:
    """Whether keys may come from there: https, or http from this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme == "https":
        return bool(host)
    return parts.scheme == "http" and _is_loopback(host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def fetch_jwks(url: str, *, timeout_s: float = 5.0) -> bytes:
    """Get a key set over HTTP.

    Raises:
        FetchFailed: anything but a 200 with at most 256 KiB within ``timeout_s``.
    """
    if not is_safe_url(url):
        raise FetchFailed("expected https, or http on loopback")
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    try:
        with trio.fail_after(timeout_s):
            async with (
                httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=timeout_s) as client,
                client.stream("GET", url, headers=headers) as response,
            ):
                return await _body(response)
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        # Only its name: the message may hold the URL with its credentials.
        raise FetchFailed(type(exc).__name__) from None
    except trio.TooSlowError:
        raise FetchFailed("too slow") from None


async def _body(response: httpx.Response) -> bytes:
    if response.status_code != httpx.codes.OK:
        text = f"status {response.status_code}"
        raise FetchFailed(text)
    body = bytearray()
    # Cancelled, not left: the client's nested generators are only closed in order from the inside.
    with trio.CancelScope() as too_large:
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                too_large.cancel()
    if too_large.cancel_called:
        raise FetchFailed("too large")
    return bytes(body)
