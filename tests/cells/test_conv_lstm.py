"""ConvLSTMCell against float64 loops: values, gradients, the peepholes, and inputs with spatial axes everywhere."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import modern
import numpy as np
import pytest
import references_modern as references
from modern import KEY, ONE_QUICK
from references import assert_close

import jaxlstm as jl
from jaxlstm._wavefront import _is_possible

CELL = jl.ConvLSTMCell(2, spatial_shape=(3, 2), kernel_shape=(3, 2))


def flat(array, spatial_shape):
    """All positions and channels as one axis, as the loop has them."""
    lead = array.shape[: array.ndim - 1 - len(spatial_shape)]
    return array.reshape(*lead, np.prod(array.shape[len(lead) :]))


def run(cell, params, xs, carry, **options):
    """`unroll` of flat arrays."""

    def spatial(array):
        return array.reshape(*array.shape[:-1], *cell.spatial_shape, -1)

    after, ys = jl.unroll(cell, params, spatial(xs), jax.tree.map(spatial, carry), **options)
    return jax.tree.map(lambda leaf: flat(leaf, cell.spatial_shape), (after, ys))


def problem(cell, *shape):
    params, *rest = modern.problem(cell, *shape)
    return params, *jax.tree.map(lambda leaf: flat(leaf, cell.spatial_shape), rest)


def assert_equals_loop(cell, arguments, names=""):
    step = partial(references.conv_lstm_step, spatial=cell.spatial_shape)
    initial = jax.tree.map(lambda leaf: np.zeros(leaf.shape[-1]), arguments[2])
    modern.assert_equals_loop(cell, step, arguments, names, run, initial)


@pytest.mark.parametrize("names", ONE_QUICK)
def test_equals_loop(names):
    assert_equals_loop(CELL, problem(CELL, 3, (2,), 1), names)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "spatial_shape", "kernel_shape"),
    [((1, (), 1), (5,), 4), ((2, (2, 1), 3), (4,), 5), ((2, (1,), 2), (2, 3, 2), (1, 3, 2))],
    ids=str,
)
def test_equals_loop_at_other_shapes(shape, spatial_shape, kernel_shape):
    """One step, no batch and two batch axes; one and three spatial axes, kernels larger than the input."""
    cell = jl.ConvLSTMCell(1, spatial_shape=spatial_shape, kernel_shape=kernel_shape)
    assert_equals_loop(cell, problem(cell, *shape))


@pytest.mark.slow
def test_extreme_gates():
    params, *rest = problem(CELL, 3, (2,), 1)
    for i, f, o in ((80, -80, 80), (-80, 80, 80), (80, 80, -80)):
        assert_equals_loop(CELL, (params._replace(b=params.b + np.repeat([i, f, 0.0, o], 2)), *rest))


def test_a_kernel_of_one_position_is_an_lstm_at_each():
    """Without peepholes; the spatial axes are then batch axes of the LSTM."""
    cell, lstm = jl.ConvLSTMCell(3, spatial_shape=(4, 2), kernel_shape=1, peephole=False), jl.LSTMCell(3)
    params, xs, carry, *_ = modern.problem(cell)
    assert params.p is None
    same = jl.LSTMParams(params.w_ih[0, 0], params.w_hh[0, 0], params.b)
    assert_close(jl.unroll(cell, params, xs, carry), jl.unroll(lstm, same, xs, carry))


@pytest.mark.slow
def test_derivatives_split_steps_and_networks():
    cell = jl.ConvLSTMCell(2, spatial_shape=(3, 2))
    modern.assert_equals_plain_scan(cell)
    modern.assert_split_and_steps_agree(cell)
    modern.assert_works_in_networks(cell)


@pytest.mark.slow
def test_masks_of_networks_have_the_batch_axes_alone():
    """Both directions with a merge of one's own, a stack, truncated backpropagation: as with each sequence cut."""
    cell = jl.ConvLSTMCell(2, spatial_shape=(3, 2))
    network = jl.Stack(jl.Bidirectional(cell, merge=jnp.maximum), jl.LearnedCarry(jl.Zoneout(cell, h=0.2, c=0.3)))
    params = jax.tree.map(lambda leaf: leaf.astype(np.float64), network.init(KEY, 1))
    xs, lengths = np.random.default_rng(0).normal(size=(5, 2, 3, 2, 1)), np.array([5, 3])
    hidden = np.where((np.arange(5)[:, None] < lengths)[..., None, None, None], xs, np.nan)
    _, ys = network.apply(params, hidden, lengths=lengths)
    _, short = network.apply(params, xs[:3, 1:])
    assert_close(ys[:3, 1:], short)
    assert not ys[3:, 1].any()
    assert jnp.isfinite(network.apply(params, xs, key=KEY)[1]).all()
    layer = jl.Layer(cell)
    params = jax.tree.map(lambda leaf: leaf.astype(np.float64), layer.init(KEY, 1))
    for k1, k2 in ((2, 2), (2, 4), (5, 5)):
        got = jl.truncated(layer, params, hidden, k1=k1, k2=k2, lengths=lengths)
        assert_close(got, layer.apply(params, xs, lengths=lengths))


