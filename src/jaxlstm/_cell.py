"""What a cell is: five pieces of mathematics, and its step.

Axes in the annotations: ``T`` steps, ``*batch`` any number of batch axes, none included. ``I`` is the input size, ``H``
the hidden size, ``O`` the output size. ``G`` is the packed gates: 4H for an LSTM, 3H for a GRU, H for an RNN.
"""

import functools
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from jaxlstm import _array_checks, _checks
from jaxlstm._arrays import affine, lead_shape
from jaxlstm._dtypes import carry_dtype, cast, compute_dtype
from jaxlstm._random import Key
from jaxlstm._sharding import match_varying, with_automatic_axes
from jaxlstm._static import Static
from jaxlstm._step import Carry, Inputs, Output, Params, draw_noise, masked_step, without_masked
from jaxlstm._templates import check_params

P = TypeVar("P")  # the params of a cell: a named tuple of arrays
C = TypeVar("C")  # the carry of a cell: a named tuple of arrays [*batch, ...]


class RNNCarry(NamedTuple):
    """The carry of an RNN and of a GRU: the hidden state ``h [*batch, H]``, which is also the output."""

    h: Float[Array, "*batch H"]


class Cell(Static, Generic[P, C]):
    """One recurrence, as five small pieces of mathematics that are pure functions of their arguments:

        zx_t    = project(params, x_t)                    all that depends on the input alone
        zh_t    = recur(params, carry_{t-1})              the matmul of the carry: linear in the carry
        z_t     = combine(zx_t, zh_t)                     the pre-activations: linear in both, usually their sum
        carry_t = transition(params, z_t, carry_{t-1})    gate activations and state transition
        y_t     = readout(params, carry_t)

    A cell is a frozen dataclass of static options. It holds no arrays, compares by value, and can be a static argument
    of jit. A new cell ``class MyCell(jl.Cell[MyParams, MyCarry])`` defines its options, `init` and `transition`. The
    rest is inherited, for params with fields ``w_ih [I, G]``, ``w_hh [H, G]``, ``b [G]`` and a carry with the field
    ``h``. A carry with other fields needs an `init_carry`, and a `readout` where it has no ``h``.

    A cell whose inputs are images or the like states the axes between batch and features as its `spatial_shape`: x is
    then ``[*batch, *spatial_shape, I]``, and masks and resets have the batch axes alone.

    `combine` and `transition` get arrays of at least float32, so they need not handle dtypes. A carry may hold complex
    arrays, which are then complex64 or complex128. `transition` returns the next carry, which is cast back to the
    dtypes of the carry. It may contain a matmul, which then runs in the forward and in the backward loop; from jax 0.10
    on also a `jax.custom_vjp`.
    """

    hidden_size: int
    spatial_shape: tuple[int, ...] = ()  # the axes of x between the batch axes and the features

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> P:
        """Draw initial params for inputs of `input_size` features."""
        raise NotImplementedError(f"{type(self).__name__} must define init(key, input_size, *, dtype)")

    def transition(self, params: P, z: Any, carry: C) -> C:
        """The carry after a step, from the pre-activations and the carry before it."""
        raise NotImplementedError(f"{type(self).__name__} must define transition(params, z, carry)")

    @property
    def output_size(self) -> int:
        """O, the features of y: those of h."""
        return self.hidden_size

    def init_carry(self, params: P, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None) -> C:
        """The carry before the first step: zeros.

        Args:
          params: the cell's params.
          batch_shape: the batch axes of the inputs.
          dtype: the dtype of the outputs, which params and inputs promote to; None means the dtype of the params.
        """
        dtype = carry_dtype(params, batch_shape, dtype)
        return RNNCarry(h=jnp.zeros((*batch_shape, self.hidden_size), dtype))  # type: ignore[return-value]

    def project(self, params: P, x: Array) -> Any:
        """zx = x @ w_ih + b, for one step or a whole sequence."""
        return affine(x, params.w_ih, params.b)  # type: ignore[attr-defined]

    def recur(self, params: P, carry: C) -> Any:
        """zh = h @ w_hh."""
        return carry.h @ params.w_hh  # type: ignore[attr-defined]

    def combine(self, zx: Any, zh: Any) -> Any:
        """z = zx + zh. A cell whose gates need both shares apart returns a named tuple; it must be linear in both."""
        return zx + zh

    def readout(self, params: P, carry: C) -> Any:
        """y = h. May return any tree of arrays ``[*batch, ...]``."""
        return carry.h  # type: ignore[attr-defined]

    def gates(self, params: P, z: Any, carry: C) -> Any:
        """The gates and candidates that `transition` computes, as a named tuple of arrays ``[*batch, H]``.

        `jaxlstm.inspect` shows them. None, the default, means that the cell names no gates.
        """
        return None

    def draw(self, key: Key, time: Array, carry: C) -> Any:
        """The random numbers that the step at this absolute time uses in training, given the carry's shapes: none.

        A cell that returns a tree of arrays ``[*batch, ...]`` here gets it as one more argument of `recur`,
        `transition` and `gates`, in training only. Derivatives treat them as constants.
        """
        return None

    def step(
        self,
        params: P,
        carry: C,
        x: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        key: Key | None = None,
        start: ArrayLike = 0,
    ) -> tuple[C, Output]:
        """Run one time step: the numbers that `unroll` computes for that step.

        Args:
          params: the cell's params.
          carry: the carry before the step; `init_carry` makes the first.
          x: the input ``[*batch, I]``.
          mask: bool ``[*batch]``: False skips the step, which holds the carry and gives a zero y.
          reset: bool ``[*batch]``: True starts a new sequence at this step, from ``init_carry(params)``.
          key: a PRNG key for cells that draw at random in training; None means evaluation.
          start: the absolute time of the step. Random numbers depend on it and on the key.

        Returns:
          ``(carry, y)``: the carry after the step, and the output ``[*batch, O]``. ``partial(cell.step, params)`` is a
          body for `jax.lax.scan`.

        Raises:
          ValueError, TypeError: if an argument does not fit the cell; the message names it.

        >>> cell = jl.LSTMCell(hidden_size=2)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> carry, y = cell.step(params, cell.init_carry(params), jnp.ones(3))
        >>> y.shape
        (2,)
        """
        _checks.check_cell(self, Cell)
        x = _array_checks.input_array("x", x, self.spatial_shape, time=False)
        batch_shape = lead_shape(x, self.spatial_shape)
        params, first = check_params(self, params, batch_shape, x, "x")
        carry = _array_checks.like_template("carry", carry, first, f"for x of shape {x.shape}")
        _array_checks.check_dtypes("carry", carry, first, "init_carry(params, batch_shape, dtype=...)")
        valid, reset = (
            None if value is None else _array_checks.bool_array(name, value, batch_shape)
            for name, value in (("mask", mask), ("reset", reset))
        )
        if key is not None:
            _checks.check_key(key)
        return _step(params, x, carry, valid, reset, key, _array_checks.start_array(start), cell=self)


@functools.partial(jax.jit, static_argnames="cell")
def _step(
    params: Params,
    x: Array,
    carry: Carry,
    valid: Array | None,
    reset: Array | None,
    key: Key | None,
    time: Array,
    *,
    cell: Cell,
) -> tuple[Carry, Output]:
    """`Cell.step` of checked arguments. Jitted, so that it is fast outside jit too."""
    batch_shape = lead_shape(x, cell.spatial_shape)

    def run(params: Params, x: Array, carry: Carry, valid: Any, reset: Any, key: Any, time: Array) -> Any:
        dtype = compute_dtype(params, x.dtype)
        params = cast(params, dtype)
        initial = cell.init_carry(params, batch_shape, dtype=dtype)
        noise = draw_noise(cell, key, time, initial, batch_shape)
        initial, carry = match_varying((initial, carry), params, x, valid, reset, noise)
        inputs = Inputs(without_masked(x.astype(dtype), valid), valid, reset, noise)
        return masked_step(cell, params, initial, carry, inputs)[:2]

    return with_automatic_axes(run, len(batch_shape), time=False)(params, x, carry, valid, reset, key, time)
