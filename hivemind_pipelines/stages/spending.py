"""Spending: one org's calls to the model, within budget and booked before their answer is used."""

from dataclasses import dataclass, field
from threading import Lock

from hivemind_pipelines.core.model import LlmOutcome, LlmRequest, LlmUnavailable, LlmUsage
from hivemind_pipelines.core.safety import Budget, OutOfBudget, Spend
from hivemind_pipelines.stages.context import StageContext
from hivemind_pipelines.store import spend


@dataclass(slots=True)
class Purse:
    """The budget of a run, shared by the threads that call the model."""

    ctx: StageContext
    budget: Budget
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    _lock: Lock = field(default_factory=Lock)

    def call(self, request: LlmRequest) -> LlmOutcome:
        """One call when the budget has room for its worst case, booked whatever becomes of it."""
        llm = self.ctx.services.llm
        if llm is None:
            return LlmUnavailable("no_key", LlmUsage(attempts=0))
        with self._lock:
            reserved = self.budget.reserve(request)
            if isinstance(reserved, OutOfBudget):
                return LlmUnavailable(f"budget_{reserved.reason}", LlmUsage(attempts=0))
            self.budget = reserved
        outcome = llm.complete(request)
        self._book(request, outcome.usage)
        return outcome

    def _book(self, request: LlmRequest, usage: LlmUsage) -> None:
        with self._lock:
            self.budget = self.budget.settle(request, usage)
            self.calls += usage.attempts
            self.input_tokens += usage.input_tokens
            self.output_tokens += usage.output_tokens
        ctx = self.ctx
        with ctx.store.begin() as conn:
            spend.record_spend(
                conn, ctx.org_id, ctx.run_id, purpose=request.purpose, usage=usage,
                usd=self.budget.cost_usd(usage.input_tokens, usage.output_tokens), at=ctx.clock(),
            )  # fmt: skip


def open_purse(ctx: StageContext) -> Purse:
    """A purse that knows what the org has spent today and in this run."""
    with ctx.store.read() as conn:
        spent = spend.read_spent(conn, ctx.org_id, ctx.run_id, now=ctx.clock())
    run, day = Spend(spent.run_calls, spent.run_usd), Spend(spent.day_calls, spent.day_usd)
    return Purse(ctx, Budget(ctx.policy.safety, run=run, day=day))
