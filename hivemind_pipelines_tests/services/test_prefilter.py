"""The prefilter: never a candidate too few, whatever the text, and all of them when RE2 gives up."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind_pipelines.services import secrets, structured
from hivemind_pipelines.services.identifiers import SHAPES, find_identifiers
from hivemind_pipelines.services.prefilter import Prefilter, Starts, encode, hint
from hivemind_pipelines.services.secrets import find_secrets, load_rules
from hivemind_pipelines_tests.services.fake_secrets import fake
from hivemind_pipelines_tests.services.test_secrets import TABLE

PATTERNS = (
    r"\bab+\b",
    r"(?i)straße\w{3,}(?!x)",
    r"(?<![\w.])[^\W_]{2,5}@\d",
    r"(?P<q>[\"'])x{2,60}(?P=q)",
    r"(?:a|bc){2,3}\s?[^a-z]$",
    r"(?s)a.+?(?=b)c*",
    r"(?i:Key)=[가-힣\w]+",
    r"[^-]-{1,2}\D",
    r"(?i)(?:a{1,2}|\d)?(?:key|token)\w{0,3}[^\n]{0,40}?=\s*(?P<q>[\"'])b+(?P=q)",
    r"(?:xy|b[^\n]{0,30}c)-+[1-9]",
)


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet="abcxyzABCSTRßſKk가힣é@=-_.'\" \n19\u200b\ud800", max_size=24))
def test_whatever_matches_is_a_candidate(text):
    patterns = [re.compile(pattern) for pattern in PATTERNS]
    matching = {number for number, pattern in enumerate(patterns) if pattern.search(text)}
    [candidates] = Prefilter(patterns).candidates([text])
    assert matching <= set(candidates)


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet="abcxyzABCSTRßſKkeytokn가힣é@=-_.'\" \n19\u200b\ud800", max_size=24))
def test_wherever_a_match_begins_is_a_start(text):
    for pattern in map(re.compile, PATTERNS):
        starts = Starts(pattern).places(encode(text))
        beginnings = {place for place in range(len(text)) if pattern.match(text, place)}
        assert starts is None or (beginnings <= set(starts) and starts == sorted(set(starts)))


class Anywhere:
    """Starts that know of no place."""

    def places(self, data):
        return None


@settings(max_examples=150, deadline=None)
@given(
    rule_id=st.sampled_from(sorted(TABLE)),
    seed=st.integers(0, 50),
    glue=st.text(alphabet="ab =:'\"\n/-_.(1", max_size=8),
)
def test_a_rule_finds_what_the_whole_search_would_find(rule_id, seed, glue):
    [rule] = [rule for rule in load_rules() if rule.id == rule_id]
    text = f"{glue}{fake(TABLE[rule_id][0], seed)}{glue}{fake(TABLE[rule_id][0], seed + 1)}{glue}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secrets, "_starts", lambda pattern: Anywhere())
        wanted = list(rule.spans(text))
    assert list(rule.spans(text)) == wanted


@pytest.mark.timeout(20)
@pytest.mark.parametrize("rule_id", sorted(TABLE))
def test_no_text_keeps_a_rule_busy(rule_id):
    # What nearly matches may be cut into parts in many ways: a pattern must not try them all.
    [rule] = [rule for rule in load_rules() if rule.id == rule_id]
    value = fake(TABLE[rule_id][0], 1)
    for ending in ("_", "é", "-", "=", "\n", "\u200b", "'"):
        for run in ("aB3" * 100, "a" * 300, "Z9" * 150, "a-" * 150, "a." * 150, "a " * 150):
            list(rule.spans(f"{value}{run}{ending}"))
            list(rule.spans(f"{value[: len(value) // 2]}{run}{ending}"))


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.type)
@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(
        st.sampled_from([
            "jo.doe@acme.io", "DE89 3704 0044 0532 0130 00", "4539 1488 0343 6467", "81.2.69.160",
            "2a00:1450:4001:81b::200e", "536-90-4399", "+49 30 901820", "(415) 555-2671", "1.2.3", "12:30:45",
        ]),
        max_size=4,
    ),
    glue=st.sampled_from([" ", ", ", "\n", "x", "1", "-", ": ", "("]),
)  # fmt: skip
def test_a_shape_finds_what_the_whole_search_would_find(shape, values, glue):
    text = glue.join(values)
    wanted = [match.span() for match in shape.pattern.finditer(text) if shape.is_valid(text, *match.span())]
    found = [span for span in shape.spans(text) if shape.is_valid(text, *span)]
    assert all(any(a < end and start < b for a, b in found) for start, end in wanted)


@settings(max_examples=150, deadline=None)
@given(
    rule_id=st.sampled_from(sorted(TABLE)),
    seed=st.integers(0, 50),
    before=st.text(max_size=12),
    after=st.text(max_size=12),
)
def test_prefilter_hides_nothing_from_the_exact_rules(rule_id, seed, before, after):
    text = f"{before}\n{fake(TABLE[rule_id][0], seed)}\n{after}"
    assert structured.find_structured([text]) == [
        [*find_secrets(text, load_rules()), *find_identifiers(text, SHAPES)]
    ]


def test_candidates_are_those_of_each_text_alone():
    texts = ["clean", fake("AKIA{Q:16}"), "", "mail jo@acme.io", *["nothing here"] * 20, "call +49 30 901820"]
    together = structured.prefilter().candidates(texts)
    assert together == [structured.prefilter().candidates([text])[0] for text in texts]
    assert [bool(numbers) for numbers in together] == [False, True, False, True, *[False] * 20, True]


def test_prose_is_no_candidate_of_any_rule():
    prose = "The queue keeps three workers busy; when one of them dies, the next poll starts another. " * 20
    assert structured.prefilter().candidates([prose]) == [()]


class GivenUp:
    """RE2 whose memory ran out: it reports no match, not even the sentinel's."""

    def Match(self, text):
        return []


def test_every_pattern_is_a_candidate_when_memory_runs_out():
    few = Prefilter([re.compile("abc"), re.compile("xyz")])
    assert few.candidates(["none"]) == [()]
    for one in few._sets:
        one._compiled = GivenUp()
    assert few.candidates(["none"]) == [(0, 1)]


@pytest.mark.parametrize(
    ("pattern", "expected", "lead"),
    [
        (r"\bAKIA[A-Z]{16}\b", "AKIA(?:[A-Z]){16,}", (0, 0)),
        (r"[a-z]{2,9}://\S+", r"\x3a\x2f\x2f(?:[\S\x80-\xff]){1,}", (2, 9)),
        (r"curl[^\n]{0,99}?-u", "curl", (0, 0)),
        (r"\w{30,200}", r"(?:[\w\x80-\xff]){30,}", None),
    ],
)
def test_a_hint_reaches_from_the_first_literal_to_the_first_gap(pattern, expected, lead):
    one = hint(re.compile(pattern))
    assert (one.text, one.lead if one.is_led else None) == (expected, lead)


def test_a_construct_nobody_relaxed_is_refused():
    with pytest.raises(ValueError, match="nobody has relaxed"):
        hint(re.compile(r"(a)?(?(1)b|c)"))
