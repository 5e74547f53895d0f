"""Fitting the cross-encoder: low-rank additions to the installed encoder, learned from labelled pairs with JAX."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from hivemind_pipelines.services import cross_encoder, embedding
from hivemind_pipelines.services.cross_encoder import CLASSES, Floats

if TYPE_CHECKING:
    from tokenizers import Encoding

#: The shape of MiniLM-L6: layers, width, heads.
LAYERS, WIDTH, HEADS = 6, 384, 12

#: The rank of what is added to each matrix; with biases, norms and head some 700,000 numbers are learned.
RANK = 16
EPOCHS = 4
BATCH = 32
RATE_MAX = 1.5e-3
WARM_UP = 0.1
DECAY = 0.01
DROPOUT = 0.1
#: What is shipped is a mean over the steps, each counting for so much of the one after it.
MEMORY = 0.98
#: Labels are taken for so much less than certain.
SMOOTHING = 0.1
#: Batches are padded to a multiple of this: each length is compiled once.
LENGTH_STEP = 32
#: Batches out of which pairs of like length are put together.
POOL = 16

_ADDED: Final = tuple(f"matrix_{place}" for place in range(LAYERS * 6))

#: Arrays of JAX by name.
Arrays = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shown:
    """A pair to learn from; `label` is one of CLASSES."""

    text_a: str
    text_b: str
    label: str


def fit(pairs: Sequence[Shown], *, seed: int = 0, progress: Callable[[int, int], None]) -> dict[str, Floats]:
    """The adapter learned from the pairs, by the names that `cross_encoder.adapted` takes.

    The same pairs and seed give the same adapter on one machine. `progress(done, total)` is called after each
    batch.
    """
    # Heavy, and only in the extra `fit`.
    import jax
    import optax

    base, learned = _base(), _fresh(np.random.default_rng(seed))
    mean = learned
    steps = EPOCHS * -(-len(pairs) // BATCH)
    rate = optax.warmup_cosine_decay_schedule(0.0, RATE_MAX, int(WARM_UP * steps), steps, RATE_MAX / 50)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=DECAY))
    state = optimiser.init(learned)

    def step(
        learned: Arrays, mean: Arrays, base: Arrays, state: Any, batch: _Batch, key: Any, share: float
    ) -> tuple[Arrays, Arrays, Any]:
        slope = jax.grad(_loss)(learned, base, batch, key)
        change, after = optimiser.update(slope, state, learned)
        new = optax.apply_updates(learned, change)
        return new, optax.incremental_update(new, mean, share), after

    compiled = jax.jit(step)
    key = jax.random.PRNGKey(seed)
    for done, batch in enumerate(_batches(pairs, np.random.default_rng(seed)), start=1):
        key, own = jax.random.split(key)
        learned, mean, state = compiled(learned, mean, base, state, batch, own, max(1.0 - MEMORY, 1.0 / done))
        progress(done, steps)
    return {name: np.asarray(value, dtype=np.float32) for name, value in mean.items()}


_Batch = tuple[
    NDArray[np.int32], NDArray[np.int32], NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]
]


def _batches(pairs: Sequence[Shown], rng: np.random.Generator) -> Iterator[_Batch]:
    """All pairs once per epoch, either text first, those of like length together."""
    turned = (
        cross_encoder.encoded([(pair.text_a, pair.text_b) for pair in pairs]),
        cross_encoder.encoded([(pair.text_b, pair.text_a) for pair in pairs]),
    )
    labels = np.array([CLASSES.index(pair.label) for pair in pairs], dtype=np.int32)
    for _ in range(EPOCHS):
        chosen = [turned[side][row] for row, side in enumerate(rng.integers(0, 2, len(pairs)))]
        order = [int(row) for row in rng.permutation(len(pairs))]
        groups = []
        for start in range(0, len(order), BATCH * POOL):
            pool = sorted(order[start : start + BATCH * POOL], key=lambda row: len(chosen[row].ids))
            groups += [pool[first : first + BATCH] for first in range(0, len(pool), BATCH)]
        rng.shuffle(groups)
        yield from (_padded([chosen[row] for row in rows], labels[rows]) for rows in groups)


def _padded(encodings: "Sequence[Encoding]", labels: NDArray[np.int32]) -> _Batch:
    """A batch of full size; rows that only fill it weigh nothing."""
    length = -(-max(len(one.ids) for one in encodings) // LENGTH_STEP) * LENGTH_STEP
    ids, sides = (np.zeros((BATCH, length), dtype=np.int32) for _ in range(2))
    mask = np.zeros((BATCH, length), dtype=np.float32)
    mask[:, 0] = 1.0
    for row, encoding in enumerate(encodings):
        own = slice(0, len(encoding.ids))
        ids[row, own], sides[row, own], mask[row, own] = encoding.ids, encoding.type_ids, 1.0
    known = np.zeros(BATCH, dtype=np.int32)
    known[: len(labels)] = labels
    weights = (np.arange(BATCH) < len(labels)).astype(np.float32)
    return ids, sides, mask, known, weights


def _base() -> Arrays:
    """The weights that stay as they are, and those that training begins with, in float32."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(embedding.model_bytes())
    known = {one.name: one for one in model.graph.initializer}
    base: Arrays = {
        name.removesuffix("_q"): cross_encoder.dequantised(known, name.removesuffix("_q"))
        for name in known
        if name.startswith("inner.") and name.endswith("_q")
    }
    base |= {
        f"matrix_{place}": cross_encoder.dequantised(known, name)
        for place, name in enumerate(cross_encoder.quantised_matrices(model))
    }
    vectors = {name: numpy_helper.to_array(one) for name, one in known.items() if name.startswith("inner.")}
    return base | {
        name: value.astype(np.float32) for name, value in vectors.items() if value.dtype == np.float32
    }


