"""Likeness: what shows without an alignment that a pair is no near-duplicate; most pairs of a search are none."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from hivemind_pipelines.core.calibration import ALIGNED_SHARE_MAX
from hivemind_pipelines.core.matching import NEAR_MIN, Prepared

#: With most of it changed and no code in common a pair does not reach this probability, whatever its cosine.
FAR_PROBABILITY_MAX = 0.2

#: Two texts with the same code, but for what it calls its values, share at least so much of it.
SHARED_CODE_MIN = 0.3


@dataclass(frozen=True, slots=True)
class Sketch:
    """A prepared text with its tokens counted, for a look at many others."""

    text: Prepared
    tokens: Mapping[str, int]
    code: Mapping[str, int]

    @property
    def least_size(self) -> int:
        """Its tokens without the first sentence, which a comparison may take for a headline."""
        return self.text.size - (len(self.text.sentences[0]) if len(self.text.sentences) > 1 else 0)


def sketch(text: Prepared) -> Sketch:
    """Count the tokens of a text once."""
    return Sketch(
        text,
        Counter(token.key for run in text.sentences for token in run),
        Counter(form.lower() for form in text.code),
    )


def may_be_near(a: Sketch, b: Sketch) -> bool:
    """Whether a comparison may find a pair more likely to be one statement than `FAR_PROBABILITY_MAX`.

    Each token without an equal on the other side is a change. Beyond a share of changes a comparison goes by
    the cosine alone, which is never enough, and by common code.
    """
    if a.text.normalised == b.text.normalised or _shares_code(a, b):
        return True
    shorter, longer = sorted((a, b), key=lambda one: one.text.size)
    size = max(shorter.text.size, longer.least_size)
    is_mostly_equal = _shared(a.tokens, b.tokens) >= (1.0 - ALIGNED_SHARE_MAX) * size
    return is_mostly_equal and shares_words(a.text, b.text)


def shares_words(a: Prepared, b: Prepared) -> bool:
    """Whether two texts share enough words or shingles for a comparison to say what differs."""
    return _jaccard(a.words, b.words) >= NEAR_MIN or _jaccard(a.shingles, b.shingles) >= NEAR_MIN


def _jaccard(a: frozenset[str] | frozenset[bytes], b: frozenset[str] | frozenset[bytes]) -> float:
    shared = len(a & b)
    return shared / max(1, len(a) + len(b) - shared)


def _shares_code(a: Sketch, b: Sketch) -> bool:
    if not a.code or not b.code:
        return False
    larger = max(len(a.text.code), len(b.text.code))
    return _shared(a.code, b.code) >= SHARED_CODE_MIN * larger


def _shared(a: Mapping[str, int], b: Mapping[str, int]) -> int:
    if len(a) > len(b):
        a, b = b, a
    return sum(min(count, b[key]) for key, count in a.items() if key in b)