@pytest.mark.slow
def test_inspect_and_explain_take_spatial_axes():
    cell = jl.ConvLSTMCell(1, spatial_shape=(2, 2))
    params, xs, carry, *_ = modern.problem(cell, 4, (2,), 1)
    options = {"lengths": np.array([4, 2])}
    _, seen = jl.inspect.trace(cell, params, xs, carry, **options)
    i, f, g, o = seen.gates
    assert_close((f * seen.before.c + i * g)[:, 0], seen.carry.c[:, 0])
    assert_close((o * jnp.tanh(seen.carry.c))[:, 0], seen.ys[:, 0])
    jacobians = jl.inspect.step_jacobians(cell, params, xs, carry, **options)
    assert jacobians.shape == (4, 2, 8, 8)
    assert (jacobians[2:, 1] == np.stack([np.eye(8)] * 2)).all()
    assert jl.inspect.lyapunov_exponents(cell, params, xs, carry, **options).shape == (2, 8)
    flow = jl.inspect.gradient_flow(cell, params, xs, carry, loss=lambda carry, ys: carry.h.sum(), **options)
    whole = jnp.linalg.norm(np.sum(jacobians[3, 0][:4], axis=0)[:4])
    np.testing.assert_allclose(flow.h[1, 0], whole, rtol=1e-10)
    norms = jl.inspect.input_jacobian_norms(cell, params, xs, carry, **options)

    def last(xs, n):
        return jl.unroll(cell, params, xs, carry, **options)[1][options["lengths"][n] - 1, n]

    for n in range(2):
        jacobian = jax.jacobian(last)(jnp.asarray(xs), n)[..., n, :, :, :]
        np.testing.assert_allclose(norms[:, n], jnp.sqrt((jacobian**2).sum((0, 1, 2, 4, 5, 6))), rtol=1e-10)
    shares = jl.inspect.input_contributions(cell, params, xs, carry, output=lambda y: y.sum((1, 2, 3)), **options)
    assert shares.shape == (4, 2)
    assert "matmuls: 0.000207 Gflop" in jl.explain(jl.ConvLSTMCell(1, spatial_shape=(6, 8)), *_shapes(10, 3))


def _shapes(steps, batch):
    cell = jl.ConvLSTMCell(1, spatial_shape=(6, 8))
    return jax.eval_shape(lambda: cell.init(KEY, 1)), jax.ShapeDtypeStruct((steps, batch, 6, 8, 1), jnp.float32)


