"""What the demo makes up is seeded, marked, and written once."""

import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.core.quality import preliminary_score
from hivemind_pipelines.demo import knowledge, simulation
from hivemind_pipelines.demo.knowledge import PLATFORM, RuleItem
from hivemind_pipelines.stages.loading import load_rows
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines.store.simulated import insert_signals
from hivemind_pipelines_tests.builders import scalar

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def items() -> tuple[RuleItem, ...]:
    return knowledge.read_items()


@pytest.fixture(scope="module")
def made(items: tuple[RuleItem, ...]) -> simulation.Simulation:
    return simulation.simulate(items, now=NOW)


def test_the_same_seed_makes_the_same_world(items: tuple[RuleItem, ...], made: simulation.Simulation) -> None:
    assert simulation.simulate(items, now=NOW) == made
    assert simulation.simulate(items, now=NOW, seed=1) != made


def test_ids_do_not_depend_on_the_moment(items: tuple[RuleItem, ...], made: simulation.Simulation) -> None:
    later = simulation.simulate(items, now=NOW + timedelta(days=3))

    assert [signal.id for signal in later.signals] == [signal.id for signal in made.signals]
    assert later.pending == made.pending


def test_enough_happens_to_open_the_gate(made: simulation.Simulation) -> None:
    gate = DistillationPolicy().gate
    kinds = Counter(signal.signal_type for signal in made.signals)

    assert len(made.pending) >= gate.volume_threshold
    assert kinds["contradiction"] >= gate.conflict_threshold
    assert kinds["retrieval"] > 500
    assert kinds["outcome_solved"] > kinds["outcome_not_helpful"] > 100


def test_nothing_happens_after_now(made: simulation.Simulation) -> None:
    assert all(signal.created_at <= NOW for signal in made.signals)


def test_some_pending_rows_are_weak_enough_to_be_prescreened(made: simulation.Simulation) -> None:
    policy = DistillationPolicy()
    weak = [
        row
        for row in made.pending
        if preliminary_score(row.confidence, policy.quality) < policy.prescreen.low_quality_below
    ]

    assert 5 <= len(weak) < len(made.pending) / 2


def test_opposed_pairs_share_org_and_category(items: tuple[RuleItem, ...]) -> None:
    pairs = simulation.opposed_pairs(items)

    assert len(pairs) >= 5
    assert all((a.org_id, a.rule.category) == (b.org_id, b.rule.category) for a, b in pairs)


def test_everything_made_up_says_so(made: simulation.Simulation) -> None:
    for row in (*made.notes, *made.pending):
        assert row.source_agent_id.startswith("simulated")
        assert isinstance(row.tags, dict)
        assert row.tags["simulated"] is True


def test_planted_secrets_look_real_and_stand_in_no_source_file(made: simulation.Simulation) -> None:
    leaky = [row.content for row in (*made.notes, *made.pending) if "planted_secret" in dict(row.tags)]  # type: ignore[call-overload]
    secret = re.compile(r"\b(AKIA[A-Z0-9]{16}|ghp_\w{36}|xoxb-\d{12}-\w{24})\b")
    source = Path(simulation.__file__).read_text(encoding="utf-8")

    assert len(leaky) == made.planted_count >= 8
    assert all(secret.search(content) for content in leaky)
    assert not secret.search(source)


def test_use_counts_are_never_below_the_signals(
    items: tuple[RuleItem, ...], made: simulation.Simulation
) -> None:
    signals = Counter((signal.item_id, signal.signal_type) for signal in made.signals)

    for row in simulation.knowledge_rows(items):
        assert row.retrieval_count >= signals[row.id, "retrieval"]  # type: ignore[index]
        assert row.helpful_count == signals[row.id, "outcome_solved"]  # type: ignore[index]
        assert row.not_helpful_count == signals[row.id, "outcome_not_helpful"]  # type: ignore[index]


def test_loading_twice_adds_nothing(
    store: Store, items: tuple[RuleItem, ...], made: simulation.Simulation
) -> None:
    few = [item for item in items if item.org_id == PLATFORM][:50]
    kept = {item.id for item in few}
    distinct = len(kept)
    signals = [signal for signal in made.signals if signal.item_id in kept]

    for expected in (distinct, 0):
        report = load_rows(store, simulation.knowledge_rows(few), target="items", now=NOW)
        assert (report.loaded, report.refused) == (expected, 0)
    for expected in (len(made.pending), 0):
        assert load_rows(store, made.pending, target="pending", now=NOW).loaded == expected
    for expected in (len(signals), 0):
        with store.begin() as conn:
            assert insert_signals(conn, signals) == expected
    assert scalar(
        store, "SELECT count(*) FROM public.quality_signals WHERE metadata ->> 'simulated' = 'true'"
    )


def test_a_signal_reaches_no_other_org_s_item(
    store: Store, items: tuple[RuleItem, ...], made: simulation.Simulation
) -> None:
    load_rows(store, simulation.knowledge_rows(items[:50]), target="items", now=NOW)
    foreign = [
        replace(signal, org_id=knowledge.SECURITY)
        for signal in made.signals
        if signal.item_id in {item.id for item in items[:50]}
    ]

    with store.begin() as conn:
        assert insert_signals(conn, foreign) == 0
