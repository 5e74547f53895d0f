"""Erasing beside runs, in the middle of a model's answer, and after kill -9: nothing of the text is left."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from dagster import DagsterInstance, RunRequest, SensorResult, build_sensor_context

from hivemind_pipelines.core.model import ItemId, Stage, Vectors
from hivemind_pipelines.core.text import content_hash
from hivemind_pipelines.defs.in_process import distill_in_process
from hivemind_pipelines.defs.sensors import build_sensors
from hivemind_pipelines.settings import Settings
from hivemind_pipelines.stages import erasing
from hivemind_pipelines.stages.erasing import Issued, Office
from hivemind_pipelines.stages.residual_scan import Places
from hivemind_pipelines.store.connection import Store, open_store
from hivemind_pipelines_tests.builders import (
    ACME,
    delete_item,
    insert_item,
    insert_items,
    public_dump,
    read_item,
    rows,
    scalar,
)
from hivemind_pipelines_tests.defs.conftest import Location, location
from hivemind_pipelines_tests.fakes import HashEmbedder
from hivemind_pipelines_tests.faults import interrupted_erasure
from hivemind_pipelines_tests.faults.interrupted_erasure import KEY, REASON
from hivemind_pipelines_tests.faults.test_crashes import wait_until_gone
from hivemind_pipelines_tests.faults.test_model_faults import (
    ALWAYS_SAME,
    CANARY_KEY,
    claude,
    is_confirmation,
    using,
    with_model,
)
from hivemind_pipelines_tests.messages_server import DEFAULT, Answer, Body, MessagesServer
from hivemind_pipelines_tests.stages.commons import NOW, distil, policy, services
from hivemind_pipelines_tests.stages.test_erasing import RELATED, SECRET, holds, whole_database

LATER = NOW + timedelta(minutes=5)
LOOSE = policy(topics={"distance_max": 0.9}, matching={"duplicate_min": 1.0})


def office_of(store: Store, home: Path) -> Office:
    """An office that searches the test's database and its home."""
    return Office(Places(store, directories=(home,)), home, KEY)


def erase(office: Office, *ids: ItemId) -> list[Issued]:
    """Erase under the loose policy; the receipts."""
    done = erasing.erase(office, LOOSE, ids, reason="asked", with_copies=False, now=LATER)
    return list(done.issued)


def is_gone(store: Store, *texts: str) -> bool:
    """Whether neither the texts nor their hashes are anywhere in the database."""
    everything = whole_database(store)
    return not any(one in everything for text in texts for one in (text, content_hash(text)))


@contextmanager
def held(
    answer: Callable[[Body], Answer],
) -> Iterator[tuple[MessagesServer, threading.Event, threading.Event]]:
    """A server that holds its answer until it is released; tells when it was asked."""
    asked, released = threading.Event(), threading.Event()

    def wait(body: Body) -> Answer:
        asked.set()
        assert released.wait(60)
        return answer(body)

    with MessagesServer() as server:
        server.respond_with(wait)
        try:
            yield server, asked, released
        finally:
            released.set()


def erased_during_a_call(
    store: Store, home: Path, item_id: ItemId, answer: Callable[[Body], Answer], *, confirms: bool
) -> list[Issued]:
    """Erase an item while a run waits for the model; the receipts."""
    with (
        held(answer) as (server, asked, released),
        open_store(store.url) as own,
        ThreadPoolExecutor(1) as pool,
    ):
        llm = claude(server.base_url, CANARY_KEY, 60.0)
        running = pool.submit(distil, own, under=with_model(confirms), using=using(llm))
        assert asked.wait(60)
        issued = erase(office_of(store, home), item_id)
        released.set()
        running.result()
    return issued


