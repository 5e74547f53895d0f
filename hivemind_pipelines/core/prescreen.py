"""Pre-screening: what a reviewer should know of a pending row, and how much a look at it is worth."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from hivemind_pipelines.core import quality
from hivemind_pipelines.core.erasure import Sameness
from hivemind_pipelines.core.injection import Suspicion, suspicion, suspicion_stamp
from hivemind_pipelines.core.model import Comparison, Decision, Finding, PairDecision, PendingId
from hivemind_pipelines.core.noise import NOISE_VERSION, noise
from hivemind_pipelines.core.policy import DistillationPolicy, PrescreenPolicy, QualityPolicy

LabelName = Literal[
    "near_duplicate",
    "near_duplicate_pending",
    "contradiction",
    "secret",
    "pii",
    "scan_failed",
    "injection",
    "gibberish",
    "empty",
    "too_short",
    "spam",
    "erased_before",
]
OtherKind = Literal["item", "pending"]

#: A label as readers see it: its name under `label`, beside it ids, numbers and codes, never a text.
Label = Mapping[str, object]

#: Labels after which a row cannot be approved as it is.
NEEDS_CARE = frozenset({"secret", "pii", "scan_failed", "injection", "erased_before"})

#: Raised by hand when the code that labels or ranks changes its output.
LABEL_VERSION = 1


@dataclass(frozen=True, slots=True)
class TextFindings:
    """What was found in the text of a row alone; `types` counts secrets and personal data by type.

    `failed` is the reason code of a scan that could not tell.
    """

    words: int
    noise: float
    parts: Mapping[str, float] = field(hash=False)
    secrets: Mapping[str, int] = field(default_factory=dict, hash=False)
    pii: Mapping[str, int] = field(default_factory=dict, hash=False)
    failed: str | None = None
    suspicion: Suspicion | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """Another text that says nearly the same, or the opposite; `probability` is that of being the same.

    `is_first` says of another pending row that it waits longer.
    """

    other_id: UUID
    other_kind: OtherKind
    similarity: float
    probability: float
    decision: Decision
    reason: str
    conflict: str | None = None
    is_first: bool = False


@dataclass(frozen=True, slots=True)
class Screening:
    """What a row gets: the seed's score and mark, labels, and what a look at it is worth with its parts."""

    pending_id: PendingId
    score: float
    is_low_quality: bool
    labels: tuple[Label, ...] = field(hash=False)
    value: float
    parts: Mapping[str, float] = field(hash=False)

    @property
    def document(self) -> dict[str, object] | None:
        """What stands under our key in the row's tags; None for a row without labels."""
        if not self.labels:
            return None
        return {"labels": list(self.labels), "value": self.value, "parts": dict(self.parts)}


def text_stamp(scanner_stamp: str) -> str:
    """What changes when another text may be found noisy, suspicious or sensitive."""
    return f"{NOISE_VERSION}:{suspicion_stamp()}:{scanner_stamp}"


def match_stamp(policy: DistillationPolicy, model_stamp: str) -> str:
    """What changes when a row may match another text than before."""
    groups = (policy.fingerprint(group) for group in ("matching", "contradiction", "quality"))
    return ":".join((str(LABEL_VERSION), policy.probe_stamp(model_stamp), *groups))


def look_at(content: str, *, scan: Sequence[Finding] | str, secret_types: frozenset[str]) -> TextFindings:
    """The findings of one text; `scan` is what the scanner found in it, or why it could not tell."""
    found = noise(content)
    failed = scan if isinstance(scan, str) else None
    types = [] if isinstance(scan, str) else [finding.type for finding in scan]
    return TextFindings(
        words=found.words,
        noise=found.score,
        parts=dict(found.parts),
        secrets=_counted(type_ for type_ in types if type_ in secret_types),
        pii=_counted(type_ for type_ in types if type_ not in secret_types),
        failed=failed,
        suspicion=suspicion(content),
    )


def _counted(types: Iterable[str]) -> dict[str, int]:
    listed = sorted(types)
    return {type_: listed.count(type_) for type_ in dict.fromkeys(listed)}


def is_near(comparison: Comparison, decided: PairDecision, policy: PrescreenPolicy) -> bool:
    """Whether a compared pair is shown as a near-duplicate: decided so, or likely and without a veto."""
    if decided.decision == "duplicate":
        return True
    return not comparison.vetoes and decided.probability >= policy.near_duplicate_min


