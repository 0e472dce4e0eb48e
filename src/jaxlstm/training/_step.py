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

from jaxlstm import GPU_COMPILER_OPTIONS, _checks
from jaxlstm._random import Key
from jaxlstm._step import Carry, Params
from jaxlstm.training._guard import skipped
from jaxlstm.training._mesh import MeshStep, Specs, check_mesh
from jaxlstm.training._state import TrainState, check_optimizer

Metrics = dict[str, Any]  # arrays by name
OWN = ("loss", "grad_norm", "skipped")  # metrics that the step itself reports


@runtime_checkable
class StatelessLossFn(Protocol):
    """The loss of a batch that does not depend on the batches before it.

    Any function of three positional arguments fits, whatever their names.
    """

    def __call__(self, params: Params, batch: Any, key: Key, /) -> tuple[Array, Metrics]:
        """Compute the loss of a batch.

        Args:
          params: the params to differentiate by.
          batch: what was passed to the training step, or what `fit` drew from its batches.
          key: a PRNG key of this step alone.

        Returns:
          ``(loss, metrics)``: a floating-point scalar to minimise, and a dict of arrays to report, ``{}`` for none.
        """
        ...


@runtime_checkable
class CarriedLossFn(Protocol):
    """The loss of a batch whose sequences continue those of the batch before, for a state with a carry.

    Any function of four positional arguments fits, whatever their names.
    """

    def __call__(self, params: Params, carry: Carry, batch: Any, key: Key, /) -> tuple[Array, tuple[Carry, Metrics]]:
        """Compute the loss of a batch, starting from the carry of the step before.

        Args:
          params: the params to differentiate by.
          carry: the carry that this function returned in the step before; in the first step, that of `init_state`. It
            is a constant of the gradient.
          batch: what was passed to the training step, or what `fit` drew from its batches.
          key: a PRNG key of this step alone.

        Returns:
          ``(loss, (carry, metrics))``: a floating-point scalar to minimise, the carry for the next step, with the
          structure, shapes and dtypes of the one given, and a dict of arrays to report, ``{}`` for none.
        """
        ...


LossFn = StatelessLossFn | CarriedLossFn  # which of the two it must be depends on whether the state has a carry


@runtime_checkable
class TrainStep(Protocol):
    """One training step, as `make_train_step` makes it and `fit` calls it."""

    def __call__(self, state: TrainState, batch: Any, /) -> tuple[TrainState, Metrics]:
        """Update the params by the gradient of one batch.

        Args:
          state: the state before the step. A step of `make_train_step` reuses its memory, so do not use it afterwards.
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
    """Make a jitted training step. It donates the memory of the state that it is given.

        key_n = fold_in(key, n)
        g     = d loss_fn(params, batch, key_n)[0] / d params
        params, opt_state = the optimizer's update by g        n + 1

    Args:
      loss_fn: ``(params, batch, key) -> (loss, metrics)``, see `StatelessLossFn`: a floating-point scalar to minimise,
        and a dict of arrays to report, ``{}`` for none. Where the state has a carry, ``(params, carry, batch, key) ->
        (loss, (carry, metrics))``, see `CarriedLossFn`: the next step gets the carry that this one returns. The
        gradient ends at the carry.
      optimizer: the Optax gradient transformation that `init_state` was given. One that looks at the loss, such as
        `optax.lbfgs`, `optax.polyak_sgd` or `optax.contrib.reduce_on_plateau`, gets it: ``value``, ``grad``, and
        ``value_fn(params)``, the loss of this batch with this step's key.
      mesh: devices to run on, with an axis "data" that divides batches and optionally an axis "model" that divides
        params. The results are those of one device, up to rounding. A batch that the devices do not divide is refused,
        or with `mask` padded. With several processes, each passes its own part of the batch, all of the same shape. The
        first axis of a carry is that of the sequences, padding included.
      batch_axis: the axis of the sequences in the batch: one for all its leaves, or a tree of them. Time comes first.
      param_specs: a function from the params to a tree like them of `jax.sharding.PartitionSpec`. None divides the
        last axis of each over "model", that of the packed gates, where the size allows it. Without an axis "model",
        params are replicated.
      batch_size: the number of sequences, of all processes together, that every batch is padded to, for a smaller last
        batch or parts of different sizes. None pads to the next size that the devices divide.
      mask: the name of the leaf of a batch that says what counts, a bool mask or integer lengths; such as "mask" in a
        dict, "2" in a tuple, or "inputs.mask" in trees within each other. Batches may then be padded with zero
        sequences, for which this leaf is zero too. The loss has to leave them out by it. (It sees padded shapes, so a
        padded batch draws other random numbers.)
      seeds: train several models at once, one of each seed: state and batches lead with an axis of them, which
        `batch_axis` counts, and so do the metrics. (Stack what `init_state` makes, leaf by leaf.)
      compiler_options: as in `jax.jit`. None: on a GPU `jaxlstm.GPU_COMPILER_OPTIONS`, by which the whole step becomes
        one CUDA graph, and none elsewhere; ``{}``: none. Only the outermost jit can have options: where the step is
        called within a jit or vmap of yours, it has none.

    Returns:
      A `TrainStep`, ``train_step(state, batch) -> (state, metrics)``. The metrics are "loss", "grad_norm" (the
      Euclidean norm of g over all params, before the optimizer clips or scales it), "skipped" where `skip_nonfinite`
      guards the optimizer, and what `loss_fn` reports. Do not use a state after it was passed in.

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
    check_mesh(mesh, batch_axis, param_specs, batch_size, mask)
    _checks.check_flag("seeds", seeds)
    options = compiler_options_for(compiler_options, mesh)
    loss = partial(_loss, loss_fn)
    update = optax.with_extra_args_support(optimizer).update  # which some optimizers take, and others drop

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        (value, (carry, reported)), gradient = jax.value_and_grad(loss, has_aux=True)(state.params, state, batch)
        with jax.numpy_dtype_promotion("standard"):  # Optax multiplies its int counters by floats
            more = {"value": value, "grad": gradient, "value_fn": lambda params: loss(params, state, batch)[0]}
            updates, opt_state = update(gradient, state.opt_state, state.params, **more)
            params = optax.apply_updates(state.params, updates)
            metrics = {"loss": value, "grad_norm": _norm(gradient), **skipped(opt_state), **reported}
            if carry is not None and "skipped" in metrics:  # a carry that is not finite would spoil all later steps
                skip = metrics["skipped"] > skipped(state.opt_state)["skipped"]
                carry = jax.tree.map(lambda old, new: jnp.where(skip, old, new), state.carry, carry)
        return TrainState(params=params, opt_state=opt_state, step=state.step + 1, key=state.key, carry=carry), metrics

    step = jax.vmap(train_step) if seeds else train_step
    if mesh is None:
        return JittedStep(step, options)
    layout = {"batch_size": batch_size, "mask": mask, "carry_axis": int(seeds), "compiler_options": options}
    return MeshStep(step, mesh, batch_axis, param_specs, **layout)


