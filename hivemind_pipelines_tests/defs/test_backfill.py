"""Backfills in this process: what they bring back to fresh, and what they must never bring back."""

from pathlib import Path
from typing import Any

from dagster import DagsterInstance

from hivemind_pipelines.core import residue
from hivemind_pipelines.core.residue import ErasedText, Finder
from hivemind_pipelines.defs import backfill
from hivemind_pipelines.defs.backfill import Backfilled
from hivemind_pipelines.settings import Settings
from hivemind_pipelines.stages import erasing, residual_scan, staleness
from hivemind_pipelines.stages.backlog import ModelStamps
from hivemind_pipelines.stages.erasing import Office
from hivemind_pipelines.stages.residual_scan import Places
from hivemind_pipelines.stages.staleness import Staleness
from hivemind_pipelines.store import invariants
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import ACME, insert_item, insert_items, scalar
from hivemind_pipelines_tests.defs.conftest import SERVICES, Location, location
from hivemind_pipelines_tests.stages.commons import NOW, policy

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


def here(instance: DagsterInstance, store: Store, home: Path, **sections: dict[str, Any]) -> Location:
    """The code location under a policy, with a home of its own."""
    return location(instance, store, policy(**sections), Settings(home=home, receipt_key=KEY))


def stale(at: Location) -> Staleness:
    """What the location's policy did not decide."""
    return staleness.read(at.commons.store, at.commons.policy, ModelStamps.of(SERVICES))


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
    for _ in range(5):
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
