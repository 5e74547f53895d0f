"""The set-based statement against one query set an item, on the same rows, in one run."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, text

from hivemind_pipelines.core import quality
from hivemind_pipelines.core.model import RunId
from hivemind_pipelines.core.quality import QualityInputs
from hivemind_pipelines.stages import quality_scores
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import execute, rows, scalar
from hivemind_pipelines_tests.stages.commons import NOW, policy

FILL_ITEMS = """
    INSERT INTO public.knowledge_items (id, org_id, source_agent_id, content, content_hash, category,
        approved_at, retrieval_count, helpful_count, not_helpful_count)
    SELECT md5('item' || n)::uuid, 'acme', 'agent', 'note ' || n, encode(sha256(n::text::bytea), 'hex'),
           'general', CAST(:now AS timestamptz) - (n % 400) * interval '1 day', n % 90, n % 7, n % 3
    FROM generate_series(1, :items) AS n
"""
FILL_SIGNALS = """
    INSERT INTO public.quality_signals (knowledge_item_id, signal_type, agent_id, created_at)
    SELECT md5('item' || (1 + n % :items))::uuid,
           (ARRAY['retrieval', 'outcome_solved', 'outcome_not_helpful', 'contradiction'])[1 + n % 4],
           'agent', CAST(:now AS timestamptz) - (n % 300) * interval '1 day'
    FROM generate_series(1, :signals) AS n
"""

# What a server does that keeps no state: the item, its merged items, its signals, the score.
ITEM = text("SELECT * FROM public.knowledge_items WHERE id = :id")
MERGED = text("""
    SELECT COALESCE(sum(d.retrieval_count), 0) AS retrievals, COALESCE(sum(d.helpful_count), 0) AS helpful,
           COALESCE(sum(d.not_helpful_count), 0) AS not_helpful
    FROM distillation.merges m JOIN public.knowledge_items d ON d.id = m.duplicate_id
    WHERE m.org_id = 'acme' AND m.canonical_id = :id
""")
COUNTS = text("""
    SELECT count(*) FILTER (WHERE signal_type <> 'contradiction_cluster') AS signals,
           count(*) FILTER (WHERE signal_type = 'contradiction') AS contradictions,
           max(created_at) FILTER (WHERE signal_type <> 'contradiction') AS last_at
    FROM public.quality_signals WHERE knowledge_item_id = :id
""")
WRITE = text("UPDATE public.knowledge_items SET quality_score = :score WHERE id = :id")
# What the statement leaves beside the score: the means to undo it, and to know what did not change.
RECORD = text("""
    INSERT INTO distillation.ledger (org_id, run_id, change, subject_id, before, after, stamp, at)
    VALUES ('acme', :run_id, 'rescore', :id, jsonb_build_object('quality_score', CAST(:before AS float8)),
            jsonb_build_object('quality_score', CAST(:score AS float8)), '', :at)
""")
REMEMBER = text("""
    INSERT INTO distillation.quality_inputs
        (org_id, item_id, retrievals, helpful, not_helpful, signals, contradictions, accessed_at, is_current,
         score, day, stamp)
    VALUES ('acme', :id, :retrievals, :helpful, :not_helpful, :signals, :contradictions, :accessed_at, true,
            :score, CAST(:at AS date), '')
