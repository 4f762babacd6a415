"""The chat page: how it is served, and what its files may not contain."""

import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest

ASSETS = {file.name: file.read_text("utf-8") for file in files("scm_trio.web.page").joinpath("assets").iterdir()}
SCRIPTS = {name: text for name, text in ASSETS.items() if name.endswith(".js")}


class Markup(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))


MARKUP = Markup(ASSETS["index.html"])


async def test_the_page_is_served_with_a_strict_policy(site) -> None:
    answer = await site.ask("GET", "/")

    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.body.decode() == ASSETS["index.html"]
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("name", sorted(ASSETS))
async def test_every_file_of_the_page_is_served_as_what_it_is(site, name) -> None:
    answer = await site.ask("GET", f"/assets/{name}")

    types = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "html": "text/html"}
    assert answer.status == 200
    assert answer.headers["content-type"].split(";")[0] == types[name.rpartition(".")[2]]
    assert answer.body.decode() == ASSETS[name]


async def test_an_unchanged_file_is_not_sent_again(site) -> None:
    first = await site.ask("GET", "/assets/main.js")
    assert first.headers["cache-control"] == "no-cache"

    again = await site.ask("GET", "/assets/main.js", headers={"If-None-Match": f'"x", {first.headers["etag"]}'})
    assert (again.status, again.body) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fapp.py", "%2e%2e"])
async def test_other_files_do_not_exist(site, name) -> None:
    assert (await site.ask("GET", f"/assets/{name}")).status == 404


def test_the_page_has_nothing_that_its_policy_forbids() -> None:
    for tag, attributes in MARKUP.tags:
        assert tag != "style"
        assert tag != "script" or attributes.get("src")
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]


def test_everything_the_page_refers_to_is_there() -> None:
    for tag, attributes in MARKUP.tags:
        for address in (attributes.get("src"), attributes.get("href") if tag == "link" else None):
            assert address is None or address.removeprefix("assets/") in ASSETS
    for text in SCRIPTS.values():
        for module in re.findall(r'from "\./(.+?)"', text):
            assert module in SCRIPTS
        for element in re.findall(r'(?:\$|getElementById)\("(.+?)"\)', text):
            assert element in {attributes.get("id") for _, attributes in MARKUP.tags}


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_texts_enter_the_page_as_text_only(name) -> None:
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|createContextualFragment"

    assert not re.search(forbidden, SCRIPTS[name])


def test_every_label_exists_in_both_languages() -> None:
    chinese, english = (
        dict(re.findall(r'^    (\w+): "(.+)",$', part, re.MULTILINE)) for part in ASSETS["texts.js"].split("  en: {", 1)
    )
    assert set(chinese) == set(english)
    for key, text in chinese.items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", english[key])), key

    named = {
        attributes[name]
        for _, attributes in MARKUP.tags
        for name in ("data-text", "data-label", "data-placeholder")
        if name in attributes
    }
    for text in SCRIPTS.values():
        named |= set(re.findall(r'\bt\("(\w+)"', text))
    assert named <= set(chinese)


def test_finish_reasons_of_the_wire_have_their_words() -> None:
    for reason in ("cancelled", "content_filter", "error", "interrupted", "length", "timeout", "too_large"):
        assert re.search(rf'^    {reason}: "', ASSETS["texts.js"], re.MULTILINE), reason
