"""Saturation, half-life and retention against NumPy loops over each unit of each sequence."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.inspect import half_life, retention, saturation

RNG = np.random.default_rng(0)
STEPS, BATCH, SIZE = 9, (2, 2), 3
GATE = RNG.beta(0.3, 0.3, (STEPS, *BATCH, SIZE))  # much of it near 0 and 1
OPTIONS = {
    "lengths": np.array([[9, 7], [1, 0]]),
    "mask": RNG.random((STEPS, *BATCH)) < 0.8,
    "reset": RNG.random((STEPS, *BATCH)) < 0.2,
}


def counts(lengths=None, mask=None):
    """(t, *sequence) of each step that counts."""
    for t, *n in np.ndindex(STEPS, *BATCH):
        if (lengths is None or t < lengths[tuple(n)]) and (mask is None or mask[(t, *n)]):
            yield t, *n


def options(names):
    return {name: OPTIONS[name] for name in names.split()}


@pytest.mark.parametrize("names", ["", "lengths", "mask", "lengths mask"])
def test_saturation_and_half_life_equal_loops(names):
    values = np.array([GATE[place] for place in counts(**options(names))])
    left, right = saturation(GATE, **options(names))
    np.testing.assert_allclose(left, (values < 0.1).mean(0), rtol=1e-14)
    np.testing.assert_allclose(right, (values > 0.9).mean(0), rtol=1e-14)
    rate = values.prod(axis=0) ** (1 / len(values))
    np.testing.assert_allclose(half_life(GATE, **options(names)), np.log(0.5) / np.log(rate), rtol=1e-12)


@pytest.mark.parametrize("names", ["", "lengths", "mask", "reset", "lengths mask reset"])
def test_retention_equals_loops(names):
    given = options(names)
    valid, reset = set(counts(**{k: v for k, v in given.items() if k != "reset"})), given.get("reset")
    lags = 5
    products = [[] for _ in range(lags + 1)]
    for t, *n in valid:
        for lag in range(lags + 1):
            if (t + lag, *n) in valid:
                product = np.ones(SIZE)
                for k in range(t + 1, t + lag + 1):
                    product = product * (GATE[(k, *n)] if (k, *n) in valid else 1)
                    product = product * (0 if reset is not None and reset[(k, *n)] else 1)
                products[lag].append(product)
    want = np.array([np.mean(each, axis=0) for each in products])
    np.testing.assert_allclose(retention(GATE, lags, **given), want, rtol=1e-12)


def test_without_batch_axes_and_one_step():
    np.testing.assert_array_equal(saturation(GATE[:1, 0, 0]).left, GATE[0, 0, 0] < 0.1)
    np.testing.assert_allclose(retention(GATE[:2, 0, 0], 1)[1], GATE[1, 0, 0])


def test_saturation_is_strict_at_its_bounds():
    left, right = saturation(np.array([[0.1], [0.9], [0.0], [1.0]]))
    assert (left, right) == (0.25, 0.25)


def test_half_life_of_gates_that_never_or_at_once_forget():
    np.testing.assert_array_equal(half_life(np.array([[1.0, 0.0], [1.0, 0.5]])), [np.inf, 0])


def test_no_steps_that_count_have_no_mean():
    none = np.zeros(BATCH, int)
    assert np.isnan(saturation(GATE, lengths=none).left).all()
    assert np.isnan(half_life(GATE, lengths=none)).all()
    assert np.isnan(retention(GATE, 1, lengths=none)).all()


def test_padding_of_nan_does_not_matter():
    lengths = OPTIONS["lengths"]
    padded = np.full_like(GATE, np.nan)
    for place in counts(lengths):
        padded[place] = GATE[place]
    for measure in (saturation, half_life, lambda f, lengths: retention(f, 3, lengths=lengths)):
        np.testing.assert_array_equal(measure(padded, lengths=lengths), measure(GATE, lengths=lengths))


def test_gates_of_16_bit_are_measured_in_32():
    gate = jnp.asarray(GATE, jnp.bfloat16)
    assert {saturation(gate).left.dtype, half_life(gate).dtype, retention(gate, 2).dtype} == {jnp.dtype("float32")}


@pytest.mark.usefixtures("without_type_hook")
@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: saturation(GATE[0, 0, 0]), "gate: expected an array [T, *batch, H], got float64[3]"),
        (lambda: saturation(GATE > 0.5), "gate: expected a floating-point array, got bool"),
        (lambda: half_life(GATE, lengths=np.array([1])), "lengths: expected shape (2, 2), got (1,)"),
        (lambda: half_life(GATE, mask=np.ones(3, bool)), "mask: expected shape (9, 2, 2), got (3,)"),
        (lambda: retention(GATE, 9), "lags: expected fewer than the 9 steps of f, got 9"),
        (lambda: retention(GATE, 0), "lags: expected a positive int, got 0"),
        (lambda: retention(GATE, 2, reset=np.ones(3, bool)), "reset: expected shape (9, 2, 2), got (3,)"),
    ],
)
def test_mistakes(mistake, message):
    with pytest.raises((ValueError, TypeError)) as error:
        mistake()
    assert str(error.value).startswith(message)
