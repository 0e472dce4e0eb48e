"""LRUCell against float64 loops: values, gradients, the ring, and all that a complex carry goes through."""

import re
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

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
from jaxlstm.cells._lru import init_ring

CELL = jl.LRUCell(3, state_size=2)


class Real(NamedTuple):
    """The carry in real numbers, with the output y in place of D x: the loop's carry."""

    h: np.ndarray
    s_re: np.ndarray
    s_im: np.ndarray


def to_real(cell, params, carry):
    params, carry = jax.tree.map(jnp.asarray, (params, carry))
    return Real(cell.readout(params, carry), carry.s.real, carry.s.imag)


def run(cell, params, xs, carry, **options):
    """`unroll` from such a carry to such a carry."""
    params = jax.tree.map(jnp.asarray, params)
    s = jax.lax.complex(*map(jnp.asarray, carry[1:]))
    dx = carry.h - cell.readout(params, jl.LRUCarry(s, jnp.zeros_like(carry.h)))
    after, ys = jl.unroll(cell, params, xs, jl.LRUCarry(s, dx), **options)
    return to_real(cell, params, after), ys


def problem(cell, *shape):
    params, xs, carry, dcarry, dys = modern.problem(cell, *shape)
    carry, dcarry = (jax.tree.map(np.asarray, to_real(cell, params, one)) for one in (carry, dcarry))
    return params, xs, carry, dcarry, dys


def narrow(cell, input_size=2):
    """Params in float32."""
    return jax.tree.map(np.float32, modern.problem(cell, 1, (), input_size)[0])


def assert_equals_loop(cell, arguments, names=""):
    initial = jax.tree.map(np.asarray, to_real(cell, arguments[0], cell.init_carry(arguments[0])))
    modern.assert_equals_loop(cell, references.lru_step, arguments, names, run, initial)


@pytest.mark.parametrize("names", ONE_QUICK)
def test_equals_loop(names):
    assert_equals_loop(CELL, problem(CELL), names)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, (), 1), (2, (2, 2), 3)], ids=str)
def test_equals_loop_at_other_shapes(shape):
    assert_equals_loop(jl.LRUCell(2), problem(jl.LRUCell(2), *shape))


@pytest.mark.parametrize(("nu", "theta", "gamma"), [(80, 0, 0), (-80, -80, -80), (-80, 1, 80), (4, -80, 1)])
def test_extreme_lambdas(nu, theta, gamma):
    """|lambda| of 0 and of 1, angles and gammas of 0."""
    params, *rest = problem(CELL)
    shifts = {"nu_log": nu, "theta_log": theta, "gamma_log": gamma}
    params = params._replace(**{name: getattr(params, name) + shift for name, shift in shifts.items()})
    if gamma == 80:  # numbers of 1e34
        params = params._replace(c_re=1e-34 * params.c_re, c_im=1e-34 * params.c_im, w_ih=1e-34 * params.w_ih)
    assert_equals_loop(CELL, (params, *rest))


def test_the_answer_to_an_impulse():
    """y_t = Re(C lambda^t gamma B x_0), beside D x_0 at t = 0, in NumPy's complex numbers."""
    params, xs, *_ = modern.problem(CELL, 6, ())
    xs[1:] = 0
    b_re, b_im, d = np.split(params.w_ih, [2, 4], axis=1)
    rate = np.exp(-np.exp(params.nu_log) + 1j * np.exp(params.theta_log))
    powers = [rate**t * np.exp(params.gamma_log) * (xs[0] @ (b_re + 1j * b_im)) for t in range(6)]
    want = (np.array(powers) @ (params.c_re + 1j * params.c_im)).real
    want[0] += xs[0] @ d
    _, ys = jl.unroll(CELL, params, xs)
    np.testing.assert_allclose(ys, want, rtol=1e-12, atol=1e-13)


