"""Where Dagster keeps its own runs and events: Postgres when one is configured, SQLite otherwise.

The stock `storage.postgres` fails to start when its environment variable is unset; this class picks at
start, in every process alike. Dagster's tables belong in a database of their own.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster._core.storage.base_storage import DagsterStorage
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from hivemind_pipelines.settings import load


class InstanceStorage(DagsterStorage, ConfigurableClass):
    """Named in dagster.yaml; what it builds is one of Dagster's own two storages."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """No options: the environment says it all."""
        return {}

    @classmethod
    def from_config_value(  # type: ignore[override]  # one of two other classes, by design
        cls, inst_data: ConfigurableClassData | None, _config_value: Mapping[str, Any]
    ) -> DagsterStorage:
        """The storage of this process; called by Dagster's instance."""
        settings = load()
        if settings.dagster_database_url is not None:
            from dagster_postgres import DagsterPostgresStorage

            return DagsterPostgresStorage(psycopg2_url(settings.dagster_database_url), inst_data=inst_data)
        from dagster._core.storage.sqlite_storage import DagsterSqliteStorage

        return DagsterSqliteStorage.from_local(str(sqlite_directory(settings.home)), inst_data=inst_data)


def sqlite_directory(home: Path) -> Path:
    """The instance's directory, or the one that `dev` would use when no instance is named."""
    return Path(os.environ.get("DAGSTER_HOME") or home / "dagster").absolute() / "storage"


def psycopg2_url(url: str) -> str:
    """The URL with the driver that Dagster's storage brings; SQLAlchemy 2.1 would pick psycopg 3."""
    return re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql+psycopg2://", url)
