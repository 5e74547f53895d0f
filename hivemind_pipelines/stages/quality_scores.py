"""quality_scores: re-score every live item from behaviour, one set-based statement a batch of orgs."""

from datetime import datetime

from hivemind_pipelines.core.model import RunId
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.core.receipts import QualityReceipt
from hivemind_pipelines.store import items, runs, scores
from hivemind_pipelines.store.connection import Store

#: Orgs scored in one transaction: keeps row locks short on a large deployment.
ORGS = 50


def run(store: Store, as_of: datetime, policy: DistillationPolicy, run_id: RunId) -> QualityReceipt:
    """Write the scores that moved; the run row and the last-run key tell that it ran."""
    stamp = policy.fingerprint("quality")
    with store.begin() as conn:
        opened = runs.Run(run_id, None, "quality", as_of, policy.version, policy.stamps())
        runs.start(conn, opened, policy)
        orgs = items.read_orgs(conn)
    scored = changed = 0
    for start in range(0, len(orgs), ORGS):
        with store.begin() as conn:
            batch = scores.rescore(
                conn, orgs[start : start + ORGS], policy.quality, as_of=as_of, run_id=run_id, stamp=stamp
            )
        scored, changed = scored + batch.scored, changed + batch.changed
    with store.begin() as conn:
        runs.finish(conn, run_id, "finished", {"scored": scored, "changed": changed}, as_of)
        runs.write_last_run_key(conn, "quality_aggregation_last_run", as_of)
    return QualityReceipt(
        run_id=run_id,
        outcome="applied" if changed else "nothing_due",
        due=scored,
        applied=changed,
        stamp=stamp,
        scored=scored,
        changed=changed,
    )
