"""Fixed and slow points against root finding, minimisation and Newton's method in NumPy, their eigenvalues, merging."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from properties import CountingCell
from scipy.optimize import brentq, minimize_scalar

import jaxlstm as jl
from jaxlstm.inspect import fixed_points, trace

STEPS = 300
NO_INPUT = np.zeros(1)


def one_unit(w, b):
    """h' = tanh(w h + b): params and initial carries."""
    params = jl.RNNParams(w_ih=np.ones((1, 1)), w_hh=np.full((1, 1), w), b=np.full(1, b))
    return params, jl.RNNCarry(h=np.linspace(-1, 1, 21)[:, None])


def roots(w, b):
    """Where tanh(w h + b) = h: a root between every two grid points where the sign changes."""
    grid = np.linspace(-1.001, 1.002, 2000)
    values = np.tanh(w * grid + b) - grid
    (changes,) = np.nonzero(values[1:] * values[:-1] < 0)
    return np.array([brentq(lambda h: np.tanh(w * h + b) - h, grid[k], grid[k + 1], xtol=1e-14) for k in changes])


@pytest.mark.parametrize(("w", "x", "number"), [(0.8, 0.1, 1), (2.0, 0.1, 3), (2.0, 0.6, 1), (-3.0, 0.1, 1)])
def test_one_unit(w, x, number):
    params, carries = one_unit(w, 0.05)
    points = fixed_points(jl.RNNCell(1), params, np.array([x]), carries, steps=STEPS)
    want = roots(w, x + 0.05)
    assert len(want) == number
    order = np.argsort(points.carry.h[:, 0])
    np.testing.assert_allclose(points.carry.h[order, 0], want, atol=1e-12)
    slopes = w * (1 - want**2)
    np.testing.assert_allclose(points.eigenvalues[order, 0], slopes, atol=1e-11)
    np.testing.assert_array_equal(points.stable[order], np.abs(slopes) < 1)
    assert points.fixed.all()
    assert (points.speed < 1e-24).all()


def test_carries_go_down_to_the_point_on_their_side_of_the_hill():
    """Adam takes small steps: no carry crosses a maximum of the speed, as Newton's steps would."""
    params, carries = one_unit(2.0, 0.15)
    points = fixed_points(jl.RNNCell(1), params, NO_INPUT, carries, steps=STEPS)
    grid = np.linspace(-1.5, 1.5, 10001)
    speed = (np.tanh(2 * grid + 0.15) - grid) ** 2
    (tops,) = np.nonzero((speed[1:-1] > speed[:-2]) & (speed[1:-1] > speed[2:]))
    want = np.bincount(np.searchsorted(grid[1:-1][tops], carries.h[:, 0]))
    assert len(want) == 3
    np.testing.assert_array_equal(points.starts[np.argsort(points.carry.h[:, 0])], want)


def test_a_linear_network_has_the_eigenvalues_of_its_weights():
    rng = np.random.default_rng(0)
    rotation = np.array([[0.8, 0.5, 0.0], [-0.5, 0.8, 0.0], [0.0, 0.0, -1.3]])  # a complex pair, and one unstable
    mixing = rng.normal(size=(3, 3))
    params = jl.RNNParams(
        w_ih=rng.normal(size=(2, 3)), w_hh=mixing @ rotation @ np.linalg.inv(mixing), b=rng.normal(size=3)
    )
    x = rng.normal(size=2)
    points = fixed_points(
        jl.RNNCell(3, activation_fn=jnp.positive), params, x, jl.RNNCarry(h=rng.normal(size=(4, 5, 3))), steps=STEPS
    )
    want = np.linalg.solve(np.eye(3) - params.w_hh.T, x @ params.w_ih + params.b)
    np.testing.assert_allclose(points.carry.h, want[None], rtol=1e-10)
    np.testing.assert_allclose(points.eigenvalues[0], [-1.3, 0.8 + 0.5j, 0.8 - 0.5j], rtol=1e-10)
    assert not points.stable.any()
    np.testing.assert_array_equal(points.starts, [20])


CELLS = {
    "gru": (jl.GRUCell(2), references.gru_after_step, slice(4, 6)),  # and where its candidate is in w_hh
    "lstm": (jl.LSTMCell(2), references.lstm_step, slice(4, 6)),
}


def problem(cell, candidate):
    """Two units that each excite themselves, so that there are up to 3 x 3 fixed points."""
    rng = np.random.default_rng(0)
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), 1))
    params = jax.tree.map(lambda leaf: 0.3 * rng.normal(size=leaf.shape), params)
    params.w_hh[:, candidate] += 5 * np.eye(2)
    carry = jax.eval_shape(lambda: cell.init_carry(params, (60,), dtype=jnp.float64))
    return params, rng.normal(size=1), jax.tree.map(lambda leaf: rng.uniform(-1, 1, leaf.shape), carry)


def differences(function, flat, epsilon=1e-6):
    """The Jacobian of a function of vectors."""
    columns = [(function(flat + d) - function(flat - d)) / (2 * epsilon) for d in epsilon * np.eye(len(flat))]
    return np.stack(columns, axis=1)


