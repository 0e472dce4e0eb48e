"""The ConvLSTM (Shi et al. 2015), an LSTM whose matmuls are convolutions: params, cell. Its carry is `LSTMCarry`."""

import math
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxlstm import _checks, _init
from jaxlstm._arrays import add_bias, linear_in_a_rule
from jaxlstm._cell import Cell
from jaxlstm._dtypes import at_least_float32, carry_dtype
from jaxlstm._random import Key
from jaxlstm._sharding import match_varying
from jaxlstm.cells._lstm import Gates, LSTMCarry, lstm_transition
from jaxlstm.cells._lstm_variants import peep


class ConvLSTMParams(NamedTuple):
    """``w_ih [*kernel, I, 4H]``, ``w_hh [*kernel, H, 4H]``, ``b [4H]``, or None for no bias; packed i, f, g, o.

    ``p`` are the peepholes i, f, o ``[*spatial, 3H]``, or None.
    """

    w_ih: Float[Array, "*kernel I G"]
    w_hh: Float[Array, "*kernel H G"]
    b: Float[Array, "G"] | None
    p: Float[Array, "*spatial peepholes"] | None


@dataclass(frozen=True, repr=False)
class ConvLSTMCell(Cell[ConvLSTMParams, LSTMCarry]):
    """ConvLSTM (Shi et al. 2015, "Convolutional LSTM Network", equation 3): for images, volumes or signals over time.

        z   = W_ih (*) x_t + W_hh (*) h_{t-1} + b         (*): a convolution with zeros around, which keeps the shape
        i_t = sigma(z_i + p_i * c_{t-1})                  p where peephole: one weight a position and channel
        f_t = sigma(z_f + p_f * c_{t-1})
        c_t = f_t * c_{t-1} + i_t * tanh(z_g)
        o_t = sigma(z_o + p_o * c_t)
        h_t = o_t * tanh(c_t)                             the output y_t

    Inputs are ``xs [T, *batch, *spatial_shape, I]``, outputs and both parts of the carry have H channels in place of I.
    Lengths, masks and resets have the batch axes alone. As in all deep learning, (*) does not flip the kernel.

    Args:
      hidden_size: H, the channels of h.
      spatial_shape: the axes between the batch and the channels, such as (height, width): one, two or three.
      kernel_shape: the shape of both kernels, with as many axes; an int for the same size along each.
      peephole: whether the gates see the cell state. The weights p start at zero.
      forget_bias: the initial b of the forget gate; the others start at 0.
      bias: whether there is a b.
      w_ih_init: initialiser of w_ih, called for each gate with shape ``(*kernel, I, H)``.
      w_hh_init: initialiser of w_hh, called for each gate with shape ``(*kernel, H, H)``.
      b_init: initialiser of b, called with shape (4, H). It replaces `forget_bias`, so giving both is an error.

    Raises:
      ValueError, TypeError: if an option has no meaning; the message names it.

    >>> cell = jl.ConvLSTMCell(4, spatial_shape=(16, 12), kernel_shape=3)
    >>> params = cell.init(jax.random.key(0), input_size=1)
    >>> carry, ys = jl.unroll(cell, params, jnp.ones((5, 2, 16, 12, 1)), lengths=jnp.array([5, 3]))
    >>> ys.shape, carry.c.shape
    ((5, 2, 16, 12, 4), (2, 16, 12, 4))
    """

    hidden_size: int
    _: KW_ONLY
    spatial_shape: tuple[int, ...] = field()  # without it, the () of `Cell` would be the default
    kernel_shape: int | tuple[int, ...] = 3
    peephole: bool = True
    forget_bias: int | float = 1.0
    bias: bool = True
    w_ih_init: _init.Initializer = _init.glorot
    w_hh_init: _init.Initializer = _init.glorot
    b_init: _init.Initializer | None = None

    def __post_init__(self) -> None:
        self._set(
            hidden_size=_checks.check_size("hidden_size", self.hidden_size),
            spatial_shape=_checks.check_sizes("spatial_shape", self.spatial_shape, (1, 2, 3)),
            forget_bias=_checks.check_number("forget_bias", self.forget_bias),
        )
        axes = len(self.spatial_shape)
        kernel = self.kernel_shape if isinstance(self.kernel_shape, (tuple, list)) else (self.kernel_shape,) * axes
        self._set(kernel_shape=_checks.check_sizes("kernel_shape", kernel, (axes,)))
        _checks.check_flag("peephole", self.peephole)
        for name in ("w_ih_init", "w_hh_init"):
            _checks.check_function(name, getattr(self, name))
        _checks.check_bias(self.bias, self.forget_bias, self.b_init)

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> ConvLSTMParams:
        """Draw initial params for inputs of `input_size` channels; peepholes start at 0."""
        _checks.check_init(key, input_size, dtype)
        size, kernel = self.hidden_size, tuple(self.kernel_shape)  # type: ignore[arg-type]
        w_ih_key, w_hh_key, b_key = jax.random.split(key, 3)
        b_init = self.b_init or _init.with_forget_bias(self.forget_bias)
        return ConvLSTMParams(
            w_ih=_init.draw_weight("w_ih_init", self.w_ih_init, w_ih_key, 4, (*kernel, input_size, size), dtype),
            w_hh=_init.draw_weight("w_hh_init", self.w_hh_init, w_hh_key, 4, (*kernel, size, size), dtype),
            b=_init.draw_bias(b_init, b_key, 4, size, dtype) if self.bias else None,
            p=jnp.zeros((*self.spatial_shape, 3 * size), dtype) if self.peephole else None,
        )

    def init_carry(
        self, params: ConvLSTMParams, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None
    ) -> LSTMCarry:
        """Zeros; c in at least float32."""
        dtype = carry_dtype(params, batch_shape, dtype)
        shape = (*batch_shape, *self.spatial_shape, self.hidden_size)
        return LSTMCarry(h=jnp.zeros(shape, dtype), c=jnp.zeros(shape, at_least_float32(dtype)))

    def project(self, params: ConvLSTMParams, x: Array) -> Array:
        """zx = w_ih (*) x + b."""
        zx = convolve(x, params.w_ih)
        return zx if params.b is None else add_bias(zx, params.b)

    def recur(self, params: ConvLSTMParams, carry: LSTMCarry) -> Array:
        """zh = w_hh (*) h."""
        return convolve(carry.h, params.w_hh)

    def transition(self, params: ConvLSTMParams, z: Array, carry: LSTMCarry) -> LSTMCarry:
        """The gates, and the new cell state and output."""
        return lstm_transition(self.gates(params, z, carry), carry.c)

    def gates(self, params: ConvLSTMParams, z: Array, carry: LSTMCarry) -> Gates:
        """The gates of z, each ``[*batch, *spatial, H]``."""
        return conv_lstm_gates(z, params.p, carry.c)


