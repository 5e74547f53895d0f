"""Fitting readings: what ships fits the code that weighs it; the fit itself repeats itself and learns."""

import json
from pathlib import Path

import numpy as np
import pytest

from hivemind_pipelines.core import reading
from hivemind_pipelines.evaluation import cross_encoder_fitting, reading_fitting
from hivemind_pipelines.evaluation.cross_encoder_fitting import Shown
from hivemind_pipelines.evaluation.labelled import ContrastedPair
from hivemind_pipelines.evaluation.session import EvaluationRequestError, Request, run
from hivemind_pipelines.services import cross_encoder
from hivemind_pipelines.services.cross_encoder import MiniLmCrossEncoder
from hivemind_pipelines.settings import Settings
from hivemind_pipelines_tests.stages.commons import policy

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "every day")


def test_the_shipped_weights_are_those_of_the_terms() -> None:
    document = json.loads(reading_fitting.shipped_model().read_text("utf-8"))
    assert tuple(document["weights"]) == reading_fitting.NAMES
    assert all(document["weights"][name] >= 0.0 for name in reading.FOR)
    assert all(document["weights"][name] <= 0.0 for name in reading.AGAINST)
    assert document["training"]["left_out_in_turn"]


def test_the_shipped_adapter_has_every_matrix_and_is_finite() -> None:
    with np.load(cross_encoder.shipped_adapter()) as stored:
        names = set(stored.files)
        assert all(np.isfinite(stored[name]).all() for name in names)
    assert {f"matrix_{place}.{part}" for place in range(36) for part in ("down", "up")} <= names
    assert {"head", "head_bias"} <= names


@pytest.mark.parametrize(
    ("task", "fit", "message"),
    [
        ("contradictions", False, "--readings are what --fit of the task contradictions fits"),
        ("duplicates", True, "--readings are what --fit of the task contradictions fits"),
    ],
)
def test_readings_are_refused_where_there_are_none(
    task: str, fit: bool, message: str, tmp_path: Path
) -> None:
    request = Request(task, (tmp_path / "pairs.jsonl",), fit=fit, readings=True)
    with pytest.raises(EvaluationRequestError, match=message):
        run(request, Settings(home=tmp_path), policy())


def test_what_is_lacking_is_told_before_anything_is_fitted() -> None:
    conflicts = [ContrastedPair("", f"{n} a", f"{n} b", "contradiction") for n in range(60)]
    others = [ContrastedPair("", f"{n} c", f"{n} d", "related") for n in range(60)]
    assert reading_fitting.lacking([*conflicts, *others]) is None
    assert "outside the held-out pairs" in (reading_fitting.lacking(conflicts) or "")
    held_out = [ContrastedPair("", pair.text_a, pair.text_b, pair.label, "held_out") for pair in conflicts]
    assert reading_fitting.lacking([*held_out, *others]) is not None
    assert reading_fitting.lacking([]) is not None


def test_a_model_cannot_be_written_over_its_own_encoder(tmp_path: Path) -> None:
    request = Request(
        "contradictions", (tmp_path / "pairs.jsonl",), fit=True, readings=True, model=tmp_path / "out.npz"
    )
    with pytest.raises(EvaluationRequestError, match="written beside --model"):
        run(request, Settings(home=tmp_path), policy())


@pytest.mark.soak
def test_a_fit_learns_and_repeats_itself() -> None:
    pytest.importorskip("jax", reason="the extra `fit` is not installed")
    pairs = [
        Shown(f"The backup runs on {one}.", f"The backup runs on {other}.", "contradiction")
        if one != other
        else Shown(f"The backup runs on {one}.", f"On {one} the backup is run.", "duplicate")
        for one in DAYS
        for other in DAYS
    ]
    known = cross_encoder_fitting.fit(pairs, progress=lambda _done, _total: None)
    again = cross_encoder_fitting.fit(pairs, progress=lambda _done, _total: None)
    assert cross_encoder.adapter_bytes(known) == cross_encoder.adapter_bytes(again)
    encoder = MiniLmCrossEncoder(known)
    read = encoder.read([(pair.text_a, pair.text_b) for pair in pairs])
    chances = {label: [] for label in ("contradiction", "duplicate")}  # type: dict[str, list[float]]
    for pair, one in zip(pairs, read, strict=True):
        chances[pair.label].append(one.contradiction)
    assert np.mean(chances["contradiction"]) > np.mean(chances["duplicate"])
