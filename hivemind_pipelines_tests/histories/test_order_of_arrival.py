"""The order in which items arrive, and in how many batches, changes neither clusters nor canonicals."""

import random
from datetime import timedelta

import pytest

from hivemind_pipelines.core.model import Stage
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import insert_item, rows
from hivemind_pipelines_tests.stages.commons import NOW, distil

MATCHING = [Stage.ITEM_FEATURES, Stage.DUPLICATE_PAIRS, Stage.DUPLICATE_MERGES]

NOTES = (
    "Set the pool timeout to avoid stale connections after a database failover",
    "Rotate the signing keys of the gateway before the certificate expires",
    "List the biggest tables of the database: `SELECT relname FROM pg_class ORDER BY relpages`",
    "The nightly export of invoices must finish before the bank opens",
)


def variants(note: str) -> list[str]:
    """The note in other words, and look-alikes that say something else."""
    return [
        note,
        f"{note}.",
        note.replace(" the ", "  the ", 1),
        f"Note: {note}",
        note.replace("database", "data base").replace("gateway", "gate-way"),
        note.replace(" the ", " ", 1),
        note.replace("before", "after").replace("biggest", "smallest").replace("avoid", "cause"),
        f"{note} 3 times",
        f"{note} 4 times",
    ]


TEXTS = [text for note in NOTES for text in dict.fromkeys(variants(note))]


def canonicals(store: Store, org: str) -> dict[str, str]:
    """The text that stands for each text."""
    found = rows(
        store,
        """
        SELECT k.content, COALESCE(c.content, k.content) AS canonical
        FROM public.knowledge_items k
        LEFT JOIN distillation.merges m ON m.org_id = k.org_id AND m.duplicate_id = k.id
        LEFT JOIN public.knowledge_items c ON c.org_id = m.org_id AND c.id = m.canonical_id
        WHERE k.org_id = :org
        """,
        org=org,
    )
    return {row.content: row.canonical for row in found}


def arrive(store: Store, org: str, texts: list[str], batches: int) -> dict[str, str]:
    """Let the texts arrive in so many batches, a run after each; scores depend on the text alone."""
    size = -(-len(texts) // batches)
    for number, start in enumerate(range(0, len(texts), size)):
        for text in texts[start : start + size]:
            insert_item(store, text, org, quality_score=0.3 + 0.01 * TEXTS.index(text))
        distil(store, org, stages=MATCHING, now=NOW + timedelta(hours=number), allow_mass_change=True)
    return canonicals(store, org)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 8))])
def test_one_batch_or_ten_in_any_order_end_in_the_same_clusters(store: Store, seed: int) -> None:
    at_once = arrive(store, "at-once", TEXTS, 1)
    shuffled = random.Random(seed).sample(TEXTS, len(TEXTS))
    assert arrive(store, "one-by-one", shuffled, 10) == at_once
    merged = sum(text != canonical for text, canonical in at_once.items())
    assert merged >= 2 * len(NOTES)
    assert len(set(at_once.values())) > len(NOTES)
