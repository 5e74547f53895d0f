"""Claims: what each sentence of a text says, as terms, quantities, releases and sides taken, with offsets."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from hivemind_pipelines.core.lexicon import UNITS, words
from hivemind_pipelines.core.opposites import CURRENCY_WORDS, EVENTS, EXCEPTIONS, POLAR, TASKS, root
from hivemind_pipelines.core.quantities import WEEKDAYS, Quantity, read_quantities
from hivemind_pipelines.core.relations import Relation, read_relations
from hivemind_pipelines.core.releases import Release, read_releases
from hivemind_pipelines.core.sides import Side, Term, read_negations, read_sides
from hivemind_pipelines.core.wording import (
    ARTICLES,
    CLAUSE_ENDS,
    CODE,
    SMALL,
    Span,
    Word,
    is_inside,
    read_words,
)

#: A text with more sentences than this is read up to here; conflicts are found in short notes.
SENTENCES_MAX = 60


@dataclass(frozen=True, slots=True)
class Claim:
    """One sentence: its content words, and what it says of them.

    `polarity` is the product of its negations and minus words; `settings` are values given to names;
    `slots` are the last words of a phrase such as `as files`, by what opens it; `excepted` are the words behind
    `unless`, for which it does not hold; `breaks` are the places at which a clause begins. An entry of a catalogue says
    what something looks for (`Checks for ...`), and nothing of how things are.
    """

    span: Span
    terms: tuple[Term, ...]
    quantities: tuple[Quantity, ...]
    releases: tuple[Release, ...]
    sides: tuple[Side, ...]
    negations: tuple[Term, ...]
    settings: Mapping[str, tuple[str, Span]]
    relations: tuple[Relation, ...]
    slots: Mapping[str, tuple[Term, ...]]
    polarity: int
    lead: str
    is_recipe: bool
    is_task: bool
    is_entry: bool
    is_dated: bool
    is_open: bool
    excepted: frozenset[str]
    breaks: tuple[int, ...]
    is_default: bool
    is_whole: bool = False

    @property
    def keys(self) -> frozenset[str]:
        """The content words that it is about."""
        return frozenset(term.key for term in self.terms)


_SENTENCE = re.compile(r"(?<=[.!?;])[\"')\]*]*\s+(?=\S)|\n\s*\n|\n(?=\s*(?:[-*+•#]|\d+[.)])\s)|\s+[–—]\s+")


@lru_cache(maxsize=4096)
def read(text: str) -> tuple[Claim, ...]:
    """The claims of a text in order, one a sentence; sentences without a content word are left out."""
    codes = [Span(*match.span()) for match in CODE.finditer(text)]
    cuts = [match.span() for match in _SENTENCE.finditer(text) if not is_inside(match.start(), codes)]
    starts = [0, *(end for _, end in cuts)][:SENTENCES_MAX]
    ends = [*(start for start, _ in cuts), len(text)]
    claims = (_claim(text, Span(start, end), codes) for start, end in zip(starts, ends, strict=False))
    return tuple(claim for claim in claims if claim.terms)


@lru_cache(maxsize=4096)
def read_whole(text: str) -> Claim:
    """All claims of a text that makes at least one, as one."""
    return joined(read(text))


def joined(claims: Sequence[Claim]) -> Claim:
    """Several claims as one, for texts that spread over sentences what another says in one."""
    if len(claims) == 1:
        return claims[0]
    terms, shift = [], 0
    sides, quantities, breaks = [], [], []
    for claim in claims:
        terms += [replace(term, place=term.place + shift) for term in claim.terms]
        quantities += [replace(one, place=one.place + shift) for one in claim.quantities]
        sides += [replace(one, term=replace(one.term, place=one.term.place + shift)) for one in claim.sides]
        breaks += [shift, *(place + shift for place in claim.breaks)]
        shift += 1000
    polarity = 1
    for claim in claims:
        polarity *= claim.polarity
    return Claim(
        span=Span(claims[0].span.start, claims[-1].span.end),
        terms=tuple(terms),
        quantities=tuple(quantities),
        releases=tuple(one for claim in claims for one in claim.releases),
        sides=tuple(sides),
        negations=tuple(one for claim in claims for one in claim.negations),
        settings={key: value for claim in claims for key, value in claim.settings.items()},
        relations=tuple(one for claim in claims for one in claim.relations),
        slots={},
        polarity=polarity,
        lead=claims[0].lead,
        is_recipe=any(claim.is_recipe for claim in claims),
        is_task=claims[0].is_task,
        is_entry=claims[0].is_entry,
        is_dated=any(claim.is_dated for claim in claims),
        is_open=any(claim.is_open for claim in claims),
        excepted=frozenset(key for claim in claims for key in claim.excepted),
        breaks=tuple(breaks),
        is_default=any(claim.is_default for claim in claims),
        is_whole=True,
    )


def _claim(text: str, span: Span, codes: Sequence[Span]) -> Claim:
    found = list(read_words(text, span, codes))
    releases, taken = read_releases(found)
    quantities = tuple(read_quantities(found, taken))
    numeric = taken | {one.place for one in quantities}
    terms = tuple(_terms(found, numeric))
    negations = tuple(read_negations(found))
    sides, polarity = read_sides(found, negations)
    is_entry = _is_entry(found)
    if is_entry:
        # What a check looks for it neither allows nor forbids itself.
        sides = tuple(side for side in sides if side.term.place > 0)
    return Claim(
        span=span,
        terms=terms,
        quantities=quantities,
        releases=releases,
        sides=sides,
        negations=negations,
        settings=dict(_settings(found)),
        relations=tuple(read_relations(found, terms)),
        slots=dict(_slots(found, terms)),
        polarity=polarity,
        lead=_lead(found, terms),
        is_recipe=_is_recipe(text, span, codes),
        is_task=bool(found) and _is_task(found),
        is_entry=is_entry,
        is_dated=any(word.lower in CURRENCY_WORDS or word.lower == "no-longer" for word in found),
        is_open=any(word.lower in EXCEPTIONS for word in found),
        excepted=_excepted(found, terms),
        breaks=tuple(place for place, word in enumerate(found) if word.lower in _CLAUSE_OPENERS),
        is_default=any(root(word.lower).startswith("default") for word in found),
    )


def _terms(found: Sequence[Word], numeric: set[int]) -> Iterator[Term]:
    for place, word in enumerate(found):
        is_day = word.lower.rstrip("s") in WEEKDAYS
        is_small = word.lower in SMALL or word.lower in UNITS
        if (
            (place in numeric and not is_day)
            or (is_small and word.form not in _CAPITALS)
            or not _is_content(word)
        ):
            continue
        key = word.lower if word.is_code or "_" in word.lower else root(word.lower)
        is_name = word.form[:1].isupper() and place > 0
        yield Term(key, word.lower, word.span, place, word.is_code, is_name)


#: What a further clause begins with.
_CLAUSE_OPENERS = CLAUSE_ENDS | words(
    """
    and or if when while whenever unless until before after because since so as whereas although though where
    without once caused-by instead which that to
    """
)


def _excepted(found: Sequence[Word], terms: Sequence[Term]) -> frozenset[str]:
    start = next(
        (place for place, word in enumerate(found) if word.lower in ("unless", "except")), len(found)
    )
    end = next((place for place in range(start, len(found)) if found[place].lower in CLAUSE_ENDS), len(found))
    return frozenset(term.key for term in terms if start < term.place < end)


#: Names that are another word in small letters.
_CAPITALS = words("GET US")


def _is_content(word: Word) -> bool:
    return any(letter.isalpha() for letter in word.lower) and len(word.lower) > 1


_KEY = re.compile(r"[A-Za-z_.-][\w.-]*")


def _settings(found: Sequence[Word]) -> Iterator[tuple[str, tuple[str, Span]]]:
    """Names with the values they are given: `key = value`, and `key` to/is `value` of a name in code."""
    for place in range(1, len(found) - 1):
        left, mid, right = found[place - 1], found[place], found[place + 1]
        if mid.lower in SMALL and mid.lower not in ("to", "is", "at"):
            continue
        is_assigned = mid.lower == "=" or (mid.lower == ":" and left.is_code and right.is_code)
        is_given = (
            mid.lower in ("to", "is", "at") and left.is_code and (right.is_code or right.lower[0].isdigit())
        )
        if (is_assigned or is_given) and _KEY.fullmatch(left.form) and right.lower not in (":", "=", ","):
            yield left.lower, (right.lower, Span(left.span.start, right.span.end))


_PREPOSITIONS = words(
    "in on for with by under at from when if while as after before since until per during without within"
)
_ADVICE = words(
    """
    set use store keep run enable disable raise lower increase decrease write read avoid prefer add make put call do
    pass give send configure define mount choose pick turn-on consider ensure check limit rotate try let return deploy
    restart start stop always never
    """
)


def _is_verb(term: Term) -> bool:
    """Whether a word that begins a sentence is likely the verb of an advice."""
    return term.form in _ADVICE or (term.place == 0 and (term.key in POLAR or term.key in _EVENT_ROOTS))


def _lead(found: Sequence[Word], terms: Sequence[Term]) -> str:
    """The word of weight that a sentence begins with, behind the verb of an advice; none behind a preposition."""
    start = 0
    if found and found[0].lower in _PREPOSITIONS:
        start = next((place for place, word in enumerate(found) if word.lower == ","), len(found))
    behind = [term for term in terms if term.place >= start and not _is_verb(term)]
    return behind[0].key if behind else ""


#: The title of a recipe: a purpose, or anything in front of what looks like a command.
_PURPOSE = re.compile(r"\W*(?:to|how to) [a-z]+\b[^:]*:", re.IGNORECASE)
_COMMAND = re.compile(r":\s[^.:]*?(?:\s-{1,2}[A-Za-z]|<[\w./-]+>|\s\|\s|\$\s|\s>>?\s|\s~?/\w)")


def _is_recipe(text: str, span: Span, codes: Sequence[Span]) -> bool:
    """Whether the sentence is the title of a command that follows it, `Do something: command`.

    It tells how something is done and claims nothing.
    """
    sentence = text[span.start : span.end]
    if _PURPOSE.match(sentence) or _COMMAND.search(sentence):
        return True
    inside = [code for code in codes if code.start >= span.start and code.end <= span.end]
    if not inside:
        return False
    return (
        text[: inside[-1].start].rstrip().endswith(":") and text[inside[-1].end : span.end].strip(" .") == ""
    )


def _is_task(found: Sequence[Word]) -> bool:
    """Whether it begins with the verb of a task or of a change note, so that it states nothing of a thing."""
    if found[0].lower in _NOTE_KINDS and any(word.lower == ":" for word in found[:4]):
        return True
    colon = next((place for place in range(1, min(len(found), 4)) if found[place].lower == ":"), -1)
    start = colon + 1 if 0 < colon < len(found) - 1 else 0
    first = root(found[start].lower)
    if any(word.lower in ("must", "should", "always", "never") for word in found):
        return False
    is_stated = any(word.lower in ("is", "are", "was", "were") for word in found[start + 1 : start + 4])
    return not is_stated and (first in TASKS or first in _EVENT_ROOTS)


#: What a conventional change note begins with, before its colon.
_NOTE_KINDS = words(
    """
    feat feature fix chore docs doc ci refactor release test tests perf build style breaking upgrade update new
    revert deps
    """
)
#: What an entry of a catalogue of checks begins with.
_ENTRIES = words("checks detects reports flags finds enforces enforce disallows disallow warns forbids looks")
#: And with `when` behind it: what a check says of itself.
_EMITTED = words("used emitted raised triggered reported issued shown")


def _is_entry(found: Sequence[Word]) -> bool:
    first, second = ([*(word.lower for word in found[:2]), "", ""])[:2]
    return first in _ENTRIES or (first in _EMITTED and second in ("when", "if", "whenever"))


_EVENT_ROOTS = frozenset(map(root, EVENTS))
_SLOT_OPENERS = words(
    "as per for of in on at into inside by via through using use uses with is are to from under return returns"
)


def _slots(found: Sequence[Word], terms: Sequence[Term]) -> Iterator[tuple[str, tuple[Term, ...]]]:
    """The content words that follow directly on a word that opens a place for a value."""
    at = {term.place: term for term in terms}
    for place, word in enumerate(found):
        if word.lower not in _SLOT_OPENERS or word.is_code:
            continue
        run = []
        for later in range(place + 1, len(found)):
            if later in at:
                run.append(at[later])
            elif found[later].lower not in ARTICLES | {"one"} and not found[later].lower[0].isdigit():
                break
        if run:
            yield word.lower, tuple(run)
