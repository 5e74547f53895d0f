"""The nouns of the commons: items, features, pairs, clusters, cases and summaries as frozen records."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal, NewType
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

OrgId = NewType("OrgId", str)
ItemId = NewType("ItemId", UUID)
PendingId = NewType("PendingId", UUID)
SignalId = NewType("SignalId", UUID)
CaseId = NewType("CaseId", UUID)
RunId = NewType("RunId", UUID)

EMBEDDING_DIMENSION = 384

#: float32, shape (n, 384); rows are unit length, or all zero where there is no usable vector.
Vectors = NDArray[np.float32]
#: uint32, shape (n, num_perm).
Signatures = NDArray[np.uint32]


class Category(StrEnum):
    """The enum `knowledgecategory` of the HiveMind database."""

    BUG_FIX = "bug_fix"
    CONFIG = "config"
    DOMAIN_EXPERTISE = "domain_expertise"
    WORKAROUND = "workaround"
    PRICING_DATA = "pricing_data"
    REGULATORY_RULE = "regulatory_rule"
    TOOLING = "tooling"
    REASONING_TRACE = "reasoning_trace"
    FAILED_APPROACH = "failed_approach"
    VERSION_WORKAROUND = "version_workaround"
    GENERAL = "general"


class Stage(StrEnum):
    """The distillation stages in the order a run calls them."""

    ITEM_FEATURES = "item_features"
    DUPLICATE_PAIRS = "duplicate_pairs"
    DUPLICATE_MERGES = "duplicate_merges"
    CONTRADICTION_CASES = "contradiction_cases"
    TOPIC_CLUSTERS = "topic_clusters"
    CLUSTER_SUMMARIES = "cluster_summaries"
    PRESCREENED_CONTRIBUTIONS = "prescreened_contributions"
    DISTILLATION_REPORT = "distillation_report"


@dataclass(frozen=True, slots=True)
class Scope:
    """What an item's statement is about; items of different scopes are never the same statement."""

    framework: str | None = None
    language: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """An original of one org, as read in one snapshot; `contributed_at` is clamped to years 1 to 9999."""

    id: ItemId
    org_id: OrgId
    content: str
    content_hash: str
    category: Category
    scope: Scope = Scope()
    is_public: bool = False
    confidence: float = 0.8
    quality_score: float = 0.5
    contributed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Discriminators:
    """The small tokens that change a statement's meaning, sorted and unique, in normalised spelling."""

    numbers: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    code_tokens: tuple[str, ...] = ()
    negations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ItemFeatures:
    """What matching needs of one item's text.

    `class_key` (32 bytes) is equal for items whose normalised text and scope are equal: they are one
    node in matching. `signature` is the MinHash, uint32 of shape (num_perm,).
    """

    item_id: ItemId
    content_hash: str
    class_key: bytes
    signature: NDArray[np.uint32]
    discriminators: Discriminators


@dataclass(frozen=True, slots=True)
class MatchInput:
    """One item as the comparison sees it; `vector` is a unit vector of shape (384,) or None."""

    item_id: ItemId
    content_hash: str
    content: str
    scope: Scope
    discriminators: Discriminators
    signature: NDArray[np.uint32]
    vector: NDArray[np.float32] | None


