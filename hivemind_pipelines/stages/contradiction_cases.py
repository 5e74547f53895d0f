"""contradiction_cases: group contradiction signals that belong together, each group one case."""

from hivemind_pipelines.core import contradiction
from hivemind_pipelines.core.changes import OpenCase
from hivemind_pipelines.core.receipts import CasesReceipt
from hivemind_pipelines.stages.context import StageContext
from hivemind_pipelines.store import items, ledger, signals
from hivemind_pipelines.store.connection import try_lock


def run(ctx: StageContext) -> CasesReceipt:
    """Open a case for each group of similar suspects and remember the lone ones; nothing expires."""
    with ctx.store.read() as conn:
        suspects = signals.read_suspects(conn, ctx.org_id)
        known = signals.read_case_ids(conn, ctx.org_id)
        ids, vectors = items.read_vectors(conn, ctx.org_id, sorted({signal.item_id for signal in suspects}))
    plan = contradiction.plan_cases(
        [signal for signal in suspects if signal.item_id not in ctx.planned.expired],
        dict(zip(ids, vectors, strict=True)),
        org_id=ctx.org_id,
        as_of=ctx.as_of,
        policy=ctx.policy.contradiction,
        known_cases=known,
    )
    opened = [change for change in plan if isinstance(change, OpenCase)]
    receipt = CasesReceipt(
        run_id=ctx.run_id,
        outcome="applied" if plan else "nothing_due",
        due=sum(not signal.is_stamped for signal in suspects),
        applied=len(plan),
        stamp=ctx.policy.fingerprint("contradiction"),
        opened=len(opened),
        suspects=len(plan) - len(opened),
        signals=len(suspects),
    )
    if ctx.dry_run:
        ctx.planned.in_case.update(item_id for change in opened for item_id in change.case.item_ids)
        return receipt
    if not plan:
        return receipt
    with ctx.store.begin() as conn:
        if not try_lock(conn, ctx.org_id, "contradiction_cases"):
            return receipt.model_copy(update={"outcome": "busy", "applied": 0, "opened": 0, "suspects": 0})
        applied = signals.apply_cases(conn, ctx.org_id, plan, run_id=ctx.run_id, stamp=receipt.stamp)
        ledger.record(conn, ctx.org_id, ctx.run_id, applied.entries, stamp=receipt.stamp, at=ctx.as_of)
    return receipt.model_copy(
        update={"applied": applied.applied, "dropped": applied.dropped, "opened": len(applied.entries)}
    )
