"""prescreened_contributions: a preliminary score on every pending row, and a label on the poor ones."""

from collections.abc import Sequence

from hivemind_pipelines.core import quality
from hivemind_pipelines.core.changes import Flag
from hivemind_pipelines.core.model import PendingContribution
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.core.receipts import PrescreenReceipt
from hivemind_pipelines.stages.context import StageContext
from hivemind_pipelines.store import contributions, ledger
from hivemind_pipelines.store.connection import try_lock


def run(ctx: StageContext) -> PrescreenReceipt:
    """Score pending rows that no run has scored under this policy; all of them stay in the queue."""
    stamp = ctx.policy.fingerprint("quality")
    with ctx.store.read() as conn:
        pending = contributions.read_unscreened(conn, ctx.org_id, stamp=stamp)
    flags = plan(pending, ctx.policy)
    receipt = PrescreenReceipt(
        run_id=ctx.run_id,
        outcome="applied" if flags else "nothing_due",
        due=len(pending),
        applied=len(flags),
        stamp=stamp,
        screened=len(flags),
        flagged=sum(flag.is_low_quality for flag in flags),
    )
    if ctx.dry_run or not flags:
        return receipt
    with ctx.store.begin() as conn:
        if not try_lock(conn, ctx.org_id, "prescreened_contributions"):
            return receipt.model_copy(update={"outcome": "busy", "applied": 0, "screened": 0, "flagged": 0})
        applied = contributions.apply_flags(conn, ctx.org_id, flags, stamp=stamp)
        ledger.record(conn, ctx.org_id, ctx.run_id, applied.entries, stamp=stamp, at=ctx.as_of)
    changes = [entry.change for entry in applied.entries]
    return receipt.model_copy(
        update={
            "applied": applied.applied,
            "screened": applied.applied,
            "dropped": applied.dropped,
            "flagged": changes.count("flag"),
            "cleared": changes.count("unflag"),
        }
    )


def plan(pending: Sequence[PendingContribution], policy: DistillationPolicy) -> tuple[Flag, ...]:
    """The score and the label of each row."""
    scores = [quality.preliminary_score(row.confidence, policy.quality) for row in pending]
    return tuple(
        Flag(row.id, row.content_hash, score, score < policy.prescreen.low_quality_below)
        for row, score in zip(pending, scores, strict=True)
    )
