"""A conversation as Markdown, JSON and HTML."""

import json
import re
from base64 import b64encode
from hashlib import sha256
from html import escape
from html.parser import HTMLParser

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from markdown_it import MarkdownIt

from scm_trio.model import File, Message, Session, Usage
from scm_trio.protocol import messages, records
from scm_trio.protocol.schema import model_schemas
from scm_trio.web.export import html as html_export
from scm_trio.web.export.as_json import Json
from scm_trio.web.export.html import Html
from scm_trio.web.export.markdown import Markdown
from scm_trio.web.export.renderer import Occasion

from .evil import EVIL

SESSION = Session("g1", "s1", "ann", "采购计划", "gpt-4", "openai", "Be brief", created_at=1.0, updated_at=2.0)
FILE = File("f1", "ann", "数据.csv", "text/csv", 20_480)
TALK = [
    Message(
        "m1", "g1", "s1", None, "user", "ann", "# Why?\n\nPlease", created_at=1_767_323_045.678, attachments=(FILE,)
    ),
    Message(
        "m2",
        "g1",
        "s1",
        "m1",
        "assistant",
        "ann",
        "**Because** of `x`",
        reasoning="hm\nwell",
        model="gpt-4",
        provider="openai",
        finish_reason="completed",
        usage=Usage(1, 2),
        created_at=1_767_323_050.0,
    ),
    Message("m3", "g1", "s1", "m2", "user", "ann", "Thanks", created_at=1_767_323_060.0),
]
TREE = [*TALK, Message("m4", "g1", "s1", "m1", "assistant", "ann", "Otherwise", created_at=1_767_323_070.0)]


def rendered(form, talk=TALK, *, session=SESSION, lang="zh", pages=2):
    """The whole file; its messages come in pages."""
    renderer = form(Occasion(records.session(session), "2026-01-03T00:00:00.000Z", lang))
    told = [records.message(each, session.session_id) for each in talk]
    text = renderer.head()
    for start in range(0, len(told), pages):
        text += renderer.page(told[start : start + pages])
    return text + renderer.tail()


# ---- Markdown


def test_markdown_has_every_text_as_it_was_written():
    assert rendered(Markdown) == (
        "# 采购计划\n\ns1 · 导出于 2026-01-03 00:00:00 UTC\n\n> **系统提示词**\n>\n> Be brief\n"
        "\n## 1. 用户 · ann · 2026-01-02 03:04:05 UTC\n\n# Why?\n\nPlease\n\n"
        "附件:\n\n- 数据.csv (text/csv, 20.0 KiB)\n"
        "\n## 2. 助手 · gpt-4 · 2026-01-02 03:04:10 UTC\n\n> **思考过程**\n>\n> hm\n> well\n\n**Because** of `x`\n"
        "\n## 3. 用户 · ann · 2026-01-02 03:04:20 UTC\n\nThanks\n"
    )


def test_markdown_speaks_english_too():
    text = rendered(Markdown, lang="en")
    for label in (
        "Exported 2026",
        "**System prompt**",
        "## 1. User · ann",
        "Attachments:",
        "**Reasoning**",
        "Assistant",
    ):
        assert label in text
    assert not re.search("[\u4e00-\u9fff]", text.replace("采购计划", "").replace("数据", ""))


def test_a_branch_says_what_it_follows():
    assert "## 4. 助手 · 2026-01-02 03:04:30 UTC · 接第 1 条\n" in rendered(Markdown, TREE)
    assert rendered(Markdown, TREE).count("接第") == 1


def test_names_cannot_make_headings_or_links_of_themselves():
    session = evolve(SESSION, title="a\n# b [c](d) <e>", system_prompt=None)
    text = rendered(Markdown, session=session)
    assert text.startswith("# a \\# b \\[c\\](d) \\<e\\>\n")


def test_an_untitled_session_goes_by_its_name():
    assert rendered(Markdown, [], session=evolve(SESSION, title=None, system_prompt=None)).startswith("# s1\n")


# ---- JSON


@pytest.mark.parametrize("talk", [[], TALK[:1], TREE])
@pytest.mark.parametrize("pages", [1, 3])
def test_json_is_the_conversation_in_the_shapes_of_the_wire(talk, pages):
    told = json.loads(rendered(Json, talk, pages=pages))
    schemas = model_schemas([messages.Conversation], "#/$defs/")
    Draft202012Validator({"$ref": "#/$defs/Conversation", "$defs": schemas}).validate(told)
    assert [each["messageId"] for each in told["messages"]] == [each.message_id for each in talk]
    assert told["session"]["title"] == "采购计划"
    assert told["exportedAt"] == "2026-01-03T00:00:00.000Z"


def test_json_keeps_texts_as_they_are():
    (told,) = json.loads(rendered(Json, [evolve(TALK[0], content='"\\\u2028</script>\x7f🚚')]))["messages"]
    assert told["content"] == '"\\\u2028</script>\x7f🚚'


# ---- HTML


