"""What differs between platforms: the evaluator, where inputs are projected, and the steps in a loop iteration."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax

from jaxlstm._step import Params

LARGE_WEIGHTS = 2_000_000  # bytes


class Choice(NamedTuple):
    """How a loop runs on a platform."""

    project_first: bool  # project all inputs in one matmul before the loop, instead of each in its step
    unroll: int  # the steps in a loop iteration
    pack: bool  # store few arrays a step: z (or dz) as one, and no leaf of the carry that ys already hold
    one_loop: bool  # run both directions of equal cells in one loop
    evaluator: str = "loop"  # or one of the others in `_checks.EVALUATORS`


def choices(
    project_first: bool | None,
    unroll: int | None,
    params: Params,
    shape: tuple[Any, ...],
    evaluator: str | None = "loop",
) -> dict[str, Choice]:
    """The choice for the CPU, and by default, for accelerators.

    None means what is best there. On CPU, writing zx of all steps to memory and reading it back costs more than two
    small matmuls a step, but for one sequence with large weights. On a GPU every kernel of a step costs its launch:
    with several steps in an iteration, XLA stores what they keep by one kernel. On a TPU, by the compiler's estimates,
    this takes 33 to 43 % fewer cycles than one step in an iteration.

    Args:
      project_first: what was asked for.
      unroll: what was asked for.
      params: the cell's, of one direction.
      shape: of the inputs, ``(T, *batch, I)``, which may be symbolic.
      evaluator: what was asked for; None where an associative scan is possible and nothing was asked for.
    """
    best = {
        "cpu": Choice(project_first=_reads_most(params, shape[1:-1]), unroll=1, pack=False, one_loop=False),
        "default": Choice(project_first=True, unroll=_best_unroll(shape[0]), pack=True, one_loop=True),
    }
    if project_first is not None:
        best = {name: choice._replace(project_first=project_first) for name, choice in best.items()}
    if unroll is not None:
        best = {name: choice._replace(unroll=unroll) for name, choice in best.items()}
    if evaluator is None:
        return best | {"default": best["default"]._replace(evaluator="associative")}
    if evaluator == "loop":
        return best
    one_loop = best["default"].one_loop and evaluator != "newton"  # mapped over directions, both branches would run
    return {"default": best["default"]._replace(evaluator=evaluator, one_loop=one_loop)}


def _reads_most(params: Params, batch: tuple[Any, ...]) -> bool:
    """Whether a step on a CPU mostly waits for weights to be read: of one sequence, where no cache holds them.

    Then all inputs together read w_ih once. Inputs without a batch axis may be mapped over one, and do not count.
    """
    matrices = (leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params) if leaf.ndim > 1)
    return bool(batch) and all(size == 1 for size in batch) and sum(matrices) >= LARGE_WEIGHTS


def _best_unroll(steps: Any) -> int:
    """The largest divisor of the steps from 16 down to 4, so that no rest needs a loop of its own.

    Else 16, or all steps if they are fewer; 1 if their number is symbolic.
    """
    if not isinstance(steps, int):
        return 1
    return max(1, min(steps, next((size for size in range(16, 3, -1) if steps % size == 0), 16)))


def per_platform(fn: Callable[..., Any], by_platform: dict[str, Choice], *operands: Any) -> Any:
    """``fn(choice, *operands)`` with the choice for the platform that the program is lowered for."""
    if len(by_platform) == 1:
        (choice,) = by_platform.values()
        return fn(choice, *operands)
    return jax.lax.platform_dependent(*operands, **{name: partial(fn, choice) for name, choice in by_platform.items()})
