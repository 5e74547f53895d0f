"""Quantities: measured and counted values, dates and periods of a sentence, each in its base unit."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from hivemind_pipelines.core.lexicon import NUMBER_WORDS, UNIT_NAMES, UNITS, words
from hivemind_pipelines.core.opposites import root
from hivemind_pipelines.core.wording import ARTICLES, SMALL, Span, Word

Bound = Literal["", "most", "least", "over", "under"]


@dataclass(frozen=True, slots=True)
class Quantity:
    """A measured or counted value in the base unit of its dimension.

    `near` are the words it belongs to, `counted` is the one right behind it, empty where none is.
    """

    value: float
    dimension: str
    bound: Bound
    near: frozenset[str]
    span: Span
    place: int
    counted: str = ""


_NUMBER = re.compile(r"([$€£]?)(\d+(?:[.,_]\d+)*)-?([A-Za-zµ%]*)\Z")
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
SHORT_UNITS = words("b m em bit us h d")
WEEKDAYS = {
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
_MULTIPLES = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "hundred": 1e2}
_FRACTIONS = {"half": 50.0, "third": 100.0 / 3, "quarter": 25.0, "fifth": 20.0, "tenth": 10.0}
#: An article behind one of these counts the unit that follows: `after a week`.
_LASTING = words(
    "for after within inside in than until by under over about only every takes take lasts last least half up to"
)
#: Longer than any time that is told: `forever` against it is another time.
_ENDLESS = 1e15
_ENDLESS_WORDS = words("forever indefinitely")
_CLOCK = re.compile(r"(\d{1,2})(?::(\d{2}))?(am|pm)?")
_HALVES = {"am": "am", "a.m": "am", "pm": "pm", "p.m": "pm"}
_CLOCK_WORDS = {"noon": 720.0, "midday": 720.0, "midnight": 0.0}
YEAR = re.compile(r"(?:19|20)\d\d")
_YEAR_OPENERS = words("in of until till by since before after from through")
#: `a 503`, or several `503s`, are answers of a server and count nothing.
_STATUS = re.compile(r"[1-5]\d\d")
_STATUS_OPENERS = words("a an http status code")
_STATUS_ENDS = words("error errors response responses status")
_MONTHS = {
    "january": 1, "february": 2, "march": 3, "april": 4, "may": 5, "june": 6, "july": 7, "august": 8,
    "september": 9, "october": 10, "november": 11, "december": 12,
}  # fmt: skip


def read_quantities(found: Sequence[Word], taken: set[int]) -> Iterator[Quantity]:
    """The values of a sentence but for those at places that a version has taken."""
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
        if made.dimension == "weekday" and place and found[place - 1].lower in ("every", "each"):
            yield replace(made, value=_PERIODS["weekly"], dimension="period")


def _quantity(found: Sequence[Word], place: int) -> Quantity | None:
    word = found[place]
    before = found[place - 1].lower if place else ""
    after = found[place + 1].lower if place + 1 < len(found) else ""
    unit_place = place + 2 if after in _DAY_KINDS and place + 2 < len(found) else place + 1
    if word.lower in _PERIODS:
        return Quantity(_PERIODS[word.lower], "period", "", _near(found, place), word.span, place)
    if word.lower.rstrip("s") in WEEKDAYS:
        day = float(WEEKDAYS[word.lower.rstrip("s")])
        return Quantity(day, "weekday", "", _near(found, place), word.span, place)
    minute = _clock(word.lower, after)
    if minute is not None:
        return Quantity(minute, "clock", "", _near(found, place), word.span, place)
    if word.lower in _ENDLESS_WORDS:
        return Quantity(_ENDLESS, "time", "", _near(found, place), word.span, place)
    if _DATE.fullmatch(word.lower) or (word.lower in _MONTHS and _is_date(found, place)):
        day = _date(word.lower, before, after)
        return Quantity(day, "date", "", _near(found, place), word.span, place)
    if before in _MONTHS or after in _MONTHS:
        return None
    if word.lower in _FRACTIONS and after == "of" and before in ("a", "one", ""):
        return Quantity(_FRACTIONS[word.lower], "%", "", _near(found, place), word.span, place)
    if YEAR.fullmatch(word.lower) and before in _YEAR_OPENERS:
        return Quantity(float(word.lower) * 100.0, "date", "", _near(found, place), word.span, place)
    is_lone = _is_one(word.lower, before, found[unit_place].lower if unit_place < len(found) else "")
    digits = "1" if is_lone else _COUNT_WORDS.get(word.lower, word.lower)
    match = _NUMBER.fullmatch(digits)
    if match is None:
        return None
    currency, number, suffix = match.groups()
    if before in _NUMBERED or (suffix == "s" and _STATUS.fullmatch(number)):
        return None
    value = _value(number)
    if value is None or (suffix and suffix not in UNITS and suffix not in ("x", "k", "st", "nd", "rd", "th")):
        return None
    if suffix in ("st", "nd", "rd", "th"):
        return Quantity(value, "ordinal", "", _near(found, place), word.span, place)
    is_status = word.lower.isdigit() and _STATUS.fullmatch(number) is not None
    if is_status and (before in _STATUS_OPENERS or after in _STATUS_ENDS):
        return Quantity(value, "status", "", _near(found, place), word.span, place)
    unit = suffix if suffix in UNITS else ""
    beside = found[unit_place].lower if unit_place < len(found) else ""
    is_beside = not suffix and beside in UNITS and beside not in ("in", "m")
    if is_beside:
        unit = beside
    end = found[unit_place].span.end if is_beside else word.span.end
    dimension, factor = _dimension(currency or unit)
    if dimension == "count" and after in _MULTIPLES:
        factor = _MULTIPLES[after]
        after = found[place + 2].lower if place + 2 < len(found) else ""
    rate = _rate(found, place)
    if word.lower in ("a", "an") and before == "half":
        factor /= 2
    if dimension == "time" and before in ("every", "each"):
        dimension = "period"
    if rate is not None:
        dimension, factor = f"{dimension}/s", factor / rate
    near = _near(found, unit_place if is_beside else place)
    span = Span(word.span.start, end)
    counted = root(after) if dimension == "count" and _counts(after) else ""
    return Quantity(value * factor, dimension, _bound(found, place), near, span, place, counted)


def _clock(form: str, after: str) -> float | None:
    """The minute of the day that a word names, with `am` or `pm` in it or behind it; None where it names none."""
    if form in _CLOCK_WORDS:
        return _CLOCK_WORDS[form]
    match = _CLOCK.fullmatch(form.removesuffix(":00") if form.count(":") > 1 else form)
    if match is None:
        return None
    hour, minute = int(match.group(1)), int(match.group(2) or 0)
    half = match.group(3) or _HALVES.get(after)
    if half is None:
        return hour * 60.0 + minute if match.group(2) else None
    return (hour % 12 + (12 if half == "pm" else 0)) * 60.0 + minute


def _is_one(word: str, before: str, after: str) -> bool:
    """Whether a word counts one of what follows it."""
    if word in ("one", "single"):
        return _counts(after)
    return word in ("a", "an") and before in _LASTING and after in UNITS and after not in SHORT_UNITS


def _counts(after: str) -> bool:
    """Whether `one` in front of a word counts it."""
    return after[:1].isalpha() and after not in SMALL and after not in _DAY_KINDS


def _is_date(found: Sequence[Word], place: int) -> bool:
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


def _rate(found: Sequence[Word], place: int) -> float | None:
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


def _bound(found: Sequence[Word], place: int) -> Bound:
    for word in reversed(found[max(0, place - 3) : place]):
        if word.lower in BOUNDS:
            return BOUNDS[word.lower]
        if word.lower not in ARTICLES and word.lower not in ("of", "length", "is", "size"):
            break
    return ""


def _near(found: Sequence[Word], place: int) -> frozenset[str]:
    """The content words right before and right behind a value."""
    near = []
    for run in (reversed(found[max(0, place - 4) : place]), found[place + 1 : place + 3]):
        for word in run:
            if word.lower in (",", ";", "and", "or"):
                break
            if word.lower not in SMALL and word.lower[0].isalpha():
                near.append(root(word.lower))
                break
    return frozenset(near)
