"""Reviewers' verdicts: what they say of a pair, the last word over it, and how detectors fare by them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal
from uuid import UUID

from hivemind_pipelines.core.model import ItemId, OrgId, PairEdge

Verdict = Literal["same", "distinct"]
VerdictSource = Literal["review", "undo"]

#: What a person may decide about a contradiction case here.
CaseOutcome = Literal["dismissed", "resolved", "update", "version_fork", "both_true_in_scope"]

#: Outcomes that change items beside the case: to decide otherwise they are taken back first.
EFFECTIVE: frozenset[str] = frozenset({"update", "version_fork"})

#: Hexadecimal digits of a pair's id that people type.
SHORT_ID_LENGTH = 12


@dataclass(frozen=True, slots=True)
class PairVerdict:
    """A verdict that holds: both texts are those it was given for; `a_id < b_id`."""

    a_id: ItemId
    b_id: ItemId
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class DetectorRecord:
    """How many pairs that a detector had flagged people called the same, of how many they decided."""

    reason: str
    same: int
    total: int

    @property
    def precision(self) -> float:
        """The share that people confirmed; `total` is never 0."""
        return self.same / self.total


def pair_id(org_id: OrgId, a_id: ItemId, b_id: ItemId) -> UUID:
    """The id that a pair of items of an org has for ever, whatever the order they are named in."""
    low, high = sorted((a_id, b_id))
    return UUID(sha256(f"{org_id}:{low}:{high}".encode()).hexdigest()[:32])


def short_id(pair: UUID) -> str:
    """The first digits of a pair's id."""
    return pair.hex[:SHORT_ID_LENGTH]


def overrule(
    edges: Sequence[PairEdge], verdicts: Iterable[PairVerdict], class_of: Mapping[ItemId, bytes]
) -> tuple[PairEdge, ...]:
    """The edges with people's verdicts above every detector, vetoes included.

    A detector compares one item of a class (equal normalised text) for all of them. So `same` sets aside
    whatever any detector found between the two classes, while `distinct` is one more veto.
    """
    known = [one for one in verdicts if one.a_id in class_of and one.b_id in class_of]
    decided = {(one.a_id, one.b_id) for one in known}
    joined = {
        _classes(one.a_id, one.b_id, class_of)
        for one in known
        if one.verdict == "same" and class_of[one.a_id] != class_of[one.b_id]
    }
    kept = (
        edge
        for edge in edges
        if (edge.a_id, edge.b_id) not in decided and _classes(edge.a_id, edge.b_id, class_of) not in joined
    )
    return (*kept, *map(_edge, known))


def _classes(a_id: ItemId, b_id: ItemId, class_of: Mapping[ItemId, bytes]) -> frozenset[bytes]:
    return frozenset(class_of[item_id] for item_id in (a_id, b_id) if item_id in class_of)


def _edge(verdict: PairVerdict) -> PairEdge:
    if verdict.verdict == "same":
        return PairEdge(verdict.a_id, verdict.b_id, "duplicate", 1.0)
    return PairEdge(verdict.a_id, verdict.b_id, "distinct", 0.0, vetoed=True)


def detector_records(decided: Iterable[tuple[str, Verdict]]) -> tuple[DetectorRecord, ...]:
    """Verdicts grouped by the reason code they were given under, in its order."""
    counts: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for reason, verdict in decided:
        counts[reason][0] += verdict == "same"
        counts[reason][1] += 1
    return tuple(DetectorRecord(reason, same, total) for reason, (same, total) in sorted(counts.items()))


def case_records(decided: Iterable[tuple[str, bool]]) -> tuple[DetectorRecord, ...]:
    """Decided cases grouped by the detector and reason code that opened them; `same` counts the confirmed."""
    return detector_records((reason, "same" if is_real else "distinct") for reason, is_real in decided)
