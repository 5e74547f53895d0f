"""quality_scores: re-score from behaviour what changed, one set-based statement a batch of orgs."""

from dataclasses import asdict
from datetime import datetime

from hivemind_pipelines.core import quality
from hivemind_pipelines.core.model import ItemId, OrgId, RunId
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.core.receipts import QualityReceipt, ScoreMove
from hivemind_pipelines.store import items, runs, scores
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines.store.scores import Move

#: Orgs scored in one transaction: keeps row locks short on a large deployment.
ORGS = 50


#: How many of the largest moves a receipt names.
MOVES_NAMED = 20


def run(
    store: Store,
    as_of: datetime,
    policy: DistillationPolicy,
    run_id: RunId,
    *,
    backfill_id: str | None = None,
) -> QualityReceipt:
    """Write the scores that moved; the run row and the last-run key tell that it ran."""
    stamp = policy.fingerprint("quality")
    with store.begin() as conn:
        opened = runs.Run(
            run_id, None, "quality", as_of, policy.version, policy.stamps(), backfill_id=backfill_id
        )
        runs.start(conn, opened, policy)
        orgs = items.read_orgs(conn)
    scored = changed = 0
    largest: list[Move] = []
    for start in range(0, len(orgs), ORGS):
        batch_orgs = orgs[start : start + ORGS]
        with store.begin() as conn:
            batch = scores.rescore(
                conn, batch_orgs, policy.quality, as_of=as_of, run_id=run_id, stamp=stamp, named=MOVES_NAMED
            )
            scores.note_distribution(conn, batch_orgs, as_of)
        scored, changed = scored + batch.scored, changed + batch.changed
        largest = sorted((*largest, *batch.largest), key=_by_size)[:MOVES_NAMED]
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
        largest=tuple(ScoreMove(**asdict(move)) for move in largest),
    )


def _by_size(move: Move) -> tuple[float, ItemId]:
    return -abs(move.after - move.before), move.item_id


def read_distribution(store: Store) -> tuple[int, ...]:
    """Live items of all orgs by quality score, in equal parts of [0, 1]."""
    with store.read() as conn:
        return scores.read_distribution(conn)


def collapsed_orgs(store: Store, policy: DistillationPolicy) -> dict[OrgId, float]:
    """Orgs nearly all of whose used items score alike, with the share that does."""
    with store.read() as conn:
        spread = scores.read_spread(conn, bins=quality.SPREAD_BINS)
    shares = {
        org_id: quality.collapsed_share(bins, policy.for_org(org_id).safety)
        for org_id, bins in spread.items()
    }
    return {org_id: share for org_id, share in shares.items() if share is not None}
