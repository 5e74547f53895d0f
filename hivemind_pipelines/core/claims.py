"""Claims: what each sentence of a text says, as terms, quantities, releases and sides taken, with offsets."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

from hivemind_pipelines.core.lexicon import FUNCTION_WORDS, NUMBER_WORDS, UNIT_NAMES, UNITS, words
from hivemind_pipelines.core.opposites import (
    CURRENCY_WORDS,
    EVENTS,
    EXCEPTIONS,
    NEGATORS,
    PAIRED,
    POLAR,
    TASKS,
    root,
)

Bound = Literal["", "most", "least", "over", "under"]

#: A text with more sentences than this is read up to here; conflicts are found in short notes.
SENTENCES_MAX = 60


class Span(NamedTuple):
    """A stretch [start, end) of a text in code points."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Term:
    """A word as it counts: `key` is its stem or phrase, `place` its position among all words."""

    key: str
    form: str
    span: Span
    place: int
    is_code: bool = False
    is_name: bool = False


@dataclass(frozen=True, slots=True)
class Quantity:
    """A measured or counted value in the base unit of its dimension; `near` are the words it belongs to."""

    value: float
    dimension: str
    bound: Bound
    near: frozenset[str]
    span: Span
    place: int


@dataclass(frozen=True, slots=True)
class Release:
    """A version that is named; its role says whether the claim holds for it, or asks for it."""

    product: str
    version: str
    role: Literal["scope", "value", "other"]
    span: Span


@dataclass(frozen=True, slots=True)
class Side:
    """A side taken on an axis of opposites; `sign` is `word_sign`, turned round where a negation says so.

    `turns` says that the word itself turns its sentence round and is counted in its polarity.
    """

    axis: str
    sign: int
    word_sign: int
    term: Term
    turns: bool = False
    is_condition: bool = False


@dataclass(frozen=True, slots=True)
class Relation:
    """Two groups of words of which the first comes before, exceeds or is preferred to the second."""

    kind: str
    first: frozenset[str]
    second: frozenset[str]
    span: Span


