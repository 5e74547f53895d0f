"""prescreened_contributions: what a reviewer should know of each pending row, and what a look is worth."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hivemind_pipelines.core import features, prescreen
from hivemind_pipelines.core.changes import Flag
from hivemind_pipelines.core.erasure import Sameness, erased_as
from hivemind_pipelines.core.model import PendingId
from hivemind_pipelines.core.prescreen import Screening
from hivemind_pipelines.core.receipts import PrescreenReceipt
from hivemind_pipelines.services.pii import SECRET_TYPES, ScanFailed
from hivemind_pipelines.stages import queue_matching
from hivemind_pipelines.stages.context import StageContext
from hivemind_pipelines.stages.queue_matching import Matched
from hivemind_pipelines.store import contributions, ledger, screening, tombstones
from hivemind_pipelines.store.connection import try_lock
from hivemind_pipelines.store.items import NIL
from hivemind_pipelines.store.ledger import Entry
from hivemind_pipelines.store.screening import QueueRow, ReadRow, UnreadRow

#: Texts read, embedded and stored at a time.
BATCH = 512


def run(ctx: StageContext) -> PrescreenReceipt:
    """Read what nobody read, hold it against the commons, and label the rows of which something changed.

    All rows stay in the queue. What is read and embedded is a cache, so a dry run stores it too.
    """
    stamps = ctx.screening_stamps
    if ctx.full:
        with ctx.store.begin() as conn:
            screening.forget_stamps(conn, ctx.org_id, only_caches=ctx.dry_run)
    read = _read_texts(ctx)
    with ctx.store.read() as conn:
        due = screening.count_due(conn, ctx.org_id, stamps)
    receipt = PrescreenReceipt(run_id=ctx.run_id, due=due.total, stamp=stamps.quality, embedded=read)
    if not due.total:
        return receipt
    matched = queue_matching.match(ctx)
    screened = plan(ctx, matched)
    labels = Counter(str(label["label"]) for one in screened for label in one.labels)
    receipt = receipt.model_copy(
        update={
            "outcome": "applied", "applied": len(screened), "screened": len(screened),
            "flagged": sum(one.is_low_quality for one in screened), "compared": matched.compared,
            "unscanned": labels["scan_failed"], "labels": dict(sorted(labels.items())),
        }
    )  # fmt: skip
    return receipt if ctx.dry_run else _apply(ctx, matched, screened, receipt)


def _read_texts(ctx: StageContext) -> int:
    """Features and findings of rows without current ones; how many were embedded."""
    stamps = ctx.screening_stamps
    after, embedded = NIL, 0
    while True:
        with ctx.store.read() as conn:
            batch = screening.read_unread(
                conn, ctx.org_id, features=stamps.features, texts=stamps.texts, after=after, limit=BATCH
            )
        if not batch:
            return embedded
        after = batch[-1].id
        rows = _read_batch(ctx, batch)
        with ctx.store.begin() as conn:
            screening.store_read(conn, ctx.org_id, rows, features=stamps.features, texts=stamps.texts)
        embedded += sum(row.vector is not None and bool(row.vector.any()) for row in rows)
        ctx.progress("prescreened_contributions", embedded, embedded)


def _read_batch(ctx: StageContext, batch: Sequence[UnreadRow]) -> list[ReadRow]:
    lacking = [row for row in batch if not row.is_featured]
    vectors = ctx.services.embedder.embed([row.content for row in lacking])
    signatures = features.signatures([row.content for row in lacking], ctx.policy.matching)
    place = {row.id: index for index, row in enumerate(lacking)}
    scans = ctx.services.queue_scanner.findings([row.content for row in batch])
    return [
        ReadRow(
            pending_id=row.id,
            content_hash=row.content_hash,
            findings=prescreen.look_at(
                row.content,
                scan=scan.reason if isinstance(scan, ScanFailed) else scan,
                secret_types=SECRET_TYPES,
            ),
            class_key=features.class_key(row.content, row.scope) if row.id in place else None,
            signature=signatures[place[row.id]] if row.id in place else None,
            vector=np.asarray(vectors[place[row.id]]) if row.id in place else None,
        )
        for row, scan in zip(batch, scans, strict=True)
    ]


def plan(ctx: StageContext, matched: Matched) -> tuple[Screening, ...]:
    """What each row gets that is due, or whose matches changed, in id order."""
    erased = _erased(ctx)
    return tuple(
        prescreen.screen(
            row.id, row.confidence, row.findings, matched.holding(row.id), ctx.policy, erased(row.content)
        )
        for row in matched.queue.values()
        if row.is_due or row.id in matched.moved
    )


def _erased(ctx: StageContext) -> Callable[[str], Sameness | None]:
    """Tells how a text is the same as one that the org erased."""
    key = ctx.services.receipt_key
    if key is None:
        return lambda _: None
    with ctx.store.read() as conn:
        names = tombstones.read_erased_names(conn, [ctx.org_id]).get(ctx.org_id)
    return lambda content: erased_as(key, ctx.org_id, content, names) if names else None


def _apply(
    ctx: StageContext, matched: Matched, screened: Sequence[Screening], receipt: PrescreenReceipt
) -> PrescreenReceipt:
    stamps = ctx.screening_stamps
    queue = matched.queue
    flags = [_flag(queue[one.pending_id], one) for one in screened]
    with ctx.store.begin() as conn:
        # Somebody else may have labelled a row, or undone that, since it was read.
        versions = {one.pending_id: queue[one.pending_id].row_version for one in screened}
        is_ours = try_lock(conn, ctx.org_id, "prescreened_contributions")
        if not is_ours or screening.have_moved(conn, ctx.org_id, versions):
            return _busy(receipt)
        screening.store_matches(
            conn, ctx.org_id, matched.to_store({one.pending_id for one in screened}),
            anew=matched.anew, screened=matched.screened, stamps=stamps,
        )  # fmt: skip
        applied = contributions.apply_flags(
            conn, ctx.org_id, flags, stamp=stamps.quality, labels=stamps.labels,
            marks=_marks(screened) if ctx.policy.prescreen.flag_sensitive else None,
        )  # fmt: skip
        screening.forget_gone(conn, ctx.org_id)
        ledger.record(conn, ctx.org_id, ctx.run_id, applied.entries, stamp=stamps.quality, at=ctx.as_of)
    return receipt.model_copy(
        update={
            "applied": applied.applied, "screened": applied.applied, "dropped": applied.dropped,
            **_counted(applied.entries),
        }
    )  # fmt: skip


def _flag(row: QueueRow, one: Screening) -> Flag:
    return Flag(
        row.id, row.content_hash, one.score, one.is_low_quality, one.document, one.value, dict(one.parts)
    )


def _busy(receipt: PrescreenReceipt) -> PrescreenReceipt:
    nothing: Mapping[str, object] = dict.fromkeys(
        ("applied", "screened", "flagged", "compared", "unscanned"), 0
    )
    return receipt.model_copy(update={"outcome": "busy", "labels": {}, **nothing})


_SENSITIVE = frozenset({"secret", "pii", "scan_failed"})


def _marks(screened: Sequence[Screening]) -> dict[PendingId, bool]:
    return {
        one.pending_id: not _SENSITIVE.isdisjoint(str(label["label"]) for label in one.labels)
        for one in screened
    }


def _counted(entries: Sequence[Entry]) -> dict[str, int]:
    """Marks of low quality that came (or got another score) and went, and rows with other labels."""
    marked = [entry for entry in entries if entry.after["low_quality"]]
    return {
        "flagged": sum(
            not entry.before["low_quality"] or entry.before["score"] != entry.after["score"]
            for entry in marked
        ),
        "cleared": sum(
            bool(entry.before["low_quality"]) and not entry.after["low_quality"] for entry in entries
        ),
        "relabelled": sum(entry.before["prescreen"] != entry.after["prescreen"] for entry in entries),
    }
