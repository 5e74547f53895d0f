"""What calls to the model cost, reserved before and settled after each, per org, run and day."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from hivemind_pipelines.core.model import LlmUsage, OrgId, RunId

# Two runs of an org must not both see room for the last call.
LOCK = text("SELECT pg_advisory_xact_lock(hashtext('llm_spend'), hashtext(:org_id))")

RESERVE = text("""
    INSERT INTO distillation.llm_spend
        (org_id, run_id, purpose, at, calls, input_tokens, output_tokens, usd, is_reserved)
    VALUES (:org_id, :run_id, :purpose, :at, :calls, 0, 0, :usd, true)
    RETURNING id
""")

SETTLE = text("""
    UPDATE distillation.llm_spend
    SET calls = :calls, input_tokens = :input_tokens, output_tokens = :output_tokens, usd = :usd,
        is_reserved = false
    WHERE org_id = :org_id AND id = :id
""")

# A backfill runs an org again when another one of the same run failed: its runs spend as one.
SPENT = text("""
    WITH meant AS (
        SELECT CAST(:run_id AS uuid) AS run_id
        UNION
        SELECT r.run_id FROM distillation.runs one
        JOIN distillation.runs r ON r.org_id = one.org_id AND r.backfill_id = one.backfill_id
        WHERE one.org_id = :org_id AND one.run_id = :run_id
    ), spent AS (
        SELECT s.calls, s.usd, s.run_id IN (SELECT run_id FROM meant) AS is_of_run,
               s.at >= CAST(:since AS timestamptz) AS is_of_day
        FROM distillation.llm_spend s WHERE s.org_id = :org_id
    )
    SELECT COALESCE(sum(calls) FILTER (WHERE is_of_day), 0) AS calls,
           COALESCE(sum(usd) FILTER (WHERE is_of_day), 0) AS usd,
           COALESCE(sum(calls) FILTER (WHERE is_of_run), 0) AS run_calls,
           COALESCE(sum(usd) FILTER (WHERE is_of_run), 0) AS run_usd
    FROM spent WHERE is_of_run OR is_of_day
""")


@dataclass(frozen=True, slots=True)
class Spent:
    """Calls and US dollars spent or reserved for an org, today and in one run or its backfill."""

    day_calls: int
    day_usd: float
    run_calls: int
    run_usd: float


def lock(conn: Connection, org_id: OrgId) -> None:
    """Let nobody else reserve for the org until the transaction ends."""
    conn.execute(LOCK, {"org_id": org_id})


def reserve(
    conn: Connection, org_id: OrgId, run_id: RunId, *, purpose: str, calls: int, usd: float, at: datetime
) -> int:
    """Book a call at its worst before it is made; returns what to settle it by."""
    parameters = {
        "org_id": org_id, "run_id": run_id, "purpose": purpose, "at": at, "calls": calls, "usd": usd,
    }  # fmt: skip
    return int(conn.execute(RESERVE, parameters).scalar_one())


def settle(conn: Connection, org_id: OrgId, reservation: int, *, usage: LlmUsage, usd: float) -> None:
    """Book the attempts and tokens that a reserved call did cost, failed ones too."""
    parameters = {
        "org_id": org_id, "id": reservation, "calls": usage.attempts, "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens, "usd": usd,
    }  # fmt: skip
    conn.execute(SETTLE, parameters)


def read_spent(conn: Connection, org_id: OrgId, run_id: RunId, *, now: datetime) -> Spent:
    """What the org has spent or reserved since midnight UTC, and in this run or the backfill it belongs to."""
    since = now.replace(hour=0, minute=0, second=0, microsecond=0)
    row = conn.execute(SPENT, {"org_id": org_id, "run_id": run_id, "since": since}).one()
    return Spent(int(row.calls), float(row.usd), int(row.run_calls), float(row.run_usd))
