"""Spending: runs side by side share one budget, whatever becomes of their calls."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from hivemind_pipelines.core.model import LlmAnswer, LlmOutcome, LlmRequest, LlmUnavailable, LlmUsage, RunId
from hivemind_pipelines.stages.context import StageContext
from hivemind_pipelines.stages.spending import Purse, open_purse, read_budget
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import ACME, execute, rows, scalar
from hivemind_pipelines_tests.stages.commons import NOW, policy, services

REQUEST = LlmRequest("summarize_cluster", "s" * 100, "u" * 100, {}, max_output_tokens=1_000)


class SlowLlm:
    """Answers after a moment, and counts the attempts it was allowed."""

    model = "test-model"

    def __init__(self) -> None:
        self.allowed: list[int] = []

    def complete(self, request: LlmRequest) -> LlmOutcome:
        self.allowed.append(request.attempts_max)
        time.sleep(0.02)
        return LlmAnswer({}, LlmUsage(10, 10, attempts=1))


def context(store: Store, llm: Any, **safety: object) -> StageContext:
    return StageContext(
        store=store, org_id=ACME, run_id=RunId(uuid4()), as_of=NOW,
        policy=policy(safety=safety), services=services(llm), clock=lambda: NOW,
    )  # fmt: skip


def test_two_runs_at_once_do_not_spend_more_than_the_day_allows(store: Store) -> None:
    llm = SlowLlm()
    purses = [open_purse(context(store, llm, llm_calls_per_day_max=5)) for _ in range(2)]
    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(lambda number: purses[number % 2].call(REQUEST), range(16)))
    assert sum(isinstance(outcome, LlmAnswer) for outcome in outcomes) == 5
    refused = {outcome.reason for outcome in outcomes if isinstance(outcome, LlmUnavailable)}
    assert refused == {"budget_calls_per_day"}
    assert scalar(store, "SELECT sum(calls) FROM distillation.llm_spend WHERE NOT is_reserved") == 5


def test_near_its_end_the_budget_leaves_a_call_no_attempt_to_repeat(store: Store) -> None:
    llm = SlowLlm()
    purse = open_purse(context(store, llm, llm_calls_per_run_max=2, llm_concurrency=1))
    purse.call(REQUEST)
    purse.call(REQUEST)
    assert llm.allowed == [2, 1]


def test_a_killed_call_stays_booked_at_its_worst(store: Store) -> None:
    class Killed(SlowLlm):
        def complete(self, request: LlmRequest) -> LlmOutcome:
            raise KeyboardInterrupt

    ctx = context(store, Killed(), llm_calls_per_day_max=3, llm_concurrency=1)
    with pytest.raises(KeyboardInterrupt):
        open_purse(ctx).call(REQUEST)
    [row] = rows(store, "SELECT * FROM distillation.llm_spend")
    assert (row.is_reserved, row.calls) == (True, 3)
    assert row.usd == pytest.approx(3 * read_budget(ctx).worst_case(REQUEST).usd)
    later = open_purse(context(store, SlowLlm(), llm_calls_per_day_max=3))
    assert later.call(REQUEST) == LlmUnavailable("budget_calls_per_day", LlmUsage(attempts=0))


def test_no_call_begins_after_the_deadline_of_its_stage(store: Store) -> None:
    llm = SlowLlm()
    ctx = context(store, llm)
    late = Purse(ctx, NOW - timedelta(seconds=1))
    assert late.call(REQUEST) == LlmUnavailable("stage_deadline", LlmUsage(attempts=0))
    assert llm.allowed == []
    assert rows(store, "SELECT 1 FROM distillation.llm_spend") == []


def test_what_was_spent_yesterday_is_no_matter_today(store: Store) -> None:
    ctx = context(store, SlowLlm(), llm_calls_per_day_max=1)
    assert isinstance(open_purse(ctx).call(REQUEST), LlmAnswer)
    execute(store, "UPDATE distillation.llm_spend SET at = at - interval '1 day'")
    other = context(store, SlowLlm(), llm_calls_per_day_max=1)
    assert isinstance(open_purse(other).call(REQUEST), LlmAnswer)
