"""`RNN` and `Bidirectional`: Flax linen's own modules, run on the core, with masks and resets."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jax.typing import ArrayLike
from jaxtyping import Array

from jaxlstm import _checks
from jaxlstm._wrappers import _scanned
from jaxlstm._wrappers._sequence import (
    Call,
    CoreRun,
    Steps,
    as_asked,
    asked,
    core_run,
    run_both,
    run_on_core,
    time_first,
)
from jaxlstm.linen import _cells


class RNN(linen.RNN):
    """`flax.linen.RNN` with the same arguments and params, made right and fast. Code that imports it runs unchanged.

    Flax's own cells run on `jaxlstm.unroll`: params packed once a call, the derivative rule, `remat`. Any other cell,
    such as a user's own, and any cell where the arguments of ``nn.scan`` are not the defaults, is scanned as in Flax.

    What differs from Flax:

    - A length of 0 gives the initial carry (Flax: that after all the padding).
    - Outputs in the padding are zero (Flax: what the cell makes of the padding). ``zero_padding=False`` keeps Flax's.
    - Padding reaches no gradient, NaN included (but with ``zero_padding=False``).
    - `seq_lengths` with the carry asked for may have any number of batch axes, and other values than 0..T are an error
      outside jit.
    - A call takes `mask` and `reset`.
    - With a 16-bit `dtype`, gates and cell state are computed in float32 all the same, and h is 16-bit between steps.

    Args:
      cell: a cell of linen, Flax's own or any other.
      time_major: inputs are ``[T, *batch, I]``, not ``[*batch, T, I]``.
      return_carry: return ``(carry, outputs)``, the carry of an LSTM being Flax's ``(c, h)``.
      reverse: run from the last step to the first.
      keep_order: with `reverse`, return outputs in the order of the inputs.
      unroll: steps a loop iteration. None: what is best on the platform, as in `jaxlstm.unroll`; 1 for a cell that is
        scanned as in Flax.
      variable_axes: variable collections that have a value for each step, as in ``nn.scan``; so are the next three.
      variable_broadcast: collections that all steps share: the params.
      variable_carry: collections that one step hands to the next.
      split_rngs: which rngs differ between steps; not that of the params.
      zero_padding: whether outputs in the padding are zero; False scans the cell as in Flax.
      remat: as in `jaxlstm.unroll`, for cells that run on it.

    >>> import flax.linen as nn
    >>> from jaxlstm.linen import LSTMCell, RNN
    >>> rnn = RNN(LSTMCell(features=4), return_carry=True)
    >>> inputs = jnp.ones((2, 5, 3))
    >>> variables = rnn.init(jax.random.key(0), inputs)
    >>> (c, h), outputs = rnn.apply(variables, inputs, seq_lengths=jnp.array([5, 0]))
    >>> outputs.shape, float(h[1].sum())
    ((2, 5, 4), 0.0)
    """

    unroll: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    zero_padding: bool = True
    remat: bool | int | str | None = None

    def __call__(
        self,
        inputs: ArrayLike,
        *,
        initial_carry: Any = None,
        init_key: Array | None = None,
        seq_lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
    ) -> Any:
        """Run the cell over the inputs, as in Flax; arguments that Flax has too mean the same.

        Args:
          inputs: ``[*batch, T, *features]``, or time first with `time_major`.
          initial_carry: the carry before the first step; None means ``cell.initialize_carry``.
          init_key: the key for ``cell.initialize_carry``; None means ``jax.random.key(0)``.
          seq_lengths: integers ``[*batch]``: only the first steps count.
          mask: bool ``[*batch, T]``, or time first: False skips the step.
          reset: bool like `mask`: True where a new sequence begins, from ``cell.initialize_carry``.
          return_carry: return ``(carry, outputs)``; None, here and below, means as the module says.
          time_major: whether `inputs`, `mask`, `reset` and the outputs have time first.
          reverse: run from the last step to the first.
          keep_order: with `reverse`, return outputs in the order of the inputs.

        Returns:
          The outputs, or ``(carry, outputs)``.

        Raises:
          ValueError, TypeError: if an argument does not fit; the message names it.
        """
        return_carry = asked("return_carry", return_carry, self.return_carry)
        call = Call(
            seq_lengths=seq_lengths,
            mask=mask,
            reset=reset,
            time_major=asked("time_major", time_major, self.time_major),
            reverse=asked("reverse", reverse, self.reverse),
            keep_order=asked("keep_order", keep_order, self.keep_order),
            feature_axes=self.cell.num_feature_axes,
        )
        steps = time_first(inputs, call)
        carry, initial = self._carries(steps, initial_carry, init_key)
        if _runs_on_core(self, call):
            ((carry, outputs),) = run_on_core(self._core_run(call, steps, carry))
        else:
            carry, outputs = _scan(self, call, steps, carry, initial)
        outputs = as_asked(outputs, call)
        return (carry, outputs) if return_carry else outputs

    def _carries(self, steps: Steps, initial_carry: Any, init_key: Array | None) -> tuple[Any, Any]:
        """The carry to begin with, and the cell's own."""
        init_key = jax.random.key(0) if init_key is None else init_key
        initial = self.cell.initialize_carry(init_key, steps.inputs.shape[1:])
        return (initial if initial_carry is None else initial_carry), initial

    def _core_run(self, call: Call, steps: Steps, carry: Any) -> CoreRun:
        form: Any = _cells.core_form(self.cell)
        cell, params = form.pack(self.cell, _params(self.cell, form.names, carry, steps))
        options = {"reverse": call.reverse, "unroll": self.unroll, "remat": self.remat}
        return core_run(cell, params, steps, carry, dtype=self.cell.dtype, **options)


