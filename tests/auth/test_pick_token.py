import pytest

from scm_trio.auth import PickedToken, pick_token
from scm_trio.errors import Unauthorized

JWT = "aaa.bbb.ccc"
OTHER = "ddd.eee.fff"


def pick(authorization=None, offers=(), query=None, *, query_allowed=True):
    headers = {} if authorization is None else {"authorization": [authorization]}
    return pick_token(headers, offers, query or {}, query_allowed=query_allowed)


@pytest.mark.parametrize(
    ("authorization", "offers", "query", "token", "subprotocol"),
    [
        (f"Bearer {JWT}", [], {}, JWT, None),
        (f"bearer   {JWT} ", [], {}, JWT, None),
        (None, ["Bearer", JWT], {}, JWT, "Bearer"),
        (None, ["chat", "Bearer", JWT], {}, JWT, "Bearer"),
        (None, [JWT], {}, JWT, JWT),
        (None, [], {"token": JWT}, JWT, None),
        # the header wins, and the offer is answered all the same
        (f"Bearer {JWT}", ["Bearer", OTHER], {"token": OTHER}, JWT, "Bearer"),
        (f"Bearer {JWT}", [OTHER], {}, JWT, OTHER),
        (f"Bearer {JWT}", ["Bearer"], {}, JWT, "Bearer"),
        (f"Bearer {JWT}", ["chat.v1"], {}, JWT, "chat.v1"),
        (f"Bearer {JWT}", ["a", "b"], {}, JWT, None),
        # subprotocols win over the query
        (None, ["Bearer", JWT], {"token": OTHER}, JWT, "Bearer"),
        (None, [JWT], {"token": OTHER}, JWT, JWT),
        # what is no token does not hide the query's
        (None, ["chat"], {"token": JWT}, JWT, "chat"),
        (None, ["Bearer"], {"token": JWT}, JWT, "Bearer"),
        ("Basic dXNlcjpwdw==", [], {"token": JWT}, JWT, None),
        ("Bearer", [], {"token": JWT}, JWT, None),
        # an offer that could not stand in a header is never echoed
        (f"Bearer {JWT}", ["no token\r\n"], {}, JWT, None),
        (f"Bearer {JWT}", ["日本"], {}, JWT, None),
    ],
)
def test_the_token_is_found_and_the_offer_answered(authorization, offers, query, token, subprotocol):
    assert pick(authorization, offers, query) == PickedToken(token, subprotocol)


@pytest.mark.parametrize(
    ("authorization", "offers", "query"),
    [
        (None, [], {}),
        (None, [], {"token": ""}),
        ("Basic dXNlcjpwdw==", [], {}),
        (None, ["bearer", JWT], {}),
        (None, ["chat"], {}),
        (None, ["Bearer"], {}),
    ],
)
def test_no_token_anywhere_is_unauthorized(authorization, offers, query):
    with pytest.raises(Unauthorized):
        pick(authorization, offers, query)


def test_a_token_in_the_query_counts_only_where_it_is_allowed():
    with pytest.raises(Unauthorized):
        pick(query={"token": JWT}, query_allowed=False)


def test_of_several_authorization_headers_the_first_bearer_counts():
    headers = {"authorization": ["Basic eA==", f"Bearer {JWT}", f"Bearer {OTHER}"]}
    assert pick_token(headers, (), {}, query_allowed=True).token == JWT


def test_a_picked_token_does_not_show_in_its_repr():
    assert JWT not in repr(pick(None, [JWT]))