class Page(HTMLParser):
    """What a browser would find: tags with their attributes, and the texts between them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.inside = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside.append(tag)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self.inside:
            self.texts.append(data)


OURS = {
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "header",
    "main",
    "article",
    "time",
    "div",
    "details",
    "summary",
}
ALLOWED = OURS | html_export._TAGS
ATTRIBUTES = {
    "html": {"lang"},
    "meta": {"charset", "http-equiv", "content", "name"},
    "article": {"id", "class"},
    "time": {"datetime"},
    "div": {"class"},
    "ul": {"class", "title"},
    "a": {"href", "title", "rel"},
    "ol": {"start"},
}


def check_harmless(text):
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag in ALLOWED, tag
        assert set(attributes) <= ATTRIBUTES.get(tag, set()), (tag, attributes)
        address = attributes.get("href")
        assert address is None or re.match(r"(https?://|mailto:|#m\d+$)", address), address
    counts = [tag for tag, _ in page.tags]
    assert [counts.count(tag) for tag in ("html", "head", "body", "title", "style", "meta")] == [1, 1, 1, 1, 1, 4]
    assert "url(" not in html_export._STYLE
    assert "@import" not in html_export._STYLE
    return page


def evil_talk(text):
    return [
        Message("m1", "g1", "s1", None, "user", text, text, created_at=1.0, attachments=(evolve(FILE, name=text),)),
        Message("m2", "g1", "s1", "m1", "assistant", "ann", text, reasoning=text, model=text, created_at=2.0),
    ]


def evil_session(text):
    return evolve(SESSION, title=text, session_id=text, system_prompt=text)


@pytest.mark.parametrize("text", EVIL)
def test_nothing_evil_gets_through_wherever_it_stands(text):
    check_harmless(rendered(Html, evil_talk(text), session=evil_session(text)))


FRAGMENTS = st.sampled_from(
    [*EVIL, "<", ">", '"', "'", "`", "[", "](", ")", "![", "\n", "\n\n", "    ", "*", "|", "&", "x"]
)


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(st.lists(FRAGMENTS | st.text(max_size=20), max_size=8).map("".join))
def test_nothing_evil_gets_through_whatever_it_is_made_of(text):
    check_harmless(rendered(Html, evil_talk(text), session=evil_session(text)))


def test_what_people_wrote_is_there_to_be_read():
    page = check_harmless(rendered(Html, evil_talk("<script>alert(1)</script> & <b>")))
    assert page.texts.count("<script>alert(1)</script> & <b>") >= 3


def test_the_page_allows_its_own_style_and_nothing_else():
    text = rendered(Html)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = b64encode(sha256(style.encode()).digest()).decode()
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', text)
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    # Before anything that it governs.
    assert text.index("Content-Security-Policy") < text.index("<style>") < text.index("<body>")


def test_answers_are_shown_as_they_are_meant_and_questions_as_they_were_written():
    text = rendered(Html)
    assert "<strong>Because</strong> of <code>x</code>" in text
    assert '<div class="plain"># Why?\n\nPlease</div>' in text


def test_tables_lists_and_code_are_shown():
    answer = "| a | b |\n|---|---|\n| 1 | 2 |\n\n3. x\n\n```py\nif a < b: pass\n```\n\n~~old~~ [l](https://ok.example/?a=b&c)"
    text = rendered(Html, [evolve(TALK[1], content=answer)])
    for expected in (
        "<th>a</th>",
        "<td>2</td>",
        '<ol start="3">',
        "<pre><code>if a &lt; b: pass\n</code></pre>",
        "<s>old</s>",
        '<a href="https://ok.example/?a=b&amp;c" rel="noopener noreferrer nofollow">l</a>',
    ):
        assert expected in text


def test_an_image_is_a_link():
    for answer, shown in (("![a *b*](https://ok.example/i.png)", "a b"), ("![](https://ok.example/i.png)", None)):
        text = rendered(Html, [evolve(TALK[1], content=answer)])
        assert "<img" not in text
        assert f'rel="noopener noreferrer nofollow">{shown or "https://ok.example/i.png"}</a>' in text


def test_a_very_long_answer_is_shown_as_it_was_written():
    long = "**x** " * (html_export.MAX_MARKDOWN_CHARS // 6 + 1)
    assert "<strong>" not in rendered(Html, [evolve(TALK[1], content=long, reasoning="")]).split("<main>")[1]


@pytest.mark.parametrize("mark", ["![", "[](", "*_", "- a\n", "> a\n\n", "~~a ", "``a "])
def test_an_answer_that_is_all_markup_is_never_given_to_the_parser(mark, monkeypatch):
    parsed, render = [], MarkdownIt.render
    monkeypatch.setattr(MarkdownIt, "render", lambda self, text: parsed.append(text) or render(self, text))
    many = mark * (html_export.MAX_MARKUP_CHARS + 1)
    few = mark * 10 + "a text of some length\n\n" * 100
    text = rendered(
        Html, [evolve(TALK[1], content=many[: html_export.MAX_MARKDOWN_CHARS]), evolve(TALK[1], content=few)]
    )
    assert parsed == [few]
    assert f'<div class="plain">{escape(mark * 100)}' in text


def test_branches_link_to_what_they_follow():
    text = rendered(Html, TREE)
    assert '<article id="m4" class="assistant">' in text
    assert '<a href="#m1">接第 1 条</a>' in text


def test_the_page_knows_its_language():
    assert '<html lang="zh-CN">' in rendered(Html)
    assert '<html lang="en">' in rendered(Html, lang="en")
    assert "<summary>Reasoning</summary>" in rendered(Html, lang="en")
