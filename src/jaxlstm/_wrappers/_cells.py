"""A cell of the core that only the Flax modules need."""

from jaxtyping import Array

from jaxlstm._cell import RNNCarry
from jaxlstm.cells import RNNCell, RNNParams


class ResidualRNNCell(RNNCell):
    """h_t = activation_fn(W_ih x_t + W_hh h_{t-1} + b + h_{t-1}), Flax's ``SimpleCell(residual=True)``.

    >>> from jaxlstm._wrappers._cells import ResidualRNNCell
    >>> cell = ResidualRNNCell(4)
    >>> carry, ys = jl.unroll(cell, cell.init(jax.random.key(0), input_size=3), jnp.ones((5, 3)))
    >>> ys.shape
    (5, 4)
    """

    def recur(self, params: RNNParams, carry: RNNCarry) -> Array:
        """zh = h @ w_hh + h."""
        return super().recur(params, carry) + carry.h