@dataclass(frozen=True, slots=True)
class Claim:
    """One sentence: its content words, and what it says of them.

    `polarity` is the product of its negations and minus words; `settings` are values given to names;
    `slots` are the last words of a phrase such as `as files`, by what opens it. An entry of a catalogue says
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
    is_default: bool
    is_whole: bool = False

    @property
    def keys(self) -> frozenset[str]:
        """The content words that it is about."""
        return frozenset(term.key for term in self.terms)


class _Word(NamedTuple):
    form: str
    lower: str
    span: Span
    is_code: bool


_SENTENCE = re.compile(r"(?<=[.!?;])[\"')\]*]*\s+(?=\S)|\n\s*\n|\n(?=\s*(?:[-*+•#]|\d+[.)])\s)|\s+[–—]\s+")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_WORD = re.compile(
    r"""
    \d{1,2}:\d{2}(?::\d{2})?
  | \#\d+
  | \d{4}-\d{2}-\d{2}(?:T[\d:.Z+]*)?
  | [$€£]?\d+(?:[.,_]\d+)*(?:-?(?:[A-Za-zµ]+\b|%))?
  | --?[A-Za-z][\w-]*
  | [A-Za-z_$.~/][\w$]*(?:[-.'’/:][\w$]+)*(?:\(\))?
  | [=!]==?|=>|<=|>=|[%=:;,<>≤≥]
    """,
    re.VERBOSE,
)
_CONTRACTED = re.compile(r"(\w+?)n't\Z")
_NUMBER = re.compile(r"([$€£]?)(\d+(?:[.,_]\d+)*)-?([A-Za-zµ%]*)\Z")
_RELEASE = re.compile(r"[vV]?(\d+(?:\.(?:\d+|x))*)[a-z0-9.+-]*\Z")

_PHRASES: dict[tuple[str, ...], str] = {
    tuple(phrase.split()): word
    for word, phrases in {
        "enable": "turn on,turned on,turns on,turning on,switch on,switched on,switches on,switching on",
        "disable": "turn off,turned off,turns off,turning off,switch off,switched off,switches off,switching off",
        "no-longer": "no longer,not any more,not anymore",
        "default": "out of the box,by default,unless configured otherwise,unless told otherwise,unless set otherwise",
        "must": "have to,has to,had to,need to,needs to",
        "give-up": "give up,gives up,gave up,giving up",
        "≤": "at most,up to,no more than,a maximum of,maximum of,not more than,capped at,limited to",
        "≥": "at least,no less than,no fewer than,a minimum of,minimum of,not less than",
        ">": "more than,greater than,larger than,bigger than,longer than,older than,in excess of,higher than",
        "<": "less than,fewer than,smaller than,shorter than,younger than,lower than",
        "instead": "instead of,rather than",
        "always": "at all times,every time,in every case,in all cases",
        "never": "under no circumstances,at no time,in no case",
        "in-memory": "in memory",
        "on-demand": "on demand",
        "built-in": "built in,builtin",
        "override": (
            "take precedence over,takes precedence over,wins over,win over,has priority over,override,overrides"
        ),
        "because": "so that,in order to",
        "caused-by": (
            "caused by,was caused by,were caused by,due to,was due to,because of,came from,comes from,come from,"
            "traced to,was traced to,traced back to,was traced back to,a result of,the result of,stems from,"
            "stemmed from,down to,rooted in"
        ),
        "causing": "the reason for,responsible for,to blame for",
        "at-least-once": "at least once,more than once",
        "exactly-once": "exactly once",
        "at-most-once": "at most once",
        "sequentially": "one after another,one after the other,one by one,one at a time",
        "real-time": "in real time,on the fly",
        "continue": "carry on,carries on,carried on,go on,goes on,keeps going,keep going",
        "quarterly": "every quarter,each quarter,once a quarter,per quarter",
        "before": "prior to,ahead of",
        "read-only": "read only",
        "single-threaded": "single threaded",
        "multi-threaded": "multi threaded",
        "unnecessary": "no need,not needed,not necessary,not required,needs no,need no,requires no,require no",
        "gzip": "gzip compression",
        "daily": "every day,each day,once a day,every night,nightly,once per day,per day",
        "hourly": "every hour,each hour,once an hour,once per hour,per hour",
        "weekly": "every week,each week,once a week,once per week,per week",
        "monthly": "every month,each month,once a month,once per month,per month",
        "yearly": "every year,each year,once a year,annually,annual,per year",
        "minutely": "every minute,per minute,each minute",
        "secondly": "every second,per second,each second",
    }.items()
    for phrase in phrases.split(",")
}
_PHRASE_MAX = max(map(len, _PHRASES))

#: Words that say on which side of a value something lies.
BOUNDS: dict[str, Bound] = {
    "≤": "most", "<=": "most", "≥": "least", ">=": "least", ">": "over", "<": "under", "above": "over",
    "over": "over", "exceeding": "over", "exceed": "over", "exceeds": "over", "beyond": "over", "below": "under",
    "under": "under", "within": "most", "maximum": "most", "max": "most", "minimum": "least", "min": "least",
    "first": "most", "largest": "most", "smallest": "least", "most": "most", "least": "least", "until": "most",
}  # fmt: skip
_PERIODS = {
    "secondly": 1.0, "minutely": 60.0, "hourly": 3600.0, "daily": 86400.0, "weekly": 604800.0,
    "monthly": 2592000.0, "quarterly": 7776000.0, "yearly": 31536000.0,
}  # fmt: skip
_FACTORS: dict[str, tuple[str, float]] = {
    "ns": ("time", 1e-9), "us": ("time", 1e-6), "ms": ("time", 1e-3), "s": ("time", 1.0), "min": ("time", 60.0),
    "h": ("time", 3600.0), "day": ("time", 86400.0), "week": ("time", 604800.0), "month": ("time", 2592000.0),
    "year": ("time", 31536000.0), "b": ("bytes", 1.0), "kb": ("bytes", 2.0**10), "kib": ("bytes", 2.0**10),
    "mb": ("bytes", 2.0**20), "mib": ("bytes", 2.0**20), "gb": ("bytes", 2.0**30), "gib": ("bytes", 2.0**30),
    "tb": ("bytes", 2.0**40), "tib": ("bytes", 2.0**40), "kbit": ("bits", 1e3), "mbit": ("bits", 1e6),
    "gbit": ("bits", 1e9), "bit": ("bits", 1.0), "hz": ("hertz", 1.0), "khz": ("hertz", 1e3),
    "mhz": ("hertz", 1e6), "ghz": ("hertz", 1e9),
}  # fmt: skip
_SHORT_UNITS = words("b m em bit us h d")
_WEEKDAYS = {
    day: number
    for number, day in enumerate(
        ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"), start=1
    )
}
#: A number right behind one of these is its name.
_NUMBERED = words(
    """
    node part batch phase step server worker shard rule issue ticket sprint chapter section page case item build run
    host room floor line tier zone region cluster machine customer team group table figure appendix article clause
    question example exercise lesson day week quarter pr rfc
    """
)
_DAY_KINDS = words("business calendar working consecutive full whole")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}.*")
#: Numbers in words beside those that matching reads.
_COUNT_WORDS = NUMBER_WORDS | {
    "thirteen": "13", "fourteen": "14", "fifteen": "15", "sixteen": "16", "seventeen": "17", "eighteen": "18",
    "nineteen": "19", "thirty": "30", "forty": "40", "fifty": "50", "sixty": "60", "seventy": "70",
    "eighty": "80", "ninety": "90", "dozen": "12",
}  # fmt: skip
_FRACTIONS = {"half": 50.0, "third": 100.0 / 3, "quarter": 25.0, "fifth": 20.0, "tenth": 10.0}
#: An article behind one of these counts the unit that follows: `after a week`.
_LASTING = words(
    "for after within inside in than until by under over about only every takes take lasts last least half up to"
)
_YEAR = re.compile(r"(?:19|20)\d\d")
_YEAR_OPENERS = words("in of until till by since before after from through")
#: What a year in front of one of these names is an issue of it.
_ISSUED = words(
    """
    edition policy price pricing release version lts standard guideline guidelines rules handbook contract tariff
    list catalogue catalog schedule agreement regulation terms plan model
    """
)
_MONTHS = {
    "january": 1, "february": 2, "march": 3, "april": 4, "may": 5, "june": 6, "july": 7, "august": 8,
    "september": 9, "october": 10, "november": 11, "december": 12,
}  # fmt: skip
#: What a number after one of these is, it is no version of it.
_COUNTED = words(
    """
    port step section page chapter line table figure level phase tier error status http code option exit issue
    pr rfc cve layer part item number room class type mode rule day week month year quarter category day days
    top use set at by to of than is are was for from about only first last next every all with within after
    before until since on in up and or the a an
    """
)
_SCOPE_OPENERS = words(
    """
    in on with under since from until before after as of up to for at version versions using and older newer
    earlier later below above
    """
)
_VALUE_OPENERS = words(
    """
    require requires required requiring need needs needed install installs pin pinned pins upgrade upgrades
    upgraded update updates updated bump bumps bumped is are was target targets use uses minimum latest newest
    depends depend recommend recommended release released publish published = :
    """
)
_BASED = words("built based runs run running deployed tested compiled")
_CONDITIONS = words("if when while once unless whenever where")
_CLAUSE_ENDS = words(", ; :") | {"then", "but"}
_REASONS = words("because since caused-by")
_SMALL = FUNCTION_WORDS - {"in", "on", "from", "to", "by"} | words(
    """
    can could may might must shall should it its there have has had be get gets got still already also both
    if when while once unless whenever where after before until since because as than but in on to from by
    over under above below within without no not never always only every each any all some more most less
    least first last then so very quite just like such out off up down about around own same other another
    caused-by causing too either neither nor none however yet again per ever even much many few lot lots way thing
    things make
    makes made making let lets default now cannot he she what how why
    """
)
_ARTICLES = words("a an the its our your their his her this that these those")
_IMPERATIVES = words("be do let make use set keep run add put")


@lru_cache(maxsize=4096)
def read(text: str) -> tuple[Claim, ...]:
    """The claims of a text in order, one a sentence; sentences without a content word are left out."""
    codes = [Span(*match.span()) for match in _CODE.finditer(text)]
    cuts = [match.span() for match in _SENTENCE.finditer(text) if not _is_inside(match.start(), codes)]
    starts = [0, *(end for _, end in cuts)][:SENTENCES_MAX]
    ends = [*(start for start, _ in cuts), len(text)]
    claims = (_claim(text, Span(start, end), codes) for start, end in zip(starts, ends, strict=False))
    return tuple(claim for claim in claims if claim.terms)


def joined(claims: Sequence[Claim]) -> Claim:
    """Several claims as one, for texts that spread over sentences what another says in one."""
    if len(claims) == 1:
        return claims[0]
    terms, shift = [], 0
    sides, quantities = [], []
    for claim in claims:
        terms += [replace(term, place=term.place + shift) for term in claim.terms]
        quantities += [replace(one, place=one.place + shift) for one in claim.quantities]
        sides += [replace(one, term=replace(one.term, place=one.term.place + shift)) for one in claim.sides]
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
        is_default=any(claim.is_default for claim in claims),
        is_whole=True,
    )


def _is_inside(place: int, codes: Sequence[Span]) -> bool:
    return any(start < place < end for start, end in codes)


def _claim(text: str, span: Span, codes: Sequence[Span]) -> Claim:
    found = list(_words(text, span, codes))
    releases, taken = _releases(found)
    quantities = tuple(_quantities(found, taken))
    numeric = taken | {one.place for one in quantities}
    terms = tuple(_terms(found, numeric))
    negations = tuple(_negations(found))
    sides, polarity = _sides(found, negations)
    return Claim(
        span=span,
        terms=terms,
        quantities=quantities,
        releases=releases,
        sides=sides,
        negations=negations,
        settings=dict(_settings(found)),
        relations=tuple(_relations(found, terms)),
        slots=dict(_slots(found, terms)),
        polarity=polarity,
        lead=_lead(found, terms),
        is_recipe=_is_recipe(text, span, codes),
        is_task=bool(found) and _is_task(found),
        is_entry=_is_entry(found),
        is_dated=any(word.lower in CURRENCY_WORDS or word.lower == "no-longer" for word in found),
        is_open=any(word.lower in EXCEPTIONS for word in found),
        is_default=any(root(word.lower) == "default" for word in found),
    )


def _words(text: str, span: Span, codes: Sequence[Span]) -> Iterator[_Word]:
    plain = list(_plain_words(text, span, codes))
    place = 0
    while place < len(plain):
        for size in range(min(_PHRASE_MAX, len(plain) - place), 0, -1):
            run = plain[place : place + size]
            phrase = _PHRASES.get(tuple(word.lower for word in run))
            if phrase is not None and _is_meant(phrase, plain[place + size : place + size + 2]):
                yield _Word(phrase, phrase, Span(run[0].span.start, run[-1].span.end), False)
                place += size
                break
        else:
            yield plain[place]
            place += 1


def _is_meant(phrase: str, behind: Sequence[_Word]) -> bool:
    """Whether a phrase stands for what it is listed as; a limit is one only in front of a number."""
    if phrase not in ("≤", "≥"):
        return True
    return any(
        word.lower[0].isdigit() or word.lower in NUMBER_WORDS or word.lower[0] in "$€£" for word in behind
    )


def _plain_words(text: str, span: Span, codes: Sequence[Span]) -> Iterator[_Word]:
    for match in _WORD.finditer(text, span.start, span.end):
        form = match.group()
        is_code = _is_inside(match.start(), codes)
        lower = form.lower().replace("’", "'")
        stripped = lower.rstrip(".'") if not is_code else lower
        if not stripped:
            continue
        where = Span(match.start(), match.start() + len(stripped))
        contracted = _CONTRACTED.fullmatch(stripped)
        if contracted or stripped == "cannot":
            base = contracted.group(1) if contracted else "can"
            yield _Word(base, {"wo": "will", "ca": "can"}.get(base, base), where, is_code)
            yield _Word("not", "not", where, is_code)
            continue
        if stripped.endswith("'s"):
            stripped = stripped[:-2]
        yield _Word(form[: len(stripped)], stripped, where, is_code)


def _releases(found: Sequence[_Word]) -> tuple[tuple[Release, ...], set[int]]:
    """Versions, each with its product as far as one is named, and the places that they take."""
    releases: list[Release] = []
    taken: set[int] = set()
    for place, word in enumerate(found):
        match = _RELEASE.fullmatch(word.lower)
        if match is None or word.lower in UNITS or ":" in word.lower:
            continue
        before = found[place - 1] if place else None
        number = match.group(1)
        is_marked = word.lower.startswith("v")
        product = _product(found, place)
        is_named = product != "" or (before is not None and before.lower in ("version", "release", "v"))
        is_dotted = "." in number
        after = found[place + 1] if place + 1 < len(found) else None
        is_measured = after is not None and after.lower in UNITS and after.lower not in _SHORT_UNITS
        is_issue = _ISSUED & {one.lower for one in found[place + 1 : place + 3]}
        is_named |= bool(is_issue) and _YEAR.fullmatch(number) is not None
        leads = place == 0 and after is not None and after.lower == ":"
        is_opened = is_dotted and before is not None and before.lower in _SCOPE_OPENERS
        if is_measured or not (is_marked or is_named or number.count(".") > 1 or leads or is_opened):
            continue
        taken.add(place)
        releases.append(
            Release(product, _ranged(found, place, number), _role(found, place, product), word.span)
        )
    return tuple(releases), taken


def _ranged(found: Sequence[_Word], place: int, number: str) -> str:
    """The version with a mark where all older ones are meant."""
    near = {word.lower for word in (*found[max(0, place - 2) : place], *found[place + 1 : place + 3])}
    return f"<{number}" if near & {"before", "until", "older", "earlier", "below"} else number


def _product(found: Sequence[_Word], place: int) -> str:
    """The name in front of a version, empty when there is none."""
    if not place:
        return ""
    before = found[place - 1]
    name = before.lower
    if name in _COUNTED or name in UNITS or not name[0].isalpha() or before.is_code:
        return ""
    if name in ("version", "release"):
        return found[place - 2].lower if place > 1 and found[place - 2].lower not in _SMALL else "version"
    is_dotted = "." in found[place].lower
    if (
        any(letter.isupper() for letter in before.form)
        and name not in _SMALL
        and (place > 1 or len(found[place].lower) < 5)
    ):
        return name
    return name if is_dotted and name not in _SMALL and root(name) not in POLAR else ""


def _role(found: Sequence[_Word], place: int, product: str) -> Literal["scope", "value", "other"]:
    start = place - 1 if product and product != "version" else place
    while start > 0 and found[start - 1].lower in ("version", "the", "api", "release", "sdk"):
        start -= 1
    opener = found[start - 1].lower if start > 0 else ""
    earlier = {word.lower for word in found[max(0, start - 3) : max(0, start - 1)]}
    if opener in _VALUE_OPENERS or (
        opener in ("to", "from", "at", "on", "of") and earlier & (_VALUE_OPENERS | _BASED)
    ):
        return "value"
    if not opener or opener in _SCOPE_OPENERS or opener in (",", ":", "(") or place <= 2:
        return "scope"
    return "other"


def _quantities(found: Sequence[_Word], taken: set[int]) -> Iterator[Quantity]:
    rated = -1
    for place, word in enumerate(found):
        if place in taken or place == rated or (word.is_code and "-" in word.lower[:1]):
            continue
        made = _quantity(found, place)
        if made is None:
            continue
        if made.dimension.endswith("/s"):
            # The period is told with the value and is none of its own.
            rated = next(
                (n for n in range(place + 1, place + 4) if found[n].lower in (*_PERIODS, "a", "an")), -1
            )
        yield made


def _quantity(found: Sequence[_Word], place: int) -> Quantity | None:
    word = found[place]
    before = found[place - 1].lower if place else ""
    after = found[place + 1].lower if place + 1 < len(found) else ""
    unit_place = place + 2 if after in _DAY_KINDS and place + 2 < len(found) else place + 1
    if word.lower in _PERIODS:
        return Quantity(_PERIODS[word.lower], "period", "", _near(found, place), word.span, place)
    if word.lower.rstrip("s") in _WEEKDAYS:
        day = float(_WEEKDAYS[word.lower.rstrip("s")])
        return Quantity(day, "weekday", "", _near(found, place), word.span, place)
    if re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?", word.lower):
        hours, minutes = word.lower.split(":")[:2]
        return Quantity(int(hours) * 60.0 + int(minutes), "clock", "", _near(found, place), word.span, place)
    if _DATE.fullmatch(word.lower) or (word.lower in _MONTHS and _is_date(found, place)):
        day = _date(word.lower, before, after)
        return Quantity(day, "date", "", _near(found, place), word.span, place)
    if before in _MONTHS or after in _MONTHS:
        return None
    if word.lower in _FRACTIONS and after == "of" and before in ("a", "one", ""):
        return Quantity(_FRACTIONS[word.lower], "%", "", _near(found, place), word.span, place)
    if _YEAR.fullmatch(word.lower) and before in _YEAR_OPENERS:
        return Quantity(float(word.lower) * 100.0, "date", "", _near(found, place), word.span, place)
    digits = "1" if _is_one(word.lower, before, after) else _COUNT_WORDS.get(word.lower, word.lower)
    match = _NUMBER.fullmatch(digits)
    if match is None:
        return None
    if before in _NUMBERED:
        return None
    currency, number, suffix = match.groups()
    value = _value(number)
    if value is None or (suffix and suffix not in UNITS and suffix not in ("x", "k", "st", "nd", "rd", "th")):
        return None
    if suffix in ("st", "nd", "rd", "th"):
        return Quantity(value, "ordinal", "", _near(found, place), word.span, place)
    unit = suffix if suffix in UNITS else ""
    beside = found[unit_place].lower if unit_place < len(found) else ""
    is_beside = not suffix and beside in UNITS and beside not in ("in", "m")
    if is_beside:
        unit = beside
    end = found[unit_place].span.end if is_beside else word.span.end
    dimension, factor = _dimension(currency or unit)
    rate = _rate(found, place)
    if word.lower in ("a", "an") and before == "half":
        factor /= 2
    if dimension == "time" and before in ("every", "each"):
        dimension = "period"
    if rate is not None:
        dimension, factor = f"{dimension}/s", factor / rate
    near = _near(found, unit_place if is_beside else place)
    return Quantity(value * factor, dimension, _bound(found, place), near, Span(word.span.start, end), place)


def _is_one(word: str, before: str, after: str) -> bool:
    """Whether a word counts one of what follows it."""
    if word == "one":
        return _counts(after)
    return word in ("a", "an") and before in _LASTING and after in UNITS and after not in _SHORT_UNITS


def _counts(after: str) -> bool:
    """Whether `one` in front of a word counts it."""
    return after[:1].isalpha() and after not in _SMALL and after not in _DAY_KINDS


def _is_date(found: Sequence[_Word], place: int) -> bool:
    return any(found[n].lower[0].isdigit() for n in (place - 1, place + 1) if 0 <= n < len(found))


def _date(form: str, before: str, after: str) -> float:
    """A date as a number that equal dates share, with what stands beside a month's name."""
    if form in _MONTHS:
        beside = [int(one) for one in (before, after) if one.isdigit()]
        return float(sum(beside) * 100 + _MONTHS[form])
    return float(form[:10].replace("-", ""))


def _value(number: str) -> float | None:
    plain = re.sub(r"(?<=\d)[,_](?=\d{3}(?:\D|\Z))", "", number).replace(",", ".")
    try:
        return float(plain)
    except ValueError:
        return None


def _dimension(unit: str) -> tuple[str, float]:
    if not unit:
        return "count", 1.0
    name = UNIT_NAMES[UNITS[unit]]
    return _FACTORS.get(name, (name, 1.0))


def _rate(found: Sequence[_Word], place: int) -> float | None:
    """The seconds of `per minute` or `a minute` close behind a number."""
    for other, word in enumerate(found[place + 1 : place + 4], start=place + 1):
        if word.lower in _PERIODS:
            return _PERIODS[word.lower]
        if word.lower in ("a", "an") and other + 1 < len(found) and found[other - 1].lower not in _LASTING:
            dimension, seconds = _dimension(found[other + 1].lower if found[other + 1].lower in UNITS else "")
            if dimension == "time":
                return seconds
        if word.lower in (",", ";", ".", ":"):
            break
    return None


def _bound(found: Sequence[_Word], place: int) -> Bound:
    for word in reversed(found[max(0, place - 3) : place]):
        if word.lower in BOUNDS:
            return BOUNDS[word.lower]
        if word.lower not in _ARTICLES and word.lower not in ("of", "length", "is", "size"):
            break
    return ""


def _near(found: Sequence[_Word], place: int) -> frozenset[str]:
    """The content words right before and right behind a value."""
    near = []
    for run in (reversed(found[max(0, place - 4) : place]), found[place + 1 : place + 3]):
        for word in run:
            if word.lower in (",", ";", "and", "or"):
                break
            if word.lower not in _SMALL and word.lower[0].isalpha():
                near.append(root(word.lower))
                break
    return frozenset(near)


def _terms(found: Sequence[_Word], numeric: set[int]) -> Iterator[Term]:
    for place, word in enumerate(found):
        is_day = word.lower.rstrip("s") in _WEEKDAYS
        if (
            (place in numeric and not is_day)
            or word.lower in _SMALL
            or word.lower in UNITS
            or not _is_content(word)
        ):
            continue
        key = word.lower if word.is_code or "_" in word.lower else root(word.lower)
        is_name = word.form[:1].isupper() and place > 0
        yield Term(key, word.lower, word.span, place, word.is_code, is_name)


def _is_content(word: _Word) -> bool:
    return any(letter.isalpha() for letter in word.lower) and len(word.lower) > 1


def _negations(found: Sequence[_Word]) -> Iterator[Term]:
    for place, word in enumerate(found):
        if word.is_code:
            continue
        # "anyone but admins", "all but one": the exception turns the rule round.
        is_but = word.lower == "but" and place and found[place - 1].lower in (
            "anyone", "anybody", "anything", "nobody", "nothing", "all", "none", "everyone",
        )  # fmt: skip
        is_out = word.lower == "out" and any(
            root(one.lower) in ("keep", "leave", "stay", "belong") for one in found[max(0, place - 4) : place]
        )
        if word.lower in NEGATORS or word.lower == "no-longer" or is_but or is_out:
            if word.lower == "not" and place + 1 < len(found) and found[place + 1].lower == "only":
                continue
            if word.lower == "free" and (
                place + 1 >= len(found) or found[place + 1].lower not in ("of", "from")
            ):
                continue
            yield Term(word.lower, word.lower, word.span, place)


def _sides(found: Sequence[_Word], negations: Sequence[Term]) -> tuple[tuple[Side, ...], int]:
    """The sides taken, and the product of what turns the sentence round."""
    negated = {term.place for term in negations}
    sides: list[Side] = []
    polarity = 1
    is_condition, is_reason, hidden = False, False, -1
    for place, word in enumerate(found):
        if word.lower in ("what", "which", "whether", "how"):
            # What is asked or looked at is not claimed.
            hidden = place + 4
        if word.lower in _CONDITIONS:
            is_condition = True
        elif word.lower in _CLAUSE_ENDS:
            is_condition = False
        if word.lower in _REASONS and place:
            is_reason = True
        elif word.lower in (",", ";"):
            is_reason = False
        if place in negated and not is_reason:
            polarity = polarity if _is_contrastive(found, place) else -polarity
            if word.lower == "never":
                sides.append(Side("often", -1, -1, _term(found, place), True, is_condition))
            continue
        if is_reason or place <= hidden:
            continue
        taken = tuple(_axes(found, place))
        if any(is_polar and sign < 0 for _, sign, is_polar in taken):
            polarity = -polarity
        for axis, sign, is_polar in taken:
            turned = -1 if _is_negated(found, place, negated, reach=1 if is_polar else 0) else 1
            sides.append(
                Side(axis, sign * turned, sign, _term(found, place), is_polar and sign < 0, is_condition)
            )
    return tuple(sides), polarity


def _is_contrastive(found: Sequence[_Word], place: int) -> bool:
    """Whether a negation only names what something is not: `by rebasing, not by merging`."""
    before = found[place - 1].lower if place else ""
    return found[place].lower == "instead" or (found[place].lower == "not" and before in (",", "and", ";"))


def _axes(found: Sequence[_Word], place: int) -> Iterator[tuple[str, int, bool]]:
    """Axis, side and whether the axis is polar, of the word at a place."""
    word = found[place]
    after = found[place + 1].lower if place + 1 < len(found) else ""
    if word.is_code and word.lower not in ("true", "false", "on", "off", "yes", "no"):
        return
    if word.lower in ("on", "off") and place:
        is_predicate = word.lower == "off" or after in (
            "",
            ".",
            ",",
            ";",
            "by",
            "when",
            "for",
            "unless",
            "default",
        )
        if is_predicate and found[place - 1].lower in (
            "is",
            "are",
            "be",
            "was",
            "stays",
            "left",
            "=",
            "to",
            "default",
            "set",
        ):
            yield "switch", 1 if word.lower == "on" else -1, True
        elif any(root(one.lower) in ("turn", "switch") for one in found[max(0, place - 4) : place]):
            # "Turn swap off": the verb and its particle stand apart.
            yield "switch", 1 if word.lower == "on" else -1, True
        return
    if word.lower in ("can", "may") and after == "only":
        # What can only be is what must be.
        yield "leave", -1, False
        return
    if word.lower in ("raise", "raises", "raised", "raising") and _follows(
        found, place, ("error", "exception", "errors")
    ):
        return
    key = root(word.lower)
    reversed_ = _UN.fullmatch(word.lower)
    if reversed_ and key not in POLAR and key not in PAIRED and word.lower not in _NOT_REVERSED:
        yield f"un:{root(reversed_.group(1))}", -1, True
    for axis, sign in POLAR.get(key, ()):
        yield axis, sign, True
    for axis, sign in PAIRED.get(key, ()) or PAIRED.get(word.lower, ()):
        is_bound = axis == "height" and after[:1].isdigit()
        if not is_bound and not (axis == "breadth" and after in ("but", "except")):
            yield axis, sign, False
    if key not in POLAR:
        for axis, sign in TASKS.get(key, ()):
            yield f"task:{axis}", sign, False


def _follows(found: Sequence[_Word], place: int, wanted: Sequence[str]) -> bool:
    return any(word.lower in wanted for word in found[place + 1 : place + 4])


def _is_negated(found: Sequence[_Word], place: int, negated: set[int], *, reach: int) -> bool:
    """Whether a negation before a word, with at most `reach` content words between, turns it round."""
    count = between = 0
    for earlier in range(place - 1, max(-1, place - 5), -1):
        if found[earlier].lower in _CLAUSE_ENDS or found[earlier].lower in _CONDITIONS:
            break
        if earlier in negated:
            count += 1
        elif found[earlier].lower not in _SMALL:
            between += 1
            if between > reach:
                break
    return count % 2 == 1


def _term(found: Sequence[_Word], place: int) -> Term:
    word = found[place]
    return Term(root(word.lower), word.lower, word.span, place, word.is_code)


#: A participle or adjective turned round by its prefix.
_UN = re.compile(r"(?:un|non-?)(\w{3,}(?:ed|able|ible|en|ing|n|t))")
_NOT_REVERSED = words(
    "until unless under unit union unique united understand understood undergo unten unicorn"
)

_KEY = re.compile(r"[A-Za-z_.-][\w.-]*")


def _settings(found: Sequence[_Word]) -> Iterator[tuple[str, tuple[str, Span]]]:
    """Names with the values they are given: `key = value`, and `key` to/is `value` of a name in code."""
    for place in range(1, len(found) - 1):
        left, mid, right = found[place - 1], found[place], found[place + 1]
        if mid.lower in _SMALL and mid.lower not in ("to", "is", "at"):
            continue
        is_assigned = mid.lower == "=" or (mid.lower == ":" and left.is_code and right.is_code)
        is_given = (
            mid.lower in ("to", "is", "at") and left.is_code and (right.is_code or right.lower[0].isdigit())
        )
        is_beside = False
        if (
            (is_assigned or is_given or is_beside)
            and _KEY.fullmatch(left.form)
            and right.lower not in (":", "=", ",")
        ):
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


def _lead(found: Sequence[_Word], terms: Sequence[Term]) -> str:
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


def _is_task(found: Sequence[_Word]) -> bool:
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


def _is_entry(found: Sequence[_Word]) -> bool:
    first, second = ([*(word.lower for word in found[:2]), "", ""])[:2]
    return first in _ENTRIES or (first in _EMITTED and second in ("when", "if", "whenever"))


_EVENT_ROOTS = frozenset(map(root, EVENTS))


def _relations(found: Sequence[_Word], terms: Sequence[Term]) -> Iterator[Relation]:
    for place, word in enumerate(found):
        span = word.span
        match word.lower:
            case "before" | "after" | "until" if not _is_valued(found, place):
                first, second = _around(found, terms, place)
                if word.lower == "after":
                    first, second = second, first
                yield Relation("order", first, second, span)
            case "because" | "caused-by" | "causing" | "caused" | "causes" if place:
                effect, cause = _keys(terms, -1, place), _keys(terms, place, _clause_end(found, place))
                if word.lower in ("causing", "caused", "causes"):
                    effect, cause = cause, effect
                yield Relation("cause", effect, cause, span)
            case "from":
                to = next((n for n in range(place, len(found)) if found[n].lower == "to"), 0)
                end = next((n for n in range(to, len(found)) if found[n].lower in _CLAUSE_ENDS), len(found))
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
                        for one in _axes(found, earlier)
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


def _clause_end(found: Sequence[_Word], start: int) -> int:
    return next((n for n in range(start + 1, len(found)) if found[n].lower in _CLAUSE_ENDS), len(found))


def _is_valued(found: Sequence[_Word], place: int) -> bool:
    return place + 1 < len(found) and found[place + 1].lower[0].isdigit()


def _around(
    found: Sequence[_Word], terms: Sequence[Term], place: int
) -> tuple[frozenset[str], frozenset[str]]:
    """The words on either side of what relates them; of `After X, Y` Y stands first."""
    comma = next((n for n in range(place, len(found)) if found[n].lower == ","), len(found))
    if not _keys(terms, -1, place):
        return _keys(terms, comma, len(found)), _keys(terms, place, comma) if comma < len(
            found
        ) else frozenset()
    return _keys(terms, -1, place), _keys(terms, place, comma)


def _keys(terms: Sequence[Term], start: int, end: int) -> frozenset[str]:
    return frozenset(term.key for term in terms if start < term.place < end)


_SLOT_OPENERS = words("as per in by via through using use uses with is are to from under")


def _slots(found: Sequence[_Word], terms: Sequence[Term]) -> Iterator[tuple[str, tuple[Term, ...]]]:
    """The content words that follow directly on a word that opens a place for a value."""
    at = {term.place: term for term in terms}
    for place, word in enumerate(found):
        if word.lower not in _SLOT_OPENERS or word.is_code:
            continue
        run = []
        for later in range(place + 1, len(found)):
            if later in at:
                run.append(at[later])
            elif found[later].lower not in _ARTICLES and not found[later].lower[0].isdigit():
                break
        if run:
            yield word.lower, tuple(run)