""")


def one_by_one(conn: Connection, item_id: UUID, *, is_recorded: bool) -> None:
    """The score of one item by queries of its own; written when it moved, with its record if asked for."""
    item = conn.execute(ITEM, {"id": item_id}).one()
    merged = conn.execute(MERGED, {"id": item_id}).one()
    counts = conn.execute(COUNTS, {"id": item_id}).one()
    inputs = QualityInputs(
        retrieval_count=item.retrieval_count + merged.retrievals,
        helpful_count=item.helpful_count + merged.helpful,
        not_helpful_count=item.not_helpful_count + merged.not_helpful,
        signal_count=counts.signals,
        contradiction_count=counts.contradictions,
        last_signal_at=counts.last_at,
        approved_at=item.approved_at,
        invalid_at=item.invalid_at,
    )
    score = quality.score(inputs, policy().quality, NOW)
    is_moved = abs(score - item.quality_score) >= policy().quality.min_change
    if is_moved:
        conn.execute(WRITE, {"id": item_id, "score": score})
    if is_moved and is_recorded:
        moved = {"before": item.quality_score, "score": score, "run_id": uuid4(), "at": NOW}
        conn.execute(RECORD, {"id": item_id, **moved})
    if is_recorded:
        seen = {
            "retrievals": inputs.retrieval_count, "helpful": inputs.helpful_count,
            "not_helpful": inputs.not_helpful_count, "signals": inputs.signal_count,
            "contradictions": inputs.contradiction_count, "accessed_at": counts.last_at,
        }  # fmt: skip
        conn.execute(REMEMBER, {"id": item_id, "score": score, "at": NOW, **seen})


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = perf_counter()
    yield
    seconds[name] = perf_counter() - started


def race(store: Store, *, items: int, signals: int) -> dict[str, float]:
    """Seconds of each way over the same unscored rows, and of runs after it; both leave the same scores."""
    execute(store, FILL_ITEMS, now=NOW, items=items)
    execute(store, FILL_SIGNALS, now=NOW, items=items, signals=signals)
    execute(store, "ANALYZE public.knowledge_items, public.quality_signals")
    ids = [row.id for row in rows(store, "SELECT id FROM public.knowledge_items ORDER BY id")]
    seconds: dict[str, float] = {}
    for name in ("one by one", "one by one, recorded"):
        with timed(seconds, name), store.begin() as conn:
            for item_id in ids:
                one_by_one(conn, item_id, is_recorded=name.endswith("recorded"))
        by_loop = scores(store)
        execute(store, "UPDATE public.knowledge_items SET quality_score = 0.5")
    execute(store, "DELETE FROM distillation.quality_inputs")
    with timed(seconds, "first run"):
        first = quality_scores.run(store, NOW, policy(), RunId(uuid4()))
    assert first.scored == items
    assert scores(store) == pytest.approx(by_loop, abs=1e-9)
    with timed(seconds, "nothing changed"):
        assert quality_scores.run(store, NOW, policy(), RunId(uuid4())).scored == 0
    execute(
        store,
        "UPDATE public.knowledge_items SET helpful_count = helpful_count + 50 WHERE retrieval_count = 5",
    )
    with timed(seconds, "one in ninety changed"):
        again = quality_scores.run(store, NOW, policy(), RunId(uuid4()))
    assert again.scored == scalar(
        store, "SELECT count(*) FROM public.knowledge_items WHERE retrieval_count = 5"
    )
    return seconds


def scores(store: Store) -> list[float]:
    return [
        row.quality_score
        for row in rows(store, "SELECT quality_score FROM public.knowledge_items ORDER BY id")
    ]


def test_set_based_scoring_leaves_what_a_loop_leaves_and_is_faster(store: Store) -> None:
    seconds = race(store, items=400, signals=4_000)
    assert seconds["one by one"] > 3 * seconds["nothing changed"]


@pytest.mark.soak
def test_ten_thousand_items_and_a_hundred_thousand_signals(store: Store) -> None:
    seconds = race(store, items=10_000, signals=100_000)
    loops = [seconds["one by one"], seconds["one by one, recorded"]]
    for name, took in seconds.items():
        bare, recorded = (loop / took for loop in loops)
        print(
            f"{name}: {took:.3f} s, {bare:,.0f} times as fast as one by one, {recorded:,.0f} with its record"
        )
    # The first run writes three rows an item, as the recorded loop does: it saves the queries alone.
    assert loops[1] > 20 * seconds["first run"]
    for name in ("nothing changed", "one in ninety changed"):
        assert loops[1] > 100 * seconds[name]
