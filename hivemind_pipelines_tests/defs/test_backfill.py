"""Backfills in this process: what they bring back to fresh, and what they must never bring back."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance

from hivemind_pipelines.core import residue
from hivemind_pipelines.core.model import OrgId
from hivemind_pipelines.core.planning import total_llm
from hivemind_pipelines.core.receipts import PrescreenReceipt
from hivemind_pipelines.core.residue import ErasedText, Finder
from hivemind_pipelines.defs import backfill
from hivemind_pipelines.defs.backfill import Backfilled
from hivemind_pipelines.settings import Settings
from hivemind_pipelines.stages import erasing, planning, prescreened_contributions, residual_scan, staleness
from hivemind_pipelines.stages.backlog import ModelStamps
from hivemind_pipelines.stages.context import Services, StageContext
from hivemind_pipelines.stages.erasing import Office
from hivemind_pipelines.stages.residual_scan import Places
from hivemind_pipelines.stages.staleness import Staleness
from hivemind_pipelines.store import invariants
from hivemind_pipelines.store.connection import Store, StoreError
from hivemind_pipelines_tests.builders import (
    ACME,
    execute,
    insert_item,
    insert_items,
    insert_pending,
    rows,
    scalar,
)
from hivemind_pipelines_tests.defs.conftest import SERVICES, Location, location
from hivemind_pipelines_tests.faults.test_model_faults import claude
from hivemind_pipelines_tests.messages_server import MessagesServer
from hivemind_pipelines_tests.stages.commons import NOW, distil, policy

KEY = b"a key of the tests alone, 32 bytes"
RELATED = [
    "Retry the upload with exponential backoff when the storage gateway answers slowly",
    "Rotate the storage gateway certificates before the upload window opens each quarter",
    "Compress the upload stream so that the storage gateway answers within its budget",
    "Measure how slowly the storage gateway answers before the upload retries begin",
]
SECRET = "Marguerite keeps the quorum password of the storage gateway under the blue stapler"
BEFORE: dict[str, dict[str, Any]] = {"topics": {"distance_max": 0.9}}
AFTER: dict[str, dict[str, Any]] = {
    "matching": {"duplicate_min": 0.5},
    "topics": {"distance_max": 0.8},
    "contradiction": {"cosine_min": 0.1},
}


def here(
    instance: DagsterInstance,
    store: Store,
    home: Path,
    services: Services = SERVICES,
    **sections: dict[str, Any],
) -> Location:
    """The code location under a policy, with a home of its own."""
    settings = Settings(home=home, receipt_key=KEY)
    return location(instance, store, policy(**sections), settings, services)


def stale(at: Location) -> Staleness:
    """What the location's policy did not decide."""
    return staleness.read(at.commons.store, at.commons.policy, ModelStamps.of(at.commons.services))


def carry_out(at: Location, **options: Any) -> Backfilled:
    """A backfill of all that is stale."""
    request = backfill.Request(stale(at), **options)
    return backfill.carry_out(at.definitions, at.instance, at.commons, request, on_progress=lambda *_: None)


def test_five_more_runs_and_a_backfill_bring_nothing_of_an_erased_text_back(
    store: Store, instance: DagsterInstance, tmp_path: Path
) -> None:
    secret = insert_item(store, SECRET, quality_score=0.9)
    twin = insert_item(store, f"{SECRET}.", quality_score=0.1)
    insert_items(store, RELATED)
    before = here(instance, store, tmp_path, **BEFORE)
    assert before.run("distillation", ACME).success
    key = b"any key"
    needles = residue.needles([ErasedText(secret, SECRET)], key)
    places = Places(store, directories=(tmp_path,))
    assert "public.knowledge_items.content" in residual_scan.scan(places, needles, key).residue
    summaries = "SELECT content FROM public.knowledge_items WHERE source_agent_id = 'distillation'"
    assert "stapler" in scalar(store, summaries)
    erasing.erase(
        Office(places, tmp_path, KEY), before.commons.policy, [secret, twin],
        reason="asked", with_copies=False, now=NOW,
    )  # fmt: skip
    for hour in range(1, 5):
        distil(store, under=before.commons.policy, using=SERVICES, now=NOW + timedelta(hours=hour))
    assert before.run("distillation", ACME).success
    after = here(instance, store, tmp_path, **AFTER)
    assert [one.org_id for one in stale(after).orgs] == [ACME]
    assert (carry_out(after).failures, stale(after).orgs) == ({}, ())
    left = residual_scan.scan(places, needles, key)
    assert (left.residue, left.not_scanned) == ({}, [])
    finder = Finder(needles, key)
    events = [str(one) for run in instance.get_runs() for one in instance.all_logs(run.run_id)]
    assert len(events) > 100
    assert not any(map(finder.in_text, events))
    with store.read() as conn:
        assert invariants.violations(conn) == ()


