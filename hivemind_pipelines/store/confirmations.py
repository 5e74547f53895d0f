"""Confirmations: possible pairs that wait for the model's second look, and its verdicts."""

from datetime import datetime

from sqlalchemy import Connection, text

from hivemind_pipelines.core.model import LlmVerdict, OrgId
from hivemind_pipelines.store.jobs import job_fingerprint
from hivemind_pipelines.store.pairs import PAIRS, StoredPair, stored_pairs, unsettle

# What another run asks right now, or what failed a while ago, is not asked again yet.
IS_UNCONFIRMED = """
    p.decision = 'possible' AND v.same IS NULL AND jsonb_array_length(p.comparison -> 'vetoes') = 0
    AND a.deleted_at IS NULL AND b.deleted_at IS NULL
    AND NOT EXISTS (
        SELECT FROM distillation.pair_verdicts r
        WHERE r.org_id = p.org_id AND r.a_id = p.a_id AND r.b_id = p.b_id
          AND r.a_hash = p.a_hash AND r.b_hash = p.b_hash)
    AND NOT EXISTS (
        SELECT FROM distillation.llm_jobs j
        WHERE j.org_id = p.org_id AND (j.lease_until >= :now OR j.next_attempt_at > :now)
          AND j.fingerprint = encode(sha256(convert_to(concat_ws('|', 'confirm',
                LEAST(p.a_hash COLLATE "C", p.b_hash COLLATE "C"),
                GREATEST(p.a_hash COLLATE "C", p.b_hash COLLATE "C"),
                :prompt_version, :model), 'UTF8')), 'hex'))
"""
UNCONFIRMED_PAIRS = text(
    f"{PAIRS} AND {IS_UNCONFIRMED} ORDER BY p.probability DESC, p.a_id, p.b_id LIMIT :limit"
)


def read_unconfirmed_pairs(
    conn: Connection, org_id: OrgId, *, model: str, prompt_version: str, now: datetime, limit: int
) -> tuple[StoredPair, ...]:
    """Possible pairs to ask the model about, the likeliest first: no veto, no verdict, no claim, no backoff."""
    parameters = {
        "org_id": org_id, "model": model, "prompt_version": prompt_version, "now": now, "limit": limit,
    }  # fmt: skip
    return stored_pairs(conn.execute(UNCONFIRMED_PAIRS, parameters).mappings())


def confirmation_fingerprint(pair: StoredPair, *, model: str, prompt_version: str) -> str:
    """The name of the job that asks the model about a pair, the same in `IS_UNCONFIRMED`."""
    return job_fingerprint("confirm", *sorted((pair.a_hash, pair.b_hash)), prompt_version, model)


# Only while the pair stands as it was asked about: an erasure beside us may have removed a text meanwhile,
# and then not even its hash may come back.
INSERT_VERDICT = text("""
    WITH standing AS (
        SELECT p.a_hash, p.b_hash FROM distillation.candidate_pairs p
        WHERE p.org_id = :org_id AND p.a_id = :a_id AND p.b_id = :b_id
          AND p.a_hash = :a_hash AND p.b_hash = :b_hash
        FOR KEY SHARE
    )
    INSERT INTO distillation.llm_verdicts (org_id, a_hash, b_hash, prompt_version, model, same, confidence)
    SELECT :org_id, LEAST(a_hash COLLATE "C", b_hash COLLATE "C"),
           GREATEST(a_hash COLLATE "C", b_hash COLLATE "C"), :prompt_version, :model, :same, :confidence
    FROM standing
    ON CONFLICT DO NOTHING
""")


def store_verdict(
    conn: Connection, org_id: OrgId, pair: StoredPair, verdict: LlmVerdict, *, model: str, prompt_version: str
) -> None:
    """Cache the model's answer under both texts' hashes, while they stand, and make the component due."""
    parameters = {
        "org_id": org_id,
        "a_id": pair.a_id,
        "b_id": pair.b_id,
        "a_hash": pair.a_hash,
        "b_hash": pair.b_hash,
        "prompt_version": prompt_version,
        "model": model,
        "same": verdict.same,
        "confidence": verdict.confidence,
    }
    conn.execute(INSERT_VERDICT, parameters)
    unsettle(conn, org_id, (pair.a_id, pair.b_id))
