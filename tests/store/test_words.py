import re
from html import unescape
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scm_trio.errors import InvalidMessage
from scm_trio.store import words
from scm_trio.store.words import MAX_QUERY_CHARS, MAX_TERMS, SNIPPET_CHARS, Term, normalised, parse_query, snippet


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("  Hello,\n World! ", "hello world"),
        ("供应链管理", "供 应 链 管 理"),
        ("AI模型GPT-4", "ai 模 型 gpt 4"),
        ("\uff26\uff35\uff2c\uff2c\u3000\uff37\uff1a\uff11\uff12", "full w 12"),
        ("Café naïve Ünï Straße İstanbul", "cafe naive uni strasse istanbul"),
        ("cafe\u0301", "cafe"),
        ("がカﾅ ひらがな", "が カ ナ ひ ら が な"),
        ("안녕하세요", "안 녕 하 세 요"),
        ("हिन्दी में", "हिन्दी में"),
        ("snake_case don't a.b@c.de", "snake case don t a b c de"),
        ("ok👍🏽🎉", "ok 👍 🎉"),
        ("❤️ 葛\U000e0100城", "❤ 葛 城"),
        ("zero\u200bwidth", "zerowidth"),
        ("㈱ ① ﬁn", "株 1 fin"),
        ("nul\0nul", "nul nul"),
    ],
)
def test_a_text_becomes_its_words(text, expected):
    assert normalised(text) == expected


@given(st.text())
def test_words_hold_nothing_that_an_index_could_take_for_its_own_language(text):
    made = normalised(text)
    assert not re.search(r"[\x00-\x1f\"%_\\*(){}:^+'-]|  ", made)
    assert normalised(made) == made


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("", []),
        ('?! "" \'', []),
        ("供应链", [Term(("供", "应", "链"), is_prefix=False)]),
        ("Hel", [Term(("hel",), is_prefix=True)]),
        ("supply 链", [Term(("supply",), is_prefix=True), Term(("链",), is_prefix=False)]),
        ('"supply chain" x', [Term(("supply", "chain"), is_prefix=True), Term(("x",), is_prefix=True)]),
        ("“供应 链”", [Term(("供", "应", "链"), is_prefix=False)]),
        ('"unclosed quote', [Term(("unclosed",), is_prefix=True), Term(("quote",), is_prefix=True)]),
        ("模型gpt", [Term(("模", "型", "gpt"), is_prefix=True)]),
        ("twice Twice TWICE", [Term(("twice",), is_prefix=True)]),
        ("well-known", [Term(("well", "known"), is_prefix=True)]),
    ],
)
def test_a_query_is_made_of_terms(query, terms):
    assert list(parse_query(query)) == terms


@pytest.mark.parametrize("query", ["x" * (MAX_QUERY_CHARS + 1), " ".join(f"w{n}" for n in range(MAX_TERMS + 1))])
def test_a_query_has_a_limit(query):
    with pytest.raises(InvalidMessage) as caught:
        parse_query(query)
    assert (caught.value.field, caught.value.params["expected"]) == ("q", "too_long")


def test_queries_up_to_the_limits_are_taken():
    assert len(parse_query(" ".join(f"w{n}" for n in range(MAX_TERMS)))) == MAX_TERMS
    assert len(parse_query("链" * MAX_QUERY_CHARS)[0].words) == MAX_QUERY_CHARS


@pytest.mark.parametrize(
    ("text", "query", "shown"),
    [
        ("供应链管理", "链管", "供应<mark>链管</mark>理"),
        ("Hello world", "WOR", "Hello <mark>world</mark>"),
        (
            "a <b>bold</b> & brave",
            "b",
            "a &lt;<mark>b</mark>&gt;<mark>bold</mark>&lt;/<mark>b</mark>&gt; &amp; <mark>brave</mark>",
        ),
        ("one two one", "one", "<mark>one</mark> two <mark>one</mark>"),
        ("the supply-chain", '"supply chain"', "the <mark>supply-chain</mark>"),
        ("Café", "cafe", "<mark>Café</mark>"),
        ("㈱東京", "株", "<mark>㈱</mark>東京"),
        ("ab", "ab abc", "<mark>ab</mark>"),
        ("x y", 'x "x y"', "<mark>x y</mark>"),
        ("a应 供a", 'a "a应"', "<mark>a应</mark> 供<mark>a</mark>"),
        ("½", "1 2", "<mark>½</mark>"),
        ("nothing of it", "else", "nothing of it"),
        ("", "else", ""),
    ],
)
def test_a_snippet_shows_its_matches(text, query, shown):
    assert snippet(text, parse_query(query)) == shown


