"""Behaviour that the demo makes up: signals with ids of their own, written once however often it runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Literal

from psycopg.types.json import Jsonb
from sqlalchemy import Connection, text

from hivemind_pipelines.core.model import ItemId, OrgId, SignalId

SignalType = Literal["retrieval", "outcome_solved", "outcome_not_helpful", "contradiction"]

INSERT_SIGNALS = text("""
    -- Signals of the org's own items that are not there yet; a signal of an unknown item is left out.
    INSERT INTO public.quality_signals (id, knowledge_item_id, signal_type, agent_id, metadata, created_at)
    SELECT made.id, k.id, made.signal_type, made.agent_id, :metadata, made.created_at
    FROM unnest(CAST(:ids AS uuid[]), CAST(:item_ids AS uuid[]), CAST(:types AS text[]),
                CAST(:agents AS text[]), CAST(:moments AS timestamptz[]))
         AS made (id, item_id, signal_type, agent_id, created_at)
    JOIN public.knowledge_items k ON k.id = made.item_id AND k.org_id = :org_id
    ON CONFLICT (id) DO NOTHING
""")


@dataclass(frozen=True, slots=True)
class SimulatedSignal:
    """A made-up signal of one item; its id is what makes a second insert a no-op."""

    id: SignalId
    org_id: OrgId
    item_id: ItemId
    signal_type: SignalType
    agent_id: str
    created_at: datetime


def insert_signals(conn: Connection, signals: Sequence[SimulatedSignal]) -> int:
    """Store the signals that are not there yet, marked as simulated; how many were."""
    by_org = sorted(signals, key=lambda signal: signal.org_id)
    return sum(
        _insert(conn, org_id, tuple(group))
        for org_id, group in groupby(by_org, key=lambda signal: signal.org_id)
    )


def _insert(conn: Connection, org_id: OrgId, signals: Sequence[SimulatedSignal]) -> int:
    parameters = {
        "org_id": org_id,
        "metadata": Jsonb({"simulated": True}),
        "ids": [signal.id for signal in signals],
        "item_ids": [signal.item_id for signal in signals],
        "types": [signal.signal_type for signal in signals],
        "agents": [signal.agent_id for signal in signals],
        "moments": [signal.created_at for signal in signals],
    }
    return conn.execute(INSERT_SIGNALS, parameters).rowcount
