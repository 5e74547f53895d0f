"""Verdicts and the review queue in Postgres: ids, order, and what a plan made beforehand meets."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from sqlalchemy.exc import DBAPIError

from hivemind_pipelines.core.changes import Merge
from hivemind_pipelines.core.model import ItemId, OrgId, RunId
from hivemind_pipelines.core.review import PairVerdict, Verdict, pair_id
from hivemind_pipelines.store import items, merges, reviews
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines.store.ledger import Entry
from hivemind_pipelines_tests.builders import ACME, execute, insert_items, read_item, rows, scalar, set_item

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def two_items(store: Store, org: str = ACME) -> tuple[ItemId, ItemId]:
    a, b = sorted(insert_items(store, ["Restart the worker", "Restart the workers"], org))
    with store.begin() as conn:
        items.register_originals(conn, OrgId(org), [a, b])
    return a, b


def give_features(store: Store) -> None:
    execute(
        store,
        "INSERT INTO distillation.item_features"
        " (org_id, item_id, content_hash, scope_hash, class_key, signature, discriminators, stamp)"
        " SELECT org_id, id, content_hash, '', sha256(uuid_send(id)), '', '{}', 's' FROM public.knowledge_items",
    )


def judge(store: Store, a: ItemId, b: ItemId, verdict: Verdict, org: str = ACME) -> tuple[Entry, ...]:
    with store.begin() as conn:
        return reviews.judge(
            conn,
            OrgId(org),
            [(a, b, True)],
            verdict,
            source="review",
            by="ana",
            at=NOW,
            run_id=RunId(uuid4()),
        )


@pytest.mark.parametrize("org", ["acme", 'o\'brien, "quoted"', "größe:1", "x" * 255])
def test_the_database_gives_a_pair_the_same_id(store: Store, org: str) -> None:
    a, b = two_items(store, org)
    [entry] = judge(store, a, b, "same", org)
    assert entry.subject_id == pair_id(OrgId(org), a, b)
    with store.read() as conn:
        assert reviews.find_pairs(conn, entry.subject_id.hex[:12]) == ((org, a, b),)


def test_a_verdict_ends_with_the_text_it_was_given_for(store: Store) -> None:
    a, b = two_items(store)
    judge(store, a, b, "same")
    with store.read() as conn:
        assert reviews.read_verdicts(conn, ACME) == (PairVerdict(a, b, "same"),)
    set_item(store, b, content_hash="0" * 64)
    with store.read() as conn:
        assert reviews.read_verdicts(conn, ACME) == ()


def test_a_pair_has_one_verdict_the_last(store: Store) -> None:
    a, b = two_items(store)
    judge(store, a, b, "same")
    [entry] = judge(store, a, b, "distinct")
    assert (entry.before["verdict"], entry.after["verdict"]) == ("same", "distinct")
    assert [row.verdict for row in rows(store, "SELECT verdict FROM distillation.pair_verdicts")] == [
        "distinct"
    ]


def test_a_verdict_over_two_orgs_or_the_wrong_way_round_cannot_be_stored(store: Store) -> None:
    a, _ = two_items(store)
    other, _ = two_items(store, "globex")
    low, high = sorted((a, other))
    assert judge(store, low, high, "same") == ()
    with pytest.raises(DBAPIError):
        execute(
            store,
            "INSERT INTO distillation.pair_verdicts (org_id, a_id, b_id, pair_id, a_hash, b_hash, verdict, source,"
            " decided_by, decided_at, run_id)"
            " VALUES ('acme', :a, :b, :a, '', '', 'same', 'review', 'x', now(), :a)",
            a=low, b=high,
        )  # fmt: skip


def test_a_merge_planned_before_the_verdict_is_dropped(store: Store) -> None:
    a, b = two_items(store)
    hashes = {item: read_item(store, item)["content_hash"] for item in (a, b)}
    judge(store, a, b, "distinct")
    for duplicate, canonical in ((a, b), (b, a)):
        plan = [Merge(duplicate, hashes[duplicate], canonical, hashes[canonical])]
        with store.begin() as conn:
            applied = merges.apply_merges(conn, ACME, plan, run_id=RunId(uuid4()), stamp="s", as_of=NOW)
        assert (applied.applied, applied.dropped) == (0, 1)
    assert scalar(store, "SELECT count(*) FROM public.knowledge_items WHERE expired_at IS NOT NULL") == 0


def test_a_verdict_makes_both_components_due_even_where_a_run_just_read_them(store: Store) -> None:
    a, b = two_items(store)
    give_features(store)
    with store.read() as conn:
        pool = items.read_pool(conn, ACME, stamp="s")
    judge(store, a, b, "same")
    with store.begin() as conn:
        items.stamp_features(conn, ACME, pool.row_versions, column="settled_stamp", stamp="s")
    settled = rows(store, "SELECT settled_stamp FROM distillation.item_features")
    assert [row.settled_stamp for row in settled] == [None, None]


def test_the_queue_bears_odd_counters_and_says_its_total_past_its_end(store: Store) -> None:
    a, b = two_items(store)
    set_item(store, a, confidence=float("nan"), retrieval_count=-5)
    set_item(store, b, confidence=0.5, retrieval_count=4)
    give_features(store)
    execute(
        store,
        "INSERT INTO distillation.candidate_pairs SELECT 'acme', a.id, b.id, a.content_hash, b.content_hash,"
        " '{\"scores\": {\"cosine\": 0.5}, \"vetoes\": []}', 0.5, 'possible', 'near:unsure', 's'"
        " FROM public.knowledge_items a, public.knowledge_items b WHERE a.id < b.id",
    )
    with store.read() as conn:
        page = reviews.read_waiting(conn, ACME, model="m", prompt_version="p", limit=10, offset=0)
        past = reviews.read_waiting(conn, None, model="m", prompt_version="p", limit=10, offset=10)
    assert [(one.harm, one.scores) for one in page.waiting] == [(2.0, {"cosine": 0.5})]
    assert (past.waiting, past.total) == ((), 1)
