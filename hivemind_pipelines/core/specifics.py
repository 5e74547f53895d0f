"""Specifics: the parts of a text that must not be invented: code, URLs, paths, flags, numbers, names."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from hivemind_pipelines.core.text import CODE_SPAN, clean

Kind = Literal["code", "url", "path", "flag", "version", "number", "identifier", "name"]


@dataclass(frozen=True, slots=True, order=True)
class Specific:
    """One such part in the spelling in which it is looked for; a measured number is `30 s`."""

    kind: Kind
    text: str


@dataclass(frozen=True, slots=True)
class Ground:
    """Texts as a place to find specifics in: spaces collapsed, backticks gone; numbers as values."""

    text: str
    folded: str
    numbers: frozenset[str]

    def holds(self, specific: Specific) -> bool:
        """Whether the specific occurs here; case counts except for names and abbreviations."""
        match specific.kind:
            case "number" | "version":
                return specific.text in self.numbers
            case "name":
                return _singular(specific.text.casefold()) in self.folded
            case "identifier" if specific.text.isalpha() and specific.text.isupper():
                return _occurs(specific.text.casefold(), self.folded)
            case "flag" | "path" | "url":
                return _occurs(specific.text, self.text, continued_by=_CONTINUED)
            case _:
                return _occurs(specific.text, self.text)


@lru_cache(maxsize=256)
def ground(texts: tuple[str, ...]) -> Ground:
    """Several texts as one ground."""
    plain = "\n".join(flat(text) for text in texts)
    return Ground(plain, plain.casefold(), frozenset(_values(plain)))


def flat(text: str) -> str:
    """The cleaned text on one line and without backticks."""
    return " ".join(clean(text).replace("`", " ").split())


def specifics(text: str) -> frozenset[Specific]:
    """The specifics of a text."""
    parts = CODE_SPAN.split(clean(text))
    prose = " ".join(parts[::2])
    code = (Specific("code", flat(_fence_body(span))) for span in parts[1::2])
    urls = (Specific("url", url.rstrip(_CLOSING)) for url in _URL.findall(prose))
    found = (*code, *urls, *_in_prose(_URL.sub(" ", prose)))
    return frozenset(specific for specific in found if specific.text)


_CLOSING = "\"'()[]{}<>,;:!?.…*|"
_URL = re.compile(r"(?:\b[a-zA-Z][a-zA-Z0-9+.-]*://|\bwww\.)[^\s<>\"'`]+")
_FENCE = re.compile(r"\A```[\w+#.-]*\n|```")
_FLAG = re.compile(r"--?[A-Za-z][\w-]*")
_PATH = re.compile(r"(?:~|\.{1,2})?[/\\][\w.@~-][\w./\\@~*-]*|[A-Za-z]:\\\S+|[\w.@-]+(?:/[\w.@-]+)+")
_COMPOUND = re.compile(r"[/=,|–—]|\.\.+|(?<=\w)--(?=\w)")
_NUMBER = re.compile(r"(?<![A-Za-z_\d])[vV]?(\d+(?:[.,_]\d+)*)(?:[ -]?(%|[A-Za-zµ]+\b))?")
_MEASURED = re.compile(r"([+-]?)[vV]?(\d+(?:[.,_]\d+)*)(?:-?(%|[A-Za-zµ]\w*))?")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_CALL = re.compile(r"\w\(\)[.,;:!?)]*\Z")
_CAMEL = re.compile(r"[a-z0-9][A-Z]|[A-Z]{2}[a-z]{2}")
_ABBREVIATION = re.compile(r"[A-Z]{2,}")
_NAME = re.compile(r"[A-Z][^\W\d_]+")
_CONTINUED = re.compile(r"[-.@]\w")
_ENDS_CLAUSE = (".", ":", ";", "!", "?", "…")
_LATIN = frozenset({"e.g", "i.e", "a.k.a", "a.m", "p.m"})

_UNITS = {
    name: unit
    for unit, names in {
        "%": "% percent",
        "ms": "ms millisecond milliseconds msec",
        "s": "s sec secs second seconds",
        "min": "min mins minute minutes",
        "h": "h hr hrs hour hours",
        "day": "d day days",
        "week": "week weeks",
        "month": "month months",
        "year": "year years",
        "byte": "byte bytes",
        "kB": "kb kib kilobyte kilobytes",
        "MB": "mb mib megabyte megabytes",
        "GB": "gb gib gigabyte gigabytes",
        "TB": "tb tib terabyte terabytes",
        "px": "px pixel pixels",
    }.items()
    for name in names.split()
}
_NUMERALS = {
    "zero": "0", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10", "eleven": "11", "twelve": "12",
    "twenty": "20", "thirty": "30", "forty": "40", "fifty": "50", "sixty": "60", "ninety": "90",
    "hundred": "100", "thousand": "1000", "million": "1000000",
}  # fmt: skip


def _in_prose(prose: str) -> Iterator[Specific]:
    chunks = prose.split()
    for index, chunk in enumerate(chunks):
        following = chunks[index + 1] if index + 1 < len(chunks) else ""
        is_initial = index == 0 or chunks[index - 1].rstrip("\"')*").endswith(_ENDS_CLAUSE)
        yield from _in_chunk(chunk, following, is_initial=is_initial)


def _in_chunk(chunk: str, following: str, *, is_initial: bool) -> Iterator[Specific]:
    core = chunk.strip(_CLOSING).lstrip("~≈≤≥=+±").removesuffix("'s")
    anchored = chunk.strip(_CLOSING.replace(".", "")).rstrip(".")
    parts = _COMPOUND.split(core)
    if _is_path(anchored):
        yield Specific("path", anchored)
    elif _FLAG.fullmatch(core):
        yield Specific("flag", core)
    elif measured := _MEASURED.fullmatch(core):
        yield _measured(core, measured, following)
    elif len(parts) > 1:
        for part in parts:
            yield from _in_chunk(part, "", is_initial=is_initial)
    elif core.lower() in _NUMERALS:
        yield Specific("number", _NUMERALS[core.lower()])
    elif _is_identifier(core) or _CALL.search(chunk):
        yield Specific("identifier", _singular_abbreviation(core))
    elif _NAME.fullmatch(core) and not is_initial:
        yield Specific("name", core)
    else:
        yield from (Specific("number", _value(match.group(1))) for match in _NUMBER.finditer(core))


def _measured(core: str, match: re.Match[str], following: str) -> Specific:
    sign, digits, suffix = match.groups()
    value = _value(digits)
    unit = _UNITS.get((suffix or following.strip(_CLOSING)).lower())
    if sign == "-" or (suffix and not unit):
        return Specific("identifier", core)
    if unit:
        return Specific("number", f"{value} {unit}")
    return Specific("version" if value.count(".") > 1 or core[0] in "vV" else "number", value)


def _is_path(chunk: str) -> bool:
    if not _PATH.fullmatch(chunk):
        return False
    has_anchor = chunk[0] in "/~.\\" or chunk[1:2] == ":"
    return has_anchor or chunk.count("/") > 1 or bool(re.search(r"\.[A-Za-z]\w*\Z|_", chunk))


def _is_identifier(core: str) -> bool:
    if core.lower() in _LATIN or not any(map(str.isalnum, core)):
        return False
    has_letter, has_digit = any(map(str.isalpha, core)), any(map(str.isdigit, core))
    is_dotted = bool(re.search(r"\w\.\w", core))
    is_marked = bool(re.search(r"[_@:$#\\]", core))
    return (
        (has_letter and has_digit)
        or is_dotted
        or is_marked
        or bool(_CAMEL.search(core))
        or bool(_ABBREVIATION.fullmatch(_singular_abbreviation(core)))
    )


def _values(plain: str) -> Iterable[str]:
    for match in _NUMBER.finditer(plain):
        value, unit = _value(match.group(1)), _UNITS.get((match.group(2) or "").lower())
        yield f"{value} {unit}" if unit else value
    for match in re.finditer(r"[a-z]+", plain.casefold()):
        if match.group() in _NUMERALS:
            yield _NUMERALS[match.group()]


def _value(digits: str) -> str:
    if _THOUSANDS.fullmatch(digits):
        return digits.replace(",", "")
    return digits.replace("_", "")


def _occurs(needle: str, text: str, continued_by: re.Pattern[str] | None = None) -> bool:
    """Whether the needle stands in the text as a whole, not as a part of a longer word or flag."""
    start = text.find(needle)
    while start >= 0:
        end = start + len(needle)
        before, after = text[start - 1 : start], text[end : end + 1]
        is_part = _joins(before, needle[0]) or _joins(after, needle[-1])
        if not is_part and not (continued_by and continued_by.match(text, end)):
            return True
        start = text.find(needle, start + 1)
    return False


def _joins(neighbour: str, edge: str) -> bool:
    if edge == "-":
        return neighbour == "-" or neighbour.isalnum()
    return (edge.isalnum() or edge == "_") and (neighbour.isalnum() or neighbour == "_")


def _singular(name: str) -> str:
    return name[:-1] if len(name) > 3 and name.endswith("s") else name


def _singular_abbreviation(core: str) -> str:
    return core[:-1] if re.fullmatch(r"[A-Z]{2,}s", core) else core


def _fence_body(span: str) -> str:
    return _FENCE.sub("", span)
