"""The demo's knowledge is read from the linters that are installed."""

import re
from collections import Counter

import pytest

from hivemind_pipelines.core.model import Category
from hivemind_pipelines.demo import knowledge
from hivemind_pipelines.demo.knowledge import PLATFORM, SECURITY, RuleItem


@pytest.fixture(scope="module")
def items() -> tuple[RuleItem, ...]:
    return knowledge.read_items()


def rule(items: tuple[RuleItem, ...], tool: str, code: str) -> knowledge.Rule:
    return next(item.rule for item in items if (item.rule.tool, item.rule.code) == (tool, code))


def test_every_tool_gives_as_many_rules_as_it_is_known_for(items: tuple[RuleItem, ...]) -> None:
    rules = {(item.org_id, item.rule.tool, item.rule.code) for item in items}
    counted = Counter((org_id, tool) for org_id, tool, _ in rules)

    assert counted[PLATFORM, "ruff"] > 850
    assert counted[PLATFORM, "pylint"] > 350
    assert counted[PLATFORM, "bugbear"] > 50
    assert counted[SECURITY, "bandit"] > 60
    assert counted[SECURITY, "ruff"] > 60
    assert counted[PLATFORM, "bandit"] == counted[SECURITY, "pylint"] == 0


def test_security_holds_the_texts_of_ruff_s_security_rules_that_platform_holds_too(
    items: tuple[RuleItem, ...],
) -> None:
    texts = {
        org_id: {
            item.text for item in items if item.org_id == org_id and knowledge.is_ruff_security(item.rule)
        }
        for org_id in knowledge.ORGS
    }

    assert texts[SECURITY] == texts[PLATFORM] != set()


def test_ids_are_the_same_in_every_reading(items: tuple[RuleItem, ...]) -> None:
    assert [item.id for item in knowledge.read_items()] == [item.id for item in items]


def test_an_id_stands_for_one_text_of_one_org(items: tuple[RuleItem, ...]) -> None:
    texts = {(item.org_id, item.text) for item in items}

    assert len({item.id for item in items}) == len(texts) < len(items)


def test_a_rule_has_a_message_and_mostly_an_explanation(items: tuple[RuleItem, ...]) -> None:
    rules = {item.rule for item in items}

    assert all(rule.message for rule in rules)
    assert sum(bool(rule.explanation) for rule in rules) > 0.9 * len(rules)


def test_no_text_is_empty_or_quotes_sample_code_or_starts_with_its_code(items: tuple[RuleItem, ...]) -> None:
    for item in items:
        assert len(item.text) > 8
        assert "```" not in item.text
        assert ">> Issue" not in item.text
        assert not re.match(rf"\W*{item.rule.code}\b", item.text)


def test_message_templates_are_filled(items: tuple[RuleItem, ...]) -> None:
    messages = [item.rule.message for item in items]

    assert not [message for message in messages if re.search(r"%[sdr]\b", message)]


def test_a_ruff_rule_says_what_it_checks_and_why(items: tuple[RuleItem, ...]) -> None:
    found = rule(items, "ruff", "S101")

    assert found.message == "Use of `assert` detected."
    assert found.explanation.startswith("Checks for uses of the `assert` keyword.")
    assert "Assertions are removed when Python is run with optimization requested" in found.explanation


def test_a_pylint_rule_keeps_message_and_description(items: tuple[RuleItem, ...]) -> None:
    found = rule(items, "pylint", "C0114")

    assert found.message == "Missing module docstring."
    assert (
        found.explanation == "Used when a module has no docstring. Empty modules do not require a docstring."
    )


def test_a_bandit_plugin_without_a_docstring_is_described_by_its_module(items: tuple[RuleItem, ...]) -> None:
    found = rule(items, "bandit", "B101")

    assert found.message.startswith("Use of assert detected.")
    assert "This plugin test checks for the use of the Python `assert` keyword." in found.explanation
    assert "skips" not in found.explanation


def test_a_bandit_blacklist_names_what_it_looks_for(items: tuple[RuleItem, ...]) -> None:
    assert rule(items, "bandit", "B318").message.startswith("Using xml.dom.minidom.parse")


def test_categories_follow_the_tool_s_own_grouping(items: tuple[RuleItem, ...]) -> None:
    assert rule(items, "ruff", "S101").category in (Category.TOOLING, Category.DOMAIN_EXPERTISE)
    assert rule(items, "pylint", "E0102").category is Category.BUG_FIX
    assert rule(items, "pylint", "C0114").category is Category.TOOLING


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ('%s name "%s" is %r', 'x-y name "x-y" is x-y'),
        ("Too many arguments (%s/%s)", "Too many arguments"),
        ("Too many arguments ({c_args} > {max_args})", "Too many arguments"),
        ("Call `{name}()` of {!r}", "Call `x-y()` of x-y"),
        ("Write `except{1} {0}:`", "Write `except x-y:`"),
        ("mask `{mask:#o}` is 100%%", "mask `x-y` is 100%"),
        ("Use `%` formatting with f(x)", "Use `%` formatting with f(x)"),
    ],
)
def test_placeholders_become_the_rule_s_name(template: str, filled: str) -> None:
    assert knowledge.fill(template, "x-y") == filled


def test_missing_tools_are_named_with_the_way_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(knowledge._PACKAGES, "pylint", "a_package_nobody_has")

    with pytest.raises(knowledge.DemoToolsMissing, match=r"rules of pylint.*hivemind-pipelines\[demo\]"):
        knowledge.read_items()
