"""How the demo's merges compare with the mapping that ruff's code prefixes declare."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from hivemind_pipelines.core.model import Decision, ItemId
from hivemind_pipelines.demo.knowledge import RuleItem, Tool

Verdict = Literal["agrees", "contradicts", "uncovered"]
Fate = Literal["merged", "possible", "missed"]

#: `missed` pairs were told apart, or were never near enough to be compared.
FATES: tuple[Fate, ...] = ("merged", "possible", "missed")

#: ruff code -> the tool and code it was taken from: PLR0913 is pylint's R0913, S101 bandit's B101.
_DECLARED_BY_PREFIX: tuple[tuple[re.Pattern[str], Tool, str], ...] = (
    (re.compile(r"PL([A-Z]\d{4})"), "pylint", ""),
    (re.compile(r"S(\d{3})"), "bandit", "B"),
    (re.compile(r"B(\d{3})"), "bugbear", "B"),
)
_MAPPED_TOOLS = frozenset(tool for _, tool, _ in _DECLARED_BY_PREFIX)


@dataclass(frozen=True, slots=True)
class DeclaredPair:
    """A ruff rule and the rule of another tool that its code says it re-implements, in one org."""

    ruff: RuleItem
    other: RuleItem


@dataclass(frozen=True, slots=True)
class MergedRules:
    """A ruff rule that ended in one cluster with a rule of a mapped tool, and what the mapping says."""

    ruff: RuleItem
    other: RuleItem
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Agreement:
    """Merges against the mapping, and the mapping against the merges."""

    merges: tuple[MergedRules, ...]
    fates: tuple[tuple[DeclaredPair, Fate], ...]

    def merge_counts(self) -> dict[Verdict, int]:
        """Merged pairs of mapped tools by what the mapping says of them."""
        counted = Counter(merge.verdict for merge in self.merges)
        return {
            "agrees": counted["agrees"],
            "contradicts": counted["contradicts"],
            "uncovered": counted["uncovered"],
        }

    def fate_counts(self) -> dict[Tool, dict[Fate, int]]:
        """Declared pairs by the tool they point to and what became of them."""
        counted = Counter((pair.other.rule.tool, fate) for pair, fate in self.fates)
        tools = sorted({tool for tool, _ in counted})
        return {tool: {fate: counted[tool, fate] for fate in FATES} for tool in tools}


def declared_counterpart(code: str) -> tuple[Tool, str] | None:
    """The tool and code that a ruff code declares as its origin, or None."""
    for pattern, tool, prefix in _DECLARED_BY_PREFIX:
        if match := pattern.fullmatch(code):
            return tool, prefix + match[1]
    return None


def declared_pairs(items: Sequence[RuleItem]) -> tuple[DeclaredPair, ...]:
    """The declared pairs of which an org holds both rules, in order of org and ruff code."""
    held = {(item.org_id, item.rule.tool, item.rule.code): item for item in items}
    pairs = []
    for item in items:
        counterpart = declared_counterpart(item.rule.code) if item.rule.tool == "ruff" else None
        other = held.get((item.org_id, *counterpart)) if counterpart else None
        if other is not None:
            pairs.append(DeclaredPair(item, other))
    return tuple(sorted(pairs, key=lambda pair: (pair.ruff.org_id, pair.ruff.rule.code)))


def compare_with_mapping(
    items: Sequence[RuleItem],
    canonical_of: Mapping[ItemId, ItemId],
    decisions: Mapping[tuple[ItemId, ItemId], Decision],
) -> Agreement:
    """Hold merges against the mapping.

    `canonical_of` has every merged item with its final canonical, `decisions` every compared pair
    with the smaller id first.
    """
    declared = declared_pairs(items)
    return Agreement(
        merges=tuple(_merges(items, declared, canonical_of)),
        fates=tuple((pair, _fate(pair, canonical_of, decisions)) for pair in declared),
    )


def _fate(
    pair: DeclaredPair,
    canonical_of: Mapping[ItemId, ItemId],
    decisions: Mapping[tuple[ItemId, ItemId], Decision],
) -> Fate:
    a_id, b_id = pair.ruff.id, pair.other.id
    if canonical_of.get(a_id, a_id) == canonical_of.get(b_id, b_id):
        return "merged"
    decided = decisions.get((min(a_id, b_id), max(a_id, b_id)))
    # a duplicate that is not merged was held back by its cluster: nearer than possible, but no merge
    return "possible" if decided in ("possible", "duplicate") else "missed"


def _merges(
    items: Sequence[RuleItem], declared: Sequence[DeclaredPair], canonical_of: Mapping[ItemId, ItemId]
) -> Iterator[MergedRules]:
    pairs = {(pair.ruff.id, pair.other.id) for pair in declared}
    spoken_for = {(pair.ruff.id, pair.other.rule.tool) for pair in declared} | {
        (pair.other.id, "ruff") for pair in declared
    }
    for ruff, other in _merged_with_ruff(items, canonical_of):
        if (ruff.id, other.id) in pairs:
            yield MergedRules(ruff, other, "agrees")
        elif (ruff.id, other.rule.tool) in spoken_for or (other.id, "ruff") in spoken_for:
            yield MergedRules(ruff, other, "contradicts")
        else:
            yield MergedRules(ruff, other, "uncovered")


def _merged_with_ruff(
    items: Sequence[RuleItem], canonical_of: Mapping[ItemId, ItemId]
) -> Iterator[tuple[RuleItem, RuleItem]]:
    for cluster in _clusters(items, canonical_of):
        for a, b in combinations(cluster, 2):
            ruff, other = (a, b) if a.rule.tool == "ruff" else (b, a)
            if ruff.rule.tool == "ruff" and other.rule.tool in _MAPPED_TOOLS:
                yield ruff, other


def _clusters(
    items: Iterable[RuleItem], canonical_of: Mapping[ItemId, ItemId]
) -> tuple[tuple[RuleItem, ...], ...]:
    members: dict[ItemId, list[RuleItem]] = defaultdict(list)
    for item in items:
        members[canonical_of.get(item.id, item.id)].append(item)
    return tuple(tuple(cluster) for cluster in members.values() if len(cluster) > 1)
