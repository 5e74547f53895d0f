"""duplicate_merges: expire duplicates in favour of a canonical, and bring back what nothing supports."""

from collections.abc import Sequence

from hivemind_pipelines.core import clustering, matching, review, safety
from hivemind_pipelines.core.changes import Merge, Refusal, Unmerge
from hivemind_pipelines.core.confirmation import CONFIRM_PROMPT_VERSION
from hivemind_pipelines.core.model import PairEdge
from hivemind_pipelines.core.policy import MatchingPolicy
from hivemind_pipelines.core.receipts import MergesReceipt
from hivemind_pipelines.core.review import PairVerdict
from hivemind_pipelines.stages import allowance
from hivemind_pipelines.stages.context import StageContext
from hivemind_pipelines.store import items, ledger, merges, pairs, refusals, reviews
from hivemind_pipelines.store.connection import try_lock
from hivemind_pipelines.store.items import Pool
from hivemind_pipelines.store.ledger import Entry
from hivemind_pipelines.store.pairs import StoredPair

Plan = tuple[Merge | Unmerge, ...]


def run(ctx: StageContext) -> MergesReceipt:
    """Read the pool and its pairs, plan the clusters, apply what differs from today."""
    pool, stored, verdicts, live, is_overruled = _read(ctx)
    unsettled = sum(not item.settled for item in pool.items)
    plan = clustering.plan_merges(
        pool.items, judged_edges(pool, stored, verdicts, ctx.policy.matching), ctx.policy.matching
    )
    refusal = safety.mass_change(plan, live, ctx.policy.safety)
    receipt = _receipt(ctx, plan, due=unsettled)
    if refusal is not None and not ctx.allow_mass_change:
        return _refused(ctx, receipt, refusal)
    if ctx.dry_run:
        remember(ctx, plan)
        return receipt
    return _apply(
        ctx, plan, pool, receipt, allowed=allowance.entries(ctx, refusal), is_overruled=is_overruled
    )


def _read(
    ctx: StageContext,
) -> tuple[Pool, tuple[StoredPair, ...], tuple[PairVerdict, ...], int, bool]:
    with ctx.store.read() as conn:
        stored = pairs.read_cluster_pairs(
            conn, ctx.org_id, model=ctx.services.llm_model, prompt_version=CONFIRM_PROMPT_VERSION
        )
        live, _ = items.count_items(conn, ctx.org_id)
        is_overruled = merges.has_taken_back(conn, ctx.org_id)
        verdicts = reviews.read_verdicts(conn, ctx.org_id)
        return (
            items.read_pool(conn, ctx.org_id, stamp=ctx.settled_stamp),
            stored,
            verdicts,
            live,
            is_overruled,
        )


def judged_edges(
    pool: Pool, stored: Sequence[StoredPair], verdicts: Sequence[PairVerdict], policy: MatchingPolicy
) -> tuple[PairEdge, ...]:
    """What clustering goes by: people's verdicts, then vetoes, then the model, the LLM last."""
    class_of = {item.id: item.class_key for item in pool.items}
    return review.overrule(edges(stored, policy), verdicts, class_of)


def edges(stored: Sequence[StoredPair], policy: MatchingPolicy) -> tuple[PairEdge, ...]:
    """Stored pairs with the decision that counts: vetoes before the model's, the LLM last."""
    return tuple(
        PairEdge(
            pair.a_id,
            pair.b_id,
            matching.effective_decision(pair.decided, pair.comparison, pair.llm, policy),
            pair.decided.probability,
            vetoed=bool(pair.comparison.vetoes),
        )
        for pair in stored
    )


def _receipt(ctx: StageContext, plan: Plan, *, due: int) -> MergesReceipt:
    merges = [change for change in plan if isinstance(change, Merge)]
    return MergesReceipt(
        run_id=ctx.run_id,
        outcome="applied" if plan else "nothing_due",
        due=due,
        applied=len(plan),
        stamp=ctx.policy.fingerprint("matching"),
        merged=sum(change.previous_canonical_id is None for change in merges),
        repointed=sum(change.previous_canonical_id is not None for change in merges),
        unmerged=len(plan) - len(merges),
        clusters=len({change.canonical_id for change in merges}),
    )


def _refused(ctx: StageContext, receipt: MergesReceipt, refusal: Refusal) -> MergesReceipt:
    if not ctx.dry_run:
        with ctx.store.begin() as conn:
            refusals.remember_refusal(
                conn, ctx.org_id, refusal, stamp=ctx.settled_stamp, run_id=ctx.run_id, at=ctx.as_of
            )
    nothing = {"applied": 0, "merged": 0, "repointed": 0, "unmerged": 0, "clusters": 0}
    return receipt.model_copy(update={**nothing, "outcome": "refused", "note": str(refusal)})


def remember(ctx: StageContext, plan: Plan) -> None:
    """Tell the later stages of a dry run what is expired, by whom, and what comes back."""
    for change in plan:
        match change:
            case Merge():
                ctx.planned.expired.add(change.duplicate_id)
                ctx.planned.canonical_of[change.duplicate_id] = change.canonical_id
            case Unmerge():
                ctx.planned.revived.add(change.duplicate_id)


def _apply(
    ctx: StageContext,
    plan: Plan,
    pool: Pool,
    receipt: MergesReceipt,
    *,
    allowed: tuple[Entry, ...],
    is_overruled: bool,
) -> MergesReceipt:
    stamp = receipt.stamp
    unsettled = {
        item.id: pool.row_versions[item.id]
        for item in pool.items
        if not item.settled and item.id in pool.row_versions
    }
    if not plan and not unsettled and not is_overruled:
        return receipt
    with ctx.store.begin() as conn:
        if not try_lock(conn, ctx.org_id, "duplicate_merges"):
            return receipt.model_copy(update={"outcome": "busy", "applied": 0})
        merges.lock_parties(conn, ctx.org_id, plan)
        # Before the rest, which touches some of these rows and would pass for another transaction's work.
        items.stamp_features(conn, ctx.org_id, unsettled, column="settled_stamp", stamp=ctx.settled_stamp)
        overruled = merges.forget_taken_back(conn, ctx.org_id)
        applied = merges.apply_merges(conn, ctx.org_id, plan, run_id=ctx.run_id, stamp=stamp, as_of=ctx.as_of)
        entries = (*overruled, *applied.entries)
        ledger.record(conn, ctx.org_id, ctx.run_id, (*allowed, *entries), stamp=stamp, at=ctx.as_of)
        refusals.forget_refusal(conn, ctx.org_id)
        merges.sync_provenance_links(conn, ctx.org_id, entries)
        # What had to be dropped met a row that changed meanwhile: its component stays due.
        dropped = {change.duplicate_id for change in plan} - {entry.subject_id for entry in applied.entries}
        pairs.unsettle(conn, ctx.org_id, dropped)
    changes = [entry.change for entry in entries]
    return receipt.model_copy(
        update={
            "outcome": "applied" if plan or overruled else receipt.outcome,
            "applied": applied.applied + len(overruled),
            "dropped": applied.dropped,
            "merged": changes.count("merge"),
            "repointed": changes.count("repoint"),
            "unmerged": changes.count("unmerge"),
        }
    )