def conv_lstm_gates(
    z: Float[Array, "*batch G"], p: Float[Array, "*spatial peepholes"] | None, c: Float[Array, "*batch H"]
) -> Gates:
    """The gates of `ConvLSTMCell`; o sees the new c, f * c + i * g."""
    z_i, z_f, z_g, z_o = jnp.split(z, 4, axis=-1)
    p_i, p_f, p_o = (None,) * 3 if p is None else jnp.split(p, 3, axis=-1)
    i, f, g = jax.nn.sigmoid(peep(z_i, p_i, c)), jax.nn.sigmoid(peep(z_f, p_f, c)), jnp.tanh(z_g)
    return Gates(i=i, f=f, g=g, o=jax.nn.sigmoid(peep(z_o, p_o, f * c + i * g)))


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def convolve(x: Float[Array, "*batch I"], w: Float[Array, "*kernel I O"], back: bool = False) -> Array:
    """Convolve x with the kernel over the spatial axes, which lie before the features, with zeros around.

    With `back`, w is stored with O before I, so that the transpose of the convolution has I before O. XLA on CPU is
    slow at the other order within a loop: the backward loop would take three times as long.
    """
    axes = w.ndim - 2
    lead, letters = x.shape[: x.ndim - axes - 1], "DHW"[-axes:]
    merged = x.reshape(math.prod(lead), *x.shape[len(lead) :])
    layout = (f"N{letters}C", f"{letters}{'OI' if back else 'IO'}", f"N{letters}C")
    w = jnp.swapaxes(w, -1, -2) if back else w
    z = jax.lax.conv_general_dilated(merged, w, (1,) * axes, "SAME", dimension_numbers=layout)
    return z.reshape(*lead, *z.shape[1:])


@partial(convolve.defjvp, symbolic_zeros=True)
def _convolve_jvp(back: bool, primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    (x, w), (dx, dw) = primals, tangents
    z = convolve(x, w, back)
    if isinstance(dw, SymbolicZero):
        return z, convolve(dx, w, True)
    of_w = linear_in_a_rule(partial(convolve_by_taps, x), dw)
    return z, of_w if isinstance(dx, SymbolicZero) else convolve(dx, w, True) + of_w


def convolve_by_taps(x: Float[Array, "*batch I"], w: Float[Array, "*kernel I O"]) -> Array:
    """`convolve` as a sum of matmuls, one for each position of the kernel.

    The gradient of the kernel is taken of this sum. Taken of a convolution in a loop or a conditional, XLA on CPU takes
    up to a hundred times as long.
    """
    kernel, lead = w.shape[:-2], x.ndim - w.ndim + 1
    around = [((size - 1) // 2, size // 2) for size in kernel]
    padded = jnp.pad(x, [(0, 0)] * lead + around + [(0, 0)])

    def add(z: Array, tap: tuple[Array, Array]) -> tuple[Array, None]:
        place, matrix = tap
        moved = jax.lax.dynamic_slice(padded, (*[0] * lead, *place, 0), x.shape)
        return z + (jax.lax.collapse(moved, 0, x.ndim - 1) @ matrix).astype(z.dtype), None

    zeros = jnp.zeros((math.prod(x.shape[:-1]), w.shape[-1]), at_least_float32(x.dtype))
    taps = jnp.indices(kernel).reshape(len(kernel), -1).T, w.reshape(-1, *w.shape[-2:])
    z, _ = jax.lax.scan(jax.checkpoint(add, prevent_cse=False), match_varying(zeros, x, w), taps)
    return z.reshape(*x.shape[:-1], w.shape[-1]).astype(x.dtype)
