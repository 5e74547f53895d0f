"""Undo: exactly what we did comes back, whatever others did since; what cannot is named."""

import threading
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from hivemind_pipelines.core.model import CaseId, ItemId, RunId, Stage
from hivemind_pipelines.core.undo import CaseTarget, MergeTarget, RunTarget
from hivemind_pipelines.stages import quality_scores, undo
from hivemind_pipelines.stages.undo import Undone, UnknownTarget
from hivemind_pipelines.store import invariants
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import (
    ACME,
    JSON_NULL,
    Dump,
    delete_item,
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
LOOSE = policy(topics={"distance_max": 0.7})


def later(hours: int) -> Any:
    return NOW + timedelta(hours=hours)


def last_run(store: Store) -> str:
    return str(scalar(store, "SELECT run_id FROM distillation.runs ORDER BY as_of DESC LIMIT 1"))


def undo_run(store: Store, run: str | None = None, hours: int = 1, **options: Any) -> Undone:
    return undo.run(store, policy(), RunTarget(run or last_run(store)), now=later(hours), **options)


def undo_merge(store: Store, item: ItemId, hours: int = 1) -> Undone:
    return undo.run(store, policy(), MergeTarget(item), now=later(hours))


def reasons(done: Undone) -> list[str]:
    return [refusal.reason for plan in done.plans.values() for refusal in plan.refusals]


def holds(store: Store) -> None:
    with store.read() as conn:
        assert invariants.violations(conn) == ()


def originals(dump: Dump) -> Dump:
    """The rows that were there before any run, without the embeddings that undo leaves."""
    kept = {
        key: {name: value for name, value in row.items() if name != "embedding"}
        for key, row in dump["knowledge_items"].items()
        if row["source_agent_id"] != "distillation"
    }
    signals = {
        key: row
        for key, row in dump["quality_signals"].items()
        if row["signal_type"] != "contradiction_cluster"
    }
    return dump | {"knowledge_items": kept, "quality_signals": signals}


def live_summaries(store: Store) -> int:
    query = "SELECT count(*) FROM public.knowledge_items WHERE source_agent_id = 'distillation' AND expired_at IS NULL"
    return int(scalar(store, query))


def live_fingerprints(store: Store) -> set[str]:
    query = """SELECT s.fingerprint FROM distillation.summaries s
               JOIN public.knowledge_items k ON k.id = s.summary_id AND k.expired_at IS NULL"""
    return {row.fingerprint for row in rows(store, query)}


def busy_commons(store: Store) -> None:
    """Duplicates over every shape of tags, a topic, a case and rows of the review queue."""
    for number, tags in enumerate([None, JSON_NULL, {"mine": 1}, {}, ["list"]]):
        insert_item(store, f"{FIX} {'abcde'[number]}lpha", quality_score=0.9, tags=tags)
        insert_item(store, f"{FIX} {'abcde'[number]}lpha.", tags={"theirs": number})
    insert_items(store, RETRY)
    vector = unit_vector(1)
    for content, embedding in (
        ("The cache must be warm", vector),
        ("The cache must be cold", vector_near(vector, 0.9)),
    ):
        insert_signal(store, insert_item(store, content, embedding=embedding))
    for number, tags in enumerate([None, JSON_NULL, {"mine": 1}, {}, ["list"]]):
        insert_pending(store, f"note {number}", confidence=0.1, tags=tags)


def test_undoing_a_run_gives_back_every_public_row_as_it_was(store: Store) -> None:
    busy_commons(store)
    before = originals(org_dump(store))
    receipts = distil(store, under=LOOSE)
    assert receipts[Stage.DUPLICATE_MERGES].applied >= 5
    assert live_summaries(store) >= 1
    assert originals(org_dump(store)) != before
    done = undo_run(store)
    assert done.is_complete
    assert originals(org_dump(store)) == before
    assert live_summaries(store) == 0
    holds(store)


def test_what_was_undone_is_not_done_again(store: Store) -> None:
    busy_commons(store)
    distil(store, under=LOOSE)
    written = live_fingerprints(store)
    undo_run(store)
    before = originals(org_dump(store))
    for hours in (2, 3, 4):
        distil(store, under=LOOSE, now=later(hours))
        assert originals(org_dump(store)) == before
    # Topics of other sources get summaries of their own; what was undone was written for these.
    assert written
    assert live_fingerprints(store).isdisjoint(written)
    assert scalar(store, "SELECT count(*) FROM distillation.contradiction_cases WHERE status = 'open'") == 0
    holds(store)


def test_an_undo_that_was_undone_gives_the_state_after_the_run(store: Store) -> None:
    busy_commons(store)
    distil(store, under=LOOSE)
    after = org_dump(store)
    undone = undo_run(store)
    redone = undo_run(store, str(undone.run_id), hours=2)
    assert redone.is_complete
    assert org_dump(store) == after
    assert scalar(store, "SELECT count(*) FROM distillation.pair_verdicts") == 0
    assert scalar(store, "SELECT count(*) FROM distillation.contradiction_cases WHERE status = 'open'") == 1
    holds(store)
    again = undo_run(store, str(redone.run_id), hours=3)
    assert again.is_complete
    holds(store)


def test_undoing_twice_is_undoing_once(store: Store) -> None:
    busy_commons(store)
    distil(store)
    run = last_run(store)
    undo_run(store, run)
    before = public_dump(store)
    second = undo_run(store, run, hours=2)
    assert (second.run_id, second.is_complete) == (None, True)
    assert sum(plan.as_before for plan in second.plans.values()) > 0
    assert public_dump(store) == before


def test_a_dry_run_plans_the_same_and_changes_nothing(store: Store) -> None:
    busy_commons(store)
    distil(store, under=LOOSE)
    run, before = last_run(store), public_dump(store)
    planned = undo_run(store, run, dry_run=True)
    assert public_dump(store) == before
    assert scalar(store, "SELECT count(*) FROM distillation.runs WHERE job = 'undo'") == 0
    assert undo_run(store, run).plans == planned.plans


def test_a_single_merge_is_undone_and_its_neighbours_stay_merged(store: Store) -> None:
    kept = insert_item(store, FIX, quality_score=0.9)
    first, second = insert_item(store, f"{FIX}."), insert_item(store, f"{FIX}!")
    distil(store)
    undo_merge(store, first)
    for hours in (2, 3):
        assert read_item(store, first)["expired_at"] is None
        assert read_item(store, second)["expired_at"] is not None
        assert read_item(store, kept)["tags"] == {"provenance_links": [str(second)]}
        distil(store, now=later(hours))
    # Whichever becomes the canonical, what was parted stays parted.
    set_item(store, second, quality_score=0.99)
    execute(store, "UPDATE distillation.item_features SET settled_stamp = NULL")
    distil(store, now=later(4))
    assert read_item(store, first)["expired_at"] is None
    holds(store)


def test_counters_scores_and_foreign_tags_moved_since_are_no_obstacle(store: Store) -> None:
    kept, merged = insert_item(store, FIX, quality_score=0.9), insert_item(store, f"{FIX}.")
    distil(store)
    set_item(store, kept, quality_score=0.2, retrieval_count=7, confidence=0.3)
    execute(
        store, 'UPDATE public.knowledge_items SET tags = tags || \'{"team": "x"}\' WHERE id = :id', id=kept
    )
    set_item(store, merged, helpful_count=3)
    assert undo_run(store).is_complete
    assert read_item(store, kept)["tags"] == {"team": "x"}
    assert read_item(store, kept)["quality_score"] == 0.2
    assert (read_item(store, merged)["expired_at"], read_item(store, merged)["helpful_count"]) == (None, 3)


def test_a_merge_is_undone_after_its_canonical_was_edited_or_removed(store: Store) -> None:
    edited, merged = insert_item(store, FIX, quality_score=0.9), insert_item(store, f"{FIX}.")
    gone, left = insert_item(store, RETRY[0], quality_score=0.9), insert_item(store, f"{RETRY[0]}.")
    distil(store)
    set_item(store, edited, content="Something else", content_hash="0" * 64)
    delete_item(store, gone)
    assert undo_merge(store, merged).is_complete
    assert undo_merge(store, left).is_complete
    assert [read_item(store, item)["expired_at"] for item in (merged, left)] == [None, None]
    distil(store, now=later(2))
    holds(store)


def test_a_duplicate_that_its_owner_deleted_stays_and_the_rest_is_undone(store: Store) -> None:
    insert_item(store, FIX, quality_score=0.9)
    merged = insert_item(store, f"{FIX}.")
    insert_item(store, RETRY[0], quality_score=0.9)
    other = insert_item(store, f"{RETRY[0]}.")
    distil(store)
    set_item(store, merged, deleted_at=NOW)
    done = undo_run(store)
    assert reasons(done) == ["its owner deleted it"]
    assert read_item(store, merged)["expired_at"] is not None
    assert read_item(store, other)["expired_at"] is None


def test_a_run_is_undone_after_its_canonical_was_merged_in_turn(store: Store) -> None:
    first, second = insert_item(store, FIX, quality_score=0.6), insert_item(store, f"{FIX}.")
    distil(store)
    run = last_run(store)
    third = insert_item(store, f"{FIX}!", quality_score=0.99)
    distil(store, now=later(1))
    assert read_item(store, third)["tags"] == {"provenance_links": sorted(map(str, (first, second)))}
    assert undo_run(store, run, hours=2).is_complete
    assert read_item(store, second)["expired_at"] is None
    assert read_item(store, first)["expired_at"] is not None
    assert read_item(store, third)["tags"] == {"provenance_links": [str(first)]}
    distil(store, now=later(3))
    assert read_item(store, second)["expired_at"] is None
    holds(store)


def test_the_later_of_two_runs_is_undone_with_its_repointing(store: Store) -> None:
    first, second = insert_item(store, FIX, quality_score=0.6), insert_item(store, f"{FIX}.")
    distil(store)
    before = org_dump(store)
    third = insert_item(store, f"{FIX}!", quality_score=0.99)
    distil(store, now=later(1))
    assert undo_merge(store, first, hours=2).is_complete
    after = org_dump(store)
    assert after["knowledge_items"].pop(str(third))["tags"] is None
    assert after == before
    distil(store, now=later(3))
    assert read_item(store, second)["expired_at"] is not None
    assert read_item(store, first)["expired_at"] is None
    holds(store)


def test_an_expiry_that_somebody_else_changed_is_left_to_them(store: Store) -> None:
    insert_item(store, FIX, quality_score=0.9)
    merged = insert_item(store, f"{FIX}.")
    distil(store)
    set_item(store, merged, expired_at=later(1))
    assert reasons(undo_run(store, hours=2)) == ["somebody else changed its expiry since"]


def test_an_unmerge_is_undone_at_the_moment_it_had_expired(store: Store) -> None:
    insert_item(store, FIX, quality_score=0.9)
    merged = insert_item(store, FIX.replace("avoid", "avoid the"), quality_score=0.4)
    distil(store, under=policy(matching={"duplicate_min": 0.5}))
    before = org_dump(store)
    distil(store, under=policy(matching={"duplicate_min": 1.0}), now=later(1))
    assert read_item(store, merged)["expired_at"] is None
    assert undo_run(store, hours=2).is_complete
    assert org_dump(store) == before
    holds(store)


def test_an_unmerge_onto_a_deleted_canonical_is_refused(store: Store) -> None:
    kept = insert_item(store, FIX, quality_score=0.9)
    merged = insert_item(store, FIX.replace("avoid", "avoid the"), quality_score=0.4)
    distil(store, under=policy(matching={"duplicate_min": 0.5}))
    distil(store, under=policy(matching={"duplicate_min": 1.0}), now=later(1))
    run = last_run(store)
    set_item(store, kept, deleted_at=NOW)
    assert reasons(undo_run(store, run, hours=2)) == [f"its canonical {kept} was deleted by its owner"]
    assert read_item(store, merged)["expired_at"] is None


def test_what_a_summary_superseded_comes_back_with_its_undo(store: Store) -> None:
    insert_items(store, RETRY)
    loose = policy(topics={"distance_max": 0.8})
    distil(store, under=loose)
    insert_item(
        store, "The upload must retry with exponential backoff as the storage gateway answers slowly today"
    )
    old = scalar(store, "SELECT id FROM public.knowledge_items WHERE source_agent_id = 'distillation'")
    distil(store, under=loose, now=later(1))
    assert read_item(store, ItemId(old))["expired_at"] is not None
    assert undo_run(store, hours=2).is_complete
    for hours in (3, 4):
        assert (read_item(store, ItemId(old))["expired_at"], live_summaries(store)) == (None, 1)
        distil(store, under=loose, now=later(hours))
    holds(store)


def test_a_summary_whose_sources_changed_is_not_revived(store: Store) -> None:
    first, *_ = insert_items(store, RETRY)
    distil(store, under=LOOSE)
    old = scalar(store, "SELECT id FROM public.knowledge_items WHERE source_agent_id = 'distillation'")
    set_item(store, first, content="Something else", content_hash="0" * 64, embedding=None)
    distil(store, under=LOOSE, now=later(1))
    assert read_item(store, ItemId(old))["expired_at"] is not None
    assert "its sources were changed, expired or lost since" in reasons(undo_run(store, hours=2))
    holds(store)


def test_a_withdrawn_case_is_not_opened_again(store: Store) -> None:
    vector = unit_vector(1)
    a = insert_item(store, "The cache must be warm", embedding=vector)
    b = insert_item(store, "The cache must be cold", embedding=vector_near(vector, 0.9))
    for item in (a, b):
        insert_signal(store, item)
    distil(store)
    case = CaseId(scalar(store, "SELECT case_id FROM distillation.contradiction_cases"))
    assert undo.run(store, policy(), CaseTarget(case), now=later(1)).is_complete
    insert_signal(store, a)
    distil(store, now=later(2))
    [row] = rows(store, "SELECT status, outcome, decided_by FROM distillation.contradiction_cases")
    assert tuple(row) == ("dismissed", "undone", "undo")
    holds(store)


def test_only_scores_that_are_still_ours_are_put_back(store: Store) -> None:
    ours, theirs = (
        insert_item(store, "A note", quality_score=0.9),
        insert_item(store, "Another", quality_score=0.8),
    )
    run = RunId(uuid4())
    quality_scores.run(store, NOW, policy(), run)
    assert read_item(store, ours)["quality_score"] != 0.9
    set_item(store, theirs, quality_score=0.123)
    done = undo_run(store, str(run))
    assert (done.is_complete, done.plans[ACME].left) == (True, 1)
    assert read_item(store, ours)["quality_score"] == 0.9
    assert read_item(store, theirs)["quality_score"] == 0.123


def test_a_run_over_all_orgs_is_undone_and_that_undo_too(store: Store) -> None:
    items = [insert_item(store, "A note", org, quality_score=0.9) for org in ("acme", "globex")]
    run = RunId(uuid4())
    quality_scores.run(store, NOW, policy(), run)
    scored = [read_item(store, item)["quality_score"] for item in items]
    done = undo_run(store, str(run))
    assert [read_item(store, item)["quality_score"] for item in items] == [0.9, 0.9]
    assert set(done.plans) == {"acme", "globex"}
    undo_run(store, str(done.run_id), hours=2)
    assert [read_item(store, item)["quality_score"] for item in items] == scored


def test_a_dagster_run_means_its_part_in_every_org(store: Store) -> None:
    for org in ("acme", "globex"):
        insert_item(store, FIX, org, quality_score=0.9)
        insert_item(store, f"{FIX}.", org)
        distil(store, org)
    execute(store, "UPDATE distillation.runs SET dagster_run_id = 'dagster-1'")
    done = undo_run(store, "dagster-1")
    assert (set(done.plans), done.is_complete) == ({"acme", "globex"}, True)
    assert scalar(store, "SELECT count(*) FROM public.knowledge_items WHERE expired_at IS NOT NULL") == 0
    holds(store)


def test_an_undo_touches_no_other_org(store: Store) -> None:
    for org in ("acme", "globex"):
        insert_item(store, FIX, org, quality_score=0.9)
        insert_item(store, f"{FIX}.", org)
    distil(store, "globex")
    distil(store, "acme", now=later(1))
    other = org_dump(store, "globex")
    undo_run(store, hours=2)
    assert org_dump(store, "globex") == other


@pytest.mark.parametrize(
    "target",
    [
        RunTarget("nonsense"),
        RunTarget(str(uuid4())),
        MergeTarget(ItemId(uuid4())),
        CaseTarget(CaseId(uuid4())),
    ],
)
def test_an_unknown_target_is_said_to_be_unknown(store: Store, target: Any) -> None:
    with pytest.raises(UnknownTarget):
        undo.run(store, policy(), target, now=NOW)


def test_a_merge_of_the_server_is_not_ours_to_undo(store: Store) -> None:
    kept, merged = insert_item(store, FIX), insert_item(store, f"{FIX}.", expired_at=NOW)
    execute(
        store,
        "INSERT INTO distillation.ledger (org_id, run_id, change, subject_id, before, after, stamp, at)"
        " VALUES ('acme', :run, 'import_merge', :id, '{}',"
        " jsonb_build_object('canonical', CAST(:c AS text)), '', now())",
        run=uuid4(), id=merged, c=str(kept),
    )  # fmt: skip
    execute(store, "INSERT INTO distillation.registered_items VALUES ('acme', :id, 'original')", id=merged)
    assert "a HiveMind server merged it" in reasons(undo_merge(store, merged))[0]


def test_runs_beside_an_undo_make_no_undone_merge_again(store: Store) -> None:
    merged: list[UUID] = []
    for number in range(12):
        insert_item(store, f"{FIX} {chr(97 + number)}lpha", quality_score=0.9)
        merged.append(insert_item(store, f"{FIX} {chr(97 + number)}lpha."))
    distil(store, allow_mass_change=True)
    run, failures = last_run(store), []

    def attempt(work: Any) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - reported below
            failures.append(error)

    execute(store, "UPDATE distillation.item_features SET settled_stamp = NULL")
    work = [
        lambda: undo_run(store, run),
        lambda: [distil(store, now=later(2 + turn), allow_mass_change=True) for turn in range(4)],
        lambda: undo_run(store, run, hours=2),
    ]
    threads = [threading.Thread(target=attempt, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    distil(store, now=later(9), allow_mass_change=True)
    assert [read_item(store, ItemId(item))["expired_at"] for item in merged] == [None] * len(merged)
    holds(store)
