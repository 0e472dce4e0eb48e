"""`LSTM`, `GRU` and `SimpleRNN`: a whole recurrent network of the core as one linen module."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen
from jaxtyping import Array

from jaxlstm._cell import Cell
from jaxlstm._wrappers import _network
from jaxlstm.linen._recurrent import Recurrent


class LSTM(Recurrent):
    """A network of LSTM layers, as `jaxlstm.Stack` of `jaxlstm.LSTMCell`: called once, it gives ``(carry, ys)``.

    Args:
      features: H, the features of h and c.
      num_layers: how many, each reading the outputs of the one below.
      bidirectional: both directions in each layer, outputs side by side, forward first.
      dropout: the rate at which units between layers are zeroed in training.
      recurrent_dropout: the same for the h that the recurrence sees, one mask a sequence (Gal & Ghahramani 2016).
      dtype: of the computation, of ys and of h; None means what inputs and params promote to. Gates and the cell state
        are computed in at least float32, and c is that.
      param_dtype: of the params.
      initial_carry: "zeros", or "learned": a param of each layer, from zeros.
      remat: as in `jaxlstm.unroll`.
      deterministic: whether nothing is dropped; None leaves it to the call.
      partitioning: mesh axes of params by name, as ``{"w_ih": (None, "model"), "w_hh": (None, "model")}``; in every
        layer and direction, as ``nn.with_partitioning`` gives them, for ``nn.get_partition_spec``.
      projection: the features of h if it is a projection of the cell's output (Sak et al. 2014), as torch's proj_size.
      forget_bias: what the forget gate's bias starts from.

    The carry is a tuple of each layer's, bottom first: an `LSTMCarry(h, c)`, a pair of them for both directions. In
    ``nn.Sequential``, ``lambda carry, ys: ys`` hands on the outputs alone.

    Raises:
      ValueError, TypeError: if an option has no meaning; the message names it.

    >>> import flax.linen as nn
    >>> from jaxlstm.linen import LSTM
    >>> lstm = LSTM(8, num_layers=2, bidirectional=True)
    >>> inputs = jnp.ones((2, 5, 3))
    >>> variables = lstm.init(jax.random.key(0), inputs)
    >>> carry, ys = lstm.apply(variables, inputs, seq_lengths=jnp.array([5, 2]))
    >>> forward, backward = carry[-1]
    >>> ys.shape, forward.c.shape
    ((2, 5, 16), (2, 8))
    """

    projection: int | None = None
    forget_bias: float = 1.0

    @linen.nowrap
    def _cell(self) -> Cell:
        return _network.lstm_cell(self.features, projection=self.projection, forget_bias=self.forget_bias)


class GRU(Recurrent):
    """A network of GRU layers, as `jaxlstm.Stack` of `jaxlstm.GRUCell`: called once, it gives ``(carry, ys)``.

    Args:
      features: H; so are all up to `partitioning` as in `LSTM`.
      num_layers: see there.
      bidirectional: see there.
      dropout: see there.
      recurrent_dropout: see there; only with `reset_after`.
      dtype: see there.
      param_dtype: see there.
      initial_carry: see there.
      remat: see there.
      deterministic: see there.
      partitioning: see there.
      reset_after: whether the reset gate acts after the matmul, as in torch and cuDNN, or before it, as in the paper.

    The carry is a tuple of each layer's, bottom first: an `RNNCarry(h)`, a pair of them for both directions.

    >>> from jaxlstm.linen import GRU
    >>> (carry, ys), _ = GRU(8).init_with_output(jax.random.key(0), jnp.ones((2, 5, 3)))
    >>> ys.shape, carry[0].h.shape
    ((2, 5, 8), (2, 8))
    """

    reset_after: bool = True

    @linen.nowrap
    def _cell(self) -> Cell:
        return _network.gru_cell(self.features, reset_after=self.reset_after)


class SimpleRNN(Recurrent):
    """A network of RNN layers, as `jaxlstm.Stack` of `jaxlstm.RNNCell`: called once, it gives ``(carry, ys)``.

    Args:
      features: H; so are all up to `partitioning` as in `LSTM`.
      num_layers: see there.
      bidirectional: see there.
      dropout: see there.
      recurrent_dropout: see there.
      dtype: see there.
      param_dtype: see there.
      initial_carry: see there.
      remat: see there.
      deterministic: see there.
      partitioning: see there.
      activation_fn: tanh, or any elementwise function.

    The carry is a tuple of each layer's, bottom first: an `RNNCarry(h)`, a pair of them for both directions.

    >>> from jaxlstm.linen import SimpleRNN
    >>> (carry, ys), _ = SimpleRNN(8).init_with_output(jax.random.key(0), jnp.ones((2, 5, 3)))
    >>> ys.shape, carry[0].h.shape
    ((2, 5, 8), (2, 8))
    """

    activation_fn: Callable[[Array], Array] = jnp.tanh

    @linen.nowrap
    def _cell(self) -> Cell:
        return _network.rnn_cell(self.features, activation_fn=self.activation_fn)
