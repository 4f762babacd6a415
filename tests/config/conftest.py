from textwrap import dedent

import pytest

from scm_trio.config_loader import load
from scm_trio.errors import ConfigError


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Load a configuration from a YAML text; the file is called scm.yaml in messages."""
    monkeypatch.chdir(tmp_path)

    def reading(text=None, **environ):
        if text is None:
            return load(None, environ).config
        path = tmp_path.joinpath("scm.yaml")
        path.write_text(dedent(text), encoding="utf-8")
        return load(path.relative_to(tmp_path), environ).config

    return reading


@pytest.fixture
def problems(read):
    """The problems of a YAML text, one a line."""

    def reading(text=None, **environ):
        with pytest.raises(ConfigError) as caught:
            read(text, **environ)
        return str(caught.value).splitlines()

    return reading
