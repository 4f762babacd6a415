"""What the child process makes of its settings; the process itself is tested in tests/e2e/test_local_model.py."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
from attrs import evolve

from scm_trio.providers.local_server import ServerSettings, server_params, start_server

SETTINGS = ServerSettings("/models/tiny.gguf", "tiny", "key-of-this-start", context_tokens=1000, cores=3)


def fake_runtime(**server: object) -> SimpleNamespace:
    def params() -> SimpleNamespace:
        parts = {name: SimpleNamespace() for name in ("model", "cpuparams", "cpuparams_batch", "sampling")}
        return SimpleNamespace(**parts)

    return SimpleNamespace(CommonParams=params, **server)


def test_every_slot_has_the_whole_context() -> None:
    params = server_params(SETTINGS, fake_runtime())
    assert params.n_ctx / params.n_parallel == 1000
    assert params.n_parallel == 2


def test_answers_leave_a_core_to_the_gateway_where_there_is_more_than_one() -> None:
    params = server_params(SETTINGS, fake_runtime())
    assert (params.cpuparams.n_threads, params.cpuparams_batch.n_threads) == (2, 3)
    assert server_params(evolve(SETTINGS, cores=1), fake_runtime()).cpuparams.n_threads == 1


def test_only_a_tiny_model_is_kept_short_and_from_repeating_itself() -> None:
    tiny = server_params(evolve(SETTINGS, tiny=True), fake_runtime())
    assert tiny.n_predict == 512
    assert tiny.sampling.penalty_repeat > 1
    other = server_params(SETTINGS, fake_runtime())
    assert not hasattr(other, "n_predict")
    assert not vars(other.sampling)


def test_nobody_reads_along() -> None:
    params = server_params(SETTINGS, fake_runtime())
    assert params.api_keys == ["key-of-this-start"]
    assert not params.endpoint_slots
    assert not params.ui


def test_the_port_is_the_one_that_the_server_got(monkeypatch) -> None:
    listening = SimpleNamespace(listening_address="http://127.0.0.1:40123")
    monkeypatch.setitem(sys.modules, "xllamacpp", fake_runtime(Server=lambda params: listening))
    assert start_server(SETTINGS) == (listening, 40123)


def test_a_model_that_does_not_load_is_told_to_the_caller(monkeypatch) -> None:
    def refuse(params: object) -> None:
        raise RuntimeError(params.model.path)

    monkeypatch.setitem(sys.modules, "xllamacpp", fake_runtime(Server=refuse))
    with pytest.raises(RuntimeError, match=r"/models/tiny\.gguf"):
        start_server(SETTINGS)


def test_the_key_is_in_the_line_for_the_child_and_in_no_representation() -> None:
    assert ServerSettings(**json.loads(SETTINGS.to_line())) == SETTINGS
    assert "key-of-this-start" not in repr(SETTINGS)
