"""Fitting the conflict model: on labelled pairs and on near notes of other clusters, styles left out in turn."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from hivemind_pipelines.core import conflict, contrast
from hivemind_pipelines.core.model import Vectors
from hivemind_pipelines.core.policy import ContradictionPolicy
from hivemind_pipelines.core.statements import read_text
from hivemind_pipelines.evaluation import logistic
from hivemind_pipelines.evaluation.contradictions import CONTRADICTION
from hivemind_pipelines.evaluation.labelled import ClusteredText, ContrastedPair
from hivemind_pipelines.evaluation.logistic import Flags, Floats, Model
from hivemind_pipelines.evaluation.metrics import Confusion, confusion, share
from hivemind_pipelines.services.embedding import Embedder
from hivemind_pipelines.stages.context import Progress

#: Pairs of this part of a file are for judging a model that never saw them.
HELD_OUT = "held_out"

#: Texts of a cluster file that are looked at, and near pairs taken from it.
TEXTS_MAX = 1_500
NEAR_MAX = 1_500

#: All near notes together weigh as much as so many data sets of labelled pairs.
NEAR_WEIGHT = 1.0

L2 = 1e-3

SHIPPED_MODEL = "conflict_model.json"

NAMES = tuple(sorted(contrast.FOR | contrast.AGAINST | contrast.EITHER))


@dataclass(frozen=True, slots=True)
class Sample:
    """Pairs of one style, or near notes of one file: terms of shape (n, k), and what is true of each pair.

    `may_flag` where the rules leave the pair to the model.
    """

    name: str
    is_near: bool
    terms: Floats
    labels: tuple[str, ...]
    may_flag: Flags

    @property
    def is_contradiction(self) -> Flags:
        """Of shape (n,)."""
        return np.array([label == CONTRADICTION for label in self.labels], dtype=bool)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """How a model fitted without a sample does on it."""

    name: str
    counted: Confusion
    flagged_by_label: Mapping[str, float | None]

    def figures(self) -> dict[str, object]:
        """For the training report."""
        return {**self.counted.figures(), "flagged_by_label": dict(self.flagged_by_label)}


def samples(
    pairs: Sequence[ContrastedPair],
    clusters: Mapping[str, Sequence[ClusteredText]],
    embedder: Embedder,
    policy: ContradictionPolicy,
    progress: Progress,
) -> tuple[Sample, ...]:
    """The labelled pairs but those held out, a sample for each style, and the near notes of each cluster file."""
    shown = [pair for pair in pairs if pair.split != HELD_OUT]
    made = []
    styles = sorted({pair.style or "" for pair in shown})
    total = len(styles) + len(clusters)
    for style in styles:
        own = [pair for pair in shown if (pair.style or "") == style]
        made.append(_sample(style or "pairs", own, embedder, is_near=False))
        progress("conflict", len(made), total)
    for name, rows in clusters.items():
        found = tuple(near(rows, embedder, policy))
        if found:
            made.append(_sample(Path(name).name, found, embedder, is_near=True))
            progress("conflict", len(made), total)
    return tuple(made)


def near(
    rows: Sequence[ClusteredText],
    embedder: Embedder,
    policy: ContradictionPolicy,
    *,
    count: int = NEAR_MAX,
    characters: int | None = None,
) -> Iterator[ContrastedPair]:
    """Pairs of near texts of one cluster and of different ones: hardly one of them is in conflict.

    Texts and pairs are chosen by their hashes, `count` of either kind and of so many characters together at most.
    """
    cluster_of = {row.row.content: row.cluster for row in rows}
    texts = sorted(cluster_of, key=_hashed)[:TEXTS_MAX]
    vectors = embedder.embed(texts)
    alike = np.triu(vectors @ vectors.T, k=1) >= policy.overlap_min
    found = sorted(
        (
            (texts[a], texts[b])
            for a, b in np.argwhere(alike)
            if characters is None or len(texts[a]) + len(texts[b]) <= characters
        ),
        key=lambda pair: _hashed("\n".join(pair)),
    )
    for label, is_one in (("near", False), ("duplicate", True)):
        chosen = [(a, b) for a, b in found if (cluster_of[a] == cluster_of[b]) is is_one]
        for a, b in chosen[:count]:
            yield ContrastedPair("", a, b, label)


def _hashed(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _sample(
    name: str,
    pairs: Sequence[ContrastedPair],
    embedder: Embedder,
    *,
    is_near: bool,
) -> Sample:
    texts = tuple(dict.fromkeys(text for pair in pairs for text in (pair.text_a, pair.text_b)))
    vector_of = dict(zip(texts, embedder.embed(texts), strict=True))
    terms: list[list[float]] = []
    labels: list[str] = []
    may_flag: list[bool] = []
    for pair in pairs:
        known = _terms(pair, vector_of)
        if known is not None:
            terms.append(known[0])
            labels.append(pair.label)
            may_flag.append(known[1])
    return Sample(
        name, is_near, np.array(terms).reshape(-1, len(NAMES)), tuple(labels), np.array(may_flag, dtype=bool)
    )


def _terms(pair: ContrastedPair, vector_of: Mapping[str, Vectors]) -> tuple[list[float], bool] | None:
    """The terms of a pair and whether the model decides it; None where a text claims nothing."""
    a, b = sorted((pair.text_a, pair.text_b))
    left, right = read_text(a, pair.scope_a), read_text(b, pair.scope_b)
    if not left.claims or not right.claims:
        return None
    cosine = float(np.dot(vector_of[a], vector_of[b]))
    found = contrast.contrast(left, right, cosine)
    is_forked = bool(conflict.forks(left, right, cosine))
    may_flag = found.evidence is not None and not found.is_scoped and not is_forked
    return [found.terms.get(name, 0.0) for name in NAMES], may_flag


def fit(parts: Sequence[Sample]) -> Model:
    """The model of the samples, each style of equal weight; what the rules decide alone teaches nothing."""
    known = [part for part in parts if part.may_flag.any()]
    rows = np.vstack([part.terms[part.may_flag] for part in known])
    labels = np.concatenate([part.is_contradiction[part.may_flag] for part in known]).astype(np.float64)
    weights = np.concatenate([_weights(part, known) for part in known])
    lower = np.array([0.0 if name in contrast.FOR else -np.inf for name in NAMES])
    upper = np.array([0.0 if name in contrast.AGAINST else np.inf for name in NAMES])
    return logistic.fit(NAMES, rows, labels, weights / weights.sum(), bounds=(lower, upper), l2=L2)


def _weights(part: Sample, parts: Sequence[Sample]) -> Floats:
    count = int(part.may_flag.sum())
    near = sum(other.may_flag.sum() for other in parts if other.is_near)
    return np.full(count, NEAR_WEIGHT / near if part.is_near else 1.0 / count)


def left_out(parts: Sequence[Sample], policy: ContradictionPolicy) -> tuple[LeftOut, ...]:
    """Each sample under the model of the others; none where there is only one style."""
    if sum(not part.is_near for part in parts) < 2:
        return ()
    return tuple(judge(fit([other for other in parts if other is not part]), part, policy) for part in parts)


def judge(model: Model, part: Sample, policy: ContradictionPolicy) -> LeftOut:
    """What would be flagged of a sample with that model in place of the shipped one."""
    flagged = part.may_flag & (model.probability(part.terms) >= policy.score_min)
    labels = np.array(part.labels)
    return LeftOut(
        part.name,
        confusion(flagged.tolist(), part.is_contradiction.tolist()),
        {
            label: share(int(flagged[labels == label].sum()), int((labels == label).sum()))
            for label in sorted(set(part.labels))
        },
    )


def document(model: Model, parts: Sequence[Sample], tried: Sequence[LeftOut]) -> dict[str, object]:
    """The model as it is shipped, with a report of what it was fitted on."""
    return {
        "about": "Logistic model of core/conflict.py: the chance that two near texts contradict each other. Terms of"
        " core/contrast.py; those in FOR never count against a conflict, those in AGAINST never for one.",
        **model.document(),
        "training": {
            "fitted_on": {
                part.name: {"pairs": len(part.labels), CONTRADICTION: int(part.is_contradiction.sum())}
                for part in parts
            },
            "left_out_in_turn": {result.name: result.figures() for result in tried},
        },
    }


def shipped_model() -> Path:
    """The file that core/conflict.py reads its model from."""
    return Path(str(files("hivemind_pipelines.core").joinpath(SHIPPED_MODEL)))
