"""The measure of matching in the UI: figures, plot, and a check that one wrong merge fails."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from dagster import AssetKey

from hivemind_pipelines.evaluation import golden, labelled
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import public_dump
from hivemind_pipelines_tests.defs.conftest import Location

SAME = {"text_a": "Rotate the keys.", "text_b": "rotate the  keys", "label": 1, "kind": "case_and_markup"}
OTHER = {"text_a": "Keep 7 backups.", "text_b": "Keep 9 backups.", "label": 0, "kind": "number"}


@pytest.fixture
def golden_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a small golden set in place of the shipped one, which takes a model and seconds."""

    def put(*rows: dict[str, object]) -> None:
        (tmp_path / "golden.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        monkeypatch.setattr(golden, "golden_file", lambda: tmp_path / "golden.jsonl")

    return put


def test_the_golden_set_is_measured_with_its_plot_and_passes(
    commons_location: Location, store: Store, golden_rows: Callable[..., None]
) -> None:
    golden_rows(SAME, OTHER)
    before = public_dump(store)
    result = commons_location.run("evaluation")
    assert result.success
    [check] = result.get_asset_check_evaluations()
    assert check.passed
    event = commons_location.instance.get_latest_materialization_event(AssetKey("matching_evaluation"))
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    assert (metadata["precision"].value, metadata["recall"].value, metadata["pairs"].value) == (1.0, 1.0, 2)
    assert str(metadata["plot"].value).startswith("![precision and recall](data:image/png;base64,")
    assert public_dump(store) == before


def test_no_text_of_a_pair_reaches_the_event_log(commons_location: Location) -> None:
    result = commons_location.run("evaluation")
    logged = json.dumps(
        [str(entry) for entry in commons_location.instance.all_logs(result.run_id)], default=str
    )
    texts = [pair.text_a for pair in labelled.read_pairs(golden.golden_file())]
    assert [text for text in texts if text in logged] == []


def test_a_wrong_merge_fails_the_check_and_is_named_by_its_line(
    commons_location: Location, golden_rows: Callable[..., None]
) -> None:
    golden_rows(OTHER, SAME | {"label": 0})
    result = commons_location.run("evaluation")
    assert result.success
    [check] = result.get_asset_check_evaluations()
    assert not check.passed
    assert check.metadata["wrong"].value == 1
    assert (check.metadata["kinds"].value, check.metadata["lines"].value) == (["case_and_markup"], ["line 2"])
