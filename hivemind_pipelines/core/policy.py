"""The distillation policy: every number a decision depends on, in named sections with fingerprints."""

import hashlib
import json
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from hivemind_pipelines.core.reading import READING_VERSION

Share = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
Money = Annotated[float, Field(ge=0.0, le=1e6)]
#: The one type that JSON and YAML do not know: seconds, or ISO 8601 such as PT10M.
Duration = Annotated[timedelta, Field(strict=False)]

SectionGroup = Literal["matching", "contradiction", "summary", "pii", "quality"]
SECTION_GROUPS: tuple[SectionGroup, ...] = ("matching", "contradiction", "summary", "pii", "quality")


class PolicyError(ValueError):
    """A policy that is refused; the message names each path and its reason, never a secret."""


class Section(BaseModel):
    """A frozen part of the policy that knows no other keys than its own, and guesses no type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class GatePolicy(Section):
    """When a distillation run is due."""

    volume_threshold: PositiveInt = 50
    conflict_threshold: PositiveInt = 5
    min_interval: Duration = timedelta(minutes=10)
    max_staleness: Duration = timedelta(hours=24)

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.min_interval <= timedelta(0):
            raise ValueError("min_interval must be positive")
        if self.max_staleness < self.min_interval:
            raise ValueError("max_staleness must not be shorter than min_interval")
        return self


class MatchingPolicy(Section):
    """Blocking, comparison and decision of duplicate pairs."""

    shingle_size: Annotated[int, Field(ge=2, le=10)] = 4
    num_perm: Annotated[int, Field(ge=16, le=512)] = 128
    #: LSH bands are chosen so that pairs at this Jaccard similarity collide almost surely.
    jaccard_min: Share = 0.6
    #: Vector neighbours below this cosine similarity are no candidates.
    cosine_min: Share = 0.35
    max_candidates: Annotated[int, Field(ge=1, le=1000)] = 30
    bucket_max: Annotated[int, Field(ge=2, le=100_000)] = 500
    #: A pair at or above this probability, without a veto, is a duplicate.
    duplicate_min: Share = 0.93
    #: A pair at or above this probability is possible; below it is distinct. What little two texts of quite
    #: other words share makes them likelier than this from a cosine of about 0.72 on.
    possible_min: Share = 0.026
    #: A pair with a veto is shown to people from this probability on; it is never a duplicate.
    vetoed_possible_min: Share = 0.8
    cluster_max: PositiveInt = 100_000
    llm_confidence_min: Share = 0.95
    llm_confirm: bool = True

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.possible_min > self.duplicate_min:
            raise ValueError("possible_min must not be larger than duplicate_min")
        return self


class ContradictionPolicy(Section):
    """Which pairs are said to conflict, and how signals of a conflict are grouped into cases."""

    #: Pairs of a lower chance are no conflict. With each style of the labelled pairs left out of fitting in
    #: turn, precision is 0.89 to 0.90 from 0.4 to 0.6, while recall falls from 0.58 to 0.52.
    score_min: Annotated[float, Field(ge=0.3, le=1.0)] = 0.5
    #: Whether a cross-encoder reads each pair beside the rules; it finds conflicts that no rule has evidence of.
    reads: bool = True
    #: Pairs below this similarity, by embedding and by shared words, are too far apart to be examined.
    overlap_min: Annotated[float, Field(ge=0.2, le=1.0)] = 0.5
    #: The model's word counts from this confidence on; below it the finding of the rules stands.
    llm_confidence_min: Share = 0.8
    llm_judge: bool = True
    cosine_min: Share = 0.6
    case_size_max: Annotated[int, Field(ge=2, le=1000)] = 20


class TopicsPolicy(Section):
    """Which items are related enough to be summarised together."""

    distance_max: Annotated[float, Field(gt=0.0, le=2.0)] = 0.3
    size_min: Annotated[int, Field(ge=3, le=100)] = 3
    size_max: Annotated[int, Field(ge=3, le=100)] = 12

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.size_min > self.size_max:
            raise ValueError("size_min must not be larger than size_max")
        return self


class SummaryPolicy(Section):
    """How a summary is written."""

    method: Literal["llm", "extractive"] = "llm"
    prompt_version: Annotated[str, Field(pattern=r"^[a-z0-9._-]{1,40}$")] = "summary-1"
    sentences_max: Annotated[int, Field(ge=1, le=20)] = 5
    characters_max: Annotated[int, Field(ge=100, le=20_000)] = 1_500
    output_tokens_max: Annotated[int, Field(ge=64, le=32_000)] = 1_024
    confidence: Share = 0.8
    quality_score: Share = 0.6


class PiiPolicy(Section):
    """What the gate in front of every stored generated text looks for."""

    score_threshold: Share = 0.5
    #: A text of which more than this share is placeholders is rejected.
    placeholder_share_max: Share = 0.5
    detect_persons: bool = True


class PrescreenPolicy(Section):
    """When a pending row is labelled, and what a look at it is worth; labels hide and block nothing."""

    low_quality_below: Share = 0.2
    #: From this probability on, and without a veto, a pair that is not plainly a duplicate is labelled too:
    #: more likely the same than not.
    near_duplicate_min: Share = 0.5
    #: Vector neighbours below this cosine are not compared: a label is for what lies near.
    cosine_min: Share = 0.6
    #: So many of the nearest texts, live and pending ones each, a row is compared with.
    candidates_max: Annotated[int, Field(ge=1, le=100)] = 4
    #: Of these the nearest are read for a conflict, which takes ten times a comparison.
    conflicts_max: Annotated[int, Field(ge=0, le=100)] = 2
    #: How many matches of one kind a label names.
    matches_shown_max: Annotated[int, Field(ge=1, le=20)] = 3
    #: No advice of fewer words tells what to do and to what; of 7,466 real notes and commits 138 have fewer.
    words_min: Annotated[int, Field(ge=0, le=100)] = 4
    #: Of 7,466 real notes and commits 2 reach it; eight words of random letters always do.
    gibberish_min: Share = 0.6
    #: Of 7,466 real notes and commits 2 reach it, and four of five advertisements in sms_spam.
    spam_min: Share = 0.8
    #: What a secret, personal data, a failed scan or a planted instruction leave of a row's value, each.
    care_factor: Share = 0.6
    #: Look for names of people too, with the model of the gate: some 2 ms a row, which nearly doubles the time of a
    #: queue nobody has read, and of 7 rows it marked among 600 technical notes 4 named a person.
    detect_persons: bool = False
    #: Set `is_sensitive_flagged` on rows with a secret, personal data or a failed scan.
    flag_sensitive: bool = False


class QualityPolicy(Section):
    """Weights and constants of the quality formula."""

    usefulness_weight: Share = 0.40
    popularity_weight: Share = 0.25
    freshness_weight: Share = 0.20
    contradiction_weight: Share = 0.15
    currency_bonus: Share = 0.1
    prior_votes: Annotated[float, Field(ge=0.0, le=1e6)] = 5.0
    popularity_scale: Annotated[float, Field(gt=0.0, le=1e9)] = 50.0
    half_life_days: Annotated[float, Field(gt=0.0, le=36_500.0)] = 90.0
    min_change: Share = 0.001
    #: Of the votes of one agent in one run on one item only the newest counts.
    one_vote_per_run: bool = False
    #: How many votes of a kind one agent has on one item; the seed knew no bound.
    votes_per_agent_max: PositiveInt | None = None

    @model_validator(mode="after")
    def _weights(self) -> Self:
        total = self.usefulness_weight + self.popularity_weight + self.freshness_weight
        if total > 1.0 + 1e-9:
            raise ValueError(f"the positive weights sum to {total:g}, more than 1")
        return self


class ModelPrice(Section):
    """US dollars per million tokens."""

    input: Money
    output: Money


#: The vendor's list prices without discounts for caching and batches, as its pages on single models gave
#: them in October 2026 (platform.claude.com/docs, models and pricing); of models that have left these pages
#: the last ones. A version nobody knows yet costs what the dearest of its family did.
LIST_PRICES: Mapping[str, ModelPrice] = {
    "claude-fable": ModelPrice(input=10.0, output=50.0),
    "claude-mythos": ModelPrice(input=10.0, output=50.0),
    "claude-opus": ModelPrice(input=15.0, output=75.0),
    "claude-opus-4-5": ModelPrice(input=5.0, output=25.0),
    "claude-opus-4-6": ModelPrice(input=5.0, output=25.0),
    "claude-opus-4-7": ModelPrice(input=5.0, output=25.0),
    "claude-opus-4-8": ModelPrice(input=5.0, output=25.0),
    "claude-opus-5": ModelPrice(input=5.0, output=25.0),
    "claude-opus-5-5": ModelPrice(input=4.0, output=20.0),
    "claude-sonnet": ModelPrice(input=3.0, output=15.0),
    "claude-sonnet-5": ModelPrice(input=2.0, output=10.0),
    "claude-haiku": ModelPrice(input=1.0, output=5.0),
    # For prompts up to 100,000 tokens, beyond which `llm_prompt_characters_max` lets none by default.
    "claude-haiku-5-5": ModelPrice(input=0.1, output=0.5),
    "claude-3": ModelPrice(input=3.0, output=15.0),
    "claude-3-opus": ModelPrice(input=15.0, output=75.0),
    "claude-3-5-haiku": ModelPrice(input=0.8, output=4.0),
    "claude-3-haiku": ModelPrice(input=0.25, output=1.25),
}


class SafetyPolicy(Section):
    """Breakers and budgets; never part of a stamp, so changing them makes nothing stale."""

    mass_change_share_max: Share = 0.2
    mass_change_items_min: PositiveInt = 50
    #: A warning is given when more of the used items of an org than this share score within 1/40 of each
    #: other. An org whose items are used at all spreads over ten such parts and more.
    collapse_share_max: Share = 0.9
    collapse_items_min: PositiveInt = 50
    llm_calls_per_run_max: Annotated[int, Field(ge=0, le=1_000_000)] = 200
    llm_calls_per_day_max: Annotated[int, Field(ge=0, le=10_000_000)] = 2_000
    llm_usd_per_run_max: Money = 5.0
    llm_usd_per_day_max: Money = 50.0
    #: Prices by the beginning of a model's name, the longest that fits.
    llm_prices: dict[str, ModelPrice] = Field(default_factory=lambda: dict(LIST_PRICES))
    #: US dollars per million input and output tokens of a model that is not in the table.
    llm_usd_per_mtok_input: Money = 3.0
    llm_usd_per_mtok_output: Money = 15.0
    llm_prompt_characters_max: Annotated[int, Field(ge=1_000, le=1_000_000)] = 60_000
    llm_concurrency: Annotated[int, Field(ge=1, le=32)] = 4
    llm_lease: Duration = timedelta(minutes=5)
    llm_call_timeout: Duration = timedelta(seconds=60)
    #: No call begins later than this after the first of its stage; the rest stays due.
    llm_stage_timeout: Duration = timedelta(minutes=20)
    llm_backoff: Duration = timedelta(minutes=30)

    @model_validator(mode="after")
    def _lease(self) -> Self:
        if self.llm_call_timeout <= timedelta(0):
            raise ValueError("llm_call_timeout must be positive")
        if self.llm_lease < 2 * self.llm_call_timeout:
            raise ValueError("llm_lease must cover two calls of llm_call_timeout: an answer and its retry")
        if self.llm_stage_timeout <= timedelta(0):
            raise ValueError("llm_stage_timeout must be positive")
        return self

    def for_model(self, model: str) -> Self:
        """The section with the model's own price in place of the general one."""
        named = [prefix for prefix in self.llm_prices if model.startswith(prefix)]
        if not named:
            return self
        price = self.llm_prices[max(named, key=len)]
        return self.model_copy(
            update={"llm_usd_per_mtok_input": price.input, "llm_usd_per_mtok_output": price.output}
        )


