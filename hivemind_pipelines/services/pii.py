"""The gate in front of stored generated text: personal data and secrets come out, or nothing is stored."""

import hashlib
import json
import logging
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol, assert_never

from hivemind_pipelines.core.model import Finding
from hivemind_pipelines.core.policy import PiiPolicy
from hivemind_pipelines.services.deadline import Clock, Deadline, DeadlineError
from hivemind_pipelines.services.persons import (
    MODEL_PACKAGE,
    ModelMissingError,
    NameFinder,
    find_persons,
    words_fingerprint,
)
from hivemind_pipelines.services.secrets import rules_fingerprint
from hivemind_pipelines.services.structured import find_structured

_log = logging.getLogger(__name__)

#: Raised by hand when code changes what is found; the data files and the models stamp themselves.
DETECTOR_VERSION = 5
SECRET_TYPES = frozenset({"API_KEY", "PASSWORD", "PRIVATE_KEY", "JWT", "ACCOUNT", "ENDPOINT"})
PERSONAL_TYPES = frozenset({"EMAIL", "IBAN", "CREDIT_CARD", "IP_ADDRESS", "US_SSN", "PHONE", "PERSON"})


@dataclass(frozen=True, slots=True)
class Redacted:
    """A text that may be stored, each finding replaced by `[TYPE]`; `counts` says how many of which type."""

    text: str
    counts: dict[str, int] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A text that may not be stored; `reason` is `mostly_placeholders`, `residual` or `verbatim`."""

    reason: str


@dataclass(frozen=True, slots=True)
class ScanFailed:
    """Nobody knows what the text holds, so it may not be stored; `reason` is a code without any text."""

    reason: str


PiiOutcome = Redacted | Rejected | ScanFailed
Scan = tuple[Finding, ...] | ScanFailed
Merge = Callable[[Iterable[Finding]], tuple[Finding, ...]]


class PiiScanner(Protocol):
    """What decides whether a generated text may be stored; `stamp` changes when its findings may."""

    stamp: str

    def redact(self, texts: Sequence[str]) -> list[PiiOutcome]:
        """One outcome for each text, in order; never raises."""
        ...

    def findings(self, texts: Sequence[str]) -> list[Scan]:
        """What each text holds, as spans in code points, in order and without overlaps; never raises."""
        ...


class FindingScanner(Protocol):
    """What says which secrets and personal data a text holds; `stamp` changes when its findings may."""

    stamp: str

    def findings(self, texts: Sequence[str]) -> list[Scan]:
        """Findings of each text, in order, or why nobody knows; never raises."""
        ...


def without_persons(policy: PiiPolicy) -> "GatedScanner":
    """A scanner for texts in bulk: names of people take a model that reads 70 notes a second."""
    return GatedScanner(policy.model_copy(update={"detect_persons": False}))


class GatedScanner:
    """Secrets and structured identifiers everywhere, names of people in prose; fails closed.

    Models are loaded at the first text that may hold a name; `more_names` are asked beside the shipped
    one. A text of more than `characters_max` code points, or one that by itself takes longer than `timeout_s`
    seconds of the `clock`, is a `ScanFailed`: the time is looked at before each text, rule and chunk.
    """

    def __init__(
        self,
        policy: PiiPolicy,
        *,
        more_names: Sequence[NameFinder] = (),
        timeout_s: float = 60.0,
        characters_max: int = 200_000,
        clock: Clock = time.monotonic,
    ) -> None:
        self._policy = policy
        self._more_names = more_names
        self._timeout_s = timeout_s
        self._characters_max = characters_max
        self._clock = clock
        self.stamp = _stamp(policy, more_names)

    def redact(self, texts: Sequence[str]) -> list[PiiOutcome]:
        """Replace what is found until a scan finds nothing, then check that no value is left in any spelling."""
        drafts = [_Draft(text) for text in texts]
        for _ in range(_PASSES_MAX):
            open_drafts = [draft for draft in drafts if draft.outcome is None]
            scans = self.findings([draft.text for draft in open_drafts])
            for draft, scan in zip(open_drafts, scans, strict=True):
                draft.advance(scan, self._policy.placeholder_share_max)
        outcomes = [draft.outcome or Rejected("residual") for draft in drafts]
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("scanned %d texts: %s", len(texts), dict(_tally(outcomes)))
        return outcomes

    def findings(self, texts: Sequence[str]) -> list[Scan]:
        """What each text holds, as spans in code points, in order and without overlaps."""
        return self._found(texts, _resolve)

    def candidates(self, texts: Sequence[str]) -> list[Scan]:
        """The same before overlapping findings become one, each with its own type and score."""
        return self._found(texts, tuple)

    def _found(self, texts: Sequence[str], merge: Merge) -> list[Scan]:
        found: list[Scan] = []
        for start in range(0, len(texts), _BATCH_SIZE):
            found += self._scan(texts[start : start + _BATCH_SIZE], merge)
        return found

    def _scan(self, texts: Sequence[str], merge: Merge) -> list[Scan]:
        """Together as long as nothing goes wrong, else one by one, so that no text fails for another's sake."""
        try:
            return self._scan_together(texts, merge, Deadline(self._clock() + self._timeout_s, self._clock))
        except ModelMissingError:
            return [ScanFailed("model_missing") for _ in texts]
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the texts are not clean
            if len(texts) > 1:
                return [outcome for text in texts for outcome in self._scan([text], merge)]
            is_late = isinstance(error, DeadlineError)
            return [ScanFailed("timeout" if is_late else f"error:{type(error).__name__}")]

    def _scan_together(self, texts: Sequence[str], merge: Merge, deadline: Deadline) -> list[Scan]:
        refusals = [self._unscannable(text) for text in texts]
        views = [_view("" if refusal else text) for text, refusal in zip(texts, refusals, strict=True)]
        shown = [view for view, _ in views]
        structured = find_structured(shown, deadline)
        persons = self._persons(shown, deadline)
        deadline.check()
        return [
            refusal or (merge(_mapped([*values, *names], positions)) if values or names else ())
            for refusal, (_, positions), values, names in zip(
                refusals, views, structured, persons, strict=True
            )
        ]

    def _persons(self, texts: Sequence[str], deadline: Deadline) -> list[list[Finding]]:
        if not self._policy.detect_persons:
            return [[] for _ in texts]
        return find_persons(
            texts, self._policy.score_threshold, more_names=self._more_names, deadline=deadline
        )

    def _unscannable(self, text: str) -> ScanFailed | None:
        if len(text) > self._characters_max:
            return ScanFailed("too_long")
        if "\0" in text:
            return ScanFailed("nul")
        is_broken = not text.isascii() and _SURROGATE.search(text) is not None
        return ScanFailed("lone_surrogate") if is_broken else None


