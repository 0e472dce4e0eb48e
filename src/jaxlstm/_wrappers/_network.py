"""A network of the core called as a Flax module: batch first, in the module's dtype, under Flax's names."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxlstm import _array_checks, _checks
from jaxlstm._arrays import lead_shape
from jaxlstm._dtypes import cast, cast_like, compute_dtype
from jaxlstm._network import Network
from jaxlstm._random import Key
from jaxlstm._step import Carry, Output, Params
from jaxlstm._wrappers._params import from_dict, template
from jaxlstm._wrappers._sequence import Call, time_first


def check_options(*, dtype: Any, param_dtype: Any, remat: Any) -> None:
    """The options that are no part of a network."""
    if dtype is not None:
        _checks.check_dtype(dtype)
    _checks.check_dtype(param_dtype, "param_dtype")
    _checks.check_remat(remat)


def check_inputs(network: Network, inputs: ArrayLike, input_size: int | None, *, time: bool) -> int:
    """The input size of inputs of all steps, or of one, which has to be that of the params if there are any."""
    shape, spatial_shape = jnp.shape(inputs), network.spatial_shape
    axes = f"[{', '.join(['*batch', *['T'] * time, *map(str, spatial_shape), 'I'])}]"
    if len(shape) < axes.count(",") or shape[len(shape) - 1 - len(spatial_shape) : -1] != spatial_shape:
        _checks.reject("inputs", f"an array {axes}", _checks.describe(inputs))
    if input_size not in (None, shape[-1]):
        _checks.reject("inputs", f"{input_size} features on the last axis, as the params", shape[-1])
    return shape[-1]


def apply_network(
    network: Network,
    params: dict[str, Any],
    inputs: ArrayLike,
    *,
    dtype: DTypeLike | None,
    seq_lengths: ArrayLike | None,
    mask: ArrayLike | None,
    reset: ArrayLike | None,
    initial_carry: Carry | None,
    key: Key | None,
    remat: bool | int | str | None,
) -> tuple[Carry, Output]:
    """Run the network over inputs ``[*batch, T, I]``, in `dtype`, or what params and inputs promote to."""
    feature_axes = 1 + len(network.spatial_shape)
    steps = time_first(inputs, Call(seq_lengths=seq_lengths, mask=mask, reset=reset, feature_axes=feature_axes))
    xs, batch_shape = steps.inputs, lead_shape(steps.inputs, network.spatial_shape)[1:]
    tree, compute = _computing(network, params, xs, dtype)
    if initial_carry is not None:
        initial_carry = _like_the_first(network, tree, "initial_carry", initial_carry, batch_shape)
    carry, ys = network.apply(
        tree, xs.astype(compute), initial_carry, mask=steps.valid, reset=steps.reset, key=key, remat=remat
    )
    return carry, jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, len(batch_shape)), ys)


def step_network(
    network: Network,
    params: dict[str, Any],
    carry: Carry | None,
    inputs: ArrayLike,
    *,
    dtype: DTypeLike | None,
    mask: ArrayLike | None,
    reset: ArrayLike | None,
    key: Key | None,
    start: ArrayLike,
) -> tuple[Carry, Output]:
    """Run one step of inputs ``[*batch, I]``; a carry that is None is the initial one."""
    x = jnp.asarray(inputs)
    tree, compute = _computing(network, params, x, dtype)
    batch_shape = lead_shape(x, network.spatial_shape)
    if carry is None:
        carry = network.init_carry(tree, batch_shape)
    else:
        carry = _like_the_first(network, tree, "carry", carry, batch_shape)
    return network.step(tree, carry, x.astype(compute), mask=mask, reset=reset, key=key, start=start)


def first_carry(
    network: Network, params: Params | None, batch_shape: tuple[int, ...], dtype: DTypeLike, input_size: int = 1
) -> Carry:
    """The carry before the first step; without params, for a network whose first carry does not depend on them."""
    if not isinstance(batch_shape, tuple) or not all(isinstance(size, int) and size >= 0 for size in batch_shape):
        _checks.reject("batch_shape", "a tuple of ints", _checks.describe(batch_shape), TypeError)
    if params is None:
        params = template(network, input_size)
        jaxpr = jax.make_jaxpr(lambda given: network.init_carry(given, batch_shape))(params).jaxpr
        read = {id(var) for eqn in jaxpr.eqns for var in eqn.invars} | set(map(id, jaxpr.outvars))
        if any(id(var) in read for var in jaxpr.invars):
            _checks.reject("init_carry", "a call within apply, since the initial carry depends on params", "none")
        params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params)
    return network.init_carry(cast(params, dtype), batch_shape)


def _computing(network: Network, params: dict[str, Any], xs: jax.Array, dtype: DTypeLike | None) -> tuple[Params, Any]:
    """The network's params in the dtype of the computation, and that dtype."""
    tree = from_dict(network, xs.shape[-1], params)
    compute = compute_dtype(tree, xs.dtype) if dtype is None else jnp.dtype(dtype)
    return cast(tree, compute), compute


def _like_the_first(network: Network, params: Params, name: str, carry: Carry, batch_shape: tuple[int, ...]) -> Carry:
    """A carry that is given, once it fits, in the dtypes of the first one."""
    first = jax.eval_shape(lambda: network.init_carry(params, batch_shape))
    carry = _array_checks.like_template(name, carry, first, f"for inputs of batch shape {batch_shape}")
    return cast_like(carry, first)
