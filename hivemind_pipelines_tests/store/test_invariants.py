"""Each invariant's query: silent on a sound commons, and it names what was planted."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import make_url

from hivemind_pipelines.core.model import ItemId, OrgId, RunId
from hivemind_pipelines.store import invariants, ledger
from hivemind_pipelines.store.connection import Store, open_store
from hivemind_pipelines.store.invariants import INVARIANTS, PROPAGATION_INTERVAL, Violation
from hivemind_pipelines.store.ledger import Entry
from hivemind_pipelines_tests.builders import ACME, delete_item, execute, insert_item, rows, set_item
from hivemind_pipelines_tests.conftest import MakeDatabase, dropped_after

GLOBEX = OrgId("globex")
NOW = datetime.now(UTC)
LONG_SINCE = NOW - 2 * PROPAGATION_INTERVAL
RUN = RunId(uuid4())


@dataclass(frozen=True)
class Commons:
    """A small sound commons of one org: a chain of two merges, a summary of three, an open case."""

    store: Store
    duplicate: ItemId
    middle: ItemId
    canonical: ItemId
    sources: tuple[ItemId, ...]
    summary: ItemId
    case: UUID
    org: OrgId = ACME


@pytest.fixture(scope="module")
def sound_commons(make_database: MakeDatabase, migrated_template: str) -> Commons:
    """Acme's commons, beside an equally sound one of another org; only to be cloned."""
    with open_store(make_database(migrated_template)) as store:
        build(store, GLOBEX)
        return build(store, ACME)


@pytest.fixture
def commons(sound_commons: Commons, make_database: MakeDatabase, postgres_url: str) -> Iterator[Commons]:
    """A fresh copy of both orgs."""
    copy = make_database(str(make_url(sound_commons.store.url).database))
    with dropped_after(postgres_url, copy) as url, open_store(url) as store:
        yield replace(sound_commons, store=store)


def build(store: Store, org: OrgId) -> Commons:
    duplicate, middle = (insert_item(store, text, org, expired_at=LONG_SINCE) for text in ("one", "two"))
    canonical = insert_item(store, "three", org)
    sources = tuple(insert_item(store, f"source {number}", org) for number in range(3))
    summary = insert_item(store, "summary", org, source_agent_id="distillation")
    for item in (duplicate, middle, canonical, *sources):
        register(store, item, org)
    register(store, summary, org, "summary")
    merge(store, duplicate, middle, org)
    merge(store, middle, canonical, org)
    publish(store, summary, sources, org)
    case = open_case(store, sources[:2], org)
    return Commons(store, duplicate, middle, canonical, sources, summary, case, org)


def register(store: Store, item: UUID, org: str = ACME, kind: str = "original") -> None:
    execute(
        store,
        "INSERT INTO distillation.registered_items (org_id, item_id, kind) VALUES (:org, :item, :kind)",
        org=org,
        item=item,
        kind=kind,
    )


def record(store: Store, org: OrgId, *entries: Entry) -> None:
    with store.begin() as connection:
        ledger.record(connection, org, RUN, entries, stamp="s", at=NOW)


def merge(store: Store, duplicate: UUID, canonical: UUID, org: OrgId = ACME) -> None:
    execute(
        store,
        "INSERT INTO distillation.merges (org_id, duplicate_id, canonical_id, expired_at, stamp)"
        " VALUES (:org, :duplicate, :canonical, :at, 's')",
        org=org,
        duplicate=duplicate,
        canonical=canonical,
        at=LONG_SINCE,
    )
    record(store, org, Entry("merge", duplicate, after={"canonical": canonical}))


def publish(store: Store, summary: UUID, sources: tuple[ItemId, ...], org: OrgId, mark: str = "f1") -> None:
    execute(
        store,
        "INSERT INTO distillation.summaries (org_id, summary_id, fingerprint, content_hash, method, model,"
        " prompt_version, stamp, pii_stamp) VALUES (:org, :id, :mark, 'h', 'm', 'm', 'p', 's', 's')",
        org=org,
        id=summary,
        mark=mark,
    )
    for source in sources:
        derive(store, summary, source, org)
    record(store, org, Entry("publish", summary))


def derive(store: Store, derived: UUID, source: UUID, org: str = ACME) -> None:
    execute(
        store,
        "INSERT INTO distillation.derivations (org_id, derived_id, source_id, source_hash)"
        " SELECT :org, :derived, k.id, k.content_hash FROM public.knowledge_items k WHERE k.id = :source",
        org=org,
        derived=derived,
        source=source,
    )


