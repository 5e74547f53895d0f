"""kill -9 anywhere in a run: the next one ends where an uninterrupted one would have."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from hivemind_pipelines.core.model import Stage
from hivemind_pipelines.store import invariants
from hivemind_pipelines.store.connection import Store, open_store
from hivemind_pipelines_tests.builders import (
    Dump,
    insert_item,
    insert_pending,
    insert_signal,
    org_dump,
    public_dump,
    rows,
    scalar,
)
from hivemind_pipelines_tests.conftest import MakeDatabase
from hivemind_pipelines_tests.faults import interrupted
from hivemind_pipelines_tests.faults.interrupted import interruptible_policy
from hivemind_pipelines_tests.observed import forbidden_changes
from hivemind_pipelines_tests.stages.commons import NOW, distil

POINTS = (
    "embedding",
    "sql:k SET embedding =",
    "sql:INSERT INTO distillation.lsh_bands",
    Stage.DUPLICATE_PAIRS,
    "sql:INSERT INTO distillation.candidate_pairs",
    "sql:WITH touched AS",
    "sql:INSERT INTO public.quality_signals",
    Stage.TOPIC_CLUSTERS,
    "scanning",
    "sql:INSERT INTO public.knowledge_items",
    "sql:INSERT INTO public.deployment_config",
)
FEW = ("embedding", "sql:WITH touched AS", Stage.DUPLICATE_PAIRS, "sql:INSERT INTO public.knowledge_items")


def fill(store: Store) -> None:
    """The same small commons, ids included, whenever it is called."""
    chance = random.Random(5)

    def number() -> UUID:
        return UUID(int=chance.getrandbits(128), version=4)

    for topic in ("upload gateway", "session cache", "invoice export"):
        for frame in (
            "Retry the {} with exponential backoff when the storage answers slowly",
            "When the storage answers slowly the {} should retry with exponential backoff and jitter",
            "The {} retries with exponential backoff while the storage answers slowly under load",
        ):
            text = frame.format(topic)
            first = insert_item(store, text, id=number(), category="config", quality_score=0.9)
            insert_item(store, f"{text}.", id=number(), category="config")
            insert_signal(store, first, "retrieval", id=number())
    rivals = [
        insert_item(store, f"The cache must be {state} before every release", id=number(), category="tooling")
        for state in ("warm", "cold", "empty")
    ]
    for item in rivals:
        insert_signal(store, item, id=number())
    insert_pending(store, "A poor note", id=number(), confidence=0.1)


def without_moments(dump: Dump) -> Dump:
    """The dump without what depends on when a run took place."""
    return {
        table: {key: _timeless(row) for key, row in found.items()}
        for table, found in dump.items()
        if table != "deployment_config"
    }


def _timeless(row: dict[str, Any]) -> dict[str, Any]:
    is_ours = (
        row.get("source_agent_id") == "distillation" or row.get("signal_type") == "contradiction_cluster"
    )
    kept = {name: value for name, value in row.items() if not (is_ours and name.endswith("_at"))}
    if isinstance(kept.get("metadata"), dict):
        kept["metadata"] = {**kept["metadata"], "detected_at": None}
    return kept | {"expired_at": row.get("expired_at") is not None}


@pytest.fixture(scope="module")
def uninterrupted(make_database: MakeDatabase, migrated_template: str) -> Dump:
    """What a run that nobody disturbs makes of the commons."""
    with open_store(make_database(migrated_template)) as store:
        fill(store)
        distil(store, under=interruptible_policy())
        return without_moments(public_dump(store))


@contextmanager
def stopped_at(store: Store, point: str) -> Iterator[subprocess.Popen[str]]:
    """A run in a process of its own that has reached the point."""
    command = [sys.executable, "-m", interrupted.__name__, store.url, point]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == point
            yield process
        finally:
            process.kill()


def wait_until_gone(store: Store) -> None:
    """Wait for the server to notice the death of its client, as it must before locks are free."""
    deadline = time.monotonic() + 10
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    while scalar(store, others) and time.monotonic() < deadline:
        time.sleep(0.02)


def resumes(store: Store, point: str, uninterrupted: Dump) -> None:
    """Kill a run at a point, run again, and find the same commons as without the kill."""
    fill(store)
    before = public_dump(store)
    with stopped_at(store, point) as process:
        process.kill()
    wait_until_gone(store)
    assert forbidden_changes(before, public_dump(store)) == []
    under = interruptible_policy()
    distil(store, under=under, now=NOW + timedelta(hours=1))
    if (leased := _leased_for_s(store)) > 0:
        time.sleep(leased + 0.1)
        distil(store, under=under, now=NOW + timedelta(hours=2))
    after = public_dump(store)
    assert without_moments(after) == uninterrupted
    with store.read() as conn:
        assert invariants.violations(conn) == ()
    assert rows(store, "SELECT 1 FROM distillation.llm_jobs WHERE claimed_by IS NOT NULL") == []
    again = distil(store, under=under, now=NOW + timedelta(hours=3))
    assert {receipt.outcome for receipt in again.values()} == {"nothing_due"}
    assert org_dump(store) == {table: after[table] for table in org_dump(store)}
    dead = scalar(store, "SELECT status FROM distillation.runs ORDER BY as_of LIMIT 1")
    assert dead == "failed"


def _leased_for_s(store: Store) -> float:
    longest = "SELECT EXTRACT(epoch FROM max(lease_until) - clock_timestamp()) FROM distillation.llm_jobs"
    return float(scalar(store, longest) or 0)


@pytest.mark.parametrize("point", FEW)
def test_a_killed_run_leaves_nothing_half_done(store: Store, point: str, uninterrupted: Dump) -> None:
    resumes(store, point, uninterrupted)


@pytest.mark.soak
@pytest.mark.parametrize("point", sorted(set(POINTS) - set(FEW)))
def test_a_run_killed_anywhere_leaves_nothing_half_done(
    store: Store, point: str, uninterrupted: Dump
) -> None:
    resumes(store, point, uninterrupted)


def test_a_claim_of_a_killed_run_is_honoured_while_leased_and_taken_over_then(
    store: Store, uninterrupted: Dump
) -> None:
    fill(store)
    under = interruptible_policy()
    with stopped_at(store, "scanning"):
        pass
    wait_until_gone(store)
    [job] = rows(store, "SELECT fingerprint, lease_until FROM distillation.llm_jobs")
    waited = distil(store, under=under, now=NOW + timedelta(hours=1))[Stage.CLUSTER_SUMMARIES]
    assert waited.counts()["skipped"] == 1
    assert "waiting" in waited.note
    time.sleep(max(0.0, _leased_for_s(store)) + 0.1)
    taken = distil(store, under=under, now=NOW + timedelta(hours=2))[Stage.CLUSTER_SUMMARIES]
    assert taken.counts()["published"] == 1
    assert without_moments(public_dump(store)) == uninterrupted
    published = "SELECT count(*) FROM distillation.summaries WHERE fingerprint = :fingerprint"
    assert scalar(store, published, fingerprint=job.fingerprint) == 1


def test_a_claim_on_a_topic_that_is_gone_does_not_outlive_its_lease(store: Store) -> None:
    fill(store)
    with stopped_at(store, "scanning"):
        pass
    wait_until_gone(store)
    time.sleep(max(0.0, _leased_for_s(store)) + 0.1)
    [job] = rows(store, "SELECT fingerprint FROM distillation.llm_jobs")
    member = scalar(
        store,
        "SELECT item_id FROM distillation.topic_members WHERE fingerprint = :f ORDER BY item_id LIMIT 1",
        f=job.fingerprint,
    )
    insert = "DELETE FROM public.knowledge_items WHERE id = :id"
    with store.begin() as conn:
        conn.exec_driver_sql(insert.replace(":id", "%(id)s"), {"id": member})
    distil(store, under=interruptible_policy(), now=NOW + timedelta(hours=1))
    assert rows(store, "SELECT 1 FROM distillation.llm_jobs WHERE lease_until IS NOT NULL") == []
    with store.read() as conn:
        assert invariants.violations(conn) == ()