Decision = Literal["duplicate", "possible", "distinct"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between two texts: similarities in [0, 1] and the vetoes found.

    `scores` maps the name of a measure to its value; `vetoes` are reason codes such as
    `veto:version`. Neither holds any text, so a comparison may be stored and logged.
    """

    scores: tuple[tuple[str, float], ...]
    vetoes: tuple[str, ...] = ()

    def score(self, name: str) -> float:
        """The value of one measure; KeyError when it was not taken."""
        return dict(self.scores)[name]


@dataclass(frozen=True, slots=True)
class PairDecision:
    """What the matching policy says of a comparison, with the reason code that says why."""

    decision: Decision
    probability: float
    reason: str


@dataclass(frozen=True, slots=True)
class CandidatePair:
    """A compared pair, `a_id < b_id`, with the content hashes it was compared under."""

    a_id: ItemId
    b_id: ItemId
    a_hash: str
    b_hash: str
    comparison: Comparison
    decided: PairDecision


@dataclass(frozen=True, slots=True)
class LlmVerdict:
    """A cached answer of the model on one `possible` pair: the same statement or not, in [0, 1]."""

    same: bool
    confidence: float


@dataclass(frozen=True, slots=True)
class PoolItem:
    """An item that clustering may place: live, or expired by a merge of ours.

    `canonical_id` is the canonical it follows today, `settled` says that its component was
    clustered under the current stamp and that none of its pairs changed since.
    """

    id: ItemId
    class_key: bytes
    content_hash: str
    is_public: bool
    quality_score: float
    confidence: float
    contributed_at: datetime | None
    canonical_id: ItemId | None = None
    settled: bool = False


@dataclass(frozen=True, slots=True)
class PairEdge:
    """A stored pair as clustering sees it: its effective decision and whether a veto forbids it."""

    a_id: ItemId
    b_id: ItemId
    decision: Decision
    similarity: float
    vetoed: bool = False


@dataclass(frozen=True, slots=True)
class DuplicateCluster:
    """A canonical and the items that each match it directly."""

    canonical_id: ItemId
    duplicate_ids: tuple[ItemId, ...]


@dataclass(frozen=True, slots=True)
class SuspectSignal:
    """A `contradiction` signal that is in no case yet, or in one that signals hold open.

    `item_id` is the live original it counts for: the item it was given to, or its canonical, in whose
    category it is grouped. `origin_id` is the former.
    """

    signal_id: SignalId
    item_id: ItemId
    category: Category
    is_stamped: bool = False
    case_id: CaseId | None = None
    origin_id: ItemId | None = None


@dataclass(frozen=True, slots=True)
class ContradictionCase:
    """A group of items that are said to conflict; its id follows from org and item set."""

    case_id: CaseId
    category: Category
    item_ids: tuple[ItemId, ...]
    signal_ids: tuple[SignalId, ...]
    detector: str = "signals"
    evidence: Mapping[str, object] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class StandingCase:
    """A stored case; `is_withdrawn` by a policy, `is_fixed` by a person or another detector than signals.

    `is_decided` by a person, or by an undo that remembers.
    """

    case_id: CaseId
    item_ids: tuple[ItemId, ...]
    stamp: str
    is_withdrawn: bool = False
    is_fixed: bool = False
    detector: str = "signals"
    is_decided: bool = False

    @property
    def is_open(self) -> bool:
        """Whether signals alone hold it open."""
        return not (self.is_withdrawn or self.is_fixed)


@dataclass(frozen=True, slots=True)
class ConflictFinding:
    """A pair of live originals that cannot both hold, by the rules or the model; spans are offsets.

    `is_settled` once a person has decided its case for the texts as they are.
    """

    case_id: CaseId
    a_id: ItemId
    b_id: ItemId
    category: Category
    outcome: str
    reason: str
    score: float
    spans: Mapping[str, object] = field(default_factory=dict, hash=False)
    is_settled: bool = False
    judged: str | None = None


@dataclass(frozen=True, slots=True)
class TopicItem:
    """A live original that may become part of a topic."""

    id: ItemId
    content_hash: str
    category: Category
    scope: Scope


@dataclass(frozen=True, slots=True)
class TopicCluster:
    """Related items of one org, category and scope; `source_ids` sorted, the medoid among them."""

    fingerprint: str
    category: Category
    scope: Scope
    source_ids: tuple[ItemId, ...]
    source_hashes: tuple[str, ...]
    medoid_id: ItemId


@dataclass(frozen=True, slots=True)
class SourceText:
    """A source of a summary with its text; `number` is how sentences cite it, from 1."""

    number: int
    item_id: ItemId
    content_hash: str
    content: str
    is_public: bool = False


@dataclass(frozen=True, slots=True)
class SummarySentence:
    """One sentence and the source numbers it rests on."""

    text: str
    sources: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SummaryDraft:
    """A generated summary before any gate."""

    sentences: tuple[SummarySentence, ...]

    @property
    def text(self) -> str:
        """The sentences joined to one paragraph."""
        return " ".join(sentence.text.strip() for sentence in self.sentences)


@dataclass(frozen=True, slots=True)
class PendingContribution:
    """A row of the review queue."""

    id: PendingId
    org_id: OrgId
    content: str
    content_hash: str
    category: Category
    confidence: float


@dataclass(frozen=True, slots=True)
class Finding:
    """A detected span [start, end) in code points, with its type and the detector's score."""

    start: int
    end: int
    type: str
    score: float


@dataclass(frozen=True, slots=True)
class LlmRequest:
    """One structured call: a JSON schema for the answer and hard caps; no tools, no history."""

    purpose: Literal["confirm_pair", "judge_conflict", "summarize_cluster"]
    system: str
    user: str
    schema: dict[str, object] = field(hash=False)
    max_output_tokens: int
    attempts_max: int = 3


@dataclass(frozen=True, slots=True)
class LlmUsage:
    """What a call cost: tokens as billed, attempts made."""

    input_tokens: int = 0
    output_tokens: int = 0
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class LlmAnswer:
    """A well-formed answer: the decoded JSON object, not yet trusted in any other way."""

    data: dict[str, object] = field(hash=False)
    usage: LlmUsage


@dataclass(frozen=True, slots=True)
class LlmUnavailable:
    """No usable answer; `reason` is a code such as `timeout`, `http_401`, `refusal`, never text of theirs."""

    reason: str
    usage: LlmUsage


LlmOutcome = LlmAnswer | LlmUnavailable
