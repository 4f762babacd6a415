import hmac
from hashlib import sha256

import jwt
import pytest
import trustme
from attrs import evolve
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from signing import NOW, SECRET, private, private_pem, public_pem, segment, signed, token

from scm_trio.auth import authenticator
from scm_trio.config import Auth
from scm_trio.errors import ConfigError, TokenExpired, Unauthorized
from scm_trio.model import Principal

HS256 = Auth(secret=SECRET)


def built(settings=HS256, now=NOW, **changes):
    return authenticator(evolve(settings, **changes), fetch=None, now=lambda: now)


async def test_a_good_token_is_its_user():
    assert await built().verify(token(roles=["admin"])) == Principal("alice", frozenset({"admin"}), NOW + 60)


async def test_another_claim_may_name_the_user():
    assert (await built(user_claim="uid").verify(token(uid="bob"))).user_id == "bob"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_a_public_key_verifies_what_its_private_key_signed(algorithm):
    pem = public_pem(private(algorithm))
    auth = built(Auth(algorithm=algorithm, public_key=pem))
    assert (await auth.verify(signed(algorithm))).user_id == "alice"
    with pytest.raises(Unauthorized):
        await auth.verify(signed(algorithm, which=1))


async def test_a_public_key_may_be_a_file_or_a_variable_with_escaped_line_breaks(tmp_path):
    pem = public_pem(private("ES256"))
    (tmp_path / "key.pem").write_text(pem)
    for given_as in (str(tmp_path / "key.pem"), pem.replace("\n", "\\n")):
        auth = built(Auth(algorithm="ES256", public_key=given_as))
        assert (await auth.verify(signed("ES256"))).user_id == "alice"


async def test_a_certificate_verifies_by_its_key():
    issued = trustme.CA().issue_cert("localhost")
    pem = issued.cert_chain_pems[0].bytes().decode()
    auth = built(Auth(algorithm="ES256", public_key=pem))
    key = issued.private_key_pem.bytes()
    assert (await auth.verify(token(key, "ES256"))).user_id == "alice"


# ---- signatures


async def test_a_token_of_another_secret_is_refused():
    with pytest.raises(Unauthorized):
        await built().verify(token("another secret of thirty-two bytes!!"))


async def test_a_token_that_is_signed_with_the_public_key_as_a_secret_is_refused():
    pem = public_pem(private("RS256"))
    signing_input = f"{segment({'alg': 'HS256'})}.{segment({'sub': 'alice', 'exp': int(NOW) + 60})}"
    forged = f"{signing_input}.{segment(hmac.digest(pem.encode(), signing_input.encode(), sha256))}"
    with pytest.raises(Unauthorized):
        await built(Auth(algorithm="RS256", public_key=pem)).verify(forged)


@pytest.mark.parametrize("algorithm", ["none", "None", "HS384", "RS256", "", None, ["HS256"], {}])
async def test_the_token_never_chooses_the_algorithm(algorithm):
    header, claims = segment({"alg": algorithm}), segment({"sub": "alice", "exp": int(NOW) + 60})
    good = token().rsplit(".", 1)[1]
    for signature in ("", good):
        with pytest.raises(Unauthorized):
            await built().verify(f"{header}.{claims}.{signature}")


async def test_an_ed25519_token_is_none_for_an_elliptic_curve_key():
    auth = built(Auth(algorithm="ES256", public_key=public_pem(private("ES256"))))
    with pytest.raises(Unauthorized):
        await auth.verify(signed("EdDSA"))


# ---- times


@pytest.mark.parametrize(
    ("late", "raises"), [(-0.5, None), (0, None), (9.5, None), (10, TokenExpired), (60, TokenExpired)]
)
async def test_a_token_lives_until_exp_and_the_leeway(late, raises):
    auth = built(now=NOW + 60 + late)
    if raises:
        with pytest.raises(raises):
            await auth.verify(token())
    else:
        assert (await auth.verify(token())).expires_at == NOW + 60


@pytest.mark.parametrize(("early", "refused"), [(0, False), (10, False), (10.5, True)])
async def test_a_token_lives_from_nbf_less_the_leeway(early, refused):
    auth, given = built(), token(nbf=NOW + early)
    if refused:
        with pytest.raises(Unauthorized):
            await auth.verify(given)
    else:
        assert (await auth.verify(given)).user_id == "alice"


@pytest.mark.parametrize("claim", ["exp", "nbf"])
@pytest.mark.parametrize("value", [True, "1700000060", [], {}, 10**400, -(10**400), float("inf"), float("nan"), 1e300])
async def test_a_time_that_is_none_is_refused(claim, value):
    with pytest.raises(Unauthorized):
        await built().verify(_signed_raw({"sub": "alice", "exp": int(NOW) + 60, claim: value}))


