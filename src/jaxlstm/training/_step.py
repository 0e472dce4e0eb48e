"""One step of gradient descent, jitted."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.sharding import Mesh
from jaxtyping import Array

from jaxlstm import _checks
from jaxlstm._step import Params
from jaxlstm.training._guard import skipped
from jaxlstm.training._loss_fn import LossFn, Metrics, call_loss_fn
from jaxlstm.training._mesh import MeshStep, Specs, check_mesh
from jaxlstm.training._state import TrainState, check_optimizer


@runtime_checkable
class TrainStep(Protocol):
    """One training step, as `make_train_step` makes it and `fit` calls it."""

    def __call__(self, state: TrainState, batch: Any, /) -> tuple[TrainState, Metrics]:
        """Update the params by the gradient of one batch.

        Args:
          state: the state before the step. `make_train_step` reuses its memory, so do not use it afterwards.
          batch: the batch for the loss function.

        Returns:
          ``(state, metrics)``: the state after the step, and a dict of arrays by name.
        """
        ...


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    mesh: Mesh | None = None,
    batch_axis: Any = 1,
    param_specs: Specs | None = None,
    batch_size: int | None = None,
    mask: str | None = None,
    seeds: bool = False,
    compiler_options: Mapping[str, Any] | None = None,
) -> TrainStep:
    """Make a jitted training step. The step reuses the memory of the state that it is given.

        key_n = fold_in(key, n)
        g     = d loss_fn(params, batch, key_n)[0] / d params
        params, opt_state = the optimizer's update by g        n + 1

    Args:
      loss_fn: ``(params, batch, key) -> (loss, metrics)``, see `StatelessLossFn`. For a state with a carry, ``(params,
        carry, batch, key) -> (loss, (carry, metrics))``, see `CarriedLossFn`: each step gets the carry that the step
        before returned. No gradient flows through it.
      optimizer: the Optax gradient transformation that `init_state` was given. Those that need the loss, such as
        `optax.lbfgs`, `optax.polyak_sgd` or `optax.contrib.reduce_on_plateau`, get ``value``, ``grad``, and
        ``value_fn(params)``, the loss of this batch with this step's key.
      mesh: the devices to run on. Its axis "data" divides batches, and an optional axis "model" divides params. The
        results are those of one device, up to rounding. With several processes, each passes its own part of the batch,
        and all parts have the same shape.
      batch_axis: which axis of the batch counts sequences (time comes first, so usually 1): one int, or a tree of ints
        like the batch. In a carry it is the first axis, padding included.
      param_specs: a function from the params to a tree of `jax.sharding.PartitionSpec` like them. None divides the last
        axis of each, that of the packed gates, over "model" if its size allows it. Without an axis "model", params are
        replicated.
      batch_size: pad every batch to this number of sequences, of all processes together. For a smaller last batch, or
        parts of different sizes. None pads to the next multiple of the devices.
      mask: the name of the leaf of the batch that says what counts, a bool mask or integer lengths: "mask" in a dict,
        "2" in a tuple, "inputs.mask" in nested trees. With it, batches may be padded with zero sequences, for which
        this leaf is zero too. The loss must use it to leave them out. (It sees padded shapes, so a padded batch draws
        other random numbers.) Without it, a batch that would need padding is refused.
      seeds: train several models at once, one for each seed. State, batches and metrics have a first axis of seeds,
        which `batch_axis` counts. To make the state, stack the leaves of several from `init_state`.
      compiler_options: as in `jax.jit`. Only the outermost jit can have options, so a step called within a jit or
        vmap of yours runs without them.

    Returns:
      A `TrainStep`, ``train_step(state, batch) -> (state, metrics)``. The metrics are "loss", "grad_norm" (the
      Euclidean norm of g over all params, before the optimizer clips or scales it), "skipped" if `skip_nonfinite`
      guards the optimizer, and those of `loss_fn`.

    Raises:
      ValueError, TypeError: if an argument, or what `loss_fn` returns, does not fit.

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
    check_mesh(mesh, batch_axis, param_specs, batch_size, mask)
    _checks.check_flag("seeds", seeds)
    options = _compiler_options(compiler_options)
    loss = partial(call_loss_fn, loss_fn)
    update = optax.with_extra_args_support(optimizer).update  # takes `more`, which most optimizers drop

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        (value, (carry, reported)), gradient = jax.value_and_grad(loss, has_aux=True)(state.params, state, batch)
        with jax.numpy_dtype_promotion("standard"):  # Optax multiplies its int counters by floats
            more = {"value": value, "grad": gradient, "value_fn": lambda params: loss(params, state, batch)[0]}
            updates, opt_state = update(gradient, state.opt_state, state.params, **more)
            params = optax.apply_updates(state.params, updates)
            metrics = {"loss": value, "grad_norm": _norm(gradient), **skipped(opt_state), **reported}
            if carry is not None and "skipped" in metrics:  # else a carry that is not finite spoils all later steps
                skip = metrics["skipped"] > skipped(state.opt_state)["skipped"]
                carry = jax.tree.map(lambda old, new: jnp.where(skip, old, new), state.carry, carry)
        return TrainState(params=params, opt_state=opt_state, step=state.step + 1, key=state.key, carry=carry), metrics

    step = jax.vmap(train_step) if seeds else train_step
    if mesh is None:
        return JittedStep(step, options)
    layout = {"batch_size": batch_size, "mask": mask, "carry_axis": int(seeds), "compiler_options": options}
    return MeshStep(step, mesh, batch_axis, param_specs, **layout)


class JittedStep:
    """A jitted training step, with the `lower` of a jitted function."""

    def __init__(self, step: Callable[..., Any], compiler_options: dict[str, Any]) -> None:
        self._step = jax.jit(step, donate_argnums=0, compiler_options=compiler_options)
        self._inner_step = jax.jit(step, donate_argnums=0)

    def __call__(self, state: TrainState, batch: Any) -> Any:
        """Take a step, without compiler options if another jit traces it: only the outermost can have some."""
        traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((state, batch)))
        return self._inner_step(state, batch) if traced else self._step(state, batch)

    def lower(self, state: TrainState, batch: Any) -> Any:
        """Lower the step for this state and batch."""
        return self._step.lower(state, batch)


def _compiler_options(options: Any) -> dict[str, Any]:
    """The given options, checked."""
    if options is None:
        return {}
    if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
        _checks.reject("compiler_options", "a dict with str keys", _checks.describe(options), TypeError)
    return dict(options)


def _norm(gradient: Params) -> Array:
    """|g| = sqrt(sum of squares over all leaves), summed in at least float32."""
    leaves = [leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in jax.tree.leaves(gradient)]
    return jnp.sqrt(sum((jnp.sum(jnp.square(leaf)) for leaf in leaves), start=jnp.zeros((), jnp.float32)))