def _runs_on_core(rnn: RNN, call: Call) -> bool:
    """Whether the core runs this call, and not ``nn.scan``."""
    if not rnn.zero_padding and (call.mask is not None or call.reset is not None):
        _checks.reject("zero_padding", "True where mask or reset is given", False)
    pads = rnn.zero_padding or call.seq_lengths is None
    if (
        _scans_plainly(rnn)
        and _cells.core_form(rnn.cell)
        and pads
        and (call.reset is None or _cells.starts_at_zero(rnn.cell))
    ):
        return True
    if rnn.remat:
        _checks.reject("remat", "None where the cell is scanned as in Flax (see flax.linen.remat)", rnn.remat)
    return False


def _scans_plainly(rnn: RNN) -> bool:
    """Whether the arguments of ``nn.scan`` are the defaults: params the same at every step."""
    names = ("variable_axes", "variable_broadcast", "variable_carry", "split_rngs")
    return all(getattr(rnn, name) == getattr(linen.RNN, name) for name in names)


def _params(cell: linen.RNNCellBase, names: frozenset[str], carry: Any, steps: Steps) -> Any:
    """The cell's params, without metadata; where they are missing, Flax draws them, or says so."""
    if not names <= cell.variables.get("params", {}).keys():
        cell(carry, jnp.zeros(steps.inputs.shape[1:], steps.inputs.dtype))
    return linen.meta.unbox(cell.variables["params"])


def _scan(rnn: RNN, call: Call, steps: Steps, carry: Any, initial: Any) -> tuple[Any, Any]:
    """The cell under ``nn.scan``, as in Flax, and what counts of it."""

    def scan(wrap: Any, carry: Any, steps: Steps) -> tuple[Any, Any]:
        lifted = linen.scan(
            lambda cell, carry, now: wrap(cell)(carry, now),
            in_axes=0,
            out_axes=0,
            unroll=rnn.unroll or 1,
            variable_axes=rnn.variable_axes,
            variable_broadcast=rnn.variable_broadcast,
            variable_carry=rnn.variable_carry,
            split_rngs=rnn.split_rngs,
        )
        return lifted(rnn.cell, carry, steps)

    if rnn.zero_padding or steps.valid is None:
        return _scanned.held(scan, steps, carry, initial, reverse=call.reverse)
    return _scanned.running(scan, steps, carry, call)