def _fresh(rng: np.random.Generator) -> Arrays:
    """What is learned, before it is: products that add nothing, the encoder's own vectors, and a small head."""
    base = _base()
    learned: Arrays = {
        name: value for name, value in base.items() if name.startswith("inner.encoder.") and value.ndim == 1
    }
    learned["inner.embeddings.token_type_embeddings.weight"] = base[
        "inner.embeddings.token_type_embeddings.weight"
    ]
    for name in _ADDED:
        rows, columns = base[name].shape
        learned[f"{name}.down"] = rng.normal(scale=rows**-0.5, size=(rows, RANK)).astype(np.float32)
        learned[f"{name}.up"] = np.zeros((RANK, columns), dtype=np.float32)
    learned["head"] = rng.normal(scale=0.02, size=(WIDTH, len(CLASSES))).astype(np.float32)
    learned["head_bias"] = np.zeros(len(CLASSES), dtype=np.float32)
    return learned


def _loss(learned: Arrays, base: Arrays, batch: _Batch, key: Any) -> Any:
    import jax

    ids, sides, mask, labels, weights = batch
    chances = jax.nn.log_softmax(_logits(learned, base, ids, sides, mask, key))
    target = jax.nn.one_hot(labels, len(CLASSES)) * (1.0 - SMOOTHING) + SMOOTHING / len(CLASSES)
    return -((target * chances).sum(axis=1) * weights).sum() / weights.sum()


def _logits(learned: Arrays, base: Arrays, ids: Any, sides: Any, mask: Any, key: Any) -> Any:
    """BERT with the products added to its matrices, the mean of the tokens, and the head."""
    import jax
    from jax import numpy as jnp

    known = base | learned
    keys = iter(jax.random.split(key, 2 * LAYERS))
    places = iter(_ADDED)

    def apply(x: Any, bias: str) -> Any:
        name = next(places)
        return x @ known[name] + (x @ known[f"{name}.down"]) @ known[f"{name}.up"] + known[f"{bias}.bias"]

    def normed(x: Any, name: str) -> Any:
        centred = x - x.mean(axis=-1, keepdims=True)
        scale = jnp.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
        return centred / scale * known[f"{name}.weight"] + known[f"{name}.bias"]

    def dropped(x: Any) -> Any:
        return jnp.where(jax.random.bernoulli(next(keys), 1.0 - DROPOUT, x.shape), x / (1.0 - DROPOUT), 0.0)

    rows, length = ids.shape
    embedded = (
        known["inner.embeddings.word_embeddings.weight"][ids]
        + known["inner.embeddings.position_embeddings.weight"][:length]
        + known["inner.embeddings.token_type_embeddings.weight"][sides]
    )
    x = normed(embedded, "inner.embeddings.LayerNorm")
    hidden = (1.0 - mask[:, None, None, :]) * -1e9
    for layer in range(LAYERS):
        name = f"inner.encoder.layer.{layer}"
        q, k, v = (
            apply(x, f"{name}.attention.self.{part}").reshape(rows, length, HEADS, -1)
            for part in ("query", "key", "value")
        )
        attention = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / (WIDTH // HEADS) ** 0.5 + hidden)
        seen = jnp.einsum("bhqk,bkhd->bqhd", attention, v).reshape(rows, length, WIDTH)
        x = normed(
            x + dropped(apply(seen, f"{name}.attention.output.dense")), f"{name}.attention.output.LayerNorm"
        )
        inner = jax.nn.gelu(apply(x, f"{name}.intermediate.dense"), approximate=False)
        x = normed(x + dropped(apply(inner, f"{name}.output.dense")), f"{name}.output.LayerNorm")
    pooled = (x * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    return pooled @ known["head"] + known["head_bias"]
