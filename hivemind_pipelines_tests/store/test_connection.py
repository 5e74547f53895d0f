"""The way to Postgres: addresses, transactions, sessions, and errors that fit on one line."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import IntegrityError, InternalError

from hivemind_pipelines.store.connection import (
    Store,
    StoreError,
    copy_rows,
    normalise_url,
    open_store,
    raw_cursor,
    try_lock,
)
from hivemind_pipelines_tests.builders import ACME, execute, insert_item, rows, scalar

SECRET = "hunter2-and-more"


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("postgres://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql://u@h:5433/d", "postgresql+psycopg://u@h:5433/d"),
        ("postgresql+asyncpg://u:p%40ss@h/d", "postgresql+psycopg://u:p%40ss@h/d"),
        ("postgresql+psycopg2://u@h/d?sslmode=require", "postgresql+psycopg://u@h/d?sslmode=require"),
        ("  postgresql+psycopg://u@/d?host=/run/pg\n", "postgresql+psycopg://u@/d?host=%2Frun%2Fpg"),
        ("postgresql+asyncpg://u@h/d?ssl=true", "postgresql+psycopg://u@h/d?sslmode=require"),
        ("postgresql+asyncpg://u@h/d?prepared_statement_cache_size=0", "postgresql+psycopg://u@h/d"),
    ],
)
def test_every_spelling_of_a_postgres_url_becomes_ours(given: str, normal: str) -> None:
    assert normalise_url(given) == normal
    assert normalise_url(normal) == normal


@pytest.mark.parametrize(
    "given", ["", "nonsense", f"mysql://u:{SECRET}@h/d", f"postgresql://u:{SECRET}@h:port/d"]
)
def test_another_url_is_refused_in_one_line_without_its_password(given: str) -> None:
    with pytest.raises(StoreError) as refused:
        open_store(given)
    assert_one_safe_line(refused.value)


def test_an_unreachable_server_is_one_line() -> None:
    with open_store(f"postgresql://u:{SECRET}@127.0.0.1:9/d") as store, pytest.raises(StoreError) as refused:
        rows(store, "SELECT 1")
    assert "cannot reach Postgres at 127.0.0.1:9" in str(refused.value)
    assert_one_safe_line(refused.value)


def test_a_missing_database_is_one_line(postgres_url: str) -> None:
    with open_store(renamed(postgres_url, database="nowhere")) as store, pytest.raises(StoreError) as refused:
        rows(store, "SELECT 1")
    assert "has no database 'nowhere'" in str(refused.value)
    assert_one_safe_line(refused.value)


def test_a_refused_role_is_one_line(postgres_url: str) -> None:
    url = renamed(postgres_url, username="stranger", password=SECRET)
    with open_store(url) as store, pytest.raises(StoreError) as refused:
        rows(store, "SELECT 1")
    assert "refuses role 'stranger'" in str(refused.value)
    assert_one_safe_line(refused.value)
    assert SECRET not in repr(store)


def test_a_database_that_was_never_migrated_says_what_to_run(empty_database_url: str) -> None:
    with (
        open_store(empty_database_url) as store,
        pytest.raises(StoreError, match="hivemind-pipelines migrate"),
    ):
        rows(store, "SELECT * FROM distillation.runs")


def test_a_missing_right_is_one_line(store: Store) -> None:
    as_another = "SET LOCAL ROLE pg_monitor; DELETE FROM public.knowledge_items"
    with pytest.raises(StoreError, match="permission denied for table knowledge_items"):
        execute(store, as_another)


def test_begin_commits_at_the_end_and_forgets_everything_on_an_exception(store: Store) -> None:
    execute(store, "INSERT INTO deployment_config (key, value) VALUES ('kept', '1')")
    with pytest.raises(ZeroDivisionError), store.begin() as connection:  # noqa: PT012 - the block must fail
        connection.execute(text("INSERT INTO deployment_config (key, value) VALUES ('lost', '1')"))
        raise ZeroDivisionError
    assert [row.key for row in rows(store, "SELECT key FROM deployment_config")] == ["kept"]


def test_read_sees_one_snapshot_and_cannot_write(store: Store) -> None:
    with store.read() as connection:
        counted = text("SELECT count(*) FROM public.knowledge_items")
        before = connection.execute(counted).scalar_one()
        insert_item(store, "arrives in between")
        assert connection.execute(counted).scalar_one() == before
    with pytest.raises(InternalError, match="read-only"), store.read() as connection:
        connection.execute(text("DELETE FROM public.knowledge_items"))


def test_a_session_is_utc_named_and_bounded(store: Store) -> None:
    settings = {row.name: row.setting for row in rows(store, "SELECT name, setting FROM pg_settings")}
    assert settings["TimeZone"] == "UTC"
    assert settings["application_name"] == "hivemind-pipelines"
    assert settings["lock_timeout"] == "30000"
    assert settings["idle_in_transaction_session_timeout"] == "300000"
    with store.begin() as connection:
        assert connection.execute(text("SHOW transaction_isolation")).scalar_one() == "read committed"


def test_the_urls_own_options_win(database_url: str) -> None:
    options = {"options": "-c idle_in_transaction_session_timeout=2s -c timezone=Asia/Tokyo"}
    url = make_url(database_url).update_query_dict(options).render_as_string(hide_password=False)
    with open_store(url) as store:
        assert scalar(store, "SHOW idle_in_transaction_session_timeout") == "2s"
        assert scalar(store, "SHOW statement_timeout") == "15min"
        assert scalar(store, "SHOW timezone") == "UTC"


def test_an_error_never_quotes_the_row_that_failed(store: Store) -> None:
    with pytest.raises(IntegrityError) as refused:
        execute(
            store, "INSERT INTO public.knowledge_items (org_id, content) VALUES ('acme', :text)", text=SECRET
        )
    assert SECRET not in str(refused.value)
    assert SECRET not in str(refused.value.__cause__)
    assert "source_agent_id" in str(refused.value)


def test_an_error_of_a_copy_never_quotes_the_row_that_failed(store: Store) -> None:
    row = (uuid4(), ACME, SECRET)
    with pytest.raises(psycopg.errors.NotNullViolation) as refused, store.begin() as connection:
        copy_rows(connection, "public.knowledge_items", ("id", "org_id", "content"), iter([row]))
    assert SECRET not in str(refused.value)


def test_copied_rows_arrive_as_they_are(store: Store) -> None:
    moment = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
    awkward = {"text": "tab\t newline\n backslash\\ \\N ü 🦊", "nothing": None}
    with store.begin() as connection:
        copy_rows(
            connection,
            "distillation.receipts",
            ("asset", "org_id", "payload", "updated_at"),
            iter([("a\tb", 'org "quoted", with \\N', awkward, moment)]),
        )
    (row,) = rows(store, "SELECT * FROM distillation.receipts")
    assert tuple(row) == ("a\tb", 'org "quoted", with \\N', awkward, moment)


def test_threads_share_a_store_and_leave_no_transaction_open(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: scalar(store, "SELECT CAST(:n AS int)", n=number), range(40)))
    assert found == list(range(40))
    idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state ~ 'in transaction'"
    assert scalar(store, idle) == 0


def test_a_store_survives_the_loss_of_its_connections(store: Store) -> None:
    rows(store, "SELECT 1")
    with open_store(store.url) as other:
        rows(
            other,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
        )
    assert scalar(store, "SELECT 1") == 1


def test_a_connection_lost_in_use_is_one_line(store: Store) -> None:
    with pytest.raises(StoreError) as lost, store.begin() as connection:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert_one_safe_line(lost.value)


def test_one_transaction_at_a_time_holds_the_lock_of_an_orgs_stage(store: Store) -> None:
    with store.begin() as first, store.begin() as second:
        assert try_lock(first, ACME, "duplicate_merges")
        assert not try_lock(second, ACME, "duplicate_merges")
        assert try_lock(second, ACME, "topic_clusters")
    with store.begin() as third:
        assert try_lock(third, ACME, "duplicate_merges")


def test_a_raw_cursor_works_inside_the_transaction(store: Store) -> None:
    with store.begin() as connection, raw_cursor(connection) as cursor:
        cursor.execute("INSERT INTO public.deployment_config (key, value) VALUES ('k', 'v')")
        assert connection.execute(text("SELECT count(*) FROM public.deployment_config")).scalar_one() == 1


def test_a_statement_that_waits_too_long_for_a_lock_gives_up_in_one_line(store: Store) -> None:
    with store.begin() as holder:
        holder.execute(text("LOCK TABLE public.deployment_config"))
        with pytest.raises(StoreError, match="gave up waiting for a lock") as refused:
            execute(store, "SET LOCAL lock_timeout = '50ms'; SELECT FROM public.deployment_config")
    assert_one_safe_line(refused.value)


def test_a_statement_that_runs_too_long_is_stopped_in_one_line(store: Store) -> None:
    with pytest.raises(StoreError, match="was stopped") as refused:
        execute(store, "SET LOCAL statement_timeout = '50ms'; SELECT pg_sleep(5)")
    assert_one_safe_line(refused.value)


def renamed(url: str, **parts: str) -> str:
    return make_url(url).set(**parts).render_as_string(hide_password=False)  # type: ignore[arg-type]


def assert_one_safe_line(error: Exception) -> None:
    assert "\n" not in str(error)
    assert SECRET not in str(error)
    assert error.__cause__ is None