class OrgOverride(Section):
    """What one org may set for itself."""

    gate: GatePolicy | None = None
    safety: SafetyPolicy | None = None


class DistillationPolicy(Section):
    """The whole policy; `parse` is the one way in from outside."""

    gate: GatePolicy = GatePolicy()
    matching: MatchingPolicy = MatchingPolicy()
    contradiction: ContradictionPolicy = ContradictionPolicy()
    topics: TopicsPolicy = TopicsPolicy()
    summary: SummaryPolicy = SummaryPolicy()
    pii: PiiPolicy = PiiPolicy()
    prescreen: PrescreenPolicy = PrescreenPolicy()
    quality: QualityPolicy = QualityPolicy()
    safety: SafetyPolicy = SafetyPolicy()
    orgs: dict[str, OrgOverride] = Field(default_factory=dict)

    @classmethod
    def parse(cls, document: object) -> Self:
        """Read a decoded YAML or JSON document; None is the shipped policy.

        Raises PolicyError that names every refused path and why.
        """
        try:
            return cls.model_validate({} if document is None else document)
        except ValidationError as error:
            raise PolicyError("; ".join(_lines(error))) from None

    def for_org(self, org_id: str) -> Self:
        """The policy with the org's own gate and safety sections in place."""
        override = self.orgs.get(org_id)
        if override is None:
            return self
        own = {"gate": override.gate, "safety": override.safety}
        return self.model_copy(update={name: section for name, section in own.items() if section})

    def fingerprint(self, group: SectionGroup) -> str:
        """16 hex digits that change when, and only when, a section of the group or the code it steers does."""
        sections = {name: getattr(self, name) for name in _GROUPS[group]}
        match group:
            case "matching":
                return _fingerprint({**sections, "decision": _decision()})
            case "contradiction":
                return _fingerprint({**sections, "rules": self.rules_stamp})
            case _:
                return _fingerprint(sections)

    def stamps(self) -> dict[str, str]:
        """The fingerprints of all five groups."""
        return {group: self.fingerprint(group) for group in SECTION_GROUPS}

    @property
    def rules_stamp(self) -> str:
        """The stamp of an examined pair: by rules and reading, or by rules alone, whatever is made of the scores."""
        rules = f"rules-{CONFLICT_VERSION}"
        return f"{rules}+read-{READING_VERSION}" if self.contradiction.reads else rules

    @property
    def version(self) -> str:
        """16 hex digits over the whole document, gate and safety included."""
        return _fingerprint({name: getattr(self, name) for name in type(self).model_fields})

    def feature_stamp(self, model_stamp: str) -> str:
        """The stamp of item features: what shapes the signature, and the embedding model."""
        matching = self.matching
        shape = {
            "extractor": EXTRACTOR_VERSION,
            "model": model_stamp,
            "shingle_size": matching.shingle_size,
            "num_perm": matching.num_perm,
        }
        return _fingerprint(shape)

    def probe_stamp(self, model_stamp: str) -> str:
        """The stamp of blocking and comparison: features, banding, neighbour and comparison version."""
        matching = self.matching
        shape = {
            "features": self.feature_stamp(model_stamp),
            "comparison": COMPARISON_VERSION,
            "jaccard_min": matching.jaccard_min,
            "cosine_min": matching.cosine_min,
            "max_candidates": matching.max_candidates,
            "bucket_max": matching.bucket_max,
        }
        return _fingerprint(shape)


