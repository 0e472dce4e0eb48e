"""`Recurrent`: any network of the core as a linen module, and what it shares with `LSTM`, `GRU` and `SimpleRNN`."""

from typing import Any

import jax.numpy as jnp
from flax import linen
from flax.core import FrozenDict
from jax.typing import ArrayLike, DTypeLike

from jaxlstm import _checks
from jaxlstm._cell import Cell
from jaxlstm._network import Network
from jaxlstm._random import Key
from jaxlstm._static import Static
from jaxlstm._step import Carry, Output
from jaxlstm._wrappers import _network, _params


class OfNetwork(linen.Module, kw_only=True):
    """A module around a network. Options are checked when it is made; params are drawn at its first call."""

    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    remat: bool | int | str | None = None
    deterministic: bool | None = None
    partitioning: _params.Partitioning | None = None

    __getstate__, __setstate__ = Static.__getstate__, Static.__setstate__  # for pickle: functions by name

    def __post_init__(self) -> None:
        _network.check_options(dtype=self.dtype, param_dtype=self.param_dtype, remat=self.remat)
        if self.deterministic is not None:
            _checks.check_flag("deterministic", self.deterministic)
        _params.check_partitioning(self._network(), 1, self.partitioning)
        if self.partitioning is not None:
            self.partitioning = FrozenDict(self.partitioning)  # so that the module can be a static argument
        super().__post_init__()

    def __call__(
        self,
        inputs: ArrayLike,
        *,
        seq_lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        initial_carry: Carry | None = None,
        deterministic: bool | None = None,
    ) -> tuple[Carry, Output]:
        """Run the network over the inputs.

        Args:
          inputs: ``[*batch, T, I]``.
          seq_lengths: integers ``[*batch]``: only the first steps count.
          mask: bool ``[*batch, T]``: False skips the step.
          reset: bool ``[*batch, T]``: True where a new sequence begins. With `done` of a rollout, reset[t] = done[t-1].
          initial_carry: a carry as this returns it, such as that of the chunk before; None means `init_carry`.
          deterministic: whether nothing is dropped; if False, draws a key named "dropout". Needed only where the
            network draws, here or as an option of the module.

        Returns:
          ``(carry, ys)``, always: the network's carry, and the outputs ``[*batch, T, O]``, zero in padding.

        Raises:
          ValueError, TypeError: if an argument does not fit; the message names it.
        """
        params, key = self._params_and_key(inputs, deterministic, time=True)
        return _network.apply_network(
            self._network(),
            params,
            inputs,
            dtype=self.dtype,
            seq_lengths=seq_lengths,
            mask=mask,
            reset=reset,
            initial_carry=initial_carry,
            key=key,
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
          start: the absolute time of the step, which random draws depend on, beside the key.

        Returns:
          ``(carry, y)``: the carry after the step, and the output ``[*batch, O]``.

        Raises:
          ValueError, TypeError: if an argument does not fit, or a layer runs backward; the message names it.
        """
        params, key = self._params_and_key(inputs, deterministic, time=False)
        options = {"mask": mask, "reset": reset, "key": key, "start": start}
        return _network.step_network(self._network(), params, carry, inputs, dtype=self.dtype, **options)

    @linen.nowrap
    def init_carry(self, batch_shape: tuple[int, ...] = ()) -> Carry:
        """The carry before the first step.

        A first carry that is learned is a param: call this within ``apply``, as ``method="init_carry"`` does. Any other
        needs no variables: then a model that has this module as a dataclass attribute can ask it before ``init``. What
        a model makes in ``setup`` exists within ``init`` and ``apply`` alone.

        Args:
          batch_shape: the batch axes of the inputs.
        """
        network, layers = self._network(), None if self.scope is None else self._stored()
        dtype = self.param_dtype if self.dtype is None else self.dtype
        if layers is None:
            return _network.first_carry(network, None, batch_shape, dtype)
        params = _params.from_dict(network, _params.find_input_size(network, layers), layers)
        return _network.first_carry(network, params, batch_shape, dtype)

    def _params_and_key(
        self, inputs: ArrayLike, deterministic: bool | None, *, time: bool
    ) -> tuple[dict[str, Any], Key | None]:
        network, stored = self._network(), self._stored()
        size = _network.check_inputs(network, inputs, None, time=time)
        if stored is not None:
            guess = _params.find_input_size(network, stored, guess=size)
            _network.check_inputs(network, inputs, guess, time=time)
        if deterministic is not None:
            _checks.check_flag("deterministic", deterministic)
        params, key = self._layers(size), None
        if _params.draws(network, size) and not linen.merge_param("deterministic", self.deterministic, deterministic):
            key = self.make_rng("dropout")
        return params, key

    @linen.compact
    def _layers(self, size: int) -> dict[str, Any]:
        names = (f"layer_{index}" for index in range(len(_params.layers_of(self._network()))))
        return {name: self.param(name, self._init_layer, index, size) for index, name in enumerate(names)}

    @linen.nowrap
    def _stored(self) -> dict[str, Any] | None:
        """The params that there are, without their metadata."""
        return linen.meta.unbox(self.variables.get("params")) or None

    @linen.nowrap
    def _init_layer(self, key: Key, index: int, size: int) -> dict[str, Any]:
        layer = _params.init_layer(self._network(), index, key, size, self.param_dtype)
        return _params.partition(layer, self.partitioning, linen.Partitioned)

    @linen.nowrap
    def _network(self) -> Network:
        raise NotImplementedError


class Recurrent(OfNetwork):
    """Any network of the core as one module: called once, it gives ``(carry, ys)``.

    Args:
      network: a cell, such as ``jl.LSTMCell(128)`` or one of your own, or a `Layer`, `Bidirectional` or `Stack`. What
        is dropped or learned is part of it: ``jl.Stack(..., dropout=0.5)``, `jl.Zoneout`, `jl.LearnedCarry`.
      dtype: of the computation, of ys and of h; None means what inputs and params promote to. Gates and the cell state
        are computed in at least float32, and c is that.
      param_dtype: of the params.
      remat: as in `jaxlstm.unroll`.
      deterministic: whether nothing is drawn; None leaves it to the call.
      partitioning: mesh axes of params by name, as ``{"w_ih": (None, "model"), "w_hh": (None, "model")}``; in every
        layer and direction, as ``nn.with_partitioning`` gives them, for ``nn.get_partition_spec``.

    The carry is the network's own: `LSTMCarry(h, c)` for one LSTM cell, a tuple of each layer's for a `Stack`, and
    `BidirectionalCarry(forward, backward)` for both directions.

    Raises:
      ValueError, TypeError: if an option has no meaning; the message names it.

    >>> import flax.linen as nn
    >>> from jaxlstm.linen import Recurrent
    >>> policy = Recurrent(jl.Stack(jl.GRUCell(8), jl.LSTMCell(4)))
    >>> variables = policy.init(jax.random.key(0), jnp.ones((2, 5, 3)))
    >>> carry = policy.init_carry((2,))
    >>> carry, y = policy.apply(variables, carry, jnp.ones((2, 3)), reset=jnp.array([True, False]), method="step")
    >>> y.shape
    (2, 4)
    """

    network: Network | Cell

    @linen.nowrap
    def _network(self) -> Network:
        return _params.as_network(self.network)
