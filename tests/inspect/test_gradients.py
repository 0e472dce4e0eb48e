"""Gradient flow and input contributions against finite differences of the NumPy references, and of unroll itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from properties import counting, weighed

import jaxlstm as jl
from jaxlstm.inspect import gradient_flow, input_contributions, input_jacobian_norms
from jaxlstm.inspect._trace import ShowCarry

STEPS, BATCH, SIZE, INPUTS = 5, (3,), 2, 2
CELLS = {
    "lstm": (jl.LSTMCell(SIZE), references.LSTM),
    "gru": (jl.GRUCell(SIZE), references.GRU_AFTER),
    "rnn": (jl.RNNCell(SIZE), references.RNN_TANH),
}
OPTIONS = {
    "lengths": np.array([5, 3, 0]),
    "mask": np.random.default_rng(1).random((STEPS, *BATCH)) < 0.8,
    "reset": np.random.default_rng(3).random((STEPS, *BATCH)) < 0.2,
}
VALID = references.steps_that_count(np.zeros((STEPS, *BATCH, INPUTS)), OPTIONS["lengths"], OPTIONS["mask"])


def problem(network, seed=0):
    rng = np.random.default_rng(seed)
    params = jax.eval_shape(lambda: network.init(jax.random.key(0), INPUTS))
    carry = jax.eval_shape(lambda p: network.init_carry(p, BATCH), params)
    xs = jax.ShapeDtypeStruct((STEPS, *BATCH, INPUTS), np.float64)
    return jax.tree.map(lambda a: rng.normal(size=a.shape), (params, xs, carry))


def last_of(ys, valid=VALID):
    """The ys of each sequence's last step that counts; zeros where none does."""
    last = np.zeros(ys.shape[1:])
    for n in np.ndindex(*BATCH):
        counting = np.flatnonzero(valid[:, *n])
        if len(counting):
            last[n] = ys[counting[-1], *n]
    return last


def nudged_forward(reference, params, xs, carry, nudges):
    """`references.forward` with something added to the carry after each step."""
    flat = type(reference)(
        lambda params, carry, x: (_add(reference.step(params, carry, x[:INPUTS])[0], x[INPUTS:]), ()), None
    )
    return references.forward(flat, params, np.concatenate([xs, nudges], axis=-1), carry, **OPTIONS)


def _add(carry, nudge):
    return type(carry)(*(a + b for a, b in zip(carry, np.split(nudge, len(carry)), strict=True)))


@pytest.mark.parametrize("name", CELLS)
def test_gradient_flow_equals_finite_differences(name):
    cell, reference = CELLS[name]
    params, xs, carry = problem(cell)
    nudges = np.zeros((*xs.shape[:-1], SIZE * len(carry)))

    def loss():
        final, ys = nudged_forward(reference, params, xs, carry, nudges)
        return float(weighed((final, ys)))

    gradients = np.split(references.finite_differences(loss, nudges), len(carry), axis=-1)
    got = gradient_flow(cell, params, xs, carry, loss=lambda *after: weighed(after), **OPTIONS)
    assert type(got) is type(carry)
    for norms, gradient in zip(got, gradients, strict=True):
        want = np.zeros((STEPS, *BATCH))
        for n in np.ndindex(*BATCH):
            last = max(np.flatnonzero(VALID[:, *n]), default=-1)
            for lag in range(last + 1):
                want[lag, *n] = np.linalg.norm(gradient[last - lag, *n])
        np.testing.assert_allclose(norms, want, atol=1e-8)


def test_gradient_flow_is_that_of_the_initial_carry_a_step_later():
    cell = CELLS["lstm"][0]
    params, xs, carry = problem(cell)

    def loss(carry, ys):
        return weighed(ys[-1])

    flow = gradient_flow(cell, params, xs, carry, loss=loss)
    after, _ = jl.unroll(cell, params, xs[:2], carry)
    want = jax.grad(lambda carry: loss(*jl.unroll(cell, params, xs[2:], carry)))(after)
    for norms, gradient in zip(flow, want, strict=True):
        np.testing.assert_allclose(norms[STEPS - 2], np.linalg.norm(gradient, axis=-1), rtol=1e-12)


@pytest.mark.parametrize("name", CELLS)
def test_input_contributions_equal_finite_differences(name):
    cell, reference = CELLS[name]
    params, xs, carry = problem(cell)
    columns = []
    for unit in range(SIZE):

        def output(unit=unit):
            return last_of(references.forward(reference, params, xs, carry, **OPTIONS)[1])[..., unit].sum()

        columns.append(references.finite_differences(output, xs))
    got = input_contributions(cell, params, xs, carry, output=lambda y: y[..., 1], **OPTIONS)
    np.testing.assert_allclose(got, (xs * columns[1]).sum(-1), atol=1e-9)
    norms = input_jacobian_norms(cell, params, xs, carry, **OPTIONS)
    np.testing.assert_allclose(norms, np.sqrt(np.square(columns).sum((0, -1))), atol=1e-9)