def open_case(store: Store, items: tuple[ItemId, ...], org: OrgId = ACME) -> UUID:
    case = uuid4()
    execute(
        store,
        "INSERT INTO distillation.contradiction_cases"
        " (org_id, case_id, category, detector, opened_at, run_id, stamp)"
        " VALUES (:org, :case, 'general', 'signals', now(), :run, 's')",
        org=org,
        case=case,
        run=RUN,
    )
    for item in items:
        execute(
            store,
            "INSERT INTO distillation.case_items (org_id, case_id, item_id) VALUES (:org, :case, :item)",
            org=org,
            case=case,
            item=item,
        )
    record(store, org, Entry("open_case", case))
    return case


def bury(store: Store, item: UUID, kind: str, at: datetime = LONG_SINCE) -> None:
    execute(
        store,
        "INSERT INTO distillation.tombstones (org_id, item_id, kind, at, run_id)"
        " VALUES ('acme', :item, :kind, :at, :run)",
        item=item,
        kind=kind,
        at=at,
        run=RUN,
    )


def violations(store: Store, org: OrgId | None = None) -> dict[str, Violation]:
    with store.read() as connection:
        return {found.name: found for found in invariants.violations(connection, org)}


def test_a_sound_commons_breaks_nothing(commons: Commons) -> None:
    assert violations(commons.store) == {}


def test_an_empty_database_breaks_nothing(store: Store) -> None:
    assert violations(store) == {}


def test_there_are_sixteen_and_what_no_query_sees_says_who_proves_it() -> None:
    assert [invariant.name for invariant in INVARIANTS] == [f"I{number}" for number in range(1, 17)]
    assert {invariant.name for invariant in INVARIANTS if invariant.sql is None} == {"I4", "I13"}
    for invariant in INVARIANTS:
        if invariant.kind != "query":
            assert "proved by" in invariant.promise


def a_party_vanishes(commons: Commons) -> UUID:
    delete_item(commons.store, commons.duplicate)
    return commons.duplicate


def a_canonical_is_deleted_long_since(commons: Commons) -> UUID:
    set_item(commons.store, commons.canonical, deleted_at=LONG_SINCE)
    return commons.duplicate


def a_canonical_is_deleted_at_infinity(commons: Commons) -> UUID:
    set_item(commons.store, commons.canonical, deleted_at="infinity")
    return commons.duplicate


def a_canonical_is_expired_by_others(commons: Commons) -> UUID:
    set_item(commons.store, commons.canonical, expired_at=LONG_SINCE)
    return commons.duplicate


def a_gone_canonical_keeps_its_followers(commons: Commons) -> UUID:
    delete_item(commons.store, commons.canonical)
    bury(commons.store, commons.canonical, "gone")
    return commons.duplicate


def a_cycle_of_merges(commons: Commons) -> UUID:
    merge(commons.store, commons.canonical, commons.duplicate)
    return commons.duplicate


def a_summary_of_two(commons: Commons) -> UUID:
    execute(
        commons.store,
        "DELETE FROM distillation.derivations WHERE org_id = 'acme' AND source_id = :id",
        id=commons.sources[0],
    )
    return commons.summary


def a_source_that_is_derived(commons: Commons) -> UUID:
    set_item(commons.store, commons.sources[0], source_agent_id="distillation", tags={"distilled": True})
    return commons.summary


def a_source_that_is_gone(commons: Commons) -> UUID:
    delete_item(commons.store, commons.sources[0])
    bury(commons.store, commons.sources[0], "gone", NOW)
    return commons.summary


def a_source_that_changed(commons: Commons) -> UUID:
    set_item(commons.store, commons.sources[0], content="else", content_hash="0" * 64)
    return commons.summary


def a_source_deleted_long_since(commons: Commons) -> UUID:
    set_item(commons.store, commons.sources[0], deleted_at=LONG_SINCE)
    return commons.summary


def a_source_erased_long_since(commons: Commons) -> UUID:
    bury(commons.store, commons.sources[0], "erased")
    return commons.summary


def two_live_summaries_of_a_fingerprint(commons: Commons) -> UUID:
    execute(
        commons.store,
        "ALTER TABLE distillation.summaries DROP CONSTRAINT summaries_org_id_fingerprint_key",
    )
    twin = insert_item(commons.store, "the same again", source_agent_id="distillation")
    register(commons.store, twin, kind="summary")
    publish(commons.store, twin, commons.sources, ACME)
    return twin


