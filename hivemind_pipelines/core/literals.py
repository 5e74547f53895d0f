"""Literals: strings of which a text must hold one before a pattern can match it; most texts hold none."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any

#: Python's own parser of patterns: what is read here is what `re` itself would run.
_parser: Any = import_module("re._parser")
_op: Any = import_module("re._constants")

#: A class of so few characters is as good as as many literals.
_CLASS_MAX = 8
#: Literals are looked up by a run of so many characters; shorter ones are looked for one by one.
_RUN = 3


class Sieve:
    """Patterns of which a text needs to be searched for those only whose literals it holds.

    Never one too few: what no literal is known of is always a candidate.
    """

    def __init__(self, patterns: Sequence[re.Pattern[str]]) -> None:
        needed = [_needed(_parser.parse(pattern.pattern, pattern.flags)) for pattern in patterns]
        self._all = range(len(patterns))
        self._always = frozenset(number for number, strings in enumerate(needed) if not strings)
        self._is_caseless = any(pattern.flags & re.IGNORECASE for pattern in patterns)
        self._short: list[tuple[str, int]] = []
        self._by_run: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
        known = [(string, number) for number, strings in enumerate(needed) for string in strings or ()]
        commonness = Counter(run for string, _ in known for run in _runs(string))
        for string, number in sorted(known):
            runs = _runs(string)
            if runs:
                self._by_run[min(runs, key=lambda run: (commonness[run], run))].append((string, number))
            else:
                self._short.append((string, number))

    def candidates(self, text: str) -> Collection[int]:
        """The numbers of the patterns that may match the text."""
        if self._is_caseless and not text.isascii():
            # Beyond ASCII more letters than two are the same in any case.
            return self._all
        lower = text.lower()
        found = set(self._always)
        found.update(number for string, number in self._short if string in lower)
        for run in self._by_run.keys() & _runs(lower):
            found.update(number for string, number in self._by_run[run] if string in lower)
        return found


def _runs(string: str) -> set[str]:
    return {string[start : start + _RUN] for start in range(len(string) - _RUN + 1)}


_Strings = frozenset[str]


def _needed(items: Iterable[Any]) -> _Strings | None:
    """Of the sets of which every match holds a string, the one that says most: its shortest is longest."""
    return max(_choices(items), key=_worth, default=None)


def _worth(strings: _Strings) -> tuple[int, int]:
    return min(map(len, strings)), -len(strings)


def _choices(items: Iterable[Any]) -> Iterator[_Strings]:
    run = ""
    for operator, argument in items:
        if operator is _op.LITERAL:
            run += chr(argument).lower()
            continue
        if run:
            yield frozenset((run,))
        run = ""
        inner = _of_item(operator, argument)
        if inner:
            yield inner
    if run:
        yield frozenset((run,))


def _of_item(operator: Any, argument: Any) -> _Strings | None:
    if operator is _op.IN:
        return _of_class(argument)
    if operator is _op.SUBPATTERN:
        return _needed(argument[3])
    if operator is _op.ATOMIC_GROUP:
        return _needed(argument)
    if operator is _op.BRANCH:
        branches = [_needed(branch) for branch in argument[1]]
        known = [branch for branch in branches if branch]
        return frozenset[str]().union(*known) if len(known) == len(branches) else None
    if operator in _REPEATS and argument[0] > 0:
        return _needed(argument[2])
    return None


_REPEATS = (_op.MAX_REPEAT, _op.MIN_REPEAT, _op.POSSESSIVE_REPEAT)


def _of_class(members: Sequence[Any]) -> _Strings | None:
    if len(members) > _CLASS_MAX or any(operator is not _op.LITERAL for operator, _ in members):
        return None
    return frozenset(chr(code).lower() for _, code in members)
