"""Fixed and slow points: carries that a step with a given input does not change, or hardly.

Adam brings many carries to where a step changes little, and Newton's method finds the points there. As in `_jacobians`,
the carry is one vector of S numbers, and everything is computed in at least float32.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Complex, Float, Int

from jaxlstm import _array_checks, _checks
from jaxlstm._arrays import lead_shape, select
from jaxlstm._cell import Cell
from jaxlstm._dtypes import at_least_float32, cast, compute_dtype
from jaxlstm._flat import flatten, unflatten
from jaxlstm._step import Carry, Params
from jaxlstm._templates import check_params
from jaxlstm.inspect._flat import check_carries, step_of_vector

LEARNING_RATE = 0.02  # of Adam's first step; it falls to zero along half a cosine
NEWTON_STEPS = 100  # at most


class FixedPoints(NamedTuple):
    """N points: fixed points first, then slow points, the slowest first."""

    carry: Carry  # the points, in the cell's carry: [N, ...]
    speed: Float[Array, "N"]  # q = 1/2 |F(c) - c|^2
    fixed: Bool[Array, "N"]  # True: a fixed point, F(c) = c to rounding. False: a slow point
    stable: Bool[Array, "N"]  # all eigenvalues are smaller than 1 in magnitude
    eigenvalues: Complex[Array, "N S"]  # of the Jacobian d F / d c, the largest in magnitude first
    starts: Int[Array, "N"]  # how many of the initial carries led here


def fixed_points(
    cell: Cell,
    params: Params,
    x: ArrayLike,
    carries: Carry,
    *,
    steps: int = 1000,
    tolerance: float = 1e-6,
    merge_distance: float = 1e-2,
) -> FixedPoints:
    """Find the carries that a step with a given input does not change, or hardly (Sussillo & Barak 2013).

        F(c) = the carry one step after c, with input x        q(c) = 1/2 |F(c) - c|^2        (speed)

    Adam lowers the speed of many carries at once. Newton steps then take each to the point itself, damped so that its
    speed never rises (Levenberg-Marquardt). A point where q is 0, to rounding, is a fixed point. Any other minimum of q
    is a slow point, around which the carry moves by about sqrt(2 q) a step.

    The eigenvalues of d F / d c say how small differences from the point grow or shrink. If all have a magnitude below
    1, the point is stable: nearby carries move to it. Each larger one is a direction that leads away from it.

    A slow point may also lie where no run goes, such as at ``|h| > 1`` of a GRU, where its gates are saturated.

    Args:
      cell: the recurrence, in evaluation: without random numbers.
      params: its params.
      x: the input ``[I]``, the same at every step; ``[*spatial_shape, I]`` for a cell with spatial axes.
      carries: initial carries with any leading axes ``[*lead, ...]``, such as ``trace(...)[1].carry``. Only points
        that some of them lead to are found, so take many that the network visits.
      steps: how many steps Adam takes.
      tolerance: points with a higher speed are left out.
      merge_distance: points closer than this are merged into one (Euclidean distance over all S numbers).

    Returns:
      `FixedPoints`. Their number N is known only at run time, so this does not work inside jit. In float32, F has an
      error of about 1e-6, and a very slow point counts as fixed. In float64 (``jax_enable_x64``, and params or x of
      that dtype), fixed points are exact to 1e-10 or better, unless an eigenvalue is almost 1.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it.
      ImportError: if Optax is missing. The extra `inspect` brings it.

    Reference: Sussillo & Barak 2013, "Opening the black box: low-dimensional dynamics in high-dimensional recurrent
    neural networks".

    >>> from jaxlstm.inspect import fixed_points
    >>> cell = jl.RNNCell(1)  # h = tanh(2 h)
    >>> params = jl.RNNParams(w_ih=jnp.zeros((1, 1)), w_hh=jnp.full((1, 1), 2.0), b=jnp.zeros(1))
    >>> points = fixed_points(cell, params, jnp.zeros(1), jl.RNNCarry(h=jnp.linspace(-1, 1, 9)[:, None]))
    >>> jnp.abs(points.carry.h[:, 0]).round(2), points.stable
    (Array([0.96, 0.  , 0.96], dtype=float32), Array([ True, False,  True], dtype=bool))
    """
    _checks.check_cell(cell, Cell)
    steps = _checks.check_size("steps", steps)
    for name, value in (("tolerance", tolerance), ("merge_distance", merge_distance)):
        if _checks.check_number(name, value) <= 0:
            _checks.reject(name, "a number above 0", value)
    _require_optax()
    params, x, carries = _check_arrays(cell, params, x, carries)
    like = jax.tree.map(lambda part: part[0], carries)
    starts = flatten(carries, 1)
    first_speeds, ends, speeds, fixed = map(np.asarray, _search(params, x, starts, like, cell=cell, steps=steps))
    if bad := int((~np.isfinite(first_speeds)).sum()):
        _checks.reject("carries", "a finite speed at each", f"NaN or infinity at {bad} of {len(starts)}")
    order = np.argsort(np.where(fixed, 0, speeds), kind="stable")
    kept, count = _merge(ends, order[speeds[order] <= tolerance], merge_distance)
    points = jnp.asarray(ends[kept])
    eigenvalues = _eigenvalues(np.asarray(_jacobians(params, x, points, like, cell=cell)))
    return FixedPoints(
        carry=unflatten(points, like, 0),
        speed=jnp.asarray(speeds[kept]),
        fixed=jnp.asarray(fixed[kept]),
        stable=jnp.asarray((np.abs(eigenvalues) < 1).all(-1)),
        eigenvalues=jnp.asarray(eigenvalues),
        starts=jnp.asarray(count),
    )


def _require_optax() -> None:
    try:
        import optax  # noqa: F401
    except ImportError as error:
        raise ImportError(f"fixed_points needs the extra inspect: pip install 'jaxlstm[inspect]' ({error})") from error


def _check_arrays(cell: Cell, params: Params, x: ArrayLike, carries: Carry) -> tuple[Params, Array, Carry]:
    """Params, input and carries ``[N, ...]``, checked, in one dtype of at least float32."""
    for name, value in (("params", params), ("x", x), ("carries", carries)):
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value)):
            _checks.reject(
                name, "values known now (call fixed_points outside jit, grad and vmap)", "a tracer", TypeError
            )
    x = _array_checks.input_array("x", x, cell.spatial_shape, time=False)
    if lead_shape(x, cell.spatial_shape):
        axes = f"[{', '.join([*map(str, cell.spatial_shape), 'I'])}]"
        _checks.reject("x", f"an array {axes} (one input, without time or batch)", _checks.describe(x))
    params, like = check_params(cell, params, (), x, "x")
    for path, part in jax.tree_util.tree_leaves_with_path(like):
        if not jnp.issubdtype(part.dtype, jnp.floating):
            where = f"carry{jax.tree_util.keystr(path)}"
            _checks.reject("cell", "a carry of real floating-point numbers", f"{part.dtype} as {where}", TypeError)
    carries, _ = check_carries("carries", carries, like)
    carries = jax.tree.map(lambda leaf, part: leaf.reshape(-1, *part.shape), carries, like)
    return cast((params, x, carries), at_least_float32(compute_dtype(params, x.dtype)))


@partial(jax.jit, static_argnames=("cell", "steps"))
def _search(
    params: Params, x: Array, starts: Float[Array, "N S"], like: Carry, *, cell: Cell, steps: int
) -> tuple[Float[Array, "N"], Float[Array, "N S"], Float[Array, "N"], Bool[Array, "N"]]:
    """The speeds at the start, and where each carry ends, its speed there, and whether this is 0 to rounding."""
    step = step_of_vector(cell, params, x, like)

    def change(c: Float[Array, "S"]) -> Float[Array, "S"]:
        return step(c) - c

    first_speeds = _speed(jax.vmap(change)(starts))
    return first_speeds, *jax.lax.map(partial(_newton, change), _descend(change, starts, steps))


@partial(jax.jit, static_argnames="cell")
def _jacobians(
    params: Params, x: Array, points: Float[Array, "N S"], like: Carry, *, cell: Cell
) -> Float[Array, "N S S"]:
    return jax.vmap(jax.jacfwd(step_of_vector(cell, params, x, like)))(points)


Change = Callable[[Array], Array]  # r(c) = F(c) - c, of carries that are vectors [S]


def _speed(r: Float[Array, "*N S"]) -> Float[Array, "*N"]:
    """q = 1/2 |r|^2."""
    return 0.5 * jnp.sum(r**2, axis=-1)


def _descend(change: Change, starts: Float[Array, "N S"], steps: int) -> Float[Array, "N S"]:
    """Lower the speed of every carry by Adam."""
    import optax  # an extra

    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps))
    gradients = jax.vmap(jax.grad(lambda c: _speed(change(c))))

    def update(_: Array, now: tuple[Array, optax.OptState]) -> tuple[Array, optax.OptState]:
        points, state = now
        with jax.numpy_dtype_promotion("standard"):  # Optax multiplies its int counters by floats
            updates, state = optimizer.update(gradients(points), state)
        return jax.tree.map(jnp.add, points, updates), state

    return jax.lax.fori_loop(0, steps, update, (starts, optimizer.init(starts)))[0]


def _newton(change: Change, start: Float[Array, "S"]) -> tuple[Float[Array, "S"], Float[Array, ""], Bool[Array, ""]]:
    """Lower the speed of one carry by damped Newton steps d, and say whether r is 0 to rounding.

        (A^T A + m) d = -A^T r        r = F(c) - c        A = d r / d c

    With m = 0 this is Newton's step to r = 0. A step that does not lower the speed is not taken, and m rises; after any
    other step m falls.
    """
    epsilon = jnp.finfo(start.dtype).eps
    identity = jnp.eye(start.size, dtype=start.dtype)

    def unfinished(now: tuple[Array, Array, Array, Array]) -> Array:
        _, r, m, tried = now
        return (r != 0).any() & (m < 1e3) & (tried < NEWTON_STEPS)

    def improve(now: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        c, r, m, tried = now
        a = jax.jacfwd(change)(c)
        c_next = c - jnp.linalg.solve(a.T @ a + m * identity, a.T @ r)
        r_next = change(c_next)
        better = _speed(r_next) < _speed(r)
        c, r = select(better, (c_next, r_next), (c, r))
        return c, r, jnp.where(better, jnp.maximum(m / 10, epsilon), m * 10), tried + 1

    m, tried = jnp.asarray(1e-3, start.dtype), jnp.asarray(0, jnp.int32)
    c, r, *_ = jax.lax.while_loop(unfinished, improve, (start, change(start), m, tried))
    return c, _speed(r), jnp.abs(r).max() <= 100 * epsilon * jnp.maximum(1, jnp.abs(c).max())


def _merge(points: np.ndarray, order: np.ndarray, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """The indices of the points that are kept, and how many each stands for.

    The first in the order is kept and takes in all that are closer to it than the distance, then the first of the rest.
    """
    kept, count = [], []
    while len(order):
        close = np.linalg.norm(points[order] - points[order[0]], axis=-1) < distance
        kept.append(order[0])
        count.append(close.sum())
        order = order[~close]
    return np.array(kept, int), np.array(count, int)


def _eigenvalues(jacobians: np.ndarray) -> np.ndarray:
    """By NumPy, since JAX has no eigenvalues of general matrices on every device."""
    eigenvalues = np.linalg.eigvals(jacobians).astype(np.result_type(jacobians, np.complex64))
    largest_first = np.argsort(-np.abs(eigenvalues), axis=-1, kind="stable")
    return np.take_along_axis(eigenvalues, largest_first, axis=-1)
