"""A stack of equal layers as a wavefront: in iteration s of one loop, layer l runs its step s - l.

T steps of L layers take T + L - 1 iterations, not L T. Each has one matmul for what the carries of all layers give, and
one for the inputs of the upper layers. To the loop and to the derivative rule, the layers are one cell, `Wave`, whose
carry has an axis of layers.

On a GPU, a step of four layers then launches less than half as many kernels; with two layers it would launch no fewer.
The upper layers' inputs are projected in the loop, which reads their weights more often. So layers with large weights
keep a loop each.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool

from jaxlstm import _array_checks, _checks
from jaxlstm._arrays import select
from jaxlstm._cell import Cell
from jaxlstm._dtypes import carry_dtype, cast_like
from jaxlstm._random import Key
from jaxlstm._step import Carry, Params
from jaxlstm._templates import check_params, params_template

LAYERS = 3  # from so many on
WEIGHTS = 40_000_000  # bytes, up to which a GPU's cache holds them

Running = Bool[Array, "*batch L"] | None  # None: all layers

_platform: ContextVar[str | None] = ContextVar("platform", default=None)


@contextmanager
def lowered_for(platform: str) -> Iterator[None]:
    """Choose for this platform, not for JAX's default backend. The choice must be made before JAX lowers a program."""
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


def is_best(cell: Cell, params: tuple[Params, ...], xs: Array) -> bool:
    """Whether a wavefront of these layers is possible, and the best way on the platform."""
    steps, *_, input_size = xs.shape
    if (_platform.get() or jax.default_backend()) == "cpu" or len(params) < LAYERS or not isinstance(steps, int):
        return False
    sizes = (input_size, *(cell.output_size,) * (len(params) - 1))
    wanted = [params_template(cell, size) for size in sizes]
    leaves = jax.tree.leaves(params)
    if jax.tree.structure(list(params)) != jax.tree.structure(wanted) or not all(hasattr(a, "dtype") for a in leaves):
        return False  # each layer says what is wrong with its own
    dtypes = [[leaf.dtype for leaf in jax.tree.leaves(given)] for given in params]
    alike = all(leaf.shape == want.shape for leaf, want in zip(leaves, jax.tree.leaves(wanted), strict=True))
    small = sum(leaf.nbytes for leaf in leaves) <= WEIGHTS
    return alike and small and all(kinds == dtypes[0] for kinds in dtypes) and _is_possible(cell, input_size)


@functools.lru_cache(maxsize=256)
def _is_possible(cell: Cell, input_size: int) -> bool:
    """Whether all arrays of a step are vectors, and of the params whose shape the input decides, `project` alone reads.

    For those, the lowest layer has others than the upper ones.
    """
    lowest, upper = (params_template(cell, size) for size in (input_size, cell.output_size))
    carry = jax.eval_shape(cell.init_carry, lowest)
    x = jax.ShapeDtypeStruct((*cell.spatial_shape, input_size), carry_dtype(lowest, (), None))
    zx = jax.eval_shape(cell.project, lowest, x)
    zh = jax.eval_shape(cell.recur, lowest, carry)
    z = jax.eval_shape(cell.combine, zx, zh)
    y = jax.eval_shape(cell.readout, lowest, carry)
    if any(
        leaf.ndim != 1 or not jnp.issubdtype(leaf.dtype, jnp.floating)
        for leaf in jax.tree.leaves((carry, z, zx, zh, y))
    ):
        return False

    def step(params: Params, carry: Carry, z: Any) -> Any:
        return cell.recur(params, carry), cell.transition(params, z, carry), cell.readout(params, carry)

    jaxpr = jax.make_jaxpr(step)(lowest, carry, z).jaxpr
    read = {id(var) for eqn in jaxpr.eqns for var in eqn.invars} | set(map(id, jaxpr.outvars))
    each = zip(jaxpr.invars, jax.tree.leaves(lowest), jax.tree.leaves(upper), strict=False)
    return isinstance(y, jax.ShapeDtypeStruct) and not any(
        low.shape != up.shape and id(var) in read for var, low, up in each
    )


class WaveParams(NamedTuple):
    """The lowest layer's params, and those of all layers stacked.

    In `all`, zeros stand for the lowest layer's arrays of another shape.
    """

    lowest: Params
    all: Params


