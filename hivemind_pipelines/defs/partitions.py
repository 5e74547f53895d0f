"""Orgs as dynamic partitions: one partition an org, added when the org is first seen."""

import warnings
from collections.abc import Iterable
from urllib.parse import quote, unquote

from dagster import BackfillPolicy, BetaWarning, DagsterInstance, DynamicPartitionsDefinition

from hivemind_pipelines.core.model import OrgId

# Known and wanted: dagster is pinned, and every asset would say it again in every process.
warnings.filterwarnings("ignore", message="Parameter `backfill_policy`", category=BetaWarning)

orgs = DynamicPartitionsDefinition(name="orgs")

#: A backfill hands up to this many orgs to one run; the start of a process is what costs.
PARTITIONS_PER_RUN = 100
backfill_policy = BackfillPolicy.multi_run(max_partitions_per_run=PARTITIONS_PER_RUN)

_REFUSED_IN_KEYS = ("...", "\a", "\b", "\f", "\n", "\r", "\t", "\v", "\0")

#: What marks a key that stands for an org id Dagster would refuse.
_ENCODED = "percent-encoded:"


def partition_key(org_id: str) -> str:
    """The org id itself, or, where Dagster refuses it (control characters, `...`, empty), its encoding."""
    is_plain = org_id and not org_id.startswith(_ENCODED)
    if is_plain and not any(part in org_id for part in _REFUSED_IN_KEYS):
        return org_id
    return _ENCODED + quote(org_id, safe="").replace(".", "%2E")


def org_of(key: str) -> OrgId:
    """The org that a partition key stands for: the inverse of `partition_key`."""
    return OrgId(unquote(key.removeprefix(_ENCODED)) if key.startswith(_ENCODED) else key)


def missing_keys(instance: DagsterInstance, org_ids: Iterable[str]) -> list[str]:
    """The keys of orgs that are no partition yet, sorted."""
    return sorted(set(map(partition_key, org_ids)) - set(instance.get_dynamic_partitions("orgs")))


def add_orgs(instance: DagsterInstance, org_ids: Iterable[str]) -> list[str]:
    """Add the orgs that are no partition yet; returns the keys that were added."""
    added = missing_keys(instance, org_ids)
    if added:
        instance.add_dynamic_partitions("orgs", added)
    return added
