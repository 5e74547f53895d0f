"""Safety: the mass-change breaker and the budget of LLM calls, in calls and in US dollars."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Self

from hivemind_pipelines.core.changes import Change, Merge, Refusal, Retire
from hivemind_pipelines.core.model import LlmRequest, LlmUsage
from hivemind_pipelines.core.policy import SafetyPolicy

#: A cautious floor for prose and code in Latin script, so that a reservation is rarely too small.
CHARACTERS_PER_TOKEN = 2.0

BudgetReason = Literal["prompt_characters", "calls_per_run", "calls_per_day", "usd_per_run", "usd_per_day"]


def mass_change(plan: Iterable[Change], live_count: int, policy: SafetyPolicy) -> Refusal | None:
    """Refuse a plan that newly expires too large a share of the live items; what it revives is not netted."""
    if live_count < policy.mass_change_items_min:
        return None
    expired_count = sum(map(_expires, plan))
    if expired_count <= policy.mass_change_share_max * live_count:
        return None
    return Refusal(expired_count, live_count, policy.mass_change_share_max)


def _expires(change: Change) -> bool:
    match change:
        case Merge():
            return change.previous_canonical_id is None
        case Retire():
            return True
        case _:
            return False


@dataclass(frozen=True, slots=True)
class OutOfBudget:
    """A call that must not be made; `reason` names the limit it would exceed."""

    reason: BudgetReason


@dataclass(frozen=True, slots=True)
class Spend:
    """Calls made and US dollars paid for them."""

    calls: int = 0
    usd: float = 0.0

    def __add__(self, other: "Spend") -> "Spend":
        return Spend(self.calls + other.calls, self.usd + other.usd)

    def __sub__(self, other: "Spend") -> "Spend":
        return Spend(max(0, self.calls - other.calls), max(0.0, self.usd - other.usd))


@dataclass(frozen=True, slots=True)
class Budget:
    """What may still be spent: `run` and `day` are paid, `reserved` is held by calls under way."""

    policy: SafetyPolicy
    run: Spend = Spend()
    day: Spend = Spend()
    reserved: Spend = Spend()

    def grant(self, request: LlmRequest) -> LlmRequest | OutOfBudget:
        """The request with the attempts it may take: near the end of the budget, one for each thread's call."""
        refusal = self.reserve(request)
        if isinstance(refusal, OutOfBudget):
            return refusal
        once, threads = self.worst_case(request).usd, self.policy.llm_concurrency
        affordable = math.floor(self.usd_left() / once) if once else self.calls_left()
        share = min(self.calls_left(), affordable) // threads
        return replace(request, attempts_max=max(1, min(request.attempts_max, share)))

    def reserve(self, request: LlmRequest) -> Self | OutOfBudget:
        """Hold one call and its worst cost; `settle` gives back what it did not cost."""
        policy, worst = self.policy, self.worst_case(request)
        run, day = self.run + self.reserved + worst, self.day + self.reserved + worst
        limits: tuple[tuple[BudgetReason, float, float], ...] = (
            ("prompt_characters", _prompt_characters(request), policy.llm_prompt_characters_max),
            ("calls_per_run", run.calls, policy.llm_calls_per_run_max),
            ("calls_per_day", day.calls, policy.llm_calls_per_day_max),
            ("usd_per_run", run.usd, policy.llm_usd_per_run_max),
            ("usd_per_day", day.usd, policy.llm_usd_per_day_max),
        )
        exceeded = next((name for name, value, limit in limits if value > limit), None)
        return OutOfBudget(exceeded) if exceeded else replace(self, reserved=self.reserved + worst)

    def settle(self, request: LlmRequest, usage: LlmUsage) -> Self:
        """Release the reservation of `request` and book what it did cost, every attempt a call."""
        paid = Spend(usage.attempts, self.cost_usd(usage.input_tokens, usage.output_tokens))
        return replace(
            self, run=self.run + paid, day=self.day + paid, reserved=self.reserved - self.worst_case(request)
        )

    def worst_case(self, request: LlmRequest) -> Spend:
        """One call at a dense tokenisation of the prompt and the longest answer."""
        input_tokens = math.ceil(_prompt_characters(request) / CHARACTERS_PER_TOKEN)
        return Spend(1, self.cost_usd(input_tokens, request.max_output_tokens))

    def cost_usd(self, input_tokens: int, output_tokens: int) -> float:
        """The price of tokens in US dollars under the policy's table."""
        policy = self.policy
        million = 1_000_000
        return (
            input_tokens * policy.llm_usd_per_mtok_input + output_tokens * policy.llm_usd_per_mtok_output
        ) / million

    def calls_left(self) -> int:
        """Calls that neither limit forbids, reservations deducted; never negative."""
        policy, held = self.policy, self.reserved.calls
        run_left = policy.llm_calls_per_run_max - self.run.calls - held
        day_left = policy.llm_calls_per_day_max - self.day.calls - held
        return max(0, min(run_left, day_left))

    def usd_left(self) -> float:
        """US dollars that neither limit forbids, reservations deducted; never negative."""
        policy, held = self.policy, self.reserved.usd
        run_left = policy.llm_usd_per_run_max - self.run.usd - held
        day_left = policy.llm_usd_per_day_max - self.day.usd - held
        return max(0.0, min(run_left, day_left))


def _prompt_characters(request: LlmRequest) -> int:
    return len(request.system) + len(request.user)
