"""The linear recurrent unit (Orvieto et al. 2023): a complex diagonal recurrence. Params, carry, cell, equations."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Complex, Float

from jaxlstm import _checks
from jaxlstm._arrays import per_feature
from jaxlstm._dtypes import at_least_float32, carry_dtype, complex_dtype
from jaxlstm._random import Key
from jaxlstm.cells._linear import LinearCell


class LRUParams(NamedTuple):
    """``w_ih [I, 2N + H]``, packed Re B, Im B, D; three ``[N]`` that lambda and gamma come from; C, two ``[N, H]``.

    All are real, so that any optimizer and file format takes them.
    """

    w_ih: Float[Array, "I N_N_H"]
    nu_log: Float[Array, "N"]
    theta_log: Float[Array, "N"]
    gamma_log: Float[Array, "N"]
    c_re: Float[Array, "N H"]
    c_im: Float[Array, "N H"]


class LRUCarry(NamedTuple):
    """The complex state s ``[*batch, N]``, and D x_t, which the output of the step adds, ``[*batch, H]``."""

    s: Complex[Array, "*batch N"]
    dx: Float[Array, "*batch H"]


@dataclass(frozen=True, repr=False)
class LRUCell(LinearCell[LRUParams, LRUCarry]):
    """LRU (Orvieto et al. 2023, "Resurrecting Recurrent Neural Networks for Long Sequences", section 3, appendix A).

        s_t    = lambda * s_{t-1} + gamma * B x_t                   N complex numbers
        lambda = exp(-exp(nu_log) + i exp(theta_log))               |lambda| < 1 whatever the params
        gamma  = exp(gamma_log)                                     initially sqrt(1 - |lambda|^2)
        y_t    = Re(C s_t) + D x_t

    B and C are complex, and D is a matrix (in the paper's appendix a diagonal one, since there I is H). Nothing is
    nonlinear in time: stack the cell with nonlinear layers between, as the paper does. The carry has no h. The output
    after the last step is ``cell.readout(params, carry)``.

    Args:
      hidden_size: H, the features of y.
      state_size: N, the complex numbers of the state; None means H.
      r_min: the smallest initial ``|lambda|``.
      r_max: the largest initial ``|lambda|``. For long sequences both are near 1, such as 0.9 and 0.999.
      max_phase: the largest initial angle of lambda, in radians; smaller than 2 pi for long sequences.

    Raises:
      ValueError, TypeError: if an option has no meaning; the message names it.

    >>> cell = jl.LRUCell(4, state_size=8, r_min=0.9, r_max=0.999)
    >>> carry, ys = jl.unroll(cell, cell.init(jax.random.key(0), input_size=3), jnp.ones((5, 3)))
    >>> ys.shape, carry.s.dtype
    ((5, 4), dtype('complex64'))
    """

    hidden_size: int
    _: KW_ONLY
    state_size: int | None = None
    r_min: int | float = 0.0
    r_max: int | float = 1.0
    max_phase: int | float = 2 * math.pi

    def __post_init__(self) -> None:
        self._set(hidden_size=_checks.check_size("hidden_size", self.hidden_size))
        if self.state_size is not None:
            self._set(state_size=_checks.check_size("state_size", self.state_size))
        for name in ("r_min", "r_max", "max_phase"):
            self._set(**{name: _checks.check_number(name, getattr(self, name))})
        if not 0 <= self.r_min < 1:
            _checks.reject("r_min", "a number in [0, 1)", self.r_min)
        if not self.r_min < self.r_max <= 1:
            _checks.reject("r_max", f"a number above r_min={self.r_min}, up to 1", self.r_max)
        if self.max_phase <= 0:
            _checks.reject("max_phase", "a positive number", self.max_phase)

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> LRUParams:
        """Draw initial params: lambda uniform in the ring's area and angles, B, C and D normal."""
        _checks.check_init(key, input_size, dtype)
        size, states = self.hidden_size, self.state_size or self.hidden_size
        ring_key, b_key, c_key, d_key = jax.random.split(key, 4)
        b = jax.random.normal(b_key, (input_size, 2 * states), dtype) * (2 * input_size) ** -0.5
        d = jax.random.normal(d_key, (input_size, size), dtype) * input_size**-0.5
        c_re, c_im = jax.random.normal(c_key, (2, states, size), dtype) * states**-0.5
        ring = init_ring(ring_key, states, self.r_min, self.r_max, self.max_phase, at_least_float32(dtype))
        nu_log, theta_log, gamma_log = (part.astype(dtype) for part in ring)
        return LRUParams(jnp.concatenate([b, d], axis=-1), nu_log, theta_log, gamma_log, c_re, c_im)

    def init_carry(
        self, params: LRUParams, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None
    ) -> LRUCarry:
        """Zeros; the state in complex64, or in complex128 for float64."""
        dtype = carry_dtype(params, batch_shape, dtype)
        return LRUCarry(
            s=jnp.zeros((*batch_shape, self.state_size or self.hidden_size), complex_dtype(dtype)),
            dx=jnp.zeros((*batch_shape, self.hidden_size), dtype),
        )

    def project(self, params: LRUParams, x: Array) -> LRUCarry:
        """zx = (gamma * B x, D x), what the step adds to the carry. Gamma scales the weights, which are the fewest."""
        states, wide = params.nu_log.size, at_least_float32(x.dtype)
        gamma = jnp.exp(params.gamma_log.astype(wide))
        rest = jnp.ones(params.w_ih.shape[-1] - 2 * states, wide)
        scale = per_feature(jnp.concatenate([gamma, gamma, rest]), params.w_ih)
        zx = x @ (params.w_ih.astype(wide) * scale).astype(params.w_ih.dtype)
        re, im, dx = jnp.split(zx, [states, 2 * states], axis=-1)
        return LRUCarry(s=jax.lax.complex(re.astype(wide), im.astype(wide)), dx=dx)

    def coefficients(self, params: LRUParams, zx: LRUCarry) -> tuple[LRUCarry, LRUCarry]:
        """a = (lambda, 0) and b = zx."""
        a = jnp.broadcast_to(lru_lambda(params.nu_log, params.theta_log), zx.s.shape)
        return LRUCarry(s=a, dx=jnp.zeros_like(zx.dx)), zx

    def readout(self, params: LRUParams, carry: LRUCarry) -> Array:
        """y = Re(C s) + D x."""
        re, im = (part.astype(params.c_re.dtype) for part in (carry.s.real, carry.s.imag))
        return re @ params.c_re + im @ -params.c_im + carry.dx


def lru_lambda(nu_log: Float[Array, "N"], theta_log: Float[Array, "N"]) -> Complex[Array, "N"]:
    """exp(-exp(nu_log) + i exp(theta_log))."""
    radius, angle = jnp.exp(-jnp.exp(nu_log)), jnp.exp(theta_log)
    return jax.lax.complex(radius * jnp.cos(angle), radius * jnp.sin(angle))


def init_ring(
    key: Key, states: int, r_min: int | float, r_max: int | float, max_phase: int | float, dtype: DTypeLike
) -> tuple[Float[Array, "N"], Float[Array, "N"], Float[Array, "N"]]:
    """nu_log, theta_log and gamma_log of lambdas uniform in the ring r_min < |lambda| < r_max, 0 < angle < max_phase.

    What is drawn is 1 - |lambda|^2: gamma needs it, and it never rounds to 0.
    """
    area, phase = jax.random.uniform(key, (2, states), dtype, float(jnp.finfo(dtype).eps), 1)
    rest = area * (r_max**2 - r_min**2) + (1 - r_max**2)
    return jnp.log(-0.5 * jnp.log1p(-rest)), jnp.log(phase * max_phase), 0.5 * jnp.log(rest)
