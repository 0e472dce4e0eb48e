"""Step Jacobians against finite differences of the NumPy reference, their products, Lyapunov exponents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from properties import MinimalGatedCell, counting

import jaxlstm as jl
from jaxlstm.inspect import largest_singular_values, lyapunov_exponents, step_jacobians

STEPS, BATCH, SIZE, INPUTS = 5, (3,), 2, 2
CELLS = {
    "lstm": (jl.LSTMCell(SIZE), references.lstm_step),
    "gru": (jl.GRUCell(SIZE), references.gru_after_step),
    "rnn": (jl.RNNCell(SIZE), references.rnn_step),
}
OPTIONS = {
    "lengths": np.array([5, 3, 0]),
    "mask": np.random.default_rng(1).random((STEPS, *BATCH)) < 0.8,
    "reset": np.random.default_rng(2).random((STEPS, *BATCH)) < 0.3,
}


def problem(cell, seed=0):
    rng = np.random.default_rng(seed)
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), INPUTS))
    carry = jax.eval_shape(lambda p: cell.init_carry(p, BATCH), params)
    xs = jax.ShapeDtypeStruct((STEPS, *BATCH, INPUTS), np.float64)
    return jax.tree.map(lambda a: rng.normal(size=a.shape), (params, xs, carry))


def reference_jacobians(step, params, xs, carry, *, lengths, mask, reset):
    """A step at a time, each by central differences: the identity where it does not count, zero at a reset."""
    size = sum(leaf.shape[-1] for leaf in carry)
    jacobians = np.zeros((*xs.shape[:-1], size, size))
    for n in np.ndindex(BATCH):
        now = references.take(carry, n)
        for t in range(STEPS):
            if reset[(t, *n)]:
                now = references.zeros_like(now)
            jacobians[(t, *n)] = np.eye(size)
            if t < lengths[n] and mask[(t, *n)]:
                jacobians[(t, *n)] = differences(lambda c, t=t, n=n: step(params, c, xs[(t, *n)])[0], now)
                now, _ = step(params, now, xs[(t, *n)])
            if reset[(t, *n)]:
                jacobians[(t, *n)] = 0
    return jacobians


def differences(function, carry, epsilon=1e-5):
    """The Jacobian of a function from carry to carry."""
    flat, columns = np.concatenate(carry), []
    for k in range(len(flat)):
        ahead, behind = (
            np.concatenate(function(type(carry)(*np.split(flat + sign * epsilon * np.eye(len(flat))[k], len(carry)))))
            for sign in (1, -1)
        )
        columns.append((ahead - behind) / (2 * epsilon))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("name", CELLS)
def test_jacobians_equal_finite_differences(name):
    cell, step = CELLS[name]
    params, xs, carry = problem(cell)
    want = reference_jacobians(step, params, xs, carry, **OPTIONS)
    np.testing.assert_allclose(step_jacobians(cell, params, xs, carry, **OPTIONS), want, atol=1e-9)


@pytest.mark.parametrize("cell", [jl.GRUCell(SIZE, reset_after=False), MinimalGatedCell(SIZE)], ids=str)
def test_their_product_is_the_jacobian_of_unroll(cell):
    params, xs, carry = problem(cell)

    def last_carry(h):
        return jl.unroll(cell, params, xs[:, 0], jl.RNNCarry(h=h))[0].h

    jacobians = step_jacobians(cell, params, xs, carry)[:, 0]
    want = jax.jacrev(last_carry)(carry.h[0])
    np.testing.assert_allclose(np.linalg.multi_dot(jacobians[::-1]), want, rtol=1e-12)


def test_singular_values_are_the_largest_stretch():
    jacobians = np.random.default_rng(0).normal(size=(4, 2, 3, 3))
    got = largest_singular_values(jacobians)
    want = np.sqrt(np.linalg.eigvalsh(np.swapaxes(jacobians, -1, -2) @ jacobians)[..., -1])
    np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize("name", CELLS)
def test_exponents_equal_gram_schmidt_in_numpy(name):
    cell, _ = CELLS[name]
    params, xs, carry = problem(cell)
    held = {k: v for k, v in OPTIONS.items() if k != "reset"}
    jacobians = np.asarray(step_jacobians(cell, params, xs, carry, **held))
    got = lyapunov_exponents(cell, params, xs, carry, **held)
    valid = references.steps_that_count(xs, **held)
    assert np.isnan(got[2]).all()  # whose length is 0
    for n in range(2):
        q, total = np.eye(jacobians.shape[-1]), 0
        for t in np.flatnonzero(valid[:, n]):
            q, lengths = gram_schmidt(jacobians[t, n] @ q)
            total = total + np.log(lengths)
        np.testing.assert_allclose(got[n], np.sort(total / valid[:, n].sum())[::-1], rtol=1e-9)


def gram_schmidt(columns):
    """Orthonormal columns, and the lengths that were left of each."""
    q = np.zeros_like(columns)
    lengths = np.zeros(columns.shape[1])
    for k in range(columns.shape[1]):
        rest = columns[:, k] - q[:, :k] @ (q[:, :k].T @ columns[:, k])
        lengths[k] = np.linalg.norm(rest)
        q[:, k] = rest / lengths[k]
    return q, lengths


def test_exponents_of_a_linear_network_are_its_eigenvalues():
    cell = jl.RNNCell(3, activation_fn=jnp.positive)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    params = jl.RNNParams(w_ih=np.zeros((1, 3)), w_hh=rotation @ np.diag([1.1, 0.9, -0.3]) @ rotation.T, b=np.zeros(3))
    got = lyapunov_exponents(cell, params, np.zeros((400, 1)))
    np.testing.assert_allclose(got, np.log([1.1, 0.9, 0.3]), atol=0.01)  # the transient's share is 1 / T
    np.testing.assert_allclose(got.sum(), np.log(1.1 * 0.9 * 0.3), rtol=1e-12)  # log |det J|, whatever Q


def test_a_direction_forgotten_entirely_has_no_finite_exponent():
    cell = jl.RNNCell(2, activation_fn=jnp.positive)
    params = jl.RNNParams(w_ih=np.zeros((1, 2)), w_hh=np.diag([0.5, 0.0]), b=np.zeros(2))
    np.testing.assert_allclose(lyapunov_exponents(cell, params, np.zeros((3, 1))), [np.log(0.5), -np.inf])


def test_16_bit_params_are_widened():
    cell = CELLS["lstm"][0]
    params, xs, _ = jax.tree.map(lambda a: jnp.asarray(a, jnp.bfloat16), problem(cell))
    assert step_jacobians(cell, params, xs).dtype == jnp.float32
    assert lyapunov_exponents(cell, params, xs).dtype == jnp.float32


@pytest.mark.usefixtures("without_type_hook")
@pytest.mark.parametrize("shape", [(4,), (2, 3)])
def test_singular_values_of_what_is_not_square(shape):
    with pytest.raises(ValueError, match=r"jacobians: expected an array \[\*, S, S\], got float64"):
        largest_singular_values(np.zeros(shape))


def test_singular_values_of_16_bits():
    jacobians = np.random.default_rng(0).normal(size=(3, 4, 4))
    values = largest_singular_values(jnp.asarray(jacobians, jnp.bfloat16))
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, largest_singular_values(jacobians), rtol=0.02)


@pytest.mark.usefixtures("without_type_hook")
@pytest.mark.parametrize("measure", [step_jacobians, lyapunov_exponents])
def test_mistakes(measure):
    cell = CELLS["lstm"][0]
    params, xs, _ = problem(cell)
    for network in (jl.LSTMCell, jl.Layer(cell), jl.Stack(cell)):
        with pytest.raises(TypeError, match=r"cell: expected a Cell such as LSTMCell\(128\)"):
            measure(network, params, xs)
    with pytest.raises(TypeError, match=r"cell: expected a carry of floating-point numbers, got int32 as carry\.n"):
        measure(*counting())
