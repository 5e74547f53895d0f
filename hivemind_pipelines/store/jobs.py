"""Jobs around the model: the claim before a call, its lease, and the backoff after a failure."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, text

from hivemind_pipelines.core.model import OrgId


def job_fingerprint(*parts: str) -> str:
    """The 64 hex digits that name a job which is no topic, from what makes it the same job."""
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


# One holder at a time: an expired lease may be taken over, a held one and a backoff may not.
CLAIM = text("""
    INSERT INTO distillation.llm_jobs AS j (org_id, fingerprint, attempts, claimed_by, lease_until)
    VALUES (:org_id, :fingerprint, 1, :claim, :lease_until)
    ON CONFLICT (org_id, fingerprint) DO UPDATE SET
        attempts = j.attempts + 1, claimed_by = EXCLUDED.claimed_by, lease_until = EXCLUDED.lease_until
        WHERE (j.lease_until IS NULL OR j.lease_until < :now)
          AND (j.next_attempt_at IS NULL OR j.next_attempt_at <= :now)
    RETURNING attempts
""")

RELEASE = text("""
    UPDATE distillation.llm_jobs
    SET claimed_by = NULL, lease_until = NULL, last_reason = :reason, attempts = :attempts,
        next_attempt_at = :next_attempt_at
    WHERE org_id = :org_id AND fingerprint = :fingerprint AND claimed_by = :claim
""")

FINISH = text("""
    DELETE FROM distillation.llm_jobs WHERE org_id = :org_id AND fingerprint = :fingerprint
""")

# A run that was killed in the middle of a call leaves its claim behind; its attempts stay counted.
RELEASE_EXPIRED = text("""
    UPDATE distillation.llm_jobs
    SET claimed_by = NULL, lease_until = NULL, last_reason = 'lease_expired'
    WHERE org_id = :org_id AND lease_until < :now
""")

BLOCKED = text("""
    SELECT fingerprint FROM distillation.llm_jobs
    WHERE org_id = :org_id AND (lease_until >= :now OR next_attempt_at > :now)
""")


WAITING = text("""
    SELECT org_id, last_reason AS reason, count(*) AS jobs, min(next_attempt_at) AS next_at
    FROM distillation.llm_jobs
    WHERE org_id = ANY(CAST(:org_ids AS text[])) AND lease_until IS NULL AND next_attempt_at > :now
    GROUP BY org_id, last_reason ORDER BY org_id, next_at, last_reason
""")


def claim_job(
    conn: Connection, org_id: OrgId, fingerprint: str, *, claim: UUID, now: datetime, lease_until: datetime
) -> int | None:
    """Claim a fingerprint before an outside call; the number of attempts, or None when another holds it."""
    parameters = {
        "org_id": org_id, "fingerprint": fingerprint, "claim": claim, "now": now, "lease_until": lease_until,
    }  # fmt: skip
    return conn.execute(CLAIM, parameters).scalar()


def release_job(
    conn: Connection,
    org_id: OrgId,
    fingerprint: str,
    *,
    claim: UUID,
    reason: str,
    attempts: int,
    next_attempt_at: datetime,
) -> None:
    """Give a claim back after a failure; the fingerprint waits until `next_attempt_at`."""
    parameters = {
        "org_id": org_id, "fingerprint": fingerprint, "claim": claim, "reason": reason, "attempts": attempts,
        "next_attempt_at": next_attempt_at,
    }  # fmt: skip
    conn.execute(RELEASE, parameters)


def release_expired(conn: Connection, org_id: OrgId, *, now: datetime) -> None:
    """Free the claims whose lease is over, those of topics that are no longer there too."""
    conn.execute(RELEASE_EXPIRED, {"org_id": org_id, "now": now})


def finish_job(conn: Connection, org_id: OrgId, fingerprint: str) -> None:
    """Forget the attempts at a fingerprint that has been published."""
    conn.execute(FINISH, {"org_id": org_id, "fingerprint": fingerprint})


def read_blocked(conn: Connection, org_id: OrgId, *, now: datetime) -> frozenset[str]:
    """Fingerprints that another run holds, or that wait after a failure."""
    return frozenset(conn.execute(BLOCKED, {"org_id": org_id, "now": now}).scalars())


@dataclass(frozen=True, slots=True)
class Waiting:
    """Jobs of an org that are not tried before `next_at`, with the reason of their last attempt."""

    org_id: OrgId
    reason: str
    jobs: int
    next_at: datetime


def read_waiting(conn: Connection, org_ids: Sequence[OrgId], *, now: datetime) -> tuple[Waiting, ...]:
    """What waits for its next attempt in these orgs, grouped by reason."""
    rows = conn.execute(WAITING, {"org_ids": list(org_ids), "now": now})
    return tuple(Waiting(OrgId(row.org_id), row.reason, row.jobs, row.next_at) for row in rows)
