"""Several runs of one org at once, and runs beside a server that never stops writing."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from hivemind_pipelines.core.model import OrgId, RunId, Stage
from hivemind_pipelines.core.text import content_hash
from hivemind_pipelines.stages import backlog, erasure_propagation, quality_scores
from hivemind_pipelines.stages.backlog import ModelStamps
from hivemind_pipelines.store import invariants
from hivemind_pipelines.store.connection import Store, open_store, try_lock
from hivemind_pipelines_tests.builders import (
    ACME,
    execute,
    insert_item,
    insert_items,
    insert_pending,
    insert_signal,
    org_dump,
    public_dump,
    rows,
    scalar,
    set_item,
)
from hivemind_pipelines_tests.observed import forbidden_changes, own_digest
from hivemind_pipelines_tests.stages.commons import NOW, distil, policy, services

LOOSE = policy(topics={"distance_max": 0.7}, safety={"mass_change_share_max": 1.0})
TOPICS = ("upload gateway", "session cache", "invoice export", "search index", "mail relay", "audit log")
FRAMES = (
    "Retry the {} with exponential backoff when the storage answers slowly",
    "When the storage answers slowly the {} should retry with exponential backoff and jitter",
    "The {} retries with exponential backoff while the storage answers slowly under load",
)


def fill(store: Store) -> None:
    """Topics with duplicates, suspects in two of them, and a queue."""
    for topic in TOPICS:
        for frame in FRAMES:
            first, *_ = insert_items(store, [frame.format(topic) + end for end in ("", ".", "!")])
            if topic in TOPICS[:2]:
                insert_signal(store, first)
    for number in range(20):
        insert_pending(store, f"pending {number}", confidence=0.1)


def holds(store: Store) -> None:
    """No invariant is violated."""
    with store.read() as conn:
        assert invariants.violations(conn) == ()


def converges(store: Store) -> None:
    """The next run leaves nothing due, and the one after it finds nothing."""
    distil(store, under=LOOSE, now=datetime.now(UTC))
    holds(store)
    found = backlog.read(store, LOOSE, datetime.now(UTC), ModelStamps.of(services()))
    assert {org.org_id: sum(org.due.values()) for org in found.orgs} == {ACME: 0}
    own, public = own_digest(store), org_dump(store)
    again = distil(store, under=LOOSE, now=datetime.now(UTC))
    assert {receipt.outcome for receipt in again.values()} == {"nothing_due"}
    assert (own_digest(store), org_dump(store)) == (own, public)


@pytest.mark.parametrize("runs", [2, 4])
def test_runs_of_one_org_at_once_do_each_thing_once(store: Store, runs: int) -> None:
    fill(store)
    before = public_dump(store)
    barrier = threading.Barrier(runs)

    def run(number: int) -> dict[Stage, Any]:
        with open_store(store.url) as own:
            barrier.wait()
            return distil(own, under=LOOSE, now=NOW + timedelta(seconds=number))

    with ThreadPoolExecutor(runs) as threads:
        done = list(threads.map(run, range(runs)))
    assert {receipt.outcome for receipts in done for receipt in receipts.values()} <= {
        "applied", "busy", "nothing_due",
    }  # fmt: skip
    assert forbidden_changes(before, public_dump(store)) == []
    holds(store)
    converges(store)
    doubles = """
        SELECT change, subject_id FROM distillation.ledger WHERE change IN ('merge', 'publish', 'open_case', 'flag')
        GROUP BY change, subject_id HAVING count(*) > 1
    """
    assert rows(store, doubles) == []
    assert scalar(store, "SELECT count(*) FROM public.knowledge_items WHERE expired_at IS NOT NULL") >= 36


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage != Stage.DISTILLATION_REPORT])
def test_a_stage_that_another_run_holds_is_busy_and_stays_due(store: Store, stage: Stage) -> None:
    fill(store)
    stages = list(Stage)[: list(Stage).index(stage)]
    if stages:
        distil(store, under=LOOSE, stages=stages)
    before = org_dump(store)
    with store.begin() as conn:
        assert try_lock(conn, OrgId(ACME), stage.value)
        receipt = distil(store, under=LOOSE, stages=[stage], now=NOW + timedelta(hours=1))[stage]
    if stage != Stage.ITEM_FEATURES:
        assert receipt.outcome == "busy"
        assert receipt.applied == 0
    assert org_dump(store) == before
    [org] = backlog.read(store, LOOSE, NOW, ModelStamps.of(services())).orgs
    assert org.due[stage] > 0
    converges(store)


class Server:
    """What a HiveMind server and its users do to the tables, each act a transaction of its own."""

    def __init__(self, store: Store, seed: int) -> None:
        self.store, self.random, self.removed = store, random.Random(seed), set[str]()
        self.contents: dict[str, str] = {}

    def act(self) -> None:
        """One act by chance."""
        self.random.choice(
            [self.contribute, self.contribute, self.approve, self.reject, self.delete, self.undelete,
             self.remove, self.count, self.edit, self.complain, self.queue]
        )()  # fmt: skip

    def _any(self, table: str = "knowledge_items", where: str = "true") -> Any:
        found = rows(self.store, f"SELECT * FROM public.{table} WHERE {where}")
        return self.random.choice(found) if found else None

    def _text(self) -> str:
        frame, topic = self.random.choice(FRAMES), self.random.choice(TOPICS)
        ending = self.random.choice(["", ".", "!", " soon", " at once", " in every region"])
        return frame.format(topic) + ending

    def _insert(self, content: str, **columns: object) -> None:
        known = "SELECT 1 FROM public.knowledge_items WHERE content_hash = :hash AND org_id = 'acme'"
        if not rows(self.store, known, hash=content_hash(content)):
            insert_item(self.store, content, **columns)

    def contribute(self) -> None:
        self._insert(self._text(), quality_score=self.random.random())

    def queue(self) -> None:
        insert_pending(self.store, self._text(), confidence=self.random.random())

    def approve(self) -> None:
        if (row := self._any("pending_contributions")) is not None:
            execute(self.store, "DELETE FROM public.pending_contributions WHERE id = :id", id=row.id)
            self.removed.add(str(row.id))
            self._insert(row.content, id=row.id)

    def reject(self) -> None:
        if (row := self._any("pending_contributions")) is not None:
            execute(self.store, "DELETE FROM public.pending_contributions WHERE id = :id", id=row.id)
            self.removed.add(str(row.id))

    def delete(self) -> None:
        if (row := self._any(where="deleted_at IS NULL")) is not None:
            set_item(self.store, row.id, deleted_at=datetime.now(UTC))

    def undelete(self) -> None:
        if (row := self._any(where="deleted_at IS NOT NULL")) is not None:
            set_item(self.store, row.id, deleted_at=None)

    def remove(self) -> None:
        if (row := self._any()) is not None:
            signals = rows(
                self.store, "SELECT id FROM public.quality_signals WHERE knowledge_item_id = :id", id=row.id
            )
            self.removed |= {str(row.id), *(str(signal.id) for signal in signals)}
            execute(self.store, "DELETE FROM public.knowledge_items WHERE id = :id", id=row.id)

    def count(self) -> None:
        if (row := self._any()) is not None:
            execute(
                self.store,
                "UPDATE public.knowledge_items SET retrieval_count = retrieval_count + 1 WHERE id = :id",
                id=row.id,
            )

    def edit(self) -> None:
        """The server writes tags as it read them, and now and then a text."""
        if (row := self._any(where="source_agent_id <> 'distillation'")) is not None:
            content = f"{row.content} (edited {uuid4().hex[:6]})"
            set_item(self.store, row.id, content=content, content_hash=content_hash(content))

    def complain(self) -> None:
        if (row := self._any(where="deleted_at IS NULL")) is not None:
            statement = """
                INSERT INTO public.quality_signals (id, knowledge_item_id, signal_type, created_at)
                SELECT gen_random_uuid(), id, 'contradiction', now() FROM public.knowledge_items WHERE id = :id
            """
            execute(self.store, statement, id=row.id)


@contextmanager
def busy(act: Callable[[], object], pause_s: float) -> Iterator[list[int]]:
    """`act` again and again on a thread of its own; the list counts, and what it raised is raised here."""
    stopping, count = threading.Event(), [0]

    def loop() -> None:
        while not stopping.is_set():
            act()
            count[0] += 1
            time.sleep(pause_s)

    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(loop)
        try:
            yield count
        finally:
            stopping.set()
        running.result()


def live_beside(store: Store, seed: int, *, runs: int) -> None:
    """Runs of every kind beside a server at work."""
    fill(store)
    server = Server(store, seed)

    def erase() -> None:
        now = datetime.now(UTC)
        erasure_propagation.run(store, now, LOOSE, RunId(uuid4()), OrgId(ACME))
        quality_scores.run(store, now, LOOSE, RunId(uuid4()))

    with busy(server.act, 0.01) as acts, busy(erase, 0.05):
        for _ in range(runs):
            distil(store, under=LOOSE, now=datetime.now(UTC))
    assert acts[0] > 5
    holds_soon(store)
    converges(store)


def holds_soon(store: Store) -> None:
    """What the server did last may wait for the next propagation."""
    distil(store, under=LOOSE, now=datetime.now(UTC))
    holds(store)


def test_runs_beside_a_server_at_work_fail_nowhere_and_converge(store: Store) -> None:
    live_beside(store, 1, runs=6)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(10, 20))
def test_many_runs_beside_a_server_at_work_fail_nowhere_and_converge(store: Store, seed: int) -> None:
    live_beside(store, seed, runs=60)


def test_an_item_deleted_while_its_case_is_opened_fails_nothing(store: Store) -> None:
    """The foreign key of the cluster signal once met a row that was being removed."""
    vector = [1.0] + [0.0] * 383
    pair = [insert_item(store, f"The cache must be {state}", embedding=vector) for state in ("warm", "cold")]
    for item in pair:
        insert_signal(store, item)
    distil(store, stages=[Stage.ITEM_FEATURES])
    with open_store(store.url) as server, ThreadPoolExecutor(1) as threads:
        with server.begin() as conn:
            conn.execute(text("DELETE FROM public.knowledge_items WHERE id = :id"), {"id": min(pair)})
            running = threads.submit(distil, store, stages=[Stage.CONTRADICTION_CASES])
            _wait_for_a_lock(server)
        receipts = running.result()
    assert receipts[Stage.CONTRADICTION_CASES].counts()["opened"] == 0
    assert scalar(store, "SELECT count(*) FROM distillation.contradiction_cases") == 0
    converges(store)


def _wait_for_a_lock(store: Store) -> None:
    deadline = time.monotonic() + 10
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while not scalar(store, waiting) and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_source_deleted_while_its_summary_is_stored_leaves_no_summary(store: Store) -> None:
    sources = insert_items(store, [frame.format(TOPICS[0]) for frame in FRAMES])
    distil(store, under=LOOSE, stages=[Stage.ITEM_FEATURES, Stage.TOPIC_CLUSTERS])
    with open_store(store.url) as server, ThreadPoolExecutor(1) as threads:
        with server.begin() as conn:
            conn.execute(
                text("UPDATE public.knowledge_items SET deleted_at = now() WHERE id = :id"),
                {"id": sources[0]},
            )
            running = threads.submit(distil, store, under=LOOSE, stages=[Stage.CLUSTER_SUMMARIES])
            _wait_for_a_lock(server)
        receipts = running.result()
    assert receipts[Stage.CLUSTER_SUMMARIES].counts()["published"] == 0
    assert "source_changed" in receipts[Stage.CLUSTER_SUMMARIES].note
    assert (
        scalar(store, "SELECT count(*) FROM public.knowledge_items WHERE source_agent_id = 'distillation'")
        == 0
    )


def test_an_item_edited_while_it_is_merged_stays_live(store: Store) -> None:
    fix = "Set the pool timeout to avoid stale connections after a database failover"
    insert_item(store, fix, quality_score=0.9)
    edited = insert_item(store, f"{fix}.")
    distil(store, stages=[Stage.ITEM_FEATURES, Stage.DUPLICATE_PAIRS])
    with open_store(store.url) as server, ThreadPoolExecutor(1) as threads:
        with server.begin() as conn:
            conn.execute(
                text("UPDATE public.knowledge_items SET content = 'Other', content_hash = 'h' WHERE id = :id"),
                {"id": edited},
            )  # fmt: skip
            running = threads.submit(distil, store, stages=[Stage.DUPLICATE_MERGES])
            _wait_for_a_lock(server)
        receipts = running.result()
    merges = receipts[Stage.DUPLICATE_MERGES]
    assert (merges.applied, merges.dropped) == (0, 1)
    assert scalar(store, "SELECT count(*) FROM public.knowledge_items WHERE expired_at IS NOT NULL") == 0
    due = scalar(store, "SELECT item_id FROM distillation.item_features WHERE settled_stamp IS NULL")
    assert due == edited
    converges(store)


def test_tags_that_the_server_writes_meanwhile_are_kept(store: Store) -> None:
    fix = "Set the pool timeout to avoid stale connections after a database failover"
    kept, pending = insert_item(store, fix, quality_score=0.9), insert_pending(store, "poor", confidence=0.1)
    merged = insert_item(store, f"{fix}.")
    distil(store, stages=[Stage.ITEM_FEATURES, Stage.DUPLICATE_PAIRS])
    with open_store(store.url) as server, ThreadPoolExecutor(1) as threads:
        with server.begin() as conn:
            for table, row in (("knowledge_items", kept), ("pending_contributions", pending)):
                conn.execute(
                    text(f"""UPDATE public.{table} SET tags = '{{"mine": 1}}' WHERE id = :id"""), {"id": row}
                )
            running = threads.submit(distil, store, stages=[Stage.DUPLICATE_MERGES])
            _wait_for_a_lock(server)
        running.result()
    assert scalar(store, "SELECT tags FROM public.knowledge_items WHERE id = :id", id=kept) == {
        "mine": 1, "provenance_links": [str(merged)],
    }  # fmt: skip
    distil(store, now=NOW + timedelta(hours=1))
    assert scalar(store, "SELECT tags FROM public.pending_contributions")["mine"] == 1
