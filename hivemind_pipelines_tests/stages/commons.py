"""A small commons for stage tests: real Postgres, a hashing embedder, the real gate without persons."""

from datetime import UTC, datetime
from typing import Any

from hivemind_pipelines.core.model import OrgId, Stage
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.core.receipts import Receipt
from hivemind_pipelines.services.llm import Llm
from hivemind_pipelines.services.pii import GatedScanner
from hivemind_pipelines.stages import distillation
from hivemind_pipelines.stages.context import Services
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import ACME
from hivemind_pipelines_tests.fakes import HashEmbedder

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def policy(**sections: dict[str, Any]) -> DistillationPolicy:
    """The shipped policy with extractive summaries and the sections given; no names of persons, and no readings
    unless `contradiction` asks for them.
    """
    base: dict[str, dict[str, Any]] = {"summary": {"method": "extractive"}, "pii": {"detect_persons": False}}
    contradiction = {"reads": False} | sections.get("contradiction", {})
    return DistillationPolicy.parse(base | sections | {"contradiction": contradiction})


def services(llm: Llm | None = None, **overrides: Any) -> Services:
    """Services without a model to load; pass an `llm` to have one."""
    chosen: dict[str, Any] = {
        "embedder": HashEmbedder(),
        "scanner": GatedScanner(policy().pii),
        "llm": llm,
        "llm_model": "test-model",
    }
    return Services(**chosen | overrides)


def distil(
    store: Store,
    org: str = ACME,
    *,
    now: datetime = NOW,
    under: DistillationPolicy | None = None,
    using: Services | None = None,
    **options: Any,
) -> dict[Stage, Receipt]:
    """One in-process run of one org; its receipts by stage."""
    done = distillation.distill(
        store, using or services(), under or policy(), [OrgId(org)], now=now, **options
    )
    return done[OrgId(org)]
