"""`Recurrent`: any network of the core as an nnx module."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array

from jaxlstm import _checks
from jaxlstm._cell import Cell
from jaxlstm._network import Network
from jaxlstm._random import Key
from jaxlstm._step import Carry, Output, Params
from jaxlstm._wrappers import _network, _params


class Recurrent(nnx.Module):
    """Any network of the core as one module: called once, it gives ``(carry, ys)``.

    Params are drawn when the module is made. Afterwards only a network that draws in training needs random numbers.

    Args:
      network: a cell, such as ``jl.LSTMCell(128)`` or one of your own, or a `Layer`, `Bidirectional` or `Stack`. What
        is dropped or learned is part of it: ``jl.Stack(..., dropout=0.5)``, `jl.Zoneout`, `jl.LearnedCarry`.
      in_features: I, the features of the inputs.
      dtype: of the computation, of ys and of h; None means what inputs and params promote to. Gates and the cell state
        are computed in at least float32, and c is that.
      param_dtype: of the params.
      remat: what to keep for the backward pass, as in `jaxlstm.unroll`.
      deterministic: whether nothing is drawn; ``model.eval()`` sets it, ``model.train()`` unsets it.
      partitioning: mesh axes of params by name, as ``{"w_ih": (None, "model"), "w_hh": (None, "model")}``; in every
        layer and direction, as ``nnx.with_partitioning`` gives them, for ``nnx.get_partition_spec``. From flax 0.12 on
        params are cut when they are made, so that there has to be a mesh, unless ``nnx.use_eager_sharding(False)``.
      rngs: for the params; where the network draws in training, a fork of its stream "dropout" is kept.

    The carry is the network's own: `LSTMCarry(h, c)` for one LSTM cell, a tuple of each layer's for a `Stack`, and
    `BidirectionalCarry(forward, backward)` for both directions. ``nnx.tabulate`` of flax 0.12 cannot show a named
    tuple within a tuple, and so not what this module returns.

    Raises:
      ValueError, TypeError: if an option has no meaning; the message names it.

    >>> from flax import nnx
    >>> from jaxlstm.nnx import Recurrent
    >>> policy = Recurrent(jl.Stack(jl.GRUCell(8), jl.LSTMCell(4)), 3, rngs=nnx.Rngs(0))
    >>> carry, ys = policy(jnp.ones((2, 5, 3)))
    >>> carry, y = policy.step(policy.init_carry((2,)), jnp.ones((2, 3)), reset=jnp.array([True, False]))
    >>> ys.shape, y.shape
    ((2, 5, 4), (2, 4))
    """

    def __init__(
        self,
        network: Network | Cell,
        in_features: int,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        remat: bool | int | str | None = None,
        deterministic: bool = False,
        partitioning: _params.Partitioning | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.network = _params.as_network(network)
        _checks.check_size("in_features", in_features)
        _network.check_options(dtype=dtype, param_dtype=param_dtype, remat=remat)
        _checks.check_flag("deterministic", deterministic)
        _params.check_partitioning(self.network, in_features, partitioning)
        if not isinstance(rngs, nnx.Rngs):
            _checks.reject("rngs", "nnx.Rngs, such as nnx.Rngs(0)", _checks.describe(rngs), TypeError)
        self.in_features = in_features
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.remat = remat
        self.deterministic = deterministic
        for index in range(len(_params.layers_of(self.network))):
            layer = _params.init_layer(self.network, index, rngs.params(), in_features, param_dtype)
            setattr(self, f"layer_{index}", _Params(_params.partition(layer, partitioning, _with_axes)))
        if _params.draws(self.network, in_features):
            self.rngs = rngs.dropout.fork()

    def __call__(
        self,
        inputs: ArrayLike,
        *,
        seq_lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        initial_carry: Carry | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> tuple[Carry, Output]:
        """Run the network over the inputs.

        Args:
          inputs: ``[*batch, T, I]``.
          seq_lengths: integers ``[*batch]``: only the first steps count.
          mask: bool ``[*batch, T]``: False skips the step.
          reset: bool ``[*batch, T]``: True where a new sequence begins. With `done` of a rollout, reset[t] = done[t-1].
          initial_carry: a carry as this returns it, such as that of the chunk before; None means `init_carry`.
          deterministic: whether nothing is drawn, in place of the module's own, which ``model.eval()`` sets.
          rngs: what the network draws from, in place of the module's own.

        Returns:
          ``(carry, ys)``, always: the network's carry, and the outputs ``[*batch, T, O]``, zero in padding.

        Raises:
          ValueError, TypeError: if an argument does not fit; the message names it.
        """
        _network.check_inputs(self.network, inputs, self.in_features, time=True)
        return _network.apply_network(
            self.network,
            _as_dict(self),
            inputs,
            dtype=self.dtype,
            seq_lengths=seq_lengths,
            mask=mask,
            reset=reset,
            initial_carry=initial_carry,
            key=self._key(deterministic, rngs),
            remat=self.remat,
        )

    def step(
        self,
        carry: Carry | None,
        inputs: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        start: ArrayLike = 0,
    ) -> tuple[Carry, Output]:
        """Run one time step: the numbers that a call over the whole sequence computes for that step.

        Args:
          carry: the carry before the step, as `init_carry`, `step` or a call returns it; None means `init_carry`.
          inputs: ``[*batch, I]``.
          mask: bool ``[*batch]``: False skips the step, which holds the carry and gives zeros.
          reset: bool ``[*batch]``: True starts a new sequence at this step. In a rollout it is `done` of the step
            before.
          deterministic: as in a call.
          rngs: as in a call.
          start: the absolute time of the step, which random draws depend on, beside the key.

        Returns:
          ``(carry, y)``: the carry after the step, and the output ``[*batch, O]``.

        Raises:
          ValueError, TypeError: if an argument does not fit, or a layer runs backward; the message names it.
        """
        _network.check_inputs(self.network, inputs, self.in_features, time=False)
        options = {"mask": mask, "reset": reset, "key": self._key(deterministic, rngs), "start": start}
        return _network.step_network(self.network, _as_dict(self), carry, inputs, dtype=self.dtype, **options)

    def init_carry(self, batch_shape: tuple[int, ...] = ()) -> Carry:
        """The carry before the first step.

        Args:
          batch_shape: the batch axes of the inputs.
        """
        dtype = self.param_dtype if self.dtype is None else self.dtype
        return _network.first_carry(self.network, self._core_params(), batch_shape, dtype)

    def _core_params(self) -> Params:
        """The network's params, as the core has them."""
        return _params.from_dict(self.network, self.in_features, _as_dict(self))

    def _key(self, deterministic: bool | None, rngs: nnx.Rngs | nnx.RngStream | None) -> Key | None:
        """A key to draw from in training, if the network draws."""
        if deterministic is None:
            deterministic = self.deterministic
        _checks.check_flag("deterministic", deterministic)
        if deterministic or not _params.draws(self.network, self.in_features):
            return None
        stream = self.rngs if rngs is None else rngs
        return stream.dropout() if isinstance(stream, nnx.Rngs) else stream()

    def set_view(self, deterministic: bool | None = None) -> None:
        """What ``nnx.view(model, deterministic=...)`` calls."""
        if deterministic is not None:
            self.deterministic = deterministic


def _with_axes(value: Array, axes: tuple[str | None, ...]) -> Any:
    """A value for ``nnx.Param`` with metadata; through Flax, whose name for the metadata changed in 0.12."""
    return nnx.with_partitioning(lambda: value, axes)()


class _Params(nnx.Module):
    """A nested dict of params as a module, whose paths are the dict's."""

    def __init__(self, tree: dict[str, Any]) -> None:
        for name, value in tree.items():
            setattr(self, name, _Params(value) if isinstance(value, dict) else nnx.Param(value))


def _as_dict(module: nnx.Module) -> dict[str, Any]:
    """The arrays under a module, nested as its params are."""
    tree = {}
    for name, value in vars(module).items():
        if isinstance(value, _Params):
            tree[name] = _as_dict(value)
        elif isinstance(value, nnx.Variable):
            tree[name] = value[...]
    return tree
