"""Masked losses against NumPy; masks that hide everything, or NaN; mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.training import cross_entropy, masked_mean, squared_error

RNG = np.random.default_rng(0)
LOGITS, LABELS = RNG.normal(size=(5, 3, 4)), RNG.integers(0, 4, size=(5, 3))
PREDICTIONS, TARGETS = RNG.normal(size=(5, 3, 2)), RNG.normal(size=(5, 3, 2))
MASK = RNG.random((5, 3)) < 0.6


def numpy_cross_entropy(logits, labels):
    return np.array([np.log(np.exp(z).sum()) - z[label] for z, label in zip(logits, labels, strict=True)])


@pytest.mark.parametrize("mask", [None, MASK])
def test_cross_entropy_is_the_mean_negative_log_likelihood(mask):
    kept = np.ones_like(MASK) if mask is None else mask
    expected = numpy_cross_entropy(LOGITS[kept], LABELS[kept]).mean()
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS, mask), expected, rtol=1e-12)


@pytest.mark.parametrize("mask", [None, MASK])
def test_squared_error_is_the_mean_of_the_squares(mask):
    kept = np.ones_like(MASK) if mask is None else mask
    expected = ((PREDICTIONS[kept] - TARGETS[kept]) ** 2).mean()
    np.testing.assert_allclose(squared_error(PREDICTIONS, TARGETS, mask), expected, rtol=1e-12)


@pytest.mark.parametrize("mask", [None, MASK, RNG.random((5, 3, 2)) < 0.5, np.array(True)])
def test_masked_mean_takes_masks_of_the_leading_axes(mask):
    kept = PREDICTIONS if mask is None else PREDICTIONS[mask]
    np.testing.assert_allclose(masked_mean(PREDICTIONS, mask), kept.mean(), rtol=1e-12)


LOSSES = {
    "cross_entropy": (lambda x, mask: cross_entropy(x, LABELS, mask), LOGITS),
    "squared_error": (lambda x, mask: squared_error(x, TARGETS, mask), PREDICTIONS),
    "squared_error of targets": (lambda x, mask: squared_error(PREDICTIONS, x, mask), TARGETS),
    "masked_mean": (masked_mean, PREDICTIONS),
}


@pytest.mark.parametrize(("loss", "values"), LOSSES.values(), ids=LOSSES)
class TestMasks:
    def test_all_masked_is_zero_with_a_zero_gradient(self, loss, values):
        value, gradient = jax.value_and_grad(loss)(jnp.array(values), np.zeros_like(MASK))
        assert value == 0
        assert (gradient == 0).all()

    @pytest.mark.parametrize("hidden", [np.nan, np.inf, -np.inf])
    def test_what_is_masked_reaches_neither_value_nor_gradient(self, loss, values, hidden):
        dirty = np.where(MASK[..., None], values, hidden)
        expected = jax.value_and_grad(loss)(jnp.array(values), MASK)
        value, gradient = jax.value_and_grad(loss)(jnp.array(dirty), MASK)
        assert value == expected[0]
        np.testing.assert_array_equal(gradient, expected[1])
        assert (gradient[~MASK] == 0).all()

    def test_16_bit_values_are_summed_in_float32(self, loss, values):
        wide = jnp.array(values, jnp.bfloat16).astype(jnp.float32)
        assert loss(wide.astype(jnp.bfloat16), MASK).dtype in (jnp.float32, jnp.float64)  # targets are float64
        np.testing.assert_allclose(loss(wide.astype(jnp.bfloat16), MASK), loss(wide, MASK), rtol=1e-6)


def test_no_values_at_all_are_zero():
    assert masked_mean(jnp.zeros((0, 3))) == 0
    assert cross_entropy(jnp.zeros((0, 3)), jnp.zeros(0, jnp.int32)) == 0
    assert squared_error(jnp.zeros((0, 3)), jnp.zeros((0, 3)), jnp.zeros(0, bool)) == 0


def test_masked_labels_may_be_anything():
    labels = np.where(MASK, LABELS, -1)
    assert cross_entropy(LOGITS, labels, MASK) == cross_entropy(LOGITS, LABELS, MASK)


MISTAKES = {
    "int mask": (lambda: masked_mean(PREDICTIONS, MASK.astype(int)), TypeError, "mask: expected a bool array"),
    "mask of another shape": (lambda: masked_mean(PREDICTIONS, MASK[:4]), ValueError, r"mask: expected shape \(5, 3\)"),
    "mask with too many axes": (lambda: masked_mean(LABELS + 0.5, MASK[..., None]), ValueError, "mask: expected shape"),
    "int values": (lambda: masked_mean(LABELS), TypeError, "values: expected a floating-point array"),
    "float labels": (lambda: cross_entropy(LOGITS, LABELS + 0.5), TypeError, "labels: expected an integer array"),
    "labels of another shape": (
        lambda: cross_entropy(LOGITS, LABELS[:4]),
        ValueError,
        r"labels: expected shape \(5, 3\)",
    ),
    "one-hot labels": (
        lambda: cross_entropy(LOGITS, LABELS[..., None]),
        ValueError,
        r"labels: expected shape \(5, 3\)",
    ),
    "mask with classes": (lambda: cross_entropy(LOGITS, LABELS, LOGITS > 0), ValueError, "mask: expected shape"),
    "scalar logits": (lambda: cross_entropy(1.0, 0), ValueError, "logits: expected an array"),
    "targets that would broadcast": (
        lambda: squared_error(PREDICTIONS, TARGETS[..., :1]),
        ValueError,
        r"targets: expected shape \(5, 3, 2\), as predictions, got \(5, 3, 1\)",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named(without_type_hook, call, error, message):
    with pytest.raises(error, match=message):
        call()
