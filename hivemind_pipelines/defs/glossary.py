"""What the UI says about receipts: every metadata key with its meaning, and receipts as metadata."""

from collections.abc import Iterable, Mapping

from dagster import (
    MetadataValue,
    TableColumn,
    TableColumnConstraints,
    TableMetadataValue,
    TableRecord,
    TableSchema,
)

from hivemind_pipelines.core.model import Stage
from hivemind_pipelines.core.receipts import Receipt
from hivemind_pipelines.store.reporting import Count

Metadata = dict[str, MetadataValue]

OUTCOMES: dict[str, str] = {
    "applied": "the plan was applied",
    "nothing_due": "nothing had changed, nothing was done",
    "busy": "another run held the org's lock; the work stays due",
    "refused": "the mass-change breaker stopped the plan; `note` has the numbers",
}

KEYS: dict[str, str] = {
    "run_id": "the org's run in `distillation.runs`; the ledger names it with every effect",
    "outcome": "; ".join(f"`{name}`: {meaning}" for name, meaning in OUTCOMES.items()),
    "due": "rows found whose stamp is not the current one",
    "applied": "changes that took effect",
    "dropped": "changes given up because the row had changed meanwhile; they stay due",
    "applied_share": "applied / (applied + dropped)",
    "stamp": "fingerprint of the policy sections under which the rows are now current",
    "pii_stamp": "fingerprint of the scanner that the standing summaries have passed",
    "note": "why a plan was refused or skipped, in numbers and reason codes",
    "seconds": "wall-clock time of the stage",
    "upstream": "outcome of the asset before, in the same run or the last one that touched the org",
    "items": "originals whose features were computed",
    "embedded": "originals embedded for the first time",
    "published": "rows newly visible to readers (embeddings, or summaries)",
    "without_vector": "originals without a usable embedding; they are matched by text alone",
    "probed": "originals that looked for candidates",
    "compared": "pairs compared",
    "redecided": "stored comparisons decided again under a new policy, without reading a text",
    "duplicate": "pairs decided to be the same statement",
    "possible": "pairs left to the LLM or a reviewer",
    "distinct": "pairs decided to be different statements",
    "vetoed": "pairs kept apart by a veto: another number, version, flag, negation or code token",
    "llm_calls": "calls to the language model",
    "llm_confirmed": "possible pairs that the language model confirmed",
    "merged": "items expired in favour of a canonical",
    "repointed": "expired duplicates that now follow another canonical",
    "unmerged": "items brought back because nothing supports their merge any more",
    "clusters": "clusters of duplicates in the part of the org that was looked at",
    "opened": "contradiction cases opened",
    "kept": "open cases that the policy groups as an older one did",
    "withdrawn": "open cases taken back because the policy no longer groups their items",
    "suspects": "contradiction signals remembered that have no counterpart yet",
    "signals": "contradiction signals read",
    "examined": "near pairs that the rules looked at for a conflict",
    "conflicts": "pairs whose claims the rules find in conflict, old and new",
    "placed": "topic clusters that came",
    "dissolved": "topic clusters that went",
    "suspicious": "originals that read like instructions to a model; no summary rests on them",
    "standing": "topic clusters of the org as it stands",
    "revived": "expired summaries whose sources are current again; no call was made",
    "retired": "summaries expired because their sources changed, went or became too few",
    "rejected": "drafts stopped by the form, grounding or PII gate",
    "rejected_for": "the reason codes of the gates, each with the topics it rejected",
    "redacted": "what the PII gate replaced by placeholders in published texts: counts by type",
    "withheld": "sentences of sources that ask or order instead of telling, kept from the writer",
    "specifics": "code, numbers, versions, flags, paths, names and URLs in the sources of published summaries",
    "specifics_kept": "those that the summaries keep",
    "specifics_lost": "those that they lose, by kind",
    "skipped": "topics left due: no key, no budget, a failed call or another run's claim",
    "skipped_for": "why topics were left due: reason codes with their topics",
    "input_tokens": "tokens sent to the language model",
    "output_tokens": "tokens received from the language model",
    "forecast_calls": "calls that writing every missing summary takes, counted before the first",
    "forecast_usd": "what those calls cost at most, in US dollars",
    "screened": "pending contributions scored and labelled",
    "flagged": "pending contributions newly marked as low quality",
    "cleared": "marks of low quality removed",
    "relabelled": "pending contributions of which a reviewer now sees other labels",
    "unscanned": "pending contributions that could not be scanned; they say so",
    "labels": "labels of the contributions screened, by name: near_duplicate (of a live item), "
    "near_duplicate_pending, contradiction, secret, pii, scan_failed, injection, gibberish, empty, "
    "too_short, spam; they hide and block nothing",
    "live": "items that are neither expired nor deleted",
    "expired": "items superseded; none is ever deleted",
    "open_cases": "contradiction cases that wait for a reviewer",
    "changes": "effects of the whole run, each with its ledger row",
    "report_path": "the report with its plots, when something changed",
    "scored": "live items whose inputs, policy or day changed, over all orgs",
    "changed": "scores that moved by at least `quality.min_change`",
    "changed_share": "changed / scored",
    "largest": "the largest moves; shown as `largest_moves`: org, item, score before and after",
    "deleted": "items found with `deleted_at` set",
    "gone": "items found hard-deleted by the server",
    "restored": "items whose deletion was taken back",
    "summaries_retired": "summaries expired because a source is gone",
    "followers_revived": "duplicates brought back because their canonical is gone",
    "finished": "erasures whose process had died: searched for what is left, and their receipt written",
    "residue": "places in which those erasures found something left; the receipts name them",
    "scanned": "originals that no scan under this stamp had seen",
    "unscannable": "originals that could not be scanned; they stay due",
    "with_findings": "live originals in which the gate finds something",
    "by_type": "findings in all live originals of the org: counts by type",
    "found_in": "the first items that hold any, by id, with counts by type; all are in `distillation.pii_scans`",
    "stages": "counts of every stage of the run",
    "cases_by_age": "open contradiction cases by how long they wait",
    "queue_by_label": "pending contributions by label; one with several counts under each",
}


