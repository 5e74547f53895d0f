"""What an erasure removes is generated; what it leaves is declared, column by column."""

from hivemind_pipelines.store import purge, tables
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import execute


def test_every_column_that_could_hold_a_text_is_purged_or_declared(store: Store) -> None:
    with store.read() as conn:
        assert purge.undeclared(conn) == ()


def test_a_new_table_or_column_that_nobody_declared_is_noticed(store: Store) -> None:
    with store.read() as conn:
        before = purge.undeclared(conn)
    execute(
        store,
        "CREATE TABLE distillation.new_cache (org_id text, said text, n int, ns int[], of uuid, at timestamptz)",
    )
    execute(store, "ALTER TABLE distillation.merges ADD quote text[]")
    execute(store, "ALTER TABLE public.knowledge_items ADD server_note varchar(9)")
    with store.read() as conn:
        assert set(purge.undeclared(conn)) - set(before) == {
            "distillation.merges.quote",
            "distillation.new_cache.said",
            "public.knowledge_items.server_note",
        }


def test_what_is_declared_exists() -> None:
    own = {table.name: set(table.columns.keys()) for table in tables.OWN_TABLES}
    public = {table.name: set(table.columns.keys()) for table in tables.PUBLIC_TABLES}
    for declared, present in ((purge.KEPT, own), (purge.PUBLIC, public)):
        assert [
            f"{name}.{one}" for name in declared for one in declared[name] if one not in present[name]
        ] == []


def test_rows_are_found_by_item_case_and_hash() -> None:
    found = {rule.table: rule for rule in purge.rules()}
    assert found["candidate_pairs"].item_columns == ("a_id", "b_id")
    assert found["llm_verdicts"].hash_columns == ("a_hash", "b_hash")
    assert found["derivations"].item_columns == ("derived_id", "source_id")
    assert found["prescreens"].hash_columns == ("content_hash",)
    assert found.keys().isdisjoint(purge.KEPT)
