"""Plans that the mass-change breaker stopped: what they were planned from, so that they are not due again."""

from datetime import datetime

from sqlalchemy import Connection, text

from hivemind_pipelines.core.changes import Refusal
from hivemind_pipelines.core.model import OrgId, RunId
from hivemind_pipelines.store.items import POOL

# The hash of the unsettled items is taken as `backlog` takes it: the same items, the same plan.
REMEMBER = text(f"""
    INSERT INTO distillation.refused_plans AS r
        (org_id, inputs_hash, stamp, expired_count, live_count, run_id, at)
    SELECT CAST(:org_id AS varchar), COALESCE(md5(string_agg(k.id::text, ',' ORDER BY k.id)), ''),
           CAST(:stamp AS text), :expired_count, :live_count, :run_id, :at
    FROM public.knowledge_items k
    JOIN distillation.item_features f ON f.org_id = k.org_id AND f.item_id = k.id
    WHERE k.org_id = :org_id AND {POOL} AND f.settled_stamp IS DISTINCT FROM CAST(:stamp AS text)
    ON CONFLICT (org_id) DO UPDATE SET
        inputs_hash = EXCLUDED.inputs_hash, stamp = EXCLUDED.stamp, run_id = EXCLUDED.run_id,
        expired_count = EXCLUDED.expired_count, live_count = EXCLUDED.live_count, at = EXCLUDED.at
""")

FORGET = text("DELETE FROM distillation.refused_plans WHERE org_id = :org_id")


def remember_refusal(
    conn: Connection, org_id: OrgId, refusal: Refusal, *, stamp: str, run_id: RunId, at: datetime
) -> None:
    """The org's merges are not due again until what they are planned from changes, or a person allows them."""
    parameters = {
        "org_id": org_id, "stamp": stamp, "run_id": run_id, "at": at,
        "expired_count": refusal.expired_count, "live_count": refusal.live_count,
    }  # fmt: skip
    conn.execute(REMEMBER, parameters)


def forget_refusal(conn: Connection, org_id: OrgId) -> None:
    """A plan of the org went through."""
    conn.execute(FORGET, {"org_id": org_id})