class JittedStep:
    """A jitted training step; `lower` is that of a jitted function."""

    def __init__(self, step: Callable[..., Any], compiler_options: dict[str, Any]) -> None:
        self._step = jax.jit(step, donate_argnums=0, compiler_options=compiler_options)
        self._inner_step = jax.jit(step, donate_argnums=0)

    def __call__(self, state: TrainState, batch: Any) -> Any:
        """Take a step, without the options where another jit, which alone can have some, is tracing it."""
        traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((state, batch)))
        return self._inner_step(state, batch) if traced else self._step(state, batch)

    def lower(self, state: TrainState, batch: Any) -> Any:
        """The step's program for this state and batch, not compiled yet."""
        return self._step.lower(state, batch)


def compiler_options_for(options: Any, mesh: Mesh | None) -> dict[str, Any]:
    """The options given, or by default those for the platform that the step runs on."""
    if options is None:
        platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
        return GPU_COMPILER_OPTIONS if platform == "gpu" else {}
    if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
        _checks.reject("compiler_options", "a dict with str keys", _checks.describe(options), TypeError)
    return dict(options)


def _loss(
    loss_fn: Callable[..., Any], params: Params, state: TrainState, batch: Any
) -> tuple[Array, tuple[Carry, Metrics]]:
    """Call the loss function, with the carry if the state has one, and check what it returns."""
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


def _pair(result: Any, what: str) -> tuple[Any, Any]:
    if not isinstance(result, tuple) or len(result) != 2:
        _checks.reject("loss_fn", f"to return {what}", _checks.describe(result), TypeError)
    return result


def _check_report(loss: Any, reported: Any) -> None:
    """Raise an error unless the loss is a floating-point scalar and the metrics are a dict with names of their own."""
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
    """Raise an error if the carry changes its structure, shapes or dtypes: every step would then compile again."""
    got, expected = (jax.tree.map(_checks.describe, carry) for carry in (after, before))
    if got != expected:
        _checks.reject("loss_fn", f"to return a carry like the one it was given, {expected}", got, TypeError)


def _norm(gradient: Params) -> Array:
    """|g| = sqrt(sum of squares over all leaves), summed in at least float32."""
    leaves = [leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in jax.tree.leaves(gradient)]
    return jnp.sqrt(sum((jnp.sum(jnp.square(leaf)) for leaf in leaves), start=jnp.zeros((), jnp.float32)))