def two_open_cases_of_an_item_set(commons: Commons) -> UUID:
    return open_case(commons.store, commons.sources[1::-1])


def a_score_that_is_nan(commons: Commons) -> UUID:
    set_item(commons.store, commons.canonical, quality_score=float("nan"))
    return commons.canonical


def a_score_above_one(commons: Commons) -> UUID:
    set_item(commons.store, commons.canonical, quality_score=1.0000001)
    return commons.canonical


def an_embedding_of_an_erased_item(commons: Commons) -> UUID:
    set_item(commons.store, commons.duplicate, embedding=[1.0] + [0.0] * 383)
    bury(commons.store, commons.duplicate, "erased")
    return commons.duplicate


def a_claim_that_outlived_its_lease(commons: Commons) -> UUID:
    execute(
        commons.store,
        "INSERT INTO distillation.llm_jobs (org_id, fingerprint, claimed_by, lease_until)"
        " VALUES ('acme', 'f9', :run, :until)",
        run=RUN,
        until=LONG_SINCE,
    )
    finished_run(commons.store, NOW)
    return RUN


def an_item_of_another_org_in_a_case(commons: Commons) -> UUID:
    foreign = insert_item(commons.store, "theirs", GLOBEX)
    # The foreign key makes it impossible; the query must see it where somebody dropped the key.
    execute(
        commons.store,
        "ALTER TABLE distillation.case_items DROP CONSTRAINT case_items_org_id_item_id_fkey",
    )
    open_case(commons.store, (commons.canonical, foreign))
    return foreign


def a_merge_without_a_ledger_row(commons: Commons) -> UUID:
    hidden = insert_item(commons.store, "quietly expired", expired_at=LONG_SINCE)
    register(commons.store, hidden)
    execute(
        commons.store,
        "INSERT INTO distillation.merges (org_id, duplicate_id, canonical_id, expired_at, stamp)"
        " VALUES ('acme', :duplicate, :canonical, :at, 's')",
        duplicate=hidden,
        canonical=commons.canonical,
        at=LONG_SINCE,
    )
    return hidden


def a_merge_that_the_ledger_undid(commons: Commons) -> UUID:
    record(commons.store, ACME, Entry("unmerge", commons.duplicate, after={"canonical": None}))
    return commons.duplicate


def a_merge_to_another_canonical_than_the_ledgers(commons: Commons) -> UUID:
    record(commons.store, ACME, Entry("repoint", commons.duplicate, after={"canonical": commons.canonical}))
    return commons.duplicate


def a_ledger_row_without_its_merge(commons: Commons) -> UUID:
    record(commons.store, ACME, Entry("merge", commons.sources[0], after={"canonical": commons.canonical}))
    return commons.sources[0]


def a_live_summary_that_the_ledger_retired(commons: Commons) -> UUID:
    record(commons.store, ACME, Entry("retire", commons.summary))
    return commons.summary


def a_publication_without_its_summary(commons: Commons) -> UUID:
    missing = uuid4()
    record(commons.store, ACME, Entry("publish", missing))
    return missing


def a_case_without_a_ledger_row(commons: Commons) -> UUID:
    case = uuid4()
    execute(
        commons.store,
        "INSERT INTO distillation.contradiction_cases"
        " (org_id, case_id, category, detector, opened_at, run_id, stamp)"
        " VALUES ('acme', :case, 'general', 'signals', now(), :run, 's')",
        case=case,
        run=RUN,
    )
    return case


def a_ledger_row_without_its_case(commons: Commons) -> UUID:
    missing = uuid4()
    record(commons.store, ACME, Entry("open_case", missing))
    return missing


def a_public_summary_of_private_sources(commons: Commons) -> UUID:
    set_item(commons.store, commons.summary, is_public=True)
    return commons.summary