class Bidirectional(linen.Bidirectional):
    """`flax.linen.Bidirectional` with the same arguments and params, and with `mask` and `reset`.

    Args:
      forward_rnn: the `RNN` that runs forward.
      backward_rnn: the `RNN` that runs from the last step to the first.
      merge_fn: a function of the two outputs, which are zero in the padding; by default it lays them side by side.
      time_major: inputs are ``[T, *batch, I]``, not ``[*batch, T, I]``.
      return_carry: return ``((forward carry, backward carry), outputs)``.

    >>> from jaxlstm.linen import Bidirectional, GRUCell, RNN
    >>> layer = Bidirectional(RNN(GRUCell(4)), RNN(GRUCell(4)))
    >>> inputs = jnp.ones((2, 5, 3))
    >>> layer.apply(layer.init(jax.random.key(0), inputs), inputs, seq_lengths=jnp.array([5, 2])).shape
    (2, 5, 8)
    """

    forward_rnn: Any
    backward_rnn: Any

    def __call__(
        self,
        inputs: ArrayLike,
        *,
        initial_carry: Any = None,
        init_key: Array | None = None,
        seq_lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
    ) -> Any:
        """Run both over the inputs.

        Args:
          inputs: ``[*batch, T, *features]``, or time first with `time_major`.
          initial_carry: the carries before the first step, (forward, backward); None means those of the cells.
          init_key: a key for both ``cell.initialize_carry``; None means ``jax.random.key(0)``.
          seq_lengths: integers ``[*batch]``: only the first steps count.
          mask: bool ``[*batch, T]``, or time first: False skips the step.
          reset: bool like `mask`: True where a new sequence begins, from ``cell.initialize_carry``.
          return_carry: return ``((forward carry, backward carry), outputs)``; None means as the module says.
          time_major: whether `inputs`, `mask`, `reset` and the outputs have time first; None means as the module says.
          reverse: unused, as in Flax.
          keep_order: unused, as in Flax.

        Returns:
          The outputs, or ``((forward carry, backward carry), outputs)``.

        Raises:
          ValueError, TypeError: if an argument does not fit; the message names it.
        """
        return_carry = asked("return_carry", return_carry, self.return_carry)
        carries = (None, None) if initial_carry is None else initial_carry
        _checks.check_tuple("initial_carry", carries, 2, "forward, backward")
        keys = (None, None) if init_key is None else jax.random.split(init_key)
        layout = {"time_major": asked("time_major", time_major, self.time_major), "seq_lengths": seq_lengths}
        rnns = self.forward_rnn, self.backward_rnn

        def begin(index: int, call: Call, steps: Steps) -> CoreRun:
            carry, _ = rnns[index]._carries(steps, carries[index], keys[index])
            return rnns[index]._core_run(call, steps, carry)

        both = None
        if all(type(rnn) is RNN for rnn in rnns):
            both = run_both(rnns, _runs_on_core, begin, inputs, mask=mask, reset=reset, **layout)
        if both is None:  # other RNNs than ours are called as Flax calls them
            more = layout | {name: value for name, value in (("mask", mask), ("reset", reset)) if value is not None}
            more |= {"return_carry": True}
            ahead = self.forward_rnn(inputs, initial_carry=carries[0], init_key=keys[0], reverse=False, **more)
            more |= {"reverse": True, "keep_order": True}
            both = ahead, self.backward_rnn(inputs, initial_carry=carries[1], init_key=keys[1], **more)
        (forward, forward_outputs), (backward, backward_outputs) = both
        outputs = jax.tree.map(self.merge_fn, forward_outputs, backward_outputs)
        return ((forward, backward), outputs) if return_carry else outputs
