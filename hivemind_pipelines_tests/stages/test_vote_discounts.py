"""Votes that the policy counts once, or up to a number an agent; off by default, and then the seed's formula."""

import random
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from hivemind_pipelines.core import quality
from hivemind_pipelines.core.model import ItemId, RunId
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.core.quality import QualityInputs
from hivemind_pipelines.stages import quality_scores
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import insert_item, insert_signal, read_item, set_item
from hivemind_pipelines_tests.stages.commons import NOW, policy

Vote = tuple[str, str | None, str | None]


def votes(store: Store, item: ItemId, given: list[Vote]) -> None:
    """Signals in order of time, and the counters as a server keeps them."""
    for age, (kind, agent, run) in enumerate(reversed(given)):
        insert_signal(store, item, kind, agent_id=agent, run_id=run, created_at=NOW - timedelta(seconds=age))
    counts = Counter(kind for kind, _, _ in given)
    set_item(
        store, item, helpful_count=counts["outcome_solved"], not_helpful_count=counts["outcome_not_helpful"]
    )


def score_under(store: Store, item: ItemId, **quality_section: Any) -> float:
    """The item's score after a run with these fields."""
    under = policy(quality={"min_change": 0.0, **quality_section})
    quality_scores.run(store, NOW, under, RunId(uuid4()))
    return float(read_item(store, item)["quality_score"])


def expected(kept: list[Vote], under: DistillationPolicy) -> float:
    """The reference formula over the votes that count."""
    counts = Counter(kind for kind, _, _ in kept)
    inputs = QualityInputs(
        helpful_count=counts["outcome_solved"],
        not_helpful_count=counts["outcome_not_helpful"],
        signal_count=len(kept),
        contradiction_count=counts["contradiction"],
        last_signal_at=NOW,
    )
    return quality.score(inputs, under.quality, NOW)


def counted(given: list[Vote], *, one_per_run: bool, agent_max: int | None) -> list[Vote]:
    """What the policy counts, newest first: said once more, in a loop."""
    kept: list[Vote] = []
    seen: set[tuple[bool, str, str]] = set()
    for kind, agent, run in reversed(given):
        key = (kind == "contradiction", agent or "", run or "")
        if one_per_run and agent is not None and run is not None and key in seen:
            continue
        seen.add(key)
        by_agent = sum(1 for other, name, _ in kept if (other, name) == (kind, agent))
        if agent is None or agent_max is None or by_agent < agent_max:
            kept.append((kind, agent, run))
    return kept


REPEATS: list[Vote] = [
    *[("outcome_solved", "eager", "run-1")] * 5,
    ("outcome_not_helpful", "eager", "run-1"),
    ("outcome_solved", "eager", "run-2"),
    *[("contradiction", "eager", "run-2")] * 3,
    *[("outcome_solved", "calm", None)] * 2,
    *[("outcome_solved", None, "run-3")] * 2,
]


def test_every_vote_counts_unless_the_policy_says_otherwise(store: Store) -> None:
    item = insert_item(store, "A note", approved_at=NOW)
    votes(store, item, REPEATS)
    assert score_under(store, item) == pytest.approx(expected(REPEATS, policy()), abs=1e-12)


@pytest.mark.parametrize("prior", [0.0, 5.0])
@pytest.mark.parametrize(("one_per_run", "agent_max"), [(True, None), (False, 2), (True, 1), (True, 2)])
def test_repeats_and_excess_are_taken_off(
    store: Store, prior: float, one_per_run: bool, agent_max: int | None
) -> None:
    section = {"prior_votes": prior, "one_vote_per_run": one_per_run, "votes_per_agent_max": agent_max}
    given = random.Random(7).choices(REPEATS, k=80)
    item, other = (
        insert_item(store, "A note", approved_at=NOW),
        insert_item(store, "Another", approved_at=NOW),
    )
    votes(store, item, REPEATS)
    votes(store, other, given)
    for which, said in ((item, REPEATS), (other, given)):
        kept = counted(said, one_per_run=one_per_run, agent_max=agent_max)
        assert score_under(store, which, **section) == pytest.approx(
            expected(kept, policy(quality=section)), abs=1e-12
        )


def test_counters_beyond_the_signals_stay(store: Store) -> None:
    """A server may have pruned the signals behind its counters: only a repeat that is seen is taken off."""
    item = insert_item(store, "A note", approved_at=NOW)
    votes(store, item, [("outcome_solved", "eager", "run-1")] * 3)
    set_item(store, item, helpful_count=10)
    inputs = QualityInputs(helpful_count=8, signal_count=1, last_signal_at=NOW)
    assert score_under(store, item, one_vote_per_run=True) == pytest.approx(
        quality.score(inputs, policy().quality, NOW), abs=1e-12
    )
