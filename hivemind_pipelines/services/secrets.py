"""Secrets in any text: rules as data, and gates that keep example values out."""

import base64
import binascii
import hashlib
import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import islice, pairwise

from hivemind_pipelines.core.model import Finding
from hivemind_pipelines.services.prefilter import Starts, encode


def find_secrets(text: str, rules: Iterable["SecretRule"]) -> list[Finding]:
    """What the rules find in `text` as [start, end) in code points; spans may overlap."""
    data = encode(text)
    return [Finding(start, end, rule.type, 1.0) for rule in rules for start, end in rule.spans(text, data)]


#: Types whose values are never taken for a stand-in: a body is long, a tenant may be called anything.
_UNMASKED = frozenset({"PRIVATE_KEY", "ENDPOINT"})


@dataclass(frozen=True, slots=True)
class SecretRule:
    """One rule: a text is searched for the pattern, the value meets the gate."""

    id: str
    type: str
    pattern: re.Pattern[str]
    gate: Callable[[str], bool]
    unless: re.Pattern[str] | None = None
    is_literal: bool = False

    def spans(self, text: str, data: bytes | None = None) -> Iterator[tuple[int, int]]:
        """Where the values stand that the rule finds, in order; `data` is the text as `encode` encodes it."""
        names = [name for name in ("secret", "secret2") if name in self.pattern.groupindex]
        starts = _starts(self.pattern).places(encode(text) if data is None else data)
        position = 0
        while match := self._search(text, position, starts):
            start, end = next((match.span(name) for name in names if match.group(name)), match.span())
            if self._accepts(text, start, end):
                start, end = match.span("span") if "span" in self.pattern.groupindex else (start, end)
                yield start, end
                position = max(end, match.start() + 1)
            else:
                # A refused value may hide the start of the next candidate.
                position = max(start, match.start() + 1)

    def _search(self, text: str, position: int, starts: list[int] | None) -> re.Match[str] | None:
        if starts is None:
            return self.pattern.search(text, position)
        places = islice(starts, bisect_left(starts, position), None)
        return next(filter(None, (self.pattern.match(text, place) for place in places)), None)

    @property
    def _may_be_any_word(self) -> bool:
        return self.is_literal or self.type in _UNMASKED

    def _accepts(self, text: str, start: int, end: int) -> bool:
        """Whether the value at [start, end) looks like a real one, seen with what stands before it."""
        value = text[start:end]
        if not self._may_be_any_word and is_placeholder(value):
            return False
        if self.unless and self.unless.search(text[max(0, start - 60) : start]):
            return False
        return self.gate(value)


@cache
def _starts(pattern: re.Pattern[str]) -> Starts:
    return Starts(pattern)


@cache
def load_rules() -> tuple[SecretRule, ...]:
    """The shipped rules in file order."""
    import yaml

    providers = _any_of(yaml.safe_load(_data("provider_names.yaml"))["names"])
    return tuple(
        SecretRule(
            id=row["id"],
            type=row["type"],
            pattern=re.compile(row["pattern"].replace("PROVIDER", providers)),
            gate=_GATES[row.get("gate", "any")],
            unless=re.compile(row["unless"]) if "unless" in row else None,
            is_literal=row.get("is_literal", False),
        )
        for row in yaml.safe_load(_data("secret_rules.yaml"))
    )


def _any_of(words: Iterable[str]) -> str:
    """A pattern for the words that branches letter by letter, for `re` tries alternatives one by one."""
    ends: dict[str, list[str]] = {}
    for word in sorted(words):
        ends.setdefault(word[:1], []).append(word[1:])
    is_end = ends.pop("", None) is not None
    branches = [re.escape(letter) + _any_of(rest) for letter, rest in ends.items()]
    if not branches:
        return ""
    joined = branches[0] if len(branches) == 1 and not is_end else f"(?:{'|'.join(branches)})"
    return f"{joined}?" if is_end else joined


@cache
def rules_fingerprint() -> str:
    """16 hex digits over the rules and the names in them."""
    texts = _data("secret_rules.yaml") + _data("provider_names.yaml")
    return hashlib.sha256(texts.encode()).hexdigest()[:16]


def _data(name: str) -> str:
    return files("hivemind_pipelines.services").joinpath(name).read_text("utf-8")


