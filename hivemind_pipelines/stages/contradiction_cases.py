"""contradiction_cases: group contradiction signals that belong together, each group one case."""

from collections.abc import Sequence
from dataclasses import replace

from hivemind_pipelines.core import contradiction
from hivemind_pipelines.core.changes import (
    CaseChange,
    KeepCase,
    OpenCase,
    ReopenCase,
    StampSuspect,
    WithdrawCase,
)
from hivemind_pipelines.core.model import StandingCase, SuspectSignal
from hivemind_pipelines.core.receipts import CasesReceipt
from hivemind_pipelines.stages.context import Planned, StageContext
from hivemind_pipelines.store import items, ledger, signals
from hivemind_pipelines.store.connection import try_lock

Plan = tuple[CaseChange, ...]


def run(ctx: StageContext) -> CasesReceipt:
    """Open a case for each group of similar suspects and remember the lone ones; nothing expires."""
    suspects, standing, plan = read_plan(ctx)
    receipt = _receipt(ctx, suspects, plan)
    if ctx.dry_run:
        remember(ctx, standing, plan)
        return receipt
    if not plan:
        return receipt
    with ctx.store.begin() as conn:
        if not try_lock(conn, ctx.org_id, "contradiction_cases"):
            nothing = {"applied": 0, "opened": 0, "kept": 0, "withdrawn": 0, "suspects": 0}
            return receipt.model_copy(update={"outcome": "busy", **nothing})
        applied = signals.apply_cases(
            conn, ctx.org_id, plan, run_id=ctx.run_id, stamp=receipt.stamp, as_of=ctx.as_of
        )
        ledger.record(conn, ctx.org_id, ctx.run_id, applied.entries, stamp=receipt.stamp, at=ctx.as_of)
    statuses = [entry.after["status"] for entry in applied.entries]
    return receipt.model_copy(
        update={
            "applied": applied.applied,
            "dropped": applied.dropped,
            "opened": statuses.count("open"),
            "withdrawn": len(statuses) - statuses.count("open"),
        }
    )


def read_plan(ctx: StageContext) -> tuple[Sequence[SuspectSignal], tuple[StandingCase, ...], Plan]:
    """The signals that count, the stored cases, and what turns the latter into what the policy groups."""
    with ctx.store.read() as conn:
        stored = signals.read_suspects(conn, ctx.org_id)
        standing = signals.read_cases(conn, ctx.org_id)
        suspects = [_placed(signal, ctx.planned) for signal in stored]
        ids, vectors = items.read_vectors(conn, ctx.org_id, sorted({signal.item_id for signal in suspects}))
    plan = contradiction.plan_cases(
        suspects,
        dict(zip(ids, vectors, strict=True)),
        org_id=ctx.org_id,
        as_of=ctx.as_of,
        policy=ctx.policy.contradiction,
        standing=standing,
        stamp=ctx.policy.fingerprint("contradiction"),
    )
    return suspects, standing, plan


def _placed(signal: SuspectSignal, planned: Planned) -> SuspectSignal:
    """The signal with the item it counts for after what a dry run planned."""
    origin_id = signal.origin_id or signal.item_id
    item_id = origin_id if origin_id in planned.revived else signal.item_id
    return replace(signal, item_id=planned.canonical_of.get(origin_id, item_id))


def remember(ctx: StageContext, standing: Sequence[StandingCase], plan: Plan) -> None:
    """Tell the later stages of a dry run which items enter a case and which leave one."""
    items_of = {case.case_id: case.item_ids for case in standing}
    for change in plan:
        match change:
            case OpenCase() | ReopenCase():
                ctx.planned.in_case.update(change.case.item_ids)
            case WithdrawCase():
                ctx.planned.out_of_case.update(items_of[change.case_id])
            case KeepCase() | StampSuspect():
                pass


def _receipt(ctx: StageContext, suspects: Sequence[SuspectSignal], plan: Plan) -> CasesReceipt:
    opened = sum(isinstance(change, OpenCase | ReopenCase) for change in plan)
    kept = sum(isinstance(change, KeepCase) for change in plan)
    withdrawn = sum(isinstance(change, WithdrawCase) for change in plan)
    return CasesReceipt(
        run_id=ctx.run_id,
        outcome="applied" if plan else "nothing_due",
        due=sum(not signal.is_stamped for signal in suspects) + kept + withdrawn,
        applied=len(plan),
        stamp=ctx.policy.fingerprint("contradiction"),
        opened=opened,
        kept=kept,
        withdrawn=withdrawn,
        suspects=len(plan) - opened - kept - withdrawn,
        signals=len(suspects),
    )
