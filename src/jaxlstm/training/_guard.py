"""A guard against gradients that are not finite: skip their updates, count them, and stop after too many."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlstm import _checks
from jaxlstm._step import Params
from jaxlstm.training._state import check_optimizer


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["skipped", "in_a_row", "culprit", "inner"],
    meta_fields=["names", "stop_after"],
)
@dataclass(frozen=True)
class GuardState:
    """How many updates were skipped, in all and in a row, which gradient was the first, and the optimizer's state."""

    skipped: Any  # int32, with an axis of seeds under vmap; Any, since JAX also puts other objects in place of leaves
    in_a_row: Any  # likewise
    culprit: Any  # index into names: the gradient that was not finite in the first of the last skipped updates
    inner: Any
    names: tuple[str, ...]  # of the params
    stop_after: int


def skip_nonfinite(
    optimizer: optax.GradientTransformation, *, stop_after: int = 10
) -> optax.GradientTransformationExtraArgs:
    """Make an optimizer skip updates whose gradient holds NaN or infinity.

    Params, the optimizer's state and a carry then stay what they were. The step's metrics get "skipped", the number of
    updates skipped so far. After too many in a row, all later updates are skipped too, and `fit` stops.
    (`optax.apply_if_finite` would let them through.)

    Args:
      optimizer: any Optax gradient transformation.
      stop_after: how many skipped updates in a row stop `fit`.

    Returns:
      A gradient transformation, for `init_state` and `make_train_step`.

    Raises:
      ValueError, TypeError: if an argument does not fit.

    >>> import optax
    >>> from jaxlstm.training import init_state, make_train_step, skip_nonfinite
    >>> optimizer = skip_nonfinite(optax.sgd(0.5))
    >>> train_step = make_train_step(lambda params, batch, key: (params * batch, {}), optimizer)
    >>> state = init_state(jnp.array(1.0), optimizer, jax.random.key(0))
    >>> for batch in (1.0, jnp.nan, 1.0):
    ...     state, metrics = train_step(state, batch)
    >>> float(state.params), int(metrics["skipped"])
    (0.0, 1)
    """
    check_optimizer(optimizer)
    _checks.check_size("stop_after", stop_after)
    guarded = optax.with_extra_args_support(optimizer)

    def init(params: Params) -> Any:
        names = tuple(jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params))
        zero = jnp.zeros((), jnp.int32)
        return GuardState(zero, zero, zero, optimizer.init(params), names, int(stop_after))

    def update(updates: Params, state: Any, params: Params | None = None, **more: Any) -> tuple[Params, Any]:
        leaves = jax.tree.leaves(updates)
        bad = jnp.stack([~jnp.all(jnp.isfinite(leaf)) for leaf in leaves]) if leaves else jnp.zeros(1, bool)
        skip = jnp.any(bad) | (state.in_a_row >= stop_after)
        after, inner = guarded.update(updates, state.inner, params, **more)
        # A select, not a product, since 0 * NaN is NaN.
        after = jax.tree.map(lambda leaf: jnp.where(skip, jnp.zeros_like(leaf), leaf), after)
        inner = jax.tree.map(lambda old, new: jnp.where(skip, old, new), state.inner, inner)
        begins = skip & (state.in_a_row == 0)
        return after, GuardState(
            skipped=state.skipped + skip.astype(jnp.int32),
            in_a_row=jnp.where(skip, state.in_a_row + 1, jnp.zeros_like(state.in_a_row)),
            culprit=jnp.where(begins, jnp.argmax(bad).astype(jnp.int32), state.culprit),
            inner=inner,
            names=state.names,
            stop_after=state.stop_after,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def skipped(opt_state: Any) -> dict[str, Any]:
    """The metric "skipped", summed over all guards in an optimizer's state; {} if there are none."""
    found = guards(opt_state)
    return {"skipped": sum((guard.skipped for guard in found[1:]), start=found[0].skipped)} if found else {}


class Watch:
    """Checks the guards one step late, so that no step waits for the one before.

    This misses nothing, since a guard that stops the training skips all later updates.
    """

    def __init__(self) -> None:
        self._before: Any = 0

    def look(self, metrics: dict[str, Any], opt_state: Any, step: int) -> None:
        """Check the guards if any step before this one skipped its update."""
        if np.any(jax.device_get(self._before)):
            check_guards(opt_state, step)
        self._before = metrics.get("skipped", 0)


def check_guards(opt_state: Any, step: int) -> None:
    """Raise FloatingPointError if a guard stops the training. This waits for the state."""
    for guard in guards(opt_state):
        in_a_row, culprit = np.ravel(jax.device_get(guard.in_a_row)), np.ravel(jax.device_get(guard.culprit))
        worst = int(np.argmax(in_a_row))
        if in_a_row[worst] >= guard.stop_after:
            first = step - int(in_a_row[worst]) + 1
            raise FloatingPointError(
                f"training stopped: gradients were not finite {guard.stop_after} steps in a row, from step {first}; "
                f"the first was that of params{guard.names[culprit[worst]]}"
            )


def guards(opt_state: Any) -> list[GuardState]:
    """All guards in an optimizer's state."""
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, GuardState))
    return [leaf for leaf in leaves if isinstance(leaf, GuardState)]
