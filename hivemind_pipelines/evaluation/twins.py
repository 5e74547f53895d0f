"""Twins: texts turned into what they deny or repeat, so that a reader learns what a single word or number decides."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from hivemind_pipelines.core.lexicon import SYNONYMS
from hivemind_pipelines.evaluation.labelled import ContrastedPair

#: Twins of each kind: a text and its denial, the two sides of a duplicate with one denied, a text and a synonym's.
DENIED_MAX, TURNED_MAX, REPEATED_MAX = 400, 400, 300

#: Longer pairs have no twins, nor have texts of fewer words.
CHARACTERS_MAX, WORDS_MIN = 500, 5

_OPPOSITES = """
    enable/disable enables/disables enabled/disabled enabling/disabling allow/forbid allows/forbids
    allowed/forbidden allow/block allows/blocks accepts/rejects accept/reject accepted/rejected before/after
    always/never required/optional faster/slower increases/decreases increase/decrease raises/lowers
    raise/lower higher/lower larger/smaller synchronous/asynchronous synchronously/asynchronously true/false
    mutable/immutable public/private maximum/minimum above/below encrypted/unencrypted signed/unsigned
    ordered/unordered ascending/descending manual/automatic manually/automatically keeps/drops keep/drop
    kept/dropped starts/stops start/stop started/stopped succeeds/fails passes/fails safe/unsafe
    stable/unstable supported/unsupported includes/excludes include/exclude included/excluded
    shared/separate strict/lenient persistent/ephemeral eager/lazy static/dynamic
    valid/invalid local/remote hidden/visible hides/shows more/fewer more/less monthly/weekly daily/weekly
    hourly/daily week/month day/hour seconds/minutes hours/days minutes/hours Monday/Thursday Tuesday/Friday
    JSON/YAML tabs/spaces left/right top/bottom pull/push creates/deletes adds/removes add/remove
    avoid/prefer prefer/avoid
"""
_DENIALS: Final = (
    (" is not ", " is "), (" are not ", " are "), (" does not ", " does "), (" cannot ", " can "),
    (" must not ", " must "), (" is ", " is not "), (" are ", " are not "), (" can ", " cannot "),
    (" must ", " must not "), (" should ", " should not "), (" will ", " will not "), (" has ", " has no "),
)  # fmt: skip
#: Whole numbers that belong to no version, name, time or fraction.
_NUMBER = re.compile(r"(?<![\w.:,#/-])(\d{1,5})(?![\w.:,/-]\d)(?!\w)")
_RELEASE = re.compile(
    r"(?:python|java|node|go|version|rails|v|postgres|kubernetes|release)\s*\Z", re.IGNORECASE
)
_CONDITION = re.compile(r"\b(?:unless|if|when|while|whenever|once|until)\b", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z]+")
_PLAIN = re.compile(r"[a-z]{4,}")


def twins(pairs: Sequence[ContrastedPair]) -> tuple[ContrastedPair, ...]:
    """Contradictions and duplicates made of labelled pairs, chosen by their hashes; the same for any order."""
    denied: list[ContrastedPair] = []
    turned: list[ContrastedPair] = []
    repeated: list[ContrastedPair] = []
    seen = set()
    for pair in sorted(pairs, key=lambda one: (_hash(one.text_a + one.text_b), one.text_a, one.text_b)):
        text = pair.text_a
        if len(text) + len(pair.text_b) > CHARACTERS_MAX:
            continue
        if pair.label == "duplicate" and (other := deny(pair.text_b)):
            turned.append(ContrastedPair("", text, other, "contradiction"))
        if text in seen or len(text.split()) < WORDS_MIN:
            continue
        seen.add(text)
        if _hash(text) % 2 and (other := deny(text)):
            denied.append(ContrastedPair("", text, other, "contradiction"))
        elif other := repeat(text):
            repeated.append(ContrastedPair("", text, other, "duplicate"))
    return (*denied[:DENIED_MAX], *turned[:TURNED_MAX], *repeated[:REPEATED_MAX])


def deny(text: str) -> str | None:
    """The text with a number, a word or a verb turned into what cannot hold beside it; None where nothing can be."""
    ways = tuple(_denials(text))
    return ways[_hash(f"{text}x") % len(ways)] if ways else None


def _denials(text: str) -> Iterator[str]:
    number = _NUMBER.search(text)
    if number is not None and not _RELEASE.search(text[: number.start()]):
        yield text[: number.start(1)] + str(_other(int(number[1]), text)) + text[number.end(1) :]
    if _CONDITION.search(text):
        # What is turned in a condition denies nothing.
        return
    for word in _WORD.finditer(text):
        opposite = _OPPOSITE_OF.get(word[0].lower())
        if opposite is not None:
            yield _replaced(text, word, opposite)
            break
    for said, denied in _DENIALS:
        if said in text:
            yield text.replace(said, denied, 1)
            break


def _other(number: int, text: str) -> int:
    others = (number * 2, number + 1, number // 2 if number > 2 else number + 3, number * 10, number + 5)
    chosen = others[_hash(text) % len(others)]
    return chosen if chosen != number else number + 1


def repeat(text: str) -> str | None:
    """The text with one word in place of another that means the same; None where there is none."""
    for word in _PLAIN.finditer(text):
        synonym = _SYNONYM_OF.get(word[0])
        if synonym is not None and word[0] not in _OPPOSITE_OF:
            return _replaced(text, word, synonym)
    return None


def _replaced(text: str, word: re.Match[str], other: str) -> str:
    form = other.capitalize() if word[0][0].isupper() else other
    return text[: word.start()] + form + text[word.end() :]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:4], "big")


def _opposite_of() -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in _OPPOSITES.split():
        one, other = pair.split("/")
        found.setdefault(one.lower(), other)
        found.setdefault(other.lower(), one)
    return found


def _synonym_of(opposites: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for one, other in sorted(sorted(pair) for pair in SYNONYMS if len(pair) == 2):
        if _WORD.fullmatch(one) and _WORD.fullmatch(other) and not {one, other} & opposites.keys():
            found.setdefault(one, other)
            found.setdefault(other, one)
    return found


_OPPOSITE_OF = _opposite_of()
_SYNONYM_OF = _synonym_of(_OPPOSITE_OF)
