"""A sieve never leaves out a pattern that matches."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind_pipelines.core.injection_rules import matching_rules, rules
from hivemind_pipelines.core.literals import Sieve

CUES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\b(?:win|won)\b(?! the war)",
        r"(?:colou?r|hue)s?\s*=\s*\d+",
        r"[$€]\s?\d|\d+ (?:usd|eur)",
        r"(?:\d[ -]?){4,6}",
        r"(?<=x)ab{2,3}c?|\?\s*$",
        r"(?:ab|cd)+(?:e|f)",
        r"(a)\1b",
        r"straße|k[iy]nd",
    )
]
SIEVE = Sieve(CUES)
SHIPPED = [rule.pattern for rule in rules()]


def matches(text: str, patterns: list[re.Pattern[str]]) -> set[int]:
    return {number for number, pattern in enumerate(patterns) if pattern.search(text)}


@given(st.one_of(*map(st.from_regex, CUES), st.text("abcdefhuecolor$€ 123=x?KſWIN", max_size=40)))
def test_every_pattern_that_matches_is_a_candidate(text: str) -> None:
    assert matches(text, CUES) <= set(SIEVE.candidates(text))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SHIPPED).flatmap(lambda pattern: st.from_regex(pattern, fullmatch=True)))
def test_no_shipped_rule_is_left_out(text: str) -> None:
    found = [rule.pattern.pattern for rule in matching_rules(text)]
    assert found == [SHIPPED[number].pattern for number in sorted(matches(text, SHIPPED))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the open door", {3}),
        ("not on the door", {0, 3}),
        ("COLOUR=7", {1, 3}),
        ("5 EUR", {2, 3}),
        ("the open door?", {3, 4}),
        ("Kind of ſtrange, with a letter of another case", set(range(len(CUES)))),
    ],
)
def test_what_holds_no_literal_is_left_out(text: str, expected: set[int]) -> None:
    assert set(SIEVE.candidates(text)) == expected
