"""Scratch databases: made, migrated, and gone afterwards whatever happens."""

import psycopg
import pytest
from sqlalchemy import make_url, text

from hivemind_pipelines.store import scratch
from hivemind_pipelines.store.connection import StoreError, open_store
from hivemind_pipelines.store.scratch import ScratchRefusedError, scratch_store


def databases(url: str) -> set[str]:
    with open_store(url) as store, store.read() as conn:
        return set(conn.execute(text("SELECT datname FROM pg_database")).scalars())


def administer(url: str, statement: str) -> None:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[arg-type]


def test_a_scratch_database_is_migrated_and_gone_afterwards(postgres_url: str) -> None:
    before = databases(postgres_url)
    with scratch_store(postgres_url) as store, store.read() as conn:
        assert conn.execute(text("SELECT count(*) FROM public.knowledge_items")).scalar_one() == 0
        (made,) = databases(postgres_url) - before
        assert made.startswith("hivemind_scratch_")
    assert databases(postgres_url) == before


def test_it_is_gone_after_an_error_too(postgres_url: str) -> None:
    before = databases(postgres_url)
    with pytest.raises(ZeroDivisionError), scratch_store(postgres_url):
        raise ZeroDivisionError
    assert databases(postgres_url) == before


def test_what_a_killed_process_left_is_swept_and_a_young_one_is_not(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, young = "hivemind_scratch_1000_00ff", f"hivemind_scratch_{2**40}_00ff"
    foreign = "hivemind_scratch_of_somebody"
    for name in (old, young, foreign):
        administer(postgres_url, f'CREATE DATABASE "{name}"')
    try:
        with scratch_store(postgres_url):
            left = databases(postgres_url)
        assert old not in left
        assert {young, foreign} <= left
    finally:
        for name in (young, foreign):
            administer(postgres_url, f'DROP DATABASE "{name}"')


def test_a_role_that_may_not_create_databases_is_refused_and_told(postgres_url: str) -> None:
    administer(postgres_url, "CREATE ROLE scratchless LOGIN")
    try:
        url = make_url(postgres_url).set(username="scratchless").render_as_string(hide_password=False)
        with pytest.raises(ScratchRefusedError, match="may not create databases"), scratch_store(url):
            pass
    finally:
        administer(postgres_url, "DROP ROLE scratchless")


def test_a_migration_that_fails_leaves_nothing(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_store: object) -> None:
        raise StoreError("this Postgres server has no pgvector")

    before = databases(postgres_url)
    monkeypatch.setattr(scratch, "migrate", refuse)
    with pytest.raises(ScratchRefusedError, match="no pgvector"), scratch_store(postgres_url):
        pass
    assert databases(postgres_url) == before
