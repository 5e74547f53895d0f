from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hivemind_pipelines.core.changes import (
    CaseChange,
    KeepCase,
    OpenCase,
    ReopenCase,
    StampSuspect,
    WithdrawCase,
)
from hivemind_pipelines.core.contradiction import case_id, plan_cases
from hivemind_pipelines.core.model import (
    CaseId,
    Category,
    ItemId,
    OrgId,
    SignalId,
    StandingCase,
    SuspectSignal,
)
from hivemind_pipelines.core.policy import ContradictionPolicy

ORG = OrgId("acme")
NOW = datetime(2025, 6, 1, tzinfo=UTC)
POLICY = ContradictionPolicy()


def item(number: int) -> ItemId:
    return ItemId(UUID(int=number))


def signal(
    number: int, item_number: int, category: Category = Category.CONFIG, *, is_stamped: bool = False
) -> SuspectSignal:
    return SuspectSignal(SignalId(UUID(int=1_000 + number)), item(item_number), category, is_stamped)


def axis(number: int) -> np.ndarray:
    vector = np.zeros(384, dtype=np.float32)
    vector[number] = 1
    return vector


def plan(
    signals: Iterable[SuspectSignal],
    topics: dict[int, int],
    policy: ContradictionPolicy = POLICY,
    known: Iterable[StandingCase] = (),
) -> tuple[CaseChange, ...]:
    vectors = {item(number): axis(topic) for number, topic in topics.items()}
    return plan_cases(
        list(signals), vectors, org_id=ORG, as_of=NOW, policy=policy, standing=list(known), stamp="now"
    )


def opened(changes: Iterable[CaseChange]) -> list[tuple[ItemId, ...]]:
    return sorted(change.case.item_ids for change in changes if isinstance(change, OpenCase))


def test_similar_suspects_of_a_category_are_one_case() -> None:
    (change,) = plan([signal(1, 1), signal(2, 2), signal(3, 1)], {1: 0, 2: 0})
    assert isinstance(change, OpenCase)
    assert change.detected_at == NOW
    assert change.case.item_ids == (item(1), item(2))
    assert change.case.signal_ids == tuple(SignalId(UUID(int=1_000 + number)) for number in (1, 2, 3))
    assert change.case.case_id == case_id(ORG, [item(2), item(1)])


def test_two_unrelated_conflicts_of_a_category_are_two_cases() -> None:
    changes = plan([signal(number, number) for number in range(1, 5)], {1: 0, 2: 0, 3: 7, 4: 7})
    assert opened(changes) == [(item(1), item(2)), (item(3), item(4))]


def test_similar_suspects_of_two_categories_are_no_case() -> None:
    changes = plan([signal(1, 1), signal(2, 2, Category.TOOLING)], {1: 0, 2: 0})
    assert opened(changes) == []


def test_several_signals_on_one_item_wait_as_suspects() -> None:
    changes = plan([signal(1, 1), signal(2, 1)], {1: 0})
    assert changes == tuple(StampSuspect(SignalId(UUID(int=number)), item(1)) for number in (1_001, 1_002))


def test_a_suspect_that_is_remembered_already_yields_nothing() -> None:
    assert plan([signal(1, 1, is_stamped=True)], {1: 0}) == ()


def test_an_earlier_lone_suspect_finds_its_counterpart() -> None:
    (change,) = plan([signal(1, 1, is_stamped=True), signal(2, 2)], {1: 0, 2: 0})
    assert isinstance(change, OpenCase)
    assert len(change.case.signal_ids) == 2


def test_items_without_a_vector_stand_alone() -> None:
    assert opened(plan([signal(1, 1), signal(2, 2)], {})) == []


def test_a_case_that_exists_is_not_opened_again_but_gets_the_signals() -> None:
    known = case_id(ORG, [item(1), item(2)])
    decided = StandingCase(known, (item(1), item(2)), "older", is_fixed=True)
    changes = plan([signal(1, 1), signal(2, 2)], {1: 0, 2: 0}, known=[decided])
    assert changes == tuple(StampSuspect(SignalId(UUID(int=1_000 + n)), item(n), known) for n in (1, 2))


PAIR = (item(1), item(2))
BOTH = case_id(ORG, PAIR)


def held(number: int, item_number: int, case: CaseId = BOTH) -> SuspectSignal:
    """A signal that an open case holds."""
    return replace(signal(number, item_number, is_stamped=True), case_id=case)


def test_an_open_case_of_todays_policy_stays_whatever_the_signals_beside_it_would_make() -> None:
    case = StandingCase(BOTH, PAIR, "now")
    signals = [held(1, 1), held(2, 2), signal(3, 3, is_stamped=True)]
    assert plan(signals, dict.fromkeys((1, 2, 3), 0), known=[case]) == ()


def test_an_open_case_of_another_policy_is_kept_when_its_group_stands_again() -> None:
    case = StandingCase(BOTH, PAIR, "older")
    assert plan([held(1, 1), held(2, 2)], {1: 0, 2: 0}, known=[case]) == (KeepCase(BOTH),)


def test_an_open_case_that_the_policy_no_longer_groups_is_withdrawn_and_comes_back_with_it() -> None:
    case = StandingCase(BOTH, PAIR, "older")
    assert plan([held(1, 1), held(2, 2)], {1: 0, 2: 7}, known=[case]) == (WithdrawCase(BOTH),)
    withdrawn = replace(case, is_withdrawn=True)
    freed = [signal(number, number, is_stamped=True) for number in (1, 2)]
    (change,) = plan(freed, {1: 0, 2: 0}, known=[withdrawn])
    assert isinstance(change, ReopenCase)
    assert change.case.case_id == BOTH


