"""The LSTM with options that can be combined: peepholes, coupled gates, projection, layer norm, clipping.

Greff et al. 2015 ("LSTM: A Search Space Odyssey") compare the first two with others and call all of them variants.
The order is that of the plain LSTM's file: params, cell, equations. The carry is `LSTMCarry`.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxlstm import _checks, _init
from jaxlstm._arrays import add_bias, per_feature
from jaxlstm._cell import Cell
from jaxlstm._dtypes import at_least_float32, carry_dtype, cast
from jaxlstm._random import Key
from jaxlstm.cells._lstm import Gates, LSTMCarry


class LSTMNormParams(NamedTuple):
    """Scales and shifts of the layer norms of zh ``[G]``, of zx ``[G]``, and of c ``[H]``."""

    scale_h: Float[Array, "G"]
    shift_h: Float[Array, "G"]
    scale_x: Float[Array, "G"]
    shift_x: Float[Array, "G"]
    scale_c: Float[Array, "H"]
    shift_c: Float[Array, "H"]


class LSTMVariantParams(NamedTuple):
    """``w_ih [I, G]``, ``w_hh [P, G]``, ``b [G]`` packed i, f, g, o (coupled: i, g, o). None for what is not used.

    ``p`` are the peepholes i, f, o ``[3H]`` (coupled: i, o ``[2H]``), ``w_hr [H, P]`` is the projection. Without a
    projection P is H.
    """

    w_ih: Float[Array, "I G"]
    w_hh: Float[Array, "P G"]
    b: Float[Array, "G"] | None
    p: Float[Array, "peepholes"] | None = None
    w_hr: Float[Array, "H P"] | None = None
    norm: LSTMNormParams | None = None


class LSTMVariantPreactivations(NamedTuple):
    """Both shares of z apart, since zh is still to be normalised."""

    x: Float[Array, "*batch G"]
    h: Float[Array, "*batch G"]


@dataclass(frozen=True, repr=False)
class LSTMVariantCell(Cell[LSTMVariantParams, LSTMCarry]):
    """The LSTM with any of peepholes, coupled gates, a projection, layer norm and clipping.

        z   = LN(W_hh h_{t-1}) + LN(W_ih x_t) + b               LN where layer_norm, else the plain sum
        i_t = sigma(z_i + p_i * c_{t-1})                        p where peephole, else no such terms
        f_t = sigma(z_f + p_f * c_{t-1}), or 1 - i_t            the latter where coupled
        c_t = f_t * c_{t-1} + i_t * tanh(z_g)
        o_t = sigma(z_o + p_o * c_t)
        h_t = W_hr (o_t * tanh(LN(c_t)))                        W_hr where projection_size; the output y_t

    Args:
      hidden_size: H, the features of c, and of h without a projection.
      peephole: whether the gates see the cell state (Gers & Schmidhuber 2000). The weights p start at zero.
      coupled: whether the cell forgets as much as it takes in, f = 1 - i (CIFG in Greff et al. 2015).
      projection_size: P, the features of h (LSTMP: Sak et al. 2014; torch's proj_size), or None.
      layer_norm: whether to normalise both shares of z, each over all gates, and c (Ba et al. 2016, equations 20-22).
      clip: a bound on the input of each gate's sigma and of g's tanh, peepholes included, as in ONNX. c is not clipped.
      forget_bias: the initial b of the forget gate; the others start at 0. With `coupled`, i starts at its opposite,
        since 1 - sigma(z) = sigma(-z). For lags of 50 steps or more, see `chrono`.
      gate_fn: sigma above, for i, f and o.
      activation_fn: tanh above, for g and for the c in h.
      bias: whether there is a b.
      w_ih_init: initialiser of w_ih, called for each gate with shape (I, H).
      w_hh_init: initialiser of w_hh, called for each gate with shape (P, H), and of the transpose of w_hr, with shape
        (P, H).
      b_init: initialiser of b, called with shape (4, H), such as `chrono`; with `coupled`, the part of f is dropped. It
        replaces `forget_bias`, so giving both is an error.

    Raises:
      ValueError, TypeError: if an option has no meaning; the message names it.

    >>> cell = jl.LSTMVariantCell(8, peephole=True, projection_size=3)
    >>> carry, ys = jl.unroll(cell, cell.init(jax.random.key(0), input_size=2), jnp.ones((5, 2)))
    >>> ys.shape, carry.h.shape, carry.c.shape
    ((5, 3), (3,), (8,))
    """

    hidden_size: int
    _: KW_ONLY
    peephole: bool = False
    coupled: bool = False
    projection_size: int | None = None
    layer_norm: bool = False
    clip: int | float | None = None
    forget_bias: int | float = 1.0
    gate_fn: Callable[[Array], Array] = jax.nn.sigmoid
    activation_fn: Callable[[Array], Array] = jnp.tanh
    bias: bool = True
    w_ih_init: _init.Initializer = _init.glorot
    w_hh_init: _init.Initializer = _init.orthogonal
    b_init: _init.Initializer | None = None

    def __post_init__(self) -> None:
        self._set(
            hidden_size=_checks.check_size("hidden_size", self.hidden_size),
            forget_bias=_checks.check_number("forget_bias", self.forget_bias),
        )
        for name in ("peephole", "coupled", "layer_norm"):
            _checks.check_flag(name, getattr(self, name))
        if self.projection_size is not None:
            self._set(projection_size=_checks.check_size("projection_size", self.projection_size))
        if self.clip is not None:
            self._set(clip=_checks.check_number("clip", self.clip))
            if self.clip <= 0:
                _checks.reject("clip", "a positive number or None", self.clip)
        for name in ("gate_fn", "activation_fn", "w_ih_init", "w_hh_init"):
            _checks.check_function(name, getattr(self, name))
        _checks.check_bias(self.bias, self.forget_bias, self.b_init)

    @property
    def output_size(self) -> int:
        """Features of h: P, or H without a projection."""
        return self.projection_size or self.hidden_size

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> LSTMVariantParams:
        """Draw initial params for inputs of `input_size` features; peepholes start at 0, layer norms at 1 and 0."""
        _checks.check_init(key, input_size, dtype)
        size, out, gates = self.hidden_size, self.output_size, 3 if self.coupled else 4
        w_ih_key, w_hh_key, b_key, w_hr_key = jax.random.split(key, 4)
        ones, zeros = partial(jnp.ones, dtype=dtype), partial(jnp.zeros, dtype=dtype)
        total = gates * size
        w_hr = _init.draw("w_hh_init", self.w_hh_init, w_hr_key, (out, size), dtype).T if self.projection_size else None
        return LSTMVariantParams(
            w_ih=_init.draw_weight("w_ih_init", self.w_ih_init, w_ih_key, gates, (input_size, size), dtype),
            w_hh=_init.draw_weight("w_hh_init", self.w_hh_init, w_hh_key, gates, (out, size), dtype),
            b=self._init_b(b_key, dtype) if self.bias else None,
            p=zeros(total - size) if self.peephole else None,
            w_hr=w_hr,
            norm=LSTMNormParams(ones(total), zeros(total), ones(total), zeros(total), ones(size), zeros(size))
            if self.layer_norm
            else None,
        )

    def init_carry(
        self, params: LSTMVariantParams, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None
    ) -> LSTMCarry:
        """Zeros: h with the features of the output, c with H of them in at least float32."""
        dtype = carry_dtype(params, batch_shape, dtype)
        h = jnp.zeros((*batch_shape, self.output_size), dtype)
        return LSTMCarry(h=h, c=jnp.zeros((*batch_shape, self.hidden_size), at_least_float32(dtype)))

    def project(self, params: LSTMVariantParams, x: Array) -> Array:
        """zx = LN(x @ w_ih) + b, or without LN."""
        zx = x @ params.w_ih
        if params.norm is not None:
            wide = cast((zx, params.norm.scale_x, params.norm.shift_x), at_least_float32(zx.dtype))
            zx = layer_norm(*wide).astype(zx.dtype)  # squares overflow in 16 bits
        return zx if params.b is None else add_bias(zx, params.b)

    def combine(self, zx: Array, zh: Array) -> Any:
        """Their sum, or with layer norm both apart."""
        return LSTMVariantPreactivations(x=zx, h=zh) if self.layer_norm else zx + zh

    def transition(self, params: LSTMVariantParams, z: Any, carry: LSTMCarry) -> LSTMCarry:
        """The gates and the new cell state, and h from both."""
        gates, c = self._gates_and_c(params, z, carry)
        return lstm_variant_output(params, gates.o, c, activation_fn=self.activation_fn)

    def gates(self, params: LSTMVariantParams, z: Any, carry: LSTMCarry) -> Gates:
        """The gates of z, after layer norm and clipping."""
        return self._gates_and_c(params, z, carry)[0]

    def _gates_and_c(self, params: LSTMVariantParams, z: Any, carry: LSTMCarry) -> tuple[Gates, Array]:
        if params.norm is not None:
            z = z.x + layer_norm(z.h, params.norm.scale_h, params.norm.shift_h)
        return lstm_variant_gates(
            params, z, carry.c, clip=self.clip, gate_fn=self.gate_fn, activation_fn=self.activation_fn
        )

    def _init_b(self, key: Key, dtype: DTypeLike) -> Array:
        b = _init.draw("b_init", self.b_init or self._forget_bias_init, key, (4, self.hidden_size), dtype)
        return _init.pack_gates(jnp.delete(b, 1, axis=0) if self.coupled else b)

    def _forget_bias_init(self, key: Key, shape: tuple[int, int], dtype: DTypeLike) -> Array:
        gate, bias = (0, -self.forget_bias) if self.coupled else (1, self.forget_bias)
        return _init.zeros(key, shape, dtype).at[gate].set(bias)


def lstm_variant_gates(
    params: LSTMVariantParams,
    z: Float[Array, "*batch G"],
    c: Float[Array, "*batch H"],
    *,
    clip: int | float | None = None,
    gate_fn: Callable[[Array], Array] = jax.nn.sigmoid,
    activation_fn: Callable[[Array], Array] = jnp.tanh,
) -> tuple[Gates, Float[Array, "*batch H"]]:
    """The gates of `LSTMVariantCell`, coupled if z packs three, and the new c, which o's peephole sees."""
    coupled = z.shape[-1] == 3 * c.shape[-1]
    z_i, *z_f, z_g, z_o = jnp.split(z, 3 if coupled else 4, axis=-1)
    p_i, *p_f, p_o = (None,) * 3 if params.p is None else jnp.split(params.p, 2 if coupled else 3)

    i = gate_fn(bound(peep(z_i, p_i, c), clip))
    f = 1 - i if coupled else gate_fn(bound(peep(z_f[0], p_f[0], c), clip))
    g = activation_fn(bound(z_g, clip))
    c = f * c + i * g
    o = gate_fn(bound(peep(z_o, p_o, c), clip))
    return Gates(i=i, f=f, g=g, o=o), c


def lstm_variant_output(
    params: LSTMVariantParams,
    o: Float[Array, "*batch H"],
    c: Float[Array, "*batch H"],
    *,
    activation_fn: Callable[[Array], Array] = jnp.tanh,
) -> LSTMCarry:
    """h_t = W_hr (o_t * tanh(LN(c_t))), LN and W_hr if the params have them, beside c_t."""
    c_out = c if params.norm is None else layer_norm(c, params.norm.scale_c, params.norm.shift_c)
    h = o * activation_fn(c_out)
    return LSTMCarry(h=h if params.w_hr is None else h @ params.w_hr, c=c)


def peep(z: Float[Array, "*batch H"], p: Float[Array, "*spatial H"] | None, c: Float[Array, "*batch H"]) -> Array:
    """z + p * c: a peephole from the cell state to a gate, one weight a unit (Gers & Schmidhuber 2000)."""
    return z if p is None else z + per_feature(p, c) * c


def bound(z: Array, clip: int | float | None) -> Array:
    """z within [-clip, clip] (ONNX's attribute ``clip``)."""
    return z if clip is None else jnp.clip(z, -clip, clip)


def layer_norm(z: Float[Array, "*batch n"], scale: Float[Array, "n"], shift: Float[Array, "n"]) -> Array:
    """LN(z) = scale * (z - mean) / sqrt(variance + 1e-5) + shift, over the last axis (Ba et al. 2016, equation 4).

    The paper has no 1e-5. It is needed where the variance is zero, as for a carry of zeros.
    """
    # Without the barrier, XLA fuses the sums into each other's kernels, which takes minutes to compile for a GPU.
    centred = z - jax.lax.optimization_barrier(z.mean(-1, keepdims=True))
    variance = jnp.square(centred).mean(-1, keepdims=True)
    scale, shift = per_feature(scale, z), per_feature(shift, z)
    return scale * centred * jax.lax.rsqrt(variance + 1e-5) + shift
