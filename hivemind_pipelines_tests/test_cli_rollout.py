"""`plan` and `backfill` as operators call them: nothing changed by one, everything fresh after the other."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import DagsterInstance
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from hivemind_pipelines.cli import main
from hivemind_pipelines.definitions import build_defs
from hivemind_pipelines.defs import backfill as backfills
from hivemind_pipelines.defs.in_process import QUIET
from hivemind_pipelines.defs.partitions import add_orgs
from hivemind_pipelines.defs.resources import Commons
from hivemind_pipelines.settings import load, load_policy
from hivemind_pipelines.stages import cluster_summaries
from hivemind_pipelines.store.connection import Store, StoreError
from hivemind_pipelines_tests.builders import (
    insert_item,
    insert_pending,
    insert_signal,
    public_dump,
    rows,
    scalar,
    unit_vector,
    vector_near,
)
from hivemind_pipelines_tests.faults import interrupted_backfill
from hivemind_pipelines_tests.faults.test_crashes import wait_until_gone
from hivemind_pipelines_tests.observed import own_digest

FIX = "Set the pool timeout to avoid stale connections after a database failover"
BASE: dict[str, Any] = {"summary": {"method": "extractive"}, "matching": {"duplicate_min": 1.0}}
ORGS = [f"org-{number}" for number in range(6)]

Run = Callable[..., tuple[int, Any, str]]
SetPolicy = Callable[..., Path]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: str) -> None:
    for name in list(os.environ):
        if name.startswith(("HIVEMIND_", "DAGSTER_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HIVEMIND_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HIVEMIND_DATABASE_URL", database_url)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command with --json; answers with exit code, its one object and standard error."""

    def call(*words: object) -> tuple[int, Any, str]:
        code = main([*map(str, words), "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out), err

    return call


@pytest.fixture
def set_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SetPolicy:
    """Puts a policy file in force."""

    def write(**sections: Mapping[str, object]) -> Path:
        file = policy_file(tmp_path / "policy.yaml", **sections)
        monkeypatch.setenv("HIVEMIND_POLICY_FILE", str(file))
        return file

    return write


def policy_file(file: Path, **sections: Mapping[str, object]) -> Path:
    file.write_text(yaml.safe_dump(BASE | sections), encoding="utf-8")
    return file


def a_small_org(store: Store, org: str) -> None:
    """A near duplicate, two notes that are said to conflict and a row of the queue; no text is embedded."""
    vector = unit_vector(1)
    for number, content in enumerate((FIX, f"{FIX} today")):
        insert_item(store, content, org, embedding=vector_near(vector, 0.97, number))
    conflict = unit_vector(2)
    parties = ("The cache must be warm before traffic arrives", "Restart every worker at two in the night")
    for number, content in enumerate(parties):
        item = insert_item(store, content, org, embedding=vector_near(conflict, 0.9, number))
        insert_signal(store, item)
    insert_pending(store, "A note of the queue", org, confidence=0.5)


def fresh(store: Store, orgs: list[str]) -> None:
    """Small orgs, distilled in one run under the policy in force, and all scored."""
    for org in orgs:
        a_small_org(store, org)
    settings = load()
    commons = Commons(settings=settings, policy=load_policy(settings), store=store)
    definitions = build_defs({"commons": commons})
    span = {ASSET_PARTITION_RANGE_START_TAG: orgs[0], ASSET_PARTITION_RANGE_END_TAG: orgs[-1]}
    with DagsterInstance.ephemeral() as instance:
        add_orgs(instance, orgs)
        for job, tags in (("distillation", span), ("quality", {})):
            chosen = definitions.resolve_job_def(job)
            done = chosen.execute_in_process(run_config=QUIET, instance=instance, tags=tags)
            assert done.success


MOVED: dict[str, Mapping[str, object]] = {
    "matching": {"duplicate_min": 0.5},
    "contradiction": {"cosine_min": 0.99},
    "prescreen": {"low_quality_below": 0.9},
    "quality": {"half_life_days": 20},
}


def everything(store: Store) -> object:
    """Every row of both schemas, and every file below Dagster's home."""
    return (
        public_dump(store),
        own_digest(store),
        rows(store, "SELECT * FROM distillation.runs ORDER BY run_id"),
    )


def test_a_plan_says_what_would_change_and_changes_nothing(
    store: Store, run: Run, set_policy: SetPolicy, tmp_path: Path
) -> None:
    set_policy()
    fresh(store, ["acme", "beta"])
    before = everything(store)
    plot = tmp_path / "plan.png"
    code, plan, err = run("plan", "--policy", policy_file(tmp_path / "b.yaml", **MOVED), "--plot", plot)
    assert (code, err) == (0, "")
    assert plan["stale_sections"] == ["matching", "contradiction", "quality"]
    assert plan["totals"]["matching.merged"] == 2
    assert plan["totals"]["contradiction.withdrawn"] == 2
    assert plan["totals"]["labels.flagged"] == 2
    assert sum(plan["scores"]["before"]) == sum(plan["scores"]["after"]) == 8
    assert plan["totals"]["scores.changed"] == 8
    assert plan["refused_orgs"] == []
    assert plan["orgs"]["acme"]["counts"]["matching.merged"] == 1
    assert {effect["kind"] for effect in plan["orgs"]["beta"]["largest"]} >= {"merge", "withdraw_case"}
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert everything(store) == before
    assert run("plan", "--policy", tmp_path / "b.yaml", "--org", "beta")[1]["orgs"].keys() == {"beta"}


def test_a_plan_is_readable(
    store: Store, run: Run, set_policy: SetPolicy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_policy()
    fresh(store, ["acme"])
    assert main(["plan", "--policy", str(policy_file(tmp_path / "b.yaml", **MOVED))]) == 0
    said = capsys.readouterr().out
    for words in ("stale under it: matching, contradiction, quality", "1 merges made", "1 cases withdrawn",
                  "quality scores of 4 live items", "no model would be called", "largest effects",
                  "mass-change breaker: it would let everything through", "nothing was changed"):  # fmt: skip
        assert words in said


def test_a_backfill_brings_every_org_to_fresh_and_is_taken_back_whole(
    store: Store, run: Run, set_policy: SetPolicy
) -> None:
    set_policy()
    fresh(store, ORGS)
    before = public_dump(store)
    set_policy(**MOVED)
    status = run("status")[1]["orgs"]
    assert all(one["stale"]["matching"] and one["stale"]["contradiction"] for one in status.values())
    code, done, _ = run("backfill", "--yes")
    assert (code, done["by"], done["left"]["orgs"], done["failures"]) == (0, "this process", {}, {})
    assert sorted(done["stale"]["orgs"]) == ORGS
    assert done["totals"]["matching.merged"] == 6
    assert scalar(store, "SELECT count(*) FROM distillation.merges") == 6
    assert scalar(store, "SELECT count(*) FROM distillation.contradiction_cases WHERE status = 'open'") == 0
    # One run for all orgs, and none of them is stale or due.
    runs = """
        SELECT count(DISTINCT dagster_run_id), count(org_id) FROM distillation.runs WHERE backfill_id = :id
    """
    assert tuple(rows(store, runs, id=done["backfill_id"])[0]) == (1, 6)
    status = run("status")[1]["orgs"]
    assert not any(
        count for one in status.values() for count in (*one["stale"].values(), *one["due"].values())
    )
    assert run("backfill", "--yes")[1]["backfilled"] is False
    code, undone, err = run("undo", "--run", done["backfill_id"])
    assert code == 0, err
    assert sorted(undone["orgs"]) == ORGS
    assert_same_but_for_runs(public_dump(store), before)


def assert_same_but_for_runs(after: Any, before: Any) -> None:
    for dump in (after, before):
        dump.pop("deployment_config")
    assert after == before


def test_a_section_or_an_org_is_backfilled_alone(store: Store, run: Run, set_policy: SetPolicy) -> None:
    set_policy()
    fresh(store, ORGS[:3])
    set_policy(**MOVED)
    code, done, _ = run("backfill", "--yes", "--section", "contradiction", "--org", "org-1")
    assert (code, list(done["stale"]["orgs"])) == (0, ["org-1"])
    assert done["stale"]["orgs"]["org-1"]["sections"] == ["contradiction"]
    assert scalar(store, "SELECT count(*) FROM distillation.merges") == 0
    withdrawn = "SELECT array_agg(org_id) FROM distillation.contradiction_cases WHERE status <> 'open'"
    assert scalar(store, withdrawn) == ["org-1"]
    done = run("backfill", "--yes")[1]
    # The review queue was screened again with the conflicts it shows.
    assert done["stale"]["orgs"]["org-1"]["sections"] == ["matching"]
    assert done["left"]["orgs"] == {}


MANY = [f"org-{number:02}" for number in range(12)]
_BACKFILLED = """
    SELECT DISTINCT org_id FROM distillation.runs
    WHERE backfill_id IS NOT NULL AND status = 'finished' AND org_id IS NOT NULL
"""


def test_one_failing_org_of_many_is_named_and_holds_up_no_other(
    store: Store, run: Run, set_policy: SetPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_policy()
    fresh(store, MANY)
    set_policy(**MOVED)
    monkeypatch.setattr(backfills, "PARTITIONS_PER_RUN", 5)
    real = cluster_summaries.run

    def fails_for_one(ctx: Any) -> Any:
        if ctx.org_id == "org-06":
            raise StoreError("the disk is full")
        return real(ctx)

    with monkeypatch.context() as broken:
        broken.setattr(cluster_summaries, "run", fails_for_one)
        code, done, err = run("backfill", "--yes")
    assert (code, list(done["failures"])) == (1, ["org-06"])
    assert "org 'org-06' failed: cluster_summaries failed: the disk is full" in err
    assert "5 of 12 orgs, orgs 6 to 10" in err
    assert [row.org_id for row in rows(store, f"{_BACKFILLED} ORDER BY 1")] == [*MANY[:6], *MANY[7:]]
    # Three chunks, the one that failed again in three parts of two, and the two of the last of them alone.
    chunks = "SELECT count(DISTINCT dagster_run_id) FROM distillation.runs WHERE backfill_id = :id"
    assert scalar(store, chunks, id=done["backfill_id"]) == 3 + 3 + 2
    code, again, _ = run("backfill", "--yes")
    assert (code, list(again["stale"]["orgs"]), again["left"]["orgs"]) == (0, ["org-06"], {})
    assert scalar(store, "SELECT count(*) FROM distillation.runs WHERE status = 'running'") == 0


def killed_backfill(store: Store, after: int) -> None:
    """A backfill in chunks of five orgs that is killed once so many orgs are through."""
    command = [sys.executable, "-m", interrupted_backfill.__name__, "5"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while len(rows(store, _BACKFILLED)) < after:
            assert process.poll() is None, "it was over before it could be killed"
            time.sleep(0.01)
        process.kill()
    wait_until_gone(store)


def test_a_killed_backfill_goes_on_with_what_is_left(
    store: Store, run: Run, set_policy: SetPolicy, database_url: str
) -> None:
    set_policy()
    fresh(store, MANY)
    before = public_dump(store)
    set_policy(**MOVED)
    killed_backfill(store, after=5)
    finished = {row.org_id for row in rows(store, _BACKFILLED)}
    assert 5 <= len(finished) < len(MANY)
    code, done, _ = run("backfill", "--yes")
    assert (code, done["left"]["orgs"], done["failures"]) == (0, {}, {})
    assert finished.isdisjoint(done["stale"]["orgs"])
    assert scalar(store, "SELECT count(*) FROM distillation.merges") == len(MANY)
    assert scalar(store, "SELECT count(*) FROM distillation.ledger WHERE change = 'merge'") == len(MANY)
    status = run("status")[1]["orgs"]
    assert not any(
        count for one in status.values() for count in (*one["stale"].values(), *one["due"].values())
    )
    taken_back = rows(
        store, "SELECT DISTINCT backfill_id FROM distillation.runs WHERE backfill_id IS NOT NULL"
    )
    assert len(taken_back) == 2
    for one in (done["backfill_id"], *(row.backfill_id for row in taken_back)):
        assert run("undo", "--run", one)[0] == 0
    assert_same_but_for_runs(public_dump(store), before)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_five_hundred_orgs_are_backfilled_in_chunks(store: Store, run: Run, set_policy: SetPolicy) -> None:
    orgs = [f"org-{number:03}" for number in range(500)]
    set_policy()
    fresh(store, orgs)
    set_policy(**MOVED)
    cpu_before = time.process_time()
    code, done, _ = run("backfill", "--yes")
    print(f"500 orgs: {done['seconds']:.0f} s, {time.process_time() - cpu_before:.0f} CPU-s of this process")
    assert (code, done["left"]["orgs"], done["failures"]) == (0, {}, {})
    runs = "SELECT count(DISTINCT dagster_run_id) FROM distillation.runs WHERE backfill_id = :id AND org_id <> ''"
    assert scalar(store, runs, id=done["backfill_id"]) == 5
    assert scalar(store, "SELECT count(*) FROM distillation.merges") == 500


def test_the_breaker_stops_a_backfill_until_it_is_lifted_and_the_ledger_says_so(
    store: Store, run: Run, set_policy: SetPolicy
) -> None:
    careful = {"mass_change_share_max": 0.1, "mass_change_items_min": 2}
    set_policy(safety=careful)
    fresh(store, ["acme", "beta"])
    set_policy(safety=careful, matching=MOVED["matching"])
    code, done, err = run("backfill", "--yes")
    assert (code, sorted(done["left"]["orgs"])) == (1, ["acme", "beta"])
    assert "the plan expires 1 of 4 live items" in err
    assert scalar(store, "SELECT count(*) FROM distillation.merges") == 0
    code, done, _ = run("backfill", "--yes", "--allow-mass-change")
    assert (code, done["left"]["orgs"]) == (0, {})
    assert scalar(store, "SELECT count(*) FROM distillation.ledger WHERE change = 'allow_mass_change'") == 2
    assert run("undo", "--run", done["backfill_id"])[0] == 0


def test_without_a_terminal_and_without_yes_nothing_is_done(
    store: Store, run: Run, set_policy: SetPolicy
) -> None:
    set_policy()
    fresh(store, ["acme"])
    assert run("backfill")[1]["reason"] == "fresh"
    set_policy(**MOVED)
    before = public_dump(store)
    code, answer, err = run("backfill")
    assert code == 2
    assert answer["error"] == "1 org and the scores of all to backfill and no terminal to ask on: add --yes"
    assert len(err.strip().splitlines()) == 1
    assert public_dump(store) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("plan",), "--policy"),
        (("plan", "--policy", "absent.yaml"), "cannot read absent.yaml"),
        (("plan", "--policy", "{bad}"), "matching.duplicate_min: Input should be less than or equal to 1"),
        (("plan", "--policy", "{good}", "--org", "nobody"), "unknown org 'nobody'"),
        (("plan", "--policy", "{good}", "--plot", "plan.pdf"), "ends in .png"),
        (("plan", "--policy", "{good}", "--plot", "/nowhere/plan.png"), "no directory"),
        (("backfill", "--yes", "--org", "nobody"), "unknown org 'nobody'"),
        (("backfill", "--yes", "--section", "topics"), "invalid choice: 'topics'"),
        (("backfill", "--no"), "unrecognized arguments"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, run: Run, words: tuple[str, ...], said: str) -> None:
    files = {
        "bad": policy_file(tmp_path / "bad.yaml", matching={"duplicate_min": 7}),
        "good": policy_file(tmp_path / "good.yaml"),
    }
    code, answer, err = run(*(word.format_map(files) for word in words))
    assert code == 2
    assert said in answer["error"]
    assert len(err.strip().splitlines()) == 1
