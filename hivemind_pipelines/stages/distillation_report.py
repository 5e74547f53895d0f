"""distillation_report: close the run, tell the server's readers, and draw what changed."""

from collections.abc import Mapping
from pathlib import Path

from hivemind_pipelines.core.model import Stage
from hivemind_pipelines.core.receipts import Receipt, ReportReceipt
from hivemind_pipelines.stages import reporting
from hivemind_pipelines.stages.context import StageContext
from hivemind_pipelines.store import items, runs, signals


def run(ctx: StageContext, receipts: Mapping[Stage, Receipt]) -> ReportReceipt:
    """Count what stands; a run that changed nothing writes its row and the key, and no report."""
    changes = sum(receipt.applied for receipt in receipts.values())
    path = _write(ctx, receipts) if changes and not ctx.dry_run else None
    with ctx.store.read() as conn:
        live, expired = items.count_items(conn, ctx.org_id)
        open_cases = signals.count_open_cases(conn, ctx.org_id)
    receipt = ReportReceipt(
        run_id=ctx.run_id,
        outcome="applied" if changes else "nothing_due",
        due=sum(one.due for one in receipts.values()),
        applied=changes,
        stamp=ctx.policy.version,
        live=live,
        expired=expired,
        open_cases=open_cases,
        changes=changes,
        report_path=str(path) if path else None,
    )
    if not ctx.dry_run:
        _close(ctx, receipts)
    return receipt


def _close(ctx: StageContext, receipts: Mapping[Stage, Receipt]) -> None:
    counts = {
        f"{stage.value}.{name}": count
        for stage, receipt in receipts.items()
        for name, count in receipt.counts().items()
        if count
    }
    finished_at = ctx.clock()
    with ctx.store.begin() as conn:
        runs.finish(conn, ctx.run_id, "finished", counts, finished_at)
        runs.write_last_run_key(conn, "distillation_last_run", finished_at)


def _write(ctx: StageContext, receipts: Mapping[Stage, Receipt]) -> Path | None:
    directory = ctx.services.reports_dir
    if directory is None:
        return None
    report = reporting.read_org_report(ctx.store, ctx.org_id, receipts, as_of=ctx.as_of)
    name = f"distillation-{ctx.as_of:%Y%m%dT%H%M%S}-{ctx.run_id.hex[:8]}.html"
    return reporting.write_report(directory / name, [report], title="Distillation report", as_of=ctx.as_of)
