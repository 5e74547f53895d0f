"""Policy A, then B, then A again: the state of A, with nothing written twice."""

import random
from typing import Any

import pytest

from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import (
    insert_item,
    insert_pending,
    insert_signal,
    public_dump,
    rows,
    scalar,
)
from hivemind_pipelines_tests.histories.test_random_histories import ENDINGS, FRAMES, POLICIES, SUBJECTS
from hivemind_pipelines_tests.stages.commons import NOW, distil, policy


def a_random_commons(store: Store, seed: int) -> None:
    """Duplicates, kin, versions and negations of a small world, some of them said to conflict."""
    chance = random.Random(seed)
    texts = [frame.format(subject) + ending for frame in FRAMES for subject in SUBJECTS for ending in ENDINGS]
    for content in chance.sample(texts, 40):
        item = insert_item(
            store, content,
            quality_score=chance.choice([0.2, 0.5, 0.9]), is_public=chance.random() < 0.2,
            tags=chance.choice([None, {}, {"mine": 1}]),
        )  # fmt: skip
        if chance.random() < 0.2:
            insert_signal(store, item)
    for content in chance.sample(texts, 4):
        insert_pending(store, f"pending: {content}", confidence=chance.choice([0.1, 0.3, 0.9]))


def two_policies(seed: int) -> tuple[DistillationPolicy, DistillationPolicy]:
    """Two different ones; the breaker is no part of a round trip."""
    chosen = random.Random(seed).sample(POLICIES, 2)
    first, second = (policy(**sections, safety={"mass_change_share_max": 1.0}) for sections in chosen)
    return first, second


_STATE = {
    "merges": "SELECT duplicate_id, canonical_id FROM distillation.merges ORDER BY 1",
    "cases": "SELECT case_id, status, outcome FROM distillation.contradiction_cases WHERE status = 'open' ORDER BY 1",
    "topics": "SELECT fingerprint FROM distillation.topic_clusters ORDER BY 1",
    "pairs": "SELECT a_id, b_id, decision, reason, stamp FROM distillation.candidate_pairs ORDER BY 1, 2",
    "labels": "SELECT pending_id, is_low_quality, stamp FROM distillation.prescreens ORDER BY 1",
    "summaries": """
        SELECT s.fingerprint, s.stamp, k.content FROM distillation.summaries s
        JOIN public.knowledge_items k ON k.org_id = s.org_id AND k.id = s.summary_id
        WHERE k.expired_at IS NULL ORDER BY 1
    """,
}


def state(store: Store) -> dict[str, Any]:
    """What readers and later runs see, without timestamps and run ids; expired summaries are nobody's."""
    items = {
        key: {name: value for name, value in row.items() if name != "expired_at"}
        | {"live": not row["expired_at"]}
        for key, row in public_dump(store)["knowledge_items"].items()
        if not (row["source_agent_id"] == "distillation" and row["expired_at"])
    }
    pending = public_dump(store)["pending_contributions"]
    found = {name: [tuple(row) for row in rows(store, query)] for name, query in _STATE.items()}
    return found | {"items": items, "pending": pending}


def round_trip(store: Store, seed: int) -> None:
    a_random_commons(store, seed)
    first, second = two_policies(seed)
    distil(store, now=NOW, under=first)
    of_first = state(store)
    distil(store, now=NOW, under=second)
    written = scalar(store, "SELECT count(*) FROM distillation.ledger WHERE change = 'publish'")
    distil(store, now=NOW, under=first)
    back = state(store)
    for name, expected in of_first.items():
        assert back[name] == expected, name
    published = "SELECT count(*) FROM distillation.ledger WHERE change = 'publish'"
    assert scalar(store, published) == written, "a known fingerprint was written again"


# A tag whose first link was a re-pointed one, a conflict of other merges, and signals that named a pair of the
# rules while one of its parties was merged.
@pytest.mark.parametrize("seed", [0, 1, 2, 110, 117, 118])
def test_a_policy_and_back_gives_the_state_before(store: Store, seed: int) -> None:
    round_trip(store, seed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(100, 180))
def test_many_policies_and_back_give_the_state_before(store: Store, seed: int) -> None:
    round_trip(store, seed)
