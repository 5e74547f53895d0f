"""The stages of a run, one after the other, on a real Postgres."""

from datetime import timedelta

import pytest

from hivemind_pipelines.core.model import Stage
from hivemind_pipelines.core.receipts import MergesReceipt, PairsReceipt, SummariesReceipt
from hivemind_pipelines.store import invariants
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import (
    ACME,
    execute,
    insert_item,
    insert_items,
    insert_pending,
    insert_signal,
    org_dump,
    public_dump,
    read_item,
    rows,
    scalar,
    set_item,
    unit_vector,
    vector_near,
)
from hivemind_pipelines_tests.stages.commons import NOW, distil, policy

FIX = "Set the pool timeout to avoid stale connections after a database failover"
RETRY = [
    "Retry the upload with exponential backoff when the storage gateway answers slowly",
    "When the storage gateway answers slowly the upload should retry with exponential backoff and jitter",
    "Uploads retry with exponential backoff while the storage gateway answers slowly under load",
]


def holds(store: Store) -> None:
    """No invariant is violated."""
    with store.read() as conn:
        assert invariants.violations(conn) == ()


def test_a_near_duplicate_expires_in_favour_of_its_canonical(store: Store) -> None:
    kept = insert_item(store, FIX, quality_score=0.9)
    merged = insert_item(store, f"{FIX}.")
    receipts = distil(store)
    assert isinstance(receipts[Stage.DUPLICATE_MERGES], MergesReceipt)
    assert receipts[Stage.DUPLICATE_MERGES].merged == 1
    assert read_item(store, kept)["tags"] == {"provenance_links": [str(merged)]}
    assert read_item(store, kept)["expired_at"] is None
    assert read_item(store, merged)["expired_at"] is not None
    holds(store)


def test_a_second_run_changes_nothing(store: Store) -> None:
    insert_items(store, [FIX, f"{FIX}.", *RETRY])
    insert_pending(store, "x", confidence=0.1)
    distil(store)
    before = org_dump(store)
    receipts = distil(store, now=NOW + timedelta(hours=1))
    assert {receipt.outcome for receipt in receipts.values()} == {"nothing_due"}
    assert org_dump(store) == before


def test_texts_that_differ_in_a_version_are_not_merged(store: Store) -> None:
    insert_items(store, [f"{FIX} on Postgres {version}" for version in ("14.1", "15.2")])
    assert distil(store)[Stage.DUPLICATE_MERGES].applied == 0


def test_equal_texts_of_two_orgs_are_not_merged(store: Store) -> None:
    insert_item(store, FIX, "acme")
    insert_item(store, FIX, "globex")
    other = org_dump(store, "globex")
    assert distil(store, "acme")[Stage.DUPLICATE_MERGES].applied == 0
    assert org_dump(store, "globex") == other


def test_a_public_item_never_expires_for_a_private_one(store: Store) -> None:
    public = insert_item(store, FIX, is_public=True, quality_score=0.1)
    insert_item(store, f"{FIX}.", quality_score=0.9)
    distil(store)
    assert read_item(store, public)["expired_at"] is None


def test_the_tags_of_a_canonical_that_are_no_object_stay_as_they_are(store: Store) -> None:
    kept = insert_item(store, FIX, quality_score=0.9, tags=["a", "b"])
    merged = insert_item(store, f"{FIX}.")
    distil(store)
    assert read_item(store, kept)["tags"] == ["a", "b"]
    assert read_item(store, merged)["expired_at"] is not None
    holds(store)


def test_a_merge_that_the_policy_no_longer_supports_is_taken_back_exactly(store: Store) -> None:
    insert_item(store, FIX, quality_score=0.9)
    insert_item(store, FIX.replace("avoid", "avoid the"), quality_score=0.4)
    loose = policy(matching={"duplicate_min": 0.5})
    before = org_dump(store)
    assert distil(store, under=loose)[Stage.DUPLICATE_MERGES].applied == 1
    never = policy(matching={"duplicate_min": 1.0})
    receipts = distil(store, under=never, now=NOW + timedelta(hours=1))
    assert isinstance(receipts[Stage.DUPLICATE_PAIRS], PairsReceipt)
    assert receipts[Stage.DUPLICATE_PAIRS].compared == 0
    after = org_dump(store)
    for dump in (before, after):
        for row in dump["knowledge_items"].values():
            row.pop("embedding")
    assert after == before
    holds(store)


