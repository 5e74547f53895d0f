"""erasure_propagation: deletes reach what was derived, at once and once."""

from datetime import timedelta
from uuid import uuid4

from hivemind_pipelines.core.model import ItemId, OrgId, RunId
from hivemind_pipelines.core.receipts import ErasureReceipt
from hivemind_pipelines.stages import backlog, erasure_propagation
from hivemind_pipelines.store import invariants
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines.store.migrations.migrate import migrate
from hivemind_pipelines_tests.builders import (
    ACME,
    delete_item,
    execute,
    insert_item,
    insert_items,
    org_dump,
    read_item,
    rows,
    scalar,
    set_item,
)
from hivemind_pipelines_tests.stages.commons import NOW, distil, policy

FIX = "Set the pool timeout to avoid stale connections after a database failover"
RELATED = [
    "Retry the upload with exponential backoff when the storage gateway answers slowly",
    "Rotate the storage gateway certificates before the upload window opens each quarter",
    "Compress the upload stream so that the storage gateway answers within its budget",
    "Measure how slowly the storage gateway answers before the upload retries begin",
]
LATER = NOW + timedelta(minutes=5)
LOOSE = policy(topics={"distance_max": 0.9}, matching={"duplicate_min": 1.0})
LIVE_SUMMARIES = """
    SELECT count(*) FROM public.knowledge_items WHERE source_agent_id = 'distillation' AND expired_at IS NULL
"""


def propagate(store: Store, org: str = ACME) -> ErasureReceipt:
    """One run of one org."""
    return erasure_propagation.run(store, LATER, LOOSE, RunId(uuid4()), OrgId(org))


def holds(store: Store) -> None:
    """No invariant is violated."""
    with store.read() as conn:
        assert invariants.violations(conn) == ()


def distilled_commons(store: Store) -> list[ItemId]:
    """Four related items of one topic, with its summary."""
    ids = insert_items(store, RELATED)
    distil(store, under=LOOSE)
    assert scalar(store, LIVE_SUMMARIES) == 1
    return ids


def test_a_deleted_source_retires_its_summary(store: Store) -> None:
    source, *_ = distilled_commons(store)
    set_item(store, source, deleted_at=LATER)
    receipt = propagate(store)
    assert (receipt.deleted, receipt.summaries_retired) == (1, 1)
    assert scalar(store, LIVE_SUMMARIES) == 0
    holds(store)


def test_a_removed_source_retires_its_summary_and_leaves_no_features(store: Store) -> None:
    source, *_ = distilled_commons(store)
    delete_item(store, source)
    receipt = propagate(store)
    assert (receipt.gone, receipt.summaries_retired) == (1, 1)
    assert (
        scalar(store, "SELECT count(*) FROM distillation.item_features WHERE item_id = :id", id=source) == 0
    )
    assert scalar(store, "SELECT count(*) FROM distillation.lsh_bands WHERE item_id = :id", id=source) == 0
    holds(store)


def test_the_rest_of_the_topic_is_due_again_and_gets_its_own_summary(store: Store) -> None:
    source, *rest = distilled_commons(store)
    set_item(store, source, deleted_at=LATER)
    propagate(store)
    distil(store, under=LOOSE, now=NOW + timedelta(hours=1))
    [summary] = rows(
        store,
        "SELECT tags FROM public.knowledge_items WHERE source_agent_id = 'distillation' AND expired_at IS NULL",
    )
    assert summary.tags["source_item_ids"] == sorted(map(str, rest))
    holds(store)


def test_followers_of_a_deleted_canonical_come_back_before_any_other_work(store: Store) -> None:
    kept = insert_item(store, FIX, quality_score=0.9)
    merged = insert_item(store, f"{FIX}.", tags={"mine": 1})
    distil(store)
    set_item(store, kept, deleted_at=LATER)
    assert propagate(store).followers_revived == 1
    assert read_item(store, merged)["expired_at"] is None
    assert read_item(store, merged)["tags"] == {"mine": 1}
    assert read_item(store, kept)["tags"] is None
    holds(store)


def test_a_restored_item_is_forgotten_as_deleted(store: Store) -> None:
    source, *_ = distilled_commons(store)
    set_item(store, source, deleted_at=LATER)
    propagate(store)
    set_item(store, source, deleted_at=None)
    assert propagate(store).restored == 1
    assert scalar(store, "SELECT count(*) FROM distillation.tombstones") == 0
    distil(store, under=LOOSE, now=NOW + timedelta(hours=1))
    assert scalar(store, LIVE_SUMMARIES) == 1
    holds(store)


