"""Where Dagster keeps its runs: SQLite below the instance unless a Postgres is configured."""

from pathlib import Path

import pytest
import yaml
from dagster import DagsterInstance
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster_postgres import PostgresEventLogStorage

from hivemind_pipelines.defs import development
from hivemind_pipelines.defs.instance_storage import psycopg2_url, sqlite_directory
from hivemind_pipelines.services import embedded_postgres


@pytest.fixture
def dagster_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = development.write_instance(tmp_path / "dagster")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("HIVEMIND_HOME", str(tmp_path))
    monkeypatch.delenv("HIVEMIND_DAGSTER_DATABASE_URL", raising=False)
    return home


def test_the_shipped_instance_starts_on_sqlite_below_its_own_directory(dagster_home: Path) -> None:
    with DagsterInstance.from_config(str(dagster_home)) as instance:
        assert isinstance(instance.event_log_storage, SqliteEventLogStorage)
        instance.add_dynamic_partitions("orgs", ["acme"])
        assert not instance.telemetry_enabled
        assert instance.run_monitoring_enabled
        assert not instance.run_retries_max_retries
    assert list((dagster_home / "storage").glob("**/*.db"))


def test_another_process_finds_what_the_first_one_stored(dagster_home: Path) -> None:
    with DagsterInstance.from_config(str(dagster_home)) as first:
        first.add_dynamic_partitions("orgs", ["acme"])
        reference = first.get_ref()
    with DagsterInstance.from_ref(reference) as second:
        assert second.get_dynamic_partitions("orgs") == ["acme"]


def test_a_configured_postgres_is_used_whatever_driver_its_url_names(
    dagster_home: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = embedded_postgres.ensure_database(postgres_url, "dagster_storage")
    monkeypatch.setenv("HIVEMIND_DAGSTER_DATABASE_URL", url)
    with DagsterInstance.from_config(str(dagster_home)) as instance:
        instance.add_dynamic_partitions("orgs", ["acme"])
        assert isinstance(instance.event_log_storage, PostgresEventLogStorage)
        assert instance.get_dynamic_partitions("orgs") == ["acme"]
    assert not (dagster_home / "storage" / "history").exists()


def test_one_org_has_one_distillation_and_an_erasure_waits_for_none(dagster_home: Path) -> None:
    document = yaml.safe_load((dagster_home / "dagster.yaml").read_text())
    limits = {limit["key"]: limit for limit in document["run_queue"]["tag_concurrency_limits"]}
    assert limits["hivemind/distillation_org"]["limit"] == 1
    assert limits["hivemind/distillation_org"]["value"] == {"applyLimitPerUniqueValue": True}
    assert "hivemind/erasure_org" not in limits
    assert document["run_queue"]["max_concurrent_runs"] > limits["hivemind/job"]["limit"]


def test_the_checkout_and_the_package_ship_the_same_files(dagster_home: Path) -> None:
    root = Path(__file__).parents[2]
    for name in ("dagster.yaml", "workspace.yaml"):
        assert (root / name).read_text() == (dagster_home / name).read_text()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+asyncpg"])
def test_every_driver_suffix_becomes_the_one_dagster_brings(scheme: str) -> None:
    assert psycopg2_url(f"{scheme}://u:p@h:5/d?x=1") == "postgresql+psycopg2://u:p@h:5/d?x=1"


def test_without_an_instance_directory_sqlite_lies_below_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    assert sqlite_directory(tmp_path) == tmp_path / "dagster" / "storage"