ORGS = [OrgId(name) for name in ("acme", "beta", "gamma")]
#: Nothing but summaries is asked of a model.
QUIET: dict[str, dict[str, Any]] = BEFORE | {
    "matching": {"llm_confirm": False},
    "contradiction": {"score_min": 1.0},
}
CATEGORIES = ("general", "tooling", "config")


def three_topics_each(store: Store) -> None:
    """Orgs with as many notes of three categories as it takes for a topic, and a row of the queue."""
    for org in ORGS:
        insert_pending(store, "A note that waits", org)
        for category in CATEGORIES:
            insert_items(store, [f"{text} in {category}" for text in RELATED], org, category=category)


def made_calls(store: Store) -> dict[str, int]:
    """Calls to the model by org."""
    spent = rows(
        store, "SELECT org_id, sum(calls) AS calls FROM distillation.llm_spend GROUP BY 1 ORDER BY 1"
    )
    return {row.org_id: row.calls for row in spent}


def why_left(store: Store) -> dict[OrgId, str]:
    """What a person is told of work that the newest runs left."""
    return staleness.reasons(store, ORGS, now=datetime.now(UTC))


def test_the_budget_of_a_run_holds_over_all_runs_of_a_backfill_and_says_so(
    store: Store, instance: DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three_topics_each(store)
    for org in ORGS:
        distil(store, org, under=policy(**QUIET), using=SERVICES)
    real = prescreened_contributions.run

    def fails_for_one(ctx: StageContext) -> PrescreenReceipt:
        if ctx.org_id == "beta":
            raise StoreError("the disk is full")
        return real(ctx)

    with MessagesServer() as server:
        budgets = {"llm_calls_per_run_max": 2, "llm_calls_per_day_max": 3, "llm_concurrency": 1}
        sections = QUIET | {
            "summary": {"method": "llm"},
            "prescreen": {"low_quality_below": 0.3},
        }
        services = replace(SERVICES, llm=claude(server.base_url))
        after = here(instance, store, tmp_path, services, **sections, safety=budgets)
        planned = planning.plan(
            store, services, after.commons.policy, after.commons.policy, ORGS, now=datetime.now(UTC)
        )
        assert total_llm(planned.orgs).calls == 9
        with monkeypatch.context() as broken:
            broken.setattr(prescreened_contributions, "run", fails_for_one)
            done = carry_out(after)
        assert list(done.failures) == ["beta"]
        assert made_calls(store) == dict.fromkeys(ORGS, 2), "every org was run more than once"
        assert total_llm(planned.orgs).first_run_calls == len(server.requests) == 6
        assert all("(budget_calls_per_run)" in why_left(store)[org] for org in ORGS)
        assert [one.org_id for one in stale(after).orgs] == ORGS

        execute(store, "UPDATE distillation.llm_jobs SET next_attempt_at = now() - interval '1 s'")
        assert carry_out(after).failures == {}
        assert len(server.requests) == 9
        assert stale(after).orgs == ()


def test_the_budget_of_a_day_holds_over_all_backfills_of_it(
    store: Store, instance: DagsterInstance, tmp_path: Path
) -> None:
    three_topics_each(store)
    for org in ORGS:
        distil(store, org, under=policy(**QUIET), using=SERVICES)
    with MessagesServer() as server:
        services = replace(SERVICES, llm=claude(server.base_url))
        budgets = {"llm_calls_per_day_max": 1, "llm_concurrency": 1}
        after = here(instance, store, tmp_path, services, **QUIET, summary={"method": "llm"}, safety=budgets)
        for _ in range(2):
            assert carry_out(after).failures == {}
            assert made_calls(store) == dict.fromkeys(ORGS, 1)
        assert len(server.requests) == 3
        tomorrow = datetime.now(UTC).date() + timedelta(days=1)
        assert f"2 wait until {tomorrow} 00:00 UTC (budget_calls_per_day)" in why_left(store)["gamma"]
        assert [one.org_id for one in stale(after).orgs] == ORGS