def described(text: str, receipt_type: type[Receipt]) -> str:
    """An asset description that ends with the meaning of its metadata keys."""
    return f"{text}\n\n**Metadata of a materialisation**\n\n{_table(metadata_keys(receipt_type))}"


def metadata_keys(receipt_type: type[Receipt]) -> list[str]:
    """The metadata keys that `receipt_metadata` may give for this receipt."""
    return [*receipt_type.model_fields, *_ratios(receipt_type(), always=True)]


def receipt_metadata(receipt: Receipt) -> Metadata:
    """A receipt as Dagster metadata: counts, ratios, run id and seconds."""
    texts = {
        name: str(value)
        for name in ("run_id", "outcome", "stamp", "pii_stamp", "note", "report_path")
        if (value := getattr(receipt, name, None))
    }
    metadata: Metadata = {name: MetadataValue.text(value) for name, value in texts.items()}
    metadata |= {name: MetadataValue.int(count) for name, count in receipt.counts().items()}
    metadata |= {name: MetadataValue.json(value) for name, value in receipt if isinstance(value, dict)}
    metadata |= {name: MetadataValue.float(share) for name, share in _ratios(receipt).items()}
    metadata |= {
        name: MetadataValue.float(round(value, 4))
        for name, value in receipt
        if isinstance(value, float) and name != "seconds"
    }
    metadata["seconds"] = MetadataValue.float(round(receipt.seconds, 3))
    return metadata


def stages_table(receipts: Mapping[Stage, Receipt]) -> TableMetadataValue:
    """Outcome and counts of every stage of a run, a row each."""
    columns = ("stage", "outcome", "due", "applied", "dropped", "seconds")
    records = [
        TableRecord({"stage": str(name), **{column: getattr(receipt, column) for column in columns[1:]}})
        for name, receipt in receipts.items()
    ]
    return MetadataValue.table(records, TableSchema([TableColumn(name) for name in columns]))


def counts_table(counted: Iterable[Count]) -> TableMetadataValue:
    """Counts under their names, a row each."""
    records = [TableRecord({"name": one.name, "count": one.count}) for one in counted]
    return MetadataValue.table(records, TableSchema([TableColumn("name"), TableColumn("count", "int")]))


def table_schema(columns: Iterable[tuple[str, str, str]]) -> dict[str, object]:
    """Asset metadata that describes a table: (column, type, meaning); a `*` after the name marks its key."""
    schema = TableSchema([_column(*column) for column in columns])
    return {"dagster/column_schema": schema}


def _column(name: str, type_: str, meaning: str) -> TableColumn:
    is_key = name.endswith("*")
    constraints = TableColumnConstraints(nullable=not is_key, other=["primary key"] if is_key else [])
    return TableColumn(name.removesuffix("*"), type_, meaning, constraints)


def _ratios(receipt: Receipt, *, always: bool = False) -> dict[str, float]:
    attempted = receipt.applied + receipt.dropped
    ratios = {"applied_share": (receipt.applied, attempted)}
    if hasattr(receipt, "changed") and hasattr(receipt, "scored"):
        ratios["changed_share"] = (receipt.changed, receipt.scored)
    return {name: part / whole if whole else 1.0 for name, (part, whole) in ratios.items() if whole or always}


def _table(keys: Iterable[str]) -> str:
    rows = "\n".join(f"| `{key}` | {KEYS.get(key, '')} |" for key in keys)
    return f"| key | meaning |\n|---|---|\n{rows}"
