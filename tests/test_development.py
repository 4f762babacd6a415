import stat

import attrs
import pytest

from scm_trio import development
from scm_trio.config import Auth, Config, Server, Store
from scm_trio.errors import ConfigError


def config_in(folder, **auth):
    return Config(auth=Auth(**auth), store=Store(f"sqlite:///{folder / 'chat.db'}"))


@pytest.mark.parametrize(
    ("auth", "development_"),
    [({}, True), ({"secret": "x"}, False), ({"public_key": "x"}, False), ({"jwks_url": "https://x"}, False)],
)
def test_development_is_where_nothing_verifies_tokens(auth, development_):
    assert development.is_development(Config(auth=Auth(**auth))) is development_


def test_the_secret_is_made_once_for_its_owner_alone_and_kept_beside_the_database(tmp_path):
    first = development.with_secret(config_in(tmp_path))
    path = tmp_path / "chat.secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().strip() == first.auth.secret
    assert len(first.auth.secret) >= 32
    assert (first.auth.algorithm, first.auth.refresh) == ("HS256", True)
    assert development.with_secret(config_in(tmp_path)).auth.secret == first.auth.secret


def test_two_databases_have_two_secrets(tmp_path):
    (tmp_path / "other").mkdir()
    one = development.with_secret(config_in(tmp_path))
    two = development.with_secret(config_in(tmp_path / "other"))
    assert one.auth.secret != two.auth.secret


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "postgresql://db/chat"])
def test_without_a_database_file_the_secret_lies_in_the_working_directory(url):
    assert str(development.secret_path(Config(store=Store(url)))) == "scm-trio.secret"


def test_a_databases_options_are_no_part_of_the_path():
    path = development.secret_path(Config(store=Store("sqlite:////var/lib/chat.db?timeout=5")))
    assert str(path) == "/var/lib/chat.secret"


def test_a_secret_that_cannot_be_kept_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigError, match=r"scm\.auth\.secret: not set, and .*cannot be used"):
        development.with_secret(config_in(tmp_path / "missing"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_a_development_server_may_listen_on_this_machine(host):
    development.check_is_local(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "chat.example", ""])
def test_a_development_server_may_not_be_reachable_from_outside(host):
    with pytest.raises(ConfigError, match=r"scm\.server\.host"):
        development.check_is_local(host)


def test_a_configured_secret_stays_as_it_is():
    config = Config(auth=Auth(secret="x" * 40), server=Server(host="0.0.0.0"))
    assert development.completed(config) is config


def test_without_one_a_development_secret_is_made_for_this_machine_only(tmp_path):
    config = Config(store=Store(f"sqlite:///{tmp_path / 'chat.db'}"))
    assert development.completed(config).auth.secret
    with pytest.raises(ConfigError, match=r"scm\.server\.host: 0\.0\.0\.0"):
        development.completed(attrs.evolve(config, server=Server(host="0.0.0.0")))