_PASSES_MAX = 4
_BATCH_SIZE = 64
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(slots=True)
class _Draft:
    """A text on its way through the passes, with every value taken out of it so far."""

    text: str
    outcome: PiiOutcome | None = None
    values: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def advance(self, scan: Scan, placeholder_share_max: float) -> None:
        if isinstance(scan, ScanFailed):
            self.outcome = scan
            return
        self.values |= {self.text[finding.start : finding.end]: finding.type for finding in scan}
        self._take_out(scan)
        echoes = _resolve(_echoes(self.text, self.values))
        self._take_out(echoes)
        if not scan and not echoes:
            self.outcome = self._settle(placeholder_share_max)

    def _take_out(self, found: Sequence[Finding]) -> None:
        if found:
            self.counts.update(finding.type for finding in found)
            self.text = _replace(self.text, found)

    def _settle(self, placeholder_share_max: float) -> PiiOutcome:
        squeezed = _squeeze(self.text) if self.values else ""
        if any(len(plain) >= _ECHO_MIN and plain in squeezed for plain in map(_squeeze, self.values)):
            return Rejected("verbatim")
        if _placeholder_share(self.text, self.counts) > placeholder_share_max:
            return Rejected("mostly_placeholders")
        return Redacted(self.text, dict(sorted(self.counts.items())))


def _replace(text: str, findings: Iterable[Finding]) -> str:
    pieces, position = [], 0
    for finding in findings:
        pieces += [text[position : finding.start], f"[{finding.type}]"]
        position = finding.end
    return "".join([*pieces, text[position:]])


def _placeholder_share(text: str, counts: Counter[str]) -> float:
    """Placeholders among the words that are left."""
    if not counts:
        return 0.0
    placeholders = sum(counts.values())
    return placeholders / (placeholders + len(_WORD.findall(_PLACEHOLDER.sub(" ", text))))


_PLACEHOLDER = re.compile(r"\[[A-Z_]{2,20}\]")
_WORD = re.compile(r"\w+")


