"""`LSTM`, `GRU` and `SimpleRNN`: short forms of `Recurrent` for layers that are all alike."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxlstm._wrappers import _params, _uniform
from jaxlstm.nnx._recurrent import Recurrent


class LSTM(Recurrent):
    """A network of LSTM layers: `Recurrent` of a `jaxlstm.Stack` of `jaxlstm.LSTMCell`.

    Args:
      in_features: I, the features of the inputs.
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
      deterministic: whether nothing is dropped; ``model.eval()`` sets it, ``model.train()`` unsets it.
      partitioning: mesh axes of params by name, as ``{"w_ih": (None, "model"), "w_hh": (None, "model")}``; in every
        layer and direction, as ``nnx.with_partitioning`` gives them, for ``nnx.get_partition_spec``. From flax 0.12 on
        params are cut when they are made, so that there has to be a mesh, unless ``nnx.use_eager_sharding(False)``.
      rngs: for the params; where there is dropout, a fork of its stream "dropout" is kept.

    The carry is a tuple of each layer's, bottom first: an `LSTMCarry(h, c)`, a pair of them for both directions. In
    ``nnx.Sequential``, ``lambda carry, ys: ys`` hands on the outputs alone.

    Raises:
      ValueError, TypeError: if an option has no meaning; the message names it.

    >>> from flax import nnx
    >>> from jaxlstm.nnx import LSTM
    >>> lstm = LSTM(3, 8, num_layers=2, bidirectional=True, rngs=nnx.Rngs(0))
    >>> carry, ys = lstm(jnp.ones((2, 5, 3)), seq_lengths=jnp.array([5, 2]))
    >>> forward, backward = carry[-1]
    >>> ys.shape, forward.c.shape
    ((2, 5, 16), (2, 8))
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        num_layers: int = 1,
        bidirectional: bool = False,
        *,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        initial_carry: str = "zeros",
        projection: int | None = None,
        forget_bias: float = 1.0,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        remat: bool | int | str | None = None,
        deterministic: bool = False,
        partitioning: _params.Partitioning | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        network = _uniform.build_network(
            _uniform.lstm_cell(features, projection=projection, forget_bias=forget_bias),
            num_layers=num_layers,
            bidirectional=bidirectional,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            initial_carry=initial_carry,
        )
        options = {"dtype": dtype, "param_dtype": param_dtype, "remat": remat, "deterministic": deterministic}
        super().__init__(network, in_features, **options, partitioning=partitioning, rngs=rngs)


class GRU(Recurrent):
    """A network of GRU layers: `Recurrent` of a `jaxlstm.Stack` of `jaxlstm.GRUCell`.

    Args:
      in_features: I, the features of the inputs.
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
      deterministic: whether nothing is dropped; ``model.eval()`` sets it, ``model.train()`` unsets it.
      partitioning: mesh axes of params by name, as ``{"w_ih": (None, "model"), "w_hh": (None, "model")}``; in every
        layer and direction, as ``nnx.with_partitioning`` gives them, for ``nnx.get_partition_spec``. From flax 0.12 on
        params are cut when they are made, so that there has to be a mesh, unless ``nnx.use_eager_sharding(False)``.
      rngs: for the params; where there is dropout, a fork of its stream "dropout" is kept.

    The carry is a tuple of each layer's, bottom first: an `RNNCarry(h)`, a pair of them for both directions. In
    ``nnx.Sequential``, ``lambda carry, ys: ys`` hands on the outputs alone.

    Raises:
      ValueError, TypeError: if an option has no meaning; the message names it.

    >>> from flax import nnx
    >>> from jaxlstm.nnx import GRU
    >>> carry, ys = GRU(3, 8, rngs=nnx.Rngs(0))(jnp.ones((2, 5, 3)))
    >>> ys.shape, carry[0].h.shape
    ((2, 5, 8), (2, 8))
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        num_layers: int = 1,
        bidirectional: bool = False,
        *,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        initial_carry: str = "zeros",
        reset_after: bool = True,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        remat: bool | int | str | None = None,
        deterministic: bool = False,
        partitioning: _params.Partitioning | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        network = _uniform.build_network(
            _uniform.gru_cell(features, reset_after=reset_after),
            num_layers=num_layers,
            bidirectional=bidirectional,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            initial_carry=initial_carry,
        )
        options = {"dtype": dtype, "param_dtype": param_dtype, "remat": remat, "deterministic": deterministic}
        super().__init__(network, in_features, **options, partitioning=partitioning, rngs=rngs)


class SimpleRNN(Recurrent):
    """A network of RNN layers: `Recurrent` of a `jaxlstm.Stack` of `jaxlstm.RNNCell`.

    Args:
      in_features: I, the features of the inputs.
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
      deterministic: whether nothing is dropped; ``model.eval()`` sets it, ``model.train()`` unsets it.
      partitioning: mesh axes of params by name, as ``{"w_ih": (None, "model"), "w_hh": (None, "model")}``; in every
        layer and direction, as ``nnx.with_partitioning`` gives them, for ``nnx.get_partition_spec``. From flax 0.12 on
        params are cut when they are made, so that there has to be a mesh, unless ``nnx.use_eager_sharding(False)``.
      rngs: for the params; where there is dropout, a fork of its stream "dropout" is kept.

    The carry is a tuple of each layer's, bottom first: an `RNNCarry(h)`, a pair of them for both directions. In
    ``nnx.Sequential``, ``lambda carry, ys: ys`` hands on the outputs alone.

    Raises:
      ValueError, TypeError: if an option has no meaning; the message names it.

    >>> from flax import nnx
    >>> from jaxlstm.nnx import SimpleRNN
    >>> carry, ys = SimpleRNN(3, 8, rngs=nnx.Rngs(0))(jnp.ones((2, 5, 3)))
    >>> ys.shape, carry[0].h.shape
    ((2, 5, 8), (2, 8))
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        num_layers: int = 1,
        bidirectional: bool = False,
        *,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        initial_carry: str = "zeros",
        activation_fn: Callable[[Array], Array] = jnp.tanh,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        remat: bool | int | str | None = None,
        deterministic: bool = False,
        partitioning: _params.Partitioning | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        network = _uniform.build_network(
            _uniform.rnn_cell(features, activation_fn=activation_fn),
            num_layers=num_layers,
            bidirectional=bidirectional,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            initial_carry=initial_carry,
        )
        options = {"dtype": dtype, "param_dtype": param_dtype, "remat": remat, "deterministic": deterministic}
        super().__init__(network, in_features, **options, partitioning=partitioning, rngs=rngs)
