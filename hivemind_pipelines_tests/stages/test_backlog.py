"""backlog: what waits, stage by stage, and the numbers of the gate."""

from datetime import timedelta

from hivemind_pipelines.core import due
from hivemind_pipelines.core.due import Due, NotDue
from hivemind_pipelines.core.model import OrgId, Stage
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.stages import backlog
from hivemind_pipelines.stages.backlog import Backlogs, ModelStamps
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import (
    execute,
    insert_item,
    insert_items,
    insert_pending,
    insert_signal,
    read_item,
    scalar,
    set_item,
)
from hivemind_pipelines_tests.stages.commons import NOW, distil, policy, services

FIX = "Set the pool timeout to avoid stale connections after a database failover"
HOUR = timedelta(hours=1)


def read(store: Store, under: DistillationPolicy | None = None) -> Backlogs:
    """The backlog at NOW plus an hour, under the policy and services of the stage tests."""
    return backlog.read(store, under or policy(), NOW + HOUR, ModelStamps.of(services()))


def waiting(store: Store, under: DistillationPolicy | None = None) -> dict[Stage, int]:
    """The due counts of the only org, those that are not zero."""
    [org] = read(store, under).orgs
    return {stage: count for stage, count in org.due.items() if count}


def test_everything_of_a_new_org_waits_and_nothing_after_its_run(store: Store) -> None:
    item, *_ = insert_items(store, [FIX, f"{FIX}.", "Another note about something else entirely"])
    insert_pending(store, "A pending note")
    insert_signal(store, item)
    found = waiting(store)
    assert found[Stage.ITEM_FEATURES] == 3
    assert found[Stage.CONTRADICTION_CASES] == 1
    assert found[Stage.PRESCREENED_CONTRIBUTIONS] == 1
    distil(store)
    assert waiting(store) == {}


def test_a_changed_text_a_new_row_and_a_lost_canonical_are_due(store: Store) -> None:
    kept = insert_item(store, FIX, quality_score=0.9)
    insert_item(store, f"{FIX}.")
    distil(store)
    execute(
        store,
        "UPDATE public.knowledge_items SET content = content || '!', content_hash = 'x' WHERE id = :id",
        id=kept,
    )
    assert waiting(store)[Stage.ITEM_FEATURES] == 1
    distil(store, now=NOW + HOUR)
    set_item(store, kept, deleted_at=NOW)
    distil(store, now=NOW + 2 * HOUR)
    assert waiting(store) == {}


def test_a_signal_on_a_merged_duplicate_is_due_like_one_on_its_canonical(store: Store) -> None:
    insert_item(store, FIX, quality_score=0.9)
    duplicate = insert_item(store, f"{FIX}.")
    distil(store)
    insert_signal(store, duplicate)
    assert waiting(store) == {Stage.CONTRADICTION_CASES: 1}
    distil(store, now=NOW + HOUR)
    assert waiting(store) == {}


def test_a_case_whose_parties_became_one_is_due_and_withdrawn(store: Store) -> None:
    apart, together = (
        policy(matching={"duplicate_min": least}, safety={"mass_change_share_max": 1.0})
        for least in (1.0, 0.5)
    )
    for text in (FIX, FIX.replace("the pool timeout", "a pool timeout")):
        insert_signal(store, insert_item(store, text))
    distil(store, under=apart)
    open_cases = "SELECT count(*) FROM distillation.contradiction_cases WHERE status = 'open'"
    assert scalar(store, open_cases) == 1
    stages = (Stage.ITEM_FEATURES, Stage.DUPLICATE_PAIRS, Stage.DUPLICATE_MERGES)
    distil(store, under=together, stages=stages)
    assert scalar(store, "SELECT count(*) FROM distillation.merges") == 1
    assert waiting(store, together)[Stage.CONTRADICTION_CASES] == 1
    distil(store, under=together, now=NOW + HOUR)
    assert waiting(store, together) == {}
    assert scalar(store, open_cases) == 0


def test_another_threshold_makes_pairs_due_and_features_not(store: Store) -> None:
    insert_items(store, [FIX, f"{FIX} again"])
    distil(store)
    found = waiting(store, policy(matching={"duplicate_min": 0.99}))
    assert Stage.ITEM_FEATURES not in found
    assert found[Stage.DUPLICATE_PAIRS] == 1
    assert Stage.TOPIC_CLUSTERS not in found


