"""What a training step reads and writes."""

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

    And, where a step goes on from the recurrent state that the step before left, that carry; else None.
    A tree of arrays: under `jax.vmap` each leaf leads with an axis of seeds.
    """

    params: Params
    opt_state: Any
    step: Int[Array, "*seeds"]
    key: Key
    carry: Carry | None = None


def init_state(
    params: Params, optimizer: optax.GradientTransformation, key: Key, *, carry: Carry | None = None
) -> TrainState:
    """The state before the first step.

    Params, key and carry are copied: a training step gives its state's memory away, and the caller's own arrays must
    survive.

    Args:
      params: a tree of arrays.
      optimizer: any Optax gradient transformation.
      key: a PRNG key. Step n draws from ``jax.random.fold_in(key, n)``, so a run resumes from its step alone.
      carry: the recurrent state before the first batch, such as ``network.init_carry(params, (batch_size,))``, for
        batches that go on where the one before ended: then `make_train_step` hands it from step to step.

    Returns:
      A `TrainState` at step 0.

    Raises:
      ValueError, TypeError: if `optimizer` or `key` is not one; the message says what came.

    >>> import optax
    >>> from jaxlstm.training import init_state
    >>> state = init_state({"w": jnp.ones(3)}, optax.adam(1e-3), jax.random.key(0))
    >>> int(state.step)
    0
    """
    check_optimizer(optimizer)
    _checks.check_key(key)
    params = copy(params)
    opt_state = copy(optimizer.init(params))  # some optimizers keep the params themselves, and no buffer may come twice
    return TrainState(
        params=params, opt_state=opt_state, step=jnp.zeros((), jnp.int32), key=copy(key), carry=copy(carry)
    )


def step_of(state: TrainState) -> int:
    """The number of steps taken, the same for all seeds."""
    return int(np.ravel(state.step)[0])


def check_optimizer(optimizer: object) -> None:
    """An Optax gradient transformation: something with init and update."""
    if not callable(getattr(optimizer, "init", None)) or not callable(getattr(optimizer, "update", None)):
        _checks.reject("optimizer", "an Optax gradient transformation", _checks.describe(optimizer), TypeError)


def copy(tree: Any) -> Any:
    """Every leaf as an array with memory of its own."""
    return jax.tree.map(jnp.copy, tree)
