"""Claims: a job around the model belongs to one run at a time, and waits after a failure."""

from dataclasses import dataclass
from datetime import datetime, time, timedelta
from uuid import UUID, uuid4

from hivemind_pipelines.stages.context import StageContext
from hivemind_pipelines.stages.spending import STAGE_DEADLINE
from hivemind_pipelines.store import jobs

#: Doubling of the backoff stops here: 30 minutes become 32 hours.
BACKOFF_DOUBLINGS_MAX = 6

#: A job that can never succeed as it is; another text or policy makes another job of it.
SAID_ALREADY = "said_already"
NEVER = timedelta(days=36_500)


@dataclass(frozen=True, slots=True)
class Claim:
    """One job held by this run until it is finished, released or its lease is over."""

    ctx: StageContext
    fingerprint: str
    claim_id: UUID
    attempts: int

    def release(self, reason: str) -> None:
        """Give the job back; when it is due again depends on the reason.

        Without a call nothing has failed: the attempts are not counted.
        """
        is_failure = not reason.startswith("budget_") and reason not in (STAGE_DEADLINE, "circuit_open")
        with self.ctx.store.begin() as conn:
            jobs.release_job(
                conn, self.ctx.org_id, self.fingerprint, claim=self.claim_id, reason=reason,
                attempts=self.attempts if is_failure else self.attempts - 1,
                next_attempt_at=self._next_attempt_at(reason),
            )  # fmt: skip

    def _next_attempt_at(self, reason: str) -> datetime:
        now, policy = self.ctx.clock(), self.ctx.policy
        if reason == SAID_ALREADY:
            return now + NEVER
        if reason.endswith("_per_day"):
            return datetime.combine(now.date() + timedelta(days=1), time(), now.tzinfo)
        if reason.startswith("budget_") or reason == STAGE_DEADLINE:
            return now + policy.gate.min_interval
        doublings = min(self.attempts - 1, BACKOFF_DOUBLINGS_MAX)
        backoff: timedelta = policy.safety.llm_backoff * 2**doublings
        return now + backoff


def take(ctx: StageContext, fingerprint: str) -> Claim | None:
    """Claim a job before any outside call; None when another run holds it or it still waits."""
    claim_id, now = uuid4(), ctx.clock()
    with ctx.store.begin() as conn:
        attempts = jobs.claim_job(
            conn, ctx.org_id, fingerprint,
            claim=claim_id, now=now, lease_until=now + ctx.policy.safety.llm_lease,
        )  # fmt: skip
    return None if attempts is None else Claim(ctx, fingerprint, claim_id, attempts)