def newton(function, flat):
    """The fixed point that Newton's method leads to, or None if it goes where no run does, or nowhere."""
    for _ in range(30):
        residual = function(flat) - flat
        flat = flat - np.linalg.lstsq(differences(function, flat) - np.eye(len(flat)), residual)[0]
    return flat if np.abs(flat).max() < 3 and np.abs(function(flat) - flat).max() < 1e-12 else None


@pytest.mark.parametrize("name", CELLS)
def test_equal_newtons_method_in_numpy(name):
    cell, step, candidate = CELLS[name]
    params, x, carries = problem(cell, candidate)
    points = fixed_points(cell, params, x, carries, steps=STEPS)
    kind = type(carries)

    def function(flat):
        return np.concatenate(step(params, kind(*np.split(flat, len(kind._fields))), x)[0])

    ends = [newton(function, flat) for flat in np.concatenate(carries, axis=-1)]
    wanted = np.unique(np.round([end for end in ends if end is not None], 8), axis=0)
    found = np.concatenate(points.carry, axis=-1)[np.asarray(points.fixed)]
    assert len(found) == len(wanted) == 9
    for flat, eigenvalues, stable in zip(found, points.eigenvalues, points.stable, strict=False):
        assert np.linalg.norm(wanted - flat, axis=-1).min() < 1e-7
        np.testing.assert_allclose(newton(function, flat), flat, atol=1e-10)
        want = np.linalg.eigvals(differences(function, flat))
        np.testing.assert_allclose(np.sort_complex(eigenvalues), np.sort_complex(want), atol=1e-7)
        assert stable == (np.abs(want).max() < 1)
        assert np.abs(eigenvalues[0]) == np.abs(eigenvalues).max()


def test_a_slow_point():
    """Just after two fixed points of tanh(2 h + b) have met and vanished, at b = 0.5328."""
    w, b = 2.0, 0.5335
    params, carries = one_unit(w, b)
    (fixed,) = roots(w, b)

    def speed(h):
        return 0.5 * (np.tanh(w * h + b) - h) ** 2

    want = minimize_scalar(speed, bounds=(-0.9, -0.5), method="bounded", options={"xatol": 1e-10})
    points = fixed_points(jl.RNNCell(1), params, NO_INPUT, carries, steps=STEPS)
    np.testing.assert_array_equal(points.fixed, [True, False])
    np.testing.assert_allclose(points.carry.h[:, 0], [fixed, want.x], atol=1e-4)
    np.testing.assert_allclose(points.speed[1], want.fun, rtol=1e-4)
    np.testing.assert_allclose(points.eigenvalues[1, 0], 1, atol=1e-4)  # the derivative of F(h) - h is 0 there
    assert want.fun > 1e-8
    fewer = fixed_points(jl.RNNCell(1), params, NO_INPUT, carries, steps=STEPS, tolerance=1e-8)
    np.testing.assert_array_equal(fewer.fixed, [True])
    assert fewer.starts.sum() < points.starts.sum() == 21