def test_a_snippet_of_a_long_text_is_the_part_around_the_first_match():
    text = "before " * 100 + "the needle is here " + "after " * 100
    shown = snippet(text, parse_query("needle"))
    assert shown.startswith("…")
    assert shown.endswith("…")
    assert "the <mark>needle</mark> is here after" in shown
    assert len(shown) == SNIPPET_CHARS + len("<mark></mark>……")
    assert snippet("needle " + "x " * 200, parse_query("needle")).startswith("<mark>needle</mark> x")
    assert snippet("供应" * 100, parse_query("供应" * 90)) == f"<mark>{'供应' * 80}</mark>…"
    assert snippet("x " * 200 + "needle", parse_query("needle")).endswith("x <mark>needle</mark>")


@pytest.mark.parametrize("offset", [8000, 8190, 8192, 8193, 9000, 9216, 30_000])
def test_a_match_is_found_wherever_it_stands_in_a_very_long_text(offset):
    text = "x" * offset + " 供应链 needles " + "y" * 20_000
    assert "<mark>供应链</mark> <mark>needles</mark>" in snippet(text, parse_query("供应链 needle"))


@pytest.mark.parametrize("offset", [0, 7000, 8000, 8189, 30_000])
@pytest.mark.parametrize("gap", [1, 1023, 1500, 8192, 50_000])
@pytest.mark.parametrize("between", [" ", "-\n", "\ufeff "])
def test_a_phrase_is_found_however_much_stands_between_its_words(offset, gap, between):
    text = "x" * offset + " " + "alpha" + (between * gap)[: gap + 1] + " beta end"
    terms = parse_query('"alpha beta"')
    assert terms[0].pattern in f" {normalised(text)} "
    assert " <mark>alpha" in f" {snippet(text, terms)}"


def test_a_phrase_of_many_words_takes_no_longer_than_one_word():
    # Looked for at every word anew, this takes longer than anybody waits.
    text, phrase = "a " * 5_000_000, "a " * 90 + "b"
    assert snippet(text + phrase, parse_query(f'"{phrase}"')).endswith(f"<mark>{phrase[:120]}</mark>…")


class Watched(str):
    """Notes where which pattern is looked for, and where it is found."""

    __slots__ = ("looks",)

    def find(self, pattern, start=0):
        found = super().find(pattern, start)
        self.looks.setdefault(pattern, []).append((start, found))
        return found


def test_every_term_is_looked_for_once_from_the_beginning_to_the_end():
    watched = Watched(f" {'a a b ' * 100}c ")
    watched.looks = {}
    terms = parse_query('a "a b" "a a b" b c "a c"')
    assert len(list(words._matches(watched, terms))) == 101
    assert set(watched.looks) == {term.pattern for term in terms}
    for looks in watched.looks.values():
        assert all(found < start for (_, found), (start, _) in pairwise(looks))


def test_no_part_of_a_word_is_marked_where_a_very_long_text_is_cut():
    text = "z" * 8190 + "xxneedle " + "w " * 2000 + "needle"
    assert snippet(text, parse_query("needle")).endswith("w <mark>needle</mark>")


@given(
    st.text(alphabet=st.sampled_from("ab链é <&\"'"), max_size=300), st.text(alphabet="ab链é ", min_size=1, max_size=4)
)
def test_a_snippet_is_a_part_of_its_text_and_shows_a_match_where_there_is_one(text, query):
    terms = parse_query(query)
    shown = snippet(text, terms)
    plain = unescape(re.sub("</?mark>", "", shown))
    assert plain.strip("…") in text
    assert not re.search("[<>\"']", re.sub("</?mark>", "", shown))
    if any(term.pattern in f" {normalised(text)} " for term in terms):
        assert "<mark>" in shown


def highlights(text, terms):
    """What is marked of normalised words, by regular expressions."""
    longest_first = sorted(terms, key=lambda term: len(term.pattern), reverse=True)
    either = "|".join(" ".join(map(re.escape, term.words)) + "[^ ]*" * term.is_prefix for term in longest_first)
    return re.findall(f"(?<= )(?:{either})(?= )", text)


ALPHABET = st.sampled_from([*"abé链应 .-½", "  ", "e\u0301", "ab", "ß", "\u200b", "😀"])


@given(
    st.lists(ALPHABET, min_size=1, max_size=60).map("".join),
    st.lists(st.lists(ALPHABET, min_size=1, max_size=4).map("".join), min_size=1, max_size=3),
    st.booleans(),
)
def test_what_is_marked_are_the_matches_the_longest_where_several_begin(text, queries, quoted):
    terms = parse_query(" ".join(f'"{query}"' if quoted else query for query in queries))
    expected = highlights(f" {normalised(text)} ", terms) if terms else []
    shown = re.findall("<mark>(.*?)</mark>", snippet(text, terms), re.DOTALL)
    # Of a character that is two words, both are marked when one of them is meant.
    if "½" not in text:
        assert [normalised(unescape(each)) for each in shown] == expected
    assert bool(shown) == bool(expected)