def test_initial_params_and_carry():
    cell = jl.ConvLSTMCell(6, spatial_shape=(8, 4), kernel_shape=(5, 3))
    params = jax.jit(lambda: cell.init(KEY, 2))()
    assert [leaf.shape for leaf in params] == [(5, 3, 2, 24), (5, 3, 6, 24), (24,), (8, 4, 18)]
    assert params.b.tolist() == [0.0] * 6 + [1.0] * 6 + [0.0] * 12
    assert not params.p.any()
    for w, features in ((params.w_ih, 2), (params.w_hh, 6)):
        bound = (6 / (15 * (features + 6))) ** 0.5
        assert 0.9 * bound < abs(w).max() <= bound
    carry = cell.init_carry(params, (2,), dtype=jnp.bfloat16)
    assert [leaf.dtype.name for leaf in carry] == ["bfloat16", "float32"]
    assert carry.c.shape == (2, 8, 4, 6)
    without, chrono = (jl.ConvLSTMCell(6, spatial_shape=(4,), **b) for b in ({"bias": False}, {"b_init": jl.chrono(9)}))
    assert jax.eval_shape(lambda: without.init(KEY, 2)).b is None
    chrono = jax.jit(lambda: chrono.init(KEY, 2).b)()
    assert (chrono[6:12] == -chrono[:6]).all()
    assert not _is_possible(cell, 6)


@pytest.mark.usefixtures("without_type_hook")
def test_inputs_that_do_not_fit_are_named():
    cell = jl.ConvLSTMCell(2, spatial_shape=(3, 2))
    params = modern.problem(cell, 1, (), 1)[0]
    wanted = "expected an array [T, *batch, 3, 2, I], got float32"
    for shape in ((4, 2, 3, 1), (4, 2, 2, 3, 1), (3, 2, 1), (4,)):
        with pytest.raises(ValueError, match=re.escape(f"xs: {wanted}{list(shape)}")):
            jl.unroll(cell, params, np.ones(shape, np.float32))
    xs = np.ones((4, 5, 3, 2, 1), np.float32)
    with pytest.raises(ValueError, match=re.escape("x: expected an array [*batch, 3, 2, I], got float32[3, 2]")):
        cell.step(params, cell.init_carry(params), np.ones((3, 2), np.float32))
    with pytest.raises(ValueError, match=re.escape("mask: expected shape (4, 5), got (4, 5, 3, 2)")):
        jl.unroll(cell, params, xs, mask=np.ones((4, 5, 3, 2), bool))
    with pytest.raises(ValueError, match=re.escape("lengths: expected shape (5,), got (5, 3)")):
        jl.unroll(cell, params, xs, lengths=np.ones((5, 3), int))
    with pytest.raises(ValueError, match=re.escape("layers_or_cells[1]: expected spatial_shape=(3, 2), as the other")):
        jl.Stack(cell, jl.LSTMCell(2))
    other = jl.ConvLSTMCell(2, spatial_shape=(2, 3))
    with pytest.raises(ValueError, match=re.escape("backward_cell: expected spatial_shape=(3, 2), as the other cells")):
        jl.Bidirectional(cell, other)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"spatial_shape": ()}, "spatial_shape: expected a tuple of 1 or 2 or 3 positive ints, got ()"),
        ({"spatial_shape": (2, 2, 2, 2)}, "spatial_shape: expected a tuple of 1 or 2 or 3 positive ints, got (2, 2, 2"),
        ({"spatial_shape": 4}, "spatial_shape: expected a tuple of 1 or 2 or 3 positive ints, got 4 (int)"),
        ({"spatial_shape": (4, 0)}, "spatial_shape[1]: expected a positive int, got 0"),
        ({"kernel_shape": (3, 3)}, "kernel_shape: expected a tuple of 1 positive ints, got (3, 3)"),
        ({"kernel_shape": 2.5}, "kernel_shape[0]: expected a positive int, got 2.5 (float)"),
        ({"peephole": 1}, "peephole: expected True or False, got 1 (int)"),
        ({"forget_bias": 2, "bias": False}, "forget_bias: expected its default where b_init is given or bias=False"),
    ],
)
@pytest.mark.usefixtures("without_type_hook")
def test_mistakes_are_named(mistake, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        jl.ConvLSTMCell(4, **{"spatial_shape": (4,)} | mistake)