def test_a_topic_without_a_model_waits_but_is_not_due(store: Store) -> None:
    insert_items(
        store,
        [
            "Retry the upload with exponential backoff when the storage gateway answers slowly",
            "Rotate the storage gateway certificates before the upload window opens each quarter",
            "Compress the upload stream so that the storage gateway answers within its budget",
        ],
    )
    keyless = policy(summary={"method": "llm"}, topics={"distance_max": 0.9}, matching={"duplicate_min": 1.0})
    distil(store, under=keyless)
    assert waiting(store, keyless) == {}
    assert read(store, keyless).counts[0].waiting_summaries == 1


def test_the_gate_counts_the_whole_deployment(store: Store) -> None:
    for number in range(30):
        insert_pending(store, f"pending {number}", org="acme")
        insert_pending(store, f"pending {number}", org="globex")
    item = insert_item(store, FIX)
    for _ in range(4):
        insert_signal(store, item)
    found = read(store)
    assert (found.gate.pending_count, found.gate.conflict_count, found.gate.is_open) == (60, 4, True)
    decisions = due.decide_all(found.gate, found.orgs, policy(), NOW + HOUR)
    assert [type(decision) for decision in decisions] == [Due, Due]


def test_a_stamped_suspect_no_longer_opens_the_gate(store: Store) -> None:
    item = insert_item(store, FIX)
    for _ in range(6):
        insert_signal(store, item)
    assert read(store).gate.is_open
    distil(store)
    assert read(store).gate.conflict_count == 0


def test_an_org_that_has_just_run_is_not_due(store: Store) -> None:
    for number in range(50):
        insert_pending(store, f"pending {number}")
    distil(store, now=NOW + HOUR - timedelta(minutes=5))
    insert_pending(store, "one more")
    found = read(store)
    [decision] = due.decide_all(found.gate, found.orgs, policy(), NOW + HOUR)
    assert isinstance(decision, NotDue)
    assert "50" in decision.reason


def test_the_watermark_moves_with_the_inputs(store: Store) -> None:
    insert_item(store, FIX)
    before = read(store).orgs[0].watermark
    insert_pending(store, "pending")
    assert read(store).orgs[0].watermark != before


def test_only_the_orgs_named_are_read(store: Store) -> None:
    insert_item(store, FIX, "acme")
    insert_item(store, FIX, "globex")
    found = backlog.read(store, policy(), NOW, ModelStamps.of(services()), [OrgId("globex")])
    assert [org.org_id for org in found.orgs] == ["globex"]


def test_a_refused_plan_is_not_due_again_until_its_inputs_change(store: Store) -> None:
    insert_items(store, [f"{FIX}{'.' * count}" for count in range(60)])
    distil(store)
    assert Stage.DUPLICATE_MERGES not in waiting(store)
    insert_item(store, "Another note about something else entirely")
    distil(store, now=NOW + HOUR, stages=[Stage.ITEM_FEATURES, Stage.DUPLICATE_PAIRS])
    assert waiting(store)[Stage.DUPLICATE_MERGES] == 61


def test_an_item_of_another_scope_is_due(store: Store) -> None:
    kept = insert_item(store, FIX, version="3.8", quality_score=0.9)
    merged = insert_item(store, f"{FIX}.", version="3.8")
    distil(store)
    set_item(store, kept, version="3.12")
    assert waiting(store)[Stage.ITEM_FEATURES] == 1
    distil(store, now=NOW + HOUR)
    assert read_item(store, merged)["expired_at"] is None


def test_an_item_of_a_category_we_do_not_know_harms_no_other(store: Store) -> None:
    execute(store, "ALTER TYPE public.knowledgecategory ADD VALUE 'recipe'")
    strange = insert_item(store, FIX, category="recipe", quality_score=0.9)
    insert_pending(store, "A note", category="recipe")
    insert_signal(store, strange)
    merged = insert_item(store, f"{FIX}.", quality_score=0.1)
    insert_item(store, f"{FIX}!", quality_score=0.8)
    distil(store)
    assert read_item(store, merged)["expired_at"] is not None
    assert read_item(store, strange)["expired_at"] is None
    assert waiting(store) == {}


def test_a_full_preview_places_no_topic_anew(store: Store) -> None:
    insert_items(store, [FIX, f"{FIX}."])
    distil(store)
    distil(store, dry_run=True, full=True, now=NOW + HOUR)
    assert Stage.TOPIC_CLUSTERS not in waiting(store)