def _resolve(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Overlapping findings become one over their union, named after the secret or the longest of them."""
    merged: list[Finding] = []
    for finding in sorted(findings, key=lambda each: (each.start, -each.end, each.type)):
        if merged and finding.start < merged[-1].end:
            last = merged[-1]
            best = max(last, finding, key=lambda each: (each.type in SECRET_TYPES, each.end - each.start))
            merged[-1] = Finding(last.start, max(last.end, finding.end), best.type, best.score)
        else:
            merged.append(finding)
    return tuple(merged)


def _view(text: str) -> tuple[str, list[int] | None]:
    """The text as detectors read it (NFKC, nothing invisible) and where in `text` each character stands."""
    if text.isascii() or all(_SHOWN[ord(one)] == one for one in set(_BEYOND_ASCII.findall(text))):
        return text, None
    return text.translate(_SHOWN), _positions(text, _SHOWN)


_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")


def _positions(text: str, spelled: "_Spellings") -> list[int]:
    """For each character of the translated text where in `text` it comes from."""
    return [place for place, character in enumerate(text) for _ in spelled[ord(character)]]


class _Spellings(dict[int, str]):
    """How single characters are spelled, worked out once for each; what `str.translate` takes."""

    def __init__(self, spell: Callable[[str], str]) -> None:
        super().__init__()
        self._spell = spell

    def __missing__(self, code: int) -> str:
        spelled = self[code] = self._spell(chr(code))
        return spelled


def _show(character: str) -> str:
    return "" if _is_invisible(character) else unicodedata.normalize("NFKC", character)


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f"


_SHOWN = _Spellings(_show)


def _mapped(findings: Iterable[Finding], positions: list[int] | None) -> list[Finding]:
    if positions is None:
        return list(findings)
    return [
        Finding(positions[each.start], positions[each.end - 1] + 1, each.type, each.score)
        for each in findings
        if each.end > each.start
    ]


#: Shorter values, squeezed, occur in anything; they are looked for as whole words only.
_ECHO_MIN = 6


def _echoes(text: str, values: Mapping[str, str]) -> list[Finding]:
    """More occurrences of values already found, in any case, width or spacing, and parts of names alone."""
    squeezed = _squeeze(text) if values else ""
    found: list[Finding] = []
    positions: list[int] = []
    for value, type_ in values.items():
        plain = _squeeze(value)
        start = squeezed.find(plain) if len(plain) >= _ECHO_MIN else -1
        while start >= 0:
            positions = positions or _positions(text, _SQUEEZED)
            end = start + len(plain)
            found.append(Finding(positions[start], positions[end - 1] + 1, type_, 1.0))
            start = squeezed.find(plain, end)
        if type_ == "PERSON":
            parts = {part for part in re.findall(r"\w[\w'’-]{2,}", value) if part[0].isupper()}
            found += [
                Finding(*match.span(), type_, 1.0)
                for part in sorted(parts)
                for match in re.finditer(rf"(?<!\w){re.escape(part)}(?!\w)", text)
            ]
    return found


def _squeeze(text: str) -> str:
    """NFKC, case folded, without white space and invisible characters."""
    return "".join(text.split()).lower() if text.isascii() else text.translate(_SQUEEZED)


def _fold(character: str) -> str:
    return "" if character.isspace() else "".join(_show(character).casefold().split())


_SQUEEZED = _Spellings(_fold)


def _tally(outcomes: Iterable[PiiOutcome]) -> Counter[str]:
    tally: Counter[str] = Counter()
    for outcome in outcomes:
        match outcome:
            case Redacted(counts=counts):
                tally.update(counts)
            case Rejected(reason=reason) | ScanFailed(reason=reason):
                tally[reason] += 1
            case _:
                assert_never(outcome)
    return tally


def _stamp(policy: PiiPolicy, more_names: Sequence[NameFinder]) -> str:
    """16 hex digits over rules, words, detector and package versions, models and the policy's section."""
    shape: dict[str, object] = {
        "detector": DETECTOR_VERSION,
        "rules": rules_fingerprint(),
        "words": words_fingerprint(),
        "policy": policy.model_dump(mode="json"),
        "packages": {name: _version(name) for name in (MODEL_PACKAGE, "presidio-analyzer", "phonenumbers")},
    }
    if more_names:
        shape["more_names"] = [finder.fingerprint for finder in more_names]
    return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:16]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
