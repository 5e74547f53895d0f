"""Sides: which side of its opposites a sentence takes, and what turns it round."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hivemind_pipelines.core.lexicon import words
from hivemind_pipelines.core.opposites import NEGATORS, PAIRED, POLAR, TASKS, root
from hivemind_pipelines.core.wording import CLAUSE_ENDS, SMALL, Span, Word, follows


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


_CONDITIONS = words("if when while once unless whenever where")
_REASONS = words("because since caused-by")


def read_negations(found: Sequence[Word]) -> Iterator[Term]:
    """The words that deny, but for `not only`."""
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


def read_sides(found: Sequence[Word], negations: Sequence[Term]) -> tuple[tuple[Side, ...], int]:
    """The sides taken, and the product of what turns the sentence round."""
    negated = {term.place for term in negations}
    sides: list[Side] = []
    polarity = 1
    is_condition, is_reason, hidden = False, False, -1
    turned: set[str] = set()
    for place, word in enumerate(found):
        if word.lower in ("what", "which", "whether", "how"):
            # What is asked or looked at is not claimed.
            hidden = place + 4
        if word.lower in _CONDITIONS or (word.lower in ("before", "after", "until") and place):
            is_condition = True
        elif word.lower in CLAUSE_ENDS:
            is_condition = False
        if word.lower in CLAUSE_ENDS or word.lower in ("and", "or") or word.lower in _CONDITIONS:
            turned = set()
        if word.lower in _REASONS and place:
            is_reason = True
        elif word.lower in (",", ";"):
            is_reason = False
        if place in negated and not is_reason:
            polarity = polarity if _is_contrastive(found, place) else -polarity
            if word.lower in ("never", "must-not"):
                axis = "often" if word.lower == "never" else "licence"
                sides.append(Side(axis, -1, -1, _term(found, place), True, is_condition))
            continue
        if is_reason or place <= hidden:
            continue
        taken = tuple(axes(found, place))
        turning = {axis for axis, sign, is_polar in taken if is_polar and sign < 0}
        # "Shrunk to fewer" turns the sentence once.
        is_turning = bool(turning) and turned.isdisjoint(turning)
        if is_turning:
            polarity = -polarity
            turned |= turning
        for axis, sign, is_polar in taken:
            flip = -1 if _is_negated(found, place, negated, reach=1 if is_polar else 0) else 1
            turns = is_turning and is_polar and sign < 0
            sides.append(Side(axis, sign * flip, sign, _term(found, place), turns, is_condition))
    return tuple(sides), polarity


def _is_contrastive(found: Sequence[Word], place: int) -> bool:
    """Whether a negation only names what something is not: `by rebasing, not by merging`."""
    before = found[place - 1].lower if place else ""
    return found[place].lower == "instead" or (found[place].lower == "not" and before in (",", "and", ";"))


def axes(found: Sequence[Word], place: int) -> Iterator[tuple[str, int, bool]]:
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
        elif any(root(one.lower) in ("turn", "switch") for one in found[max(0, place - 4) : place]) or (
            is_predicate and found[place - 1].lower in _SWITCHED
        ):
            # "Turn swap off", "with strict mode off": verb or noun and particle stand apart.
            yield "switch", 1 if word.lower == "on" else -1, True
        return
    if word.lower in ("can", "could", "may", "might") and after == "not":
        # The negation behind it is what counts.
        return
    if word.lower in ("can", "may") and after == "only":
        # What can only be is what must be.
        yield "leave", -1, False
        return
    if word.lower in ("raise", "raises", "raised", "raising") and follows(
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


def _is_negated(found: Sequence[Word], place: int, negated: set[int], *, reach: int) -> bool:
    """Whether a negation before a word, with at most `reach` content words between, turns it round."""
    count = between = 0
    for earlier in range(place - 1, max(-1, place - 5), -1):
        if found[earlier].lower in CLAUSE_ENDS or found[earlier].lower in _CONDITIONS:
            break
        if earlier in negated:
            count += 1
        elif found[earlier].lower not in SMALL:
            between += 1
            if between > reach:
                break
    return count % 2 == 1


def _term(found: Sequence[Word], place: int) -> Term:
    word = found[place]
    return Term(root(word.lower), word.lower, word.span, place, word.is_code)


#: What is on or off where that follows right behind.
_SWITCHED = words(
    """
    mode flag flags option feature features toggle setting logging caching debugging debug checks check mfa 2fa
    compression tracing telemetry autoscaling replication buffering notifications strict
    """
)
#: A participle or adjective turned round by its prefix.
_UN = re.compile(r"(?:un|non-?)(\w{3,}(?:ed|able|ible|en|ing|n|t))")
_NOT_REVERSED = words(
    "until unless under unit union unique united understand understood undergo unten unicorn"
)
