"""Images as parts of a question: who is shown them, and how."""

from __future__ import annotations

import orjson
import pytest

from scm_trio import config
from scm_trio.config_loader import load_config
from scm_trio.errors import ConfigError
from scm_trio.model import Image, Prompt, Turn
from scm_trio.providers.anthropic import Messages
from scm_trio.providers.catalogue import build_providers, chain_providers
from scm_trio.providers.fallback import Chain, Link, Terms
from scm_trio.providers.openai import Dialect
from scm_trio.providers.spark_request import request_frame

from .asking import ask
from .vendors import VENDORS, SparkSocket, response

PIXEL = Image("image/png", b"\x89PNG\r\n\x1a\n")
DATA = "iVBORw0KGgo="
SEEN = Prompt("m", (Turn("user", "What is this?", (PIXEL,)),))


def test_an_image_does_not_show_in_print():
    assert repr(PIXEL) == "Image(media_type='image/png')"


@pytest.mark.parametrize(
    ("settings", "takes"),
    [
        ({"kind": "openai"}, True),
        ({"kind": "openai", "images": False}, False),
        ({"kind": "openai", "preset": "deepseek"}, False),
        ({"kind": "openai", "base_url": "https://api.deepseek.com/v1"}, False),
        ({"kind": "openai", "preset": "deepseek", "images": True}, True),
        *[
            ({"kind": "openai", "preset": preset}, True)
            for preset in ("qwen", "moonshot", "zhipu", "ollama", "vllm", "llamacpp")
        ],
        ({"kind": "azure", "base_url": "https://a.example"}, True),
        ({"kind": "azure", "base_url": "https://a.example", "images": False}, False),
        ({"kind": "anthropic"}, True),
        ({"kind": "anthropic", "images": False}, False),
        ({"kind": "spark", "api_key": "k"}, False),
        ({"kind": "spark", "transport": "websocket", "app_id": "a", "api_key": "k", "api_secret": "s"}, False),
        ({"kind": "local", "model_path": "/m.gguf"}, False),
        ({"kind": "scripted"}, False),
        ({"kind": "scripted", "images": True}, True),
    ],
)
def test_who_takes_images_is_known_by_kind_unless_told(settings, takes):
    ai = config.Ai(providers={"acme": config.Provider(**settings)})
    built = build_providers(ai, connect_timeout_s=1)
    assert built["acme"].takes_images is takes
    assert chain_providers(built, ai, Terms())["acme"].takes_images is takes


@pytest.mark.parametrize("kind", ["spark", "local"])
def test_who_never_takes_any_cannot_be_told_to(tmp_path, kind):
    file = tmp_path / "scm.yml"
    file.write_text(f"scm: {{ai: {{providers: {{acme: {{kind: {kind}, images: true}}}}}}}}")
    with pytest.raises(ConfigError, match=r"acme\.images.*unknown to the kind " + kind):
        load_config(file, {})


HTTP = [name for name, vendor in VENDORS.items() if not isinstance(vendor, SparkSocket)]


@pytest.mark.parametrize("images", [None, False])
@pytest.mark.parametrize("name", HTTP)
async def test_who_takes_none_is_asked_without_them(memory_net, name, images):
    vendor = VENDORS[name]
    asked = []

    async def handler(peer):
        asked.append(orjson.loads((await peer.request()).partition(b"\r\n\r\n")[2]))
        await peer.send(response(400, b"{}"))

    settable = vendor.settings["kind"] != "spark"
    provider = vendor.provider(memory_net.dialer(handler), **({"images": images} if settable else {}))
    _, failure = await ask(Chain([Link(provider)]), SEEN)
    assert failure.code == "PROVIDER_REJECTED"
    content = asked[0]["messages"][0]["content"]
    if settable and images is not False:
        assert DATA in orjson.dumps(content).decode()
    else:
        assert content == "[You cannot see the attached images.]\n\nWhat is this?"


def test_the_websocket_form_has_no_place_for_them():
    frame = orjson.loads(request_frame("app", "4.0Ultra", SEEN))
    assert frame["payload"]["message"]["text"] == [{"role": "user", "content": "What is this?"}]


def test_without_images_a_turn_is_plain_text():
    """Models without eyes refuse lists, even of texts."""
    turns = (Turn("user", "a", (PIXEL,)), Turn("assistant", "b"), Turn("user", "c"))
    for dialect in (Dialect(), Messages()):
        contents = [each["content"] for each in orjson.loads(dialect.body(Prompt("m", turns)))["messages"]]
        assert isinstance(contents[0], list)
        assert contents[1:] == ["b", "c"]


@pytest.mark.parametrize("dialect", [Dialect(), Messages()], ids=["openai", "anthropic"])
def test_an_image_without_words_has_no_empty_text_beside_it(dialect):
    (said,) = orjson.loads(dialect.body(Prompt("m", (Turn("user", " ", (PIXEL,)),))))["messages"]
    assert [part["type"] for part in said["content"]] in (["image_url"], ["image"])


def test_turns_that_are_joined_for_anthropic_keep_all_images_and_words():
    turns = (Turn("user", "", (PIXEL,)), Turn("user", "a"), Turn("user", "b", (PIXEL,)), Turn("assistant", "c"))
    said = orjson.loads(Messages().body(Prompt("m", turns)))["messages"]
    assert [part.get("text", part["type"]) for part in said[0]["content"]] == ["image", "image", "a\n\nb"]
    assert said[1:] == [{"role": "assistant", "content": "c"}]