def test_coefficients_give_the_trajectory():
    """carry_t = a_t * carry_{t-1} + b_t, of all steps at once."""
    params, xs, carry, _, _ = modern.problem(CELL)
    params = jax.tree.map(jnp.asarray, params)
    a, b = CELL.coefficients(params, CELL.project(params, jnp.asarray(xs)))
    assert jax.tree.map(jnp.shape, a) == jax.tree.map(jnp.shape, b)
    now, expected = carry, []
    for t in range(len(xs)):
        now = jax.tree.map(lambda a, b, old, t=t: a[t] * old + b[t], a, b, now)
        expected.append(CELL.readout(params, now))
    assert_close(jl.unroll(CELL, params, xs, carry), (now, jnp.stack(expected)))


@pytest.mark.slow
def test_derivatives_split_steps_and_networks():
    modern.assert_equals_plain_scan(CELL)
    modern.assert_split_and_steps_agree(CELL)
    modern.assert_works_in_networks(CELL)


@pytest.mark.slow
def test_over_an_axis_of_params_and_carries():
    params, xs, carry, _, _ = modern.problem(CELL)
    shifted = jax.tree.map(lambda leaf: np.stack([leaf, leaf + 0.5]), (params, carry))
    got = jax.vmap(lambda params, carry: jl.unroll(CELL, params, xs, carry))(*shifted)
    for index in range(2):
        one = jax.tree.map(lambda leaf, index=index: leaf[index], shifted)
        assert_close(jax.tree.map(lambda leaf, index=index: leaf[index], got), jl.unroll(CELL, one[0], xs, one[1]))


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_few_bits_keep_the_state_in_complex64(dtype, tolerance):
    """As the LSTM keeps c; and the weights' gradients have their dtype."""
    cell = jl.LRUCell(4, state_size=8, r_min=0.9, r_max=0.99)
    params = cell.init(KEY, 3, dtype=dtype)
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(20, 2, 3)), dtype)
    carry, ys = jl.unroll(cell, params, xs)
    assert (carry.s.dtype, carry.dx.dtype, ys.dtype) == ("complex64", dtype, dtype)
    stepped, y = cell.step(params, cell.init_carry(params, (2,)), xs[0])
    assert (stepped.s.dtype, stepped.dx.dtype, y.dtype) == ("complex64", dtype, dtype)
    double = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (params, xs))
    exact, want = jl.unroll(cell, *double)
    assert exact.s.dtype == "complex128"
    np.testing.assert_allclose(ys.astype(np.float64), want, atol=tolerance * float(abs(want).max()))
    gradient = jax.grad(lambda params: (jl.unroll(cell, params, xs)[1].astype(jnp.float32) ** 2).sum())(params)
    assert {leaf.dtype.name for leaf in gradient} == {dtype}
    assert all(jnp.isfinite(leaf).all() for leaf in gradient)


def test_dtypes_of_the_carry():
    """float32 params take a complex128 carry; step asks for the dtype that it returns."""
    shapes = partial(jax.eval_shape, CELL.init_carry)
    for dtype, wide in (("float64", "complex128"), ("float32", "complex64"), ("bfloat16", "complex64")):
        carry = shapes(jax.eval_shape(lambda dtype=dtype: CELL.init(KEY, 2, dtype=dtype)))
        assert (carry.s.dtype, carry.dx.dtype) == (wide, dtype)
    params, carry = narrow(CELL), jl.LRUCarry(s=np.zeros(2, complex), dx=np.zeros(3))
    run = partial(jl.unroll, CELL, params, np.ones((4, 2), np.float32))
    assert jax.eval_shape(run, carry)[0].s.dtype == "complex64"
    with pytest.raises(TypeError, match=re.escape("carry.s: expected dtype complex64, as from init_carry")):
        CELL.step(params, carry, np.ones(2, np.float32))


