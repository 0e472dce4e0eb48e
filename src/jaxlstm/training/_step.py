"""One step of gradient descent, jitted."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from jaxlstm import _checks
from jaxlstm._step import Carry, Params
from jaxlstm.training._guard import skipped
from jaxlstm.training._mesh import MeshStep, Specs, check_mesh
from jaxlstm.training._state import TrainState, check_optimizer

Metrics = dict[str, Any]  # arrays by name
OWN = ("loss", "grad_norm", "skipped")  # those of the step itself
# (params, batch, key) -> (loss, metrics), or (params, carry, batch, key) -> (loss, (carry, metrics))
LossFn = Callable[..., tuple[Any, Any]]
TrainStep = Callable[[TrainState, Any], tuple[TrainState, Metrics]]


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    mesh: Mesh | None = None,
    batch_axis: Any = 1,
    param_specs: Specs | None = None,
    batch_size: int | None = None,
) -> TrainStep:
    """Make the function that takes one step, jitted, its state's memory given away (donated).

        key_n = fold_in(key, n)
        g     = d loss_fn(params, batch, key_n)[0] / d params
        params, opt_state = the optimizer's update by g        n + 1

    Args:
      loss_fn: ``(params, batch, key) -> (loss, metrics)``: a floating-point scalar to minimise, and a dict of whatever
        else should be reported, ``{}`` for nothing. Where the state has a carry, ``(params, carry, batch, key) ->
        (loss, (carry, metrics))``: the next step is given the carry that this one returns. No gradient enters it.
      optimizer: the Optax gradient transformation that `init_state` was given.
      mesh: devices to run on, with an axis "data" that batches are divided over, and perhaps an axis "model" for
        params. Results are those of one device, to rounding. A batch that the devices do not divide is filled up with
        zeros, and must hold a bool mask by which the loss leaves out what fills it up: its entries there are False.
        (Any bool array in it is taken for one, but for those named "reset".) With several processes each gives its own
        part of the batch, of the same shape as the others'. A carry's first axis is that of the sequences, with those
        that fill them up. (Where a batch is filled up, what `loss_fn` draws at random has that shape too.)
      batch_axis: the axis of the sequences in the batch, one for all its leaves or a tree of them; time comes first.
      param_specs: a function of the params to a tree like them of `jax.sharding.PartitionSpec`. None divides the last
        axis of each over "model", the packed gates, where that goes; without such an axis params are replicated.
      batch_size: sequences that every batch is filled up to, those of all processes together: for a last batch that is
        smaller, or parts that differ. None fills up to what the devices divide.

    Returns:
      ``train_step(state, batch) -> (state, metrics)``, metrics being "loss", "grad_norm" (the Euclidean norm of g over
      all params, before the optimizer clips or scales it), "skipped" where `skip_nonfinite` guards the optimizer, and
      what `loss_fn` reports. The state that went in must not be used again. ``jax.vmap(train_step)``, without a mesh,
      trains several seeds at once, on a state and batches with a leading axis.

    Raises:
      ValueError, TypeError: if an argument, or what `loss_fn` returns, does not fit; the message says how.

    >>> import optax
    >>> from jaxlstm.training import init_state, make_train_step
    >>> def loss_fn(params, batch, key):
    ...     return jnp.mean((params["w"] * batch - 3) ** 2), {"w": params["w"]}
    >>> optimizer = optax.sgd(0.5)
    >>> train_step = make_train_step(loss_fn, optimizer)
    >>> state = init_state({"w": jnp.array(0.0)}, optimizer, jax.random.key(0))
    >>> state, metrics = train_step(state, jnp.ones(4))
    >>> float(metrics["loss"]), float(metrics["grad_norm"]), float(state.params["w"])
    (9.0, 6.0, 3.0)
    """
    _checks.check_function("loss_fn", loss_fn)
    check_optimizer(optimizer)
    check_mesh(mesh, batch_axis, param_specs, batch_size)

    def loss(params: Params, state: TrainState, batch: Any) -> tuple[Array, tuple[Carry, Metrics]]:
        key = jax.random.fold_in(state.key, state.step)
        if state.carry is None:
            value, reported = _pair(loss_fn(params, batch, key), "(loss, metrics)")
            carry = None
        else:
            value, after = _pair(loss_fn(params, state.carry, batch, key), "(loss, (carry, metrics))")
            carry, reported = _pair(after, "(loss, (carry, metrics))")
            _check_carry(carry, state.carry)
        _check_report(value, reported)
        return value, (carry, reported)

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        (value, (carry, reported)), gradient = jax.value_and_grad(loss, has_aux=True)(state.params, state, batch)
        with jax.numpy_dtype_promotion("standard"):  # Optax multiplies its int counters with floats
            updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            metrics = {"loss": value, "grad_norm": _norm(gradient), **skipped(opt_state), **reported}
            if carry is not None and "skipped" in metrics:  # one that is not finite would spoil every later step
                skip = metrics["skipped"] > skipped(state.opt_state)["skipped"]
                carry = jax.tree.map(lambda old, new: jnp.where(skip, old, new), state.carry, carry)
        return TrainState(params=params, opt_state=opt_state, step=state.step + 1, key=state.key, carry=carry), metrics

    if mesh is None:
        return jax.jit(train_step, donate_argnums=0)
    return MeshStep(train_step, mesh, batch_axis, param_specs, batch_size=batch_size)


def _pair(result: Any, what: str) -> tuple[Any, Any]:
    if not isinstance(result, tuple) or len(result) != 2:
        _checks.reject("loss_fn", f"to return {what}", _checks.describe(result), TypeError)
    return result


def _check_report(loss: Any, reported: Any) -> None:
    """What a loss function returns is a scalar and a dict."""
    if not isinstance(loss, jax.Array) or not jnp.issubdtype(loss.dtype, jnp.floating):
        _checks.reject("loss_fn", "to return a floating-point loss", _checks.describe(loss), TypeError)
    if loss.ndim:
        _checks.reject("loss_fn", "to return a scalar loss (take a mean or a sum)", f"one of shape {loss.shape}")
    if not isinstance(reported, dict) or not all(isinstance(name, str) for name in reported):
        _checks.reject("loss_fn", "to return metrics as a dict with str keys", _checks.describe(reported), TypeError)
    taken = sorted(set(OWN) & set(reported))
    if taken:
        _checks.reject("loss_fn", f"metrics other than {', '.join(map(repr, OWN))}, which the step reports", taken)


def _check_carry(after: Any, before: Carry) -> None:
    """A carry keeps its structure, shapes and dtypes from step to step, or every step would compile anew."""
    got, expected = (jax.tree.map(_checks.describe, carry) for carry in (after, before))
    if got != expected:
        _checks.reject("loss_fn", f"to return a carry like the one it was given, {expected}", got, TypeError)


def _norm(gradient: Params) -> Array:
    """|g| = sqrt(sum of squares over all leaves), summed in at least float32."""
    leaves = [leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in jax.tree.leaves(gradient)]
    return jnp.sqrt(sum((jnp.sum(jnp.square(leaf)) for leaf in leaves), start=jnp.zeros((), jnp.float32)))