_PLACEHOLDER = re.compile(
    r"""(?ix)
      ^ \W{0,4} (?: [<\[{(]+ [\w\s./:|-]{0,80} [>\]})] | \$ [{(] | \$ [A-Za-z_]\w* $ | %\(? \w+ \)? [%s]? $
               | \{\{ | \#\{ | @\w+@ )
    | x{5,} | \*{3,} | \#{3,} | \.{3,} | …
    | ^ \W{0,4} (?: x+ (?: [-_.:/]+ x+ )* | (\w) \1{0,18} | 0+ ) \W{0,4} $
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
    if _PLACEHOLDER.search(value):
        return True
    mark, count = Counter(value).most_common(1)[0] if value else ("", 0)
    return len(value) >= 8 and 2 * count > len(value) and (mark in _MARKS or len(value) < _LONG)


#: What people fill the place of a secret with; of another letter only short runs are stand-ins.
_MARKS = frozenset("xX*#.0-_?")
_LONG = 20


def entropy(value: str) -> float:
    """Shannon entropy in bits per character."""
    counts = Counter(value)
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values()) if value else 0.0


_CODE = re.compile(
    r"""(?x)
      [(){}\[\]] | \$ [({] | ^\$ \w+ $ | :: | -> | => | ^(?!(?:\D*\d){3})[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+$
    | ^/?(?:[\w.~-]+/)+[\w.~-]*$
    | ^[a-z]+:// | ^--?[a-z] | ^%\w | ^\d{1,4}[-./]\d | ^@ | ^\#\{ | ^&
    """
)
_CAMEL_CASE = re.compile(r"^[A-Za-z][a-z]*(?:[A-Z][a-z]+)+$")
_SLUG = re.compile(r"^[a-z]*\d{0,2}[a-z]*(?:[-_.][a-z]*\d{0,2}[a-z]*)+$")
_WORDS = re.compile(r"^[A-Za-z]+(?:[-_. ][A-Za-z]+)*\d?$")


def _could_be_password(value: str) -> bool:
    """Letters beside digits or signs, six or more of them, and neither code, path, words nor a number."""
    trimmed = value.strip(" .,;:")
    if _is_generated(trimmed):
        return True
    if not 6 <= len(trimmed) <= 120 or " " in trimmed or _CODE.search(trimmed):
        return False
    if _is_jumbled(trimmed):
        return True
    if _WORDS.match(trimmed) or _SLUG.match(trimmed):
        return False
    has_letter = any(character.isalpha() for character in trimmed)
    has_other = any(character.isdigit() or character in "!@#$%^&*?+~" for character in trimmed)
    return has_letter and has_other


def _is_base64(value: str) -> bool:
    """A path by its slashes and a key by what stands between them: cases and digits mixed throughout."""
    if not re.fullmatch(r"[A-Za-z0-9+/]{32,}={0,2}", value):
        return False
    changes = sum(a.isdigit() != b.isdigit() or a.isupper() != b.isupper() for a, b in pairwise(value))
    return 3 * changes > len(value) and entropy(value) >= 4.0


def _is_generated(value: str) -> bool:
    """What a generator with all signs allowed writes, brackets and quotes among them; no template."""
    signs = {character for character in value if character in _SIGNS}
    is_template = any(mark in value for mark in ("${", "$(", "{{", "%(", "://"))
    has_both = any(map(str.isdigit, value)) and any(map(str.isupper, value)) and any(map(str.islower, value))
    return 16 <= len(value) <= 120 and len(signs) >= 6 and has_both and not is_template and " " not in value


def _could_be_token(value: str) -> bool:
    """Random looking: digits beside letters with enough entropy, or one long run of a single kind."""
    if len(value) < 12 or (_CODE.search(value) and not _is_base64(value)):
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
    longest = _longest(value)
    kinds = (str.isupper, str.islower, str.isdigit)
    counts = [sum(map(kind, longest)) for kind in kinds]
    changes = sum(a.isdigit() != b.isdigit() or a.isupper() != b.isupper() for a, b in pairwise(longest))
    is_mixed = min(counts) >= 3 and 3 * changes > len(longest) and entropy(longest) >= 3.8
    return len(longest) >= 20 and is_mixed and not _is_sequence(longest) and not _is_encoded_text(longest)


def _is_encoded_text(value: str) -> bool:
    """Base64 of words with spaces between them."""
    try:
        plain = base64.b64decode(value[: len(value) // 4 * 4], validate=True)
    except binascii.Error:
        return False
    return plain.isascii() and plain.decode("ascii").isprintable() and b" " in plain


def _is_sequence(value: str) -> bool:
    """The alphabet or the digits in order, as they are typed into examples."""
    lowered = value.lower()
    return 2 * sum(ord(b) - ord(a) in (0, 1) for a, b in pairwise(lowered)) > len(value)


def _is_strong_token(value: str) -> bool:
    """A token long and mixed enough to stand without an assignment."""
    digits = sum(character.isdigit() for character in value)
    return _could_be_token(value) and (len(_longest(value)) >= 12 or (digits >= 6 and len(value) >= 28))


def _is_unplanned(value: str) -> bool:
    """A token that stands without an assignment and was not typed in the order of the alphabet."""
    return _is_strong_token(value) and not _is_sequence(value)


def _could_be_url_password(value: str) -> bool:
    """Anything but a port, a template or what a database image ships with."""
    is_template = value.startswith("$") or any(mark in value for mark in ("{", "}", "%(", "[", "::"))
    return not value.isdigit() and not is_template and value.lower() not in _STOCK_PASSWORDS


def _could_be_literal(value: str) -> bool:
    """What a program falls back to: no template, path, address or sentence."""
    return not _CODE.search(value) and " " not in value and value.lower() not in _STOCK_PASSWORDS


def _is_provided(value: str) -> bool:
    """What stands beside a provider's name: a UUID, a long hexadecimal number or another token."""
    value = value.strip("=")
    if _UUID.match(value) or re.fullmatch(r"[0-9a-f]{32,64}", value):
        return True
    return _could_be_token(value) and not _is_version(value)


def _is_named(value: str) -> bool:
    """What a provider's own key is set to: a digit among letters, or a run that is no word."""
    if _CODE.search(value) or _is_version(value):
        return False
    if any(map(str.isdigit, value)):
        return len(value) >= 10 and (len(_longest(value)) >= 16 or not _SLUG.match(value))
    return len(_longest(value)) >= 20 and not _CAMEL_CASE.match(value)


def _longest(value: str) -> str:
    return max(re.split(r"[-_./=+~]", value), key=len)


def _could_be_account(value: str) -> bool:
    """Somebody's login name: neither what an image ships with nor a word that stands for one."""
    words = set(re.split(r"[\W_]+", value.lower()))
    return not words & _ACCOUNT_WORDS and not words & _STOCK_PASSWORDS


_ACCOUNT_WORDS = frozenset(
    {"user", "username", "name", "login", "smtp", "my", "your", "example", "default", "nobody", "anonymous"}
)


def _has_signs(value: str) -> bool:
    """A literal with digits and signs between its letters."""
    has_digit = any(character.isdigit() for character in value)
    return has_digit and any(character in _SIGNS for character in value)


_SIGNS = frozenset("!@#$%^&*()[]{}<>?+=~;:,|/\\`")


def _is_version(value: str) -> bool:
    return re.match(r"v?\d+[._-]\d", value) is not None


_UUID = re.compile(r"(?i)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


def _could_be_login_password(value: str) -> bool:
    """What a tool was really called with, whatever it looks like, but for words that name the place."""
    return not value.lower().strip("-_").startswith(("pass", "pwd", "my", "secret"))


def _is_part(value: str) -> bool:
    """What a structure sets literally, be it the word `secret`: anything but a template or a row of marks."""
    return not re.search(r"[$%<>{}\[\]#*]|x{4,}|\.{3}|^\W+$", value)


def _is_seed(value: str) -> bool:
    """Base32 of a random seed: digits all over it and no run of one letter."""
    digits = re.findall(r"[2-7]+", value)
    return len(digits) >= 2 and entropy(value) >= 3.0 and not _is_sequence(value)


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
    "login": _could_be_login_password,
    "literal": _could_be_literal,
    "provided": _is_provided,
    "named": _is_named,
    "signs": _has_signs,
    "generated": _is_generated,
    "account": _could_be_account,
    "part": _is_part,
    "unplanned": _is_unplanned,
    "seed": _is_seed,
}