async def test_a_token_without_exp_is_refused():
    with pytest.raises(Unauthorized):
        await built().verify(token(exp=None))


async def test_a_forged_token_is_not_told_that_it_expired():
    with pytest.raises(Unauthorized):
        await built().verify(token("another secret of thirty-two bytes!!", exp=1))


# ---- issuer, audience


@pytest.mark.parametrize(
    ("settings", "claims", "accepted"),
    [
        ({"issuer": "me"}, {"iss": "me"}, True),
        ({"issuer": "me"}, {"iss": "you"}, False),
        ({"issuer": "me"}, {"iss": ["me"]}, False),
        ({"issuer": "me"}, {}, False),
        ({"issuer": None}, {"iss": "you"}, True),
        ({"audience": "chat"}, {"aud": "chat"}, True),
        ({"audience": "chat"}, {"aud": ["web", "chat"]}, True),
        ({"audience": "chat"}, {"aud": ["web"]}, False),
        ({"audience": "chat"}, {"aud": {"chat": 1}}, False),
        ({"audience": "chat"}, {}, False),
        ({"audience": None}, {"aud": "web"}, True),
    ],
)
async def test_issuer_and_audience_count_when_configured(settings, claims, accepted):
    auth = built(**settings)
    given = _signed_raw({"sub": "alice", "exp": int(NOW) + 60, **claims})
    if accepted:
        assert (await auth.verify(given)).user_id == "alice"
    else:
        with pytest.raises(Unauthorized):
            await auth.verify(given)


# ---- users, roles


@pytest.mark.parametrize(
    "user", [None, "", 7, ["alice"], {}, True, "a" * 129, "a\nb", "a\x00", "\x7f", "\ud800", "a\u2028b"]
)
async def test_a_user_that_the_wire_could_not_carry_is_refused(user):
    with pytest.raises(Unauthorized):
        await built().verify(_signed_raw({"sub": user, "exp": int(NOW) + 60}))


@pytest.mark.parametrize("user", ["a" * 128, "用户 一", "alice@example.com"])
async def test_a_user_that_the_wire_can_carry_is_taken_as_it_is(user):
    assert (await built().verify(token(sub=user))).user_id == user


@pytest.mark.parametrize(
    ("roles", "read"),
    [
        (["admin", "editor"], {"admin", "editor"}),
        ("admin editor", {"admin", "editor"}),
        ("admin, editor", {"admin", "editor"}),
        ("", set()),
        (None, set()),
        (["admin", 1, None, ["x"], ""], {"admin"}),
        ({"admin": True}, set()),
        (True, set()),
        (1, set()),
    ],
)
async def test_roles_are_read_from_lists_and_texts_and_nothing_else_gives_a_right(roles, read):
    assert (await built().verify(token(roles=roles))).roles == read


# ---- shapes


@pytest.mark.parametrize(
    "given",
    ["", ".", "..", "a.b.c", "a" * 20_000, "日本.語.x", "\ud800.a.b", f"{segment([])}.{segment({})}.x", token() + "x"],
)
async def test_what_is_no_token_is_refused(given):
    with pytest.raises(Unauthorized):
        await built().verify(given)


async def test_a_token_above_16_kib_is_refused_though_it_is_signed():
    with pytest.raises(Unauthorized):
        await built().verify(token(padding="x" * 16 * 1024))


@pytest.mark.parametrize(
    "header",
    [{"kid": 7}, {"crit": ["exp"]}, {"crit": []}, {"b64": False}, {"b64": False, "crit": ["b64"]}],
)
async def test_a_header_that_asks_for_more_than_a_signature_is_refused(header):
    signing_input = f"{segment({'alg': 'HS256', **header})}.{segment({'sub': 'alice', 'exp': int(NOW) + 60})}"
    signature = segment(hmac.digest(SECRET.encode(), signing_input.encode(), sha256))
    with pytest.raises(Unauthorized):
        await built().verify(f"{signing_input}.{signature}")


@pytest.mark.parametrize("payload", [b"[]", b"{", b"\xff", b"[" * 9000, b'"text"', b"null"])
async def test_a_signed_payload_that_is_no_object_is_refused(payload):
    with pytest.raises(Unauthorized):
        await built().verify(_signed_raw(payload))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(["sub", "exp", "nbf", "iss", "aud", "roles", "iat", "jti"]) | st.text(max_size=5)


@given(st.text() | st.text(alphabet="abcXYZ019-_.=", max_size=200))
async def test_random_text_is_only_ever_unauthorized(text):
    with pytest.raises(Unauthorized):
        await built().verify(text)


@given(st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "b64"]), json_values), json_values, st.binary())
async def test_random_parts_are_only_ever_unauthorized(header, claims, signature):
    with pytest.raises(Unauthorized):
        await built().verify(".".join(map(segment, (header, claims, signature))))


