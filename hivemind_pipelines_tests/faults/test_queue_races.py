"""A reviewer decides about a row between the reading of the queue and the labelling of it."""

import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from sqlalchemy import text

from hivemind_pipelines.core.model import PendingId, Stage
from hivemind_pipelines.core.receipts import PrescreenReceipt
from hivemind_pipelines.core.text import content_hash
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import insert_item, insert_pending, rows, scalar
from hivemind_pipelines_tests.stages.commons import distil, policy

NOTE = "Set the pool timeout to 30 seconds to avoid stale connections after a database failover"
#: Labels every row that has fewer than a hundred words anew.
TALKATIVE = policy(prescreen={"words_min": 100, "flag_sensitive": True})

REJECT = "DELETE FROM public.pending_contributions WHERE id = :id"
APPROVE = """
    WITH decided AS (DELETE FROM public.pending_contributions WHERE id = :id RETURNING *)
    INSERT INTO public.knowledge_items (id, org_id, source_agent_id, content, content_hash, category,
        contributed_at, approved_at)
    SELECT id, org_id, source_agent_id, content, content_hash, category, contributed_at, now() FROM decided
"""
EMPTY = "UPDATE public.pending_contributions SET content = '', content_hash = :empty WHERE id = :id"


def screen(store: Store) -> PrescreenReceipt:
    receipt = distil(store, under=TALKATIVE, stages=[Stage.PRESCREENED_CONTRIBUTIONS])[
        Stage.PRESCREENED_CONTRIBUTIONS
    ]
    assert isinstance(receipt, PrescreenReceipt)
    return receipt


def while_decided(store: Store, decision: str, row: PendingId) -> PrescreenReceipt:
    """A run that reads the queue before the decision is committed, and labels it after that."""
    with ThreadPoolExecutor(1) as beside:
        with store.begin() as reviewer:
            reviewer.execute(text(decision), {"id": row, "empty": content_hash("")})
            running = beside.submit(screen, store)
            until_blocked(store)
        return running.result(timeout=60)


def until_blocked(store: Store) -> None:
    """Wait until somebody waits for a row that another transaction holds."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    deadline = time.monotonic() + 60
    while not scalar(store, waiting):
        assert time.monotonic() < deadline, "the run never came to the row"
        time.sleep(0.02)


def labelled(store: Store) -> set[UUID]:
    """Rows whose tags carry a label of `TALKATIVE`."""
    query = (
        "SELECT id FROM public.pending_contributions WHERE tags #>> '{prescreen,labels}' LIKE '%too_short%'"
    )
    return {row.id for row in rows(store, query)}


@pytest.mark.parametrize("decision", [REJECT, APPROVE, EMPTY], ids=["rejected", "approved", "emptied"])
def test_a_row_decided_between_reading_and_labelling_is_simply_gone(store: Store, decision: str) -> None:
    insert_item(store, NOTE)
    queue = [insert_pending(store, f"{NOTE}{end}") for end in (".", "!", " now", " today")]
    distil(store)
    before = scalar(store, "SELECT count(*) FROM distillation.ledger")
    decided, others = queue[1], {*queue[:1], *queue[2:]}
    receipt = while_decided(store, decision, decided)
    assert (receipt.outcome, receipt.screened, receipt.dropped) == ("applied", len(others), 1)
    assert labelled(store) == others
    written = rows(store, "SELECT subject_id FROM distillation.ledger OFFSET :before", before=before)
    assert {row.subject_id for row in written} == others
    if decision != EMPTY:
        for table in ("prescreens", "pending_features", "pending_matches"):
            left = rows(store, f"SELECT pending_id FROM distillation.{table}")
            assert decided not in {row.pending_id for row in left}


@pytest.mark.parametrize("decision", [REJECT, APPROVE, EMPTY], ids=["rejected", "approved", "emptied"])
def test_what_named_the_decided_row_is_told_by_the_next_run(store: Store, decision: str) -> None:
    first, second = insert_pending(store, f"{NOTE}."), insert_pending(store, f"{NOTE}!")
    distil(store)
    while_decided(store, decision, second)
    distil(store, under=TALKATIVE)
    naming = scalar(store, "SELECT tags::text FROM public.pending_contributions WHERE id = :id", id=first)
    assert ("near_duplicate_pending" in naming, "near_duplicate" in naming) == (False, decision == APPROVE)
    done = distil(store, under=TALKATIVE)
    assert {
        stage: receipt.outcome for stage, receipt in done.items() if receipt.outcome != "nothing_due"
    } == {}
