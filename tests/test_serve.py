"""What the server process checks before it opens its port. Signals and ports are for the end-to-end tests."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import trio
import trio.testing
import trustme
from attrs import frozen

from scm_trio import serve, testing
from scm_trio.config import Config, Server, Store, Tls
from scm_trio.errors import ConfigError
from scm_trio.house import Parts
from scm_trio.providers.scripted import Pause, Scripted, Stall
from scm_trio.store.database import inline
from scm_trio.testing import quiet_config, virtual_clock


def test_without_both_files_there_is_no_tls():
    assert serve._tls(Config()) is None
    assert serve._tls(Config(server=Server(tls=Tls(certificate="only.pem")))) is None


def test_a_certificate_and_its_key_make_a_tls_context(tmp_path):
    issued = trustme.CA().issue_cert("chat.example")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    issued.private_key_pem.write_to_path(key)
    issued.cert_chain_pems[0].write_to_path(certificate)
    context = serve._tls(Config(server=Server(tls=Tls(str(certificate), str(key)))))
    assert context is not None
    with pytest.raises(ConfigError, match=r"scm\.server\.tls"):
        serve._tls(Config(server=Server(tls=Tls(str(certificate), str(certificate)))))


def test_a_certificate_that_is_not_there_is_a_configuration_error(tmp_path):
    files = Tls(str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem"))
    with pytest.raises(ConfigError, match=r"scm\.server\.tls"):
        serve._tls(Config(server=Server(tls=files)))


async def test_an_address_that_cannot_be_bound_is_a_configuration_error():
    # An address of the documentation range belongs to no machine.
    with pytest.raises(ConfigError, match=r"scm\.server: cannot listen on 192\.0\.2\.1:0"):
        await serve._bind(Config(server=Server(host="192.0.2.1", port=0)))


def test_the_command_lines_host_is_judged_and_not_the_configured_one(tmp_path):
    config = Config(store=Store(f"sqlite:///{tmp_path / 'chat.db'}"))
    with pytest.raises(ConfigError, match=r"scm\.server\.host: 0\.0\.0\.0"):
        serve.run(config, host="0.0.0.0", port=0, announce=print)
    assert not (tmp_path / "chat.secret").exists()


# ---- the whole life, with a port of memory streams and signals of our own


class Port(trio.abc.Listener):
    """Accepts what tests dial."""

    def __init__(self):
        self._send, self._receive = trio.open_memory_channel(10)
        self.socket = SimpleNamespace(getsockname=lambda: ("127.0.0.1", 8088))
        self.closed = False

    async def accept(self):
        return await self._receive.receive()

    async def aclose(self):
        self.closed = True
        await trio.lowlevel.checkpoint()

    def dial(self):
        ours, theirs = trio.testing.memory_stream_pair()
        self._send.send_nowait(theirs)
        return ours


@frozen
class ByPort(testing.Server):
    """A test server whose peers come in by the port."""

    port: Port

    def dial(self, pair=None):
        return self.port.dial()


@pytest.fixture
def process(monkeypatch):
    """A process without an address: ``process.port`` and ``process.signal()``."""
    port, signals = Port(), trio.open_memory_channel(5)

    @contextmanager
    def receiver(*numbers):
        yield signals[1]

    async def bind(config):
        await trio.lowlevel.checkpoint()
        return [port]

    monkeypatch.setattr(trio, "open_signal_receiver", receiver)
    monkeypatch.setattr(serve, "_bind", bind)
    monkeypatch.setattr(serve, "_settle", lambda: None)
    return SimpleNamespace(port=port, signal=lambda: signals[0].send_nowait(15))


async def ready(nursery, process, provider, config=None):
    """Start serving; returns the house behind the port as a test server that dials the port."""
    opened = trio.Event()
    houses = []

    def on_ready(house, port):
        assert port == 8088
        houses.append(house)
        opened.set()

    async def run():
        parts = Parts(clock=virtual_clock(), offload=inline, providers={"openai": provider})
        await serve.serve(config or quiet_config(), on_ready=on_ready, parts=parts)
        process.stopped_at = trio.current_time()

    nursery.start_soon(run)
    await opened.wait()
    return ByPort(houses[0], nursery, process.port)


async def test_a_signal_lets_answers_finish_and_sends_everybody_away(process, autojump_clock):
    provider = Scripted(["a", Pause(7), "b"])
    async with trio.open_nursery() as nursery:
        server = await ready(nursery, process, provider)
        stream = process.port.dial()
        async with server.peer() as peer:
            await peer.send("CHAT_REQUEST", {"message": "Hi"}, request_id="r1")
            await peer.until("CHAT_STREAM_DATA")
            process.signal()
            messages = await peer.until("DISCONNECT")
            assert [m["type"] for m in messages] == ["CHAT_STREAM_DATA", "CHAT_STREAM_END", "DISCONNECT"]
            assert messages[1]["data"]["finishReason"] == "completed"
            assert messages[2]["data"]["code"] == "SHUTTING_DOWN"
            assert await peer.close_reason() == 1001
        assert process.port.closed
        assert await stream.receive_some() == b""
    assert process.stopped_at == pytest.approx(7, abs=0.5)


async def test_a_second_signal_ends_the_patience_and_answers_are_still_sealed(process, autojump_clock):
    provider = Scripted(["half", Stall()])
    async with trio.open_nursery() as nursery:
        server = await ready(nursery, process, provider)
        async with server.peer() as peer:
            await peer.send("CHAT_REQUEST", {"message": "Hi"}, request_id="r1")
            await peer.until("CHAT_STREAM_DATA")
            process.signal()
            await trio.sleep(3)
            process.signal()
            end = (await peer.until("CHAT_STREAM_END"))[-1]
            assert end["data"]["finishReason"] == "interrupted"
            assert await peer.close_reason() == 1001
    assert process.stopped_at == pytest.approx(3, abs=0.5)
    assert provider.open_streams == 0


async def test_the_grace_is_the_configured_one(process, autojump_clock):
    async with trio.open_nursery() as nursery:
        config = quiet_config(server=Server(shutdown_grace_s=4.0))
        server = await ready(nursery, process, Scripted(["half", Stall()]), config)
        async with server.peer() as peer:
            await peer.send("CHAT_REQUEST", {"message": "Hi"})
            await peer.until("CHAT_STREAM_DATA")
            process.signal()
            assert await peer.close_reason() == 1001
    assert process.stopped_at == pytest.approx(4, abs=0.5)
