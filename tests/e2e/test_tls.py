"""wss and https with a certificate of the server's own."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

import httpx
import pytest
import trustme
from websockets.exceptions import ConnectionClosedError

from tests.e2e.client import chatting
from tests.e2e.process import ServerProcess, running_server
from tests.e2e.upstream import ANSWER, FakeUpstream


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def secure(
    authority: trustme.CA, upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "certificate.pem")
    tls = {"certificate": str(folder / "certificate.pem"), "key": str(folder / "key.pem")}
    with running_server(folder, upstream.url, server={"tls": tls}) as running:
        yield running


@pytest.fixture
def context(authority: trustme.CA) -> ssl.SSLContext:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return trusting


def test_an_answer_is_streamed_over_wss(secure: ServerProcess, context: ssl.SSLContext) -> None:
    with chatting(secure, ssl=context) as client:
        assert client.answer("in private")[0] == ANSWER


def test_a_cancel_over_wss_closes_the_provider(
    secure: ServerProcess, upstream: FakeUpstream, context: ssl.SSLContext
) -> None:
    with chatting(secure, ssl=context) as client:
        client.ask("hold private", "tls-1")
        client.until("CHAT_STREAM_DATA")
        client.send("CHAT_CANCEL", {"requestId": "tls-1"})
        assert client.until("CHAT_STREAM_END")[-1]["data"]["upstreamClosed"] is True
        assert upstream.asked("hold private").left.wait(20)


def test_a_long_answer_over_wss_is_whole(secure: ServerProcess, context: ssl.SSLContext) -> None:
    with chatting(secure, ssl=context) as client:
        text, end = client.answer("long private")
        assert len(text) == end["data"]["length"] == 900_000


def test_https_is_served_on_the_same_port(secure: ServerProcess, context: ssl.SSLContext) -> None:
    answer = httpx.get(secure.base_url + "/healthz", verify=context, trust_env=False, timeout=30)
    assert answer.json() == {"status": "ok"}


def test_a_stranger_who_speaks_no_tls_does_not_disturb(secure: ServerProcess, context: ssl.SSLContext) -> None:
    with socket.create_connection(("127.0.0.1", secure.port), timeout=30) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP/1.1 200" not in plain.recv(1000)
    with chatting(secure, ssl=context) as client:
        assert client.answer("undisturbed")[0] == ANSWER


def test_who_does_not_trust_the_certificate_does_not_connect(secure: ServerProcess) -> None:
    with pytest.raises(ssl.SSLCertVerificationError), chatting(secure, ssl=ssl.create_default_context()):
        pass
    assert secure.is_running()


def test_text_that_is_not_utf8_is_closed_with_1007_over_wss_too(secure: ServerProcess, context: ssl.SSLContext) -> None:
    with chatting(secure, ssl=context) as client:
        client.websocket.send(b"\xff\xfe", text=True)
        with pytest.raises(ConnectionClosedError) as closed:
            client.receive()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1007
