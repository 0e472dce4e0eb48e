"""Pictures of what the functions of this package return. Each function draws on given axes and returns them.

Nothing here imports Matplotlib, since whoever passes axes has done so. Unless a docstring says that it averages over
the batch, pass one sequence, or average first.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from jaxlstm import _array_checks, _checks
from jaxlstm.inspect._gates import Saturation

Axes = Any  # of Matplotlib


def draw_gate(ax: Axes, gate: ArrayLike, *, limits: tuple[float, float] = (0.0, 1.0)) -> Axes:
    """Draw a gate, a candidate or a carry of one sequence over time, one row for each unit.

    Args:
      ax: the axes.
      gate: ``[T, H]``.
      limits: the values at the ends of the colour scale: (0, 1) for gates, (-1, 1) for candidates and h.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it.

    >>> from matplotlib.figure import Figure
    >>> from jaxlstm.inspect import draw_gate
    >>> ax = draw_gate(Figure().subplots(), jnp.full((20, 4), 0.5))
    """
    values = _numbers("gate", gate, 2, "[T, H]")
    low, high = _check_limits(limits)
    image = ax.imshow(
        values.T,
        cmap="viridis" if low >= 0 else "RdBu_r",
        vmin=low,
        vmax=high,
        aspect="auto",
        interpolation="nearest",
    )
    ax.figure.colorbar(image, ax=ax, pad=0.02)
    ax.set(xlabel="step", ylabel="unit")
    ax.locator_params(integer=True)
    return ax


def draw_saturation(ax: Axes, saturations: Mapping[str, Saturation]) -> Axes:
    """Draw how often each unit of each gate is shut (x) and open (y), as points (Karpathy et al. 2015, figure 3).

    A unit at the right end of the x axis is always shut, one at the top of the y axis always open, and one at the
    origin never saturated.

    Args:
      ax: the axes.
      saturations: maps the name of each gate to what `saturation` returned for it.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it.

    >>> from matplotlib.figure import Figure
    >>> from jaxlstm.inspect import draw_saturation, saturation
    >>> gates = {"forget": jnp.full((9, 4), 0.95), "input": jnp.full((9, 4), 0.5)}
    >>> ax = draw_saturation(Figure().subplots(), {name: saturation(gate) for name, gate in gates.items()})
    """
    ax.plot([0, 1], [1, 0], color="0.8", linewidth=1, zorder=0)
    _check_mapping("saturations", saturations)
    for name, (left, right) in saturations.items():
        ax.scatter(left, right, s=28, alpha=0.55, linewidths=0, label=name, clip_on=False, zorder=3)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.set(xlabel="share of steps left-saturated (< 0.1)", ylabel="share of steps right-saturated (> 0.9)")
    ax.legend(loc="upper right", frameon=False)
    hide_borders(ax)
    return ax


def draw_retention(ax: Axes, retention: ArrayLike) -> Axes:
    """Draw the share of the memory that is left against the lag: one line for each unit, and their median.

    Args:
      ax: the axes.
      retention: what `retention` returned, ``[lags + 1, H]``.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it.

    >>> from matplotlib.figure import Figure
    >>> from jaxlstm.inspect import draw_retention, retention
    >>> ax = draw_retention(Figure().subplots(), retention(jnp.full((20, 4), 0.9), lags=10))
    """
    values = _numbers("retention", retention, 2, "[lags + 1, H]")
    lags = np.arange(len(values))
    ax.plot(lags, values, color="tab:blue", alpha=0.35, linewidth=0.9)
    ax.plot(lags, np.median(values, axis=1), color="black", linewidth=2, label="median unit")
    ax.axhline(0.5, color="0.5", linestyle="--", linewidth=1, label="one half")
    ax.set(xlabel="lag, in steps", ylabel="share of the memory left", xlim=(0, max(lags[-1], 1)), ylim=(0, 1.02))
    ax.legend(loc="upper right", frameon=False)
    hide_borders(ax)
    return ax


def draw_gradient_flow(ax: Axes, flows: Mapping[str, ArrayLike]) -> Axes:
    """Draw norms of gradients against the lag on a logarithmic axis, one line for each name.

    It draws the mean over the batch and leaves out lags where that is zero.

    Args:
      ax: the axes.
      flows: maps a name such as "LSTM, c" to a field of what `gradient_flow` returned, ``[T, *batch]``.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it.

    >>> from matplotlib.figure import Figure
    >>> from jaxlstm.inspect import draw_gradient_flow
    >>> ax = draw_gradient_flow(Figure().subplots(), {"RNN": 0.8 ** jnp.arange(20.0)})
    """
    _check_mapping("flows", flows)
    for name, values in flows.items():
        means = _mean_of_batch(_numbers(f"flows[{name!r}]", values, 1, "[T, *batch]"))
        (lags,) = np.nonzero(means > 0)
        ax.plot(lags, means[lags], linewidth=1.8, label=name)
    ax.set(xlabel="lag, in steps before the last", ylabel="norm of the gradient", yscale="log")
    ax.margins(x=0.01)
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    hide_borders(ax)
    return ax


def draw_singular_values(ax: Axes, singular_values: Mapping[str, ArrayLike]) -> Axes:
    """Draw the largest singular value of each step's Jacobian over time, one line for each name.

    It draws the mean over the batch.

    Args:
      ax: the axes.
      singular_values: maps the name of a cell to what `largest_singular_values` returned, ``[T, *batch]``.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it.

    >>> from matplotlib.figure import Figure
    >>> from jaxlstm.inspect import draw_singular_values
    >>> ax = draw_singular_values(Figure().subplots(), {"LSTM": jnp.linspace(0.8, 1.2, 20)})
    """
    _check_mapping("singular_values", singular_values)
    for name, values in singular_values.items():
        means = _mean_of_batch(_numbers(f"singular_values[{name!r}]", values, 1, "[T, *batch]"))
        ax.plot(means, linewidth=1.8, label=name)
    ax.axhline(1, color="0.5", linestyle="--", linewidth=1)
    ax.set(xlabel="step", ylabel="largest singular value of the Jacobian")
    ax.set_ylim(bottom=0)
    ax.margins(x=0.01)
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    hide_borders(ax)
    return ax


def draw_contributions(ax: Axes, contributions: ArrayLike) -> Axes:
    """Draw what each input position of one sequence contributes to an output, as bars coloured by sign.

    Args:
      ax: the axes.
      contributions: one sequence ``[T]`` of what `input_contributions` or `input_jacobian_norms` returned.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it.

    >>> from matplotlib.figure import Figure
    >>> from jaxlstm.inspect import draw_contributions
    >>> ax = draw_contributions(Figure().subplots(), jnp.array([0.1, -0.4, 1.0]))
    """
    values = _numbers("contributions", contributions, 1, "[T]")
    ax.bar(np.arange(len(values)), values, width=0.9, color=np.where(values < 0, "tab:red", "tab:blue"))
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(xlabel="step", ylabel="contribution")
    ax.locator_params(axis="x", integer=True)
    ax.margins(x=0.01)
    hide_borders(ax)
    return ax


def draw_text(
    ax: Axes, text: str, values: ArrayLike, *, limits: tuple[float, float] = (-1.0, 1.0), columns: int = 60
) -> Axes:
    """Draw a text with each character on a background coloured by its value, as in Karpathy et al. 2015, figure 2.

    Args:
      ax: the axes.
      text: T characters. A line break is shown as an arrow.
      values: one number for each character ``[T]``, such as a unit's h or tanh(c), or the character's loss in bits.
      limits: the values at the ends of the colour scale.
      columns: characters in a row of the picture.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it.

    >>> from matplotlib.figure import Figure
    >>> from jaxlstm.inspect import draw_text
    >>> ax = draw_text(Figure().subplots(), "to be", jnp.linspace(-1, 1, 5))
    """
    numbers = _numbers("values", values, 1, "[T]")
    _checks.check_size("columns", columns)
    if not isinstance(text, str) or not text:
        _checks.reject("text", "at least one character", _checks.describe(text))
    if len(numbers) != len(text):
        _checks.reject("values", f"one for each of the {len(text)} characters of a text", _checks.describe(numbers))
    rows = -(-len(text) // columns)
    shades = np.full(rows * columns, np.nan)
    shades[: len(text)] = numbers
    low, high = _check_limits(limits)
    image = ax.imshow(
        shades.reshape(rows, columns), cmap="Reds" if low >= 0 else "coolwarm", vmin=low, vmax=high, aspect="auto"
    )
    dark = image.to_rgba(numbers)[:, :3] @ (0.299, 0.587, 0.114) < 0.45  # luma
    for place, character in enumerate(text):
        ax.text(
            place % columns,
            place // columns,
            {"\n": "\u21b5"}.get(character, character),
            ha="center",
            va="center",
            family="monospace",
            size=9,
            color="white" if dark[place] else "black",
        )
    ax.figure.colorbar(image, ax=ax, pad=0.02)
    ax.set(xticks=[], yticks=[])
    return ax


def _check_mapping(name: str, value: object) -> None:
    """Several lines or points of one picture, by their names in the legend."""
    if not isinstance(value, Mapping):
        _checks.reject(name, 'a mapping from names, such as {"LSTM": ...}', _checks.describe(value), TypeError)


def _check_limits(limits: object) -> tuple[float, float]:
    """The lowest and the highest value of a colour scale."""
    if not isinstance(limits, (tuple, list)) or len(limits) != 2:
        _checks.reject("limits", "two numbers (lowest, highest)", _checks.describe(limits), TypeError)
    low, high = (_checks.check_number(f"limits[{index}]", limit) for index, limit in enumerate(limits))
    if not low < high:
        _checks.reject("limits", "the lowest before the highest", limits)
    return low, high


def _numbers(name: str, values: ArrayLike, ndim: int, axes: str) -> np.ndarray:
    """The checked values as a NumPy array, for Matplotlib. More than `ndim` axes need a "*batch" in `axes`."""
    array = _array_checks.float_array(name, values, ndim, axes)
    if array.ndim > ndim and "*batch" not in axes:
        _checks.reject(name, f"an array {axes} (choose one sequence)", _checks.describe(array))
    return np.asarray(array, np.float64)


def _mean_of_batch(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1).mean(axis=1)


def hide_borders(ax: Axes) -> None:
    """Hide the top and right border of the axes."""
    ax.spines[["top", "right"]].set_visible(False)
