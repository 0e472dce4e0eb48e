"""Words shared by every file: the axis legend, array aliases, dtypes, and what a cell is.

Axes in the annotations: ``T`` steps, ``*batch`` any number of batch axes (none included), ``I`` input size,
``H`` hidden size, ``O`` output size, ``G`` the packed gates (4H for an LSTM, 3H for a GRU, H for an RNN).
"""

import functools
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from jaxlstm import _checks

Params = Any  # a named tuple of arrays, the cell's own
Carry = Any  # a named tuple of arrays [*batch, ...]: what the scan threads
Key = Array  # one PRNG key, typed or raw


class RNNCarry(NamedTuple):
    """The carry of an RNN and of a GRU: the hidden state ``h [*batch, H]``, which is also the output."""

    h: Float[Array, "*batch H"]


class Cell:
    """One recurrence, as four small pieces of mathematics that are pure functions of their arguments:

        zx_t    = project(params, x_t)                          all that depends on the input alone
        zh_t    = recur(params, carry_{t-1})                    the matmul of the carry
        carry_t = transition(params, zx_t, zh_t, carry_{t-1})   gate activations and state transition
        y_t     = readout(params, carry_t)

    A cell is a frozen dataclass of static options: it holds no arrays, compares by value, and can be a static
    argument of jit. A new one states its options, `init` and `transition`, and has the rest from here, for params
    with fields ``w_ih [I, G]``, ``w_hh [H, G]``, ``b [G]`` and a carry with the field ``h``.

    `transition` is given arrays of at least float32, so it need not think of dtypes; what it returns, the next carry
    alone, is cast back. A carry of other fields needs an `init_carry` too, and a `readout` where it has no ``h``. A
    matmul within `transition` is allowed, and stays in both loops; so is, from jax 0.10 on, a `jax.custom_vjp`.
    """

    hidden_size: int

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> Params:
        """Draw initial params for inputs of `input_size` features."""
        raise NotImplementedError(f"{type(self).__name__} must define init(key, input_size, *, dtype)")

    def transition(self, params: Params, zx: Array, zh: Array, carry: Carry) -> Carry:
        """The carry after a step, from the input's share zx and the carry's share zh of the pre-activations."""
        raise NotImplementedError(f"{type(self).__name__} must define transition(params, zx, zh, carry)")

    @property
    def output_size(self) -> int:
        """Features of y: those of h."""
        return self.hidden_size

    def init_carry(self, params: Params, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None) -> Carry:
        """The carry before the first step: zeros.

        Args:
          params: the cell's params.
          batch_shape: the batch axes of the inputs.
          dtype: of the outputs to come; None means the dtype of the params.
        """
        return RNNCarry(h=jnp.zeros((*batch_shape, self.hidden_size), carry_dtype(params, dtype)))

    def project(self, params: Params, x: Array) -> Array:
        """zx = x @ w_ih + b, for one step or a whole sequence."""
        return x @ params.w_ih + params.b

    def recur(self, params: Params, carry: Carry) -> Array:
        """zh = h @ w_hh."""
        return carry.h @ params.w_hh

    def readout(self, params: Params, carry: Carry) -> Array:
        """y = h."""
        return carry.h

    def draw(self, key: Key, time: Array, carry: Carry) -> Any:
        """What the step at this absolute time draws at random in training, for a carry of these shapes: nothing.

        A cell that returns arrays here, ``[*batch, ...]``, is given them as one more argument of `recur` and of
        `transition`, in training alone. They are constants to a derivative.
        """
        return None

    def step(self, params: Params, carry: Carry, x: ArrayLike) -> tuple[Carry, Array]:
        """One time step, the composition of the four pieces: the same numbers as `unroll`, one step at a time.

        Args:
          params: the cell's params.
          carry: the carry before the step; `init_carry` makes the first.
          x: the input ``[*batch, I]``.

        Returns:
          ``(carry, y)``: the carry after the step, and the output ``[*batch, O]``. Their dtype is that of params and
          x by promotion (a cell state c stays at least float32). So ``partial(cell.step, params)`` is a body for
          `jax.lax.scan`; where x has another dtype than params, start it from ``init_carry(..., dtype=...)``.

        Raises:
          ValueError, TypeError: if an argument does not fit the cell; the message names it.

        >>> cell = jl.LSTMCell(hidden_size=2)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> carry, y = cell.step(params, cell.init_carry(params), jnp.ones(3))
        >>> y.shape
        (2,)
        """
        _checks.check_cell(self, Cell)
        x_now = _checks.float_array("x", x, 1, "[*batch, I]")
        params, initial = fit(self, params, x_now.shape[:-1], x_now.shape[-1], x_now.dtype, "x")
        carry = _checks.like_template("carry", carry, initial, f"for x of shape {x_now.shape}")
        dtype = compute_dtype(params, x_now.dtype)
        params = cast(params, dtype)
        carry = advance(self, params, cast_like(carry, initial), self.project(params, x_now.astype(dtype)))
        return carry, self.readout(params, carry).astype(dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Cell":
        """Itself: copies of its functions would not equal them."""
        return self

    def __repr__(self) -> str:
        """The options that differ from their defaults, functions by name."""
        if not is_dataclass(self):
            return object.__repr__(self)
        shown = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(f'{name}={_name(value)}' for name, value in shown)})"


