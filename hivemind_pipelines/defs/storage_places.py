"""Where the Dagster instance keeps what it remembers: its database, or its directories."""

from dataclasses import dataclass
from pathlib import Path

from dagster import DagsterInstance
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager


@dataclass(frozen=True, slots=True)
class StoragePlaces:
    """Databases by URL, directories, and by class what we cannot read."""

    databases: tuple[str, ...] = ()
    directories: tuple[Path, ...] = ()
    unknown: tuple[str, ...] = ()


def storage_places(instance: DagsterInstance) -> StoragePlaces:
    """The places of an instance; none for one that is forgotten with its process."""
    if instance.is_ephemeral:
        return StoragePlaces()
    databases, directories, unknown = _storages(instance)
    logs = instance.compute_log_manager
    if isinstance(logs, LocalComputeLogManager):
        directories.add(Path(logs._base_dir))
    elif not isinstance(logs, NoOpComputeLogManager):
        unknown.add(f"Dagster's compute logs ({type(logs).__name__})")
    directories.add(Path(instance.root_directory))
    kept = tuple(sorted(one.absolute() for one in directories if one.is_dir()))
    return StoragePlaces(tuple(sorted(databases)), kept, tuple(sorted(unknown)))


def _storages(instance: DagsterInstance) -> tuple[set[str], set[Path], set[str]]:
    databases, directories, unknown = set[str](), set[Path](), set[str]()
    for storage in (instance.run_storage, instance.event_log_storage, instance.schedule_storage):
        url = getattr(storage, "postgres_url", None)
        base = getattr(storage, "_base_dir", None)
        if url is not None:
            databases.add(str(url).replace("postgresql+psycopg2://", "postgresql://"))
        elif base is not None:
            directories.add(Path(base))
        elif not type(storage).__name__.startswith("Sqlite"):
            unknown.add(f"Dagster's storage ({type(storage).__name__})")
    return databases, directories, unknown