PLANTED: list[tuple[str, Callable[[Commons], UUID]]] = [
    ("I1", a_party_vanishes),
    ("I2", a_canonical_is_deleted_long_since),
    ("I2", a_canonical_is_deleted_at_infinity),
    ("I2", a_canonical_is_expired_by_others),
    ("I2", a_gone_canonical_keeps_its_followers),
    ("I2", a_cycle_of_merges),
    ("I3", a_cycle_of_merges),
    ("I5", a_summary_of_two),
    ("I6", a_source_that_is_derived),
    ("I7", a_source_that_is_gone),
    ("I7", a_source_that_changed),
    ("I7", a_source_deleted_long_since),
    ("I7", a_source_erased_long_since),
    ("I8", two_live_summaries_of_a_fingerprint),
    ("I9", two_open_cases_of_an_item_set),
    ("I10", a_score_that_is_nan),
    ("I10", a_score_above_one),
    ("I11", an_embedding_of_an_erased_item),
    ("I12", a_claim_that_outlived_its_lease),
    ("I14", an_item_of_another_org_in_a_case),
    ("I15", a_merge_without_a_ledger_row),
    ("I15", a_merge_that_the_ledger_undid),
    ("I15", a_merge_to_another_canonical_than_the_ledgers),
    ("I15", a_ledger_row_without_its_merge),
    ("I15", a_live_summary_that_the_ledger_retired),
    ("I15", a_publication_without_its_summary),
    ("I15", a_case_without_a_ledger_row),
    ("I15", a_ledger_row_without_its_case),
    ("I16", a_public_summary_of_private_sources),
]

#: Planting one fault breaks a second promise, by its nature.
SIDE_EFFECTS = {
    "a_cycle_of_merges": {"I2", "I3"},
    "a_source_erased_long_since": {"I7", "I11"},
}


@pytest.mark.parametrize(
    ("name", "plant"), PLANTED, ids=[f"{name}-{plant.__name__}" for name, plant in PLANTED]
)
def test_what_is_planted_is_found_in_its_org_alone(
    commons: Commons, name: str, plant: Callable[[Commons], UUID]
) -> None:
    subject = plant(commons)
    found = violations(commons.store, ACME)
    assert subject in found[name].sample_ids
    assert found.keys() == SIDE_EFFECTS.get(plant.__name__, {name})
    assert violations(commons.store) == found
    assert violations(commons.store, GLOBEX) == {}


def test_every_query_has_a_planted_violation() -> None:
    assert {name for name, _ in PLANTED} == {invariant.name for invariant in INVARIANTS if invariant.sql}


def test_a_canonical_lost_just_now_is_tolerated_until_it_is_propagated(commons: Commons) -> None:
    set_item(commons.store, commons.canonical, deleted_at=NOW - timedelta(minutes=1))
    assert violations(commons.store) == {}
    bury(commons.store, commons.canonical, "deleted", NOW)
    assert violations(commons.store).keys() == {"I2"}


def test_a_source_deleted_just_now_is_tolerated(commons: Commons) -> None:
    set_item(commons.store, commons.sources[0], deleted_at=NOW - timedelta(minutes=1))
    assert violations(commons.store) == {}


def test_a_duplicate_that_its_owner_deleted_needs_no_canonical(commons: Commons) -> None:
    set_item(commons.store, commons.canonical, deleted_at=LONG_SINCE)
    for item in (commons.duplicate, commons.middle):
        set_item(commons.store, item, deleted_at=LONG_SINCE)
    assert violations(commons.store) == {}


def test_a_retired_summary_may_have_lost_its_sources(commons: Commons) -> None:
    set_item(commons.store, commons.summary, expired_at=NOW)
    record(commons.store, ACME, Entry("retire", commons.summary))
    delete_item(commons.store, commons.sources[0])
    bury(commons.store, commons.sources[0], "gone")
    assert violations(commons.store) == {}


def test_an_expired_lease_is_no_fault_before_a_later_run_has_finished(commons: Commons) -> None:
    a_claim_that_outlived_its_lease(commons)
    execute(
        commons.store, "UPDATE distillation.runs SET as_of = :before", before=LONG_SINCE - timedelta(hours=1)
    )
    assert violations(commons.store) == {}


def test_a_violation_counts_all_and_samples_the_smallest_ids(store: Store) -> None:
    ids = [insert_item(store, f"text {number}", quality_score=2.0) for number in range(7)]
    (found,) = violations(store).values()
    assert (found.count, found.sample_ids) == (7, tuple(sorted(ids)[:5]))


def test_the_kinds_of_a_derivation_are_pinned_by_constraints(commons: Commons) -> None:
    constraints = rows(
        commons.store,
        "SELECT pg_get_constraintdef(oid) AS line FROM pg_constraint"
        " WHERE conrelid = 'distillation.derivations'::regclass AND contype = 'c'",
    )
    assert len(constraints) == 2


def finished_run(store: Store, as_of: datetime) -> None:
    execute(
        store,
        "INSERT INTO distillation.runs (run_id, org_id, job, status, as_of, finished_at, policy_version, stamps)"
        " VALUES (:run, 'acme', 'distillation', 'finished', :as_of, :as_of, 'v', '{}')",
        run=uuid4(),
        as_of=as_of,
    )
