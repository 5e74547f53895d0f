"""Fitting readings: the cross-encoder on labelled pairs, and how its word is weighed beside the rules."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from hivemind_pipelines.core import conflict, reading
from hivemind_pipelines.core.model import Vectors
from hivemind_pipelines.core.policy import ContradictionPolicy
from hivemind_pipelines.core.statements import read_text
from hivemind_pipelines.evaluation import conflict_fitting, cross_encoder_fitting, logistic
from hivemind_pipelines.evaluation.conflict_fitting import HELD_OUT, LeftOut, Sample
from hivemind_pipelines.evaluation.contradictions import CONTRADICTION
from hivemind_pipelines.evaluation.cross_encoder_fitting import Shown
from hivemind_pipelines.evaluation.labelled import ClusteredText, ContrastedPair
from hivemind_pipelines.evaluation.logistic import Model
from hivemind_pipelines.evaluation.twins import twins
from hivemind_pipelines.services import cross_encoder
from hivemind_pipelines.services.cross_encoder import CLASSES, Floats, MiniLmCrossEncoder
from hivemind_pipelines.services.embedding import Embedder
from hivemind_pipelines.stages.context import Progress

#: Near notes taken from a cluster file, of each of the two kinds, and the characters of a pair at most.
NEAR_MAX, CHARACTERS_MAX = 150, 700

#: Every sixth pair is read by a cross-encoder that never saw it, so that its word is weighed as it deserves.
WEIGHED = 6

NAMES = tuple(sorted(reading.FOR | reading.AGAINST | reading.EITHER))
L2 = 1e-3

SHIPPED_MODEL = "reading_model.json"

#: Near notes in conflict are far rarer than labelled pairs have them: others weigh so much more.
OTHERS_WEIGHT = 2.0


@dataclass(frozen=True, slots=True)
class Fitted:
    """The cross-encoder's additions, how it is weighed, and the samples and trials behind the weights.

    `shown` counts the pairs of each style that the cross-encoder learned from.
    """

    adapter: Mapping[str, Floats]
    model: Model
    parts: tuple[Sample, ...]
    tried: tuple[LeftOut, ...]
    shown: Mapping[str, int]


def fit(
    pairs: Sequence[ContrastedPair],
    clusters: Mapping[str, Sequence[ClusteredText]],
    embedder: Embedder,
    policy: ContradictionPolicy,
    progress: Progress,
) -> Fitted:
    """Fit the cross-encoder on five sixths of the pairs and their twins, weigh its word on the rest."""
    by_style = _by_style(pairs, clusters, embedder, policy)
    shown = {style: [pair for pair in own if not _is_weighed(pair)] for style, own in by_style.items()}
    labelled_pairs = [pair for style, own in shown.items() if style not in clusters for pair in own]
    shown["twins"] = list(twins(labelled_pairs))
    adapter = cross_encoder_fitting.fit(
        [Shown(pair.text_a, pair.text_b, pair.label) for own in shown.values() for pair in own],
        progress=lambda done, total: progress("cross-encoder", done, total),
    )
    encoder = MiniLmCrossEncoder(adapter)
    parts = tuple(
        _sample(style, weighed, embedder, encoder, style in clusters)
        for style, own in by_style.items()
        if (weighed := list(filter(_is_weighed, own)))
    )
    counts = {Path(style).name: len(own) for style, own in shown.items()}
    return Fitted(adapter, _weights(parts), parts, _left_out(parts, policy), counts)


def lacking(pairs: Sequence[ContrastedPair]) -> str | None:
    """What is missing to fit on labelled pairs; None where nothing is."""
    shown = [pair for pair in pairs if pair.split != HELD_OUT and pair.label in CLASSES]
    for name, part in (
        ("to learn from", [pair for pair in shown if not _is_weighed(pair)]),
        ("to weigh on", list(filter(_is_weighed, shown))),
    ):
        kinds = {pair.label == CONTRADICTION for pair in part}
        if kinds != {True, False}:
            return f"contradictions and other pairs {name} are needed, outside the held-out pairs"
    return None


def _by_style(
    pairs: Sequence[ContrastedPair],
    clusters: Mapping[str, Sequence[ClusteredText]],
    embedder: Embedder,
    policy: ContradictionPolicy,
) -> dict[str, list[ContrastedPair]]:
    """The labelled pairs but those held out by style, and near notes by the name of their file."""
    found: dict[str, list[ContrastedPair]] = {}
    for pair in pairs:
        if pair.split != HELD_OUT and pair.label in CLASSES:
            found.setdefault(pair.style or "pairs", []).append(pair)
    for name, rows in clusters.items():
        near = conflict_fitting.near(rows, embedder, policy, count=NEAR_MAX, characters=CHARACTERS_MAX)
        found[name] = [_as_labelled(pair) for pair in near]
    return {style: own for style, own in found.items() if own}


def _as_labelled(pair: ContrastedPair) -> ContrastedPair:
    return ContrastedPair(
        "", pair.text_a, pair.text_b, "duplicate" if pair.label == "duplicate" else "related"
    )


def _is_weighed(pair: ContrastedPair) -> bool:
    """Whether a pair is for the weights; all pairs of one first text are, or none."""
    digest = hashlib.sha256(pair.text_a.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") % WEIGHED == 0


def _sample(
    name: str,
    pairs: Sequence[ContrastedPair],
    embedder: Embedder,
    encoder: MiniLmCrossEncoder,
    is_near: bool,
) -> Sample:
    texts = tuple(dict.fromkeys(text for pair in pairs for text in (pair.text_a, pair.text_b)))
    vector_of = dict(zip(texts, embedder.embed(texts), strict=True))
    readings = encoder.read([(pair.text_a, pair.text_b) for pair in pairs])
    known = [(pair.label, *_terms(pair, vector_of, read)) for pair, read in zip(pairs, readings, strict=True)]
    return Sample(
        Path(name).name,
        is_near,
        np.array([terms for _, terms, _ in known]).reshape(-1, len(NAMES)),
        tuple(label for label, _, _ in known),
        np.array([is_open for _, _, is_open in known], dtype=bool),
    )


def _terms(
    pair: ContrastedPair, vector_of: Mapping[str, Vectors], read: reading.Reading
) -> tuple[list[float], bool]:
    """The terms of a pair, and whether its reading decides."""
    a, b = sorted((pair.text_a, pair.text_b))
    left, right = read_text(a, pair.scope_a), read_text(b, pair.scope_b)
    if not left.claims or not right.claims:
        return [0.0] * len(NAMES), False
    cosine = float(np.dot(vector_of[a], vector_of[b]))
    said = conflict.by_rules(left, right, cosine)
    known = reading.terms(read, said.chance, cosine)
    is_open = (
        said.is_open
        and conflict.is_worth_reading(a, b, scope_a=pair.scope_a, scope_b=pair.scope_b, cosine=cosine)
        and not conflict.forks(left, right, cosine)
    )
    return [known[name] for name in NAMES], is_open


def _weights(parts: Sequence[Sample]) -> Model:
    """The logistic model of the samples; what is no contradiction weighs more."""
    known = [part for part in parts if part.may_flag.any()]
    rows = np.vstack([part.terms[part.may_flag] for part in known])
    labels = np.concatenate([part.is_contradiction[part.may_flag] for part in known]).astype(np.float64)
    weights = np.where(labels > 0.5, 1.0, OTHERS_WEIGHT)
    lower = np.array([0.0 if name in reading.FOR else -np.inf for name in NAMES])
    upper = np.array([0.0 if name in reading.AGAINST else np.inf for name in NAMES])
    return logistic.fit(NAMES, rows, labels, weights / weights.sum(), bounds=(lower, upper), l2=L2)


def _left_out(parts: Sequence[Sample], policy: ContradictionPolicy) -> tuple[LeftOut, ...]:
    """The pairs of each style that the cross-encoder never saw, under the weights of the others."""
    if sum(not part.is_near for part in parts) < 2:
        return ()
    return tuple(
        conflict_fitting.judge(_weights([other for other in parts if other is not part]), part, policy)
        for part in parts
    )


def document(fitted: Fitted) -> dict[str, object]:
    """How readings are weighed, as it is shipped, with a report of what that was fitted on."""
    return {
        "about": "Logistic model of core/reading.py: the chance that two near texts contradict each other, by the"
        " reading of the cross-encoder and the chance that the rules give.",
        "adapter_sha256": hashlib.sha256(cross_encoder.adapter_bytes(fitted.adapter)).hexdigest(),
        **fitted.model.document(),
        "training": {
            "cross_encoder": {
                "pairs": dict(fitted.shown),
                "rank": cross_encoder_fitting.RANK,
                "epochs": cross_encoder_fitting.EPOCHS,
            },
            "weighed_on": {
                part.name: {"pairs": len(part.labels), CONTRADICTION: int(part.is_contradiction.sum())}
                for part in fitted.parts
            },
            "left_out_in_turn": {result.name: result.figures() for result in fitted.tried},
        },
    }


def shipped_model() -> Path:
    """The file that core/reading.py reads its model from."""
    return Path(str(files("hivemind_pipelines.core").joinpath(SHIPPED_MODEL)))
