"""The minGRU (Feng et al. 2024), a GRU whose gate does not see h: params, cell. Its carry is `RNNCarry`."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxlstm import _checks, _init
from jaxlstm._cell import RNNCarry
from jaxlstm._random import Key
from jaxlstm.cells._linear import LinearCell


class MinGRUParams(NamedTuple):
    """``w_ih [I, 2H]``, ``b [2H]``, or None for no bias; packed z, n."""

    w_ih: Float[Array, "I G"]
    b: Float[Array, "G"] | None


class MinGRUGates(NamedTuple):
    """Update gate z, the share of the new, and candidate n after their activations, each ``[*batch, H]``."""

    z: Float[Array, "*batch H"]
    n: Float[Array, "*batch H"]


@dataclass(frozen=True, repr=False)
class MinGRUCell(LinearCell[MinGRUParams, RNNCarry]):
    """minGRU (Feng et al. 2024, "Were RNNs all we needed?", section 3.1): linear in h, since gates see the input alone.

        z_t = sigma(W_z x_t + b_z)
        n_t = activation_fn(W_n x_t + b_n)
        h_t = (1 - z_t) * h_{t-1} + z_t * n_t        the output y_t

    Here z is the share of the new, as in the paper; in `GRUCell` it is that of the old.

    Args:
      hidden_size: H, the features of h.
      activation_fn: of the candidate: none, as in the paper's section 3, or `min_activation`, the g of its version in
        log space (appendix B).
      bias: whether there is a b.
      w_ih_init: initialiser of w_ih, called for each gate with shape (I, H).
      b_init: initialiser of b, called with shape (2, H).

    Raises:
      ValueError, TypeError: if an option has no meaning; the message names it.

    >>> cell = jl.MinGRUCell(4)
    >>> carry, ys = jl.unroll(cell, cell.init(jax.random.key(0), input_size=3), jnp.ones((5, 3)))
    >>> ys.shape
    (5, 4)
    """

    hidden_size: int
    _: KW_ONLY
    activation_fn: Callable[[Array], Array] = jax.nn.identity
    bias: bool = True
    w_ih_init: _init.Initializer = _init.glorot
    b_init: _init.Initializer = _init.zeros

    def __post_init__(self) -> None:
        self._set(hidden_size=_checks.check_size("hidden_size", self.hidden_size))
        _checks.check_flag("bias", self.bias)
        _checks.check_unused_b_init(self)
        for name in ("activation_fn", "w_ih_init", "b_init"):
            _checks.check_function(name, getattr(self, name))

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> MinGRUParams:
        """Draw initial params for inputs of `input_size` features."""
        _checks.check_init(key, input_size, dtype)
        w_ih_key, b_key = jax.random.split(key)
        return MinGRUParams(
            w_ih=_init.draw_weight("w_ih_init", self.w_ih_init, w_ih_key, 2, (input_size, self.hidden_size), dtype),
            b=_init.draw_bias(self.b_init, b_key, 2, self.hidden_size, dtype) if self.bias else None,
        )

    def coefficients(self, params: MinGRUParams, zx: Array) -> tuple[RNNCarry, RNNCarry]:
        """a = 1 - z, as sigma of the opposite, and b = z * n."""
        z, n = self.gates(params, zx, None)
        return RNNCarry(h=jax.nn.sigmoid(-jnp.split(zx, 2, axis=-1)[0])), RNNCarry(h=z * n)

    def gates(self, params: MinGRUParams, z: Array, carry: RNNCarry | None) -> MinGRUGates:
        """The gate z and the candidate n."""
        z_z, z_n = jnp.split(z, 2, axis=-1)
        return MinGRUGates(z=jax.nn.sigmoid(z_z), n=self.activation_fn(z_n))


def min_activation(z: Float[Array, "*batch H"]) -> Float[Array, "*batch H"]:
    """g(z) = z + 0.5 where z >= 0, else sigma(z): a candidate above 0, so that it has a logarithm.

    Reference: Feng et al. 2024, appendix B, for `MinGRUCell` and `MinLSTMCell`.

    >>> jl.min_activation(jnp.array([-2.0, 2.0])).round(3)
    Array([0.119, 2.5  ], dtype=float32)
    """
    return jnp.where(z >= 0, z + 0.5, jax.nn.sigmoid(z))