def test_contributions_of_a_linear_network_add_up_to_its_output():
    cell = jl.RNNCell(SIZE, activation_fn=jnp.positive)
    params, xs, _ = problem(cell)
    params = params._replace(b=np.zeros(SIZE))
    got = input_contributions(cell, params, xs, output=lambda y: y[..., 0])
    np.testing.assert_allclose(got.sum(0), jl.unroll(cell, params, xs)[1][-1, :, 0], rtol=1e-12)


def test_a_network_of_layers():
    network = jl.Stack(jl.Bidirectional(jl.GRUCell(2)), jl.LSTMCell(2))
    params, xs, _ = problem(network)
    want = jax.jacrev(lambda xs: network.apply(params, xs)[1][-1, 0])(xs)[:, :, 0]
    np.testing.assert_allclose(
        input_jacobian_norms(network, params, xs)[:, 0], np.sqrt(np.square(want).sum((0, 2))), rtol=1e-12
    )
    got = input_contributions(network, params, xs, output=lambda y: y[..., 1])
    np.testing.assert_allclose(got[:, 0], (want[1] * xs[:, 0]).sum(-1), rtol=1e-12)


def test_nan_in_the_padding_reaches_no_result():
    cell = CELLS["lstm"][0]
    params, xs, carry = problem(cell)
    padded = np.where(VALID[..., None], xs, np.nan)
    for measure in (
        lambda xs: gradient_flow(cell, params, xs, carry, loss=lambda *after: weighed(after), **OPTIONS),
        lambda xs: input_contributions(cell, params, xs, carry, output=lambda y: y[..., 0], **OPTIONS),
        lambda xs: input_jacobian_norms(cell, params, xs, carry, **OPTIONS),
    ):
        jax.tree.map(np.testing.assert_array_equal, measure(padded), measure(xs))


def test_16_bit_params():
    cell = CELLS["lstm"][0]
    params, xs, _ = jax.tree.map(lambda a: jnp.asarray(a, jnp.bfloat16), problem(cell))
    flow = gradient_flow(cell, params, xs, loss=lambda carry, ys: ys[-1].sum())
    assert flow.h.dtype == flow.c.dtype == input_jacobian_norms(cell, params, xs).dtype == jnp.float32


@pytest.mark.parametrize("shape", [(0, 3), (5, 0)], ids=["no steps", "no sequences"])
def test_of_nothing(shape):
    cell = CELLS["lstm"][0]
    params, xs, _ = problem(cell)
    nothing = np.zeros((*shape, xs.shape[-1]))
    assert gradient_flow(cell, params, nothing, loss=lambda carry, ys: ys.sum()).c.shape == shape
    if shape[0]:
        assert input_contributions(cell, params, nothing, output=lambda y: y[..., 0]).shape == shape
        assert input_jacobian_norms(cell, params, nothing).shape == shape


@pytest.mark.usefixtures("without_type_hook")
@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: _flow(loss=None), "loss: expected a function, got None"),
        (lambda: _flow(loss=lambda carry, ys: ys), "loss: expected a function that returns a scalar, got"),
        (lambda: _flow(cell=jl.LSTMCell), "cell: expected a Cell such as LSTMCell(128)"),
        (lambda: _flow(carry=jl.RNNCarry(np.zeros((3, 2)))), "carry: expected LSTMCarry, got RNNCarry"),
        (lambda: _flow(xs=np.zeros(2)), "xs: expected an array [T, *batch, I], got float64[2]"),
        (lambda: _contributions(output=lambda y: y), "output: expected a function from [*batch, O] to shape (3,), got"),
        (lambda: _contributions(output=1), "output: expected a function, got 1"),
        (lambda: _contributions(cell=3), "network: expected a Network such as Stack(LSTMCell(128)), or a cell, got 3"),
        (lambda: _contributions(cell=ShowCarry(LSTM)), "network: expected a network whose output is one array, got"),
        (
            lambda: gradient_flow(*counting(), loss=lambda carry, ys: ys.sum()),
            "cell: expected a carry of floating-poin",
        ),
        (lambda: _contributions(xs=np.zeros((0, 3, 2))), "xs: expected at least one step, got float64[0, 3, 2]"),
    ],
)
def test_mistakes(mistake, message):
    with pytest.raises((ValueError, TypeError)) as error:
        mistake()
    assert str(error.value).startswith(message)


LSTM = jl.LSTMCell(SIZE)
PARAMS, XS, _ = problem(LSTM)


def _flow(cell=LSTM, xs=XS, carry=None, loss=lambda carry, ys: ys.sum()):
    return gradient_flow(cell, PARAMS, xs, carry, loss=loss)


def _contributions(cell=LSTM, xs=XS, output=lambda y: y[..., 0]):
    return input_contributions(cell, PARAMS, xs, output=output)
