"""Features: what matching keeps of an item, so that no later stage reads its text to find candidates."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from hivemind_pipelines.core import tokens
from hivemind_pipelines.core.model import Item, ItemFeatures, Scope, Signatures
from hivemind_pipelines.core.policy import MatchingPolicy
from hivemind_pipelines.core.text import folded, normalise, shingles

#: The permutations of every signature; another seed makes all stored signatures worthless.
SIGNATURE_SEED = 20_240_229


def extract(item: Item, policy: MatchingPolicy) -> ItemFeatures:
    """The features of one item."""
    return extract_all([item], policy)[0]


def extract_all(items: Sequence[Item], policy: MatchingPolicy) -> tuple[ItemFeatures, ...]:
    """The features of many items, in their order."""
    rows = signatures([item.content for item in items], policy)
    return tuple(
        ItemFeatures(
            item_id=item.id,
            content_hash=item.content_hash,
            class_key=class_key(item.content, item.scope),
            signature=row,
            discriminators=tokens.discriminators(item.content),
        )
        for item, row in zip(items, rows, strict=True)
    )


def class_key(content: str, scope: Scope) -> bytes:
    """32 bytes, equal for equal normalised text and scope."""
    parts = (
        normalise(content),
        *(normalise_scope(value) for value in (scope.framework, scope.language, scope.version)),
    )
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in encoded)).digest()


def normalise_scope(value: str | None) -> str:
    """A scope column without case and outer space; not set and blank are the same."""
    return " ".join((value or "").lower().split())


def signatures(contents: Sequence[str], policy: MatchingPolicy) -> Signatures:
    """The MinHash signatures of texts, uint32 of shape (n, num_perm)."""
    if not contents:
        return np.empty((0, policy.num_perm), dtype=np.uint32)
    from datasketch import MinHash, sha1_hash32  # half a second of scipy that only this function needs

    sets = (shingles(folded(content) or normalise(content), policy.shingle_size) for content in contents)
    hashed = _Kept(sha1_hash32).__getitem__
    generated = MinHash.generator(sets, num_perm=policy.num_perm, seed=SIGNATURE_SEED, hashfunc=hashed)
    return np.array([minhash.hashvalues for minhash in generated]).astype(np.uint32)


class _Kept(dict[bytes, int]):
    """The hash of each shingle, taken once; texts of one language share most of theirs."""

    def __init__(self, hashed: Callable[[bytes], int]) -> None:
        super().__init__()
        self._hashed = hashed

    def __missing__(self, shingle: bytes) -> int:
        self[shingle] = value = self._hashed(shingle)
        return value
