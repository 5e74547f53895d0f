"""Receipts: what a stage did for one org, as the frozen value that Dagster passes to the next asset."""

from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

Outcome = Literal["applied", "nothing_due", "busy", "refused"]


class Receipt(BaseModel):
    """Counts of one stage of one run; never text.

    `due` rows were found, `applied` changes took effect, `dropped` ones met a row that had changed
    meanwhile. `busy`: another run held the org's lock, the work stays due. `refused`: the mass-change
    breaker stopped the plan, `note` has the numbers.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    run_id: UUID | None = None
    outcome: Outcome = "nothing_due"
    due: int = 0
    applied: int = 0
    dropped: int = 0
    stamp: str = ""
    note: str = ""
    seconds: float = 0.0

    def counts(self) -> dict[str, int]:
        """Every integer field by name, for tables and metadata."""
        return {name: value for name, value in self if type(value) is int}


class FeaturesReceipt(Receipt):
    """item_features: items whose features were computed, and those embedded for the first time."""

    items: int = 0
    embedded: int = 0
    published: int = 0
    without_vector: int = 0


class PairsReceipt(Receipt):
    """duplicate_pairs: pairs compared and how they were decided."""

    probed: int = 0
    compared: int = 0
    redecided: int = 0
    duplicate: int = 0
    possible: int = 0
    distinct: int = 0
    vetoed: int = 0
    llm_calls: int = 0
    llm_confirmed: int = 0


class MergesReceipt(Receipt):
    """duplicate_merges: items expired, re-pointed and brought back."""

    merged: int = 0
    repointed: int = 0
    unmerged: int = 0
    clusters: int = 0


class CasesReceipt(Receipt):
    """contradiction_cases: cases opened or kept, withdrawn by another policy, lone suspects remembered.

    `examined` pairs were looked at by the rules, `conflicts` of all stand as findings.
    """

    opened: int = 0
    kept: int = 0
    withdrawn: int = 0
    suspects: int = 0
    signals: int = 0
    examined: int = 0
    conflicts: int = 0
    llm_calls: int = 0


class TopicsReceipt(Receipt):
    """topic_clusters: topics that came and went, those that stand, and originals left out as suspicious."""

    placed: int = 0
    dissolved: int = 0
    standing: int = 0
    suspicious: int = 0


class SummariesReceipt(Receipt):
    """cluster_summaries: what was published, revived, retired, rejected by a gate or skipped.

    `pii_stamp` is the scanner's: what stands has passed it.
    """

    pii_stamp: str = ""
    published: int = 0
    revived: int = 0
    retired: int = 0
    rejected: int = 0
    skipped: int = 0
    #: How many topics each reason code rejected, and skipped.
    rejected_for: dict[str, int] = {}
    skipped_for: dict[str, int] = {}
    llm_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    #: Before the first call: one a topic, and what they cost at most.
    forecast_calls: int = 0
    forecast_usd: float = 0.0
    #: What the PII gate replaced by placeholders in published texts, by type.
    redacted: dict[str, int] = {}
    #: Sentences of sources that ask or order, kept from the writer.
    withheld: int = 0
    #: Specifics of the sources of published summaries (codes, numbers, flags ...), those kept, and the lost by kind.
    specifics: int = 0
    specifics_kept: int = 0
    specifics_lost: dict[str, int] = {}


class PrescreenReceipt(Receipt):
    """prescreened_contributions: pending rows read, compared and labelled, and those of low quality."""

    screened: int = 0
    flagged: int = 0
    cleared: int = 0
    embedded: int = 0
    compared: int = 0
    relabelled: int = 0
    unscanned: int = 0
    #: Labels that were set or stand on the rows screened, by name.
    labels: dict[str, int] = {}


class ReportReceipt(Receipt):
    """distillation_report: the run as a whole."""

    live: int = 0
    expired: int = 0
    open_cases: int = 0
    changes: int = 0
    report_path: str | None = None


class ScoreMove(BaseModel):
    """A score that was written over another one."""

    model_config = ConfigDict(frozen=True)

    org_id: str
    item_id: UUID
    before: float
    after: float


class QualityReceipt(Receipt):
    """quality_scores: live items that were due and scores that moved, over all orgs."""

    scored: int = 0
    changed: int = 0
    #: The largest moves, the largest first.
    largest: tuple[ScoreMove, ...] = ()


class RetroScanReceipt(Receipt):
    """pii_retro_scan: live originals scanned in this run, and what is known of all of them."""

    scanned: int = 0
    unscannable: int = 0
    with_findings: int = 0
    #: Findings in all live originals of the org by type.
    by_type: dict[str, int] = {}
    #: The first items that hold any, by id, with their counts by type.
    found_in: dict[str, dict[str, int]] = {}


class ErasureReceipt(Receipt):
    """erasure_propagation: items found deleted or gone, and what was undone because of them.

    `finished` erasures had lost their process; `residue` counts the places in which they found something left.
    """

    deleted: int = 0
    gone: int = 0
    restored: int = 0
    summaries_retired: int = 0
    followers_revived: int = 0
    finished: int = 0
    residue: int = 0
