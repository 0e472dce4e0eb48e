"""A guard against updates that are not finite: skip them, count them, and say when to stop."""

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
    """How many updates were skipped, how many of them just now, which gradient began it, and the optimizer's state."""

    skipped: Any  # int32, under vmap with an axis of seeds; Any, since JAX puts its own things in a tree's leaves
    in_a_row: Any  # likewise
    culprit: Any  # index into names of the first gradient that was not finite, when it last began
    inner: Any
    names: tuple[str, ...]  # of the params
    stop_after: int


def skip_nonfinite(
    optimizer: optax.GradientTransformation, *, stop_after: int = 10
) -> optax.GradientTransformationExtraArgs:
    """Make an optimizer leave params and its own state alone where a gradient holds NaN or infinity.

    A carry that the training step hands on stays what it was, too.

    Unlike `optax.apply_if_finite`, it never lets such an update through. The step's metrics get "skipped", how many
    updates were skipped so far. After too many in a row it lets none through any more, and `fit` stops.

    Args:
      optimizer: any Optax gradient transformation.
      stop_after: the number of skipped updates in a row at which `fit` gives up.

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
    """The metric "skipped": of all guards within an optimizer's state, or none where there are none."""
    found = guards(opt_state)
    return {"skipped": sum((guard.skipped for guard in found[1:]), start=found[0].skipped)} if found else {}


class Watch:
    """Look at the guards once a step has skipped its update; one step late, so that no step waits for the one before.

    Nothing is missed by that: a guard that is to stop the training lets no later update through.
    """

    def __init__(self) -> None:
        self._before: Any = 0

    def look(self, metrics: dict[str, Any], opt_state: Any, step: int) -> None:
        """Raise FloatingPointError where a guard has skipped as many updates in a row as it may."""
        if np.any(jax.device_get(self._before)):
            check_guards(opt_state, step)
        self._before = metrics.get("skipped", 0)


def check_guards(opt_state: Any, step: int) -> None:
    """What `Watch` looks at; this waits for the state."""
    for guard in guards(opt_state):
        in_a_row, culprit = np.ravel(jax.device_get(guard.in_a_row)), np.ravel(jax.device_get(guard.culprit))
        worst = int(np.argmax(in_a_row))
        if in_a_row[worst] >= guard.stop_after:
            first = step - int(in_a_row[worst]) + 1
            raise FloatingPointError(
                f"training stopped: gradients were not finite {guard.stop_after} steps in a row, from step {first}; "
                f"the first that went bad is that of params{guard.names[culprit[worst]]}"
            )


def guards(opt_state: Any) -> list[GuardState]:
    """Every guard within an optimizer's state."""
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, GuardState))
    return [leaf for leaf in leaves if isinstance(leaf, GuardState)]
