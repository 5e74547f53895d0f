"""The ledger: appended beside effects, never changed."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from sqlalchemy.exc import DBAPIError

from hivemind_pipelines.core.model import OrgId, RunId
from hivemind_pipelines.store import ledger
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines.store.ledger import Entry
from hivemind_pipelines_tests.builders import ACME, execute, rows, scalar

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def record(store: Store, run_id: RunId, *entries: Entry, org: OrgId = ACME) -> None:
    with store.begin() as connection:
        ledger.record(connection, org, run_id, entries, stamp="stamp-1", at=NOW)


def test_entries_read_back_in_their_order(store: Store) -> None:
    run_id, duplicate, canonical = RunId(uuid4()), uuid4(), uuid4()
    merge = Entry("merge", duplicate, {"expired_at": None}, {"expired_at": NOW, "canonical": canonical})
    rescore = Entry("rescore", canonical, {"quality_score": 0.5}, {"quality_score": 0.25})
    record(store, run_id, merge, rescore)
    record(store, run_id, rescore, org=OrgId("globex"))
    with store.read() as connection:
        assert ledger.read_run(connection, ACME, run_id) == (
            Entry(
                "merge",
                duplicate,
                {"expired_at": None},
                {"expired_at": "2026-06-01T12:00:00+00:00", "canonical": str(canonical)},
            ),
            rescore,
        )
    (row,) = rows(
        store, "SELECT stamp, at FROM distillation.ledger WHERE org_id = 'acme' AND change = 'merge'"
    )
    assert tuple(row) == ("stamp-1", NOW)


def test_no_entries_are_no_rows(store: Store) -> None:
    record(store, RunId(uuid4()))
    assert scalar(store, "SELECT count(*) FROM distillation.ledger") == 0


def test_ten_thousand_entries_keep_their_order(store: Store) -> None:
    run_id, subjects = RunId(uuid4()), [uuid4() for _ in range(10_000)]
    record(store, run_id, *(Entry("embed", subject) for subject in subjects))
    with store.read() as connection:
        assert [entry.subject_id for entry in ledger.read_run(connection, ACME, run_id)] == subjects


def test_entries_vanish_with_their_transaction(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.begin() as connection:  # noqa: PT012 - the block must fail
        ledger.record(connection, ACME, RunId(uuid4()), [Entry("embed", uuid4())], stamp="s", at=NOW)
        raise ZeroDivisionError
    assert scalar(store, "SELECT count(*) FROM distillation.ledger") == 0


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"bytes"])
def test_what_json_cannot_hold_is_refused(store: Store, value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        record(store, RunId(uuid4()), Entry("rescore", uuid4(), after={"quality_score": value}))
    assert scalar(store, "SELECT count(*) FROM distillation.ledger") == 0


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE distillation.ledger SET change = 'unmerge'",
        "DELETE FROM distillation.ledger",
        "TRUNCATE distillation.ledger",
    ],
)
def test_the_ledger_is_append_only_even_for_its_owner(store: Store, statement: str) -> None:
    record(store, RunId(uuid4()), Entry("embed", uuid4()))
    with pytest.raises(DBAPIError, match="append-only"):
        execute(store, statement)
