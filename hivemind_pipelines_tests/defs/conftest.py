"""The code location on a real database, with an embedder and a scanner that need no model."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from dagster import DagsterInstance, Definitions, ExecuteInProcessResult

from hivemind_pipelines.core.model import Finding
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.definitions import build_defs
from hivemind_pipelines.defs.partitions import add_orgs
from hivemind_pipelines.defs.resources import Commons
from hivemind_pipelines.services.pii import PiiOutcome, Redacted, ScanFailed
from hivemind_pipelines.settings import Settings
from hivemind_pipelines.stages.context import Services
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.fakes import HashEmbedder


class CleanScanner:
    """A PiiScanner that finds every text clean."""

    stamp = "clean-1"

    def redact(self, texts: list[str]) -> list[PiiOutcome]:
        return [Redacted(text, {}) for text in texts]

    def findings(self, texts: list[str]) -> list[tuple[Finding, ...] | ScanFailed]:
        return [() for _ in texts]


SERVICES = Services(HashEmbedder(), CleanScanner(), None, "no-model")


@dataclass(frozen=True)
class Location:
    """Our definitions with the instance they run in."""

    instance: DagsterInstance
    commons: Commons
    definitions: Definitions

    def run(self, job: str, org: str | None = None, **tags: str) -> ExecuteInProcessResult:
        """Run one of our jobs in this process."""
        if org is not None:
            add_orgs(self.instance, [org])
        return self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance, partition_key=org, tags=tags
        )


def location(
    instance: DagsterInstance,
    store: Store,
    policy: DistillationPolicy,
    settings: Settings | None = None,
    services: Services = SERVICES,
) -> Location:
    """The code location under a given policy."""
    commons = Commons(settings=settings or Settings(), policy=policy, store=store, services=services)
    return Location(instance, commons, build_defs({"commons": commons}))


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as opened:
        yield opened


@pytest.fixture
def commons_location(instance: DagsterInstance, store: Store) -> Location:
    """The code location under the shipped policy with extractive summaries."""
    return location(instance, store, DistillationPolicy.parse({"summary": {"method": "extractive"}}))
