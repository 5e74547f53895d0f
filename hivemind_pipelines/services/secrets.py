"""Secrets in any text: rules as data behind literal prefilters, gates that keep example values out."""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from hivemind_pipelines.core.model import Finding


def find_secrets(text: str) -> list[Finding]:
    """Every secret in `text` as [start, end) in code points; spans may overlap."""
    lowered = text.lower()
    return [
        Finding(start, end, rule.type, 1.0)
        for rule in load_rules()
        if any(keyword in lowered for keyword in rule.keywords)
        for start, end in _matches(rule, text)
    ]


@dataclass(frozen=True, slots=True)
class SecretRule:
    """One rule: a text that contains a keyword is searched for the pattern, the value meets the gate."""

    id: str
    type: str
    keywords: tuple[str, ...]
    pattern: re.Pattern[str]
    gate: Callable[[str], bool]


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
        )
        for row in yaml.safe_load(_rules_text())
    )


@cache
def rules_fingerprint() -> str:
    """16 hex digits over the rule file."""
    return hashlib.sha256(_rules_text().encode()).hexdigest()[:16]


def _rules_text() -> str:
    return files("hivemind_pipelines.services").joinpath("secret_rules.yaml").read_text("utf-8")


def _matches(rule: SecretRule, text: str) -> Iterator[tuple[int, int]]:
    names = [name for name in ("secret", "secret2") if name in rule.pattern.groupindex]
    position = 0
    while match := rule.pattern.search(text, position):
        start, end = next((match.span(name) for name in names if match.group(name)), match.span())
        value = text[start:end]
        if not is_placeholder(value) and rule.gate(value):
            yield start, end
            position = max(end, match.start() + 1)
        else:
            # A refused value may hide the start of the next candidate.
            position = max(start, match.start() + 1)


_PLACEHOLDER = re.compile(
    r"""(?ix)
      ^ \W{0,4} (?: [<\[{(]+ [\w\s./:|-]{0,80} [>\]})] | \$ [\w{(] | %\(? \w+ \)? [%s]? $ | \{\{ | \#\{ | @\w+@ )
    | x{5,} | \*{3,} | \#{3,} | \.{3,} | … | (.) \1{7,}
    | ^ \W{0,4} (?: x+ (?: [-_.:/]+ x+ )* | (\w) \2* ) \W{0,4} $
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
    return _PLACEHOLDER.search(value) is not None


def entropy(value: str) -> float:
    """Shannon entropy in bits per character."""
    counts = Counter(value)
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values()) if value else 0.0


_CODE = re.compile(
    r"""(?x)
      [(){}\[\]] | \$ [\w({] | :: | -> | => | ^[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+$ | ^/?(?:[\w.~-]+/)+[\w.~-]*$
    | ^[a-z]+:// | ^--?[a-z] | ^%\w | ^\d{1,4}[-./]\d | ^@ | ^\#\{ | ^&
    """
)
_WORDS = re.compile(r"^[A-Za-z]+(?:[-_. ][A-Za-z]+)*\d?$")


def _could_be_password(value: str) -> bool:
    """Letters beside digits or signs, six or more of them, and neither code, path, words nor a number."""
    trimmed = value.strip(" .,;:!?")
    if not 4 <= len(trimmed) <= 120 or " " in trimmed or _CODE.search(trimmed) or _WORDS.match(trimmed):
        return False
    has_letter = any(character.isalpha() for character in trimmed)
    has_other = any(not character.isalpha() for character in trimmed)
    return has_letter and has_other and len(trimmed) >= 6


def _could_be_token(value: str) -> bool:
    """Random looking: digits beside letters, or mixed case without words, with enough entropy."""
    if len(value) < 12 or _CODE.search(value) or _WORDS.match(value):
        return False
    digits = sum(character.isdigit() for character in value)
    letters = sum(character.isalpha() for character in value)
    return digits >= 2 and letters >= 2 and entropy(value) >= 3.0


def _is_strong_token(value: str) -> bool:
    """A token long and mixed enough to stand without an assignment."""
    parts = re.split(r"[-_./=+~]", value)
    return _could_be_token(value) and max(len(part) for part in parts) >= 12 and _digit_share(value) >= 0.1


def _digit_share(value: str) -> float:
    return sum(character.isdigit() for character in value) / len(value)


def _could_be_url_password(value: str) -> bool:
    """Anything but a port, a template or the word itself."""
    return not value.isdigit() and not _CODE.search(value)


_GATES: dict[str, Callable[[str], bool]] = {
    "any": lambda value: True,
    "password": _could_be_password,
    "token": _could_be_token,
    "strong": _is_strong_token,
    "url": _could_be_url_password,
}
