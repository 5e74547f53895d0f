"""A policy that moves makes exactly the assets stale that depend on it."""

import pytest
from dagster import AssetKey, DagsterInstance
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from hivemind_pipelines.core.model import Stage
from hivemind_pipelines.core.policy import SECTION_GROUPS, DistillationPolicy
from hivemind_pipelines.defs.policies import current_events, moved_groups
from hivemind_pipelines.services import pii
from hivemind_pipelines.services.pii import GatedScanner
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import insert_item
from hivemind_pipelines_tests.defs.conftest import Location

BASE = {"summary": {"method": "extractive"}}


def _stale(here: Location) -> set[str]:
    """The stages that the UI shows as stale for the org."""
    graph = here.definitions.resolve_asset_graph()
    resolver = CachingStaleStatusResolver(here.instance, graph, LoadingContextForTest(here.instance))
    return {
        stage.value
        for stage in Stage
        if resolver.get_status(AssetKey(stage.value), "acme") is StaleStatus.STALE
    }


def _observe(instance: DagsterInstance, policy: DistillationPolicy) -> None:
    scanner = GatedScanner(policy.pii).stamp
    for event in current_events(policy, moved_groups(instance, policy, scanner), scanner):
        instance.report_runless_asset_event(event)


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        (
            {"matching": {"duplicate_min": 0.97}},
            {"item_features", "duplicate_pairs", "duplicate_merges", "prescreened_contributions"},
        ),
        ({"contradiction": {"cosine_min": 0.7}}, {"contradiction_cases", "prescreened_contributions"}),
        ({"topics": {"size_max": 10}}, {"topic_clusters", "cluster_summaries"}),
        ({"pii": {"score_threshold": 0.6}}, {"cluster_summaries", "prescreened_contributions"}),
        ({"prescreen": {"low_quality_below": 0.3}}, {"prescreened_contributions"}),
        ({"gate": {"volume_threshold": 10}, "safety": {"llm_usd_per_day_max": 1.0}}, set()),
    ],
    ids=["matching", "contradiction", "topics", "pii", "prescreen", "gate and safety"],
)
def test_a_changed_section_makes_exactly_its_dependents_stale(
    change: dict[str, object], stale: set[str], commons_location: Location, store: Store
) -> None:
    insert_item(store, "Do it.")
    _observe(commons_location.instance, DistillationPolicy.parse(BASE))
    commons_location.run("distillation", "acme")
    assert _stale(commons_location) == set()
    _observe(commons_location.instance, DistillationPolicy.parse(BASE | change))
    assert _stale(commons_location) == stale


def test_a_materialised_policy_is_no_news(commons_location: Location) -> None:
    policy, scanner = commons_location.commons.policy, commons_location.commons.services.scanner.stamp
    assert moved_groups(commons_location.instance, policy, scanner) == list(SECTION_GROUPS)
    assert commons_location.run("policy").success
    assert moved_groups(commons_location.instance, policy, scanner) == []


def test_a_changed_detector_makes_what_it_scanned_stale_under_the_same_policy(
    commons_location: Location, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_item(store, "Do it.")
    policy = DistillationPolicy.parse(BASE)
    _observe(commons_location.instance, policy)
    commons_location.run("distillation", "acme")
    assert _stale(commons_location) == set()
    monkeypatch.setattr(pii, "rules_fingerprint", lambda: "one rule more")
    assert moved_groups(commons_location.instance, policy, GatedScanner(policy.pii).stamp) == ["pii"]
    _observe(commons_location.instance, policy)
    assert _stale(commons_location) == {"cluster_summaries", "prescreened_contributions"}


def test_a_policy_asset_shows_its_values(commons_location: Location) -> None:
    commons_location.run("policy")
    event = commons_location.instance.get_latest_materialization_event(AssetKey("summary_policy"))
    assert event is not None
    assert event.asset_materialization is not None
    sections = event.asset_materialization.metadata["sections"].value
    assert set(sections) == {"summary", "topics"}