def test_a_source_erased_while_the_model_writes_comes_into_no_summary(store: Store, tmp_path: Path) -> None:
    source, *_ = insert_items(store, [f"{text} of {SECRET}" for text in RELATED])
    said = str(read_item(store, source)["content"])
    issued = erased_during_a_call(store, tmp_path, source, lambda _: DEFAULT, confirms=False)
    assert [one.residue for one in issued] == [{}]
    assert is_gone(store, said)
    assert scalar(store, "SELECT count(*) FROM distillation.summaries") == 0
    holds(store)
    distil(store, under=with_model(), using=using(None), now=NOW + timedelta(hours=1))
    assert is_gone(store, said)


def test_a_verdict_on_an_erased_text_is_not_kept(store: Store, tmp_path: Path) -> None:
    said = f"{SECRET} near the door"
    pair = [insert_item(store, text) for text in (said, f"{SECRET} next to the old door")]
    issued = erased_during_a_call(
        store,
        tmp_path,
        pair[0],
        lambda body: ALWAYS_SAME if is_confirmation(body) else DEFAULT,
        confirms=True,
    )
    assert [one.residue for one in issued] == [{}]
    assert is_gone(store, said)
    assert scalar(store, "SELECT count(*) FROM distillation.llm_verdicts") == 0
    assert scalar(store, "SELECT count(*) FROM distillation.llm_jobs") == 0
    assert read_item(store, pair[1])["expired_at"] is None
    holds(store)


class WaitingEmbedder(HashEmbedder):
    """Says when it has begun and waits until it may go on."""

    def __init__(self) -> None:
        self.begun, self.released = threading.Event(), threading.Event()

    def embed(self, texts: Sequence[str], on_progress: Callable[[int, int], None] | None = None) -> Vectors:
        self.begun.set()
        assert self.released.wait(60)
        return super().embed(texts, on_progress)


def test_features_computed_before_an_erasure_are_not_stored_after_it(store: Store, tmp_path: Path) -> None:
    secret, other = insert_items(store, [SECRET, RELATED[0]])
    embedder = WaitingEmbedder()
    with open_store(store.url) as own, ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            distil, own, using=services(embedder=embedder), stages=[Stage.ITEM_FEATURES]
        )  # fmt: skip
        assert embedder.begun.wait(60)
        erase(office_of(store, tmp_path), secret)
        embedder.released.set()
        running.result()
    featured = [row.item_id for row in rows(store, "SELECT item_id FROM distillation.item_features")]
    assert featured == [other]
    assert is_gone(store, SECRET)


@pytest.mark.soak
def test_erasing_beside_runs_that_never_stop_leaves_nothing(store: Store, tmp_path: Path) -> None:
    texts = [f"{text} {number}" for number in range(3) for text in RELATED]
    ids = insert_items(store, texts)
    office = office_of(store, tmp_path)
    stop = threading.Event()

    def run() -> int:
        count = 0
        with open_store(store.url) as own:
            while not stop.is_set():
                distil(own, under=LOOSE, now=NOW + timedelta(minutes=count))
                count += 1
        return count

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        try:
            for item_id in ids[:4]:
                assert [one.residue for one in erase(office, item_id)] == [{}]
        finally:
            stop.set()
        assert running.result() > 0
    distil(store, under=LOOSE, now=NOW + timedelta(hours=1))
    assert is_gone(store, *texts[:4])
    holds(store)


#: Before the texts go, just before the commit, before the search, and when only the needles are left.
POINTS = (
    "SET content = '[erased ",
    "INSERT INTO distillation.erasures",
    "FROM pg_attribute a",
    "SET unfinished = NULL",
)


FEW = POINTS[1:3]


