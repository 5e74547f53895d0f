"""Quality: the reference formula that turns behaviour into a score in [0, 1]."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from hivemind_pipelines.core.policy import QualityPolicy, SafetyPolicy

_SECONDS_PER_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class QualityInputs:
    """What the commons did with one item, sums taken over the items merged into it.

    `signal_count` counts all signals but `contradiction_cluster`, `contradiction_count` those of type
    `contradiction`. `last_signal_at` is the newest retrieval or outcome signal; without one the last
    access is `approved_at`, and without that it is now.
    """

    retrieval_count: int = 0
    helpful_count: int = 0
    not_helpful_count: int = 0
    signal_count: int = 0
    contradiction_count: int = 0
    last_signal_at: datetime | None = None
    approved_at: datetime | None = None
    invalid_at: datetime | None = None


def score(inputs: QualityInputs, policy: QualityPolicy, as_of: datetime) -> float:
    """The quality of an item at `as_of`; naive times are read as UTC."""
    return _weigh(
        policy,
        usefulness=_usefulness(inputs.helpful_count, inputs.not_helpful_count, policy.prior_votes),
        retrieval_count=inputs.retrieval_count,
        days_since_access=_days_since_access(inputs, as_of),
        contradiction_rate=_contradiction_rate(inputs.contradiction_count, inputs.signal_count),
        is_current=inputs.invalid_at is None or _aware(inputs.invalid_at) > _aware(as_of),
    )


def preliminary_score(confidence: float, policy: QualityPolicy) -> float:
    """The score of a pending row: no behaviour, no usefulness prior, doubt counts as contradiction."""
    return _weigh(
        policy,
        usefulness=_usefulness(0, 0, prior_votes=0.0),
        retrieval_count=0,
        days_since_access=0.0,
        contradiction_rate=1.0 - (_clamp01(confidence) if math.isfinite(confidence) else 0.0),
        is_current=True,
    )


#: Equal parts of [0, 1] in which scores count as alike.
SPREAD_BINS = 40


def collapsed_share(spread: Mapping[int, int], policy: SafetyPolicy) -> float | None:
    """The share of an org's used items in its fullest part of [0, 1], when that is nearly all of them.

    `spread` maps the number of a part to the items in it. None while the scores tell items apart, and of
    an org with too few used items to say.
    """
    total = sum(spread.values())
    if total < policy.collapse_items_min:
        return None
    share = max(spread.values()) / total
    return share if share > policy.collapse_share_max else None


def _weigh(
    policy: QualityPolicy,
    *,
    usefulness: float,
    retrieval_count: int,
    days_since_access: float,
    contradiction_rate: float,
    is_current: bool,
) -> float:
    return _clamp01(
        policy.usefulness_weight * usefulness
        + policy.popularity_weight * math.tanh(max(0, retrieval_count) / policy.popularity_scale)
        + policy.freshness_weight * math.exp(-math.log(2) * days_since_access / policy.half_life_days)
        - policy.contradiction_weight * contradiction_rate
        + (policy.currency_bonus if is_current else 0.0)
    )


def _usefulness(helpful: int, not_helpful: int, prior_votes: float) -> float:
    helpful, not_helpful = max(0, helpful), max(0, not_helpful)
    votes = helpful + not_helpful + prior_votes
    return (helpful + prior_votes * 0.5) / votes if votes > 0 else 0.0


def _contradiction_rate(contradictions: int, signals: int) -> float:
    return _clamp01(contradictions / signals) if signals > 0 else 0.0


def _days_since_access(inputs: QualityInputs, as_of: datetime) -> float:
    accessed_at = inputs.last_signal_at or inputs.approved_at
    if accessed_at is None:
        return 0.0
    return max(0.0, (_aware(as_of) - _aware(accessed_at)).total_seconds() / _SECONDS_PER_DAY)


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _clamp01(value: float) -> float:
    return min(1.0, max(0.0, value))
