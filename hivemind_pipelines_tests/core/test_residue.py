"""Needles: what is left of a text is found however it is written, and the needles tell nothing."""

import base64
import hashlib
import html
import json
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_pipelines.core import residue
from hivemind_pipelines.core.model import ItemId
from hivemind_pipelines.core.residue import ErasedText, Finder, Needles
from hivemind_pipelines.core.text import content_hash

KEY = b"a key of the tests"
ITEM = ItemId(UUID(int=7))
TEXT = 'Größe: keep the "blue" stapler\nunder <Oyelaran> & the quorum password; never C:\\new or it leaks'
DIGEST = hashlib.sha256(TEXT.encode()).digest()


def finder(*texts: str) -> Finder:
    """A finder of texts that were erased."""
    return Finder(residue.needles([ErasedText(ITEM, text) for text in texts], KEY), KEY)


@pytest.mark.parametrize(
    "value",
    [
        TEXT,
        TEXT.upper(),
        f"before {TEXT} after",
        json.dumps({"deep": [TEXT]}),
        json.dumps({"deep": [TEXT]}, ensure_ascii=False),
        html.escape(TEXT),
        repr(TEXT),
        "  ".join(TEXT.split()),
        "... The quorum password; never C ...",
        f"hash {DIGEST.hex()}",
        DIGEST.hex().upper(),
        base64.b64encode(DIGEST).decode(),
        f"sha256-{base64.urlsafe_b64encode(DIGEST).decode().rstrip('=')}".removeprefix("sha256-"),
    ],
)
def test_a_text_or_its_hash_is_found_however_it_is_written(value: str) -> None:
    assert finder(TEXT).in_text(value)


def test_a_binary_value_is_searched_as_digest_and_as_text() -> None:
    found = finder(TEXT)
    assert found.in_bytes(DIGEST)
    assert found.in_bytes(b"\x80\x04" + TEXT.encode() + b"\x00")
    assert not found.in_bytes(hashlib.sha256(b"other").digest())


@pytest.mark.parametrize(
    "value", ["", "keep the blue", "the stapler of the quorum, the password of the blue"]
)
def test_words_in_another_order_are_no_residue(value: str) -> None:
    assert not finder(TEXT).in_text(value)


def test_a_short_text_is_found_as_a_whole_and_a_tiny_one_by_its_hash_alone() -> None:
    assert finder("open sesame-street").in_text("say: Open Sesame, street!")
    assert not finder("yes").in_text("yes")
    assert residue.is_too_short("yes")
    assert finder("yes").in_text(content_hash("yes"))


def test_what_others_say_too_is_no_needle() -> None:
    needles = residue.needles([ErasedText(ITEM, TEXT)], KEY)
    shared = Finder(needles, KEY).in_text(f"{TEXT} {content_hash(TEXT)}")
    assert needles.without(shared).items == {}


def test_needles_survive_json_and_tell_nothing_without_the_key() -> None:
    needles = residue.needles([ErasedText(ITEM, TEXT, "ab" * 16)], KEY)
    plain = json.loads(json.dumps(needles.to_json()))
    assert Needles.from_json(plain) == needles
    assert "stapler" not in json.dumps(plain)
    assert not Finder(needles, b"another key").in_text(TEXT)
    assert Finder(needles, KEY).in_vector("ab" * 16)


WORDS = st.lists(st.from_regex(r"[a-z]{2,8}", fullmatch=True), min_size=5, max_size=30)


@given(WORDS, st.integers(0, 100), WORDS)
def test_any_five_words_in_a_row_are_found_and_only_those(
    words: list[str], start: int, others: list[str]
) -> None:
    start %= len(words) - 4
    run = words[start : start + 5]
    found = finder(" ".join(words))
    assert found.in_text(" ".join([*others, *run, *others]))
    runs = {tuple(words[at : at + 5]) for at in range(len(words) - 4)}
    other_runs = {tuple(others[at : at + 5]) for at in range(len(others) - 4)}
    assert bool(found.in_text(" ".join(others))) == bool(runs & other_runs)
