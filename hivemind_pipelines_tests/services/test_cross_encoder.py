"""The cross-encoder: what it reads in two texts, that order and company do not matter, and what it refuses."""

import hashlib
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from hivemind_pipelines.core.reading import ADAPTER_SHA256
from hivemind_pipelines.services import cross_encoder, embedding
from hivemind_pipelines.services.cross_encoder import CLASSES, MiniLmCrossEncoder
from hivemind_pipelines.services.embedding import EmbeddingModelError

CONFLICTS = [
    (
        "The nightly backup goes to the Frankfurt bucket.",
        "Each night the backup is written to a bucket in Dublin.",
    ),
    (
        "Anyone in engineering can declare an incident.",
        "Declaring an incident is up to the duty manager alone.",
    ),
]
SAME = [
    ("Only the data officer can approve an export.", "Exports need the approval of the data officer."),
    ("Merges to main are blocked during an incident.", "During an incident nothing can be merged to main."),
]  # fmt: skip


@pytest.fixture(scope="module")
def encoder() -> MiniLmCrossEncoder:
    return MiniLmCrossEncoder()


def test_contradictions_of_strangers_rank_above_the_rest(encoder: MiniLmCrossEncoder) -> None:
    packaged = (
        files("hivemind_pipelines.evaluation").joinpath("foreign_pairs.jsonl").read_text(encoding="utf-8")
    )
    held_out = [row for row in map(json.loads, packaged.splitlines()) if row["split"] == "held_out"][::4]
    chances = [
        read.contradiction for read in encoder.read([(row["text_a"], row["text_b"]) for row in held_out])
    ]
    found, rest = (
        [
            chance
            for chance, row in zip(chances, held_out, strict=True)
            if (row["label"] == "contradiction") is is_one
        ]
        for is_one in (True, False)
    )
    above = sum(one > other for one in found for other in rest)
    assert above / (len(found) * len(rest)) >= 0.85


def test_chances_are_of_one_whole(encoder: MiniLmCrossEncoder) -> None:
    for read in encoder.read(CONFLICTS):
        whole = read.contradiction + read.duplicate + read.related + read.version_fork
        assert whole == pytest.approx(1.0)


def test_neither_order_nor_company_matters(encoder: MiniLmCrossEncoder) -> None:
    pairs = [*CONFLICTS, *SAME, ("a", "word " * 400)]
    together = encoder.read(pairs)
    alone = [encoder.read([(b, a)])[0] for a, b in pairs]
    for one, other in zip(together, alone, strict=True):
        assert one.contradiction == pytest.approx(other.contradiction, abs=1e-4)


def test_nothing_and_odd_texts_are_read(encoder: MiniLmCrossEncoder) -> None:
    assert encoder.read([]) == ()
    odd = [("", ""), ("\x00", "\ud800"), ("x" * 50_000, "y")]
    assert all(0.0 <= read.contradiction <= 1.0 for read in encoder.read(odd))


def test_an_adapter_that_adds_nothing_leaves_the_encoder_as_it_is() -> None:
    width = embedding.MiniLmEmbedder().embed(["x"]).shape[1]
    shapes = [(width, width)] * 4 + [(width, 4 * width), (4 * width, width)]
    nothing = {}
    for place in range(36):
        rows, columns = shapes[place % 6]
        nothing[f"matrix_{place}.down"] = np.zeros((rows, 1), dtype=np.float32)
        nothing[f"matrix_{place}.up"] = np.zeros((1, columns), dtype=np.float32)
    session = embedding.session(cross_encoder.adapted(nothing).SerializeToString())
    encoding = cross_encoder.encoded([("The cache is warm.", "")])[0]
    # A single text: the markers of the second are left out.
    ids = np.array([[one for one, side in zip(encoding.ids, encoding.type_ids, strict=True) if side == 0]])
    hidden = session.run(
        None, {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    )[0]
    pooled = hidden.mean(axis=1)[0]
    expected = embedding.MiniLmEmbedder().embed(["The cache is warm."])[0]
    assert np.allclose(pooled / np.linalg.norm(pooled), expected, atol=1e-5)


def test_an_adapter_file_is_the_same_for_the_same_numbers() -> None:
    adapter = {"head": np.ones((3, len(CLASSES))), "head_bias": np.zeros(len(CLASSES))}
    turned = dict(reversed(adapter.items()))
    assert cross_encoder.adapter_bytes(adapter) == cross_encoder.adapter_bytes(turned)


def test_the_shipped_adapter_is_the_one_its_weights_name() -> None:
    content = cross_encoder.shipped_adapter().read_bytes()
    assert hashlib.sha256(content).hexdigest() == ADAPTER_SHA256


def test_another_adapter_is_refused_in_one_line(tmp_path: Path) -> None:
    other = tmp_path / "cross_encoder.npz"
    for content in (b"", b"junk"):
        other.write_bytes(content)
        with pytest.raises(EmbeddingModelError, match=r"cross_encoder\.npz is not the pinned one"):
            embedding.verified(other, ADAPTER_SHA256)
    with pytest.raises(EmbeddingModelError, match=r"cannot read absent\.npz"):
        embedding.verified(tmp_path / "absent.npz", ADAPTER_SHA256)