def test_followers_of_a_deleted_canonical_get_a_new_one(store: Store) -> None:
    first = insert_item(store, FIX, quality_score=0.9)
    second = insert_item(store, f"{FIX}.", quality_score=0.6)
    third = insert_item(store, f"{FIX}!", quality_score=0.5)
    distil(store)
    set_item(store, first, deleted_at=NOW)
    distil(store, now=NOW + timedelta(hours=1))
    assert read_item(store, second)["expired_at"] is None
    assert read_item(store, third)["expired_at"] is not None
    assert read_item(store, second)["tags"] == {"provenance_links": [str(third)]}
    holds(store)


def test_the_canonical_of_a_settled_component_stays_when_scores_move(store: Store) -> None:
    kept = insert_item(store, FIX, quality_score=0.9)
    merged = insert_item(store, f"{FIX}.", quality_score=0.5)
    distil(store)
    set_item(store, kept, quality_score=0.1)
    assert distil(store, now=NOW + timedelta(hours=1))[Stage.DUPLICATE_MERGES].applied == 0
    assert read_item(store, merged)["expired_at"] is not None


def test_a_plan_that_expires_too_much_is_refused_whole(store: Store) -> None:
    insert_items(store, [f"{FIX}{'.' * count}" for count in range(60)])
    before = org_dump(store)
    refused = distil(store, stages=[Stage.ITEM_FEATURES, Stage.DUPLICATE_PAIRS, Stage.DUPLICATE_MERGES])
    merges = refused[Stage.DUPLICATE_MERGES]
    assert merges.outcome == "refused"
    assert "59 of 60" in merges.note
    expired = scalar(store, "SELECT count(*) FROM public.knowledge_items WHERE expired_at IS NOT NULL")
    assert (expired, len(before["knowledge_items"])) == (0, 60)
    allowed = distil(store, allow_mass_change=True, now=NOW + timedelta(hours=1))
    assert allowed[Stage.DUPLICATE_MERGES].applied == 59
    holds(store)


def test_related_items_get_a_summary_with_its_sources(store: Store) -> None:
    sources = insert_items(store, RETRY)
    loose = policy(topics={"distance_max": 0.7})
    receipts = distil(store, under=loose)
    assert isinstance(receipts[Stage.CLUSTER_SUMMARIES], SummariesReceipt)
    assert receipts[Stage.CLUSTER_SUMMARIES].published == 1
    [summary] = rows(
        store, "SELECT to_jsonb(k) AS k FROM public.knowledge_items k WHERE source_agent_id = 'distillation'"
    )
    item = summary.k
    assert (item["is_public"], item["confidence"], item["quality_score"]) == (False, 0.8, 0.6)
    assert item["tags"] == {"distilled": True, "source_item_ids": sorted(map(str, sources))}
    assert item["embedding"] is not None
    again = distil(store, under=loose, now=NOW + timedelta(hours=1))
    assert {receipt.outcome for receipt in again.values()} == {"nothing_due"}
    holds(store)


def test_a_summary_goes_with_its_source_and_comes_back_with_it(store: Store) -> None:
    source, *_ = insert_items(store, RETRY)
    loose = policy(topics={"distance_max": 0.7})
    distil(store, under=loose)
    live = "SELECT count(*) FROM public.knowledge_items WHERE source_agent_id = 'distillation' AND expired_at IS NULL"
    set_item(store, source, deleted_at=NOW)
    distil(store, under=loose, now=NOW + timedelta(hours=1))
    assert scalar(store, live) == 0
    set_item(store, source, deleted_at=None)
    receipts = distil(store, under=loose, now=NOW + timedelta(hours=2))
    assert receipts[Stage.CLUSTER_SUMMARIES].counts()["revived"] == 1
    assert scalar(store, live) == 1
    holds(store)


def test_a_secret_of_the_sources_is_replaced_before_the_summary_is_stored(store: Store) -> None:
    secret = "AKIA" + "Q7ZP4M2XN8L5RT3W"
    insert_items(store, [f"{text} using access key {secret} of the gateway" for text in RETRY])
    distil(store, under=policy(topics={"distance_max": 0.9}, matching={"duplicate_min": 1.0}))
    summaries = rows(
        store, "SELECT content FROM public.knowledge_items WHERE source_agent_id = 'distillation'"
    )
    assert len(summaries) == 1
    assert secret not in summaries[0].content


def test_a_changed_topic_replaces_its_summary(store: Store) -> None:
    insert_items(store, RETRY)
    loose = policy(topics={"distance_max": 0.8})
    distil(store, under=loose)
    insert_item(
        store, "The upload must retry with exponential backoff as the storage gateway answers slowly today"
    )
    receipts = distil(store, under=loose, now=NOW + timedelta(hours=1))
    counts = receipts[Stage.CLUSTER_SUMMARIES].counts()
    assert (counts["published"], counts["retired"]) == (1, 1)
    holds(store)


