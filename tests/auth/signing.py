"""Keys and tokens for the tests of this folder."""

from base64 import urlsafe_b64encode
from functools import cache
from json import dumps

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

SECRET = "a secret of at least thirty-two bytes"
NOW = 1_700_000_000.0
JWK = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}


def private(algorithm, which=0):
    """One of several keys of an algorithm; the same for the same arguments."""
    return _private(algorithm, which)


@cache
def _private(algorithm, _which):
    if algorithm == "RS256":
        return rsa.generate_private_key(65537, 2048)
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    return ed25519.Ed25519PrivateKey.generate()


def public_pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def private_pem(key):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def jwk(algorithm, kid, which=0, **more):
    public = JWK[algorithm].to_jwk(private(algorithm, which).public_key(), as_dict=True)
    public.pop("key_ops", None)
    return {name: value for name, value in {**public, "kid": kid, **more}.items() if value is not None}


def key_set(*members):
    return dumps({"keys": members}).encode()


def token(key=SECRET, algorithm="HS256", headers=None, **claims):
    """A token that is valid for a minute, but for what the arguments change; None takes a claim away."""
    claims = {"sub": "alice", "exp": int(NOW) + 60, **claims}
    present = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(present, key, algorithm, headers)


def signed(algorithm, kid=None, which=0, **claims):
    return token(private(algorithm, which), algorithm, {"kid": kid} if kid else None, **claims)


def segment(value):
    """A part of a token, from anything that JSON can hold or from bytes."""
    raw = value if isinstance(value, bytes) else dumps(value).encode()
    return urlsafe_b64encode(raw).rstrip(b"=").decode()
