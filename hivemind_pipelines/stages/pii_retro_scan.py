"""pii_retro_scan: which live originals hold personal data or secrets, by counts; their rows stay as they are."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from hivemind_pipelines.core.model import Finding, ItemId, OrgId, RunId
from hivemind_pipelines.core.receipts import RetroScanReceipt
from hivemind_pipelines.services.pii import PiiScanner, ScanFailed
from hivemind_pipelines.store import pii_scans
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines.store.pii_scans import Unscanned

#: Texts read, scanned and remembered together; a run that is cut off loses no more than these.
BATCH = 512
#: How many items a receipt names; all of them are in `distillation.pii_scans`.
ITEMS_NAMED = 500


def run(store: Store, scanner: PiiScanner, org_id: OrgId, as_of: datetime, run_id: RunId) -> RetroScanReceipt:
    """Scan what no scan under the scanner's stamp has seen, then tell what is known of the whole org.

    A text that could not be scanned is counted and stays due.
    """
    due = scanned = 0
    after: ItemId | None = None
    while batch := _read(store, scanner, org_id, after):
        scans = scanner.findings([item.content for item in batch])
        scanned += _remember(store, scanner, org_id, batch, scans, as_of)
        due, after = due + len(batch), batch[-1].item_id
    with store.read() as conn:
        found = pii_scans.read_found(conn, org_id)
    return RetroScanReceipt(
        run_id=run_id,
        outcome="applied" if scanned else "nothing_due",
        due=due,
        applied=scanned,
        stamp=scanner.stamp,
        scanned=scanned,
        unscannable=due - scanned,
        with_findings=len(found),
        by_type=dict(sorted(sum((Counter(counts) for counts in found.values()), Counter()).items())),
        found_in={str(item_id): found[item_id] for item_id in sorted(found)[:ITEMS_NAMED]},
    )


def _read(store: Store, scanner: PiiScanner, org_id: OrgId, after: ItemId | None) -> tuple[Unscanned, ...]:
    with store.read() as conn:
        return pii_scans.read_due(conn, org_id, stamp=scanner.stamp, after=after, batch=BATCH)


def _remember(
    store: Store,
    scanner: PiiScanner,
    org_id: OrgId,
    batch: Sequence[Unscanned],
    scans: Sequence[tuple[Finding, ...] | ScanFailed],
    as_of: datetime,
) -> int:
    told = [
        (item, Counter(finding.type for finding in scan))
        for item, scan in zip(batch, scans, strict=True)
        if not isinstance(scan, ScanFailed)
    ]
    with store.begin() as conn:
        pii_scans.store(conn, org_id, told, stamp=scanner.stamp, at=as_of)
    return len(told)
