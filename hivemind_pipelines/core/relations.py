"""Relations: what a sentence says comes first, exceeds, is preferred or is the cause."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hivemind_pipelines.core.lexicon import words
from hivemind_pipelines.core.opposites import root
from hivemind_pipelines.core.sides import Term, axes
from hivemind_pipelines.core.wording import CLAUSE_ENDS, Span, Word


@dataclass(frozen=True, slots=True)
class Relation:
    """Two groups of words of which the first comes before, exceeds or is preferred to the second."""

    kind: str
    first: frozenset[str]
    second: frozenset[str]
    span: Span


def read_relations(found: Sequence[Word], terms: Sequence[Term]) -> Iterator[Relation]:
    """What a sentence relates, by the words on either side of what relates them."""
    for place, word in enumerate(found):
        span = word.span
        match word.lower:
            case "before" | "after" | "until" | "once" if not _is_valued(found, place):
                first, second = _around(found, terms, place)
                if word.lower in ("after", "once"):
                    first, second = second, first
                yield Relation("order", first, second, span)
            case "because" | "caused-by" | "causing" | "caused" | "causes" if place:
                effect, cause = _keys(terms, -1, place), _keys(terms, place, _clause_end(found, place))
                if word.lower in ("causing", "caused", "causes"):
                    effect, cause = cause, effect
                yield Relation("cause", effect, cause, span)
            case "from":
                to = next((n for n in range(place, len(found)) if found[n].lower == "to"), 0)
                end = next((n for n in range(to, len(found)) if found[n].lower in CLAUSE_ENDS), len(found))
                if to:
                    yield Relation("course", _keys(terms, place, to), _keys(terms, to, end), span)
            case "<" | ">" if not _is_valued(found, place):
                first, second = _around(found, terms, place)
                yield Relation("amount", *((first, second) if word.lower == ">" else (second, first)), span)
            case "than":
                axis = next(
                    (
                        one
                        for earlier in range(place - 1, max(-1, place - 6), -1)
                        for one in axes(found, earlier)
                    ),
                    None,
                )
                if axis is not None and not _is_valued(found, place):
                    first, second = _around(found, terms, place)
                    yield Relation(axis[0], *((first, second) if axis[1] > 0 else (second, first)), span)
            case "override":
                start = max(
                    (n for n in range(place) if found[n].lower in ("and", ",", "but", "while")), default=-1
                )
                yield Relation("rank", _keys(terms, start, place), _keys(terms, place, len(found)), span)
            case "over" | "instead" if place and not _is_valued(found, place):
                if word.lower == "instead" or any(
                    root(w.lower) in ("prefer", "choos", "favour", "favor", "pick") for w in found[:place]
                ):
                    yield Relation("preference", *_around(found, terms, place), span)
            case "afterwards" | "afterward" | "then":
                split = (
                    place
                    if word.lower == "then"
                    else max((n for n in range(place) if found[n].lower in ("and", ",", ";")), default=-1)
                )
                if split > 0:
                    yield Relation("order", _keys(terms, -1, split), _keys(terms, split, len(found)), span)


def _clause_end(found: Sequence[Word], start: int) -> int:
    return next((n for n in range(start + 1, len(found)) if found[n].lower in CLAUSE_ENDS), len(found))


def _is_valued(found: Sequence[Word], place: int) -> bool:
    return place + 1 < len(found) and found[place + 1].lower[0].isdigit()


def _around(
    found: Sequence[Word], terms: Sequence[Term], place: int
) -> tuple[frozenset[str], frozenset[str]]:
    """The words on either side of what relates them; of `After X, Y` Y stands first."""
    comma = next((n for n in range(place, len(found)) if found[n].lower == ","), len(found))
    if not _keys(terms, -1, place):
        return _keys(terms, comma, len(found)), _keys(terms, place, comma) if comma < len(
            found
        ) else frozenset()
    # What is said of an exception is no part of what comes first or last.
    end = next((n for n in range(place, comma) if found[n].lower in _EXEMPTING), comma)
    start = -1
    if found[0].lower in _EXEMPTING:
        start = next((n for n in range(place) if found[n].lower == ","), -1)
    return _keys(terms, start, place), _keys(terms, place, end)


_EXEMPTING = words("unless except without if when while")


def _keys(terms: Sequence[Term], start: int, end: int) -> frozenset[str]:
    return frozenset(term.key for term in terms if start < term.place < end)
