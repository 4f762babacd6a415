from __future__ import annotations

import json
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qs, urlsplit

import pytest

from scm_trio.errors import ConfigError
from scm_trio.providers.connections import Origin
from scm_trio.providers.spark_signing import Credentials, Endpoint

from .expected import SAMPLES

VECTORS = json.loads((SAMPLES / "spark_signing.json").read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["url"])
def test_signed_urls_are_exactly_the_documented_ones(vector):
    credentials = Credentials("app", vector["api_key"], vector["api_secret"])
    now_s = parsedate_to_datetime(vector["date"]).timestamp()
    target = Endpoint.parse(vector["url"]).signed_target(credentials, now_s)
    assert f"wss://{urlsplit(vector['url']).hostname}{target}" == vector["signed_url"]
    assert parse_qs(urlsplit(target).query)["authorization"] == [vector["authorization"]]


def test_the_date_is_that_of_the_handshake():
    credentials = Credentials("app", "k", "s")
    endpoint = Endpoint.parse("wss://spark.example/v1/x1")
    dates = [parse_qs(endpoint.signed_target(credentials, now_s))["date"] for now_s in (0.0, 86_400.9)]
    assert dates == [["Thu, 01 Jan 1970 00:00:00 GMT"], ["Fri, 02 Jan 1970 00:00:00 GMT"]]


@pytest.mark.parametrize(
    ("url", "origin", "host", "path"),
    [
        ("wss://spark.example/v1/x1", Origin("spark.example", 443, tls=True), "spark.example", "/v1/x1"),
        ("wss://spark.example:443/a", Origin("spark.example", 443, tls=True), "spark.example", "/a"),
        ("ws://spark.example:8080", Origin("spark.example", 8080, tls=False), "spark.example:8080", "/"),
        ("ws://spark.example", Origin("spark.example", 80, tls=False), "spark.example", "/"),
        ("WS://[::1]:9/a%20b 星", Origin("::1", 9, tls=False), "[::1]:9", "/a%20b%20%E6%98%9F"),
        ("wss://bücher.example/a", Origin("xn--bcher-kva.example", 443, tls=True), "xn--bcher-kva.example", "/a"),
    ],
)
def test_an_address_is_read_as_the_handshake_needs_it(url, origin, host, path):
    assert Endpoint.parse(url) == Endpoint(origin, host, path)


@pytest.mark.parametrize(
    "url",
    [
        "https://spark.example/v1",
        "spark.example",
        "wss://",
        "wss://spark.example:port/",
        "wss://[::1/",
        f"wss://{'a' * 70}.example/",
        "wss://spark.example/v1?app=1",
    ],
)
def test_other_addresses_are_refused(url):
    with pytest.raises(ConfigError, match="base-url must be a ws:// or wss:// URL"):
        Endpoint.parse(url)


def test_credentials_do_not_show():
    assert repr(Credentials("app", "the-key", "the-secret")) == "Credentials(app_id='app')"
