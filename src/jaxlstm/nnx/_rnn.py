"""`RNN` and `Bidirectional`: Flax nnx's own modules, run on the core, with masks and resets."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike

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
from jaxlstm.nnx import _cells

# Flax 0.12 moved the scan whose state_axes these modules take.
_nnx_scan = nnx.compat.scan if hasattr(nnx, "compat") else nnx.scan  # pyright: ignore[reportPrivateImportUsage]


class RNN(nnx.RNN):
    """`flax.nnx.RNN` with the same arguments and state, made right and fast. Code that imports it runs unchanged.

    Flax's own cells and those of `jaxlstm.nnx` run on `jaxlstm.unroll`: params packed once a call, the derivative rule,
    `remat`. Any other cell, such as a user's own, is scanned as in Flax.

    What differs from Flax:

    - A length of 0 gives the initial carry (Flax: that after all the padding).
    - Outputs in the padding are zero (Flax: what the cell makes of the padding). ``zero_padding=False`` keeps Flax's.
    - Padding reaches no gradient, NaN included (but with ``zero_padding=False``).
    - `seq_lengths` with the carry asked for may have any number of batch axes, and other values than 0..T are an error
      outside jit.
    - A call takes `mask` and `reset`.
    - A first carry of zeros takes no random numbers, so ``rngs=False`` leaves the module without any.
    - With a 16-bit `dtype`, gates and cell state are computed in float32 all the same, and h is 16-bit between steps.

    ``nnx.clone`` makes a copy that compiles no more. ``copy.deepcopy`` copies the cells' jitted activations too, as in
    Flax, so that its copy compiles anew.

    Args:
      cell: a cell of nnx: one of `jaxlstm.nnx`, Flax's own, or any other.
      time_major: inputs are ``[T, *batch, I]``, not ``[*batch, T, I]``.
      return_carry: return ``(carry, outputs)``, the carry of an LSTM being Flax's ``(c, h)``.
      reverse: run from the last step to the first.
      keep_order: with `reverse`, return outputs in the order of the inputs.
      unroll: steps a loop iteration. None: what is best on the platform, as in `jaxlstm.unroll`; 1 for a cell that is
        scanned as in Flax.
      state_axes: how ``nnx.scan`` treats the cell's state; if given, the cell is scanned as in Flax. None: all steps
        share it, and hand on what they change.
      broadcast_rngs: a filter for the rngs of the cell that are the same at every step.
      rngs: what a first carry is drawn from, if it is drawn: a ``nnx.Rngs``, True for its default, False for none.
      zero_padding: whether outputs in the padding are zero; False scans the cell as in Flax.
      remat: as in `jaxlstm.unroll`, for cells that run on it.

    >>> from flax import nnx
    >>> from jaxlstm.nnx import LSTMCell, RNN
    >>> rnn = RNN(LSTMCell(3, 4, rngs=nnx.Rngs(0)), return_carry=True)
    >>> (c, h), outputs = rnn(jnp.ones((2, 5, 3)), seq_lengths=jnp.array([5, 0]))
    >>> outputs.shape, float(h[1].sum())
    ((2, 5, 4), 0.0)
    """

    def __init__(
        self,
        cell: Any,
        *,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        unroll: int | None = None,
        state_axes: Mapping[Any, Any] | None = None,
        broadcast_rngs: Any = None,
        rngs: Any = True,
        zero_padding: bool = True,
        remat: bool | int | str | None = None,
    ) -> None:
        super().__init__(
            cell,
            time_major=time_major,
            return_carry=return_carry,
            reverse=reverse,
            keep_order=keep_order,
            state_axes=state_axes,
            broadcast_rngs=broadcast_rngs,
            rngs=rngs,
        )
        _checks.check_flag("zero_padding", zero_padding)
        _checks.check_remat(remat)
        self.unroll = unroll
        self.zero_padding = zero_padding
        self.remat = remat
        self.scans_plainly = state_axes is None

    def __call__(
        self,
        inputs: ArrayLike,
        *,
        initial_carry: Any = None,
        seq_lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> Any:
        """Run the cell over the inputs, as in Flax; arguments that Flax has too mean the same.

        Args:
          inputs: ``[*batch, T, *features]``, or time first with `time_major`.
          initial_carry: the carry before the first step; None means ``cell.initialize_carry``.
          seq_lengths: integers ``[*batch]``: only the first steps count.
          mask: bool ``[*batch, T]``, or time first: False skips the step.
          reset: bool like `mask`: True where a new sequence begins, from ``cell.initialize_carry``.
          return_carry: return ``(carry, outputs)``; None, here and below, means as the module says.
          time_major: whether `inputs`, `mask`, `reset` and the outputs have time first.
          reverse: run from the last step to the first.
          keep_order: with `reverse`, return outputs in the order of the inputs.
          rngs: what a first carry is drawn from.

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
        carry, initial = _carries(self, steps, initial_carry, rngs)
        if _runs_on_core(self, call):
            ((carry, outputs),) = run_on_core(_core_run(self, call, steps, carry))
        else:
            carry, outputs = _scan(self, call, steps, carry, initial)
        outputs = as_asked(outputs, call)
        return (carry, outputs) if return_carry else outputs


def _carries(rnn: RNN, steps: Steps, initial_carry: Any, rngs: Any) -> tuple[Any, Any]:
    """The carry to begin with, and the cell's own, which may take rngs and is not made where nothing starts from it."""
    if initial_carry is not None and steps.reset is None:
        return initial_carry, initial_carry
    initial = _initial_carry(rnn, steps.inputs.shape[1:], rngs)
    return (initial if initial_carry is None else initial_carry), initial


