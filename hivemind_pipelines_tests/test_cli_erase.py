"""`erase` as other programs call it: exit codes, one JSON object, one clear line."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from dagster import AssetMaterialization, DagsterInstance

from hivemind_pipelines.cli import main
from hivemind_pipelines.definitions import defs
from hivemind_pipelines.defs.development import write_instance
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import insert_item, public_dump, read_item, scalar
from hivemind_pipelines_tests.stages.commons import distil, policy

SECRET = "Marguerite Oyelaran-Vance keeps the quorum password of the vault under the blue stapler"
RELATED = [
    "Retry the upload with exponential backoff when the storage gateway answers slowly",
    "Rotate the storage gateway certificates before the upload window opens each quarter",
    "Compress the upload stream so that the storage gateway answers within its budget",
]

Run = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith(("HIVEMIND_", "DAGSTER_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HIVEMIND_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def run(
    home: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs a command with --json; answers with exit code, the object and standard error."""
    monkeypatch.setenv("HIVEMIND_DATABASE_URL", database_url)

    def call(*words: str) -> tuple[int, dict[str, Any], str]:
        exit_code = main([*words, "--json"])
        out, err = capsys.readouterr()
        return exit_code, json.loads(out), err

    return call


def test_an_erasure_is_proved_by_its_receipt(store: Store, run: Run, home: Path) -> None:
    secret = insert_item(store, SECRET)
    distil(store)
    code, answer, said = run("erase", str(secret), "--reason", "Art. 17, letter 4711")
    assert (code, said) == (0, "")
    [receipt] = answer["receipts"]
    file = Path(receipt["file"])
    assert file.parent == home / "erasures"
    assert json.loads(file.read_text())["reason"] == "Art. 17, letter 4711"
    assert file.stat().st_mode & 0o077 == 0
    code, answer, _ = run("erase", "--verify", str(file))
    assert (code, answer["valid"]) == (0, True)
    code, answer, _ = run("erase", str(secret), "--reason", "again")
    assert (code, answer["receipts"]) == (0, [])
    assert answer["already_erased"] == {str(secret): receipt["erasure_id"]}
    assert read_item(store, secret)["content"] == f"[erased {secret}]"


def test_people_are_told_what_went_what_stays_and_where_the_receipt_is(
    store: Store, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = insert_item(store, SECRET)
    insert_item(store, f"{SECRET}.", source_agent_id="agent-2")
    assert main(["erase", str(secret), "--reason", "asked"]) == 0
    said = capsys.readouterr().out
    assert "1 erased, 0 summaries" in said
    assert "another contributor" in said
    assert "nothing is left" in said
    assert main(["erase", str(secret), "--reason", "asked"]) == 0
    assert "erased already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["erase"], "--reason"),
        (["erase", "--reason", "why"], "at least one ITEM_ID"),
        (["erase", "no-uuid", "--reason", "why"], "expected a UUID"),
        (["erase", str(uuid4())], "--reason"),
        (["erase", str(uuid4()), "--reason", " \n"], "--reason"),
        (["erase", str(uuid4()), "--reason", "x" * 2_001], "longer"),
        (["erase", str(uuid4()), "--reason", "why"], "is known"),
        (["erase", "--verify", "nowhere.json"], "cannot read"),
        (["erase", "--verify", "receipt.json", str(uuid4())], "nothing else"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(run: Run, words: list[str], reason: str) -> None:
    code, answer, said = run(*words)
    assert code == 2
    assert reason in answer["error"]
    assert len(said.splitlines()) == 1


def test_a_summary_is_refused_with_its_sources(store: Store, run: Run) -> None:
    sources = [insert_item(store, text) for text in RELATED]
    distil(store, under=policy(topics={"distance_max": 0.9}, matching={"duplicate_min": 1.0}))
    summary = scalar(store, "SELECT summary_id FROM distillation.summaries")
    before = public_dump(store)
    code, answer, _ = run("erase", str(summary), str(sources[0]), "--reason", "why")
    assert code == 2
    assert all(str(source) in answer["error"] for source in sources)
    assert public_dump(store) == before


def test_what_is_left_is_named_with_exit_code_1(store: Store, run: Run, home: Path) -> None:
    secret = insert_item(store, SECRET)
    (home / "notes").mkdir(parents=True)
    (home / "notes" / "todo.txt").write_text(SECRET)
    code, answer, said = run("erase", str(secret), "--reason", "why")
    assert code == 1
    assert list(answer["residue"].values()) == [{str(home / "notes" / "todo.txt"): 1}]
    assert "todo.txt" in said
    assert SECRET not in said


def test_a_receipt_that_was_changed_or_is_none_is_told_apart(store: Store, run: Run) -> None:
    secret = insert_item(store, SECRET)
    _, answer, _ = run("erase", str(secret), "--reason", "why")
    file = Path(answer["receipts"][0]["file"])
    file.write_text(file.read_text().replace('"why"', '"because"'))
    code, answer, said = run("erase", "--verify", str(file))
    assert (code, answer["valid"]) == (1, False)
    assert "changed after it was signed" in said
    file.write_text("not a receipt")
    code, answer, _ = run("erase", "--verify", str(file))
    assert code == 2


def test_dagsters_own_storage_is_searched(store: Store, run: Run, home: Path) -> None:
    secret = insert_item(store, SECRET)
    with DagsterInstance.from_config(str(write_instance(home / "dagster"))) as instance:
        leak = AssetMaterialization("leak", metadata={"said": SECRET})
        instance.report_runless_asset_event(leak)
    code, answer, _ = run("erase", str(secret), "--reason", "why")
    [left] = answer["residue"].values()
    assert code == 1
    assert any(".db" in place for place in left)


def test_dagsters_own_postgres_is_searched(
    store: Store, run: Run, home: Path, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, other = insert_item(store, SECRET), insert_item(store, RELATED[0])
    monkeypatch.setenv("HIVEMIND_DAGSTER_DATABASE_URL", empty_database_url)
    with DagsterInstance.from_config(str(write_instance(home / "dagster"))) as instance:
        instance.report_runless_asset_event(AssetMaterialization("leak", metadata={"said": SECRET}))
        instance.add_run_tags(
            instance.create_run_for_job(defs.resolve_job_def("quality")).run_id, {"said": SECRET}
        )
    assert not list(home.rglob("*.db"))
    code, answer, said = run("erase", str(secret), str(other), "--reason", "why")
    assert code == 1
    [left] = answer["residue"].values()
    assert {
        "dagster database 1: public.event_logs.event",
        "dagster database 1: public.run_tags.value",
    } <= left.keys()
    assert all(place.startswith("dagster database 1: ") for place in left)
    assert answer["receipts"][0]["scan"]["not_scanned"] == []
    assert SECRET not in said


def test_a_distillation_in_dagster_leaves_nothing_of_a_text(store: Store, run: Run, home: Path) -> None:
    secret = insert_item(store, SECRET)
    insert_item(store, f"{SECRET}. Twice", source_agent_id="agent-1")
    write_instance(home / "dagster")
    code, _, _ = run("distill")
    assert code == 0
    assert list((home / "dagster").rglob("*.db"))
    code, answer, _ = run("erase", str(secret), "--reason", "why")
    assert (code, answer["residue"]) == (0, {})
    assert answer["receipts"][0]["scan"]["looked_at"]["files"] > 5
