"""Provenance of the server's own distillation, imported from its tags."""

from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest

from hivemind_pipelines.core.model import ItemId
from hivemind_pipelines.store import invariants
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines.store.legacy import Imported
from hivemind_pipelines.store.migrations.migrate import migrate
from hivemind_pipelines_tests.builders import (
    ACME,
    JSON_NULL,
    LONG_AGO,
    delete_item,
    execute,
    insert_item,
    public_dump,
    rows,
    set_item,
)

EXPIRED = LONG_AGO + timedelta(days=3)


def insert_merged(store: Store, text: str, *duplicates: UUID, expired_at: datetime | None = None) -> ItemId:
    tags = {"provenance_links": [str(id) for id in duplicates]}
    return insert_item(store, text, tags=tags, expired_at=expired_at)


def insert_summary(
    store: Store, text: str, *sources: UUID, org: str = ACME, agent: str = "distillation"
) -> ItemId:
    tags = {"distilled": True, "source_item_ids": [str(id) for id in sources]}
    return insert_item(store, text, org, tags=tags, source_agent_id=agent)


def merges(store: Store) -> dict[UUID, UUID]:
    found = rows(store, "SELECT * FROM distillation.merges")
    assert all(row.is_legacy and row.run_id is None for row in found)
    return {row.duplicate_id: row.canonical_id for row in found}


def derivations(store: Store) -> set[tuple[UUID, UUID]]:
    found = rows(store, "SELECT * FROM distillation.derivations")
    assert all(row.is_legacy and row.run_id is None for row in found)
    return {(row.derived_id, row.source_id) for row in found}


def kinds(store: Store) -> dict[UUID, str]:
    return {row.item_id: row.kind for row in rows(store, "SELECT * FROM distillation.registered_items")}


def test_merges_and_summaries_of_a_server_become_ours(hivemind_store: Store) -> None:
    store = hivemind_store
    first, second = (insert_item(store, text, expired_at=EXPIRED) for text in ("one", "two"))
    canonical = insert_merged(store, "kept", first, second)
    summary = insert_summary(store, "summary", first, second, canonical)
    before = public_dump(store)
    assert migrate(store).imported == Imported(merges=2, derivations=3, summaries=1)
    assert merges(store) == {first: canonical, second: canonical}
    assert derivations(store) == {(summary, source) for source in (first, second, canonical)}
    assert kinds(store)[summary] == "summary"
    assert rows(store, "SELECT * FROM distillation.summaries") == []
    assert public_dump(store) == before


def test_every_imported_fact_has_its_ledger_row(hivemind_store: Store) -> None:
    duplicate = insert_item(hivemind_store, "one", expired_at=EXPIRED)
    canonical = insert_merged(hivemind_store, "kept", duplicate)
    summary = insert_summary(hivemind_store, "summary", canonical)
    migrate(hivemind_store)
    found = rows(hivemind_store, "SELECT change, subject_id, after FROM distillation.ledger ORDER BY seq")
    assert [tuple(row) for row in found] == [
        ("import_merge", duplicate, {"canonical": str(canonical), "expired_at": "2026-01-04T00:00:00+00:00"}),
        ("import_derivation", summary, {"sources": [str(canonical)]}),
    ]
    with hivemind_store.read() as connection:
        assert invariants.violations(connection) == ()


def test_importing_twice_adds_nothing(hivemind_store: Store) -> None:
    duplicate = insert_item(hivemind_store, "one", expired_at=EXPIRED)
    insert_summary(hivemind_store, "summary", insert_merged(hivemind_store, "kept", duplicate))
    migrate(hivemind_store)
    assert migrate(hivemind_store).is_noop


def test_a_chain_of_merges_ends_at_the_live_canonical(hivemind_store: Store) -> None:
    first = insert_item(hivemind_store, "one", expired_at=EXPIRED)
    second = insert_merged(hivemind_store, "two", first, expired_at=EXPIRED)
    canonical = insert_merged(hivemind_store, "three", second)
    migrate(hivemind_store)
    assert merges(hivemind_store) == {first: canonical, second: canonical}


