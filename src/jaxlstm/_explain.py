"""What `unroll` will do, told before it runs."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxlstm import _array_checks, _checks, _unroll
from jaxlstm._arrays import lead_shape
from jaxlstm._cell import Cell
from jaxlstm._chunkwise import CHUNK
from jaxlstm._dtypes import cast, compute_dtype
from jaxlstm._evaluators import evaluator_of
from jaxlstm._layers import Layer
from jaxlstm._network import Network, Options, check_network
from jaxlstm._platform import Choice, choices
from jaxlstm._scan import output_leaf
from jaxlstm._step import Inputs, Params, masked_step
from jaxlstm._templates import check_params
from jaxlstm._wavefront import Wave, lowered_for
from jaxlstm._wrapper import CellWrapper

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def explain(
    network: Cell | Network,
    params: Params,
    xs: ArrayLike | jax.ShapeDtypeStruct,
    *,
    unroll: int | None = None,
    remat: bool | int | str | None = None,
    project_first: bool | None = None,
    evaluator: str | None = None,
    platform: str | None = None,
) -> str:
    """Say what `unroll`, or a network's `apply`, will do with these arguments. Nothing is computed or compiled.

    It tells of each cell how its loop runs, where inputs are projected, and what is kept for the gradient, in bytes.
    Then it gives the flops of the matmuls; for Newton's method, those of one iteration.

    Args:
      network: a `Network` or a cell.
      params: its params; shapes and dtypes suffice, as `jax.eval_shape` gives them.
      xs: inputs ``[T, *batch, I]``, or their shape and dtype as a `jax.ShapeDtypeStruct`.
      unroll: as in `jaxlstm.unroll`.
      remat: as in `jaxlstm.unroll`.
      project_first: as in `jaxlstm.unroll`.
      evaluator: as in `jaxlstm.unroll`.
      platform: "cpu", "cuda", "rocm" or "tpu"; None means that of JAX's default backend.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it.

    >>> cell = jl.LSTMCell(hidden_size=128)
    >>> params = cell.init(jax.random.key(0), input_size=64)
    >>> print(jl.explain(cell, params, jax.ShapeDtypeStruct((96, 32, 64), jnp.float32), platform="cuda"))
    LSTMCell(hidden_size=128), forward, on cuda
      xs: float32[96, 32, 64], computed in float32
      loop: 6 iterations of 16 steps
      inputs: projected before the loop, by one matmul
      kept for the gradient: 7.86 MB, of each step the carry before it except ys (1.57 MB) and pre-activations (6.29 MB)
      matmuls: 0.604 Gflop forward, 1.81 Gflop with the gradient
    """
    _checks.check_options(key=None, unroll=unroll, remat=remat, project_first=project_first, evaluator=evaluator)
    if platform is None:
        platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    elif platform not in PLATFORMS:
        _checks.reject("platform", f"one of {', '.join(map(repr, PLATFORMS))}", repr(platform))
    told: list[str] = []

    def run_cell(cell: Cell, params: tuple[Params, ...], xs: jax.Array, carry: Any, **options: Any) -> Any:
        told.append(_of_cell(cell, params, xs, options, platform))
        return _unroll.unroll_directions(cell, params, xs, carry, **options)

    def run(params: Params, xs: jax.Array) -> Any:
        check_network(network)
        xs = _array_checks.input_array("xs", xs, network.spatial_shape)
        if not all(isinstance(size, int) for size in xs.shape):
            _checks.reject("xs", "sizes that are known, not symbolic", xs.shape)
        options = Options(None, None, None, None, _array_checks.start_array(0), unroll, remat, project_first, evaluator)
        if isinstance(network, Network):
            return network._apply(params, xs, None, options, run_cell)
        return Layer(network)._apply(params, xs, None, options, run_cell)

    with lowered_for(platform):
        jax.eval_shape(run, params, xs)
    return "\n".join(told)


def _of_cell(cell: Cell, params: tuple[Params, ...], xs: jax.Array, options: dict[str, Any], platform: str) -> str:
    """The lines about one cell, in one or both directions."""
    steps, *batch = lead_shape(xs, cell.spatial_shape)
    params, carry = zip(*(check_params(cell, given, tuple(batch), xs, "xs") for given in params), strict=True)
    dtype = compute_dtype(params, xs.dtype)
    chunk = _unroll.chunk_length(options["remat"], steps)  # True or False where the whole sequence is one
    evaluator = evaluator_of(cell, options["evaluator"], steps, carry[0])
    length = steps if isinstance(chunk, bool) else min(chunk, steps)
    if evaluator == "chunkwise" and isinstance(chunk, bool):
        length = CHUNK
    shape = (length, *xs.shape[1:])
    by_platform = choices(options["project_first"], options["unroll"], cast(params[0], dtype), shape, evaluator)
    choice = by_platform.get(platform, by_platform["default"])
    flops = 2 * math.prod(xs.shape[:-1]) * _matrix_sizes(cell, params)
    directions = ["backward" if reverse else "forward" for reverse in options["reverse"]]
    loops = ""
    if len(directions) == 2:
        together = choice.one_loop and evaluator != "chunkwise" and _unroll.fit_one_loop(params, carry, xs)
        loops = ", for both directions" if together else ", for each direction"
    where = {
        "loop": "before the loop, by one matmul" if choice.project_first else "in each step",
        "associative": "all at once, by one matmul",
        "chunkwise": "in each chunk, by one matmul",
        "newton": "in each iteration, by one matmul",
    }[choice.evaluator]
    lines = [
        f"{cell}, {' and '.join(directions)}, on {platform}",
        f"xs: {_checks.describe(xs)}, computed in {dtype}",
        f"{_evaluation(choice, steps, length)}{loops}",
        f"inputs: projected {where}{'; those of the layers above in each step' * isinstance(cell, Wave)}",
        f"kept for the gradient: {_kept(cell, cast(params, dtype), xs.astype(dtype), chunk, length, choice)}",
        f"matmuls: {flops / 1e9:.3g} Gflop forward, {3 * flops / 1e9:.3g} Gflop with the gradient",
    ]
    return "\n  ".join(lines)


def _evaluation(choice: Choice, steps: int, length: int) -> str:
    """How the steps are evaluated."""
    if choice.evaluator == "loop":
        return f"loop: {_loop(steps, length, choice.unroll)}"
    if choice.evaluator == "chunkwise":
        return f"loop: {_count(-(-steps // length), 'chunk')}, in each up to {length} steps at once"
    by = {"associative": "an associative scan", "newton": "Newton's method, or the loop where it does not converge"}
    which = "all steps" if length == steps else f"the {length} steps of a chunk"
    return f"no loop: {which} at once, by {by[choice.evaluator]}"


def _matrix_sizes(cell: Cell, params: tuple[Params, ...]) -> int:
    """The numbers of the weight matrices, by each of which an input or a carry is multiplied once a step."""
    if isinstance(cell, Wave):
        params = tuple(cell.layer_params(given, layer) for given in params for layer in range(cell.layers))
        return _matrix_sizes(cell.cell, params)
    if isinstance(cell, CellWrapper):
        return _matrix_sizes(cell.cell, tuple(map(cell.inner_params, params)))
    return sum(leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim >= 2 + len(cell.spatial_shape))


def _loop(steps: int, length: int, unroll: int) -> str:
    """The iterations, of a chunk if there are several."""
    if not steps:
        return "none, since there are no steps"
    iterations, rest = divmod(length, unroll)
    told = f"{_count(iterations, 'iteration')} of {_count(unroll, 'step')}"
    if unroll >= length:
        told = f"none, all {length} steps in a row" if length > 1 else "none, a single step"
    elif rest:
        told += f" and {rest} more, since {unroll} does not divide {length}"
    if length == steps:
        return told
    chunks, rest = _count(steps // length, "chunk"), " and a rest" * bool(steps % length)
    return f"{chunks} of {_count(length, 'step')}{rest}; in each {told}"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _kept(cell: Cell, params: tuple[Params, ...], xs: jax.Array, chunk: bool | int, length: int, choice: Choice) -> str:
    """What is kept of the forward pass for the backward pass, apart from xs, ys and the params."""
    steps, *batch = lead_shape(xs, cell.spatial_shape)
    if not steps:
        return "nothing, since there are no steps"
    initial = cell.init_carry(params[0], tuple(batch), dtype=xs.dtype)
    one = Inputs(jnp.zeros(xs.shape[1:], xs.dtype), None, None, None)
    _, _, kept = jax.eval_shape(lambda: masked_step(cell, params[0], initial, initial, one))
    output = None
    if choice.pack and choice.evaluator == "loop":
        output = output_leaf(cell, params[0], initial, one._replace(x=xs))
    leaves = [leaf for index, leaf in enumerate(jax.tree.leaves(kept.before)) if index != output]
    carry, z = (
        len(params) * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) / 1e6
        for tree in (leaves, kept.z)
    )
    before = "the carry before it" + (" except ys" if output is not None else "")
    between = len(params) * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(initial)) / 1e6
    if choice.evaluator == "chunkwise":
        chunks = -(-steps // length)
        return f"{chunks * between:.3g} MB, the carries between chunks; a chunk is computed again"
    if chunk is True:
        return f"{steps * carry:.3g} MB, of each step {before}; pre-activations are computed again"
    every = before + " ({:.3g} MB) and pre-activations ({:.3g} MB)"
    if chunk is False:
        return f"{steps * (carry + z):.3g} MB, of each step {every.format(steps * carry, steps * z)}"
    again = every.format(length * carry, length * z)
    return (
        f"{-(-steps // length) * between:.3g} MB, the carries between chunks; "
        f"a chunk is computed again and keeps {length * (carry + z):.3g} MB, of each step {again}"
    )
