"""Pairs of texts to readings: MiniLM fitted to read two texts together, on this machine and without a network.

The installed encoder gives the weights; `cross_encoder.npz` of this package adds to each of its matrices a product
of two thin ones (LoRA, Hu et al. 2021), its own biases and norms, and a head of four classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hivemind_pipelines.core.reading import ADAPTER_SHA256, Reading
from hivemind_pipelines.services import embedding

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import InferenceSession
    from tokenizers import Encoding, Tokenizer

ADAPTER = "cross_encoder.npz"

#: Word pieces of both texts together with their markers; the longer text is cut first.
TOKENS_MAX = 192
BATCH_SIZE = 32

#: The classes of the head, in the order of its columns.
CLASSES = ("contradiction", "duplicate", "related", "version_fork")

TextPair = tuple[str, str]
Floats = NDArray[np.float32]
Adapter = Mapping[str, NDArray[Any]]


class CrossEncoder(Protocol):
    """Reads two texts together."""

    def read(self, pairs: Sequence[TextPair]) -> tuple[Reading, ...]:
        """What each pair is to each other, in order and whichever text comes first."""


class MiniLmCrossEncoder:
    """The real CrossEncoder, loaded and verified at the first pair.

    Raises EmbeddingModelError when a file of the encoder is missing or differs from the pinned one.
    """

    def __init__(self, adapter: Adapter | None = None) -> None:
        """Read with the adapter that is shipped, or with another."""
        self._given = adapter

    def read(self, pairs: Sequence[TextPair]) -> tuple[Reading, ...]:
        """What each pair is to each other, in order and whichever text comes first."""
        if not pairs:
            return ()
        # In an order of their own, so that the answer does not hang on who comes first.
        encodings = encoded([(min(pair), max(pair)) for pair in pairs])
        chances = np.zeros((len(pairs), len(CLASSES)), dtype=np.float64)
        for rows in _batches(encodings):
            chances[rows] = self._head.chances([encodings[row] for row in rows])
        return tuple(Reading(*map(float, row)) for row in chances)

    @cached_property
    def _head(self) -> "_Head":
        return _shipped() if self._given is None else _ready(self._given)


def _batches(encodings: "Sequence[Encoding]") -> Iterator[list[int]]:
    # Pairs of similar length share a batch, so that little is spent on padding.
    order = sorted(range(len(encodings)), key=lambda row: (len(encodings[row].ids), row))
    yield from (order[start : start + BATCH_SIZE] for start in range(0, len(order), BATCH_SIZE))


@dataclass(frozen=True, slots=True)
class _Head:
    """The session of an adapted encoder, and its head: (384, 4) and (4,)."""

    session: "InferenceSession"
    weights: Floats
    bias: Floats

    def chances(self, encodings: "Sequence[Encoding]") -> NDArray[np.float64]:
        """The chances of the classes, of shape (n, 4)."""
        length = max(len(encoding.ids) for encoding in encodings)
        ids, mask, sides = (np.zeros((len(encodings), length), dtype=np.int64) for _ in range(3))
        for row, encoding in enumerate(encodings):
            own = slice(0, len(encoding.ids))
            ids[row, own], mask[row, own], sides[row, own] = encoding.ids, 1, encoding.type_ids
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": sides}
        hidden = np.asarray(self.session.run(None, inputs)[0], dtype=np.float32)
        logits = (embedding.mean_of_tokens(hidden, mask) @ self.weights + self.bias).astype(np.float64)
        likely = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances: NDArray[np.float64] = likely / likely.sum(axis=1, keepdims=True)
        return chances


def encoded(pairs: Sequence[TextPair]) -> "list[Encoding]":
    """Each pair as the word pieces of both its texts."""
    found: list[Encoding] = _tokenizer().encode_batch(
        [(embedding.tokenizable(a), embedding.tokenizable(b)) for a, b in pairs]
    )
    return found


@cache
def _tokenizer() -> "Tokenizer":
    # Heavy: only who reads pays for it.
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_buffer(embedding.tokenizer_bytes())
    loaded.no_padding()
    loaded.enable_truncation(max_length=TOKENS_MAX, strategy="longest_first")
    return loaded


@cache
def _shipped() -> _Head:
    with np.load(BytesIO(_adapter_bytes()), allow_pickle=False) as stored:
        return _ready({name: stored[name] for name in stored.files})


def _ready(adapter: Adapter) -> _Head:
    known = {name: value.astype(np.float32) for name, value in adapter.items()}
    return _Head(embedding.session(adapted(known).SerializeToString()), known["head"], known["head_bias"])


def _adapter_bytes() -> bytes:
    return embedding.verified(shipped_adapter(), ADAPTER_SHA256)


def shipped_adapter() -> Path:
    """The file of what is added to the encoder."""
    return Path(str(files(__package__).joinpath(ADAPTER)))


def adapter_bytes(adapter: Adapter) -> bytes:
    """An adapter as a file: arrays by name, in half precision, the same bytes for the same numbers."""
    file = BytesIO()
    np.savez(
        file,
        allow_pickle=False,
        **{name: value.astype(np.float16) for name, value in sorted(adapter.items())},
    )
    return file.getvalue()


def adapted(adapter: Mapping[str, Floats]) -> "ModelProto":
    """The encoder as an ONNX model in float32, with the adapter added to it.

    Names of `adapter`: `matrix_{n}.down` of shape (in, r) and `matrix_{n}.up` of shape (r, out) for matrix n in
    the order in which they are applied; vectors by the name of what they replace.
    """
    # Heavy: only who reads pays for it.
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(embedding.model_bytes())
    graph = model.graph
    stored = {one.name: one for one in graph.initializer}
    matrices = quantised_matrices(model)
    for place, name in enumerate(matrices):
        whole = dequantised(stored, name) + adapter[f"matrix_{place}.down"] @ adapter[f"matrix_{place}.up"]
        graph.initializer.append(numpy_helper.from_array(whole.astype(np.float32), name))
    for name in adapter.keys() & stored.keys():
        stored[name].CopyFrom(numpy_helper.from_array(adapter[name], name))
    made = {*matrices, *(f"{name}_f" for name in matrices)}
    kept = [node for node in graph.node if node.output[0] not in made]
    del graph.node[:]
    graph.node.extend(kept)
    return model


def quantised_matrices(model: "ModelProto") -> list[str]:
    """The names of the weight matrices, in the order in which they are applied: of each layer q, k, v, o, i, f."""
    names = {one.name for one in model.graph.initializer}
    return [
        node.input[1]
        for node in model.graph.node
        if node.op_type == "MatMul" and f"{node.input[1]}_q" in names
    ]


def dequantised(stored: Mapping[str, Any], name: str) -> Floats:
    """A weight matrix of the encoder as float32."""
    from onnx import numpy_helper

    whole: Floats = numpy_helper.to_array(stored[f"{name}_q"]).astype(np.float32)
    scaled: Floats = whole * numpy_helper.to_array(stored[f"{name}_scale"])
    return scaled
