"""evaluate as other programs call it: exit codes, one object, files written, nothing left behind."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text

from hivemind_pipelines import cli
from hivemind_pipelines.cli import EVALUATION_TASKS, main
from hivemind_pipelines.core.model import Stage
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.evaluation import session
from hivemind_pipelines.evaluation.report import TASKS
from hivemind_pipelines.evaluation.session import EvaluationRequestError, Request
from hivemind_pipelines.settings import Settings
from hivemind_pipelines.stages import review
from hivemind_pipelines.stages.review import PairRef
from hivemind_pipelines.store.connection import Store, open_store
from hivemind_pipelines_tests.builders import ACME, execute, insert_items
from hivemind_pipelines_tests.stages.commons import NOW, distil, services

EVAL = Path(cli.__file__).parents[1].parent / "shared" / "eval"

PAIRS: tuple[dict[str, object], ...] = (
    {"id": "1", "text_a": "List all files: `ls -a`.", "text_b": "list all files: `ls -a`", "label": 1},
    {"id": "2", "text_a": "Unpack with `tar -x`.", "text_b": "Unpack an archive with `tar -x`.", "label": 1},
    {"id": "3", "text_a": "Use Python 3.11 or newer.", "text_b": "Use Python 3.12 or newer.", "label": 0},
    {"id": "4", "text_a": "Enable the cache.", "text_b": "Disable the cache.", "label": 0},
)
CLUSTERS = (
    {"id": "1", "text": "List all files: `ls -a`.", "cluster": "ls"},
    {"id": "2", "text": "list all files: `ls -a`", "cluster": "ls"},
    {"id": "3", "text": "Bind every value of a query as a parameter.", "cluster": "sql"},
)

Run = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres_url: str) -> None:
    for name in list(os.environ):
        if name.startswith("HIVEMIND_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HIVEMIND_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HIVEMIND_DATABASE_URL", postgres_url)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `evaluate … --json`; answers with exit code, the object on standard output, standard error."""

    def call(*words: object) -> tuple[int, dict[str, Any], str]:
        exit_code = main(["evaluate", *map(str, words), "--json"])
        out, err = capsys.readouterr()
        return exit_code, json.loads(out), err

    return call


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def scratch_databases(url: str) -> list[str]:
    with open_store(url) as store, store.read() as conn:
        names = conn.execute(text("SELECT datname FROM pg_database WHERE datname ~ 'hivemind_scratch'"))
        return list(names.scalars())


def request(*files: Path, **options: Any) -> Request:
    return Request(task="duplicates", files=files, **options)


def evaluate(wanted: Request, url: str, tmp_path: Path) -> dict[str, Any]:
    settings = Settings(database_url=url, home=tmp_path / "home")
    return session.run(wanted, settings, DistillationPolicy(), services=services())


def test_the_command_line_offers_the_tasks_there_are() -> None:
    assert EVALUATION_TASKS == TASKS


def test_pairs_are_evaluated_and_written(run: Run, tmp_path: Path) -> None:
    file, out, png = write(tmp_path / "p.jsonl", *PAIRS), tmp_path / "out.jsonl", tmp_path / "out.png"
    exit_code, data, err = run("duplicates", file, "--predictions", out, "--plot", png)
    assert (exit_code, err) == (0, "")
    assert data["precision"] == 1.0
    assert {"task", "files", "rows", "seconds", "precision", "recall", "f1", "automatic", "triage_recall",
            "auc", "recall_at_precision_99", "llm_calls"} <= data.keys()  # fmt: skip
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["1", "2", "3", "4"]
    assert png.read_bytes().startswith(b"\x89PNG")


