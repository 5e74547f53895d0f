from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from hivemind_pipelines.core.model import Stage
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.stages.backlog import ModelStamps
from hivemind_pipelines.stages.status import OrgStatus, known_orgs, read
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines.store.status import Spend
from hivemind_pipelines_tests.builders import (
    execute,
    insert_item,
    insert_items,
    insert_pending,
    insert_signal,
    public_dump,
    set_item,
)

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
POLICY = DistillationPolicy()
MODELS = ModelStamps(embedder="hash-1", scanner="scanner-1", llm_model="model-1", has_llm=False)


def status_of(store: Store, org: str) -> OrgStatus:
    return next(found for found in read(store, POLICY, NOW, MODELS).orgs if found.org_id == org)


def insert_run(store: Store, org: str, as_of: datetime, status: str = "finished") -> UUID:
    run_id = uuid4()
    execute(
        store,
        "INSERT INTO distillation.runs (run_id, org_id, job, status, as_of, finished_at, policy_version, stamps)"
        " VALUES (:run_id, :org, 'distillation', :status, :as_of,"
        "         CASE WHEN :status <> 'running' THEN CAST(:as_of AS timestamptz) END, 'v', '{}')",
        run_id=run_id,
        org=org,
        status=status,
        as_of=as_of,
    )
    return run_id


def insert_case(store: Store, org: str, stamp: str, status: str = "open") -> UUID:
    case_id = uuid4()
    execute(
        store,
        "INSERT INTO distillation.contradiction_cases"
        " (org_id, case_id, category, detector, status, opened_at, decided_at, run_id, stamp)"
        " VALUES (:org, :case_id, 'general', 'signals', :status, :at,"
        "         CASE WHEN :status <> 'open' THEN CAST(:at AS timestamptz) END, :run_id, :stamp)",
        org=org,
        case_id=case_id,
        status=status,
        at=NOW,
        run_id=uuid4(),
        stamp=stamp,
    )
    return case_id


def insert_spend(store: Store, org: str, at: datetime, usd: float, calls: int) -> None:
    execute(
        store,
        "INSERT INTO distillation.llm_spend"
        " (org_id, run_id, purpose, at, calls, input_tokens, output_tokens, usd)"
        " VALUES (:org, :run_id, 'confirm_pair', :at, :calls, 1, 1, :usd)",
        org=org,
        run_id=uuid4(),
        at=at,
        calls=calls,
        usd=usd,
    )


def test_an_empty_commons_has_no_orgs_and_a_closed_gate(store: Store) -> None:
    status = read(store, POLICY, NOW, MODELS)
    assert status.orgs == ()
    assert not status.gate.is_open
    assert status.last_run_keys == {}
    assert known_orgs(store) == ()


def test_rows_are_counted_by_org_and_state(store: Store) -> None:
    insert_items(store, ["a", "b", "c"], "acme")
    insert_item(store, "old", "acme", expired_at=NOW)
    insert_item(store, "gone", "acme", deleted_at=NOW)
    insert_pending(store, "waiting", "acme")
    insert_pending(store, "waiting", "only pending")
    acme = status_of(store, "acme")
    assert (acme.live, acme.expired, acme.pending, acme.open_cases) == (3, 1, 1, 0)
    assert acme.due[Stage.ITEM_FEATURES] == 3
    assert acme.due[Stage.PRESCREENED_CONTRIBUTIONS] == 1
    assert status_of(store, "only pending").pending == 1
    assert known_orgs(store) == ("acme", "only pending")


def test_summaries_of_ours_and_of_a_server_are_told_apart_from_originals(store: Store) -> None:
    insert_item(store, "original", tags={"distilled": True})
    insert_item(store, "of a server", source_agent_id="distillation", tags={"distilled": True})
    ours = insert_item(store, "ours")
    execute(store, "INSERT INTO distillation.registered_items VALUES ('acme', :id, 'summary')", id=ours)
    found = status_of(store, "acme")
    assert (found.live, found.summaries) == (3, 2)


@pytest.mark.parametrize("tags", [[1], "text", 7, None])
def test_tags_of_any_shape_do_not_disturb_the_counts(store: Store, tags: object) -> None:
    insert_item(store, "x", source_agent_id="distillation", tags=tags)
    assert status_of(store, "acme").summaries == 0