@pytest.mark.usefixtures("without_type_hook")
def test_real_and_complex_are_not_mixed_up():
    params, xs = narrow(CELL), np.ones((4, 2), np.float32)
    carry = CELL.init_carry(params)
    with pytest.raises(TypeError, match=re.escape("carry.s: expected dtype complex64, got float32")):
        jl.unroll(CELL, params, xs, carry._replace(s=carry.s.real))
    with pytest.raises(TypeError, match=re.escape("carry.dx: expected a floating-point array, got complex64[3]")):
        jl.unroll(CELL, params, xs, carry._replace(dx=carry.dx.astype("complex64")))
    for cell in (CELL, jl.LSTMCell(3)):
        with pytest.raises(TypeError, match=re.escape("xs: expected a floating-point array, got complex64[4, 2]")):
            jl.unroll(cell, narrow(cell), xs.astype("complex64"))
    gru = jl.GRUCell(3)
    with pytest.raises(TypeError, match=re.escape("carry.h: expected a floating-point array, got complex64[3]")):
        jl.unroll(gru, narrow(gru), xs, jl.RNNCarry(np.zeros(3, np.complex64)))
    with pytest.raises(TypeError, match="dtype: expected a floating-point dtype"):
        CELL.init(KEY, 2, dtype="complex64")


@dataclass(frozen=True)
class Forgetful(jl.LRUCell):
    """A mistake: only the real part goes on."""

    def transition(self, params, z, carry):
        after = super().transition(params, z, carry)
        return after._replace(s=after.s.real)


def test_a_transition_that_drops_the_imaginary_part_is_refused():
    cell = Forgetful(3)
    with pytest.raises(TypeError, match=r"what Forgetful.transition returns\.s: expected dtype complex"):
        jl.unroll(cell, narrow(cell), np.ones((4, 2), np.float32))


class Phases(NamedTuple):
    w_ih: jax.Array
    rate: jax.Array  # complex


@dataclass(frozen=True)
class PhaseCell(jl.Cell):
    """A user's cell with a complex param: h_t = rate * h_{t-1} + x_t @ w_ih."""

    hidden_size: int

    def init(self, key, input_size, *, dtype=jnp.float32):
        angle = jnp.arange(self.hidden_size, dtype=dtype)
        rate = jax.lax.complex(jnp.cos(angle), jnp.sin(angle))
        return Phases(jax.random.normal(key, (input_size, self.hidden_size), dtype), rate)

    def init_carry(self, params, batch_shape=(), *, dtype=None):
        wide = jnp.complex128 if (dtype or params.w_ih.dtype) == jnp.float64 else jnp.complex64
        return jl.RNNCarry(jnp.zeros((*batch_shape, self.hidden_size), wide))

    def project(self, params, x):
        return (x @ params.w_ih).astype(params.rate.dtype)

    def recur(self, params, carry):
        return jnp.broadcast_to(params.rate, carry.h.shape) * carry.h

    def transition(self, params, z, carry):
        return jl.RNNCarry(h=z)


@pytest.mark.slow
@pytest.mark.usefixtures("without_type_hook")  # which holds RNNCarry to be real
def test_a_complex_param():
    cell = PhaseCell(3)
    params, xs = cell.init(KEY, 2, dtype=jnp.float64), np.random.default_rng(0).normal(size=(5, 2))
    (h,), ys = jl.unroll(cell, params, xs)
    powers = np.asarray(params.rate) ** np.arange(4, -1, -1)[:, None]
    np.testing.assert_allclose(h, (powers * (xs @ np.asarray(params.w_ih))).sum(0), rtol=1e-12)
    assert ys.dtype == "complex128"

    def loss(run, params):
        return (jnp.abs(run(params)[1]) ** 4).sum()

    got = jax.grad(partial(loss, lambda params: jl.unroll(cell, params, xs)))(params)
    step = partial(loss, lambda params: jax.lax.scan(partial(cell.step, params), cell.init_carry(params), xs))
    assert_close(got, jax.grad(step)(params))


