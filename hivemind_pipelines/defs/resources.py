"""The commons as Dagster code reaches it: settings, policy, store and services, each built on first use."""

from functools import cached_property
from pathlib import Path

from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.services.embedded_postgres import ensure_running
from hivemind_pipelines.settings import Settings, load, load_policy
from hivemind_pipelines.stages.backlog import ModelStamps
from hivemind_pipelines.stages.context import Progress, Services, build_services
from hivemind_pipelines.store import runs
from hivemind_pipelines.store.connection import Store, StoreError, open_store


class Commons:
    """One per process; what is passed in stays, the rest is read from the environment when needed."""

    def __init__(
        self,
        *,
        settings: Settings | None = None,
        policy: DistillationPolicy | None = None,
        store: Store | None = None,
        services: Services | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.progress = progress
        self._settings = settings
        self._policy = policy
        self._store = store
        self._services = services

    @cached_property
    def settings(self) -> Settings:
        """The environment, parsed once."""
        return self._settings or load()

    @cached_property
    def policy(self) -> DistillationPolicy:
        """The policy of this process; a run keeps it to its end."""
        return self.current_policy()

    def current_policy(self) -> DistillationPolicy:
        """The policy as its file says now, for sensors that live longer than a policy."""
        return self._policy or load_policy(self.settings)

    @cached_property
    def store(self) -> Store:
        """The configured database, or the embedded one, whose tables are made on first use."""
        if self._store is not None:
            return self._store
        if self.settings.database_url is not None:
            return open_store(self.settings.database_url)
        return _embedded_store(self.settings.home)

    def current_store(self) -> Store:
        """The store, for sensors that live on when the embedded server was killed: it is started again."""
        if self._store is None and self.settings.database_url is None:
            ensure_running(self.settings.home)
        return self.store

    def current_models(self) -> ModelStamps:
        """The models that rows are measured against under the policy as it is now; loads none of them."""
        return ModelStamps.of(self._services or build_services(self.settings, self.current_policy()))

    @cached_property
    def services(self) -> Services:
        """The outside services; models are loaded by their first use."""
        return self._services or build_services(self.settings, self.policy)


def _embedded_store(home: Path) -> Store:
    store = open_store(ensure_running(home))
    if not _has_our_tables(store):
        from hivemind_pipelines.store.migrations.migrate import migrate

        migrate(store)
    return store


def _has_our_tables(store: Store) -> bool:
    try:
        with store.read() as connection:
            runs.read_receipts(connection, "", [])
    except StoreError:
        return False
    return True
