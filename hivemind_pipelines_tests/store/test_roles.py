"""The restricted role: enough for the pipelines, nothing that destroys."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import make_url

from hivemind_pipelines.store import roles
from hivemind_pipelines.store.connection import Store, StoreError, open_store
from hivemind_pipelines_tests.builders import execute, insert_item, insert_pending, insert_signal, rows

ROLE = 'hive "pipelines"'


FORBIDDEN = (
    "DELETE FROM public.knowledge_items",
    "DELETE FROM public.pending_contributions",
    "DELETE FROM public.quality_signals",
    "DELETE FROM public.deployment_config",
    "TRUNCATE public.knowledge_items CASCADE",
    "DROP TABLE public.quality_signals",
    "ALTER TABLE public.knowledge_items ADD note text",
    "CREATE TABLE public.mine (id int)",
    "CREATE INDEX ON public.knowledge_items (contributed_at)",
    "CREATE TRIGGER t AFTER UPDATE ON public.knowledge_items EXECUTE FUNCTION f()",
    "UPDATE public.knowledge_items SET deleted_at = now()",
    "UPDATE public.knowledge_items SET content = '', content_hash = ''",
    "UPDATE public.quality_signals SET metadata = NULL",
    "UPDATE public.knowledge_items SET org_id = 'other'",
    "UPDATE public.knowledge_items SET is_public = true",
    "UPDATE public.knowledge_items SET helpful_count = 9",
    "UPDATE public.pending_contributions SET content = ''",
    "UPDATE public.quality_signals SET signal_type = 'retrieval'",
    "INSERT INTO public.pending_contributions (org_id) VALUES ('acme')",
    "UPDATE distillation.ledger SET change = 'x'",
    "DELETE FROM distillation.ledger",
    "TRUNCATE distillation.runs",
    "ALTER TABLE distillation.ledger DISABLE TRIGGER ledger_append_only",
    "UPDATE distillation.alembic_version SET version_num = '0'",
)


@pytest.fixture
def restricted(store: Store) -> Iterator[Store]:
    """The same database, entered by a role that has our grants and nothing else."""
    quoted = '"hive ""pipelines"""'
    execute(store, f"CREATE ROLE {quoted} LOGIN")
    for _ in range(2):
        for statement in roles.grants_sql(ROLE):
            execute(store, statement)
    url = make_url(store.url).set(username=ROLE).render_as_string(hide_password=False)
    with open_store(url) as opened:
        yield opened
    execute(store, f"DROP OWNED BY {quoted}")
    execute(store, f"DROP ROLE {quoted}")


def test_the_role_can_destroy_nothing(restricted: Store) -> None:
    assert [statement for statement in FORBIDDEN if not is_refused(restricted, statement)] == []


def test_the_role_can_do_what_the_pipelines_do(store: Store, restricted: Store) -> None:
    item = insert_item(store, "an item")
    insert_signal(store, item)
    insert_pending(store, "a contribution")
    for statement in (
        "SELECT id FROM public.knowledge_items FOR NO KEY UPDATE",
        "SELECT id FROM public.pending_contributions FOR UPDATE",
        "UPDATE public.knowledge_items SET expired_at = now(), tags = '{}', quality_score = 0.4",
        "UPDATE public.knowledge_items SET embedding = NULL",
        "UPDATE public.knowledge_items SET valid_at = now(), invalid_at = now()",
        "UPDATE public.pending_contributions SET tags = '{}', is_sensitive_flagged = true",
        "DELETE FROM distillation.runs",
        "SELECT version_num FROM distillation.alembic_version",
    ):
        execute(restricted, statement)
    insert_item(restricted, "a summary", source_agent_id="distillation")
    insert_signal(restricted, item, "contradiction_cluster")
    for _ in range(2):
        execute(
            restricted,
            "INSERT INTO public.deployment_config (key, value) VALUES ('distillation_last_run', 'x')"
            " ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = now()",
        )


def test_the_erasing_role_may_overwrite_what_erase_overwrites_and_destroys_nothing(
    store: Store, restricted: Store
) -> None:
    item = insert_item(store, "an item")
    insert_signal(store, item, metadata={"said": "an item"})
    for statement in roles.erasing_grants_sql(ROLE):
        execute(store, statement)
    overwriting = (
        "UPDATE public.knowledge_items SET content = '', content_hash = '', deleted_at = now()",
        "UPDATE public.quality_signals SET metadata = NULL",
    )
    for statement in overwriting:
        execute(restricted, statement)
    beyond = ("SET deleted_at", "SET content = '', content_hash", "quality_signals SET metadata")
    others = [statement for statement in FORBIDDEN if not any(part in statement for part in beyond)]
    assert [statement for statement in others if not is_refused(restricted, statement)] == []


def test_the_role_can_append_to_the_ledger_and_read_it(restricted: Store) -> None:
    execute(
        restricted,
        "INSERT INTO distillation.ledger (org_id, run_id, change, subject_id, before, after, stamp, at)"
        " VALUES ('acme', :id, 'merge', :id, '{}', '{}', 's', now())",
        id=uuid4(),
    )
    assert len(rows(restricted, "SELECT * FROM distillation.ledger")) == 1


def is_refused(store: Store, statement: str) -> bool:
    try:
        execute(store, statement)
    except StoreError as error:
        return "permission denied" in str(error) or "must be owner" in str(error)
    return False


def test_the_readme_shows_these_very_grants() -> None:
    readme = Path(__file__).parents[2].joinpath("README.md").read_text("utf-8")
    shown = readme.partition("<!-- grants:begin -->")[2].partition("<!-- grants:end -->")[0]
    said = " ".join(line for line in shown.split("\n") if not line.startswith(("```", "--"))).split()
    assert said == [
        word for statement in roles.erasing_grants_sql("distiller") for word in f"{statement};".split()
    ]
