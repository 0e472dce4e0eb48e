"""What `fit` computes from a state now and then, and when."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

from jaxlstm import _checks
from jaxlstm.training._loss_fn import Metrics
from jaxlstm.training._state import TrainState


@dataclass(frozen=True)
class Evaluation:
    """A function of the state that `fit` calls before the first step, after the last, and at an interval.

    Args:
      fn: a function of the `TrainState` to a dict of numbers or arrays. They are logged, and `Checkpoints` may keep the
        state with the best of them.
      every: call it after each step whose number, ``state.step``, is a multiple of this. None: at the two ends only.

    Raises:
      ValueError, TypeError: if an argument does not fit.
    """

    fn: Callable[[TrainState], Metrics]
    _: KW_ONLY
    every: int | None = None

    def __post_init__(self) -> None:
        _checks.check_callable("fn", self.fn)
        if self.every is not None:
            _checks.check_size("every", self.every)

    def due(self, step: int) -> bool:
        """Whether the interval ends at this step."""
        return self.every is not None and step % self.every == 0

    def __call__(self, state: TrainState) -> Metrics:
        """The results for this state, checked to be a dict."""
        results: Any = self.fn(state)
        if not isinstance(results, dict) or not all(isinstance(name, str) for name in results):
            _checks.reject("evaluation", "fn to return a dict with str keys", _checks.describe(results), TypeError)
        return results
