"""One pass of RE2 over a text says which of many patterns could match it at all; the rest need no look."""

import codecs
import re
from collections.abc import Iterable, Sequence
from importlib import import_module
from itertools import chain
from typing import Any

#: Python's own parser of patterns: what is relaxed here is what `re` itself would run.
_parser: Any = import_module("re._parser")
_op: Any = import_module("re._constants")


class Prefilter:
    """Candidates among patterns, never one too few.

    Every pattern is compiled in a relaxed form: no look-around, no borders, open counts, all beyond ASCII
    alike. RE2 gives no sign when its memory runs out, so each set holds a pattern that always matches:
    where that one is missing, every pattern of the set is a candidate.
    """

    def __init__(self, patterns: Sequence[re.Pattern[str]]) -> None:
        hints = [hint(pattern) for pattern in patterns]
        # States multiply inside a set: patterns of a kind share theirs, and what begins with no literal
        # would have them all follow every word.
        kinds = [(led, "(?i)" in text[:4]) for text, led in hints]
        self._sets = [
            _Set([(number, hints[number][0]) for number, own in enumerate(kinds) if own == kind])
            for kind in dict.fromkeys(kinds)
        ]

    def candidates(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """For each text the numbers of the patterns that may match it, in order."""
        encoded = [_encode(text) for text in texts]
        found: list[list[int]] = [[] for _ in texts]
        for one in self._sets:
            for start in range(0, len(texts), _TOGETHER):
                together = range(start, min(start + _TOGETHER, len(texts)))
                # Most texts are clean: a look at several together spares one at each.
                if one.matches(b"\n".join(encoded[place] for place in together)):
                    for place in together:
                        found[place] += one.matches(encoded[place])
        return [tuple(sorted(numbers)) for numbers in found]


_TOGETHER = 8
#: RE2 builds its states while it reads; below this it would throw them away and begin again.
_MEMORY_BYTES = 256 * 2**20


class _Set:
    """Relaxed patterns that are searched for at once, with the numbers they are known by."""

    def __init__(self, hints: Sequence[tuple[int, str]]) -> None:
        import re2

        options = re2.Options()
        options.encoding = re2.Options.Encoding.LATIN1
        options.max_mem = _MEMORY_BYTES
        options.log_errors = False
        options.never_capture = True
        self._numbers = [number for number, _ in hints]
        self._compiled = re2.Set.SearchSet(options)
        self._sentinel = self._compiled.Add("")
        for _, text in hints:
            self._compiled.Add(text)
        self._compiled.Compile()

    def matches(self, text: bytes) -> list[int]:
        """The numbers of the patterns that match, or all of them when RE2 gave up."""
        places = self._compiled.Match(text)
        if self._sentinel not in places:
            return self._numbers
        return [self._numbers[place - 1] for place in places if place != self._sentinel]


def _encode(text: str) -> bytes:
    """A byte a character: ASCII as it is, anything else above it."""
    return text.encode("ascii") if text.isascii() else text.encode("latin-1", _WIDE)


_WIDE = "hivemind_wide"
codecs.register_error(_WIDE, lambda error: (b"\xff" * (error.end - error.start), error.end))  # type: ignore[attr-defined]

#: Larger counts make many states and tell little more.
_COUNT_MAX = 30
#: A class of so few characters tells as much as a literal.
_NARROW_MAX = 4
_BEYOND_ASCII = r"\x80-\xff"
_CATEGORIES = {
    _op.CATEGORY_WORD: r"\w",
    _op.CATEGORY_NOT_WORD: r"\W",
    _op.CATEGORY_DIGIT: r"\d",
    _op.CATEGORY_NOT_DIGIT: r"\D",
    _op.CATEGORY_SPACE: r"\s",
    _op.CATEGORY_NOT_SPACE: r"\S",
}


def hint(pattern: re.Pattern[str]) -> tuple[str, bool]:
    """A pattern of RE2 that matches somewhere in every text in which `pattern` does; whether a literal leads.

    What stands before the first literal is left out: a part of a match is a hint as good as the whole.
    """
    tree = _parser.parse(pattern.pattern, pattern.flags)
    flag = "(?i)" if tree.state.flags & re.IGNORECASE else ""
    led = _led(tree)
    return (flag + led, True) if led is not None else (flag + _relaxed(tree), False)


def _led(items: Iterable[Any]) -> str | None:
    """Relaxed from the first narrow item on; None when there is none that every match must hold."""
    rest = list(items)
    for place, (operator, argument) in enumerate(rest):
        head = _led_item(operator, argument)
        if head is not None:
            return head + _relaxed(rest[place + 1 :])
    return None


def _led_item(operator: Any, argument: Any) -> str | None:
    if operator is _op.LITERAL or (operator is _op.IN and _is_narrow(argument)):
        return _relaxed([(operator, argument)])
    if operator is _op.SUBPATTERN:
        inner = _led(argument[3])
        return None if inner is None else _flagged(argument[1], inner)
    if operator is _op.BRANCH:
        branches = [_led(branch) for branch in argument[1]]
        known = [branch for branch in branches if branch is not None]
        return f"(?:{'|'.join(known)})" if len(known) == len(branches) else None
    if operator in _REPEATS and argument[0] > 0:
        low, _, inner_items = argument
        inner = _led(inner_items)
        return None if inner is None else inner + _repeated(inner_items, low - 1, _op.MAXREPEAT)
    return None


_REPEATS = (_op.MAX_REPEAT, _op.MIN_REPEAT, _op.POSSESSIVE_REPEAT)


def _is_narrow(members: Iterable[Any]) -> bool:
    size = 0
    for operator, argument in members:
        if operator is _op.LITERAL:
            size += 1
        elif operator is _op.RANGE:
            size += argument[1] - argument[0] + 1
        else:
            return False
    return size <= _NARROW_MAX


def _relaxed(items: Iterable[Any]) -> str:
    return "".join(chain.from_iterable(_relaxed_item(operator, argument) for operator, argument in items))


def _relaxed_item(operator: Any, argument: Any) -> str:
    if operator is _op.LITERAL:
        return _escaped(argument) if argument < 128 else f"[{_BEYOND_ASCII}]"
    if operator is _op.NOT_LITERAL:
        return f"(?:[^{_escaped(argument)}]|[{_BEYOND_ASCII}])" if argument < 128 else "(?s:.)"
    if operator is _op.ANY:
        return "(?s:.)"
    if operator is _op.IN:
        return _class(argument)
    if operator is _op.BRANCH:
        return f"(?:{'|'.join(_relaxed(branch) for branch in argument[1])})"
    if operator is _op.SUBPATTERN:
        return _flagged(argument[1], _relaxed(argument[3]))
    if operator in _REPEATS:
        return _repeated(argument[2], argument[0], argument[1])
    if operator is _op.ATOMIC_GROUP:
        return f"(?:{_relaxed(argument)})"
    if operator in (_op.ASSERT, _op.ASSERT_NOT, _op.AT):
        return ""
    if operator is _op.GROUPREF:
        return "(?s:.)*"
    raise ValueError(f"a pattern holds {operator}, which nobody has relaxed yet")


def _flagged(added: int, inner: str) -> str:
    return f"(?i:{inner})" if added & re.IGNORECASE else f"(?:{inner})"


def _repeated(items: Iterable[Any], low: int, high: Any) -> str:
    inner = _relaxed(items)
    if not inner:
        return ""
    if high is not _op.MAXREPEAT and high <= _NARROW_MAX:
        return f"(?:{inner}){{{low},{high}}}"
    return f"(?:{inner}){{{min(low, _COUNT_MAX)},}}"


def _class(members: Sequence[Any]) -> str:
    """A class with everything beyond ASCII in it, unless it names ASCII characters alone."""
    is_negated = members[0][0] is _op.NEGATE
    is_wide, body = is_negated, ""
    for operator, argument in members:
        match operator:
            case _op.LITERAL:
                low = high = argument
            case _op.RANGE:
                low, high = argument
            case _op.CATEGORY:
                is_wide, body = True, body + _CATEGORIES[argument]
                continue
            case _:
                continue
        is_wide = is_wide or high > 127
        if low < 128:
            body += f"{_escaped(low)}-{_escaped(min(high, 127))}"
    if not is_negated:
        return f"[{body}{_BEYOND_ASCII if is_wide else ''}]"
    return f"(?:[^{body}]|[{_BEYOND_ASCII}])" if body else "(?s:.)"


def _escaped(code: int) -> str:
    return chr(code) if chr(code).isalnum() else rf"\x{code:02x}"
