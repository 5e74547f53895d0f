"""The golden set: pairs of notes written for this package, half of them look-alikes that must never merge."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.evaluation import duplicate_pairs, labelled
from hivemind_pipelines.evaluation.duplicate_pairs import JudgedPair
from hivemind_pipelines.stages.context import Progress, Services

GOLDEN_PAIRS = "golden_pairs.jsonl"


@dataclass(frozen=True, slots=True)
class KindFigures:
    """What became of the pairs in which one kind of thing was changed."""

    kind: str
    pairs: int
    same: int
    merged: int
    wrong: int
    possible: int
    vetoed: int


def golden_file() -> Path:
    """The file in the package, in the format of `evaluate duplicates`."""
    return Path(str(files(__package__).joinpath(GOLDEN_PAIRS)))


def judge(services: Services, policy: DistillationPolicy, progress: Progress) -> tuple[JudgedPair, ...]:
    """Every golden pair as production compares and decides it, without a model's second look."""
    pairs = {GOLDEN_PAIRS: labelled.read_pairs(golden_file())}
    return duplicate_pairs.judge(pairs, replace(services, llm=None), policy, progress).pairs


def figures_by_kind(pairs: Sequence[JudgedPair]) -> tuple[KindFigures, ...]:
    """The figures of each kind of change, in the order of its name."""
    kinds = sorted({pair.pair.kind or "" for pair in pairs})
    return tuple(_figures(kind, [pair for pair in pairs if (pair.pair.kind or "") == kind]) for kind in kinds)


def _figures(kind: str, pairs: Sequence[JudgedPair]) -> KindFigures:
    merged = [pair for pair in pairs if pair.decision == "duplicate"]
    return KindFigures(
        kind=kind,
        pairs=len(pairs),
        same=sum(pair.pair.is_same for pair in pairs),
        merged=len(merged),
        wrong=sum(not pair.pair.is_same for pair in merged),
        possible=sum(pair.decision == "possible" for pair in pairs),
        vetoed=sum(bool(pair.comparison.vetoes) for pair in pairs),
    )
