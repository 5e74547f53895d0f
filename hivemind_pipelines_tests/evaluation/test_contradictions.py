"""contradictions: figures of the contract, counted by hand."""

import json
from importlib.resources import files
from pathlib import Path

import pytest

from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.evaluation import contradictions, labelled
from hivemind_pipelines.evaluation.labelled import ContrastedPair, LabelledFileError
from hivemind_pipelines.evaluation.report import Evaluation
from hivemind_pipelines.services.embedding import MiniLmEmbedder
from hivemind_pipelines_tests.stages.commons import policy, services

PAIRS = (
    ContrastedPair("on", "Enable HTTP/2 internally.", "Disable HTTP/2 internally.", "contradiction", "dev"),
    ContrastedPair("far", "Rotate the logs.", "Use prepared statements.", "contradiction", "held_out"),
    ContrastedPair("same", "Retry a job 3 times.", "Jobs are retried three times.", "duplicate", "dev"),
    ContrastedPair(
        "fork",
        "In Rails 6.1 `belongs_to` is optional.",
        "In Rails 7.0 `belongs_to` is required.",
        "version_fork",
    ),
)


def judge(*pairs: ContrastedPair) -> Evaluation:
    judged = contradictions.judge(
        {"f": pairs}, services(), policy().contradiction, lambda _stage, _done, _total: None
    )
    return contradictions.report(judged)


def test_figures_are_counted_by_label_part_and_file() -> None:
    evaluation = judge(*PAIRS)
    data = evaluation.data(seconds=1.0)
    assert (data["task"], data["rows"], data["precision"], data["recall"]) == ("contradictions", 4, 1.0, 0.5)
    assert data["flagged_by_label"] == {"contradiction": 0.5, "duplicate": 0.0, "version_fork": 0.0}
    assert data["outcomes_by_label"] == {
        "contradiction": {"contradiction": 1, "none": 1},
        "duplicate": {"none": 1},
        "version_fork": {"version_fork": 1},
    }
    assert data["forks_told_apart"] == 1.0
    assert set(data["by_split"]) == {"dev", "held_out"}  # type: ignore[call-overload]


def test_predictions_name_the_reason_and_never_quote() -> None:
    rows = list(judge(*PAIRS).predictions)
    assert [row["outcome"] for row in rows] == ["contradiction", "none", "none", "version_fork"]
    assert rows[0]["reason"] == "opposite:switch"
    assert rows[0]["spans_a"] == [[0, 6]]
    assert "HTTP" not in json.dumps(rows)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text_a": "a", "label": "related"}, "text_b is missing"),
        ({"text_a": "a", "text_b": "b", "label": 1}, "label must be text"),
        ({"text_a": "a", "text_b": "b", "label": "Two Words"}, "label must be one word"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, row: dict[str, object], reason: str) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"text_a": "a", "text_b": "b", "label": "related"}) + "\n" + json.dumps(row))
    with pytest.raises(LabelledFileError, match=f"{file}:2: {reason}"):
        labelled.read_contrasts(file)


def test_held_out_foreign_pairs_are_judged_as_the_readme_says() -> None:
    packaged = files("hivemind_pipelines.evaluation").joinpath("foreign_pairs.jsonl")
    held_out = [pair for pair in labelled.read_contrasts(Path(str(packaged))) if pair.split == "held_out"]
    judged = contradictions.judge(
        {"f": held_out}, services(embedder=MiniLmEmbedder()), DistillationPolicy().contradiction,
        lambda _stage, _done, _total: None,
    )  # fmt: skip
    data = contradictions.report(judged).data(seconds=1.0)
    assert (data["precision"] >= 0.79, data["recall"] >= 0.57) == (True, True)  # type: ignore[operator]
    assert data["flagged_by_label"]["duplicate"] <= 0.09  # type: ignore[index]
    assert data["forks_told_apart"] >= 0.95  # type: ignore[operator]
