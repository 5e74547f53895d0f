"""The jobs on a real database: what a run does, what it says, and what a second one leaves alone."""

import json
from uuid import UUID

from dagster import AssetCheckKey, AssetCheckSeverity, AssetKey, DagsterInstance
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from hivemind_pipelines.core.model import Stage
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.defs import tags
from hivemind_pipelines.defs.org_runs import run_identity
from hivemind_pipelines.defs.partitions import add_orgs
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import (
    delete_item,
    insert_item,
    insert_items,
    insert_pending,
    insert_signal,
    public_dump,
    rows,
    scalar,
)
from hivemind_pipelines_tests.defs.conftest import Location, location

RETRY = "Retry the upload three times with exponential backoff before giving up."
SECRET = "Xylophone quartz vortex"


def _metadata(instance: DagsterInstance, asset: str, org: str) -> dict[str, object]:
    records = instance.fetch_materializations(AssetKey(asset), limit=100).records
    event = next(record for record in records if record.partition_key == org)
    assert event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def test_a_distillation_run_materialises_every_stage_of_its_org(
    commons_location: Location, store: Store
) -> None:
    insert_items(store, [RETRY, RETRY.replace("three", "THREE"), "Pin the version of the base image."])
    result = commons_location.run("distillation", "acme")
    assert result.success
    for stage in Stage:
        metadata = _metadata(commons_location.instance, stage.value, "acme")
        assert metadata["run_id"] == str(run_identity(result.run_id, "acme"))
        assert isinstance(metadata["seconds"], float)
    assert _metadata(commons_location.instance, "item_features", "acme")["items"] == 3


def test_the_report_shows_what_waits_for_people(commons_location: Location, store: Store) -> None:
    for item in insert_items(store, [RETRY, RETRY.replace("three", "nine")], retrieval_count=3):
        insert_signal(store, item)
    insert_pending(store, "ok thanks")
    insert_pending(store, "Restart the ingress controller once its certificate was rotated")
    assert commons_location.run("distillation", "acme").success
    shown = _metadata(commons_location.instance, "distillation_report", "acme")
    waiting = {
        table: {record.data["name"]: record.data["count"] for record in shown[table].records}  # type: ignore[attr-defined]
        for table in ("cases_by_age", "queue_by_label")
    }
    assert waiting == {"cases_by_age": {"up to a day": 1}, "queue_by_label": {"no label": 1, "too_short": 1}}


def test_all_steps_of_a_run_share_one_run_row_and_one_instant(
    commons_location: Location, store: Store
) -> None:
    insert_item(store, RETRY)
    result = commons_location.run("distillation", "acme")
    query = "SELECT run_id, dagster_run_id, status FROM distillation.runs WHERE job = 'distillation'"
    [row] = rows(store, query)
    assert (row.run_id, row.dagster_run_id, row.status) == (
        run_identity(result.run_id, "acme"),
        result.run_id,
        "finished",
    )


def test_a_second_run_finds_nothing_due_and_touches_no_public_row(
    commons_location: Location, store: Store
) -> None:
    insert_items(store, [RETRY, RETRY + " Always.", "Pin the version of the base image."])
    commons_location.run("distillation", "acme")
    before = public_dump(store)
    assert commons_location.run("distillation", "acme").success
    after = public_dump(store)
    before.pop("deployment_config"), after.pop("deployment_config")
    assert after == before
    assert _metadata(commons_location.instance, "distillation_report", "acme")["outcome"] == "nothing_due"


def test_one_run_over_several_orgs_gives_each_its_own_receipt(
    commons_location: Location, store: Store
) -> None:
    insert_items(store, ["One thing.", "Another matter."], org="acme")
    insert_item(store, "Something else.", org="beta")
    add_orgs(commons_location.instance, ["acme", "beta"])
    span = {ASSET_PARTITION_RANGE_START_TAG: "acme", ASSET_PARTITION_RANGE_END_TAG: "beta"}
    job = commons_location.definitions.resolve_job_def("distillation")
    assert job.execute_in_process(instance=commons_location.instance, tags=span).success
    instance = commons_location.instance
    assert _metadata(instance, "item_features", "acme")["items"] == 2
    assert _metadata(instance, "item_features", "beta")["items"] == 1


def test_the_report_counts_only_what_its_own_run_did(commons_location: Location, store: Store) -> None:
    insert_item(store, RETRY)
    commons_location.run("distillation", "acme")
    job = commons_location.definitions.resolve_implicit_global_asset_job_def()
    selected = job.get_subset(asset_selection={AssetKey("distillation_report")})
    assert selected.execute_in_process(instance=commons_location.instance, partition_key="acme").success
    assert _metadata(commons_location.instance, "distillation_report", "acme")["changes"] == 0


def test_the_run_tag_that_allows_a_mass_change_is_recorded_with_the_run(
    commons_location: Location, store: Store
) -> None:
    insert_item(store, RETRY)
    commons_location.run("distillation", "acme", **{tags.ALLOW_MASS_CHANGE: "true"})
    assert scalar(store, "SELECT allowed FROM distillation.runs WHERE job = 'distillation'") == [
        "mass_change"
    ]