def test_live_items_are_counted_that_are_party_to_open_cases(store: Store) -> None:
    items = insert_items(store, ["a", "b", "c", "d", "e"])
    execute(
        store,
        "INSERT INTO distillation.registered_items (org_id, item_id, kind)"
        " SELECT org_id, id, 'original' FROM public.knowledge_items",
    )
    opened, also, closed = (
        insert_case(store, "acme", "stamp", status) for status in ("open", "open", "resolved")
    )
    for case_id, parties in ((opened, items[:3]), (also, items[1:4]), (closed, items[3:])):
        for item in parties:
            execute(
                store,
                "INSERT INTO distillation.case_items (org_id, case_id, item_id) VALUES ('acme', :case_id, :id)",
                case_id=case_id,
                id=item,
            )
    set_item(store, items[0], expired_at=NOW)
    insert_item(store, "of another org", "beta")
    assert status_of(store, "acme").in_open_cases == 3
    assert status_of(store, "beta").in_open_cases == 0


def test_open_cases_count_and_those_of_an_older_policy_are_stale(store: Store) -> None:
    insert_item(store, "x")
    insert_case(store, "acme", POLICY.fingerprint("contradiction"))
    insert_case(store, "acme", "an older policy")
    insert_case(store, "acme", "an older policy", status="resolved")
    found = status_of(store, "acme")
    assert (found.open_cases, found.in_open_cases) == (2, 0)
    assert found.stale["contradiction"] == 1
    assert sum(found.stale.values()) == 1


def test_labels_of_an_older_policy_are_stale(store: Store) -> None:
    pending_id = insert_pending(store, "waiting")
    execute(
        store,
        "INSERT INTO distillation.prescreens VALUES ('acme', :id, 'hash', 0.1, true, 'an older policy')",
        id=pending_id,
    )
    assert status_of(store, "acme").stale["quality"] == 1


def test_a_day_of_spending_begins_at_midnight_utc(store: Store) -> None:
    insert_item(store, "x")
    midnight = datetime(2026, 6, 1, tzinfo=UTC)
    insert_spend(store, "acme", midnight - timedelta(seconds=1), 5.0, 50)
    insert_spend(store, "acme", midnight, 0.25, 1)
    insert_spend(store, "acme", NOW, 0.5, 2)
    insert_spend(store, "other", NOW, 9.0, 9)
    assert status_of(store, "acme").spend_today == Spend(0.75, 3)


def test_the_last_run_is_the_newest_distillation_of_the_org(store: Store) -> None:
    insert_item(store, "x")
    insert_run(store, "acme", NOW - timedelta(hours=2))
    newest = insert_run(store, "acme", NOW - timedelta(hours=1), status="running")
    insert_run(store, "other", NOW)
    last_run = status_of(store, "acme").last_run
    assert last_run is not None
    assert (last_run.run_id, last_run.status, last_run.finished_at) == (newest, "running", None)


def test_unstamped_contradiction_signals_open_the_gate_and_are_due(store: Store) -> None:
    for item_id in insert_items(store, [f"t{n}" for n in range(5)]):
        insert_signal(store, item_id)
    status = read(store, POLICY, NOW, MODELS)
    assert status.gate.is_open
    assert status.orgs[0].due[Stage.CONTRADICTION_CASES] == 5


def test_reading_the_status_changes_nothing(store: Store) -> None:
    insert_items(store, ["a", "b"])
    before = public_dump(store)
    read(store, POLICY, NOW, MODELS)
    assert public_dump(store) == before


def test_last_run_keys_are_shown_as_the_server_reads_them(store: Store) -> None:
    execute(
        store,
        "INSERT INTO public.deployment_config (key, value, created_at, updated_at)"
        " VALUES ('distillation_last_run', '2026-06-01T00:00:00+00:00', :at, :at), ('other', 'x', :at, :at)",
        at=NOW,
    )
    keys = read(store, POLICY, NOW, MODELS).last_run_keys
    assert keys == {"distillation_last_run": "2026-06-01T00:00:00+00:00"}
