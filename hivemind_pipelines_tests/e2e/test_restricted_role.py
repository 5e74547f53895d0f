"""The whole distillation under a role that can destroy nothing."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import make_url

from hivemind_pipelines.core.model import OrgId, RunId, Stage
from hivemind_pipelines.stages import backlog, erasing, erasure_propagation, quality_scores
from hivemind_pipelines.stages.backlog import ModelStamps
from hivemind_pipelines.stages.erasing import Office
from hivemind_pipelines.stages.residual_scan import Places
from hivemind_pipelines.store import invariants, roles, runs
from hivemind_pipelines.store.connection import Store, StoreError, open_store
from hivemind_pipelines.store.migrations.migrate import migrate
from hivemind_pipelines_tests.builders import (
    ACME,
    delete_item,
    execute,
    insert_item,
    insert_items,
    insert_pending,
    insert_signal,
    public_dump,
    scalar,
    set_item,
    unit_vector,
)
from hivemind_pipelines_tests.observed import forbidden_changes
from hivemind_pipelines_tests.stages.commons import NOW, distil, policy, services

ROLE = "pipelines_at_work"
LOOSE = policy(topics={"distance_max": 0.7}, prescreen={"flag_sensitive": True})
TIGHT = policy(
    topics={"distance_max": 0.7}, matching={"duplicate_min": 1.0}, prescreen={"low_quality_below": 0.0}
)
FIX = "Set the pool timeout to avoid stale connections after a database failover"
RELATED = [
    "Retry the upload with exponential backoff when the storage gateway answers slowly",
    "When the storage gateway answers slowly the upload should retry with exponential backoff and jitter",
    "Uploads retry with exponential backoff while the storage gateway answers slowly under load",
]


@pytest.fixture
def owner(hivemind_store: Store) -> Store:
    """The owner's store on a HiveMind database that is migrated."""
    migrate(hivemind_store)
    return hivemind_store


@pytest.fixture
def restricted(owner: Store) -> Iterator[Store]:
    """The same database, entered by a role that has our grants and nothing else."""
    execute(owner, f"CREATE ROLE {ROLE} LOGIN")
    for statement in roles.grants_sql(ROLE):
        execute(owner, statement)
    url = make_url(owner.url).set(username=ROLE).render_as_string(hide_password=False)
    with open_store(url) as opened:
        yield opened
    execute(owner, f"DROP OWNED BY {ROLE}")
    execute(owner, f"DROP ROLE {ROLE}")


def test_everything_but_migrating_runs_under_the_restricted_role(owner: Store, restricted: Store) -> None:
    assert scalar(restricted, "SELECT current_user") == ROLE
    kept = insert_item(owner, FIX, quality_score=0.9)
    insert_item(owner, f"{FIX}.")
    insert_item(owner, FIX.replace("avoid", "avoid the"))
    sources = insert_items(owner, RELATED, category="tooling")
    rivals = [
        insert_item(owner, text, category="config", embedding=unit_vector(3))
        for text in ("The cache must be warm before a release", "The cache must be cold before a release")
    ]
    for item in (*rivals, kept):
        insert_signal(owner, item)
    insert_pending(owner, "A poor note", confidence=0.1)
    told = insert_pending(owner, "Ask jo.doe@acme-corp.io for the key of the staging cluster")
    before = public_dump(owner)

    first = distil(restricted, under=LOOSE)
    quality_scores.run(restricted, NOW, LOOSE, RunId(uuid4()))
    distil(restricted, under=LOOSE, dry_run=True, full=True)
    second = distil(restricted, under=TIGHT, now=NOW + timedelta(hours=1))
    assert {stage for stage, receipt in first.items() if receipt.applied == 0} == set()
    assert second[Stage.PRESCREENED_CONTRIBUTIONS].counts()["cleared"] == 1
    flagged = "SELECT is_sensitive_flagged FROM public.pending_contributions WHERE id = :id"
    assert scalar(owner, flagged, id=told) is True
    execute(owner, "UPDATE public.pending_contributions SET is_sensitive_flagged = false")
    assert forbidden_changes(before, public_dump(owner)) == []

    set_item(owner, sources[0], deleted_at=NOW)
    delete_item(owner, kept)
    assert backlog.erasure_orgs(restricted) == (ACME,)
    erased = erasure_propagation.run(restricted, NOW + timedelta(hours=2), LOOSE, RunId(uuid4()), OrgId(ACME))
    assert (erased.deleted, erased.gone, erased.summaries_retired) == (1, 1, 1)
    set_item(owner, sources[0], deleted_at=None)
    distil(restricted, under=LOOSE, now=NOW + timedelta(hours=3))
    with restricted.begin() as conn:
        runs.write_receipt(conn, "item_features", OrgId(ACME), {"due": 0}, NOW)
        assert invariants.violations(conn) == ()
    found = backlog.read(restricted, LOOSE, NOW, ModelStamps.of(services()))
    assert {org.org_id: sum(org.due.values()) for org in found.orgs} == {ACME: 0}


def test_only_the_erasing_role_may_erase(owner: Store, restricted: Store, tmp_path: Path) -> None:
    sources = insert_items(owner, RELATED, category="tooling")
    distil(restricted, under=LOOSE)
    before = public_dump(owner)
    office = Office(Places(restricted, directories=(tmp_path,)), tmp_path, b"a key of the tests")
    with pytest.raises(StoreError, match="lacks a right"):
        erasing.erase(office, LOOSE, sources[:1], reason="asked", with_copies=False, now=NOW)
    assert public_dump(owner) == before
    for statement in roles.erasing_grants_sql(ROLE):
        execute(owner, statement)
    [issued] = erasing.erase(office, LOOSE, sources[:1], reason="asked", with_copies=False, now=NOW).issued
    assert issued.residue == {}
    assert scalar(owner, "SELECT count(*) FROM public.knowledge_items WHERE content LIKE '[erased %'") == 2
    # The server's own table of revisions was not granted: what cannot be read is named.
    scan = issued.receipt["scan"]
    assert isinstance(scan, dict)
    assert scan["not_scanned"] == ["public.alembic_version.version_num"]


TABLES = ("knowledge_items", "pending_contributions", "quality_signals", "deployment_config")


def test_nothing_can_be_destroyed_or_made_by_it(restricted: Store) -> None:
    destructive = (
        "DELETE FROM public.{}",
        "TRUNCATE public.{} CASCADE",
        "DROP TABLE public.{} CASCADE",
        "ALTER TABLE public.{} ADD COLUMN note text",
        "ALTER TABLE public.{} DISABLE TRIGGER ALL",
        "CREATE INDEX ON public.{} ((1))",
    )
    for statement in (
        *(statement.format(table) for statement in destructive for table in TABLES),
        "CREATE TABLE public.mine (id int)",
        "CREATE TABLE distillation.mine (id int)",
        "CREATE SCHEMA mine",
        "DROP SCHEMA distillation CASCADE",
        "DROP TABLE distillation.ledger",
        "DROP TYPE public.knowledgecategory CASCADE",
        "ALTER TYPE public.knowledgecategory ADD VALUE 'wisdom'",
        "DROP EXTENSION vector CASCADE",
        "DELETE FROM distillation.ledger",
        f"GRANT ALL ON public.knowledge_items TO {ROLE}; DELETE FROM public.knowledge_items",
    ):
        with pytest.raises(StoreError, match="lacks a right"):
            execute(restricted, statement)