@dataclass(frozen=True)
class Wave(Cell[WaveParams, Any]):
    """Equal cells above each other. Leaves of the carry are ``[*batch, L, H]``; each step is told which layers run."""

    cell: Cell
    layers: int

    def __repr__(self) -> str:
        return f"{self.layers} layers of {self.cell} as a wavefront"

    @property
    def output_size(self) -> int:
        """O of each layer."""
        return self.cell.output_size

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> WaveParams:
        """The params of all layers."""
        sizes = (input_size, *(self.cell.output_size,) * (self.layers - 1))
        return join_params(tuple(self.cell.init(key, size, dtype=dtype) for size in sizes))

    def init_carry(
        self, params: WaveParams, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None
    ) -> Carry:
        """The first carries of all layers."""
        first = functools.partial(self.cell.init_carry, batch_shape=batch_shape, dtype=dtype)
        return jax.vmap(first, out_axes=-2)(params.all)

    def layer_params(self, params: WaveParams, layer: int) -> Params:
        """Those of one layer."""
        return _layers(params.all, layer) if layer else params.lowest

    def project(self, params: WaveParams, x: Array) -> Any:
        """The lowest layer's zx."""
        return self.cell.project(params.lowest, x)

    def recur(self, params: WaveParams, carry: Carry, running: Running = None) -> tuple[Any, Any]:
        """What depends on the carry: the upper layers' zx, and the zh of all."""
        lower, upper = _layers(params.all, slice(None, -1)), _layers(params.all, slice(1, None))
        below = _each(self.cell.readout)(lower, _at(carry, slice(None, -1)))
        return _each(self.cell.project)(upper, below), _each(self.cell.recur)(params.all, carry)

    def combine(self, zx: Any, zh: tuple[Any, Any]) -> Any:
        """The pre-activations of all layers."""
        upper, zh = zh
        zxs = jax.tree.map(lambda one, more: jnp.concatenate([one[..., None, :], more], axis=-2), zx, upper)
        return jax.vmap(self.cell.combine, in_axes=-2, out_axes=-2)(zxs, zh)

    def transition(self, params: WaveParams, z: Any, carry: Carry, running: Running = None) -> Carry:
        """The carries of the layers that run, and the others' as they were."""
        after = _each(self.cell.transition)(params.all, z, carry)
        return after if running is None else select(running, after, carry)

    def readout(self, params: WaveParams, carry: Carry) -> Any:
        """The outputs of all layers."""
        return _each(self.cell.readout)(params.all, carry)


def join_params(params: tuple[Params, ...]) -> WaveParams:
    """The layers' params, bottom first, as those of a `Wave`."""

    def join(lowest: Array, *upper: Array) -> Array:
        return jnp.stack([lowest if lowest.shape == upper[0].shape else jnp.zeros_like(upper[0]), *upper])

    return WaveParams(params[0], jax.tree.map(join, *params))


def run_layers(
    run_cell: Callable[..., Any],
    cell: Cell,
    params: tuple[Params, ...],
    xs: Array,
    carry: tuple[Carry, ...] | None,
    valid: Bool[Array, "T *batch"] | None,
    **options: Any,
) -> tuple[tuple[Carry, ...], Array]:
    """The carries of all layers, and the top one's outputs, with one loop for all.

    Args:
      run_cell: `unroll_directions`.
      cell: of each layer.
      params: of each layer, bottom first.
      xs: ``[T, *batch, I]``.
      carry: of each layer; None means the cell's first.
      valid: which steps count; None means all.
      options: of `unroll_directions`.
    """
    steps, *batch, input_size = xs.shape
    layers = len(params)
    if carry is not None:
        below = (input_size, *(cell.output_size,) * (layers - 1))
        each = zip(params, carry, (jnp.zeros(size, xs.dtype) for size in below), strict=True)
        why = f"for xs of shape {xs.shape}"
        checked = []
        for index, (of_layer, given, x) in enumerate(each):
            with _checks.noting(_checks.IN_LAYER, index, layers - 1, cell):
                template = check_params(cell, of_layer, tuple(batch), x, "xs")[1]
                checked.append(_array_checks.like_template("carry", given, template, why))
        carry = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=-2), *checked)
    iterations = _with_a_divisor(steps + layers - 1)
    counts = jnp.ones(xs.shape[:-1], bool) if valid is None else valid
    xs = select(counts, xs, jnp.zeros_like(xs))
    xs, counts = (jnp.pad(leaf, ((0, iterations - steps), *((0, 0),) * (leaf.ndim - 1))) for leaf in (xs, counts))
    more = options | {"lengths": None, "mask": counts, "reset": None, "key": (None,), "reverse": (False,)}
    used = counts.any(0)  # NaN in a carry that no step reads reaches no gradient
    first = None if carry is None else select(used, carry, jax.tree.map(jnp.zeros_like, carry))
    (after,), (ys,) = run_cell(Wave(cell, layers), (join_params(params),), xs, (first,), **more)
    after = after if carry is None else select(used, after, cast_like(carry, after))
    ys = ys[layers - 1 : layers - 1 + steps, ..., -1, :]
    ys = ys if valid is None else select(valid, ys, jnp.zeros_like(ys))
    return tuple(jax.tree.map(lambda leaf, i=i: leaf[..., i, :], after) for i in range(layers)), ys


def _with_a_divisor(steps: int) -> int:
    """The next number of steps that iterations of 8 to 16 steps divide, so that no rest needs a loop of its own."""
    return next(n for n in itertools.count(steps) if n <= 16 or any(n % size == 0 for size in range(8, 17)))


def running_layers(valid: Bool[Array, "T *batch"], layers: int) -> Bool[Array, "T *batch L"]:
    """Which layers have a step that counts in each iteration, if layer l runs l iterations late."""
    late = [jnp.pad(valid, ((layer, 0), *((0, 0),) * (valid.ndim - 1)))[: valid.shape[0]] for layer in range(layers)]
    return jnp.stack(late, axis=-1)


def _each(fn: Any) -> Any:
    """A function of one layer's params and arrays ``[*batch, n]`` for all, which have ``[*batch, L, n]``."""
    return lambda params, *arrays: jax.vmap(fn, in_axes=(0, *(-2,) * len(arrays)), out_axes=-2)(params, *arrays)


def _layers(params: Params, which: slice | int) -> Params:
    return jax.tree.map(lambda leaf: leaf[which], params)


def _at(carry: Carry, which: slice) -> Carry:
    return jax.tree.map(lambda leaf: leaf[..., which, :], carry)
