"""The picture of what `fixed_points` returns, among runs of the cell."""

import math
from typing import Any

import jax
import numpy as np

from jaxlstm import _checks
from jaxlstm._step import Carry
from jaxlstm.inspect._fixed_points import FixedPoints
from jaxlstm.inspect._flat import check_carries
from jaxlstm.inspect._pictures import Axes, hide_borders


def draw_fixed_points(ax: Axes, points: FixedPoints, carries: Carry) -> Axes:
    """Draw runs, and the fixed and slow points among them, in the plane in which the runs vary most.

    The plane is that of the first two principal components of all carries of the runs. Stable fixed points are dots.
    Unstable ones are crosses, coloured by the number of directions that lead away from them, that is, of
    eigenvalues of magnitude 1 or more. Slow points are circles.

    Args:
      ax: the axes.
      points: what `fixed_points` returned.
      carries: the carries of runs, time first ``[T, *batch, ...]``, such as ``trace(...)[1].carry``. A carry must
        hold at least two numbers.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it.

    >>> from matplotlib.figure import Figure
    >>> from jaxlstm.inspect import draw_fixed_points, fixed_points, trace
    >>> cell = jl.GRUCell(4)
    >>> params = cell.init(jax.random.key(0), input_size=3)
    >>> carries = trace(cell, params, jax.random.normal(jax.random.key(1), (20, 5, 3)))[1].carry
    >>> ax = draw_fixed_points(Figure().subplots(), fixed_points(cell, params, jnp.zeros(3), carries), carries)
    """
    if not isinstance(points, FixedPoints):
        _checks.reject("points", "what fixed_points returned", _checks.describe(points), TypeError)
    one = jax.tree.map(lambda part: jax.ShapeDtypeStruct(part.shape[1:], part.dtype), points.carry)
    carries, lead = check_carries("carries", carries, one)
    runs, found = _as_vectors(carries, lead), _as_vectors(points.carry, points.speed.shape)
    if min(runs.shape) < 2 or not np.isfinite(runs).all() or not np.ptp(runs, axis=0).any():
        _checks.reject("carries", "finite carries of two or more numbers that differ", _checks.describe(runs))
    mean = runs.mean(0)
    _, spread, components = np.linalg.svd(runs - mean, full_matrices=False)
    shares = spread**2 / np.sum(spread**2)
    paths = ((runs - mean) @ components[:2].T).reshape(lead[0], -1, 2)
    ax.plot(*np.moveaxis(paths, -1, 0), color="0.6", alpha=0.5, linewidth=0.6, zorder=1)
    for label, (chosen, style) in _kinds(points).items():
        if chosen.any():
            x, y = components[:2] @ (found[chosen] - mean).T
            ax.scatter(x, y, label=f"{label} ({chosen.sum()})", zorder=3, **style)
    for axis, name, share in zip((ax.xaxis, ax.yaxis), ("first", "second"), shares[:2], strict=True):
        axis.set_label_text(f"{name} principal component ({share:.0%} of the variance)")
    ax.set_aspect("equal", adjustable="datalim")
    if len(found):
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    hide_borders(ax)
    return ax


def _kinds(points: FixedPoints) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """For each kind of point that may be there: which points are of it, and how they are drawn."""
    fixed, away = np.asarray(points.fixed), (np.abs(points.eigenvalues) >= 1).sum(-1)
    dot, cross = {"marker": "o", "s": 55}, {"marker": "X", "s": 65, "edgecolors": "white", "linewidths": 0.6}
    return {
        "stable": (fixed & (away == 0), dot | {"color": "tab:blue"}),
        "unstable in 1 direction": (fixed & (away == 1), cross | {"color": "tab:orange"}),
        "unstable in 2 directions": (fixed & (away == 2), cross | {"color": "tab:red"}),
        "unstable in 3 or more": (fixed & (away > 2), cross | {"color": "black"}),
        "slow": (~fixed, dot | {"facecolors": "none", "edgecolors": "tab:blue"}),
    }


def _as_vectors(carry: Carry, lead: tuple[int, ...]) -> np.ndarray:
    """Carries with these leading axes as vectors side by side: ``[N, S]``."""
    parts = [np.asarray(part, np.float64) for part in jax.tree.leaves(carry)]
    parts = [part.reshape(math.prod(lead), math.prod(part.shape[len(lead) :])) for part in parts]
    return np.concatenate(parts, axis=-1)
