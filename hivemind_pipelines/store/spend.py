"""What calls to the model cost, booked per org, run and day."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from hivemind_pipelines.core.model import LlmUsage, OrgId, RunId

SPEND = text("""
    INSERT INTO distillation.llm_spend
        (org_id, run_id, purpose, at, calls, input_tokens, output_tokens, usd)
    VALUES (:org_id, :run_id, :purpose, :at, :calls, :input_tokens, :output_tokens, :usd)
""")

SPENT = text("""
    SELECT COALESCE(sum(calls), 0) AS calls, COALESCE(sum(usd), 0) AS usd,
           COALESCE(sum(calls) FILTER (WHERE run_id = :run_id), 0) AS run_calls,
           COALESCE(sum(usd) FILTER (WHERE run_id = :run_id), 0) AS run_usd
    FROM distillation.llm_spend
    WHERE org_id = :org_id AND (at >= CAST(:since AS timestamptz) OR run_id = :run_id)
""")


@dataclass(frozen=True, slots=True)
class Spent:
    """Calls and US dollars spent for an org, today and in one run."""

    day_calls: int
    day_usd: float
    run_calls: int
    run_usd: float


def record_spend(
    conn: Connection, org_id: OrgId, run_id: RunId, *, purpose: str, usage: LlmUsage, usd: float, at: datetime
) -> None:
    """Book the attempts and tokens of one call, failed ones too."""
    parameters = {
        "org_id": org_id, "run_id": run_id, "purpose": purpose, "at": at, "calls": usage.attempts,
        "input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens, "usd": usd,
    }  # fmt: skip
    conn.execute(SPEND, parameters)


def read_spent(conn: Connection, org_id: OrgId, run_id: RunId, *, now: datetime) -> Spent:
    """What the org has spent since midnight UTC, and in this run."""
    since = now.replace(hour=0, minute=0, second=0, microsecond=0)
    row = conn.execute(SPENT, {"org_id": org_id, "run_id": run_id, "since": since}).one()
    return Spent(int(row.calls), float(row.usd), int(row.run_calls), float(row.run_usd))
