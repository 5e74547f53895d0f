"""Fitting the conflict model: held-out pairs are not learned from, signs hold, near notes teach restraint."""

import json
from pathlib import Path

import numpy as np
import pytest

from hivemind_pipelines.core import conflict, contrast
from hivemind_pipelines.evaluation import conflict_fitting, labelled
from hivemind_pipelines.evaluation.conflict_fitting import NAMES, Sample
from hivemind_pipelines.evaluation.labelled import ContrastedPair
from hivemind_pipelines.evaluation.session import EvaluationRequestError, Request, run
from hivemind_pipelines.settings import Settings
from hivemind_pipelines_tests.stages.commons import policy, services

VALUES = ("one", "two", "three", "four", "five", "six")


def pairs(style: str, split: str = "dev") -> list[dict[str, str]]:
    """Contradictions in numbers, and the same claims about two subjects."""
    found = []
    for count, value in enumerate(VALUES):
        text = f"The {style} job runs {count + 2} times a day."
        for other, label in (
            (f"The {style} job runs {count + 9} times a day.", "contradiction"),
            (f"The {value} mailer of another team sends {count + 9} letters.", "related"),
        ):
            found.append({"text_a": text, "text_b": other, "label": label, "style": style, "split": split})
    return found


def samples(*rows: dict[str, str]) -> tuple[Sample, ...]:
    made = [ContrastedPair(str(n), row["text_a"], row["text_b"], row["label"], row["split"], row["style"])
            for n, row in enumerate(rows)]  # fmt: skip
    return conflict_fitting.samples(
        made, {}, services().embedder, policy().contradiction, lambda _stage, _done, _total: None
    )


def test_every_style_is_a_sample_and_held_out_pairs_are_none() -> None:
    parts = samples(*pairs("nightly"), *pairs("hourly"), *pairs("secret", "held_out"))
    assert [part.name for part in parts] == ["hourly", "nightly"]
    tried = conflict_fitting.left_out(parts, policy().contradiction)
    assert [result.name for result in tried] == ["hourly", "nightly"]
    assert all(result.counted.recall == 1.0 for result in tried)


def test_no_weight_has_the_wrong_sign() -> None:
    model = conflict_fitting.fit(samples(*pairs("nightly"), *pairs("hourly")))
    weights = dict(zip(model.names, model.weights, strict=True))
    assert all(weights[name] >= 0.0 for name in contrast.FOR)
    assert all(weights[name] <= 0.0 for name in contrast.AGAINST)


def test_the_shipped_model_weighs_the_terms_there_are() -> None:
    document = json.loads(conflict_fitting.shipped_model().read_text("utf-8"))
    assert tuple(document["weights"]) == NAMES
    assert document["training"]["left_out_in_turn"]
    assert conflict.chance(dict.fromkeys(NAMES, 0.0)) == pytest.approx(1 / (1 + np.exp(-document["bias"])))


def test_the_command_writes_a_model_and_names_what_it_cannot_fit(tmp_path: Path) -> None:
    file, target = tmp_path / "pairs.jsonl", tmp_path / "model.json"
    file.write_text("\n".join(map(json.dumps, [*pairs("nightly"), *pairs("hourly")])))
    notes = tmp_path / "notes.jsonl"
    rows = [{"text": f"The cache of shop {n} holds {n + 3} entries.", "cluster": str(n)} for n in range(8)]
    notes.write_text("\n".join(map(json.dumps, rows)))
    request = Request("contradictions", (file, notes), fit=True, model=target)
    data = run(request, Settings(home=tmp_path), policy(), services=services())
    assert set(data["left_out_in_turn"]) >= {"nightly", "hourly"}  # type: ignore[call-overload]
    assert set(json.loads(target.read_text())) == {"about", "bias", "weights", "training"}
    file.write_text("\n".join(map(json.dumps, pairs("secret", "held_out"))))
    with pytest.raises(EvaluationRequestError, match="nothing to fit"):
        run(Request("contradictions", (file,), fit=True, model=target), Settings(home=tmp_path), policy())
    assert labelled.shape(notes) == "clusters"
