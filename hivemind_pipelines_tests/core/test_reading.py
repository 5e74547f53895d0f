"""Readings: how the word of a cross-encoder is weighed beside the rules, and where it says nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_pipelines.core import conflict, reading
from hivemind_pipelines.core.model import Scope
from hivemind_pipelines.core.reading import Reading

IN_CONFLICT = Reading(contradiction=0.97, duplicate=0.01, related=0.01, version_fork=0.01)
THE_SAME = Reading(contradiction=0.01, duplicate=0.97, related=0.01, version_fork=0.01)

#: No rule has evidence of a conflict here.
UNEXPLAINED = (
    "Anyone in engineering can declare an incident.",
    "Declaring one is a privilege of the duty manager.",
)

CHANCES = st.floats(min_value=0.0, max_value=1.0)


@given(CHANCES, CHANCES, CHANCES, st.none() | CHANCES)
def test_a_likelier_contradiction_never_counts_for_less(
    one: float, other: float, cosine: float, rules: float | None
) -> None:
    low, high = sorted((one, other))
    less, more = (
        reading.combined(Reading(chance, 0.0, 1.0 - chance, 0.0), rules, cosine) for chance in (low, high)
    )
    assert 0.0 < less <= more < 1.0


@given(CHANCES, CHANCES)
def test_more_evidence_of_the_rules_never_counts_for_less(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert reading.combined(THE_SAME, low, 0.8) <= reading.combined(THE_SAME, high, 0.8)


def test_what_was_read_is_a_conflict_without_evidence_of_the_rules() -> None:
    a, b = UNEXPLAINED
    assert conflict.find(a, b, cosine=0.7) == conflict.NONE
    found = conflict.find(a, b, cosine=0.7, reading=IN_CONFLICT)
    assert (found.outcome, found.reason) == ("contradiction", "read")
    assert found.score >= conflict.SCORE_MIN
    turned = conflict.find(b, a, cosine=0.7, reading=IN_CONFLICT)
    assert (turned.spans_a, turned.spans_b) == (found.spans_b, found.spans_a)
    assert "manager" in [b[start:end] for start, end in found.spans_b]


def test_what_reads_as_the_same_needs_more_than_a_number() -> None:
    a, b = "The worker retries a job 3 times.", "The worker retries a job 5 times."
    plain = conflict.find(a, b, cosine=0.95)
    assert conflict.find(a, b, cosine=0.95, reading=THE_SAME, score_min=0.0).score < plain.score


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Start the service: `systemctl start nginx`", "Stop the service: `systemctl stop nginx`"),
        ("Checks for spaces before a comma.", "Checks for spaces after a comma."),
        ("The same text.", "The same  text."),
        ("", "Anything at all."),
    ],
)
def test_recipes_entries_and_equal_texts_are_not_read(a: str, b: str) -> None:
    assert conflict.find(a, b, cosine=0.9, reading=IN_CONFLICT) == conflict.NONE


def test_a_reading_overturns_neither_a_fork_nor_a_scope() -> None:
    a, b = "Enable HTTP/2 for internal traffic.", "Disable HTTP/2 for internal traffic."
    forked = conflict.find(
        a, b, scope_a=Scope(version="1"), scope_b=Scope(version="2"), cosine=0.9, reading=IN_CONFLICT
    )
    scoped = conflict.find(
        a, b, scope_a=Scope(language="go"), scope_b=Scope(language="rust"), cosine=0.9, reading=IN_CONFLICT
    )
    assert (forked.outcome, scoped.outcome) == ("version_fork", "both_true_in_scope")
    apart = conflict.find(
        *UNEXPLAINED, scope_a=Scope(language="go"), scope_b=Scope(language="rust"), reading=IN_CONFLICT
    )
    assert apart == conflict.NONE
    told = conflict.find(
        "In Python 3.11 `utcnow()` works silently.", "In Python 3.12 `utcnow()` is deprecated and warns.",
        cosine=0.9, reading=IN_CONFLICT,
    )  # fmt: skip
    assert told.outcome == "version_fork"


def test_a_conflict_beside_a_shared_sentence_has_offsets_on_both_sides() -> None:
    a, b = (f"Incidents are tracked in the platform wiki. {text}" for text in UNEXPLAINED)
    found = conflict.find(a, b, cosine=0.9, reading=IN_CONFLICT)
    assert found.outcome == "contradiction"
    assert found.spans_a
    assert found.spans_b


def test_notes_that_share_little_or_that_the_encoder_would_cut_are_not_worth_reading() -> None:
    a, b = UNEXPLAINED
    assert conflict.is_worth_reading(a, b, cosine=0.7)
    assert not conflict.is_worth_reading(a, b, cosine=0.1)
    long = "The platform keeps its runbooks in the wiki of the team. " * 20
    assert not conflict.is_worth_reading(long + a, long + b, cosine=0.99)