def test_initial_params_lie_in_the_ring():
    cell = jl.LRUCell(3, state_size=4000, r_min=0.4, r_max=0.9, max_phase=0.5)
    params = jax.jit(lambda: cell.init(KEY, 2))()
    assert [leaf.shape for leaf in params] == [(2, 8003), *[(4000,)] * 3, *[(4000, 3)] * 2]
    radius, angle = np.exp(-np.exp(params.nu_log)), np.exp(params.theta_log)
    assert 0.4 <= radius.min() < 0.41 < 0.89 < radius.max() <= 0.9
    np.testing.assert_allclose((radius**2).mean(), (0.4**2 + 0.9**2) / 2, atol=0.01)  # uniform in area
    assert 0 < angle.min() < 0.01 < 0.49 < angle.max() <= 0.5
    np.testing.assert_allclose(np.exp(params.gamma_log), np.sqrt(1 - radius**2), rtol=1e-4)
    b, d = np.split(params.w_ih, [8000], axis=1)
    assert b.std() == pytest.approx(0.5, rel=0.05)
    assert params.c_re.std() == pytest.approx(4000**-0.5, rel=0.05)
    assert d.shape == (2, 3)


def test_no_initial_param_is_infinite():
    """In 16 bits too. The whole disc, and a thin ring at its edge, where 1 - |lambda|^2 is close to 0."""
    for r_min in (0, 0.9999):
        ring = jax.jit(lambda key, r_min=r_min: init_ring(key, 1_000_000, r_min, 1, 2 * np.pi, "float32"))(KEY)
        assert all(np.isfinite(leaf.astype(dtype)).all() for leaf in ring for dtype in (np.float32, np.float16))


@pytest.mark.slow
def test_exponents_are_the_logarithms_of_the_radii():
    params, xs, *_ = modern.problem(CELL, 30, (2,))
    exponents = jl.inspect.lyapunov_exponents(CELL, params, xs)
    log_radius = np.sort(np.repeat(-np.exp(params.nu_log), 2))[::-1]
    np.testing.assert_allclose(exponents[:, :4], np.stack([log_radius] * 2), rtol=1e-10)
    assert (exponents[:, 4:] == -np.inf).all()  # D x forgets at once


@pytest.mark.slow
def test_inspect_shows_it():
    params, xs, carry, *_ = modern.problem(CELL, 5, (2,))
    _, seen = jl.inspect.trace(CELL, params, xs, carry)
    assert_close(seen.ys, CELL.readout(jax.tree.map(jnp.asarray, params), seen.carry))
    jacobians = jl.inspect.step_jacobians(CELL, params, xs, carry)
    rate = np.exp(-np.exp(params.nu_log) + 1j * np.exp(params.theta_log))
    want = np.zeros((7, 7))
    want[:2, :2] = want[2:4, 2:4] = np.diag(rate.real)
    want[2:4, :2], want[:2, 2:4] = np.diag(rate.imag), -np.diag(rate.imag)
    np.testing.assert_allclose(jacobians, np.broadcast_to(want, (5, 2, 7, 7)), atol=1e-12)
    flow = jl.inspect.gradient_flow(CELL, params, xs, carry, loss=lambda carry, ys: carry.s[0].real.sum())
    powers = np.abs(rate[None] ** np.arange(5)[:, None])
    np.testing.assert_allclose(flow.s[:, 0], np.linalg.norm(powers, axis=1), rtol=1e-10)


def test_no_wavefront_and_no_learned_carry():
    assert not _is_possible(CELL, 3)
    with pytest.raises(ValueError, match="cell: expected a cell whose carry holds real numbers alone"):
        jax.eval_shape(lambda: jl.LearnedCarry(CELL).init(KEY, 2))


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"state_size": 0}, "state_size: expected a positive int, got 0"),
        ({"r_min": 1}, "r_min: expected a number in [0, 1), got 1"),
        ({"r_min": -0.1}, "r_min: expected a number in [0, 1), got -0.1"),
        ({"r_min": 0.5, "r_max": 0.5}, "r_max: expected a number above r_min=0.5, up to 1, got 0.5"),
        ({"r_max": 1.1}, "r_max: expected a number above r_min=0.0, up to 1, got 1.1"),
        ({"max_phase": 0}, "max_phase: expected a positive number, got 0"),
        ({"max_phase": "pi"}, "max_phase: expected a number, got 'pi' (str)"),
    ],
)
@pytest.mark.usefixtures("without_type_hook")
def test_mistakes_are_named(mistake, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        jl.LRUCell(3, **mistake)
