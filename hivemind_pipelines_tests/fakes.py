"""Small honest stand-ins for outside services."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from hivemind_pipelines.core.model import EMBEDDING_DIMENSION, Vectors

_WORD = re.compile(r"\w+|[^\w\s]", re.UNICODE)


class HashEmbedder:
    """An Embedder without a model: hashed words and character 3-grams, so similar texts lie close."""

    model_stamp = "hash-1"

    def embed(self, texts: Sequence[str], on_progress: Callable[[int, int], None] | None = None) -> Vectors:
        """Unit float32 rows of shape (n, 384); a text without words gives a zero row."""
        vectors = np.zeros((len(texts), EMBEDDING_DIMENSION), dtype=np.float32)
        for row, text in enumerate(texts):
            for feature, weight in _features(text):
                slot, sign = _place(feature)
                vectors[row, slot] += sign * weight
            norm = float(np.linalg.norm(vectors[row]))
            if norm > 0.0:
                vectors[row] /= norm
            if on_progress is not None:
                on_progress(row + 1, len(texts))
        return vectors


def _features(text: str) -> Iterator[tuple[str, float]]:
    words = _WORD.findall(text.casefold())
    for word in words:
        yield f"word:{word}", 1.0
    padded = f" {' '.join(words)} " if words else ""
    for start in range(len(padded) - 2):
        yield f"gram:{padded[start : start + 3]}", 0.3


def _place(feature: str) -> tuple[int, float]:
    digest = hashlib.blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    number = int.from_bytes(digest, "big")
    return (number >> 1) % EMBEDDING_DIMENSION, 1.0 if number & 1 else -1.0
