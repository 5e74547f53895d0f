"""Ten thousand items that are one: the worst case of a commons that nobody tidied."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import islice, product
from time import perf_counter, process_time
from uuid import uuid4

import pytest

from hivemind_pipelines.core.model import RunId, Stage
from hivemind_pipelines.core.receipts import MergesReceipt
from hivemind_pipelines.core.text import content_hash, normalise
from hivemind_pipelines.stages import quality_scores
from hivemind_pipelines.store import invariants
from hivemind_pipelines.store.connection import Store, copy_rows
from hivemind_pipelines_tests.builders import (
    ACME,
    LONG_AGO,
    delete_item,
    insert_item,
    public_dump,
    read_item,
    rows,
    scalar,
)
from hivemind_pipelines_tests.observed import forbidden_changes, own_digest
from hivemind_pipelines_tests.stages.commons import NOW, distil, policy

WORDS = (
    "set",
    "the",
    "pool",
    "timeout",
    "to",
    "avoid",
    "stale",
    "connections",
    "after",
    "a",
    "database",
    "failover",
)
COUNT = 10_000
FEW = 1_000
MATCHING = [Stage.ITEM_FEATURES, Stage.DUPLICATE_PAIRS, Stage.DUPLICATE_MERGES]


def variants(count: int) -> list[str]:
    """Texts that differ in case, spacing and final punctuation only."""
    spaces = (" ", "  ", "\n", "\t")
    choices = product(("", ".", "!", ":"), *[spaces] * 5, *[(str.lower, str.title)] * 4)
    texts = []
    for ending, *rest in islice(choices, count):
        gaps, cases = rest[:5], rest[5:]
        words = [case(word) for case, word in zip([*cases, *[str.lower] * 8], WORDS, strict=True)]
        glued = [word + gap for word, gap in zip(words, [*gaps, *[" "] * 6, ""], strict=True)]
        texts.append("".join(glued) + ending)
    assert {normalise(text) for text in texts[:: count // 50]} == {normalise(texts[0])}
    return texts


def insert_many(store: Store, texts: Sequence[str]) -> None:
    """Items by COPY, the first of the best quality."""
    columns = (
        "id", "org_id", "source_agent_id", "content", "content_hash", "category", "quality_score",
        "contributed_at",
    )  # fmt: skip
    rows = (
        (uuid4(), ACME, "agent-1", text, content_hash(text), "general", 0.5 if number else 0.9, LONG_AGO)
        for number, text in enumerate(texts)
    )
    with store.begin() as connection:
        copy_rows(connection, "public.knowledge_items", columns, rows)


def holds(store: Store) -> None:
    """No invariant is violated."""
    with store.read() as conn:
        assert invariants.violations(conn) == ()


@pytest.mark.parametrize("count", [FEW, pytest.param(COUNT, marks=pytest.mark.soak)])
def test_items_that_are_one_after_normalisation_become_one(
    store: Store, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    insert_many(store, variants(count))
    before = public_dump(store)
    started, started_cpu = perf_counter(), process_time()
    refused = distil(store, stages=MATCHING)[Stage.DUPLICATE_MERGES]
    looked, looked_cpu = perf_counter(), process_time()
    assert refused.outcome == "refused"
    assert f"{count - 1} of {count}" in refused.note
    assert scalar(store, "SELECT count(*) FROM public.knowledge_items WHERE expired_at IS NOT NULL") == 0
    merging = {"stages": MATCHING, "allow_mass_change": True, "now": NOW + timedelta(hours=1)}
    merges = distil(store, **merging)[Stage.DUPLICATE_MERGES]
    merged, merged_cpu = perf_counter(), process_time()
    with capsys.disabled():
        print(
            f" {count} identical: refused after {looked - started:.1f} s, {looked_cpu - started_cpu:.1f} of"
            f" this CPU; merged in {merged - looked:.1f} s, {merged_cpu - looked_cpu:.1f} of this CPU "
        )
    assert isinstance(merges, MergesReceipt)
    assert (merges.merged, merges.clusters) == (count - 1, 1)
    assert merged - started < 60
    # Merging is done by the database in a handful of statements, however many items there are.
    assert merged_cpu - looked_cpu < 5
    assert forbidden_changes(before, public_dump(store)) == []
    [canonical] = rows(
        store, "SELECT id, quality_score, tags FROM public.knowledge_items WHERE expired_at IS NULL"
    )
    assert canonical.quality_score == 0.9
    assert len(canonical.tags["provenance_links"]) == count - 1
    holds(store)
    distil(store, now=NOW + timedelta(hours=1))
    _another_twin_costs_little(store)


def _another_twin_costs_little(store: Store) -> None:
    own = own_digest(store)
    distil(store, now=NOW + timedelta(hours=2))
    assert own_digest(store) == own
    started = perf_counter()
    late = insert_item(store, " ".join(WORDS) + "…")
    distil(store, now=NOW + timedelta(hours=3))
    assert read_item(store, late)["expired_at"] is not None
    quality_scores.run(store, NOW, policy(), RunId(uuid4()))
    assert perf_counter() - started < 30
    holds(store)


@pytest.mark.soak
def test_ten_thousand_followers_of_a_removed_canonical_find_a_new_one(store: Store) -> None:
    insert_many(store, variants(COUNT))
    distil(store, allow_mass_change=True)
    [canonical] = rows(store, "SELECT id FROM public.knowledge_items WHERE expired_at IS NULL")
    delete_item(store, canonical.id)
    started = perf_counter()
    distil(store, now=NOW + timedelta(hours=4), allow_mass_change=True)
    assert scalar(store, "SELECT count(*) FROM public.knowledge_items WHERE expired_at IS NULL") == 1
    assert perf_counter() - started < 60
    holds(store)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_ten_thousand_near_duplicates_shrink_to_a_handful(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Inner punctuation keeps normalised texts apart, so every item looks for candidates of its own."""
    marks = ("", ",", ";", ":")
    texts = []
    for chosen in islice(product(marks, repeat=7), COUNT):
        words = [word + mark for word, mark in zip(WORDS, [*chosen, *[""] * 5], strict=True)]
        texts.append(" ".join(words))
    insert_many(store, texts)
    started = perf_counter()
    for hour in range(3):
        distil(store, allow_mass_change=True, now=NOW + timedelta(hours=hour))
    live = scalar(store, "SELECT count(*) FROM public.knowledge_items WHERE expired_at IS NULL")
    with capsys.disabled():
        print(f" {COUNT} near duplicates: {live} left after {perf_counter() - started:.1f} s ")
    assert live < COUNT / 5
    holds(store)
