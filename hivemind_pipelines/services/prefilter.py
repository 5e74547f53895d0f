"""One pass of RE2 over a text says which of many patterns could match it at all; the rest need no look."""

import codecs
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
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
        kinds = [(one.is_led, "(?i)" in one.text[:4]) for one in hints]
        self._sets = [
            _Set([(number, hints[number].text) for number, own in enumerate(kinds) if own == kind])
            for kind in dict.fromkeys(kinds)
        ]

    def candidates(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """For each text the numbers of the patterns that may match it, in order."""
        encoded = [encode(text) for text in texts]
        found: list[list[int]] = [[] for _ in texts]
        for group in _groups(encoded):
            together = b"\n".join(encoded[group.start : group.stop])
            for one in self._sets:
                numbers = one.matches(together)
                if numbers and len(group) == 1:
                    found[group.start] += numbers
                elif numbers:
                    for place in group:
                        found[place] += one.matches(encoded[place])
        return [tuple(sorted(numbers)) for numbers in found]


#: A look at short texts together spares one at each; most are clean, and fewer of a longer group are.
_TOGETHER_BYTES = 512
#: RE2 builds its states while it reads; below this it would throw them away and begin again.
_MEMORY_BYTES = 256 * 2**20


def _groups(encoded: Sequence[bytes]) -> Iterator[range]:
    first = size = 0
    for place, data in enumerate(encoded):
        if place > first and size + len(data) > _TOGETHER_BYTES:
            yield range(first, place)
            first = place
            size = 0
        size += len(data)
    if encoded:
        yield range(first, len(encoded))


class _Set:
    """Relaxed patterns that are searched for at once, with the numbers they are known by."""

    def __init__(self, hints: Sequence[tuple[int, str]]) -> None:
        import re2

        self._numbers = [number for number, _ in hints]
        self._compiled = re2.Set.SearchSet(_options())
        self._sentinel = self._compiled.Add("")
        for _, text in hints:
            self._compiled.Add(text)
        self._compiled.Compile()

    def matches(self, text: bytes) -> list[int]:
        """The numbers of the patterns that match, or all of them when RE2 gave up."""
        places = self._compiled.Match(text)
        if len(places) == 1 and places[0] == self._sentinel:
            return []
        if self._sentinel not in places:
            return self._numbers
        return [self._numbers[place - 1] for place in places if place != self._sentinel]


class Starts:
    """Where in a text matches of a pattern may begin, for `re` alone looks at every place with its whole might."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        import re2

        one = hint(pattern)
        self._lead_min, self._lead_max = one.lead
        is_near = self._lead_max <= _LEAD_MAX and one.text
        self._compiled = re2.compile(one.text.encode(), _options()) if is_near else None

    def places(self, data: bytes) -> list[int] | None:
        """All of them in order, in a text that `encode` encoded; None when it may be anywhere."""
        if self._compiled is None:
            return None
        places: list[int] = []
        last = -1
        for match in self._compiled.finditer(data):
            start, end = match.span()
            if start == end:
                return None
            # A match that begins inside another's hint is one as well.
            first = max(start - self._lead_max, last + 1, 0)
            last = max(end - 1 - self._lead_min, last)
            places += range(first, last + 1)
        return places


#: Farther before its first literal a match is not looked for place by place.
_LEAD_MAX = 40


def _options() -> Any:
    import re2

    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.max_mem = _MEMORY_BYTES
    options.log_errors = False
    options.never_capture = True
    return options


def encode(text: str) -> bytes:
    """A byte a character: ASCII as it is, anything else above it."""
    return text.encode("ascii") if text.isascii() else text.encode("latin-1", _WIDE)


_WIDE = "hivemind_wide"
codecs.register_error(_WIDE, lambda error: (b"\xff" * (error.end - error.start), error.end))  # type: ignore[attr-defined]

#: Larger counts make many states and tell little more.
_COUNT_MAX = 30
#: A class of so few characters tells as much as a literal.
_NARROW_MAX = 4
#: A run of almost any characters that may be longer is a gap.
_GAP_MIN = 16
_BEYOND_ASCII = r"\x80-\xff"
_CATEGORIES = {
    _op.CATEGORY_WORD: r"\w",
    _op.CATEGORY_NOT_WORD: r"\W",
    _op.CATEGORY_DIGIT: r"\d",
    _op.CATEGORY_NOT_DIGIT: r"\D",
    _op.CATEGORY_SPACE: r"\s",
    _op.CATEGORY_NOT_SPACE: r"\S",
}


@dataclass(frozen=True, slots=True)
class Hint:
    """A pattern of RE2 that matches in every match of another one.

    A led one begins with a literal, `lead` characters behind the match at least and at most; one that is not
    `is_whole` ends before the match does.
    """

    text: str
    lead: tuple[int, int] = (0, 0)
    is_led: bool = False
    is_whole: bool = True


def hint(pattern: re.Pattern[str]) -> Hint:
    """What RE2 can look for in place of `pattern`.

    What stands before the first literal is left out, and what follows a gap of any text: a part of a match is
    a hint as good as the whole, and patterns with gaps have as many states as all their combinations.
    """
    tree = _parser.parse(pattern.pattern, pattern.flags)
    flag = "(?i)" if tree.state.flags & re.IGNORECASE else ""
    led = _led(tree)
    if led is not None:
        return Hint(flag + led.text, led.lead, is_led=True, is_whole=led.is_whole)
    return Hint(flag + _relaxed(tree, is_led=False).text)


def _led(items: Any) -> Hint | None:
    """Relaxed from the first narrow item on; None when there is none that every match must hold."""
    for place, (operator, argument) in enumerate(items):
        head = _led_item(operator, argument)
        if head is not None:
            before_min, before_max = items[:place].getwidth()
            lead = (int(before_min) + head.lead[0], int(before_max) + head.lead[1])
            rest = _relaxed(items[place + 1 :]) if head.is_whole else Hint("")
            return Hint(head.text + rest.text, lead, is_whole=head.is_whole and rest.is_whole)
    return None


def _led_item(operator: Any, argument: Any) -> Hint | None:
    if operator is _op.LITERAL or (operator is _op.IN and _is_narrow(argument)):
        return _relaxed_item(operator, argument)
    if operator is _op.SUBPATTERN:
        inner = _led(argument[3])
        return inner and Hint(_flagged(argument[1], inner.text), inner.lead, is_whole=inner.is_whole)
    if operator is _op.BRANCH:
        branches = [_led(branch) for branch in argument[1]]
        known = [branch for branch in branches if branch is not None]
        return _any_of(known) if len(known) == len(branches) else None
    if operator in _REPEATS and argument[0] > 0:
        low, _, inner_items = argument
        inner = _led(inner_items)
        if inner is None or not inner.is_whole:
            return inner
        return Hint(inner.text + _repeated(inner_items, low - 1, _op.MAXREPEAT).text, inner.lead)
    return None


def _any_of(branches: Sequence[Hint]) -> Hint:
    leads = [branch.lead for branch in branches]
    return Hint(
        f"(?:{'|'.join(branch.text for branch in branches)})",
        (min(low for low, _ in leads), max(high for _, high in leads)),
        is_whole=all(branch.is_whole for branch in branches),
    )


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


def _is_gap(operator: Any, argument: Any) -> bool:
    """Whether an item runs over words and spaces alike, or repeats who knows what."""
    if operator is _op.GROUPREF:
        return True
    if operator not in _REPEATS or argument[1] < _GAP_MIN:
        return False
    inner = [item for item in argument[2] if item[0] not in _WIDTHLESS]
    if len(inner) == 1 and inner[0][0] is _op.SUBPATTERN:
        inner = [item for item in inner[0][1][3] if item[0] not in _WIDTHLESS]
    if len(inner) != 1:
        return False
    what, members = inner[0]
    if what is _op.NOT_LITERAL:
        return bool(members != ord(" "))
    return what is _op.ANY or (
        what is _op.IN and all(re.fullmatch(_class(members), character) for character in "a 0")
    )


_WIDTHLESS = (_op.ASSERT, _op.ASSERT_NOT, _op.AT)


def _relaxed(items: Iterable[Any], *, is_led: bool = True) -> Hint:
    """The items up to the first gap, which ends what a literal leads; nothing else would be left of the others."""
    texts: list[str] = []
    for operator, argument in items:
        if is_led and _is_gap(operator, argument):
            return Hint("".join(texts), is_whole=False)
        one = _relaxed_item(operator, argument, is_led=is_led)
        texts.append(one.text)
        if not one.is_whole:
            return Hint("".join(texts), is_whole=False)
    return Hint("".join(texts))


def _relaxed_item(operator: Any, argument: Any, *, is_led: bool = True) -> Hint:
    if operator is _op.LITERAL:
        return Hint(_escaped(argument) if argument < 128 else f"[{_BEYOND_ASCII}]")
    if operator is _op.NOT_LITERAL:
        return Hint(f"(?:[^{_escaped(argument)}]|[{_BEYOND_ASCII}])" if argument < 128 else "(?s:.)")
    if operator is _op.ANY:
        return Hint("(?s:.)")
    if operator is _op.IN:
        return Hint(_class(argument))
    if operator is _op.BRANCH:
        return _any_of([_relaxed(branch, is_led=is_led) for branch in argument[1]])
    if operator is _op.SUBPATTERN:
        inner = _relaxed(argument[3], is_led=is_led)
        return Hint(_flagged(argument[1], inner.text), is_whole=inner.is_whole)
    if operator in _REPEATS:
        return _repeated(argument[2], argument[0], argument[1], is_led=is_led)
    if operator is _op.ATOMIC_GROUP:
        inner = _relaxed(argument, is_led=is_led)
        return Hint(f"(?:{inner.text})", is_whole=inner.is_whole)
    if operator in _WIDTHLESS:
        return Hint("")
    if operator is _op.GROUPREF:
        return Hint("(?s:.)*")
    raise ValueError(f"a pattern holds {operator}, which nobody has relaxed yet")


def _flagged(added: int, inner: str) -> str:
    return f"(?i:{inner})" if added & re.IGNORECASE else f"(?:{inner})"


def _repeated(items: Iterable[Any], low: int, high: Any, *, is_led: bool = True) -> Hint:
    inner = _relaxed(items, is_led=is_led)
    if not inner.is_whole:
        return Hint(inner.text if low else "", is_whole=False)
    if not inner.text:
        return inner
    if high is not _op.MAXREPEAT and high <= _NARROW_MAX:
        return Hint(f"(?:{inner.text}){{{low},{high}}}")
    return Hint(f"(?:{inner.text}){{{min(low, _COUNT_MAX)},}}")


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