@given(st.dictionaries(names, json_values))
async def test_random_signed_claims_are_a_principal_or_refused(claims):
    try:
        principal = await built(issuer="me", audience="chat").verify(_signed_raw({"exp": NOW, **claims}))
    except (Unauthorized, TokenExpired):
        return
    assert principal.user_id == claims["sub"]


async def test_no_exception_carries_the_token_or_its_claims():
    for bad in (token(sub="mallory\n"), token(exp=1, sub="mallory"), token(iss="mallory"), "mallory.x.y"):
        with pytest.raises((Unauthorized, TokenExpired)) as caught:
            await built(issuer="me").verify(bad)
        assert "mallory" not in repr(caught.value)
        assert bad not in repr(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


# ---- issuing


async def test_an_issued_token_is_accepted_for_as_long_as_it_was_made_for():
    auth = built(issuer="me", audience="chat", user_claim="uid")
    assert auth.can_issue
    issued = auth.issue("用户", ttl_s=90.2, roles=["editor", "admin"])
    assert await auth.verify(issued) == Principal("用户", frozenset({"admin", "editor"}), NOW + 91)
    claims = jwt.decode(issued, options={"verify_signature": False})
    assert claims == {
        "uid": "用户",
        "iat": NOW,
        "exp": NOW + 91,
        "iss": "me",
        "aud": "chat",
        "roles": ["admin", "editor"],
    }


def test_a_token_without_roles_issuer_or_audience_says_nothing_of_them():
    claims = jwt.decode(built().issue("alice", ttl_s=60), options={"verify_signature": False})
    assert set(claims) == {"sub", "iat", "exp"}


def test_no_token_is_issued_for_an_impossible_user():
    with pytest.raises(Unauthorized):
        built().issue("a\nb", ttl_s=60)


def test_only_a_secret_can_issue():
    auth = built(Auth(algorithm="EdDSA", public_key=public_pem(private("EdDSA"))))
    assert not auth.can_issue
    with pytest.raises(ConfigError, match=r"scm\.auth\.algorithm: EdDSA only verifies"):
        auth.issue("alice", ttl_s=60)


def test_the_secret_does_not_show_in_the_repr():
    assert SECRET not in repr(built())


# ---- configuration


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Auth(), r"scm\.auth\.secret: HS256 needs at least 32 bytes, got 0"),
        (Auth(secret="x" * 31), r"scm\.auth\.secret: HS256 needs at least 32 bytes, got 31"),
        (Auth(secret=public_pem(private("ES256"))), r"scm\.auth\.secret: expected a secret, got an asymmetric key"),
        (Auth(secret=SECRET, public_key="x"), r"HS256 knows no public-key"),
        (Auth(secret=SECRET, jwks_url="https://x"), r"HS256 knows no public-key"),
        (Auth(algorithm="RS256"), r"RS256 needs either public-key or jwks-url"),
        (Auth(algorithm="RS256", public_key="x", jwks_url="https://x"), r"RS256 needs either public-key or jwks-url"),
        (Auth(algorithm="RS256", public_key="/no/such/file"), r"cannot be read: FileNotFoundError"),
        (Auth(algorithm="RS256", public_key="-----BEGIN nothing"), r"expected a public key or a certificate"),
        (Auth(algorithm="RS256", public_key=public_pem(private("ES256"))), r"the key is not for RS256"),
        (Auth(algorithm="ES256", public_key=public_pem(private("EdDSA"))), r"the key is not for ES256"),
        (Auth(algorithm="EdDSA", public_key=public_pem(private("RS256"))), r"the key is not for EdDSA"),
        (Auth(algorithm="EdDSA", public_key=private_pem(private("EdDSA"))), r"expected a public key"),
        (Auth(algorithm="RS256", jwks_url="http://example.com/keys"), r"expected https, or http on loopback"),
        (Auth(algorithm="RS256", jwks_url="https://example.com/keys"), r"nothing here can fetch it"),
    ],
)
def test_a_key_that_cannot_work_stops_the_start(settings, message):
    with pytest.raises(ConfigError, match=message):
        built(settings)


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [("RS256", rsa.generate_private_key(65537, 1024)), ("ES256", ec.generate_private_key(ec.SECP384R1()))],
)
def test_a_weak_key_or_one_of_another_curve_stops_the_start(algorithm, key):
    with pytest.raises(ConfigError, match="or too weak"):
        built(Auth(algorithm=algorithm, public_key=public_pem(key)))


def _signed_raw(claims):
    signing_input = f"{segment({'alg': 'HS256'})}.{segment(claims)}"
    return f"{signing_input}.{segment(hmac.digest(SECRET.encode(), signing_input.encode(), sha256))}"
