"""Merges are held against the mapping that ruff's code prefixes declare."""

from dataclasses import replace
from uuid import UUID

import pytest

from hivemind_pipelines.core.model import Category, ItemId, OrgId
from hivemind_pipelines.demo.evaluation import (
    RulePair,
    compare_with_mapping,
    declared_counterpart,
    declared_pairs,
)
from hivemind_pipelines.demo.knowledge import PLATFORM, SECURITY, Rule, RuleItem, Tool


def item(number: int, tool: Tool, code: str, org_id: OrgId = PLATFORM) -> RuleItem:
    rule = Rule(tool, code, code, Category.TOOLING, f"{tool} {code}")
    return RuleItem(ItemId(UUID(int=number)), org_id, rule, rule.message)


ARGS, ARGS_PYLINT = item(1, "ruff", "PLR0913"), item(2, "pylint", "R0913")
DEFAULT, DEFAULT_BUGBEAR = item(3, "ruff", "B006"), item(4, "bugbear", "B006")
UNUSED, UNUSED_PYLINT = item(5, "ruff", "F401"), item(6, "pylint", "W0611")
ASSERT, ASSERT_BANDIT = item(7, "ruff", "S101", SECURITY), item(8, "bandit", "B101", SECURITY)
ITEMS = (ARGS, ARGS_PYLINT, DEFAULT, DEFAULT_BUGBEAR, UNUSED, UNUSED_PYLINT, ASSERT, ASSERT_BANDIT)


@pytest.mark.parametrize(
    ("code", "counterpart"),
    [
        ("PLR0913", ("pylint", "R0913")),
        ("S101", ("bandit", "B101")),
        ("B006", ("bugbear", "B006")),
        ("SIM102", None),
        ("BLE001", None),
        ("F401", None),
    ],
)
def test_a_code_declares_the_rule_it_was_taken_from(code: str, counterpart: tuple[str, str] | None) -> None:
    assert declared_counterpart(code) == counterpart


def test_pairs_are_declared_only_where_an_org_holds_both_rules() -> None:
    elsewhere = item(9, "ruff", "S102", PLATFORM)
    bandit = item(10, "bandit", "B102", SECURITY)

    pairs = declared_pairs((*ITEMS, elsewhere, bandit))

    assert pairs == (
        RulePair(PLATFORM, DEFAULT.rule, DEFAULT_BUGBEAR.rule),
        RulePair(PLATFORM, ARGS.rule, ARGS_PYLINT.rule),
        RulePair(SECURITY, ASSERT.rule, ASSERT_BANDIT.rule),
    )


def test_merges_agree_contradict_or_are_not_covered() -> None:
    stranger = item(9, "pylint", "W9999")
    canonical_of = {
        ARGS_PYLINT.id: ARGS.id,
        stranger.id: ARGS.id,
        UNUSED.id: UNUSED_PYLINT.id,
        DEFAULT.id: DEFAULT_BUGBEAR.id,
    }

    agreement = compare_with_mapping((*ITEMS, stranger), canonical_of, {})

    assert agreement.merge_counts() == {"agrees": 2, "contradicts": 1, "uncovered": 1}
    assert dict(agreement.merges)[RulePair(PLATFORM, ARGS.rule, stranger.rule)] == "contradicts"
    assert agreement.verbatim_count == 0


def test_a_declared_pair_is_merged_possible_or_missed() -> None:
    agreement = compare_with_mapping(
        ITEMS, {DEFAULT.id: DEFAULT_BUGBEAR.id}, {(ARGS.id, ARGS_PYLINT.id): "possible"}
    )

    assert agreement.fate_counts() == {
        "bandit": {"merged": 0, "possible": 0, "missed": 1},
        "bugbear": {"merged": 1, "possible": 0, "missed": 0},
        "pylint": {"merged": 0, "possible": 1, "missed": 0},
    }


def test_two_rules_that_follow_one_canonical_count_as_merged() -> None:
    agreement = compare_with_mapping(ITEMS, {ARGS.id: UNUSED.id, ARGS_PYLINT.id: UNUSED.id}, {})

    assert dict(agreement.fates)[RulePair(PLATFORM, ARGS.rule, ARGS_PYLINT.rule)] == "merged"


def test_rules_that_share_a_text_count_as_merged_and_as_verbatim() -> None:
    shared = replace(ARGS_PYLINT, id=ARGS.id)

    agreement = compare_with_mapping((ARGS, shared), {}, {})

    assert agreement.merge_counts()["agrees"] == agreement.verbatim_count == 1


def test_one_merged_text_of_two_makes_the_rules_merged() -> None:
    explanation = replace(ARGS, id=ItemId(UUID(int=20)))
    other = replace(ARGS_PYLINT, id=ItemId(UUID(int=21)))

    agreement = compare_with_mapping((*ITEMS, explanation, other), {other.id: explanation.id}, {})

    assert agreement.merge_counts()["agrees"] == 1