@contextmanager
def stopped(store: Store, home: Path, secret: ItemId, fragment: str) -> Iterator[None]:
    """An erasure in a process of its own that stands before a statement; it is killed at the end."""
    command = [sys.executable, "-m", interrupted_erasure.__name__, store.url, str(home), str(secret)]
    with subprocess.Popen([*command, fragment], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == f"sql:{fragment}".strip()
        yield
        process.kill()
    wait_until_gone(store)


def is_finished_by_the_next(store: Store, tmp_path: Path, fragment: str) -> None:
    """Kill an erasure before a statement, erase again, and find one receipt and nothing left."""
    secret, *_ = insert_items(store, [SECRET, *RELATED])
    distil(store, under=LOOSE)
    before = public_dump(store)
    with stopped(store, tmp_path, secret, fragment):
        pass
    was_committed = fragment in POINTS[2:]
    assert (public_dump(store) == before) != was_committed
    [issued] = erase(office_of(store, tmp_path), secret)
    assert issued.receipt["reason"] == (REASON if was_committed else "asked")
    assert issued.residue == {}
    assert is_gone(store, SECRET, REASON)
    assert erasing.verify(store, issued.file, KEY).faults == ()
    assert len(list((tmp_path / "erasures").glob("*.json"))) == 1
    assert erase(office_of(store, tmp_path), secret) == []
    holds(store)


@pytest.mark.parametrize("fragment", FEW)
def test_a_killed_erasure_is_finished_by_the_next(store: Store, tmp_path: Path, fragment: str) -> None:
    is_finished_by_the_next(store, tmp_path, fragment)


@pytest.mark.soak
@pytest.mark.parametrize("fragment", sorted(set(POINTS) - set(FEW)))
def test_an_erasure_killed_anywhere_is_finished_by_the_next(
    store: Store, tmp_path: Path, fragment: str
) -> None:
    is_finished_by_the_next(store, tmp_path, fragment)


def finished_by_the_sensor(here: Location) -> None:
    """What the deletion sensor asks for, and the run that it asks for."""
    [sensor] = [one for one in build_sensors(running=True) if one.name == "erasure_backlog"]

    def tick() -> list[RunRequest]:
        found = sensor(build_sensor_context(instance=here.instance, resources={"commons": here.commons}))
        assert isinstance(found, SensorResult)
        return list(found.run_requests or [])

    [request] = tick()
    assert (request.partition_key, request.job_name) == (ACME, "erasure")
    receipt = here.run("erasure", ACME).asset_value("erasure_propagation")[ACME]
    assert (receipt.outcome, receipt.finished, receipt.residue) == ("applied", 1, 0)
    assert tick() == []


def finished_by_a_distillation(here: Location) -> None:
    """The next distillation on the command line."""
    runs = distill_in_process(here.definitions, here.commons, [ACME])
    assert runs[ACME].failure is None


@pytest.mark.parametrize("finish", [finished_by_the_sensor, finished_by_a_distillation])
def test_an_erasure_that_lost_its_process_waits_for_no_other_erasure(
    store: Store, tmp_path: Path, finish: Callable[[Location], None]
) -> None:
    secret, *_ = insert_items(store, [SECRET, *RELATED])
    distil(store, under=LOOSE)
    with stopped(store, tmp_path, secret, "FROM pg_attribute a"):
        assert erasing.unfinished_orgs(store, KEY) == (), "its process is still at work"
    assert erasing.unfinished_orgs(store, b"a key that finds nothing") == ()
    assert erasing.unfinished_orgs(store, KEY) == (ACME,)
    with DagsterInstance.ephemeral() as instance:
        finish(location(instance, store, LOOSE, Settings(home=tmp_path, receipt_key=KEY)))
    assert erasing.unfinished_orgs(store, KEY) == ()
    [file] = (tmp_path / "erasures").glob("*.json")
    receipt = json.loads(file.read_text())
    assert (receipt["reason"], receipt["scan"]["residue"]) == (REASON, {})
    assert erasing.verify(store, file, KEY).faults == ()
    assert is_gone(store, SECRET, REASON)
    holds(store)


def test_a_hard_delete_in_the_middle_of_an_erasure_changes_nothing(store: Store, tmp_path: Path) -> None:
    source, *_ = insert_items(store, RELATED)
    distil(store, under=LOOSE)
    [issued] = erase(office_of(store, tmp_path), source)
    delete_item(store, source)
    distil(store, under=LOOSE, now=NOW + timedelta(hours=1))
    assert erasing.verify(store, issued.file, KEY).faults == ()
    holds(store)