def test_a_second_run_finds_nothing_and_writes_nothing(store: Store) -> None:
    source, *_ = distilled_commons(store)
    set_item(store, source, deleted_at=LATER)
    propagate(store)
    before = org_dump(store)
    runs = scalar(store, "SELECT count(*) FROM distillation.runs")
    assert propagate(store).outcome == "nothing_due"
    assert org_dump(store) == before
    assert scalar(store, "SELECT count(*) FROM distillation.runs") == runs


def test_only_orgs_with_losses_are_named(store: Store) -> None:
    source, *_ = distilled_commons(store)
    insert_item(store, FIX, "globex")
    distil(store, "globex")
    set_item(store, source, deleted_at=LATER)
    assert backlog.erasure_orgs(store) == (ACME,)


def test_an_item_deleted_before_it_was_ever_seen_is_no_loss(store: Store) -> None:
    insert_item(store, FIX, deleted_at=NOW)
    assert backlog.erasure_orgs(store) == ()


def test_every_effect_is_in_the_ledger(store: Store) -> None:
    source, *_ = distilled_commons(store)
    set_item(store, source, deleted_at=LATER)
    receipt = propagate(store)
    changes = rows(store, "SELECT change FROM distillation.ledger WHERE run_id = :run", run=receipt.run_id)
    assert sorted(row.change for row in changes) == ["lose", "retire"]


def test_a_legacy_merge_that_never_ends_comes_back_with_its_deleted_canonical(store: Store) -> None:
    kept = insert_item(store, FIX)
    merged = insert_item(store, "An older note", expired_at="infinity")
    set_item(store, kept, tags={"provenance_links": [str(merged)]})
    migrate(store)
    assert scalar(store, "SELECT count(*) FROM distillation.merges WHERE is_legacy") == 1
    set_item(store, kept, deleted_at=LATER)
    assert propagate(store).followers_revived == 1
    assert read_item(store, merged)["expired_at"] is None
    holds(store)


def test_a_restored_follower_of_a_lost_canonical_comes_back(store: Store) -> None:
    kept = insert_item(store, FIX)
    merged = insert_item(store, "An older note", expired_at=NOW)
    set_item(store, kept, tags={"provenance_links": [str(merged)]})
    migrate(store)
    set_item(store, merged, deleted_at=LATER)
    propagate(store)
    set_item(store, kept, deleted_at=LATER)
    propagate(store)
    set_item(store, merged, deleted_at=None)
    propagate(store)
    assert read_item(store, merged)["expired_at"] is None
    holds(store)


def test_a_summary_that_would_say_the_same_again_comes_back_for_the_rest(store: Store) -> None:
    quoted = policy(
        topics={"distance_max": 0.9},
        matching={"duplicate_min": 1.0},
        summary={"method": "extractive", "sentences_max": 2},
    )
    ids = insert_items(store, RELATED)
    distil(store, under=quoted)
    [before] = rows(
        store, "SELECT id, content FROM public.knowledge_items WHERE source_agent_id = 'distillation'"
    )
    unquoted = next(item for item in ids if read_item(store, item)["content"] not in before.content)
    set_item(store, unquoted, deleted_at=LATER)
    distil(store, under=quoted, now=NOW + timedelta(hours=1))
    live = rows(
        store,
        "SELECT id, content, tags FROM public.knowledge_items"
        " WHERE source_agent_id = 'distillation' AND expired_at IS NULL",
    )
    assert len(live) == 1
    assert str(unquoted) not in live[0].tags["source_item_ids"]
    again = distil(store, under=quoted, now=NOW + timedelta(hours=2))
    assert {receipt.outcome for receipt in again.values()} == {"nothing_due"}
    holds(store)


def test_verdicts_of_the_model_go_with_a_removed_text(store: Store) -> None:
    removed, kept, other = insert_items(store, RELATED[:3])
    distil(store)
    hashes = {one: read_item(store, one)["content_hash"] for one in (removed, kept, other)}
    for a_hash, b_hash in ((hashes[removed], hashes[kept]), (hashes[kept], hashes[other])):
        execute(
            store,
            "INSERT INTO distillation.llm_verdicts VALUES (:org, LEAST(:a COLLATE \"C\", :b COLLATE \"C\"),"
            " GREATEST(:a COLLATE \"C\", :b COLLATE \"C\"), 'v', 'm', true, 1)",
            org=ACME, a=a_hash, b=b_hash,
        )  # fmt: skip
    delete_item(store, removed)
    propagate(store)
    [left] = rows(store, "SELECT a_hash, b_hash FROM distillation.llm_verdicts")
    assert {left.a_hash, left.b_hash} == {hashes[kept], hashes[other]}
