"""Random cascades: whatever was made of an item in whatever history, its erasure leaves nothing of it."""

import random
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hivemind_pipelines.core.model import ItemId
from hivemind_pipelines.core.text import content_hash
from hivemind_pipelines.stages import erasing
from hivemind_pipelines.stages.erasing import Office
from hivemind_pipelines.stages.residual_scan import Places
from hivemind_pipelines.store import invariants
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import ACME, execute, insert_item, insert_signal, rows, set_item
from hivemind_pipelines_tests.stages.commons import distil, policy
from hivemind_pipelines_tests.stages.test_erasing import whole_database

KEY = b"a key of the tests alone, 32 bytes"
LOOSE = policy(
    topics={"distance_max": 0.9, "size_max": 6}, safety={"mass_change_share_max": 1.0},
    contradiction={"cosine_min": 0.3},
)  # fmt: skip
SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu", "na", "pe", "ri", "so", "tu", "va")


def word(chance: random.Random) -> str:
    """A word that no language has."""
    return "".join(chance.choice(SYLLABLES) for _ in range(3))


def fill(store: Store, chance: random.Random, topics: int) -> None:
    """Topics of notes of their own words, some in several spellings, with signals of every kind."""
    for _ in range(topics):
        subject = " ".join(word(chance) for _ in range(4))
        notes = [f"{subject} {' '.join(word(chance) for _ in range(5))}" for _ in range(chance.randint(1, 4))]
        for note in notes:
            for ending in chance.sample(["", ".", "!", " now"], k=chance.randint(1, 3)):
                item = insert_item(
                    store, note + ending, quality_score=chance.random(),
                    source_agent_id=f"agent-{chance.randint(1, 2)}", tags=chance.choice([None, {"said": note}]),
                )  # fmt: skip
                if chance.random() < 0.5:
                    kind = chance.choice(["contradiction", "contradiction", "retrieval"])
                    insert_signal(store, item, kind, metadata={"said": note})


def cascade(store: Store, office: Office, chance: random.Random) -> None:
    """Erase some random items after whatever happened, and find nothing of them anywhere."""
    standing = rows(
        store,
        "SELECT k.id, k.content FROM public.knowledge_items k"
        " LEFT JOIN distillation.tombstones t ON t.item_id = k.id AND t.kind = 'erased'"
        " WHERE k.source_agent_id <> 'distillation' AND t.item_id IS NULL ORDER BY k.content",
    )
    if len(standing) < 12:
        fill(store, chance, 4)
        distil(store, under=LOOSE, now=datetime.now(UTC), full=chance.random() < 0.2)
        return cascade(store, office, chance)
    chosen = chance.sample(standing, k=chance.choice([1, 1, 2, 3]))
    if chance.random() < 0.3:
        set_item(store, chosen[0].id, deleted_at=datetime.now(UTC))
    if chance.random() < 0.2:
        execute(store, "DELETE FROM public.knowledge_items WHERE id = :id", id=chosen[-1].id)
    done = erasing.erase(
        office, LOOSE, [ItemId(row.id) for row in chosen],
        reason="a cascade", with_copies=chance.random() < 0.3, now=datetime.now(UTC),
    )  # fmt: skip
    assert [one.residue for one in done.issued] == [{}]
    everything = whole_database(store)
    assert not any(content_hash(row.content) in everything for row in chosen)
    if chance.random() < 0.3:
        distil(store, under=LOOSE, now=datetime.now(UTC))
    with store.read() as conn:
        assert invariants.violations(conn) == ()
    return None


def test_a_dozen_random_cascades_leave_nothing(store: Store, tmp_path: Path) -> None:
    chance = random.Random(12)
    office = Office(Places(store, directories=(tmp_path,)), tmp_path, KEY)
    for _ in range(12):
        cascade(store, office, chance)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(20))
def test_a_thousand_random_cascades_leave_nothing(store: Store, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    office = Office(Places(store, directories=(tmp_path,)), tmp_path, KEY)
    for _ in range(50):
        cascade(store, office, chance)


EDGES = 100_000
SECONDS_MAX = 60

GRAPH = (
    """
    INSERT INTO public.knowledge_items (id, org_id, source_agent_id, content, content_hash, category,
        expired_at, quality_score, confidence, is_public, retrieval_count, helpful_count, not_helpful_count,
        contributed_at, approved_at)
    SELECT md5('item' || n)::uuid, :org, 'agent', 'note number ' || n || ' says ' || md5('said' || n),
        encode(sha256(convert_to('note number ' || n || ' says ' || md5('said' || n), 'UTF8')), 'hex'), 'general',
        CASE WHEN n > 0 THEN '2026-01-01'::timestamptz END, 0.5, 0.8, false, 0, 0, 0, now(), now()
    FROM generate_series(0, :edges / 2) n
    """,
    """
    INSERT INTO distillation.registered_items SELECT :org, md5('item' || n)::uuid, 'original'
    FROM generate_series(0, :edges / 2) n
    """,
    # One long chain: every link has to be followed.
    """
    INSERT INTO distillation.merges (org_id, duplicate_id, canonical_id, expired_at, stamp)
    SELECT :org, md5('item' || n)::uuid, md5('item' || n - 1)::uuid, '2026-01-01', 's'
    FROM generate_series(1, :edges / 2) n
    """,
    """
    INSERT INTO distillation.item_features
        (org_id, item_id, content_hash, scope_hash, class_key, signature, discriminators, stamp)
    SELECT org_id, id, content_hash, 'scope', sha256(uuid_send(id)), '', '{}', 's'
    FROM public.knowledge_items
    """,
    """
    INSERT INTO distillation.candidate_pairs
        (org_id, a_id, b_id, a_hash, b_hash, comparison, probability, decision, reason, stamp)
    SELECT :org, LEAST(a.id, b.id), GREATEST(a.id, b.id), a.content_hash, b.content_hash, '{"vetoes": []}',
        0.9, 'duplicate', 'model', 's'
    FROM generate_series(1, :edges / 2) n
    JOIN public.knowledge_items a ON a.id = md5('item' || n)::uuid
    JOIN public.knowledge_items b ON b.id = md5('item' || 0)::uuid
    """,
)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_graph_of_a_hundred_thousand_edges_is_erased_in_time(store: Store, tmp_path: Path) -> None:
    for statement in GRAPH:
        execute(store, statement, **{name: value for name, value in (("org", ACME), ("edges", EDGES))
                                     if f":{name}" in statement})  # fmt: skip
    execute(store, "ANALYZE")
    [first] = rows(store, "SELECT md5('item' || 0)::uuid AS id")
    office = Office(Places(store, directories=(tmp_path,)), tmp_path, KEY)
    started, cpu_before = time.monotonic(), time.process_time()
    [issued] = erasing.erase(
        office, LOOSE, [ItemId(first.id)], reason="a graph", with_copies=True, now=datetime.now(UTC)
    ).issued
    took = time.monotonic() - started
    print(f"{EDGES:,} edges: {took:.1f} s, {time.process_time() - cpu_before:.1f} CPU-s of this process")
    assert issued.residue == {}
    assert issued.receipt["copies_total"] == EDGES // 2
    assert took < SECONDS_MAX