def test_a_larger_group_takes_the_place_of_a_case_of_another_policy() -> None:
    case = StandingCase(BOTH, PAIR, "older")
    signals = [held(1, 1), held(2, 2), signal(3, 3, is_stamped=True)]
    first, second = plan(signals, dict.fromkeys((1, 2, 3), 0), known=[case])
    assert first == WithdrawCase(BOTH)
    assert isinstance(second, OpenCase)
    assert second.case.item_ids == (item(1), item(2), item(3))


def test_a_case_follows_a_party_that_was_merged() -> None:
    case = StandingCase(BOTH, PAIR, "now")
    merged = replace(held(2, 3), origin_id=item(2))
    first, second = plan([held(1, 1), merged], {1: 0, 3: 0}, known=[case])
    assert first == WithdrawCase(BOTH)
    assert isinstance(second, OpenCase)
    assert second.case.item_ids == (item(1), item(3))


def test_a_case_of_two_parties_that_became_one_is_withdrawn() -> None:
    case = StandingCase(BOTH, PAIR, "now")
    merged = replace(held(2, 1), origin_id=item(2))
    assert plan([held(1, 1), merged], {1: 0}, known=[case]) == (WithdrawCase(BOTH),)


def test_a_category_in_which_items_were_merged_is_grouped_as_a_whole() -> None:
    other = case_id(ORG, [item(3), item(4)])
    cases = [StandingCase(BOTH, PAIR, "now"), StandingCase(other, (item(3), item(4)), "now")]
    back = replace(held(4, 5, other), origin_id=item(5))
    signals = [held(1, 1), held(2, 2), held(3, 3, other), back]
    *gone, opened_one = plan(signals, dict.fromkeys((1, 2, 3, 5), 0), known=cases)
    assert gone == [WithdrawCase(id) for id in sorted((BOTH, other))]
    assert isinstance(opened_one, OpenCase)
    assert opened_one.case.item_ids == (item(1), item(2), item(3), item(5))


def test_signals_leave_a_pair_of_the_rules_that_they_no_longer_name() -> None:
    rules = StandingCase(BOTH, PAIR, "now", is_fixed=True, detector="rules")
    apart = replace(held(2, 3), origin_id=item(3))
    (change,) = plan([held(1, 1), apart], {1: 0, 3: 0}, known=[rules])
    assert isinstance(change, OpenCase)
    assert change.case.item_ids == (item(1), item(3))
    lone = plan([held(1, 1), apart], {1: 0, 3: 7}, known=[rules])
    assert lone == tuple(StampSuspect(SignalId(UUID(int=1_000 + n)), item(i)) for n, i in ((1, 1), (2, 3)))
    assert plan([held(1, 1), held(2, 2)], {1: 0, 2: 0}, known=[rules]) == ()


def test_a_case_that_a_person_decided_is_neither_withdrawn_nor_reopened() -> None:
    decided = StandingCase(BOTH, PAIR, "older", is_fixed=True)
    assert plan([], {}, known=[decided]) == ()


def test_a_case_is_no_larger_than_the_policy_says() -> None:
    signals = [signal(number, number) for number in range(9)]
    changes = plan(signals, dict.fromkeys(range(9), 0), ContradictionPolicy(case_size_max=4))
    assert all(len(items) <= 4 for items in opened(changes))
    assert len({id for items in opened(changes) for id in items}) >= 8


def test_the_case_id_belongs_to_the_item_set_of_an_org() -> None:
    pair = [item(1), item(2)]
    assert case_id(ORG, pair) == case_id(ORG, [*reversed(pair), item(1)])
    assert case_id(ORG, pair) != case_id(OrgId("other"), pair)
    assert case_id(ORG, pair) != case_id(ORG, [*pair, item(3)])


suspects = st.lists(
    st.builds(
        signal,
        st.integers(0, 99),
        st.integers(0, 9),
        st.just(Category.CONFIG),
        is_stamped=st.booleans(),
    ),
    max_size=25,
    unique_by=lambda suspect: suspect.signal_id,
)


@given(suspects, st.dictionaries(st.integers(0, 9), st.integers(0, 3)), st.randoms(use_true_random=False))
def test_every_signal_is_placed_once_and_the_order_of_signals_does_not_matter(
    signals: list[SuspectSignal],
    topics: dict[int, int],
    random,  # type: ignore[no-untyped-def]
) -> None:
    changes = plan(signals, topics)
    placed = [id for change in changes if isinstance(change, OpenCase) for id in change.case.signal_ids]
    stamped = [change.signal_id for change in changes if isinstance(change, StampSuspect)]
    assert len(placed + stamped) == len(set(placed + stamped))
    assert {suspect.signal_id for suspect in signals if not suspect.is_stamped} <= set(placed + stamped)
    random.shuffle(signals)
    assert plan(signals, topics) == changes


@given(suspects, st.dictionaries(st.integers(0, 9), st.integers(0, 3)))
def test_planning_against_the_applied_state_gives_nothing(
    signals: list[SuspectSignal], topics: dict[int, int]
) -> None:
    changes = plan(signals, topics)
    in_cases = {id for change in changes if isinstance(change, OpenCase) for id in change.case.signal_ids}
    left = [
        SuspectSignal(each.signal_id, each.item_id, each.category, is_stamped=True)
        for each in signals
        if each.signal_id not in in_cases
    ]
    assert plan(left, topics) == ()