def screen(
    pending_id: PendingId,
    confidence: float,
    found: TextFindings,
    matches: Sequence[Match],
    policy: DistillationPolicy,
    erased: Sameness | None = None,
) -> Screening:
    """Everything a reviewer is told of a row; `erased` when its org erased a text that says the same."""
    score = quality.preliminary_score(confidence, policy.quality)
    before: tuple[Label, ...] = ({"label": "erased_before", "sameness": erased},) if erased else ()
    labels = (*before, *_labels(found, matches, policy.prescreen))
    parts = _parts(score, found, matches, labels, policy)
    return Screening(
        pending_id=pending_id,
        score=score,
        is_low_quality=score < policy.prescreen.low_quality_below,
        labels=labels,
        value=round(parts["quality"] * parts["sense"] * parts["novelty"] * parts["care"], 4),
        parts=parts,
    )


def _labels(found: TextFindings, matches: Sequence[Match], policy: PrescreenPolicy) -> Iterator[Label]:
    yield from _match_labels(matches, policy.matches_shown_max)
    if found.failed:
        yield {"label": "scan_failed", "reason": found.failed}
    if found.secrets:
        yield {"label": "secret", "types": dict(found.secrets)}
    if found.pii:
        yield {"label": "pii", "types": dict(found.pii)}
    if found.suspicion:
        kinds, score = list(found.suspicion.kinds), round(found.suspicion.score, 3)
        yield {"label": "injection", "kinds": kinds, "score": score}
    yield from sense_labels(found, policy)


def sense_labels(found: TextFindings, policy: PrescreenPolicy) -> Iterator[Label]:
    """What says that a text makes no sense, or too little of it."""
    if found.parts["empty"]:
        yield {"label": "empty", "reason": "no word"}
        return
    if found.parts["gibberish"] >= policy.gibberish_min:
        yield {"label": "gibberish", "score": round(found.parts["gibberish"], 3)}
    if found.parts["spam"] >= policy.spam_min:
        yield {"label": "spam", "score": round(found.parts["spam"], 3)}
    if found.words < policy.words_min:
        yield {"label": "too_short", "words": found.words, "words_min": policy.words_min}


def _match_labels(matches: Sequence[Match], shown_max: int) -> Iterator[Label]:
    """The nearest of each kind; a conflict is shown as that and not as a duplicate as well."""
    ranked = sorted(matches, key=lambda one: (-one.probability, -one.similarity, one.other_id))
    kinds: tuple[OtherKind, ...] = ("item", "pending")
    for kind in kinds:
        near = [one for one in ranked if one.other_kind == kind and not one.conflict]
        for one in near[:shown_max]:
            name = "near_duplicate" if kind == "item" else "near_duplicate_pending"
            yield {
                "label": name, f"{kind}_id": str(one.other_id), "similarity": round(one.similarity, 3),
                "probability": round(one.probability, 3), "reason": one.reason,
            }  # fmt: skip
    conflicting = [one for one in ranked if one.other_kind == "item" and one.conflict]
    for one in conflicting[:shown_max]:
        yield {
            "label": "contradiction", "item_id": str(one.other_id), "similarity": round(one.similarity, 3),
            "reason": one.conflict,
        }  # fmt: skip


def _parts(
    score: float,
    found: TextFindings,
    matches: Sequence[Match],
    labels: Sequence[Label],
    policy: DistillationPolicy,
) -> dict[str, float]:
    """The factors of a row's value, each in [0, 1]; their product is what a look at it is worth.

    quality: the preliminary score over the best one a row can have. sense: 1 - noise. novelty: 1 - the
    highest probability that a live item, or a row that waits longer, says the same; 1 for a row that
    contradicts a live item, which is news either way. care: `prescreen.care_factor` once for each label
    after which the row must be worked on before it may be approved.
    """
    names = {str(label["label"]) for label in labels}
    known = [one.probability for one in matches if not one.conflict and _was_first(one)]
    is_news = any(one.conflict and one.other_kind == "item" for one in matches)
    best = _best_score(policy.quality)
    parts = {
        "quality": score / best if best > 0.0 else 0.0,
        "sense": 1.0 - found.noise,
        "novelty": 1.0 if is_news else 1.0 - max(known, default=0.0),
        "care": policy.prescreen.care_factor ** len(names & NEEDS_CARE),
    }
    return {name: round(min(1.0, max(0.0, part)), 4) for name, part in parts.items()}


def _was_first(match: Match) -> bool:
    return match.other_kind == "item" or match.is_first


def _best_score(policy: QualityPolicy) -> float:
    return quality.preliminary_score(1.0, policy)
