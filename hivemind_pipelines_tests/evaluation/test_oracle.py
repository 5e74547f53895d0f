"""With a model that knows the labels: what the second look buys, what it costs, and what no model may do."""

import json
from pathlib import Path
from typing import Any

import pytest

from hivemind_pipelines import cli
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.evaluation import session
from hivemind_pipelines.evaluation.session import Request
from hivemind_pipelines.services.embedding import MiniLmEmbedder
from hivemind_pipelines.services.llm import ClaudeLlm
from hivemind_pipelines.settings import Settings
from hivemind_pipelines_tests.evaluation import oracle
from hivemind_pipelines_tests.messages_server import MessagesServer
from hivemind_pipelines_tests.stages.commons import services

EVAL = Path(cli.__file__).parents[1].parent / "shared" / "eval"

RICH = DistillationPolicy.parse(
    {
        "safety": {
            "llm_calls_per_run_max": 1_000_000,
            "llm_calls_per_day_max": 1_000_000,
            "llm_usd_per_run_max": 1e6,
            "llm_usd_per_day_max": 1e6,
        }
    }
)

NOTES = (
    ("Remove every stopped container to free the disk space it holds.", "docker"),
    ("Delete all the stopped containers, which frees the disk space they hold.", "docker"),
    ("Remove every stopped container older than 24 hours to free disk space.", "docker-24"),
    ("Remove every stopped container older than 48 hours to free disk space.", "docker-48"),
    ("Ask the platform team before a schema change of the shared database.", "schema"),
    ("Before a schema change of the shared database, ask the platform team.", "schema"),
    ("Ask the platform team after a schema change of the shared database.", "schema-after"),
    ("Set a timeout on every call to the payment gateway, the default waits for ever.", "timeout"),
    ("Calls to the payment gateway wait for ever by default; set a timeout on each.", "timeout"),
)


def evaluate(
    file: Path, url: str | None, tmp_path: Path, embedder: Any, llm: ClaudeLlm | None, out: Path | None = None
) -> dict[str, Any]:
    settings = Settings(database_url=url, home=tmp_path / "home")
    using = services(llm=llm, embedder=embedder)
    return session.run(Request("duplicates", (file,), predictions=out), settings, RICH, services=using)


def with_model(
    file: Path, url: str | None, tmp_path: Path, embedder: Any, same: oracle.Same, out: Path | None = None
) -> dict[str, Any]:
    with MessagesServer() as server:
        server.respond_with(oracle.answer_by(same))
        llm = ClaudeLlm("key", "test-model", server.base_url, call_timeout_s=30.0)
        return evaluate(file, url, tmp_path, embedder, llm, out)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes.jsonl"
    rows = [{"id": str(n), "text": text, "cluster": cluster} for n, (text, cluster) in enumerate(NOTES)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_model_that_is_right_finds_what_rules_leave_open(
    notes: Path, postgres_url: str, tmp_path: Path
) -> None:
    embedder = MiniLmEmbedder()
    alone = evaluate(notes, postgres_url, tmp_path, embedder, None)
    asked = with_model(notes, postgres_url, tmp_path, embedder, oracle.same_by_labels(notes))
    assert (alone["llm_calls"], asked["pair_precision"]) == (0, 1.0)
    assert asked["pair_recall"] == 1.0
    assert asked["pair_recall"] > (alone["pair_recall"] or 0.0)


def test_a_model_that_always_says_yes_merges_no_vetoed_pair(
    notes: Path, postgres_url: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    asked = with_model(notes, postgres_url, tmp_path, MiniLmEmbedder(), lambda _a, _b: True, out)
    told = [json.loads(line) for line in out.read_text().splitlines()]
    vetoed = {frozenset((row["id_a"], row["id_b"])) for row in told if row.get("vetoes")}
    together: dict[str, set[str]] = {}
    for row in told:
        if "merged" in row:
            together.setdefault(row["into"], {row["into"]}).add(row["merged"])
    assert asked["llm_calls"] > 0
    assert together
    # another number, and before against after
    assert vetoed >= {frozenset("23"), frozenset("46"), frozenset("56")}
    assert not any(pair <= cluster for pair in vetoed for cluster in together.values())


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("name", "calls_per_item_max", "recall_min"),
    [("tldr_history_clusters", 0.5, 0.75), ("scale_15k", 0.1, 0.88)],
)
def test_the_second_look_is_worth_its_calls(
    tmp_path: Path, postgres_url: str, name: str, calls_per_item_max: float, recall_min: float
) -> None:
    file = EVAL / f"{name}.dev.jsonl.gz"
    if not file.exists():
        pytest.skip(f"the shared data set {name} is not beside this checkout")
    data = with_model(file, postgres_url, tmp_path, MiniLmEmbedder(), oracle.same_by_labels(file))
    assert data["pair_precision"] >= 0.99
    assert data["llm_calls"] / data["items"] <= calls_per_item_max
    assert data["pair_recall"] >= recall_min
