"""Changes: what a plan consists of, what the ledger records and what undo inverts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from hivemind_pipelines.core.model import (
    CandidatePair,
    CaseId,
    ContradictionCase,
    ItemFeatures,
    ItemId,
    PendingId,
    SignalId,
    TopicCluster,
    Vectors,
)


@dataclass(frozen=True, slots=True, eq=False)
class StoreFeatures:
    """Cache the features of items; `vectors` (n, 384) holds zero rows for items that already have one."""

    features: tuple[ItemFeatures, ...]
    vectors: Vectors


@dataclass(frozen=True, slots=True)
class StorePairs:
    """Cache compared pairs and mark the items that were probed."""

    pairs: tuple[CandidatePair, ...]
    probed_ids: tuple[ItemId, ...]


@dataclass(frozen=True, slots=True)
class Merge:
    """Expire a duplicate in favour of its canonical, or re-point one that is already expired.

    `canonical_hash` and `duplicate_hash` are re-checked when it is applied.
    """

    duplicate_id: ItemId
    duplicate_hash: str
    canonical_id: ItemId
    canonical_hash: str
    previous_canonical_id: ItemId | None = None


@dataclass(frozen=True, slots=True)
class Unmerge:
    """Bring a duplicate back to life because nothing supports its merge any more."""

    duplicate_id: ItemId
    canonical_id: ItemId
    reason: str


@dataclass(frozen=True, slots=True)
class OpenCase:
    """Record a contradiction case and its one `contradiction_cluster` signal."""

    case: ContradictionCase
    detected_at: datetime


@dataclass(frozen=True, slots=True)
class ReopenCase:
    """Open a case again that a policy had withdrawn, and that the policy of today groups as before.

    `is_new_evidence` opens one that a person had decided: about other texts than these.
    """

    case: ContradictionCase
    is_new_evidence: bool = False


@dataclass(frozen=True, slots=True)
class KeepCase:
    """Stamp an open case with the policy of today, which groups its items as the older one did."""

    case_id: CaseId


@dataclass(frozen=True, slots=True)
class WithdrawCase:
    """Take back an open case that no person decided and no policy in force would open; its signals wait."""

    case_id: CaseId


@dataclass(frozen=True, slots=True)
class StampSuspect:
    """Remember a contradiction signal that has no counterpart yet, or whose case already exists."""

    signal_id: SignalId
    item_id: ItemId
    case_id: CaseId | None = None


@dataclass(frozen=True, slots=True)
class PlaceTopic:
    """Record a topic cluster of the current commons."""

    cluster: TopicCluster


@dataclass(frozen=True, slots=True)
class DissolveTopic:
    """Forget a topic cluster that the current commons no longer has."""

    fingerprint: str


@dataclass(frozen=True, slots=True, eq=False)
class Publish:
    """Store a summary that passed every gate, in place of `replaces`; `vector` has shape (1, 384)."""

    summary_id: ItemId
    cluster: TopicCluster
    content: str
    content_hash: str
    method: str
    model: str
    prompt_version: str
    vector: Vectors
    replaces: tuple[ItemId, ...] = ()


@dataclass(frozen=True, slots=True)
class Revive:
    """Bring back the expired summary of a fingerprint that is current again."""

    summary_id: ItemId
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Expire a summary; `reason` is a code such as `too_few_sources`, `source_erased`, `superseded`."""

    summary_id: ItemId
    reason: str


@dataclass(frozen=True, slots=True)
class Flag:
    """Set or clear the pre-screening tags of a pending row; `content_hash` is re-checked.

    `document` is what stands under our own key, None without labels; `value` with its `parts` is what a
    look at the row is worth.
    """

    pending_id: PendingId
    content_hash: str
    score: float
    is_low_quality: bool
    document: Mapping[str, object] | None = field(default=None, hash=False)
    value: float = 0.0
    parts: Mapping[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Rescore:
    """A new quality score of one live item."""

    item_id: ItemId
    before: float
    after: float


CaseChange = OpenCase | ReopenCase | KeepCase | WithdrawCase | StampSuspect

Change = Merge | Unmerge | CaseChange | PlaceTopic | DissolveTopic | Publish | Revive | Retire | Flag


@dataclass(frozen=True, slots=True)
class Refusal:
    """A plan that the mass-change breaker stopped, with its numbers."""

    expired_count: int
    live_count: int
    share_max: float

    def __str__(self) -> str:
        share = self.expired_count / self.live_count if self.live_count else 0.0
        return (
            f"the plan expires {self.expired_count} of {self.live_count} live items ({share:.0%}), "
            f"more than safety.mass_change_share_max {self.share_max:.0%}; "
            "look at it with --dry-run, allow it once with --allow-mass-change"
        )
