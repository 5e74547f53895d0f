from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_pipelines.core.changes import Merge, Refusal, Unmerge
from hivemind_pipelines.core.model import ItemId, LlmRequest, LlmUsage
from hivemind_pipelines.core.policy import ModelPrice, SafetyPolicy
from hivemind_pipelines.core.safety import Budget, OutOfBudget, Spend, mass_change

POLICY = SafetyPolicy()
REQUEST = LlmRequest("summarize_cluster", "s" * 1_000, "u" * 1_000, {}, max_output_tokens=1_000)


def item(number: int) -> ItemId:
    return ItemId(UUID(int=number))


def merges(count: int, previous: ItemId | None = None) -> tuple[Merge, ...]:
    return tuple(Merge(item(number + 1), "d", item(0), "c", previous) for number in range(count))


def test_a_plan_above_the_share_is_refused_whole_with_its_numbers() -> None:
    assert mass_change(merges(21), 100, POLICY) == Refusal(21, 100, 0.2)


def test_a_plan_at_the_share_passes() -> None:
    assert mass_change(merges(20), 100, POLICY) is None


def test_a_small_org_is_never_refused() -> None:
    assert mass_change(merges(49), 49, POLICY) is None
    assert mass_change(merges(49), 50, POLICY) is not None


def test_repointing_an_expired_duplicate_expires_nothing() -> None:
    assert mass_change(merges(90, previous=item(500)), 100, POLICY) is None


def test_items_brought_back_do_not_excuse_items_expired() -> None:
    revived = tuple(Unmerge(item(1_000 + number), item(0), "policy") for number in range(50))
    assert mass_change((*merges(21), *revived), 100, POLICY) is not None


def test_a_call_is_reserved_and_settled_at_what_it_cost() -> None:
    reserved = Budget(POLICY).reserve(REQUEST)
    assert isinstance(reserved, Budget)
    assert reserved.reserved == Spend(1, pytest.approx((1_000 * 3 + 1_000 * 15) / 1e6))
    settled = reserved.settle(REQUEST, LlmUsage(input_tokens=500, output_tokens=100, attempts=2))
    assert settled.run == settled.day == Spend(2, pytest.approx(0.003))
    assert settled.reserved == Spend(0, pytest.approx(0.0))


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"llm_calls_per_run_max": 0}, "calls_per_run"),
        ({"llm_calls_per_day_max": 0}, "calls_per_day"),
        ({"llm_usd_per_run_max": 0.01}, "usd_per_run"),
        ({"llm_usd_per_day_max": 0.01}, "usd_per_day"),
        ({"llm_prompt_characters_max": 1_999}, "prompt_characters"),
    ],
)
def test_a_call_beyond_a_limit_is_not_made_and_says_which(limits: dict[str, float], reason: str) -> None:
    assert Budget(SafetyPolicy(**limits)).reserve(REQUEST) == OutOfBudget(reason)  # type: ignore[arg-type]


def test_what_other_runs_spent_today_counts() -> None:
    spent = Budget(POLICY, day=Spend(calls=POLICY.llm_calls_per_day_max))
    assert spent.reserve(REQUEST) == OutOfBudget("calls_per_day")
    assert spent.calls_left() == 0


@given(st.lists(st.sampled_from(["reserve", "settle"]), max_size=60), st.integers(0, 10))
def test_reservations_never_exceed_the_limit_and_never_go_negative(steps: list[str], calls_max: int) -> None:
    budget = Budget(SafetyPolicy(llm_calls_per_run_max=calls_max))
    under_way = 0
    for step in steps:
        if step == "reserve":
            outcome = budget.reserve(REQUEST)
            if isinstance(outcome, Budget):
                budget, under_way = outcome, under_way + 1
        elif under_way:
            budget, under_way = budget.settle(REQUEST, LlmUsage(10, 10)), under_way - 1
        assert budget.run.calls + budget.reserved.calls <= calls_max
        assert budget.reserved.calls == under_way
        assert budget.calls_left() == calls_max - budget.run.calls - under_way
        assert budget.usd_left() >= 0


def test_a_model_has_the_price_of_its_longest_name_in_the_table() -> None:
    table = {"claude": ModelPrice(input=1, output=2), "claude-opus": ModelPrice(input=7, output=8)}
    policy = SafetyPolicy(llm_prices=table)
    assert Budget(policy.for_model("claude-opus-9")).cost_usd(1_000_000, 1_000_000) == 15
    assert Budget(policy.for_model("claude-haiku")).cost_usd(1_000_000, 1_000_000) == 3
    assert policy.for_model("another") is policy


@pytest.mark.parametrize(
    ("model", "usd"),
    [
        ("claude-sonnet-4-6", 18.0),
        ("claude-sonnet-5-5", 12.0),
        ("claude-opus-4-1-20250805", 90.0),
        ("claude-opus-4-20250514", 90.0),
        ("claude-opus-4-8", 30.0),
        ("claude-opus-5", 30.0),
        ("claude-opus-5-5", 24.0),
        ("claude-opus-7", 90.0),
        ("claude-haiku-4-5", 6.0),
        ("claude-haiku-5-5", 0.6),
        ("claude-3-5-sonnet-20241022", 18.0),
        ("claude-fable-5-1", 60.0),
        ("somebody-else", 18.0),
    ],
)
def test_a_million_tokens_each_way_cost_the_list_price(model: str, usd: float) -> None:
    assert Budget(SafetyPolicy().for_model(model)).cost_usd(1_000_000, 1_000_000) == pytest.approx(usd)


def test_a_lease_covers_an_answer_and_its_retry() -> None:
    with pytest.raises(ValueError, match="two calls"):
        SafetyPolicy(llm_lease=timedelta(seconds=100), llm_call_timeout=timedelta(seconds=60))
