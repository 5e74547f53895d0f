"""Normalisation folds what means nothing and keeps what means something."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_pipelines.core.text import clean, content_hash, folded, normalise, sentences, shingles

ANY_TEXT = st.text(st.characters(), max_size=200)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("List all Files", "list all files"),
        ("Restart  the\tserver\n", "Restart the server"),
        ("Restart the server.", "Restart the server"),
        ("Restart the server…", "Restart the server!"),
        ("ﬁle", "file"),
        ("zero\u200bwidth", "zerowidth"),
        ("\u202eRight to left\u202c", "right to left"),
        ("Don’t “quote”", 'don\'t "quote"'),
        ("REMOVE the FILE", "remove the file"),
        ("Run `git  status`", "run `git status`"),
        ("A note", "a note"),
    ],
)
def test_a_difference_without_meaning_is_folded(a: str, b: str) -> None:
    assert normalise(a) == normalise(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Use `-r` here", "Use `-R` here"),
        ("copy with -r", "copy with -R"),
        ("`git add .`", "`git add`"),
        ("git add .", "git add"),
        ("Set myVar", "Set MyVar"),
        ("Open /etc/Hosts", "Open /etc/hosts"),
        ("See https://example.com/A", "See https://example.com/a"),
        ("HTTP_PROXY is set", "http_proxy is set"),
        ("the US team", "the us team"),
        ("10⁶ rows", "106 rows"),
        ("H₂O", "H2O"),
        ("3½ hours", "31/2 hours"),
        ("Python 3.11", "Python 3.12"),
        ("Is it safe?", "Is it safe."),
        ("```\nif a:\n    b\nc\n```", "```\nif a:\n    b\n    c\n```"),
        ("price $5", "price €5"),
        ("written in C", "written in c"),
    ],
)
def test_a_difference_with_meaning_stays(a: str, b: str) -> None:
    assert normalise(a) != normalise(b)


@given(ANY_TEXT)
def test_no_text_makes_it_raise_and_twice_is_once(text: str) -> None:
    once = normalise(text)

    assert normalise(once) == once
    assert isinstance(clean(text) + folded(text), str)
    assert all(sentences(text))
    assert len(content_hash(text)) == 64


@given(ANY_TEXT, st.integers(2, 6))
def test_shingles_are_the_runs_of_the_text(text: str, size: int) -> None:
    expected = {text[start : start + size] for start in range(max(len(text) - size + 1, 1))} - {""}

    assert shingles(text, size) == {run.encode("utf-8", "surrogatepass") for run in expected}


def test_the_content_hash_is_the_contract_of_the_database() -> None:
    assert content_hash("naïve") == hashlib.sha256("naïve".encode()).hexdigest()
    assert content_hash("\ud800") == hashlib.sha256(b"\xed\xa0\x80").hexdigest()


def test_sentences_keep_code_whole() -> None:
    text = "Run it. Then `a. b` works! See\n\n```\nx. y\n\nz\n```"

    assert sentences(text) == ("Run it.", "Then `a. b` works!", "See", "```\nx. y\n\nz\n```")


def test_sentences_of_a_list_are_its_entries() -> None:
    assert sentences("First:\n- one\n- two") == ("First:", "- one", "- two")


def test_a_text_with_a_nul_is_cut_without_its_code_marks() -> None:
    assert sentences("a\x00b. `c. d`") == ("a\x00b.", "`c.", "d`")


@pytest.mark.parametrize(
    "text", ["`" * 100_000, "```" * 30_000 + "a", "a." * 50_000, "[" * 100_000, "- \n" * 30_000]
)
def test_a_huge_odd_text_is_handled_in_linear_time(text: str) -> None:
    assert normalise(text) is not None
    assert sentences(text) is not None
