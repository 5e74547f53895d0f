"""A plan of matching thresholds over 100,000 items, from stored comparisons alone."""

import time

import pytest

from hivemind_pipelines.core.planning import OrgPlan
from hivemind_pipelines.stages import planning
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import ACME, execute, insert_items
from hivemind_pipelines_tests.stages.commons import NOW, distil, policy, services

ITEMS = 100_000
TEXT = "Retry the upload gateway with exponential backoff when the storage answers slowly"
IN_FORCE = policy(matching={"duplicate_min": 1.0})

_COPY_ITEMS = """
    INSERT INTO public.knowledge_items
        (id, org_id, is_public, source_agent_id, content, content_hash, category, confidence, quality_score,
         contributed_at, approved_at, retrieval_count, helpful_count, not_helpful_count)
    SELECT md5('item' || n)::uuid, 'acme', false, 'agent', 'note ' || n,
           encode(sha256(convert_to('note ' || n, 'UTF8')), 'hex'), 'general', 0.8, 0.5, now(), now(), 0, 0, 0
    FROM generate_series(1, :items) AS n
"""
_REGISTER = """
    INSERT INTO distillation.registered_items (org_id, item_id, kind)
    SELECT org_id, id, 'original' FROM public.knowledge_items WHERE source_agent_id = 'agent'
"""
# The stamps are those of a real item that was distilled under the policy in force.
_FEATURES = """
    INSERT INTO distillation.item_features
        (org_id, item_id, content_hash, scope_hash, class_key, signature, discriminators, stamp, probed_stamp,
         settled_stamp, topic_stamp)
    SELECT k.org_id, k.id, k.content_hash, f.scope_hash, sha256(uuid_send(k.id)), f.signature, f.discriminators,
           f.stamp, f.probed_stamp, f.settled_stamp, f.topic_stamp
    FROM public.knowledge_items k,
         (SELECT * FROM distillation.item_features ORDER BY item_id LIMIT 1) f
    WHERE k.source_agent_id = 'agent'
"""
# What detects injections has judged them, as it had to before topics were settled.
_SUSPICIONS = """
    INSERT INTO distillation.suspicions (org_id, item_id, content_hash, kinds, score, stamp)
    SELECT k.org_id, k.id, k.content_hash, s.kinds, s.score, s.stamp
    FROM public.knowledge_items k, (SELECT * FROM distillation.suspicions ORDER BY item_id LIMIT 1) s
    WHERE k.source_agent_id = 'agent'
"""
# Five neighbours an item. Those of every twentieth are compared as the two real items were; the others are
# plainly distinct.
_PAIRS = """
    INSERT INTO distillation.candidate_pairs
        (org_id, a_id, b_id, a_hash, b_hash, comparison, probability, decision, reason, stamp)
    SELECT 'acme', LEAST(a.id, b.id), GREATEST(a.id, b.id),
           CASE WHEN a.id < b.id THEN a.content_hash ELSE b.content_hash END,
           CASE WHEN a.id < b.id THEN b.content_hash ELSE a.content_hash END,
           p.comparison, CASE WHEN n % 20 = 0 THEN p.probability ELSE 0.01 END,
           CASE WHEN n % 20 = 0 THEN p.decision ELSE 'distinct' END, p.reason, p.stamp
    FROM generate_series(1, :items - 5) AS n CROSS JOIN generate_series(1, 5) AS step
    JOIN public.knowledge_items a ON a.id = md5('item' || n)::uuid
    JOIN public.knowledge_items b ON b.id = md5('item' || (n + step))::uuid
    CROSS JOIN (SELECT * FROM distillation.candidate_pairs LIMIT 1) p
"""


def lay_out(store: Store, items: int) -> None:
    """An org of so many items that a run under `IN_FORCE` has settled, without features of their own."""
    insert_items(store, [TEXT, f"{TEXT} today"])
    distil(store, now=NOW, under=IN_FORCE)
    execute(store, _COPY_ITEMS, items=items)
    execute(store, _REGISTER)
    execute(store, _FEATURES)
    execute(store, _SUSPICIONS)
    execute(store, _PAIRS, items=items)
    execute(store, "ANALYZE public.knowledge_items, distillation.item_features, distillation.candidate_pairs")


def planned(store: Store) -> tuple[OrgPlan, float]:
    """What the shipped policy would change in the org, and the seconds it took to say so."""
    began = time.monotonic()
    [org] = planning.plan(store, services(), IN_FORCE, policy(), [ACME], now=NOW).orgs
    return org, time.monotonic() - began


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_matching_thresholds_are_planned_over_100_000_items_in_a_minute(store: Store) -> None:
    lay_out(store, ITEMS)
    org, seconds = planned(store)
    print(f"{ITEMS:,} items, {org.matching.pairs:,} stored pairs: {seconds:.1f} s")
    assert org.matching.recompute == org.matching.new == 0
    assert org.matching.redecided == org.matching.pairs > 4 * ITEMS
    assert org.matching.moved == {"possible to duplicate": (ITEMS - 5) // 20 * 5 + 1}
    assert org.matching.merged > ITEMS // 20
    assert seconds < 60
