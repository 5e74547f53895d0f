"""cluster_summaries: short grounded texts over topics, each through form, grounding and PII gates."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from hivemind_pipelines.core import safety
from hivemind_pipelines.core.changes import Refusal, Retire, Revive
from hivemind_pipelines.core.grounding import Coverage
from hivemind_pipelines.core.model import ItemId, TopicCluster
from hivemind_pipelines.core.planning import LlmForecast
from hivemind_pipelines.core.receipts import SummariesReceipt
from hivemind_pipelines.core.upkeep import PII_FOUND, Upkeep, Writing, plan_upkeep
from hivemind_pipelines.services.pii import Redacted, ScanFailed
from hivemind_pipelines.stages import allowance, claims, summary_writing
from hivemind_pipelines.stages.claims import Claim
from hivemind_pipelines.stages.context import StageContext
from hivemind_pipelines.stages.forecasting import writing_forecast
from hivemind_pipelines.stages.spending import Purse, open_purse, read_budget
from hivemind_pipelines.stages.summary_writing import Written
from hivemind_pipelines.store import derivations, items, jobs, ledger, topics
from hivemind_pipelines.store.connection import try_lock
from hivemind_pipelines.store.ledger import Entry


def run(ctx: StageContext) -> SummariesReceipt:
    """Retire, revive and scan what stands, then write what is missing, one topic at a time.

    A topic that cannot be summarised now is counted with its reason, stays due and stops no other.
    """
    if not ctx.dry_run:
        with ctx.store.begin() as conn:
            jobs.release_expired(conn, ctx.org_id, now=ctx.clock())
    upkeep, writable = _read(ctx)
    held_back = len(upkeep.write) - len(writable)
    forecast = writing_forecast(ctx, writable, read_budget(ctx)) if writable else LlmForecast()
    reason = "waiting" if _can_write(ctx) else "no_key"
    receipt = SummariesReceipt(
        run_id=ctx.run_id,
        outcome="applied" if upkeep else "nothing_due",
        due=len(upkeep.retire) + len(upkeep.revive) + len(upkeep.rescan) + len(upkeep.write),
        stamp=ctx.policy.fingerprint("summary"),
        pii_stamp=ctx.services.scanner.stamp,
        retired=len(upkeep.retire),
        revived=len(upkeep.revive),
        skipped=held_back,
        skipped_for={reason: held_back} if held_back else {},
        forecast_calls=forecast.calls,
        forecast_usd=forecast.usd,
        note=f"{reason}: {held_back}" if held_back else "",
    )
    if not upkeep:
        return receipt
    if ctx.dry_run:
        return _forecast(receipt, writable)
    refusal = read_refusal(ctx, upkeep)
    if refusal is not None and not ctx.allow_mass_change:
        return receipt.model_copy(
            update={"outcome": "refused", "retired": 0, "revived": 0, "note": str(refusal)}
        )
    maintained = _maintain(ctx, upkeep, allowed=allowance.entries(ctx, refusal))
    if maintained is None:
        return receipt.model_copy(update={"outcome": "busy", "retired": 0, "revived": 0})
    if maintained["dirty"]:
        # Their topics have lost their summary: they are written again under the scanner that found it.
        _, writable = _read(ctx)
    purse = open_purse(ctx)
    outcomes = list(_write_all(ctx, writable, purse))
    return _counted(receipt, maintained, outcomes, purse)


def _read(ctx: StageContext) -> tuple[Upkeep, tuple[Writing, ...]]:
    """The whole upkeep, and of its writing what no other run holds and no backoff delays."""
    with ctx.store.read() as conn:
        standing: Sequence[TopicCluster] = topics.read_topics(conn, ctx.org_id)
        summaries = derivations.read_summaries(conn, ctx.org_id)
        known = derivations.read_known_fingerprints(conn, ctx.org_id)
        blocked = jobs.read_blocked(conn, ctx.org_id, now=ctx.clock())
    if ctx.planned.topics is not None:
        standing = list(ctx.planned.topics.values())
    scanner = ctx.services.scanner.stamp
    upkeep = plan_upkeep(standing, summaries, known=known, pii_stamp=scanner)
    if rescan_fingerprint(scanner) in blocked:
        upkeep = replace(upkeep, rescan=())
    if not _can_write(ctx):
        return upkeep, ()
    return upkeep, tuple(one for one in upkeep.write if one.cluster.fingerprint not in blocked)


def rescan_fingerprint(scanner_stamp: str) -> str:
    """The name of the job that scans standing summaries again under a scanner."""
    return jobs.job_fingerprint("rescan", scanner_stamp)


def _can_write(ctx: StageContext) -> bool:
    return ctx.policy.summary.method == "extractive" or ctx.services.llm is not None


def read_refusal(ctx: StageContext, upkeep: Upkeep) -> Refusal | None:
    """A plan that retires too much at once; what erasure or changed texts demand is never held back."""
    with ctx.store.read() as conn:
        live, _ = items.count_items(conn, ctx.org_id)
    chosen = [change for change in upkeep.retire if change.reason in ("topic_dissolved", "too_few_sources")]
    return safety.mass_change(chosen, live, ctx.policy.safety)


def _forecast(receipt: SummariesReceipt, writable: Sequence[Writing]) -> SummariesReceipt:
    calls = receipt.forecast_calls
    return receipt.model_copy(
        update={
            "published": len(writable),
            "applied": receipt.retired + receipt.revived + len(writable),
            "llm_calls": calls,
            "note": f"forecast: {calls} calls" if calls else "",
        }
    )


def _maintain(ctx: StageContext, upkeep: Upkeep, *, allowed: tuple[Entry, ...]) -> Counter[str] | None:
    """Retire and revive in one transaction, after a scan of what an older scanner let through."""
    dirty, clean, unscanned = _rescan(ctx, upkeep.rescan)
    unfit = {*dirty, *unscanned}
    revive = [Revive(one.summary_id, one.fingerprint) for one in upkeep.revive if one.summary_id not in unfit]
    retire = [*upkeep.retire, *(Retire(item_id, PII_FOUND) for item_id in dirty)]
    stamp = ctx.policy.fingerprint("summary")
    with ctx.store.begin() as conn:
        if not try_lock(conn, ctx.org_id, "cluster_summaries"):
            return None
        entries = (
            *derivations.retire(conn, ctx.org_id, retire, as_of=ctx.as_of),
            *derivations.revive(conn, ctx.org_id, revive),
        )
        derivations.restamp_pii(conn, ctx.org_id, clean, stamp=ctx.services.scanner.stamp)
        ledger.record(conn, ctx.org_id, ctx.run_id, (*allowed, *entries), stamp=stamp, at=ctx.as_of)
    counts = Counter(entry.change for entry in entries)
    return Counter(
        retired=counts["retire"],
        revived=counts["revive"],
        scan_failed=len(unscanned),
        scanned=len(clean),
        dirty=len(dirty),
    )


def _rescan(ctx: StageContext, ids: Sequence[ItemId]) -> tuple[list[ItemId], list[ItemId], list[ItemId]]:
    """Summaries in which the current scanner finds something, finds nothing, and could not tell."""
    claim = claims.take(ctx, rescan_fingerprint(ctx.services.scanner.stamp)) if ids else None
    if claim is None:
        return [], [], list(ids)
    with ctx.store.read() as conn:
        texts = derivations.read_texts(conn, ctx.org_id, ids)
    dirty, clean, unscanned = [], [], []
    for item_id, outcome in zip(texts, ctx.services.scanner.redact(list(texts.values())), strict=True):
        if isinstance(outcome, ScanFailed):
            unscanned.append(item_id)
        elif isinstance(outcome, Redacted) and outcome.text == texts[item_id]:
            clean.append(item_id)
        else:
            dirty.append(item_id)
    _close(ctx, claim, is_done=not unscanned)
    return dirty, clean, unscanned


def _close(ctx: StageContext, claim: Claim, *, is_done: bool) -> None:
    if not is_done:
        claim.release("scan_failed")
        return
    with ctx.store.begin() as conn:
        jobs.finish_job(conn, ctx.org_id, claim.fingerprint)


def _write_all(ctx: StageContext, writable: Sequence[Writing], purse: Purse) -> Iterator[Written]:
    """Extractive writing is bound by the processor, so one by one; calls wait, so several at once."""
    threads = ctx.policy.safety.llm_concurrency if ctx.policy.summary.method == "llm" else 1
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(lambda one: summary_writing.write(ctx, one, purse), writable)
        for done, written in enumerate(results, start=1):
            ctx.progress("cluster_summaries", done, len(writable))
            yield written


def _counted(
    receipt: SummariesReceipt, maintained: Counter[str], outcomes: Sequence[Written], purse: Purse
) -> SummariesReceipt:
    results = Counter(written.result for written in outcomes)
    rejected_for, skipped_for = (
        Counter(written.reason for written in outcomes if written.result == result)
        for result in ("rejected", "skipped")
    )
    reasons = rejected_for + skipped_for + Counter(scan_failed=maintained["scan_failed"])
    redacted: Counter[str] = sum((Counter(dict(written.redacted)) for written in outcomes), Counter())
    applied = results["published"] + maintained["retired"] + maintained["revived"] + maintained["scanned"]
    retired = maintained["retired"] + sum(written.replaced for written in outcomes)
    return receipt.model_copy(
        update={
            "outcome": "applied" if applied else "nothing_due",
            "applied": applied,
            "published": results["published"],
            "retired": retired,
            "revived": maintained["revived"],
            "rejected": results["rejected"],
            "skipped": receipt.skipped + results["skipped"],
            "rejected_for": dict(sorted(rejected_for.items())),
            "skipped_for": dict(sorted((Counter(receipt.skipped_for) + skipped_for).items())),
            "llm_calls": purse.calls,
            "input_tokens": purse.input_tokens,
            "output_tokens": purse.output_tokens,
            "note": ", ".join(filter(None, (receipt.note, _note(reasons)))),
            "redacted": dict(redacted),
            "withheld": sum(written.withheld for written in outcomes),
            **_coverage([written.coverage for written in outcomes if written.coverage is not None]),
        }
    )


def _coverage(published: Sequence[Coverage]) -> dict[str, object]:
    lost: Counter[str] = Counter()
    for one in published:
        lost.update(one.lost)
    return {
        "specifics": sum(one.specifics_total for one in published),
        "specifics_kept": sum(one.specifics_kept for one in published),
        "specifics_lost": dict(sorted(lost.items())),
    }


def _note(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in sorted(reasons.items()) if count)
