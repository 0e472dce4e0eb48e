"""What all networks have in common: their methods, and the options that they hand down to `unroll`."""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array

from jaxlstm import _array_checks, _checks
from jaxlstm._cell import C, Cell, P
from jaxlstm._random import Key
from jaxlstm._static import Static
from jaxlstm._step import Carry, Output
from jaxlstm._unroll import unroll_directions


class Options(NamedTuple):
    """The keyword arguments of `unroll` that every network hands down."""

    lengths: ArrayLike | None
    mask: ArrayLike | None
    reset: ArrayLike | None
    key: Key | None
    start: Array
    unroll: int | None
    remat: bool | int | str | None
    project_first: bool | None
    evaluator: str | None


class StepOptions(NamedTuple):
    """The keyword arguments of `Cell.step` that every network hands down."""

    mask: ArrayLike | None
    reset: ArrayLike | None
    key: Key | None
    start: Array


# `unroll_directions`, or what is called in its place with the same arguments
RunCell = Callable[..., tuple[tuple[Carry, ...], tuple[Any, ...]]]


class Network(Static, Generic[P, C]):
    """What maps a sequence to a sequence: a `Layer`, a `Bidirectional` or a `Stack`."""

    @property
    def output_size(self) -> int:
        """O, the features of ys."""
        raise self._undefined("output_size")

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """The axes of xs between the batch axes and the features: those of the cells, as `ConvLSTMCell` has them."""
        return ()

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> P:
        """Draw initial params for inputs of `input_size` features."""
        raise self._undefined("init")

    def init_carry(self, params: P, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None) -> C:
        """The carry before the first step, made by ``Cell.init_carry`` for each cell."""
        raise self._undefined("init_carry")

    def apply(
        self,
        params: P,
        xs: ArrayLike,
        carry: C | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        key: Key | None = None,
        start: ArrayLike = 0,
        unroll: int | None = None,
        remat: bool | int | str | None = None,
        project_first: bool | None = None,
        evaluator: str | None = None,
    ) -> tuple[C, Output]:
        """Run the network over ``xs [T, *batch, I]``: ``(carry, ys)``. The arguments are those of `jaxlstm.unroll`.

        To run one step at a time, use `step`. ``apply(params, x[None], carry)`` is the same for layers that run
        forward. A layer that runs backward would see each step as a whole sequence.

        Raises:
          ValueError, TypeError: if an argument does not fit; the message names it, and a note the layer.
        """
        _checks.check_options(key=key, unroll=unroll, remat=remat, project_first=project_first, evaluator=evaluator)
        start = _array_checks.start_array(start)
        options = Options(lengths, mask, reset, key, start, unroll, remat, project_first, evaluator)
        return self._apply(params, _array_checks.input_array("xs", xs, self.spatial_shape), carry, options)

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
        """Run one time step of ``x [*batch, I]``: ``(carry, y)``, the numbers that `apply` computes for that step.

        Args:
          params: the network's params.
          carry: the carry before the step; `init_carry` makes the first.
          x: the input ``[*batch, I]``.
          mask: bool ``[*batch]``: False skips the step, which holds the carry and gives a zero y.
          reset: bool ``[*batch]``: True starts a new sequence at this step.
          key: a PRNG key for dropout and cells that draw at random in training; None means evaluation.
          start: the absolute time of the step. Random numbers depend on it and on the key.

        Raises:
          ValueError, TypeError: if an argument does not fit, or a layer runs backward; the message names it.
        """
        if key is not None:
            _checks.check_key(key)
        options = StepOptions(mask, reset, key, _array_checks.start_array(start))
        return self._step(params, carry, _array_checks.input_array("x", x, self.spatial_shape, time=False), options)

    def _apply(
        self, params: P, xs: Array, carry: C | None, options: Options, run_cell: RunCell = unroll_directions
    ) -> tuple[C, Output]:
        raise self._undefined("apply")

    def _step(self, params: P, carry: C, x: Array, options: StepOptions) -> tuple[C, Output]:
        wanted = "layers that run forward, since a backward layer reads the whole sequence (use apply)"
        return _checks.reject("network", wanted, self)

    def _undefined(self, name: str) -> NotImplementedError:
        return NotImplementedError(f"{type(self).__name__} has no {name}; use a Layer, a Bidirectional or a Stack")


def check_network(network: object) -> None:
    """A function of cells and networks was given one."""
    if isinstance(network, Cell):
        _checks.check_cell(network, Cell, "network")
    elif not isinstance(network, Network):
        hint = " (an instance, not the class)" if isinstance(network, type) else ""
        wanted = f"a Network such as Stack(LSTMCell(128)), or a cell{hint}"
        _checks.reject("network", wanted, _checks.describe(network), TypeError)
