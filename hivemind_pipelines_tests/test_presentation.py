"""What a person reads of a status: why topics wait, and until when."""

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from rich.console import Console

from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.presentation import show_status
from hivemind_pipelines.stages.backlog import ModelStamps
from hivemind_pipelines.stages.claims import NEVER, SAID_ALREADY
from hivemind_pipelines.stages.status import Status, read
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines.store.status import Delay
from hivemind_pipelines_tests.builders import insert_item

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def shown(status: Status) -> str:
    out = io.StringIO()
    show_status(Console(file=out, width=200), status)
    return out.getvalue()


def test_a_topic_that_waits_for_its_notes_to_change_names_no_year_to_come(store: Store) -> None:
    insert_item(store, "Rotate the logs every night.")
    status = read(
        store, DistillationPolicy(), NOW, ModelStamps("hash-1", "scanner-1", "model-1", has_llm=False)
    )
    delays = (Delay(SAID_ALREADY, 3, 1, NOW + NEVER), Delay("timeout", 2, 1, NOW + timedelta(hours=1)))
    said = shown(replace(status, orgs=(replace(status.orgs[0], delays=delays),)))
    assert "3 topics have no summary of their own, another says the same (said_already)" in said
    assert "2 topics wait for a summary (timeout), again from 2026-06-01 13:00" in said
    assert "2126" not in said
