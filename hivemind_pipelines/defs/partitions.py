"""Orgs as dynamic partitions: one partition an org, added when the org is first seen."""

import warnings
from collections.abc import Iterable

from dagster import BackfillPolicy, BetaWarning, DagsterInstance, DynamicPartitionsDefinition

# Known and wanted: dagster is pinned, and every asset would say it again in every process.
warnings.filterwarnings("ignore", message="Parameter `backfill_policy`", category=BetaWarning)

orgs = DynamicPartitionsDefinition(name="orgs")

#: A backfill hands up to this many orgs to one run; the start of a process is what costs.
backfill_policy = BackfillPolicy.multi_run(max_partitions_per_run=100)

_REFUSED_IN_KEYS = ("...", "\a", "\b", "\f", "\n", "\r", "\t", "\v", "\0")


def is_partition_key(org_id: str) -> bool:
    """Whether Dagster takes this org id as a partition key; it refuses control characters and `...`."""
    return bool(org_id) and not any(part in org_id for part in _REFUSED_IN_KEYS)


def missing_orgs(instance: DagsterInstance, org_ids: Iterable[str]) -> list[str]:
    """The orgs that are no partition yet and may become one, sorted."""
    known = set(instance.get_dynamic_partitions("orgs"))
    return sorted({org_id for org_id in org_ids if is_partition_key(org_id)} - known)


def add_orgs(instance: DagsterInstance, org_ids: Iterable[str]) -> list[str]:
    """Add the orgs that are no partition yet; returns those that were added."""
    added = missing_orgs(instance, org_ids)
    if added:
        instance.add_dynamic_partitions("orgs", added)
    return added
