"""Providers from the variables that the vendors' own tools use, for a file without any."""

from __future__ import annotations

from collections.abc import Mapping

from scm_trio.config_loader.sources import Node

_VENDORS = {
    "openai": {"OPENAI_API_KEY": "api-key", "OPENAI_BASE_URL": "base-url", "OPENAI_MODEL": "models"},
    "anthropic": {"ANTHROPIC_API_KEY": "api-key"},
    "azure": {"AZURE_OPENAI_API_KEY": "api-key", "AZURE_OPENAI_ENDPOINT": "base-url"},
    "spark": {"SPARK_API_KEY": "api-key"},
}
_NEEDED = {
    "openai": {"OPENAI_API_KEY"},
    "anthropic": {"ANTHROPIC_API_KEY"},
    "azure": {"AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT"},
    "spark": {"SPARK_API_KEY"},
}


def vendor_providers(environ: Mapping[str, str]) -> dict[str, Node]:
    """One provider for every vendor whose variables are there, under the name of its kind."""
    found = {}
    for kind, keys in _VENDORS.items():
        if not all(environ.get(name) for name in _NEEDED[kind]):
            continue
        first = next(iter(keys))
        entries = {"kind": Node(kind, first)}
        entries |= {key: Node(environ[name], name, is_text=True) for name, key in keys.items() if environ.get(name)}
        found[kind] = Node(entries, first)
    return found


def local_provider() -> Node:
    """What is left without any vendor: the model on this machine."""
    return Node({"kind": Node("local", "default")}, "default")
