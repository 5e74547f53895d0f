"""contradiction_cases: a case for each group of suspects and each pair of notes that cannot both hold."""

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
from hivemind_pipelines.core.judging import JUDGE_PROMPT_VERSION
from hivemind_pipelines.core.model import CaseId, StandingCase, SuspectSignal
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.core.receipts import CasesReceipt
from hivemind_pipelines.stages import judging, readings
from hivemind_pipelines.stages.context import Planned, StageContext
from hivemind_pipelines.stages.readings import Beside
from hivemind_pipelines.store import conflicts, items, ledger, signals
from hivemind_pipelines.store.conflicts import Examined, Judge, NearPair
from hivemind_pipelines.store.connection import try_lock

#: Pairs examined and stored at a time.
BATCH = 2_000

#: Findings from this score on are kept, so that another policy finds them without another look.
SCORE_FLOOR = 0.3

Plan = tuple[CaseChange, ...]


def run(ctx: StageContext) -> CasesReceipt:
    """Examine near pairs, then open a case for each conflict and remember lone suspects; nothing expires.

    What the rules and the model say of a pair is a cache, so a dry run examines too; it forecasts calls.
    """
    examined = _examine(ctx)
    judged = judging.run(ctx, judge_of(ctx.policy, ctx.services.llm_model))
    suspects, standing, plan = read_plan(ctx)
    receipt = _receipt(ctx, suspects, plan).model_copy(
        update={"examined": examined, "llm_calls": judged.calls, "note": judged.note}
    )
    if examined or judged.verdicts:
        receipt = receipt.model_copy(
            update={
                "outcome": "applied",
                "due": receipt.due + examined,
                "applied": receipt.applied + examined,
            }
        )
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
            "applied": applied.applied + examined,
            "dropped": applied.dropped,
            "opened": statuses.count("open"),
            "withdrawn": len(statuses) - statuses.count("open"),
        }
    )


def judge_of(policy: DistillationPolicy, llm_model: str) -> Judge:
    """By whose word pairs are in conflict."""
    section = policy.contradiction
    return Judge(
        rules=policy.rules_stamp,
        overlap_min=section.overlap_min,
        score_min=section.score_min,
        model=llm_model,
        judge_version=JUDGE_PROMPT_VERSION,
        judge_confidence_min=section.llm_confidence_min,
    )


def _examine(ctx: StageContext) -> int:
    """Let the rules look at every near pair that they have not seen; how many there were."""
    total = 0
    while waiting := _unexamined(ctx):
        examined = _examined(ctx, waiting)
        with ctx.store.begin() as conn:
            conflicts.store_examined(conn, ctx.org_id, examined, rules=ctx.policy.rules_stamp)
        total += len(examined)
    return total


def _unexamined(ctx: StageContext) -> tuple[NearPair, ...]:
    with ctx.store.read() as conn:
        return conflicts.read_unexamined(
            conn, ctx.org_id, rules=ctx.policy.rules_stamp, limit=BATCH,
            overlap_min=ctx.policy.contradiction.overlap_min,
        )  # fmt: skip


def _examined(ctx: StageContext, pairs: Sequence[NearPair]) -> list[Examined]:
    beside = [
        Beside(pair.a_text, pair.b_text, pair.a_scope, pair.b_scope, pair.cosine or None) for pair in pairs
    ]
    read = readings.read(beside, ctx.services.cross_encoder, ctx.policy.contradiction)
    return [
        Examined(
            pair,
            contradiction.case_id(ctx.org_id, (pair.a_id, pair.b_id)),
            both.judge(reading, SCORE_FLOOR),
        )
        for pair, both, reading in zip(pairs, beside, read, strict=True)
    ]


def read_plan(ctx: StageContext) -> tuple[Sequence[SuspectSignal], tuple[StandingCase, ...], Plan]:
    """The signals that count, the stored cases, and what turns the latter into what the policy groups."""
    with ctx.store.read() as conn:
        stored = signals.read_suspects(conn, ctx.org_id)
        standing = signals.read_cases(conn, ctx.org_id)
        suspects = [_placed(signal, ctx.planned) for signal in stored]
        ids, vectors = items.read_vectors(conn, ctx.org_id, sorted({signal.item_id for signal in suspects}))
        findings = conflicts.read_findings(conn, ctx.org_id, judge_of(ctx.policy, ctx.services.llm_model))
    stamp = ctx.policy.fingerprint("contradiction")
    grouped = contradiction.plan_cases(
        suspects,
        dict(zip(ids, vectors, strict=True)),
        org_id=ctx.org_id,
        as_of=ctx.as_of,
        policy=ctx.policy.contradiction,
        standing=standing,
        stamp=stamp,
    )
    live = [one for one in findings if ctx.planned.expired.isdisjoint((one.a_id, one.b_id))]
    paired = contradiction.plan_conflicts(live, standing, as_of=ctx.as_of, stamp=stamp)
    # Signals that group the very pair name its case too: they hold it, and their plan comes first.
    named = set(map(_case_of, grouped)) - {None}
    return suspects, standing, (*grouped, *(change for change in paired if _case_of(change) not in named))


def _case_of(change: CaseChange) -> CaseId | None:
    match change:
        case OpenCase() | ReopenCase():
            return change.case.case_id
        case KeepCase() | WithdrawCase():
            return change.case_id
        case StampSuspect():
            return None


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