def _initial_carry(rnn: RNN, input_shape: tuple[int, ...], rngs: Any) -> Any:
    """The cell's first carry, drawn as Flax draws it; zeros touch no state."""
    if _cells.starts_at_zero(rnn.cell):
        return rnn.cell.initialize_carry(input_shape, nnx.Rngs(0))
    rngs = rnn.rngs if rngs is None else rngs
    return rnn.cell.initialize_carry(input_shape, rngs.carry.fork() if isinstance(rngs, nnx.Rngs) else rngs)


def _runs_on_core(rnn: RNN, call: Call) -> bool:
    """Whether the core runs this call, and not ``nnx.scan``."""
    if not rnn.zero_padding and (call.mask is not None or call.reset is not None):
        _checks.reject("zero_padding", "True where mask or reset is given", False)
    pads = rnn.zero_padding or call.seq_lengths is None
    from_zero = call.reset is None or _cells.starts_at_zero(rnn.cell)
    if rnn.scans_plainly and pads and from_zero and _cells.core_form(rnn.cell):
        return True
    if rnn.remat:
        _checks.reject("remat", "None where the cell is scanned as in Flax (see flax.nnx.remat)", rnn.remat)
    return False


def _core_run(rnn: RNN, call: Call, steps: Steps, carry: Any) -> CoreRun:
    form: Any = _cells.core_form(rnn.cell)
    cell, params, dtype = form
    options = {"reverse": call.reverse, "unroll": rnn.unroll, "remat": rnn.remat}
    return core_run(cell, params, steps, carry, dtype=dtype, **options)


def _scan(rnn: RNN, call: Call, steps: Steps, carry: Any, initial: Any) -> tuple[Any, Any]:
    """The cell under ``nnx.scan``, as in Flax, and what counts of it."""
    broadcast = nnx.All(nnx.RngState, rnn.broadcast_rngs)
    state_axes = nnx.StateAxes({broadcast: None, **rnn.state_axes})

    def scan(wrap: Any, carry: Any, steps: Steps) -> tuple[Any, Any]:
        lifted = _nnx_scan(
            lambda cell, carry, now: wrap(cell)(carry, now),
            in_axes=(state_axes, nnx.Carry, 0),
            out_axes=(nnx.Carry, 0),
            unroll=rnn.unroll or 1,
        )
        # A call takes one key of the broadcast rngs, as in Flax.
        return nnx.split_rngs(splits=1, only=rnn.broadcast_rngs, squeeze=True)(lifted)(rnn.cell, carry, steps)

    if rnn.zero_padding or steps.valid is None:
        return _scanned.held(scan, steps, carry, initial, reverse=call.reverse)
    return _scanned.running(scan, steps, carry, call)


class Bidirectional(nnx.Bidirectional):
    """`flax.nnx.Bidirectional` with the same arguments and state, and with `mask` and `reset`.

    Args:
      forward_rnn: the `RNN` that runs forward.
      backward_rnn: the `RNN` that runs from the last step to the first.
      merge_fn: a function of the two outputs, which are zero in the padding; by default it lays them side by side.
      time_major: inputs are ``[T, *batch, I]``, not ``[*batch, T, I]``.
      return_carry: return ``((forward carry, backward carry), outputs)``.
      rngs: what first carries are drawn from, if they are drawn: a ``nnx.Rngs``, True for its default, False for none.

    >>> from flax import nnx
    >>> from jaxlstm.nnx import Bidirectional, GRUCell, RNN
    >>> rngs = nnx.Rngs(0)
    >>> layer = Bidirectional(RNN(GRUCell(3, 4, rngs=rngs)), RNN(GRUCell(3, 4, rngs=rngs)))
    >>> layer(jnp.ones((2, 5, 3)), seq_lengths=jnp.array([5, 2])).shape
    (2, 5, 8)
    """

    forward_rnn: Any
    backward_rnn: Any

    def __call__(
        self,
        inputs: ArrayLike,
        *,
        initial_carry: Any = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
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
          rngs: what a first carry is drawn from.
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
        rngs = self.rngs if rngs is None else rngs
        rngs = rngs.carry if isinstance(rngs, nnx.Rngs) else rngs
        layout = {"time_major": asked("time_major", time_major, self.time_major), "seq_lengths": seq_lengths}
        rnns = self.forward_rnn, self.backward_rnn

        def begin(index: int, call: Call, steps: Steps) -> CoreRun:
            carry, _ = _carries(rnns[index], steps, carries[index], rngs)
            return _core_run(rnns[index], call, steps, carry)

        both = None
        if all(type(rnn) is RNN for rnn in rnns):
            both = run_both(rnns, _runs_on_core, begin, inputs, mask=mask, reset=reset, **layout)
        if both is None:  # other RNNs than ours are called as Flax calls them
            more = layout | {name: value for name, value in (("mask", mask), ("reset", reset)) if value is not None}
            more |= {"return_carry": True, "rngs": rngs}
            ahead = self.forward_rnn(inputs, initial_carry=carries[0], reverse=False, **more)
            more |= {"reverse": True, "keep_order": True}
            both = ahead, self.backward_rnn(inputs, initial_carry=carries[1], **more)
        (forward, forward_outputs), (backward, backward_outputs) = both
        outputs = jax.tree.map(self.merge_fn, forward_outputs, backward_outputs)
        return ((forward, backward), outputs) if return_carry else outputs
