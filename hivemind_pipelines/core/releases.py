"""Releases: the versions that a sentence names, and whether it holds for them or asks for them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hivemind_pipelines.core.lexicon import UNITS, words
from hivemind_pipelines.core.opposites import POLAR, root
from hivemind_pipelines.core.quantities import SHORT_UNITS, YEAR
from hivemind_pipelines.core.wording import SMALL, Span, Word


@dataclass(frozen=True, slots=True)
class Release:
    """A version that is named; its role says whether the claim holds for it, or asks for it."""

    product: str
    version: str
    role: Literal["scope", "value", "other"]
    span: Span


_RELEASE = re.compile(r"[vV]?(\d+(?:\.(?:\d+|x))*)[a-z0-9.+-]*\Z")
#: What a year in front of one of these names is an issue of it.
_ISSUED = words(
    """
    edition policy price pricing release version lts standard guideline guidelines rules handbook contract tariff
    list catalogue catalog schedule agreement regulation terms plan model
    """
)
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
    depends depend support supports supported ≥ recommend recommended release released publish published = :
    """
)
#: What behind a version says that it is the one asked for.
_ASKED = words("version required needed minimum recommended supported")
_COPULAS = words("is are was = :")
_BASED = words("built based runs run running deployed tested compiled")


def read_releases(found: Sequence[Word]) -> tuple[tuple[Release, ...], set[int]]:
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
        is_measured = after is not None and after.lower in UNITS and after.lower not in SHORT_UNITS
        is_issue = _ISSUED & {one.lower for one in found[place + 1 : place + 3]}
        is_named |= bool(is_issue) and YEAR.fullmatch(number) is not None
        leads = place == 0 and after is not None and after.lower == ":"
        is_opened = is_dotted and before is not None and before.lower in _SCOPE_OPENERS
        if is_measured or not (is_marked or is_named or number.count(".") > 1 or leads or is_opened):
            continue
        taken.add(place)
        releases.append(
            Release(product, _ranged(found, place, number), _role(found, place, product), word.span)
        )
    return tuple(releases), taken


def _ranged(found: Sequence[Word], place: int, number: str) -> str:
    """The version with a mark where all older ones are meant."""
    near = {word.lower for word in (*found[max(0, place - 2) : place], *found[place + 1 : place + 3])}
    return f"<{number}" if near & {"before", "until", "older", "earlier", "below"} else number


def _product(found: Sequence[Word], place: int) -> str:
    """The name in front of a version, empty when there is none."""
    if not place:
        return ""
    before = found[place - 1]
    name = before.lower
    if name in _COUNTED or name in UNITS or not name[0].isalpha() or before.is_code:
        return ""
    if name in ("version", "release"):
        return found[place - 2].lower if place > 1 and found[place - 2].lower not in SMALL else "version"
    is_dotted = "." in found[place].lower
    if (
        any(letter.isupper() for letter in before.form)
        and name not in SMALL
        and (place > 1 or len(found[place].lower) < 5)
    ):
        return name
    return name if is_dotted and name not in SMALL and root(name) not in POLAR else ""


def _role(found: Sequence[Word], place: int, product: str) -> Literal["scope", "value", "other"]:
    start = place - 1 if product and product != "version" else place
    while start > 0 and found[start - 1].lower in ("version", "the", "api", "release", "sdk"):
        start -= 1
    opener = found[start - 1].lower if start > 0 else ""
    earlier = {word.lower for word in found[max(0, start - 3) : max(0, start - 1)]}
    behind = [word.lower for word in found[place + 1 : place + 4]]
    if opener not in _SCOPE_OPENERS and behind[:1] in (["is"], ["are"], ["or"]) and set(behind) & _ASKED:
        return "value"
    if opener in _VALUE_OPENERS or (
        opener in ("to", "from", "at", "on", "of", "with") and earlier & (_VALUE_OPENERS - _COPULAS | _BASED)
    ):
        return "value"
    if not opener or opener in _SCOPE_OPENERS or opener in (",", ":", "(") or place <= 2:
        return "scope"
    return "other"
