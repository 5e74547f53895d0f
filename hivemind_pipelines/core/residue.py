"""Residue: the needles of erased texts, kept as keyed fingerprints, and finding them in any other value.

A needle is a run of words, the hash of a whole text or of a vector. Values are looked at as words in
lower case without punctuation, so that JSON, HTML and reformatted copies are the same as the text.
"""

import base64
import hashlib
import html
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from hivemind_pipelines.core import text
from hivemind_pipelines.core.model import ItemId

#: Runs of fewer words are shared by texts that have nothing to do with each other.
RUN_WORDS = 5
#: A text of fewer words is a run as a whole if it has so many letters and digits; below it, anything may
#: say the same by chance, and only the hash of the text and its vector are needles.
SHORT_CHARACTERS_MIN = 12

#: A keyed fingerprint in 16 hex digits.
Needle = str

_WORD = re.compile(r"[^\W_]+")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|[nrtbf\"'/\\])")
_HEX_DIGEST = re.compile(r"(?<![0-9a-fA-F])[0-9a-fA-F]{64}(?![0-9a-fA-F])")
_BASE64_DIGEST = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{43}=?(?![A-Za-z0-9+/_=-])")
_KNOWN_WORDS_MAX = 500_000


@dataclass(frozen=True, slots=True)
class ErasedText:
    """A text on its way out, with the md5 of its vector's bytes in hex when it had one."""

    item_id: ItemId
    content: str
    vector_digest: str | None = None


@dataclass(frozen=True, slots=True)
class Needles:
    """Everything by which remains of erased texts are found, and nothing that tells the texts.

    `items` maps a needle to the ids of the texts it is of, `words` holds the fingerprints of all words of
    the runs, `run_lengths` how long runs are.
    """

    items: Mapping[Needle, tuple[str, ...]] = field(hash=False)
    words: frozenset[Needle]
    run_lengths: tuple[int, ...]

    def without(self, found: Iterable[Needle]) -> "Needles":
        """The needles but those that other people's texts hold too."""
        dropped = frozenset(found)
        kept = {needle: ids for needle, ids in self.items.items() if needle not in dropped}
        return Needles(kept, self.words, self.run_lengths)

    def to_json(self) -> dict[str, object]:
        """JSON's own values."""
        return {
            "items": {needle: list(ids) for needle, ids in self.items.items()},
            "words": sorted(self.words),
            "run_lengths": list(self.run_lengths),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> "Needles":
        """What `to_json` gave."""
        items, words, lengths = value["items"], value["words"], value["run_lengths"]
        assert isinstance(items, dict)
        assert isinstance(words, list)
        assert isinstance(lengths, list)
        return cls({name: tuple(ids) for name, ids in items.items()}, frozenset(words), tuple(lengths))


def words_of(value: str) -> list[str]:
    """The words of a value in lower case, whatever it was escaped for."""
    if "\\" in value:
        value = _ESCAPE.sub(_unescaped, value)
    if "&" in value:
        value = html.unescape(value)
    if not value.isascii():
        value = unicodedata.normalize("NFKC", value)
    return _WORD.findall(value.lower())


def _unescaped(match: re.Match[str]) -> str:
    return chr(int(match[1], 16)) if match[1] else " "


def needles(texts: Iterable[ErasedText], key: bytes) -> Needles:
    """The needles of some texts."""
    items: dict[Needle, set[str]] = {}
    words: set[Needle] = set()
    lengths: set[int] = set()
    for one in texts:
        found = words_of(one.content)
        names = [_fingerprint(key, "digest", text.content_hash(one.content))]
        if one.vector_digest is not None:
            names.append(_fingerprint(key, "vector", one.vector_digest))
        if not is_too_short(one.content):
            length = min(len(found), RUN_WORDS)
            names += [_fingerprint(key, "run", run) for run in _runs(found, length)]
            words |= {_fingerprint(key, "word", word) for word in found}
            lengths.add(length)
        for name in names:
            items.setdefault(name, set()).add(str(one.item_id))
    return Needles(
        {name: tuple(sorted(ids)) for name, ids in sorted(items.items())},
        frozenset(words),
        tuple(sorted(lengths)),
    )


def is_too_short(content: str) -> bool:
    """Whether a text is found by its hash and vector alone."""
    found = words_of(content)
    return len(found) < RUN_WORDS and len("".join(found)) < SHORT_CHARACTERS_MIN


def _runs(words: list[str], length: int) -> Iterator[str]:
    for start in range(len(words) - length + 1):
        yield " ".join(words[start : start + length])


def _fingerprint(key: bytes, purpose: str, value: str) -> Needle:
    encoded = value.encode("utf-8", "surrogatepass")
    person = purpose.encode()
    return hashlib.blake2b(encoded, digest_size=8, key=key[:64], person=person).hexdigest()


class Finder:
    """Finds needles in values; remembers which words it has met, so most values cost no hashing."""

    def __init__(self, needles: Needles, key: bytes) -> None:
        self._needles = needles
        self._key = key
        self._is_known: dict[str, bool] = {}

    def in_text(self, value: str) -> set[Needle]:
        """The needles that occur in a text."""
        found = set(self._in_words(words_of(value)))
        if len(value) >= 43:
            for digest in _digests(value):
                found |= self._named("digest", digest)
        return found

    def in_bytes(self, value: bytes) -> set[Needle]:
        """The needles in a binary value: as a digest, or as the text it may be."""
        found = self._named("digest", value.hex()) if len(value) == 32 else set()
        return found | self.in_text(value.decode("utf-8", "replace"))

    def in_vector(self, digest: str) -> set[Needle]:
        """The needles that are the vector with this digest."""
        return self._named("vector", digest)

    def _named(self, purpose: str, value: str) -> set[Needle]:
        name = _fingerprint(self._key, purpose, value)
        return {name} if name in self._needles.items else set()

    def _in_words(self, words: list[str]) -> Iterator[Needle]:
        met = list(map(self._is_known.get, words))
        known = [self._knows(word) if seen is None else seen for word, seen in zip(words, met, strict=True)]
        known_count = known.count(True)
        for length in self._needles.run_lengths:
            if known_count < length:
                continue
            streak = 0
            for end, is_known in enumerate(known, start=1):
                streak = streak + 1 if is_known else 0
                if streak >= length:
                    yield from self._named("run", " ".join(words[end - length : end]))

    def _knows(self, word: str) -> bool:
        if len(self._is_known) >= _KNOWN_WORDS_MAX:
            self._is_known.clear()
        is_known = self._is_known[word] = _fingerprint(self._key, "word", word) in self._needles.words
        return is_known


def _digests(value: str) -> Iterator[str]:
    """Everything in a value that may be a SHA-256, in hex."""
    yield from {digest.lower() for digest in _HEX_DIGEST.findall(value)}
    for encoded in set(_BASE64_DIGEST.findall(value)):
        plain = encoded.rstrip("=").replace("-", "+").replace("_", "/")
        yield base64.b64decode(f"{plain}=").hex()