def test_a_hard_deleted_source_is_registered_so_that_it_can_be_found_gone(hivemind_store: Store) -> None:
    sources = [insert_item(hivemind_store, f"source {number}") for number in range(3)]
    summary = insert_summary(hivemind_store, "summary", *sources)
    delete_item(hivemind_store, sources[0])
    migrate(hivemind_store)
    assert derivations(hivemind_store) == {(summary, source) for source in sources}
    assert kinds(hivemind_store)[sources[0]] == "original"
    with hivemind_store.read() as connection:
        broken = {violation.name for violation in invariants.violations(connection)}
    assert broken == {"I1", "I7"}


def test_an_item_of_another_org_is_never_reached(hivemind_store: Store) -> None:
    foreign = insert_item(hivemind_store, "theirs", "globex", expired_at=EXPIRED)
    own = insert_item(hivemind_store, "ours")
    insert_merged(hivemind_store, "kept", foreign)
    summary = insert_summary(hivemind_store, "summary", foreign, own)
    migrate(hivemind_store)
    assert merges(hivemind_store) == {}
    assert derivations(hivemind_store) == {(summary, own)}
    assert foreign not in kinds(hivemind_store)


def test_a_gone_id_that_two_orgs_name_belongs_to_the_first(hivemind_store: Store) -> None:
    gone = uuid4()
    first = insert_summary(hivemind_store, "ours", gone)
    insert_summary(hivemind_store, "theirs", gone, org="globex")
    migrate(hivemind_store)
    assert derivations(hivemind_store) == {(first, gone)}


def test_a_live_duplicate_is_no_merge(hivemind_store: Store) -> None:
    live = insert_item(hivemind_store, "live again")
    insert_merged(hivemind_store, "kept", live)
    assert migrate(hivemind_store).imported == Imported()


def test_only_the_servers_distillation_is_believed_about_sources(hivemind_store: Store) -> None:
    source = insert_item(hivemind_store, "source")
    contributed = insert_summary(hivemind_store, "claims to be derived", source, agent="agent-7")
    migrate(hivemind_store)
    assert derivations(hivemind_store) == set()
    assert contributed not in kinds(hivemind_store)


@pytest.mark.parametrize(
    "tags",
    [
        None,
        JSON_NULL,
        ["provenance_links"],
        "provenance_links",
        7,
        {"provenance_links": None},
        {"provenance_links": "not a list"},
        {"provenance_links": [1, None, {"id": 2}, "not-a-uuid"]},
        {"distilled": True, "source_item_ids": {"a": 1}},
        {"distilled": "true", "source_item_ids": [str(uuid4())]},
    ],
)
def test_tags_of_any_shape_are_survived(hivemind_store: Store, tags: object) -> None:
    insert_item(hivemind_store, "odd", tags=tags, source_agent_id="distillation")
    imported = migrate(hivemind_store).imported
    assert (imported.merges, imported.derivations) == (0, 0)


def test_moments_that_python_cannot_hold_are_copied_exactly(hivemind_store: Store) -> None:
    duplicate = insert_item(hivemind_store, "for ever")
    execute(hivemind_store, "UPDATE knowledge_items SET expired_at = 'infinity' WHERE id = :id", id=duplicate)
    insert_merged(hivemind_store, "kept", duplicate)
    assert migrate(hivemind_store).imported.merges == 1
    (row,) = rows(hivemind_store, "SELECT expired_at = 'infinity' AS is_exact FROM distillation.merges")
    assert row.is_exact


def test_what_we_undid_is_not_imported_again(hivemind_store: Store) -> None:
    duplicate = insert_item(hivemind_store, "one", expired_at=EXPIRED)
    insert_merged(hivemind_store, "kept", duplicate)
    migrate(hivemind_store)
    execute(hivemind_store, "DELETE FROM distillation.merges")
    assert migrate(hivemind_store).is_noop


def test_a_merge_that_the_server_adds_later_is_imported_then(hivemind_store: Store) -> None:
    migrate(hivemind_store)
    duplicate = insert_item(hivemind_store, "one")
    canonical = insert_item(hivemind_store, "kept")
    set_item(hivemind_store, duplicate, expired_at=EXPIRED)
    set_item(hivemind_store, canonical, tags={"provenance_links": [str(duplicate)]})
    assert migrate(hivemind_store).imported == Imported(merges=1)