def advance(cell: Cell, params: Params, carry: Carry, zx: Array) -> Carry:
    """The carry after a step: `recur` in the compute dtype, `transition` in at least float32."""
    zh = cell.recur(params, carry)
    wide = at_least_float32(zx.dtype)
    after = cell.transition(cast(params, wide), cast(zx, wide), cast(zh, wide), cast(carry, wide))
    return carry_after(cell, after, carry)


def carry_after(cell: Cell, after: Any, before: Carry) -> Carry:
    """What the transition returned, once it is found to be a carry like the one before, in its dtypes."""
    name = f"what {type(cell).__name__}.transition returns"
    return cast_like(_checks.like_template(name, after, before, "as before the step"), before)


def fit(
    cell: Cell, params: Params, batch_shape: tuple[int, ...], input_size: int, dtype: DTypeLike, name: str
) -> tuple[Params, Carry]:
    """Params checked against those that the cell would draw, and the carry that it starts from."""
    why = f"for {input_size} input features (the last axis of {name})"
    params = _checks.like_template("params", params, _template(cell, input_size), why)
    return params, cell.init_carry(params, batch_shape, dtype=compute_dtype(params, dtype))


@functools.lru_cache(maxsize=256)
def _template(cell: Cell, input_size: int) -> Params:
    """Shapes of the cell's params; kept, since a step-by-step caller asks at every step."""
    return jax.eval_shape(lambda: cell.init(jax.random.key(0), input_size))


def compute_dtype(params: Params, *dtypes: DTypeLike) -> jnp.dtype:
    """The dtype that params and inputs promote to; said explicitly, so that strict promotion has nothing to refuse."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*(leaf.dtype for leaf in jax.tree.leaves(params)), *dtypes)


def carry_dtype(params: Params, dtype: DTypeLike | None) -> jnp.dtype:
    """The dtype that a carry is made in: the one given, else that of the params."""
    if dtype is None:
        return compute_dtype(params)
    _checks.check_dtype(dtype)
    return jnp.dtype(dtype)


def times(start: ArrayLike, steps: int) -> Array:
    """The absolute times of so many steps, in integers that hold them."""
    first = jnp.asarray(start)
    if first.dtype.itemsize < 4:
        first = first.astype(jnp.int32)
    return first + jnp.arange(steps, dtype=first.dtype)


def at_least_float32(dtype: DTypeLike) -> jnp.dtype:
    """float32 for 16-bit dtypes, else the dtype itself: what gates and cell states are computed in."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(dtype, jnp.float32)


def cast(tree: Any, dtype: DTypeLike) -> Any:
    """Every leaf of floating-point numbers in this dtype."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


def cast_like(tree: Any, like: Any) -> Any:
    """Every leaf in the dtype that its counterpart has."""
    return jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), tree, like)


def _name(value: object) -> str:
    return getattr(value, "__name__", None) or repr(value)
