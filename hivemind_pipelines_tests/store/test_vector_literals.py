"""A vector goes into the database as it is."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hivemind_pipelines.core.model import EMBEDDING_DIMENSION
from hivemind_pipelines.store.items import vector_literal


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
def test_a_literal_tells_every_number(numbers: list[float]) -> None:
    vector = np.ones(EMBEDDING_DIMENSION, dtype=np.float32)
    vector[: len(numbers)] = numbers
    literal = vector_literal(vector)
    assert literal is not None
    assert np.array_equal(np.array(literal.strip("[]").split(","), dtype=np.float32), vector)


def test_nothing_is_said_of_a_vector_of_zeros() -> None:
    assert vector_literal(np.zeros(EMBEDDING_DIMENSION, dtype=np.float32)) is None
