"""The office that erases as this deployment is set up, and the erasures that a process left unfinished."""

from datetime import UTC, datetime
from pathlib import Path

from dagster import DagsterInstance

from hivemind_pipelines.core.model import OrgId
from hivemind_pipelines.defs.resources import Commons
from hivemind_pipelines.defs.storage_places import storage_places
from hivemind_pipelines.settings import Settings
from hivemind_pipelines.stages import erasing
from hivemind_pipelines.stages.erasing import Issued, Office
from hivemind_pipelines.stages.residual_scan import Places
from hivemind_pipelines.store.connection import Store


def office_of(instance: DagsterInstance, settings: Settings, store: Store) -> Office:
    """What to search: the commons, the storage of the instance and the home; receipts lie in the home."""
    found = storage_places(instance)
    directories = tuple(sorted({settings.home, *found.directories}))
    places = Places(store, found.databases, _outermost(directories), found.unknown)
    return Office(places, settings.home, settings.receipt_key)


def resume(instance: DagsterInstance, commons: Commons, org_id: OrgId | None = None) -> tuple[Issued, ...]:
    """Finish the erasures, of one org or of any, whose process died; their receipts."""
    office = office_of(instance, commons.settings, commons.store)
    return erasing.resume(office, now=datetime.now(UTC), org_id=org_id)


def _outermost(directories: tuple[Path, ...]) -> tuple[Path, ...]:
    """The directories that lie in no other of them, so that no file is read twice."""
    return tuple(one for one in directories if not any(other in one.parents for other in directories))
