"""Planted contradictions and forks among notes: found, settled through the CLI, and settled they stay."""

import gzip
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hivemind_pipelines.cli import main
from hivemind_pipelines.store import invariants
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import rows

#: Notes that real people wrote, where they lie beside this repository.
CORPUS = Path(__file__).parents[3] / "shared" / "corpora" / "corpus_demo_til_cheat.jsonl.gz"
REAL_NOTES = 150

NOTES = (
    "Use `jq -r` to print strings without quotes.",
    "The staging cluster lives in a VPC of its own.",
    "Rotate the logs of the ingest worker with logrotate.",
    "A partial index keeps the queue table fast.",
    "Set the locale in the base image, or sorting differs between hosts.",
    "Store money as integers of the smallest unit.",
    "The release notes are generated from merge titles.",
    "Feature toggles are removed two releases after they were switched on.",
    "Write the migration so that the old code still runs.",
    "A bastion host records every session.",
)
#: Older text, newer text, outcome to decide; the first three conflict, the last two are forks.
PLANTED = (
    (
        "The retry budget of the billing webhook is 3 attempts.",
        "The retry budget of the billing webhook is 8 attempts.",
        "update",
    ),
    (
        "Enable TCP keepalive on the edge proxy for websockets.",
        "Disable TCP keepalive on the edge proxy for websockets.",
        "dismissed",
    ),
    (
        "Audit events are written synchronously by the ledger service.",
        "Audit events are written asynchronously by the ledger service.",
        "both_true_in_scope",
    ),
    (
        "In Python 3.11 the `datetime.utcnow` call is silent.",
        "In Python 3.12 the `datetime.utcnow` call is deprecated and warns.",
        "version_fork",
    ),
    (
        "Elasticsearch 7 has security disabled by default.",
        "Elasticsearch 8 has security enabled by default.",
        "version_fork",
    ),
)
POLICY = "summary: {method: extractive}\npii: {detect_persons: false}\n"

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(
    store: Store,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Runs a command with --json, which must succeed; answers with its object."""
    for name in list(os.environ):
        if name.startswith(("HIVEMIND_", "DAGSTER_", "ANTHROPIC_")):
            monkeypatch.delenv(name)
    (tmp_path / "policy.yaml").write_text(POLICY)
    monkeypatch.setenv("HIVEMIND_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HIVEMIND_DATABASE_URL", database_url)
    monkeypatch.setenv("HIVEMIND_POLICY_FILE", str(tmp_path / "policy.yaml"))

    def call(*words: str) -> dict[str, Any]:
        exit_code = main([*words, "--json"])
        out, err = capsys.readouterr()
        assert exit_code == 0, err
        found: dict[str, Any] = json.loads(out)
        return found

    return call


def real_notes() -> Sequence[str]:
    if not CORPUS.is_file():
        pytest.skip("the corpus of real notes is not here")
    with gzip.open(CORPUS, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line) for line, _ in zip(lines, range(REAL_NOTES), strict=False)]
    return [str(row.get("text") or row["content"]) for row in texts]


def planted_rows(notes: Sequence[str]) -> Iterator[str]:
    for text in notes:
        yield json.dumps({"text": text, "contributed_at": "2025-01-01T00:00:00Z"})
    for older, newer, _ in PLANTED:
        yield json.dumps({"text": older, "contributed_at": "2025-02-01T00:00:00Z", "retrieval_count": 9})
        yield json.dumps({"text": newer, "contributed_at": "2025-09-01T00:00:00Z", "retrieval_count": 9})


def settled(store: Store) -> list[tuple[Any, ...]]:
    """What people decided, and what that made of the items."""
    cases = rows(
        store,
        "SELECT case_id, status, outcome, decided_by FROM distillation.contradiction_cases "
        "WHERE decided_by = 'ada' ORDER BY case_id",
    )
    items = rows(
        store,
        "SELECT k.id, k.expired_at, k.valid_at, k.invalid_at FROM knowledge_items k "
        "JOIN distillation.case_items i ON i.item_id = k.id JOIN distillation.contradiction_cases c "
        "USING (case_id) WHERE c.decided_by = 'ada' ORDER BY k.id",
    )
    return [tuple(row) for row in (*cases, *items)]


@pytest.mark.parametrize("source", ["own", pytest.param("real", marks=pytest.mark.soak)])
def test_planted_conflicts_are_found_settled_and_stay_settled(
    store: Store, run: Run, tmp_path: Path, source: str
) -> None:
    file = tmp_path / "notes.jsonl"
    file.write_text("\n".join(planted_rows(NOTES if source == "own" else real_notes())))
    run("load", str(file))
    run("distill")
    text_of = {row.id: row.content for row in rows(store, "SELECT id, content FROM knowledge_items")}
    waiting = [one for one in run("review", "list", "--limit", "200")["items"] if one["kind"] == "case"]
    case_of = {
        frozenset(text_of[type(next(iter(text_of)))(item)] for item in one["item_ids"]): one
        for one in waiting
    }
    for older, newer, outcome in PLANTED:
        case = case_of[frozenset((older, newer))]
        shown = run("review", "show", case["id"])["case"]
        assert shown["evidence"]["outcome"] == (
            "version_fork" if outcome == "version_fork" else "contradiction"
        )
        run("review", "decide", case["id"], outcome, "--by", "ada")
    after_decisions = settled(store)
    signals = "SELECT count(*) FROM quality_signals WHERE signal_type = 'contradiction_cluster'"
    told = rows(store, signals)
    for _ in range(3):
        run("distill")
        assert settled(store) == after_decisions
    (tmp_path / "policy.yaml").write_text(POLICY + "contradiction: {score_min: 0.55, cosine_min: 0.65}\n")
    # What a backfill of the section runs for the org.
    run("distill", "--org", "default")
    assert settled(store) == after_decisions
    assert rows(store, signals) == told
    with store.read() as conn:
        assert invariants.violations(conn) == ()
    fork = case_of[frozenset(PLANTED[3][:2])]["id"]
    run("undo", "--case", fork)
    assert any(one["id"] == fork for one in run("review", "list", "--limit", "200")["items"])