#: Raised by hand when the code that computes features, comparisons or decisions changes its output.
EXTRACTOR_VERSION = 2
COMPARISON_VERSION = 3
DECISION_VERSION = 4
CONFLICT_VERSION = 10

_GROUPS: dict[SectionGroup, tuple[str, ...]] = {
    "matching": ("matching",),
    "contradiction": ("contradiction",),
    "summary": ("summary", "topics"),
    "pii": ("pii",),
    "quality": ("quality", "prescreen"),
}


@cache
def _decision() -> str:
    """What decides a stored comparison beside the policy: the shipped model and the code around it."""
    model = files("hivemind_pipelines.core").joinpath("duplicate_model.json").read_bytes()
    return f"{DECISION_VERSION}:{hashlib.sha256(model).hexdigest()[:16]}"


def _fingerprint(values: Mapping[str, object]) -> str:
    plain = {key: _plain(value) for key, value in values.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return value


def _lines(error: ValidationError) -> list[str]:
    return [
        f"{'.'.join(str(part) for part in problem['loc']) or 'policy'}: {_reason(problem)}"
        for problem in error.errors(include_input=False, include_url=False, include_context=False)
    ]


def _reason(problem: ErrorDetails) -> str:
    if problem["type"] != "extra_forbidden":
        return problem["msg"]
    is_org = problem["loc"][0] == "orgs" and len(problem["loc"]) == 3
    return "unknown key" + ("; an org may override gate and safety alone" if is_org else "")
