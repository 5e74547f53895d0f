"""Secrets in any text: rules as data behind literal prefilters, gates that keep example values out."""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise

from hivemind_pipelines.core.model import Finding


def find_secrets(text: str) -> list[Finding]:
    """Every secret in `text` as [start, end) in code points; spans may overlap."""
    lowered = text.lower()
    return [
        Finding(start, end, rule.type, 1.0)
        for rule in load_rules()
        if any(keyword in lowered for keyword in rule.keywords)
        for start, end in rule.spans(text)
    ]


@dataclass(frozen=True, slots=True)
class SecretRule:
    """One rule: a text that contains a keyword is searched for the pattern, the value meets the gate."""

    id: str
    type: str
    keywords: tuple[str, ...]
    pattern: re.Pattern[str]
    gate: Callable[[str], bool]
    unless: re.Pattern[str] | None = None

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where the values stand that the rule finds, in order."""
        names = [name for name in ("secret", "secret2") if name in self.pattern.groupindex]
        position = 0
        while match := self.pattern.search(text, position):
            start, end = next((match.span(name) for name in names if match.group(name)), match.span())
            if self._accepts(text, start, end):
                yield start, end
                position = max(end, match.start() + 1)
            else:
                # A refused value may hide the start of the next candidate.
                position = max(start, match.start() + 1)

    def _accepts(self, text: str, start: int, end: int) -> bool:
        """Whether the value at [start, end) looks like a real one, seen with what stands before it."""
        value = text[start:end]
        if self.type != "PRIVATE_KEY" and is_placeholder(value):
            return False
        if self.unless and self.unless.search(text[max(0, start - 60) : start]):
            return False
        return self.gate(value)


@cache
def load_rules() -> tuple[SecretRule, ...]:
    """The shipped rules in file order."""
    import yaml

    return tuple(
        SecretRule(
            id=row["id"],
            type=row["type"],
            keywords=tuple(row["keywords"]),
            pattern=re.compile(row["pattern"]),
            gate=_GATES[row.get("gate", "any")],
            unless=re.compile(row["unless"]) if "unless" in row else None,
        )
        for row in yaml.safe_load(_rules_text())
    )


@cache
def rules_fingerprint() -> str:
    """16 hex digits over the rule file."""
    return hashlib.sha256(_rules_text().encode()).hexdigest()[:16]


def _rules_text() -> str:
    return files("hivemind_pipelines.services").joinpath("secret_rules.yaml").read_text("utf-8")


_PLACEHOLDER = re.compile(
    r"""(?ix)
      ^ \W{0,4} (?: [<\[{(]+ [\w\s./:|-]{0,80} [>\]})] | \$ [{(] | \$ [A-Za-z_]\w* $ | %\(? \w+ \)? [%s]? $
               | \{\{ | \#\{ | @\w+@ )
    | x{5,} | \*{3,} | \#{3,} | \.{3,} | …
    | ^ \W{0,4} (?: x+ (?: [-_.:/]+ x+ )* | (\w) \1* ) \W{0,4} $
    | ^ \W{0,4} (?: your | my | the | some | insert | enter | put | add | change | replace | example | sample
               | dummy | fake | mock | placeholder | redacted | removed | hidden | masked | new | old )
      [\s_.-]? [a-z\s_.-]{0,60} \W{0,4} $
    | ^ \W{0,4} (?: todo | none | null | nil | undefined | true | false | string | password\d? | passwd | secret
               | token | username | user | pass | foobar | foo | bar | qwerty ) \W{0,4} $
    | your[_-]?(?:api|key|token|secret|pass|access|auth) | _here\b | \bpath/to/ | EXAMPLEKEY
    """
)


def is_placeholder(value: str) -> bool:
    """Whether a value only stands where a secret would: `<token>`, `xxxx`, `changeme`, `${VAR}`."""
    commonest = max(Counter(value).values(), default=0)
    return (len(value) >= 8 and 2 * commonest > len(value)) or _PLACEHOLDER.search(value) is not None


def entropy(value: str) -> float:
    """Shannon entropy in bits per character."""
    counts = Counter(value)
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values()) if value else 0.0


_CODE = re.compile(
    r"""(?x)
      [(){}\[\]] | \$ [({] | ^\$ \w+ $ | :: | -> | => | ^[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+$ | ^/?(?:[\w.~-]+/)+[\w.~-]*$
    | ^[a-z]+:// | ^--?[a-z] | ^%\w | ^\d{1,4}[-./]\d | ^@ | ^\#\{ | ^&
    """
)
_CAMEL_CASE = re.compile(r"^[A-Za-z][a-z]*(?:[A-Z][a-z]+)+$")
_SLUG = re.compile(r"^[a-z]*\d{0,2}[a-z]*(?:[-_.][a-z]*\d{0,2}[a-z]*)+$")
_WORDS = re.compile(r"^[A-Za-z]+(?:[-_. ][A-Za-z]+)*\d?$")


def _could_be_password(value: str) -> bool:
    """Letters beside digits or signs, six or more of them, and neither code, path, words nor a number."""
    trimmed = value.strip(" .,;:")
    if not 6 <= len(trimmed) <= 120 or " " in trimmed or _CODE.search(trimmed):
        return False
    if _is_jumbled(trimmed):
        return True
    if _WORDS.match(trimmed) or _SLUG.match(trimmed):
        return False
    has_letter = any(character.isalpha() for character in trimmed)
    has_other = any(character.isdigit() or character in "!@#$%^&*?+~" for character in trimmed)
    return has_letter and has_other


def _could_be_token(value: str) -> bool:
    """Random looking: digits beside letters with enough entropy, or one long run of a single kind."""
    if len(value) < 12 or _CODE.search(value):
        return False
    if _is_jumbled(value):
        return True
    if value.isdigit() or value.isalpha():
        if _CAMEL_CASE.match(value):
            return False
        has_one_case = value.isdigit() or value.islower() or value.isupper()
        return len(value) >= (24 if has_one_case else 32) and entropy(value) >= 2.5
    digits = sum(character.isdigit() for character in value)
    letters = sum(character.isalpha() for character in value)
    if digits == 1:
        return len(value) >= 20 and not (value.islower() or value.isupper()) and entropy(value) >= 3.8
    return digits >= 2 and letters >= 2 and entropy(value) >= 3.0 and not _SLUG.match(value)


def _is_jumbled(value: str) -> bool:
    """Letters whose case changes far more often than in any identifier."""
    changes = sum(a.isupper() != b.isupper() for a, b in pairwise(value))
    return len(value) >= 16 and value.isalpha() and changes > 0.42 * len(value) and entropy(value) >= 3.5


def _is_random(value: str) -> bool:
    """What no identifier, hash or slug looks like: both cases and digits mixed in one long run."""
    longest = max(re.split(r"[-_]", value), key=len)
    kinds = (str.isupper, str.islower, str.isdigit)
    counts = [sum(map(kind, longest)) for kind in kinds]
    changes = sum(a.isdigit() != b.isdigit() or a.isupper() != b.isupper() for a, b in pairwise(longest))
    return len(longest) >= 20 and min(counts) >= 3 and 3 * changes > len(longest) and entropy(longest) >= 3.8


def _is_strong_token(value: str) -> bool:
    """A token long and mixed enough to stand without an assignment."""
    parts = re.split(r"[-_./=+~]", value)
    digits = sum(character.isdigit() for character in value)
    return _could_be_token(value) and (max(map(len, parts)) >= 12 or (digits >= 6 and len(value) >= 28))


def _could_be_url_password(value: str) -> bool:
    """Anything but a port, a template or what a database image ships with."""
    return not value.isdigit() and not _CODE.search(value) and value.lower() not in _STOCK_PASSWORDS


_STOCK_PASSWORDS = frozenset(
    {"postgres", "root", "admin", "guest", "mysql", "redis", "rabbitmq", "sa", "test"}
)

_GATES: dict[str, Callable[[str], bool]] = {
    "any": bool,
    "password": _could_be_password,
    "token": _could_be_token,
    "strong": _is_strong_token,
    "random": _is_random,
    "url": _could_be_url_password,
}