def test_quality_is_materialised_only_when_a_score_moved(commons_location: Location, store: Store) -> None:
    item_id = insert_item(store, RETRY, quality_score=0.1)
    for _ in range(2):
        assert commons_location.run("quality").success
    events = commons_location.instance.fetch_materializations(AssetKey("quality_scores"), limit=10).records
    assert len(events) == 1
    insert_signal(store, item_id)
    commons_location.run("quality")
    found = commons_location.instance.fetch_materializations(AssetKey("quality_scores"), 10).records
    assert len(found) == 2
    metadata = found[0].asset_materialization.metadata
    [move] = metadata["largest_moves"].value.records
    assert move.data["item_id"] == str(item_id)
    assert move.data["after"] < move.data["before"]
    assert "data:image/png;base64," in metadata["distribution"].value
    assert len(metadata["distribution"].value) < 8_000
    assert 0.0 < metadata["score_p10"].value <= metadata["score_median"].value <= metadata["score_p90"].value


def test_a_collapsed_distribution_is_a_warning_and_no_failure(
    commons_location: Location, store: Store
) -> None:
    insert_items(store, [f"{RETRY} {number}" for number in range(60)], retrieval_count=1)
    assert commons_location.run("quality").success
    checks = AssetCheckKey(AssetKey("quality_scores"), "scores_tell_items_apart")
    [record] = commons_location.instance.event_log_storage.get_asset_check_execution_history(checks, limit=5)
    evaluation = record.event.asset_check_evaluation
    assert (evaluation.passed, evaluation.severity) == (False, AssetCheckSeverity.WARN)
    assert evaluation.metadata["shares"].value == {"acme": 1.0}


def test_an_erasure_run_notes_what_is_gone(commons_location: Location, store: Store) -> None:
    kept, gone = insert_items(store, [RETRY, "Pin the version of the base image."])
    commons_location.run("distillation", "acme")
    delete_item(store, gone)
    assert commons_location.run("erasure", "acme").success
    assert _metadata(commons_location.instance, "erasure_propagation", "acme")["gone"] == 1
    assert rows(store, "SELECT item_id FROM distillation.tombstones") == [(gone,)]
    assert kept != gone


def test_no_item_text_reaches_dagsters_storage(commons_location: Location, store: Store) -> None:
    items = insert_items(store, [f"{SECRET} {word} backoff." for word in ("first", "second", "third")])
    insert_pending(store, f"{SECRET} pending.", confidence=0.0)
    for item_id in items:
        insert_signal(store, item_id)
    result = commons_location.run("distillation", "acme")
    events = [str(event) for event in commons_location.instance.all_logs(result.run_id)]
    assert len(events) > 20
    assert not any("xylophone" in event.lower() for event in events)
    receipts = rows(store, "SELECT payload FROM distillation.receipts")
    assert "xylophone" not in json.dumps([row.payload for row in receipts]).lower()


def test_every_check_of_a_healthy_run_passes(commons_location: Location, store: Store) -> None:
    insert_items(store, [RETRY, RETRY + " Always.", "Pin the version of the base image."])
    evaluations = commons_location.run("distillation", "acme").get_asset_check_evaluations()
    assert len(evaluations) > 8
    assert all(evaluation.passed for evaluation in evaluations)


def test_a_broken_promise_fails_its_check_and_names_the_item(
    commons_location: Location, store: Store
) -> None:
    item_id = insert_item(store, RETRY, quality_score=7.0)
    result = commons_location.run("distillation", "acme")
    failed = {check.check_name: check for check in result.get_asset_check_evaluations() if not check.passed}
    assert set(failed) == {"I10"}
    assert failed["I10"].metadata["sample_ids"].value == [str(item_id)]
    assert result.success


def test_another_orgs_broken_promise_is_not_this_orgs_failure(
    commons_location: Location, store: Store
) -> None:
    insert_item(store, RETRY, org="beta", quality_score=7.0)
    insert_item(store, RETRY)
    evaluations = commons_location.run("distillation", "acme").get_asset_check_evaluations()
    assert all(evaluation.passed for evaluation in evaluations)


def test_an_orgs_own_safety_section_holds_in_its_run(instance: DagsterInstance, store: Store) -> None:
    policy = DistillationPolicy.parse({"orgs": {"acme": {"safety": {"llm_calls_per_run_max": 0}}}})
    here = location(instance, store, policy)
    insert_item(store, RETRY)
    here.run("distillation", "acme")
    document = scalar(store, "SELECT document FROM distillation.policies")
    assert document["safety"]["llm_calls_per_run_max"] == 0


def test_the_identity_of_an_orgs_run_is_stable_and_its_own() -> None:
    run_id = "7e8a3c2e-4f1f-4b7c-9a43-0d1b5b7ad001"
    assert run_identity(run_id, "acme") == run_identity(run_id, "acme")
    assert run_identity(run_id, "acme") != run_identity(run_id, "beta")
    assert isinstance(run_identity(run_id, "acme"), UUID)


def test_a_retro_scan_leaves_its_receipt_and_names_items(commons_location: Location, store: Store) -> None:
    insert_item(store, "Do it.")
    commons_location.run("distillation", "acme")
    assert commons_location.run("retro_scan", "acme").success
    event = commons_location.instance.get_latest_materialization_event(AssetKey("pii_retro_scan"))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["scanned"].value == 1