def test_what_pii_redacts_goes_to_the_file_that_is_named_and_nowhere_else(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    rows = ({"id": "a", "text": "Mail jo.doe@acme.io."}, {"id": "b", "text": "Use rg -i."})
    file, out, png = write(tmp_path / "p.jsonl", *rows), tmp_path / "out.tsv", tmp_path / "out.png"
    exit_code, data, err = run("pii", file, "--redacted", out, "--plot", png)
    assert (exit_code, err) == (0, "")
    assert out.read_text() == "EMAIL\t1\tjo.doe@acme.io\ta\tMail [EMAIL].\n"
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "jo.doe" not in json.dumps(data) + caplog.text


def test_several_files_are_pooled_and_reported_one_by_one(tmp_path: Path, postgres_url: str) -> None:
    files = (write(tmp_path / "a.jsonl", *PAIRS[:2]), write(tmp_path / "b.jsonl", *PAIRS[2:]))
    data = evaluate(request(*files), postgres_url, tmp_path)
    assert (data["rows"], data["files"]) == (4, [str(file) for file in files])
    assert [figures["rows"] for figures in data["by_file"].values()] == [2, 2]
    assert data["by_file"][str(files[1])]["auc"] is None


def test_clusters_are_evaluated_in_a_scratch_database_that_is_dropped(
    tmp_path: Path, postgres_url: str
) -> None:
    file, out = write(tmp_path / "c.jsonl", *CLUSTERS), tmp_path / "out.jsonl"
    data = evaluate(request(file, predictions=out, plot=tmp_path / "o.png"), postgres_url, tmp_path)
    assert {"pair_precision", "pair_recall", "pair_f1", "ari", "triage_recall", "cross_org_merges",
            "wrong_by_op", "blocking_recall", "candidates_per_item", "llm_calls"} <= data.keys()  # fmt: skip
    assert (data["pair_f1"], data["ari"]) == (1.0, 1.0)
    assert scratch_databases(postgres_url) == []
    assert json.loads(out.read_text().splitlines()[0])["label"] == 1


def test_where_the_role_may_create_nothing_the_embedded_server_does(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(postgres_url) as store, store.session("AUTOCOMMIT") as admin:
        admin.execute(text("CREATE ROLE evaluator LOGIN"))
    try:
        url = make_url(postgres_url).set(username="evaluator").render_as_string(hide_password=False)
        # any server of ours will do as the embedded one, and starting another takes seconds
        monkeypatch.setattr(session, "ensure_running", lambda _home: postgres_url)
        data = evaluate(request(write(tmp_path / "c.jsonl", *CLUSTERS)), url, tmp_path)
        assert data["rows"] == 3
    finally:
        with open_store(postgres_url) as store, store.session("AUTOCOMMIT") as admin:
            admin.execute(text("DROP ROLE evaluator"))


def test_a_fit_writes_a_model_that_names_what_it_was_fitted_on(tmp_path: Path, postgres_url: str) -> None:
    # of equal texts alone there is nothing to compare
    reworded = {"id": "4", "text": "List every file there is: `ls -a`.", "cluster": "ls"}
    pairs = write(tmp_path / "p.jsonl", *PAIRS)
    clusters = write(tmp_path / "c.jsonl", *CLUSTERS, reworded)
    model = tmp_path / "model.json"
    data = evaluate(request(pairs, clusters, fit=True, model=model), postgres_url, tmp_path)
    document = json.loads(model.read_text())
    assert list(document) == ["bias", "weights", "limits", "training"]
    assert list(document["training"]["fitted_on"]) == ["p.jsonl", "c.jsonl"]
    assert document["training"]["fitted_on"]["c.jsonl"]["positives"] == 3
    assert data["left_out_in_turn"].keys() == document["training"]["left_out_in_turn"].keys()
    assert {"rows", "precision", "recall", "f1"} <= data.keys()


def test_a_fit_learns_from_what_reviewers_judged(tmp_path: Path, store: Store, database_url: str) -> None:
    same = insert_items(
        store, ["Purge the edge cache after a release", "After a release purge the cache at the edge"]
    )
    apart = insert_items(store, ["Ask the payroll team about bonuses", "Ask the payroll team about overtime"])
    undone = insert_items(store, ["Rotate the deploy key", "Rotate the deploy keys"])
    distil(store, stages=[Stage.ITEM_FEATURES])
    for ids, outcome in ((same, "same"), (apart, "distinct"), (undone, "distinct")):
        review.decide(store, DistillationPolicy(), PairRef(ACME, *sorted(ids)), outcome, by="ann", now=NOW)
    execute(store, "UPDATE distillation.pair_verdicts SET source = 'undo' WHERE a_id = :id", id=min(undone))
    model = tmp_path / "model.json"
    wanted = request(write(tmp_path / "p.jsonl", *PAIRS), fit=True, model=model, verdicts=True)
    evaluate(wanted, database_url, tmp_path)
    fitted_on = json.loads(model.read_text())["training"]["fitted_on"]
    assert fitted_on["reviewers' verdicts"] == {"pairs": 2, "positives": 1}


def test_a_commons_without_a_verdict_teaches_nothing(tmp_path: Path, store: Store, database_url: str) -> None:
    wanted = request(write(tmp_path / "p.jsonl", *PAIRS), fit=True, model=tmp_path / "m", verdicts=True)
    with pytest.raises(EvaluationRequestError, match="no reviewer has judged"):
        evaluate(wanted, database_url, tmp_path)


@pytest.mark.parametrize("task", TASKS)
def test_a_missing_file_is_bad_input(run: Run, tmp_path: Path, task: str) -> None:
    exit_code, data, err = run(task, tmp_path / "none.jsonl")
    assert exit_code == 2
    assert data == {"error": f"cannot read {tmp_path / 'none.jsonl'}: No such file or directory"}
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("grandmothers", "p.jsonl"), "invalid choice: 'grandmothers'"),
        (("duplicates",), "required: FILE"),
        (("pii", "p.jsonl"), "p.jsonl:1: text is missing"),
        (("injection", "p.jsonl"), "p.jsonl:1: text is missing"),
        (("duplicates", "c.jsonl", "p.jsonl"), "evaluate them one by one"),
        (("duplicates", "p.jsonl", "p.jsonl"), "a file is named twice"),
        (("secrets", "p.jsonl", "--plot", "x.png"), "--plot belongs to the tasks duplicates and pii"),
        (("secrets", "p.jsonl", "--redacted", "x.tsv"), "--redacted belongs to the task pii"),
        (("pii", "p.jsonl", "--fit"), "--fit and --model belong to the tasks duplicates and contradictions"),
        (("pii", "p.jsonl", "--redacted", "none/x.tsv"), "cannot write none/x.tsv"),
        (("duplicates", "p.jsonl", "--model", "m.json"), "--model is where --fit writes to"),
        (("duplicates", "p.jsonl", "--verdicts"), "--verdicts are what --fit learns from"),
        (("duplicates", "p.jsonl", "--plot", "none/x.png"), "no such directory"),
        (("duplicates", "p.jsonl", "--predictions", "none/x.jsonl"), "cannot write none/x.jsonl"),
        (("duplicates", "empty.jsonl"), "empty.jsonl holds no rows"),
        (("duplicates", "negative.jsonl", "--fit", "--model", "m.json"), "nothing to fit"),
    ],
)
def test_a_bad_request_is_one_line_and_exit_code_2(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("p.jsonl"), *PAIRS)
    write(Path("c.jsonl"), *CLUSTERS)
    write(Path("empty.jsonl"))
    write(Path("negative.jsonl"), PAIRS[3])
    exit_code, data, err = run(*words)
    assert exit_code == 2
    assert said in data["error"]
    assert err.count("\n") == 1


def test_people_get_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "text_a": "It was written in 2014 by two people.",
        "text_b": "It was written in 2015.",
        "label": "not_supported",
    }
    assert main(["evaluate", "grounding", str(write(tmp_path / "g.jsonl", row))]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "refused by label" in out


@pytest.mark.parametrize(
    ("task", "name", "floor"),
    [("grounding", "wice", 0.3), ("secrets", "secrets", 0.5), ("injection", "prompt_injection", 0.85)],
)
def test_the_shared_files_are_read_as_they_are(run: Run, task: str, name: str, floor: float) -> None:
    file = EVAL / f"{name}.dev.jsonl.gz"
    if not file.exists():
        pytest.skip(f"the shared data set {name} is not beside this checkout")
    exit_code, data, _ = run(task, file)
    assert exit_code == 0
    assert data["f1"] > floor
