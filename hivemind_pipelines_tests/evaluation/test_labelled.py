"""Labelled files: the first bad row is named by file and line, and nothing else is said of it."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hivemind_pipelines.core.model import Scope
from hivemind_pipelines.evaluation import labelled
from hivemind_pipelines.evaluation.labelled import LabelledFileError

PAIR = {"id": "p1", "text_a": "Use `-r`.", "text_b": "Use `-R`.", "label": 0}
ROW = {"id": "r1", "text": "Use `-r`.", "cluster": "c1", "org": "acme", "op": "base", "category": "tip"}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def complaint(read: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(LabelledFileError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_gzip_is_told_by_its_first_bytes_and_not_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(gzip.compress(json.dumps(PAIR).encode()))
    plain = write(tmp_path / "plain.jsonl.gz", PAIR)
    assert labelled.read_pairs(path) == labelled.read_pairs(plain)


def test_pairs_and_clusters_are_told_by_their_keys(tmp_path: Path) -> None:
    assert labelled.shape(write(tmp_path / "a", PAIR)) == "pairs"
    assert labelled.shape(write(tmp_path / "b", ROW)) == "clusters"
    assert complaint(labelled.shape, write(tmp_path / "c", {"text": "x"})).startswith(
        f"{tmp_path / 'c'}:1: neither a pair"
    )


def test_a_row_of_a_cluster_is_what_the_loader_would_load(tmp_path: Path) -> None:
    (row,) = labelled.read_clusters(write(tmp_path / "rows.jsonl", ROW))
    assert (row.id, row.cluster, row.op, row.row.org_id, row.row.category) == (
        "r1", "c1", "base", "acme", "general",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": 2}, "label must be 0 or 1"),
        ({"label": "entailment"}, "label must be 0 or 1"),
        ({"label": None}, "label must be 0 or 1"),
        ({"text_a": 7}, "text_a must be text"),
    ],
)
def test_a_bad_pair_is_named_by_its_line(tmp_path: Path, change: dict[str, object], said: str) -> None:
    path = write(tmp_path / "pairs.jsonl", PAIR, PAIR | change)
    assert complaint(labelled.read_pairs, path) == f"{path}:2: {said}"


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    without = {key: value for key, value in PAIR.items() if key != "label"}
    assert complaint(labelled.read_pairs, write(tmp_path / "p", without)).endswith(":1: label is missing")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no rows"),
        (b"\n  \n", "holds no rows"),
        (b"{not json}\n", ":1: not a line of JSON"),
        (b"[1, 2]\n", ":1: not a JSON object"),
        (b'{"text": "\xff"}\n', ":1: not UTF-8"),
        (gzip.compress(b'{"text_a": "a"}\n' * 500, mtime=0)[:40], "the gzip stream is damaged or cut off"),
        (b"\x1f\x8bno gzip at all", "the gzip stream is damaged or cut off"),
    ],
)
def test_a_file_that_is_none_is_one_clear_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    assert said in complaint(labelled.read_pairs, path)


def test_a_missing_file_and_a_directory_are_one_clear_line(tmp_path: Path) -> None:
    assert complaint(labelled.read_spans, tmp_path / "none") == (
        f"cannot read {tmp_path / 'none'}: No such file or directory"
    )
    assert "Is a directory" in complaint(labelled.read_spans, tmp_path)


def test_one_id_cannot_name_two_texts_of_an_org(tmp_path: Path) -> None:
    other = ROW | {"text": "Something else."}
    assert "two different texts" in complaint(labelled.read_clusters, write(tmp_path / "a", ROW, other))
    elsewhere = other | {"org": "globex"}
    assert len(labelled.read_clusters(write(tmp_path / "b", ROW, ROW, elsewhere))) == 3


def test_a_text_the_commons_refuses_is_refused_here(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", ROW, ROW | {"text": "a\x00b"})
    assert complaint(labelled.read_clusters, path) == f"{path}:2: text contains a NUL character"


@pytest.mark.parametrize("span", [[0, 99, "X"], [3, 3, "X"], [-1, 2, "X"], [0, 2], "0-2", [0.0, 2, "X"]])
def test_a_span_lies_within_its_text(tmp_path: Path, span: object) -> None:
    path = write(tmp_path / "spans.jsonl", {"text": "0123456789", "spans": [span]})
    assert "spans must be" in complaint(labelled.read_spans, path)


def test_a_text_without_spans_is_clean(tmp_path: Path) -> None:
    (row,) = labelled.read_spans(write(tmp_path / "corpus.jsonl", {"text": "plain"}))
    assert (row.id, row.spans) == ("line 1", ())


def test_a_claim_has_one_of_three_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "claims.jsonl", {"text_a": "a", "text_b": "b", "label": "true"})
    assert complaint(labelled.read_claims, path).endswith(
        ":1: label must be one of supported, partially_supported, not_supported"
    )


def test_a_pair_may_name_the_scope_of_a_side_and_what_was_changed(tmp_path: Path) -> None:
    scoped = PAIR | {"framework_a": "celery", "version_b": "2.1", "kind": "scope"}
    (pair,) = labelled.read_pairs(write(tmp_path / "pairs.jsonl", scoped))
    assert (pair.scope_a, pair.scope_b) == (Scope(framework="celery"), Scope(version="2.1"))
    assert pair.kind == "scope"
