"""Good weights made bad, for the fuzz of every loader: a tensor gone, misnamed, added, or of other shape or dtype."""

import re

import numpy as np
import pytest
from hypothesis import strategies as st


@st.composite
def mutations(draw, weights, free_axes=(), optional=(), read=("",)):
    """The weights by name with one thing wrong, and what that is.

    `free_axes` are the pairs (name, axis) whose size is the input size, which nothing else tells; `optional` the
    tensors that need not be there; `read` how the names begin that are read at all.
    """
    name = draw(st.sampled_from(sorted(weights)))
    array = weights[name]
    axes = [axis for axis in range(array.ndim) if (name, axis) not in free_axes]
    kinds = ["misnamed", "extra", "shape", "rank", "dtype", "other"] + ["missing"] * (name not in optional)
    kind = draw(st.sampled_from(kinds))
    what = f"{name}: {kind}"
    if kind == "missing":
        return what, {key: value for key, value in weights.items() if key != name}
    if kind == "misnamed":
        other = draw(changed(name, weights).filter(lambda other: other.startswith(read) or name not in optional))
        return f"{what} {other}", {other if key == name else key: value for key, value in weights.items()}
    if kind == "extra":
        other = draw(changed(name, weights).filter(lambda other: other.startswith(read)))
        return f"{what} {other}", {**weights, other: array}
    if kind == "shape":
        axis = draw(st.sampled_from(axes))
        size = draw(st.integers(0, 2 * array.shape[axis] + 1).filter(lambda size: size != array.shape[axis]))
        value = np.resize(array, (*array.shape[:axis], size, *array.shape[axis + 1 :]))
    elif kind == "rank":
        value = draw(st.sampled_from([array[None], array[..., None], array.sum(0)]))
    elif kind == "dtype":
        names = ["float16", "float32", "float64", "int32", "bool", "complex64", "<U3", "O"]
        value = array.astype(draw(st.sampled_from([dtype for dtype in names if dtype != array.dtype.name])))
    else:
        value = draw(st.sampled_from([None, 1.0, "weights", [1.0, 2.0], {"x": array}]))
    return what, {**weights, name: value}


@st.composite
def changed(draw, name, names):
    """The name with one character gone, other or more."""
    place = draw(st.integers(0, len(name) - 1))
    end = draw(st.integers(place, place + 1))
    other = name[:place] + draw(st.sampled_from(["", "x", "0", "_", "é"])) + name[end:]
    return other if other and other not in names else name + "x"


def assert_named_error(read, mutated):
    """Our own message, with a name in front."""
    what, weights = mutated
    with pytest.raises((ValueError, TypeError)) as caught:
        pytest.fail(f"{what}: read as {read(weights)[0]}")
    assert re.match(r"(?s).+: expected .+, got .+", str(caught.value)), what
