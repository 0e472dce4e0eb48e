"""The sums that tell damage: of any dtype and shape, against NumPy, and of what changes them."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.training._sums import array_sums, record_sum

DRAW = np.random.default_rng(0)
ARRAYS = {
    "float32": DRAW.normal(size=(3, 4, 5)).astype(np.float32),
    "float64": DRAW.normal(size=(7,)),
    "float16": DRAW.normal(size=(5, 3)).astype(np.float16),
    "bfloat16": jnp.asarray(DRAW.normal(size=(2, 3)), jnp.bfloat16),
    "int8": DRAW.integers(-100, 100, (6,), np.int8),
    "uint32": DRAW.integers(0, 2**32, (2, 2), np.uint32),
    "int64": DRAW.integers(-(2**62), 2**62, (3,)),
    "bool": DRAW.random((4, 2)) < 0.5,
    "complex64": (DRAW.normal(size=3) + 1j * DRAW.normal(size=3)).astype(np.complex64),
    "scalar": np.float32(1.5),
    "empty": np.zeros((0, 3), np.float32),
}
WORDS = {1: np.uint8, 2: np.uint16}


@pytest.mark.parametrize("name", ARRAYS)
def test_against_numpy(name):
    array = np.asarray(ARRAYS[name])
    words = np.frombuffer(array.tobytes(), WORDS.get(array.dtype.itemsize, np.uint32)).astype(object)
    places = np.arange(1, len(words) + 1).astype(object)
    expected = [sum(words) % 2**32, sum(words * places) % 2**32]
    assert np.asarray(array_sums(jnp.asarray(array))).tolist() == expected


def test_every_bit_and_the_order_count():
    array = ARRAYS["float32"]
    whole = np.asarray(array_sums(array)).tolist()
    bits = array.view(np.uint32)
    for place in range(0, bits.size, 7):
        for bit in range(0, 32, 5):
            flipped = bits.copy()
            flipped.flat[place] ^= np.uint32(1 << bit)
            assert np.asarray(array_sums(flipped.view(np.float32))).tolist() != whole
    assert np.asarray(array_sums(array[::-1])).tolist()[0] == whole[0]
    assert np.asarray(array_sums(array[::-1])).tolist() != whole


def test_of_a_record():
    assert record_sum({"a": 1, "b": [0.1, None]}) == record_sum({"b": [0.1, None], "a": 1})
    assert record_sum({"a": 1}) != record_sum({"a": 2})
