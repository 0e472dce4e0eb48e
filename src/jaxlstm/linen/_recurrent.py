"""What `LSTM`, `GRU` and `SimpleRNN` of linen have in common: their options, params and call."""

from typing import Any

import jax.numpy as jnp
from flax import linen
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from jaxlstm._cell import Cell
from jaxlstm._random import Key
from jaxlstm._stack import Stack
from jaxlstm._static import Static
from jaxlstm._step import Carry
from jaxlstm._wrappers import _network


class Recurrent(linen.Module):
    """What the three share. Options are checked when a module is made; params are drawn at its first call."""

    features: int
    num_layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    initial_carry: str = "zeros"
    remat: bool | int | str | None = None
    deterministic: bool | None = None
    partitioning: _network.Partitioning | None = None

    __getstate__, __setstate__ = Static.__getstate__, Static.__setstate__  # for pickle: functions by name

    def __post_init__(self) -> None:
        _network.check_options(self.dtype, self.param_dtype, self.remat)
        _network.check_partitioning(self._network(), self.partitioning)
        super().__post_init__()

    @linen.compact
    def __call__(
        self,
        inputs: ArrayLike,
        *,
        seq_lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        initial_carry: Carry | None = None,
        deterministic: bool | None = None,
    ) -> tuple[tuple[Carry, ...], Float[Array, "*batch T O"]]:
        """Run the network over the inputs.

        Args:
          inputs: ``[*batch, T, I]``.
          seq_lengths: integers ``[*batch]``: only the first steps count.
          mask: bool ``[*batch, T]``: False skips the step.
          reset: bool ``[*batch, T]``: True where a new sequence begins.
          initial_carry: a carry as this returns it, such as that of the chunk before.
          deterministic: whether nothing is dropped; if False, draws a key named "dropout". Needed only where there is
            dropout, here or as an option of the module.

        Returns:
          ``(carry, ys)``, always: a tuple with each layer's carry, and the outputs ``[*batch, T, O]``, zero in padding.

        Raises:
          ValueError, TypeError: if an argument does not fit; the message names it.
        """
        network = self._network()
        known = self.get_variable("params", "layer_0")
        size = _network.check_inputs(inputs, None if known is None else _network.input_size(linen.meta.unbox(known)))
        params = {}
        for index in range(self.num_layers):
            params[f"layer_{index}"] = self.param(f"layer_{index}", self._init_layer, network, index, size)
        drops = _network.is_random(network) and not linen.merge_param(
            "deterministic", self.deterministic, deterministic
        )
        return _network.apply_network(
            network,
            params,
            inputs,
            dtype=self.dtype,
            seq_lengths=seq_lengths,
            mask=mask,
            reset=reset,
            initial_carry=initial_carry,
            key=self.make_rng("dropout") if drops else None,
            remat=self.remat,
        )

    @linen.nowrap
    def _init_layer(self, key: Key, network: Stack, index: int, size: int) -> dict[str, Any]:
        layer = _network.init_layer(network, index, key, size, self.param_dtype)
        return _network.partition(layer, self.partitioning, linen.Partitioned)

    @linen.nowrap
    def _cell(self) -> Cell:
        raise NotImplementedError

    @linen.nowrap
    def _network(self) -> Stack:
        return _network.build_network(
            self._cell(),
            num_layers=self.num_layers,
            bidirectional=self.bidirectional,
            dropout=self.dropout,
            recurrent_dropout=self.recurrent_dropout,
            initial_carry=self.initial_carry,
        )
