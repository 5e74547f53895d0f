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
    counted = Counter((item.org_id, item.rule.tool) for item in items)

    assert counted[PLATFORM, "ruff"] > 850
    assert counted[PLATFORM, "pylint"] > 350
    assert counted[PLATFORM, "bugbear"] > 50
    assert counted[SECURITY, "bandit"] > 60
    assert counted[SECURITY, "ruff"] > 60


def test_security_holds_the_texts_of_ruff_s_security_rules_that_platform_holds_too(
    items: tuple[RuleItem, ...],
) -> None:
    texts = {
        org_id: {
            item.rule.text
            for item in items
            if item.org_id == org_id and knowledge.is_ruff_security(item.rule)
        }
        for org_id in knowledge.ORGS
    }

    assert texts[SECURITY] == texts[PLATFORM] != set()


def test_ids_are_unique_and_the_same_in_every_reading(items: tuple[RuleItem, ...]) -> None:
    assert len({item.id for item in items}) == len(items)
    assert [item.id for item in knowledge.read_items()] == [item.id for item in items]


def test_an_org_holds_no_text_twice(items: tuple[RuleItem, ...]) -> None:
    assert len({(item.org_id, item.rule.text) for item in items}) == len(items)


def test_no_text_is_empty_or_quotes_sample_code_or_starts_with_its_code(items: tuple[RuleItem, ...]) -> None:
    for item in items:
        assert len(item.rule.text) > 15
        assert "```" not in item.rule.text
        assert ">> Issue" not in item.rule.text
        assert not re.match(rf"\W*{item.rule.code}\b", item.rule.text)


def test_message_templates_are_filled(items: tuple[RuleItem, ...]) -> None:
    messages = [item.rule.text.split(". ")[0] for item in items]

    assert not [message for message in messages if re.search(r"%[sdr]\b", message)]


def test_a_ruff_rule_says_what_it_checks_and_why(items: tuple[RuleItem, ...]) -> None:
    text = rule(items, "ruff", "S101").text

    assert text.startswith("Use of `assert` detected. Checks for uses of the `assert` keyword.")
    assert "Assertions are removed when Python is run with optimization requested" in text


def test_a_pylint_rule_keeps_message_and_description(items: tuple[RuleItem, ...]) -> None:
    assert rule(items, "pylint", "C0114").text == (
        "Missing module docstring. Used when a module has no docstring. "
        "Empty modules do not require a docstring."
    )


def test_a_bandit_plugin_without_a_docstring_is_described_by_its_module(items: tuple[RuleItem, ...]) -> None:
    text = rule(items, "bandit", "B101").text

    assert "This plugin test checks for the use of the Python `assert` keyword." in text
    assert "skips" not in text


def test_a_bandit_blacklist_says_what_it_looks_for(items: tuple[RuleItem, ...]) -> None:
    assert "Looks for `marshal.load`, `marshal.loads`." in rule(items, "bandit", "B302").text


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
