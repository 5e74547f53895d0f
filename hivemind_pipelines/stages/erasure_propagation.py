"""erasure_propagation: what an owner deleted, or the server removed, leaves everything derived from it."""

from datetime import datetime

from hivemind_pipelines.core.model import OrgId, RunId
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.core.receipts import ErasureReceipt
from hivemind_pipelines.store import erasures, ledger, runs
from hivemind_pipelines.store.connection import Store, try_lock, wait_lock


def run(
    store: Store, as_of: datetime, policy: DistillationPolicy, run_id: RunId, org_id: OrgId
) -> ErasureReceipt:
    """Retire summaries of lost sources and revive followers of lost canonicals, in one transaction."""
    with store.read() as conn:
        due = erasures.read_losses(conn, org_id)
    if not (due.lost or due.restored):
        return ErasureReceipt(run_id=run_id)
    stamp = policy.version
    with store.begin() as conn:
        # In the order in which `erase` and `undo` take them: who holds one is about to commit.
        for stage in ("duplicate_pairs", "topic_clusters", "duplicate_merges", "contradiction_cases"):
            wait_lock(conn, org_id, stage)
        if not try_lock(conn, org_id, "erasure_propagation"):
            return ErasureReceipt(run_id=run_id, outcome="busy", due=len(due.lost), stamp=stamp)
        opened = runs.Run(run_id, org_id, "erasure", as_of, policy.version, policy.stamps())
        runs.start(conn, opened, policy)
        losses = erasures.read_losses(conn, org_id)
        effects = erasures.propagate(conn, org_id, losses, run_id=run_id, as_of=as_of)
        entries = (*erasures.record_losses(losses), *effects.retired, *effects.revived)
        ledger.record(conn, org_id, run_id, entries, stamp=stamp, at=as_of)
        erasures.sync_links_of(conn, org_id, effects)
        receipt = ErasureReceipt(
            run_id=run_id, outcome="applied", due=len(due.lost) + len(due.restored), applied=len(entries),
            stamp=stamp, deleted=len(losses.deleted), gone=len(losses.gone), restored=len(losses.restored),
            summaries_retired=len(effects.retired), followers_revived=len(effects.revived),
        )  # fmt: skip
        runs.finish(conn, run_id, "finished", receipt.counts(), as_of)
    return receipt
