"""Spending: one org's calls to the model, each reserved in the database before and settled after it."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from threading import Lock

from hivemind_pipelines.core.model import LlmOutcome, LlmRequest, LlmUnavailable, LlmUsage
from hivemind_pipelines.core.safety import Budget, OutOfBudget, Spend
from hivemind_pipelines.stages.context import StageContext
from hivemind_pipelines.store import spend

#: Why a call was not made: nothing failed, and the work waits for the next run.
STAGE_DEADLINE = "stage_deadline"

_NO_ATTEMPT = LlmUsage(attempts=0)


@dataclass(slots=True)
class Purse:
    """What a stage has asked of the model so far; the threads that ask share it. No call begins after `deadline`."""

    ctx: StageContext
    deadline: datetime
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    _lock: Lock = field(default_factory=Lock)

    def call(self, request: LlmRequest) -> LlmOutcome:
        """One call when the budget has room for its worst case, booked whatever becomes of it."""
        llm = self.ctx.services.llm
        if llm is None:
            return LlmUnavailable("no_key", _NO_ATTEMPT)
        if self.ctx.clock() >= self.deadline:
            return LlmUnavailable(STAGE_DEADLINE, _NO_ATTEMPT)
        granted = self._reserve(request)
        if isinstance(granted, OutOfBudget):
            return LlmUnavailable(f"budget_{granted.reason}", _NO_ATTEMPT)
        outcome = llm.complete(granted.request)
        self._settle(granted, outcome.usage)
        return outcome

    def _reserve(self, request: LlmRequest) -> "_Granted | OutOfBudget":
        ctx = self.ctx
        with ctx.store.begin() as conn:
            spend.lock(conn, ctx.org_id)
            spent = spend.read_spent(conn, ctx.org_id, ctx.run_id, now=ctx.clock())
            budget = _budget(ctx, spent)
            granted = budget.grant(request)
            if isinstance(granted, OutOfBudget):
                return granted
            worst = granted.attempts_max * budget.worst_case(granted).usd
            reservation = spend.reserve(
                conn, ctx.org_id, ctx.run_id,
                purpose=request.purpose, calls=granted.attempts_max, usd=worst, at=ctx.clock(),
            )  # fmt: skip
        return _Granted(granted, reservation)

    def _settle(self, granted: "_Granted", usage: LlmUsage) -> None:
        with self._lock:
            self.calls += usage.attempts
            self.input_tokens += usage.input_tokens
            self.output_tokens += usage.output_tokens
        ctx = self.ctx
        usd = _budget(ctx).cost_usd(usage.input_tokens, usage.output_tokens)
        with ctx.store.begin() as conn:
            spend.settle(conn, ctx.org_id, granted.reservation, usage=usage, usd=usd)


@dataclass(frozen=True, slots=True)
class _Granted:
    """A request with the attempts it may take, and the row that holds their worst cost."""

    request: LlmRequest
    reservation: int


def open_purse(ctx: StageContext) -> Purse:
    """A purse whose stage begins now."""
    return Purse(ctx, ctx.clock() + ctx.policy.safety.llm_stage_timeout)


def read_budget(ctx: StageContext) -> Budget:
    """What the org may still spend, what other runs hold deducted."""
    with ctx.store.read() as conn:
        return _budget(ctx, spend.read_spent(conn, ctx.org_id, ctx.run_id, now=ctx.clock()))


def _budget(ctx: StageContext, spent: spend.Spent | None = None) -> Budget:
    priced = Budget(ctx.policy.safety.for_model(ctx.services.llm_model))
    if spent is None:
        return priced
    run, day = Spend(spent.run_calls, spent.run_usd), Spend(spent.day_calls, spent.day_usd)
    return replace(priced, run=run, day=day)