@pytest.mark.parametrize(("distance", "number"), [(0.09, 11), (0.15, 6), (5.0, 1)])
def test_points_that_are_close_are_one(distance, number):
    """h' = (h_0, h_1 / 2): every point of the line h_1 = 0 is fixed."""
    cell = jl.RNNCell(2, activation_fn=jnp.positive)
    params = jl.RNNParams(w_ih=np.zeros((1, 2)), w_hh=np.diag([1.0, 0.5]), b=np.zeros(2))
    starts = np.stack([np.arange(11) / 10, np.full(11, 0.4)], axis=1)
    points = fixed_points(cell, params, NO_INPUT, jl.RNNCarry(h=starts), steps=STEPS, merge_distance=distance)
    assert len(points.speed) == number
    assert points.starts.sum() == 11
    np.testing.assert_allclose(points.carry.h[:, 0], starts[:: -(-11 // number), 0], atol=1e-12)
    np.testing.assert_allclose(points.carry.h[:, 1], 0, atol=1e-12)
    np.testing.assert_allclose(points.eigenvalues, np.tile([1, 0.5], (number, 1)), rtol=1e-12)
    assert points.fixed.all()
    assert not points.stable.any()


def test_none_is_found():
    """h' = h + 1 has no fixed point, and no slow one."""
    cell = jl.RNNCell(1, activation_fn=jnp.positive)
    points = fixed_points(cell, *one_unit(1.0, 1.0)[:1], NO_INPUT, one_unit(1.0, 1.0)[1], steps=STEPS)
    assert points.carry.h.shape == points.eigenvalues.shape == (0, 1)
    assert points.speed.shape == points.stable.shape == (0,)


CONVOLUTIONAL = jl.ConvLSTMCell(1, spatial_shape=(3,), kernel_shape=3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell",
    [jl.MGUCell(3), jl.SLSTMCell(4, num_heads=2), jl.MLSTMCell(4), jl.LearnedCarry(jl.LSTMCell(2)), CONVOLUTIONAL],
    ids=str,
)
def test_any_cell_from_the_carries_of_a_run(cell):
    params = jax.tree.map(lambda leaf: 0.5 * leaf, cell.init(jax.random.key(0), 2, dtype=jnp.float64))
    x = np.full((*cell.spatial_shape, 2), 0.1)
    _, seen = trace(cell, params, np.random.default_rng(0).normal(size=(12, 3, *x.shape)))
    points = fixed_points(cell, params, x, seen.carry, steps=STEPS)
    number = len(points.speed)
    assert type(points.carry) is type(seen.carry)
    assert 1 <= number <= points.starts.sum() <= 36
    after, _ = cell.step(params, points.carry, np.broadcast_to(x, (number, *x.shape)))
    moved = np.concatenate([(b - a).reshape(number, -1) for a, b in zip(points.carry, after, strict=True)], axis=-1)
    np.testing.assert_allclose(points.speed, (moved**2).sum(-1) / 2, rtol=1e-6, atol=1e-25)
    assert points.eigenvalues.shape == moved.shape


def test_16_bit_params_are_widened():
    params, carries = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), one_unit(0.5, 0.1))
    points = fixed_points(jl.RNNCell(1), params, NO_INPUT.astype(jnp.bfloat16), carries, steps=STEPS)
    assert points.carry.h.dtype == points.speed.dtype == jnp.float32
    assert points.eigenvalues.dtype == jnp.complex64


PARAMS, CARRIES = one_unit(0.5, 0.1)
MISTAKES = {
    "a class": ({"cell": jl.RNNCell}, "cell: expected a Cell such as LSTMCell(128) (an instance, not the class)"),
    "an integer carry": ({"cell": CountingCell(1)}, "cell: expected a carry of real floating-point numbers, got int32"),
    "params": ({"params": CARRIES}, "params: expected RNNParams, got RNNCarry"),
    "x of a batch": ({"x": np.zeros((2, 1))}, "x: expected an array [I] (one input, without time or batch), got floa"),
    "x of a batch of maps": (
        {"cell": CONVOLUTIONAL, "params": CONVOLUTIONAL.init(jax.random.key(0), 1), "x": np.zeros((2, 3, 1))},
        "x: expected an array [3, I] (one input, without time or batch), got float64[2, 3, 1]",
    ),
    "x of integers": ({"x": np.zeros(1, int)}, "x: expected a floating-point array, got int64[1]"),
    "x of another size": ({"x": np.zeros(2)}, "params.w_ih: expected shape (2, 1) for 2 input features"),
    "one carry": ({"carries": jl.RNNCarry(np.zeros(1))}, "carries.h: expected shape (1, 1) (leading axes, then those"),
    "no carry": ({"carries": jl.RNNCarry(np.zeros((0, 1)))}, "carries: expected at least one carry, got leading axes"),
    "carries of another size": ({"carries": jl.RNNCarry(np.zeros((5, 2)))}, "carries.h: expected shape (5, 1) (leadi"),
    "carries of another cell": ({"carries": jl.LSTMCarry(*np.zeros((2, 5, 1)))}, "carries: expected RNNCarry, got LS"),
    "an array": ({"carries": np.zeros((5, 1))}, "carries: expected RNNCarry, got ndarray"),
    "NaN": ({"carries": jl.RNNCarry(np.array([[np.nan], [0]]))}, "carries: expected a finite speed at each, got NaN o"),
    "steps": ({"steps": 0}, "steps: expected a positive int, got 0"),
    "half a step": ({"steps": 0.5}, "steps: expected a positive int, got 0.5 (float)"),
    "tolerance": ({"tolerance": 0.0}, "tolerance: expected a number above 0, got 0.0"),
    "infinite tolerance": ({"tolerance": np.inf}, "tolerance: expected a finite number, got inf"),
    "merge_distance": ({"merge_distance": -1.0}, "merge_distance: expected a number above 0, got -1.0"),
}


@pytest.mark.usefixtures("without_type_hook")
@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name):
    changed, message = MISTAKES[name]
    arguments = {"cell": jl.RNNCell(1), "params": PARAMS, "x": NO_INPUT, "carries": CARRIES} | changed
    with pytest.raises((ValueError, TypeError)) as error:
        fixed_points(**arguments)
    assert message in str(error.value)


@pytest.mark.parametrize("argument", ["params", "x", "carries"])
def test_inside_jit(argument):
    arguments = {"params": PARAMS, "x": NO_INPUT, "carries": CARRIES}

    @jax.jit
    def inside(traced):
        return fixed_points(jl.RNNCell(1), **arguments | {argument: traced})

    with pytest.raises(TypeError, match=f"{argument}: expected values known now"):
        inside(arguments[argument])


def test_without_optax(monkeypatch):
    monkeypatch.setitem(sys.modules, "optax", None)
    with pytest.raises(ImportError, match=r"needs the extra inspect: pip install 'jaxlstm\[inspect\]'"):
        fixed_points(jl.RNNCell(1), PARAMS, NO_INPUT, CARRIES)
