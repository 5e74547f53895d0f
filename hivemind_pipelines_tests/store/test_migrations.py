"""Creating and upgrading: identical on nothing, additive beside a server, refused elsewhere."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import make_url

from hivemind_pipelines.store import tables
from hivemind_pipelines.store.connection import Store, StoreError, open_store
from hivemind_pipelines.store.migrations import public_schema
from hivemind_pipelines.store.migrations.check import describe, revision_problems, schema_problems
from hivemind_pipelines.store.migrations.migrate import SCRIPTS, MigrationResult, migrate
from hivemind_pipelines_tests.builders import (
    execute,
    insert_item,
    insert_items,
    insert_signal,
    public_dump,
    rows,
    scalar,
    unit_vector,
)
from hivemind_pipelines_tests.conftest import MakeDatabase, dropped_after

REVISIONS = tuple(sorted(path.name[1:5] for path in (SCRIPTS / "versions").glob("v[0-9]*.py")))
PUBLIC = ("deployment_config", "knowledge_items", "pending_contributions", "quality_signals")


@pytest.fixture
def empty_store(empty_database_url: str) -> Iterator[Store]:
    """A store on a database in which there is nothing."""
    with open_store(empty_database_url) as opened:
        yield opened


def lines(store: Store) -> frozenset[str]:
    with store.read() as connection:
        return describe(connection)


def filenodes(store: Store) -> dict[str, int]:
    """The file of each public table and index; a rewrite gives a new one."""
    query = "SELECT relname, relfilenode FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    return {row.relname: row.relfilenode for row in rows(store, query)}


def test_an_empty_database_gets_every_table_and_index(empty_store: Store) -> None:
    result = migrate(empty_store)
    assert result.tables == PUBLIC
    assert result.revisions == REVISIONS
    assert "ix_knowledge_items_embedding" in result.indexes
    with empty_store.read() as connection:
        assert public_schema.differences(connection) == ()
        assert public_schema.missing_indexes(connection) == ()


def test_the_search_index_is_the_one_of_the_contract(store: Store) -> None:
    definition = scalar(
        store, "SELECT indexdef FROM pg_indexes WHERE indexname = 'ix_knowledge_items_embedding'"
    )
    assert "USING hnsw (embedding vector_cosine_ops) WITH (m='16', ef_construction='64')" in definition


def test_a_created_table_has_the_defaults_of_the_contract(store: Store) -> None:
    execute(
        store,
        "INSERT INTO knowledge_items (org_id, source_agent_id, content, content_hash, category)"
        " VALUES ('acme', 'a', 'x', 'h', 'general')",
    )
    (row,) = rows(store, "SELECT * FROM knowledge_items")
    assert (row.is_public, row.confidence, row.quality_score, row.retrieval_count) == (False, 0.8, 0.5, 0)
    assert row.contributed_at is not None
    assert row.approved_at is not None


def test_the_second_time_is_a_no_op(store: Store) -> None:
    before = lines(store), filenodes(store)
    assert migrate(store).is_noop
    assert (lines(store), filenodes(store)) == before


def test_a_servers_database_keeps_every_row_table_and_index(hivemind_store: Store) -> None:
    item = insert_item(hivemind_store, "kept as it is", tags=["odd"], embedding=unit_vector(1))
    insert_signal(hivemind_store, item)
    before = public_dump(hivemind_store), filenodes(hivemind_store)
    public_lines = {line for line in lines(hivemind_store) if "public." in line}
    result = migrate(hivemind_store)
    assert result == MigrationResult(revisions=REVISIONS)
    assert (public_dump(hivemind_store), filenodes(hivemind_store)) == before
    assert {line for line in lines(hivemind_store) if "public." in line} == public_lines
    assert migrate(hivemind_store).is_noop


def test_the_servers_alembic_version_is_left_alone(hivemind_store: Store) -> None:
    migrate(hivemind_store)
    assert scalar(hivemind_store, "SELECT version_num FROM public.alembic_version") == "server_42"
    assert scalar(hivemind_store, "SELECT version_num FROM distillation.alembic_version") == REVISIONS[-1]


def test_missing_indexes_are_added_without_touching_the_table(hivemind_store: Store) -> None:
    insert_items(hivemind_store, [f"text {number}" for number in range(50)], embedding=unit_vector(1))
    execute(hivemind_store, "DROP INDEX knowledge_items_embedding_idx")
    execute(hivemind_store, "DROP INDEX quality_signals_item_type_idx")
    execute(hivemind_store, "ALTER TABLE knowledge_items DROP CONSTRAINT uq_hash_org")
    heap = filenodes(hivemind_store)["knowledge_items"]
    assert sorted(migrate(hivemind_store).indexes) == [
        "ix_knowledge_items_embedding",
        "ix_quality_signals_knowledge_item_id_signal_type",
        "uq_knowledge_items_content_hash_org_id",
    ]
    assert filenodes(hivemind_store)["knowledge_items"] == heap
    assert migrate(hivemind_store).is_noop


def test_an_index_of_another_method_or_operator_does_not_count(hivemind_store: Store) -> None:
    execute(hivemind_store, "DROP INDEX knowledge_items_embedding_idx")
    execute(hivemind_store, "CREATE INDEX ON knowledge_items USING hnsw (embedding vector_l2_ops)")
    assert migrate(hivemind_store).indexes == ("ix_knowledge_items_embedding",)


def test_an_index_that_was_left_unfinished_is_rebuilt(hivemind_store: Store) -> None:
    execute(hivemind_store, "DROP INDEX knowledge_items_org_idx")
    execute(hivemind_store, "CREATE INDEX ix_knowledge_items_org_id ON knowledge_items (org_id)")
    execute(
        hivemind_store,
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_knowledge_items_org_id'::regclass",
    )
    assert migrate(hivemind_store).indexes == ("ix_knowledge_items_org_id",)
    assert migrate(hivemind_store).is_noop


def test_missing_tables_are_created_beside_the_existing_ones(hivemind_store: Store) -> None:
    insert_item(hivemind_store, "kept")
    execute(hivemind_store, "DROP TABLE quality_signals, deployment_config")
    result = migrate(hivemind_store)
    assert result.tables == ("deployment_config", "quality_signals")
    assert scalar(hivemind_store, "SELECT count(*) FROM knowledge_items") == 1
    assert migrate(hivemind_store).is_noop


def test_a_table_that_is_dropped_later_comes_back(store: Store) -> None:
    execute(store, "DROP TABLE deployment_config")
    assert migrate(store).tables == ("deployment_config",)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (
            "ALTER TABLE knowledge_items DROP COLUMN tags",
            "knowledge_items.tags is missing",
        ),
        (
            "ALTER TABLE knowledge_items ALTER tags TYPE json",
            "knowledge_items.tags is json, expected jsonb",
        ),
        (
            "ALTER TABLE knowledge_items ALTER embedding TYPE vector(768)",
            "knowledge_items.embedding is vector(768), expected vector(384)",
        ),
        (
            "ALTER TABLE pending_contributions ALTER contributed_at TYPE timestamp",
            "pending_contributions.contributed_at is timestamp without time zone, "
            "expected timestamp with time zone",
        ),
        (
            "ALTER TABLE knowledge_items ALTER content DROP NOT NULL",
            "knowledge_items.content is nullable, expected NOT NULL",
        ),
        (
            "ALTER TABLE knowledge_items ALTER expired_at SET NOT NULL",
            "knowledge_items.expired_at is NOT NULL, expected nullable",
        ),
        (
            "ALTER TABLE quality_signals ADD shard int NOT NULL",
            "quality_signals.shard is unknown, NOT NULL and has no default",
        ),
        (
            "ALTER TYPE knowledgecategory RENAME VALUE 'tooling' TO 'tools'",
            "type knowledgecategory lacks tooling",
        ),
        (
            "ALTER TABLE deployment_config RENAME TO t; CREATE VIEW deployment_config AS SELECT * FROM t",
            "deployment_config is not a table",
        ),
    ],
)
def test_a_database_with_other_columns_is_refused_unchanged(
    hivemind_store: Store, change: str, difference: str
) -> None:
    execute(hivemind_store, change)
    before = lines(hivemind_store)
    with pytest.raises(StoreError) as refused:
        migrate(hivemind_store)
    assert str(refused.value).endswith(difference)
    assert "\n" not in str(refused.value)
    assert lines(hivemind_store) == before
    assert schemas(hivemind_store) == {"public"}


def test_a_refusal_lists_every_difference(empty_store: Store) -> None:
    execute(empty_store, "CREATE TABLE knowledge_items (id int PRIMARY KEY, title text)")
    with pytest.raises(StoreError) as refused:
        migrate(empty_store)
    assert "knowledge_items.id is integer, expected uuid" in str(refused.value)
    assert str(refused.value).count("is missing") == len(tables.knowledge_items.columns) - 1
    assert schemas(empty_store) == {"public"}
    assert scalar(empty_store, "SELECT count(*) FROM pg_extension WHERE extname = 'vector'") == 0


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE knowledge_items ADD shard int NOT NULL DEFAULT 0",
        "ALTER TABLE knowledge_items ADD note text",
        "ALTER TYPE knowledgecategory ADD VALUE 'gossip'",
        "CREATE INDEX ON knowledge_items (contributed_at)",
        "CREATE TABLE sessions (id int NOT NULL)",
    ],
)
def test_what_a_server_has_besides_is_no_difference(hivemind_store: Store, change: str) -> None:
    execute(hivemind_store, change)
    assert migrate(hivemind_store).revisions == REVISIONS


def test_repeated_hashes_are_refused_before_anything_changes(hivemind_store: Store) -> None:
    execute(hivemind_store, "ALTER TABLE knowledge_items DROP CONSTRAINT uq_hash_org")
    for _ in range(2):
        insert_item(hivemind_store, "the same twice")
    with pytest.raises(StoreError, match=r"1 values of \(content_hash, org_id\) occur more than once"):
        migrate(hivemind_store)
    assert schemas(hivemind_store) == {"public"}


def test_a_role_that_may_not_create_pgvector_is_told_what_to_ask_for(empty_store: Store) -> None:
    with as_role(empty_store, "visitor") as visitor, pytest.raises(StoreError) as refused:
        migrate(visitor)
    assert "may not create it: have the database's owner run CREATE EXTENSION vector" in str(refused.value)


def test_a_role_that_may_not_create_schemas_is_told_so(empty_store: Store) -> None:
    execute(empty_store, "CREATE EXTENSION vector")
    with as_role(empty_store, "visitor") as visitor, pytest.raises(StoreError, match="permission denied"):
        migrate(visitor)
    assert schemas(empty_store) == {"public"}


def test_eight_migrations_at_once_do_the_work_once(hivemind_store: Store) -> None:
    insert_items(hivemind_store, [f"text {number}" for number in range(200)], embedding=unit_vector(1))
    execute(hivemind_store, "DROP INDEX knowledge_items_embedding_idx")
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(migrate, [hivemind_store] * 8))
    assert sorted(result.is_noop for result in results) == [False] + [True] * 7


def test_migrating_waits_for_no_reader_and_no_writer(hivemind_store: Store) -> None:
    item = insert_item(hivemind_store, "in use")
    with hivemind_store.begin() as reader, hivemind_store.begin() as writer:
        for connection in (reader, writer):
            connection.exec_driver_sql("SELECT count(*) FROM knowledge_items")
        writer.exec_driver_sql("UPDATE knowledge_items SET quality_score = 0.6 WHERE id = %s", (item,))
        assert migrate(hivemind_store).revisions == REVISIONS


def test_the_revisions_form_one_line() -> None:
    assert revision_problems(SCRIPTS) == ()


def test_a_repeated_revision_is_found(tmp_path: Path) -> None:
    scripts = copied_scripts(tmp_path)
    shutil.copy(scripts / "versions/v0002_distillation.py", scripts / "versions/v0002_again.py")
    assert revision_problems(scripts) == ("revision 0002 exists 2 times",)


def test_a_second_head_is_found(tmp_path: Path) -> None:
    scripts = copied_scripts(tmp_path)
    for name in ("9998", "9999"):
        (scripts / f"versions/v{name}.py").write_text(
            f'revision = "{name}"\ndown_revision = "{REVISIONS[-1]}"\n'
        )
    assert revision_problems(scripts) == (
        "there are 2 heads, expected one: 9998, 9999",
        f"revision {REVISIONS[-1]} branches or merges, expected one line",
    )


def test_migrations_and_table_metadata_agree(postgres_url: str, make_database: MakeDatabase) -> None:
    with (
        dropped_after(postgres_url, make_database("template1")) as first,
        dropped_after(postgres_url, make_database("template1")) as second,
        open_store(first) as migrated,
        open_store(second) as declared,
    ):
        assert schema_problems(migrated, declared) == ()


def test_a_schema_that_differs_from_the_metadata_is_shown(store: Store) -> None:
    before = lines(store)
    execute(store, "ALTER TABLE distillation.runs ADD CHECK (job <> 'x'), ALTER counts DROP NOT NULL")
    execute(store, "CREATE INDEX surplus ON distillation.runs (status)")
    assert sorted(lines(store) - before) == [
        "CREATE INDEX surplus ON distillation.runs USING btree (status)",
        "distillation.runs CHECK ((job <> 'x'::text))",
        "distillation.runs.counts jsonb DEFAULT '{}'::jsonb",
    ]


def test_every_own_table_but_the_shared_ones_carries_its_org() -> None:
    without = [table.name for table in tables.OWN_TABLES if "org_id" not in table.columns]
    assert without == ["policies"]


def schemas(store: Store) -> set[str]:
    query = "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
    return {row.nspname for row in rows(store, query)}


def copied_scripts(directory: Path) -> Path:
    return Path(
        shutil.copytree(SCRIPTS, directory / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
    )


def as_role(store: Store, role: str) -> Store:
    if not scalar(store, "SELECT count(*) FROM pg_roles WHERE rolname = :role", role=role):
        execute(store, f"CREATE ROLE {role} LOGIN")
    return open_store(make_url(store.url).set(username=role).render_as_string(hide_password=False))
