"""A distillation run in a process of its own that stops dead at a named point, to be killed there.

    python -m hivemind_pipelines_tests.faults.interrupted DATABASE_URL POINT

It prints the point's name once it is reached and then waits for ever. A point is `embedding`, `scanning`,
a stage's name (after that stage) or `sql:` and a fragment of a statement (before it, inside its transaction).
"""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import event

from hivemind_pipelines.core.model import OrgId, Stage, Vectors
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.core.receipts import Receipt
from hivemind_pipelines.services.pii import GatedScanner, PiiOutcome
from hivemind_pipelines.stages import distillation, item_features
from hivemind_pipelines.store.connection import Store, open_store
from hivemind_pipelines_tests.builders import ACME
from hivemind_pipelines_tests.fakes import HashEmbedder
from hivemind_pipelines_tests.stages.commons import NOW, policy, services

#: Small, so that a run has several batches to be interrupted between.
BATCH = 8

BRIEF_LEASE: dict[str, Any] = {"llm_lease": "PT2S", "llm_call_timeout": "PT1S", "llm_backoff": "PT1S"}


def interruptible_policy() -> DistillationPolicy:
    """The policy of the interrupted and of the resuming runs: claims are leased for two seconds."""
    return policy(topics={"distance_max": 0.7}, safety=BRIEF_LEASE)


def stop(point: str) -> None:
    """Say where we are and go no further."""
    print(point, flush=True)
    time.sleep(3600)


class StoppingEmbedder(HashEmbedder):
    """Stops in its second batch."""

    calls = 0

    def embed(self, texts: Sequence[str], on_progress: Callable[[int, int], None] | None = None) -> Vectors:
        self.calls += 1
        if self.calls == 2:
            stop("embedding")
        return super().embed(texts, on_progress)


class StoppingScanner(GatedScanner):
    """Stops at the first text it is given: in the middle of a claimed summary."""

    def redact(self, texts: Sequence[str]) -> list[PiiOutcome]:
        stop("scanning")
        return super().redact(texts)


def stop_before(store: Store, fragment: str) -> None:
    """Stop before the first statement that holds the fragment."""

    @event.listens_for(store._engine, "before_cursor_execute")
    def watch(_conn: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if fragment in statement:
            stop(f"sql:{fragment}")


def main(url: str, point: str) -> None:
    item_features.BATCH = BATCH
    chosen: dict[str, Any] = {}
    if point == "embedding":
        chosen["embedder"] = StoppingEmbedder()
    if point == "scanning":
        chosen["scanner"] = StoppingScanner(policy().pii)

    def after(_org: OrgId, stage: Stage, _receipt: Receipt) -> None:
        if stage == point:
            stop(point)

    with open_store(url) as store:
        if point.startswith("sql:"):
            stop_before(store, point.removeprefix("sql:"))
        distillation.distill(
            store, services(**chosen), interruptible_policy(), [OrgId(ACME)], now=NOW, on_stage=after
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
