"""`LSTM`, `GRU` and `SimpleRNN`: short forms of `Recurrent` for layers that are all alike."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen
from jaxtyping import Array

from jaxlstm._cell import Cell
from jaxlstm._network import Network
from jaxlstm._wrappers import _uniform
from jaxlstm.linen._recurrent import OfNetwork


class _Uniform(OfNetwork):
    """What the three share: a stack of layers of one cell."""

    features: int
    num_layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    initial_carry: str = "zeros"

    @linen.nowrap
    def _cell(self) -> Cell:
        raise NotImplementedError

    @linen.nowrap
    def _network(self) -> Network:
        return _uniform.build_network(
            self._cell(),
            num_layers=self.num_layers,
            bidirectional=self.bidirectional,
            dropout=self.dropout,
            recurrent_dropout=self.recurrent_dropout,
            initial_carry=self.initial_carry,
        )


class LSTM(_Uniform):
    """A network of LSTM layers: `Recurrent` of a `jaxlstm.Stack` of `jaxlstm.LSTMCell`.

    Args:
      features: H, the features of h and c.
      num_layers: how many, each reading the outputs of the one below.
      bidirectional: both directions in each layer, outputs side by side, forward first.
      dropout: the rate at which units between layers are zeroed in training.
      recurrent_dropout: the same for the h that the recurrence sees, one mask a sequence (Gal & Ghahramani 2016).
      initial_carry: "zeros", or "learned": a param of each layer, from zeros.
      projection: the features of h if it is a projection of the cell's output (Sak et al. 2014), as torch's proj_size.
      forget_bias: what the forget gate's bias starts from. For lags of 50 steps or more, `Recurrent` takes
        ``jl.LSTMCell(features, b_init=jl.chrono(longest))``.
      dtype: of the computation, of ys and of h; None means what inputs and params promote to. Gates and the cell state
        are computed in at least float32, and c is that.
      param_dtype: of the params.
      remat: what to keep for the backward pass, as in `jaxlstm.unroll`.
      deterministic: whether nothing is dropped; None leaves it to the call.
      partitioning: mesh axes of params by name, as ``{"w_ih": (None, "model"), "w_hh": (None, "model")}``; in every
        layer and direction, as ``nn.with_partitioning`` gives them, for ``nn.get_partition_spec``.

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
        return _uniform.lstm_cell(self.features, projection=self.projection, forget_bias=self.forget_bias)


class GRU(_Uniform):
    """A network of GRU layers: `Recurrent` of a `jaxlstm.Stack` of `jaxlstm.GRUCell`.

    Args:
      features: H, the features of h.
      num_layers: how many, each reading the outputs of the one below.
      bidirectional: both directions in each layer, outputs side by side, forward first.
      dropout: the rate at which units between layers are zeroed in training.
      recurrent_dropout: the same for the h that the recurrence sees, one mask a sequence (Gal & Ghahramani 2016); only
        with `reset_after`.
      initial_carry: "zeros", or "learned": a param of each layer, from zeros.
      reset_after: whether the reset gate acts after the matmul, as in torch and cuDNN, or before it, as in the paper.
      dtype: of the computation and of ys; None means what inputs and params promote to. Gates are computed in at least
        float32.
      param_dtype: of the params.
      remat: what to keep for the backward pass, as in `jaxlstm.unroll`.
      deterministic: whether nothing is dropped; None leaves it to the call.
      partitioning: mesh axes of params by name, as ``{"w_ih": (None, "model"), "w_hh": (None, "model")}``; in every
        layer and direction, as ``nn.with_partitioning`` gives them, for ``nn.get_partition_spec``.

    The carry is a tuple of each layer's, bottom first: an `RNNCarry(h)`, a pair of them for both directions. In
    ``nn.Sequential``, ``lambda carry, ys: ys`` hands on the outputs alone.

    Raises:
      ValueError, TypeError: if an option has no meaning; the message names it.

    >>> from jaxlstm.linen import GRU
    >>> (carry, ys), _ = GRU(8).init_with_output(jax.random.key(0), jnp.ones((2, 5, 3)))
    >>> ys.shape, carry[0].h.shape
    ((2, 5, 8), (2, 8))
    """

    reset_after: bool = True

    @linen.nowrap
    def _cell(self) -> Cell:
        return _uniform.gru_cell(self.features, reset_after=self.reset_after)


class SimpleRNN(_Uniform):
    """A network of RNN layers: `Recurrent` of a `jaxlstm.Stack` of `jaxlstm.RNNCell`.

    Args:
      features: H, the features of h.
      num_layers: how many, each reading the outputs of the one below.
      bidirectional: both directions in each layer, outputs side by side, forward first.
      dropout: the rate at which units between layers are zeroed in training.
      recurrent_dropout: the same for the h that the recurrence sees, one mask a sequence (Gal & Ghahramani 2016).
      initial_carry: "zeros", or "learned": a param of each layer, from zeros.
      activation_fn: tanh, or any elementwise function.
      dtype: of the computation and of ys; None means what inputs and params promote to. The activation is computed in
        at least float32.
      param_dtype: of the params.
      remat: what to keep for the backward pass, as in `jaxlstm.unroll`.
      deterministic: whether nothing is dropped; None leaves it to the call.
      partitioning: mesh axes of params by name, as ``{"w_ih": (None, "model"), "w_hh": (None, "model")}``; in every
        layer and direction, as ``nn.with_partitioning`` gives them, for ``nn.get_partition_spec``.

    The carry is a tuple of each layer's, bottom first: an `RNNCarry(h)`, a pair of them for both directions. In
    ``nn.Sequential``, ``lambda carry, ys: ys`` hands on the outputs alone.

    Raises:
      ValueError, TypeError: if an option has no meaning; the message names it.

    >>> from jaxlstm.linen import SimpleRNN
    >>> (carry, ys), _ = SimpleRNN(8).init_with_output(jax.random.key(0), jnp.ones((2, 5, 3)))
    >>> ys.shape, carry[0].h.shape
    ((2, 5, 8), (2, 8))
    """

    activation_fn: Callable[[Array], Array] = jnp.tanh

    @linen.nowrap
    def _cell(self) -> Cell:
        return _uniform.rnn_cell(self.features, activation_fn=self.activation_fn)
