"""What all networks have in common: their methods, and the options that they hand down to `unroll`."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from jaxlstm import _checks
from jaxlstm._types import Carry, Key, Params


class Options(NamedTuple):
    """The keyword arguments of `unroll` that every network hands down."""

    lengths: ArrayLike | None
    mask: ArrayLike | None
    reset: ArrayLike | None
    key: Key | None
    start: ArrayLike
    unroll: int
    remat: bool | int | str | None
    project_first: bool | None


class Network:
    """What maps a whole sequence to a sequence."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Network":
        """Itself, as of a cell."""
        return self

    @property
    def output_size(self) -> int:
        """O, the features of ys."""
        raise NotImplementedError

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> Params:
        """Draw initial params for inputs of `input_size` features."""
        raise NotImplementedError

    def init_carry(self, params: Params, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None) -> Carry:
        """The carry before the first step, as ``Cell.init_carry`` makes it for each cell."""
        raise NotImplementedError

    def apply(
        self,
        params: Params,
        xs: ArrayLike,
        carry: Carry | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        key: Key | None = None,
        start: ArrayLike = 0,
        unroll: int = 1,
        remat: bool | int | str | None = None,
        project_first: bool | None = None,
    ) -> tuple[Carry, Float[Array, "T *batch O"]]:
        """Run the network over ``xs [T, *batch, I]``: ``(carry, ys)``. The arguments are those of `jaxlstm.unroll`."""
        _checks.check_options(key=key, start=start, unroll=unroll, remat=remat, project_first=project_first)
        options = Options(lengths, mask, reset, key, start, unroll, remat, project_first)
        return self._apply(params, _checks.float_array("xs", xs, 2, "[T, *batch, I]"), carry, options)

    def _apply(self, params: Params, xs: Array, carry: Carry | None, options: Options) -> tuple[Carry, Array]:
        raise NotImplementedError
