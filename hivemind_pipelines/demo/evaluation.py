"""How the demo's merges compare with the mapping that ruff's code prefixes declare."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from hivemind_pipelines.core.model import Decision, ItemId, OrgId
from hivemind_pipelines.demo.knowledge import Rule, RuleItem, Tool

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
class RulePair:
    """A ruff rule and a rule of another tool in one org."""

    org_id: OrgId
    ruff: Rule
    other: Rule


@dataclass(frozen=True, slots=True)
class Agreement:
    """Merges against the mapping, and the mapping against the merges.

    Of the merged pairs `verbatim_count` say the same word for word, so that they were one note all along.
    """

    merges: tuple[tuple[RulePair, Verdict], ...]
    verbatim_count: int
    fates: tuple[tuple[RulePair, Fate], ...]

    def merge_counts(self) -> dict[Verdict, int]:
        """Merged pairs of mapped tools by what the mapping says of them."""
        counted = Counter(verdict for _, verdict in self.merges)
        return {
            "agrees": counted["agrees"],
            "contradicts": counted["contradicts"],
            "uncovered": counted["uncovered"],
        }

    def fate_counts(self) -> dict[Tool, dict[Fate, int]]:
        """Declared pairs by the tool they point to and what became of them."""
        counted = Counter((pair.other.tool, fate) for pair, fate in self.fates)
        tools = sorted({tool for tool, _ in counted})
        return {tool: {fate: counted[tool, fate] for fate in FATES} for tool in tools}


def declared_counterpart(code: str) -> tuple[Tool, str] | None:
    """The tool and code that a ruff code declares as its origin, or None."""
    for pattern, tool, prefix in _DECLARED_BY_PREFIX:
        if match := pattern.fullmatch(code):
            return tool, prefix + match[1]
    return None


def declared_pairs(items: Iterable[RuleItem]) -> tuple[RulePair, ...]:
    """The declared pairs of which an org holds both rules, in order of org and ruff code."""
    held = {(item.org_id, item.rule.tool, item.rule.code): item.rule for item in items}
    pairs = []
    for (org_id, tool, code), rule in held.items():
        counterpart = declared_counterpart(code) if tool == "ruff" else None
        other = held.get((org_id, *counterpart)) if counterpart else None
        if other is not None:
            pairs.append(RulePair(org_id, rule, other))
    return tuple(sorted(pairs, key=_order))


def compare_with_mapping(
    items: Sequence[RuleItem],
    canonical_of: Mapping[ItemId, ItemId],
    decisions: Mapping[tuple[ItemId, ItemId], Decision],
) -> Agreement:
    """Hold merges against the mapping; two rules are merged when a text of one and a text of the other are.

    `canonical_of` has every merged item with its canonical, `decisions` every pair that is duplicate
    or possible, smaller id first.
    """
    declared = declared_pairs(items)
    merged = _merged_pairs(items, canonical_of)
    return Agreement(
        merges=tuple((pair, _verdict(pair, declared)) for pair in merged),
        verbatim_count=len(_merged_pairs(items, {})),
        fates=tuple(_fates(declared, frozenset(merged), items, decisions)),
    )


def _order(pair: RulePair) -> tuple[str, str, str, str]:
    return pair.org_id, pair.ruff.code, pair.other.tool, pair.other.code


def _verdict(pair: RulePair, declared: Sequence[RulePair]) -> Verdict:
    if pair in declared:
        return "agrees"
    tool = pair.other.tool
    is_spoken_for = any(
        known.org_id == pair.org_id
        and known.other.tool == tool
        and (known.ruff == pair.ruff or known.other == pair.other)
        for known in declared
    )
    return "contradicts" if is_spoken_for else "uncovered"


def _merged_pairs(items: Iterable[RuleItem], canonical_of: Mapping[ItemId, ItemId]) -> tuple[RulePair, ...]:
    clusters: dict[ItemId, set[tuple[OrgId, Rule]]] = defaultdict(set)
    for item in items:
        clusters[canonical_of.get(item.id, item.id)].add((item.org_id, item.rule))
    pairs = {
        RulePair(org_id, ruff, other)
        for cluster in clusters.values()
        for org_id, ruff in cluster
        for _, other in cluster
        if ruff.tool == "ruff" and other.tool in _MAPPED_TOOLS
    }
    return tuple(sorted(pairs, key=_order))


def _fates(
    declared: Sequence[RulePair],
    merged: Collection[RulePair],
    items: Iterable[RuleItem],
    decisions: Mapping[tuple[ItemId, ItemId], Decision],
) -> Iterator[tuple[RulePair, Fate]]:
    ids: dict[tuple[OrgId, Rule], list[ItemId]] = defaultdict(list)
    for item in items:
        ids[item.org_id, item.rule].append(item.id)
    for pair in declared:
        if pair in merged:
            yield pair, "merged"
            continue
        # a duplicate that is not merged was held back by its cluster: near, but no merge
        keys = product(ids[pair.org_id, pair.ruff], ids[pair.org_id, pair.other])
        is_near = any((min(key), max(key)) in decisions for key in keys)
        yield pair, "possible" if is_near else "missed"
