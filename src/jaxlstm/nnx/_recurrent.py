"""What `LSTM`, `GRU` and `SimpleRNN` of nnx have in common: their params and call."""

from typing import Any

from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from jaxlstm import _checks
from jaxlstm._cell import Cell
from jaxlstm._random import Key
from jaxlstm._step import Carry
from jaxlstm._wrappers import _network


class Recurrent(nnx.Module):
    """What the three share. Params are drawn when a module is made; afterwards only dropout needs random numbers."""

    def __init__(
        self,
        cell: Cell,
        in_features: int,
        *,
        num_layers: int,
        bidirectional: bool,
        dropout: float,
        recurrent_dropout: float,
        dtype: DTypeLike | None,
        param_dtype: DTypeLike,
        initial_carry: str,
        remat: bool | int | str | None,
        deterministic: bool,
        partitioning: _network.Partitioning | None,
        rngs: nnx.Rngs,
    ) -> None:
        _checks.check_size("in_features", in_features)
        _network.check_options(dtype, param_dtype, remat)
        self.network = _network.build_network(
            cell,
            num_layers=num_layers,
            bidirectional=bidirectional,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            initial_carry=initial_carry,
        )
        _network.check_partitioning(self.network, partitioning)
        self.in_features = in_features
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.remat = remat
        self.deterministic = deterministic
        for index in range(num_layers):
            layer = _network.init_layer(self.network, index, rngs.params(), in_features, param_dtype)
            setattr(self, f"layer_{index}", _Params(_network.partition(layer, partitioning, _with_axes)))
        if _network.is_random(self.network):
            self.rngs = rngs.dropout.fork()

    def __call__(
        self,
        inputs: ArrayLike,
        *,
        seq_lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        initial_carry: Carry | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> tuple[tuple[Carry, ...], Float[Array, "*batch T O"]]:
        """Run the network over the inputs.

        Args:
          inputs: ``[*batch, T, I]``.
          seq_lengths: integers ``[*batch]``: only the first steps count.
          mask: bool ``[*batch, T]``: False skips the step.
          reset: bool ``[*batch, T]``: True where a new sequence begins.
          initial_carry: a carry as this returns it, such as that of the chunk before.
          deterministic: whether nothing is dropped, in place of the module's own, which ``model.eval()`` sets.
          rngs: what dropout draws from, in place of the module's own.

        Returns:
          ``(carry, ys)``, always: a tuple with each layer's carry, and the outputs ``[*batch, T, O]``, zero in padding.

        Raises:
          ValueError, TypeError: if an argument does not fit; the message names it.
        """
        _network.check_inputs(inputs, self.in_features)
        deterministic = self.deterministic if deterministic is None else deterministic
        drops = _network.is_random(self.network) and not deterministic
        return _network.apply_network(
            self.network,
            _as_dict(self),
            inputs,
            dtype=self.dtype,
            seq_lengths=seq_lengths,
            mask=mask,
            reset=reset,
            initial_carry=initial_carry,
            key=self._key(rngs) if drops else None,
            remat=self.remat,
        )

    def _key(self, rngs: nnx.Rngs | nnx.RngStream | None) -> Key:
        stream = self.rngs if rngs is None else rngs
        return stream.dropout() if isinstance(stream, nnx.Rngs) else stream()

    def set_view(self, deterministic: bool | None = None) -> None:
        """What ``nnx.view(model, deterministic=...)`` calls."""
        if deterministic is not None:
            self.deterministic = deterministic


def _with_axes(value: Array, axes: tuple[str | None, ...]) -> Any:
    """A value for ``nnx.Param`` with metadata; through Flax, whose name for the metadata changed in 0.12."""
    return nnx.with_partitioning(lambda: value, axes)()


class _Params(nnx.Module):
    """A nested dict of params as a module, whose paths are the dict's."""

    def __init__(self, tree: dict[str, Any]) -> None:
        for name, value in tree.items():
            setattr(self, name, _Params(value) if isinstance(value, dict) else nnx.Param(value))


def _as_dict(module: nnx.Module) -> dict[str, Any]:
    """The arrays under a module, nested as its params are."""
    tree = {}
    for name, value in vars(module).items():
        if isinstance(value, _Params):
            tree[name] = _as_dict(value)
        elif isinstance(value, nnx.Variable):
            tree[name] = value[...]
    return tree
