"""prescreen: labels with their reasons, and a value that is the product of its parts."""

from math import prod
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_pipelines.core.model import Finding, PendingId
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.core.prescreen import Match, Screening, TextFindings, look_at, screen

ROW, ITEM, OTHER = PendingId(UUID(int=1)), UUID(int=2), UUID(int=3)
POLICY = DistillationPolicy()
NOTE = "Set the pool timeout to 30 seconds, or stale connections remain after a failover."


def found(text: str = NOTE, scan: tuple[Finding, ...] | str = ()) -> TextFindings:
    return look_at(text, scan=scan, secret_types=frozenset({"API_KEY"}))


def screened(
    *matches: Match, text: str = NOTE, scan: tuple[Finding, ...] | str = (), confidence: float = 1.0
) -> Screening:
    return screen(ROW, confidence, found(text, scan), matches, POLICY)


def near(other: UUID = ITEM, probability: float = 0.9, **columns: object) -> Match:
    kind = columns.pop("other_kind", "item")
    return Match(other, kind, 0.97, probability, "duplicate", "near:wording", **columns)  # type: ignore[arg-type]


def names(one: Screening) -> list[object]:
    return [label["label"] for label in one.labels]


def test_a_good_note_has_no_label_and_is_worth_a_look() -> None:
    one = screened()
    assert (one.labels, one.document, one.is_low_quality) == ((), None, False)
    assert one.value >= 0.9


def test_the_value_is_the_product_of_its_parts() -> None:
    one = screened(near(probability=0.4), scan=(Finding(0, 3, "API_KEY", 1.0),), confidence=0.8)
    assert one.value == pytest.approx(prod(one.parts.values()), abs=1e-3)
    assert one.parts["novelty"] == pytest.approx(0.6)
    assert one.parts["care"] == POLICY.prescreen.care_factor
    assert one.parts["quality"] == pytest.approx(0.9)


def test_what_was_found_is_counted_by_type() -> None:
    one = screened(
        scan=(Finding(0, 3, "API_KEY", 1.0), Finding(4, 9, "EMAIL", 1.0), Finding(9, 12, "EMAIL", 1.0))
    )
    assert one.labels == (
        {"label": "secret", "types": {"API_KEY": 1}},
        {"label": "pii", "types": {"EMAIL": 2}},
    )


def test_a_scan_that_failed_is_no_clean_one() -> None:
    one = screened(scan="timeout")
    assert one.labels == ({"label": "scan_failed", "reason": "timeout"},)
    assert one.parts["care"] < 1.0


def test_the_first_of_two_rows_that_say_the_same_keeps_its_value() -> None:
    later = screened(near(OTHER, other_kind="pending", is_first=True))
    first = screened(near(OTHER, other_kind="pending", is_first=False))
    assert names(later) == names(first) == ["near_duplicate_pending"]
    assert later.value < first.value


def test_a_conflict_is_news_and_no_duplicate() -> None:
    one = screened(near(conflict="negation"))
    assert one.labels == (
        {"label": "contradiction", "item_id": str(ITEM), "similarity": 0.97, "reason": "negation"},
    )
    assert one.parts["novelty"] == 1.0


def test_the_likeliest_matches_are_named_and_no_more_than_the_policy_says() -> None:
    matches = [near(UUID(int=10 + number), probability=0.5 + number / 100) for number in range(9)]
    one = screened(*matches)
    assert [label["item_id"] for label in one.labels] == [
        str(UUID(int=18)),
        str(UUID(int=17)),
        str(UUID(int=16)),
    ]


@given(
    confidence=st.floats(allow_nan=True, allow_infinity=True),
    text=st.text(max_size=80),
    probabilities=st.lists(st.floats(0, 1), max_size=4),
    scan=st.sampled_from([(), "timeout", (Finding(0, 1, "API_KEY", 1.0), Finding(0, 1, "EMAIL", 1.0))]),
)
def test_the_value_and_its_parts_are_shares(
    confidence: float, text: str, probabilities: list[float], scan: tuple[Finding, ...] | str
) -> None:
    matches = [near(UUID(int=number + 5), probability=one) for number, one in enumerate(probabilities)]
    one = screened(*matches, text=text, scan=scan, confidence=confidence)
    assert all(0.0 <= part <= 1.0 for part in (one.value, *one.parts.values()))
    assert one.score == pytest.approx(one.score)