def test_contradiction_signals_become_one_case_with_one_signal(store: Store) -> None:
    vector = unit_vector(1)
    a = insert_item(store, "The cache must be warmed before the release", embedding=vector)
    b = insert_item(store, "The cache must stay cold before the release", embedding=vector_near(vector, 0.9))
    c = insert_item(store, "Invoices are sent on Mondays", embedding=unit_vector(2))
    for item in (a, b, c):
        insert_signal(store, item)
    receipts = distil(store)
    assert receipts[Stage.CONTRADICTION_CASES].counts()["opened"] == 1
    [signal] = rows(
        store,
        "SELECT knowledge_item_id, metadata FROM public.quality_signals WHERE signal_type = 'contradiction_cluster'",
    )
    assert signal.knowledge_item_id == min(a, b)
    assert signal.metadata["conflicting_item_ids"] == sorted([str(a), str(b)])
    assert (signal.metadata["category"], signal.metadata["org_id"]) == ("general", ACME)
    again = distil(store, now=NOW + timedelta(hours=1))
    assert again[Stage.CONTRADICTION_CASES].outcome == "nothing_due"
    assert scalar(store, "SELECT count(*) FROM public.knowledge_items WHERE expired_at IS NOT NULL") == 0
    holds(store)


def test_items_of_an_open_case_are_not_summarised(store: Store) -> None:
    ids = insert_items(store, RETRY)
    for item in ids[:2]:
        insert_signal(store, item)
    receipts = distil(store, under=policy(topics={"distance_max": 0.7}, contradiction={"cosine_min": 0.2}))
    assert receipts[Stage.CONTRADICTION_CASES].counts()["opened"] == 1
    assert receipts[Stage.CLUSTER_SUMMARIES].counts()["published"] == 0


@pytest.mark.parametrize(
    ("confidence", "is_flagged"), [(0.1, True), (0.32, True), (0.34, False), (0.9, False)]
)
def test_pending_rows_below_the_limit_are_labelled(store: Store, confidence: float, is_flagged: bool) -> None:
    insert_pending(store, "A note", confidence=confidence, tags={"mine": 1})
    distil(store)
    [row] = rows(store, "SELECT tags FROM public.pending_contributions")
    assert row.tags["mine"] == 1
    assert row.tags.get("low_quality_prescreened", False) is is_flagged
    if is_flagged:
        assert row.tags["preliminary_quality_score"] == pytest.approx(0.3 - 0.15 * (1 - confidence))


@pytest.mark.parametrize("tags", ["text", [1, 2], 7])
def test_pending_tags_that_are_no_object_stay_as_they_are(store: Store, tags: object) -> None:
    insert_pending(store, "A note", confidence=0.0, tags=tags)
    distil(store)
    assert rows(store, "SELECT tags FROM public.pending_contributions")[0].tags == tags


def test_a_dry_run_plans_everything_and_writes_no_public_row(store: Store) -> None:
    insert_items(store, [FIX, f"{FIX}.", *RETRY])
    insert_pending(store, "x", confidence=0.1)
    before = public_dump(store)
    loose = policy(topics={"distance_max": 0.7})
    planned = distil(store, under=loose, dry_run=True)
    assert public_dump(store) == before
    assert scalar(store, "SELECT count(*) FROM distillation.runs") == 0
    done = distil(store, under=loose)
    for stage in (Stage.DUPLICATE_MERGES, Stage.TOPIC_CLUSTERS, Stage.PRESCREENED_CONTRIBUTIONS):
        assert planned[stage].applied == done[stage].applied, stage
    assert (
        planned[Stage.CLUSTER_SUMMARIES].counts()["published"]
        == done[Stage.CLUSTER_SUMMARIES].counts()["published"]
    )


def test_a_hard_deleted_item_takes_its_features_and_summaries_with_it(store: Store) -> None:
    gone, *_ = insert_items(store, RETRY)
    loose = policy(topics={"distance_max": 0.7})
    distil(store, under=loose)
    execute(store, "DELETE FROM public.knowledge_items WHERE id = :id", id=gone)
    distil(store, under=loose, now=NOW + timedelta(hours=1))
    assert scalar(store, "SELECT count(*) FROM distillation.item_features WHERE item_id = :id", id=gone) == 0
    live = "SELECT count(*) FROM public.knowledge_items WHERE source_agent_id = 'distillation' AND expired_at IS NULL"
    assert scalar(store, live) == 0
    holds(store)
