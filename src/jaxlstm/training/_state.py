"""The state that a training step updates."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from jaxlstm import _checks
from jaxlstm._random import Key
from jaxlstm._step import Carry, Params


class TrainState(NamedTuple):
    """Params, optimizer state, the number of steps taken (int32), and the key that every step's own is folded from.

    `carry` is the recurrent state between batches, if they continue each other, else None. The state is a tree of
    arrays. Under `jax.vmap` each leaf has a first axis of seeds.
    """

    params: Params
    opt_state: Any
    step: Int[Array, "*seeds"]
    key: Key
    carry: Carry | None = None


def init_state(
    params: Params, optimizer: optax.GradientTransformation, key: Key, *, carry: Carry | None = None
) -> TrainState:
    """Make the state before the first step.

    Params, key and carry are copied, since a training step reuses the memory of its state.

    Args:
      params: a tree of arrays.
      optimizer: any Optax gradient transformation.
      key: a PRNG key. Step n draws from ``jax.random.fold_in(key, n)``, so a run can resume at any step.
      carry: the recurrent state before the first batch, such as ``network.init_carry(params, (batch_size,))``, if each
        batch continues the one before. `make_train_step` passes it from step to step.

    Returns:
      A `TrainState` at step 0.

    Raises:
      ValueError, TypeError: if `optimizer` or `key` does not fit.

    >>> import optax
    >>> from jaxlstm.training import init_state
    >>> state = init_state({"w": jnp.ones(3)}, optax.adam(1e-3), jax.random.key(0))
    >>> int(state.step)
    0
    """
    check_optimizer(optimizer)
    _checks.check_key(key)
    params = copy(params)
    opt_state = copy(optimizer.init(params))  # some hold the params themselves, and no buffer may be donated twice
    return TrainState(
        params=params, opt_state=opt_state, step=jnp.zeros((), jnp.int32), key=copy(key), carry=copy(carry)
    )


def step_of(state: TrainState) -> int:
    """The number of steps taken, the same for all seeds."""
    return int(np.ravel(state.step)[0])


def check_optimizer(optimizer: object) -> None:
    """Raise an error unless this has the methods init and update, as an Optax gradient transformation."""
    if not callable(getattr(optimizer, "init", None)) or not callable(getattr(optimizer, "update", None)):
        _checks.reject("optimizer", "an Optax gradient transformation", _checks.describe(optimizer), TypeError)


def copy(tree: Any) -> Any:
    """Copy every leaf, to have memory of its own."""
    return jax.tree.map(jnp.copy, tree)
