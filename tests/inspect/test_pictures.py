"""Every picture is made of what the functions return, holds what it was given, and comes back on its axes."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import jaxlstm as jl
from jaxlstm import inspect

STEPS, SIZE, INPUTS = 12, 4, 3


@pytest.fixture(scope="module")
def run():
    """An LSTM over two sequences: its trace, and what the pictures need besides."""
    cell = jl.LSTMCell(SIZE)
    params = cell.init(jax.random.key(0), INPUTS)
    xs = jax.random.normal(jax.random.key(1), (STEPS, 2, INPUTS), jnp.float32)
    return cell, params, xs, inspect.trace(cell, params, xs)[1]


@pytest.fixture
def ax():
    return Figure(layout="constrained").subplots()


def rendered(ax):
    """The picture as PNG: that it can be drawn without a warning."""
    file = io.BytesIO()
    ax.figure.savefig(file, format="png", dpi=50)
    return file.getvalue()


@pytest.mark.parametrize(("part", "limits"), [("gates.f", (0.0, 1.0)), ("carry.h", (-1.0, 1.0))])
def test_gate(run, ax, part, limits):
    values = run[3]
    for name in part.split("."):
        values = getattr(values, name)
    assert inspect.draw_gate(ax, values[:, 0], limits=limits) is ax
    (image,) = ax.get_images()
    np.testing.assert_array_equal(image.get_array(), np.asarray(values[:, 0]).T)
    assert image.get_clim() == limits
    assert rendered(ax)


def test_saturation(run, ax):
    gates = {name: inspect.saturation(getattr(run[3].gates, name)) for name in ("i", "f")}
    assert inspect.draw_saturation(ax, gates) is ax
    for points, (left, right) in zip(ax.collections, gates.values(), strict=True):
        np.testing.assert_allclose(points.get_offsets(), np.stack([left, right], axis=1))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["i", "f"]
    assert rendered(ax)


def test_retention(run, ax):
    values = inspect.retention(run[3].gates.f, lags=5)
    assert inspect.draw_retention(ax, values) is ax
    lines = ax.get_lines()
    np.testing.assert_allclose(np.stack([line.get_ydata() for line in lines[:SIZE]], axis=1), values)
    np.testing.assert_allclose(lines[SIZE].get_ydata(), np.median(values, axis=1))
    assert rendered(ax)


def test_gradient_flow(run, ax):
    cell, params, xs, _ = run
    flow = inspect.gradient_flow(cell, params, xs, loss=lambda carry, ys: carry.h.sum(), lengths=np.array([STEPS, 5]))
    assert inspect.draw_gradient_flow(ax, {"h": flow.h[:, 0], "both": flow.h, "short": flow.h[:, 1]}) is ax
    first, both, short = ax.get_lines()
    np.testing.assert_allclose(first.get_ydata(), flow.h[:, 0])
    np.testing.assert_allclose(both.get_ydata(), np.mean(flow.h, axis=1))
    assert len(short.get_ydata()) == 5  # lags before the first step are zero, which a logarithm has not
    assert ax.get_yscale() == "log"
    assert rendered(ax)


def test_singular_values(run, ax):
    cell, params, xs, _ = run
    values = inspect.largest_singular_values(inspect.step_jacobians(cell, params, xs))
    assert inspect.draw_singular_values(ax, {"LSTM": values}) is ax
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), np.mean(values, axis=1))
    assert rendered(ax)


def test_contributions(run, ax):
    cell, params, xs, _ = run
    values = inspect.input_contributions(cell, params, xs, output=lambda y: y[..., 0])[:, 0]
    assert inspect.draw_contributions(ax, values) is ax
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], values)
    assert len({bar.get_facecolor() for bar in ax.patches}) == 2  # some are positive and some negative
    assert rendered(ax)


def test_text(ax):
    values = np.linspace(-1, 1, 7)
    assert inspect.draw_text(ax, "to\nbe, ", values, columns=4) is ax
    (image,) = ax.get_images()
    np.testing.assert_array_equal(image.get_array().ravel()[:7], values)
    assert [(text.get_text(), *text.get_position()) for text in ax.texts[:5]] == [
        ("t", 0, 0),
        ("o", 1, 0),
        ("\u21b5", 2, 0),
        ("b", 3, 0),
        ("e", 0, 1),
    ]
    assert rendered(ax)


def found_points(number=5):
    """Points as `fixed_points` returns them: a stable one, three that are not, and a slow one."""
    eigenvalues = np.array([[0.5, 0.1], [-1.5, 0.1], [1 + 1j, 1 - 1j], [0, 2], [0.9, 0.1]])[:number]
    return inspect.FixedPoints(
        carry=jl.LSTMCarry(h=RUNS.h[0, :number], c=RUNS.c[1, :number]),
        speed=np.zeros(number),
        fixed=np.arange(number) < 4,
        stable=(np.abs(eigenvalues) < 1).all(-1),
        eigenvalues=eigenvalues,
        starts=np.ones(number, int),
    )


RUNS = jl.LSTMCarry(*np.random.default_rng(0).normal(size=(2, STEPS, 6, 2)) * [1, 3])


def test_fixed_points(ax):
    points = found_points()
    assert inspect.draw_fixed_points(ax, points, RUNS) is ax
    runs, found = np.concatenate(RUNS, axis=-1).reshape(-1, 4), np.concatenate(points.carry, axis=-1)
    variances, directions = np.linalg.eigh(np.cov(runs.T))
    place = lambda values: np.abs((values - runs.mean(0)) @ directions[:, :-3:-1])  # noqa: E731  whose sign is free
    for n, line in enumerate(ax.get_lines()):
        np.testing.assert_allclose(np.abs(line.get_xydata()), place(runs.reshape(STEPS, 6, 4)[:, n]), rtol=1e-9)
    assert len(ax.get_lines()) == 6
    kinds = [[0], [1, 3], [2], [4]]
    for dots, chosen in zip(ax.collections, kinds, strict=True):
        np.testing.assert_allclose(np.abs(dots.get_offsets()), place(found[chosen]), rtol=1e-9)
    names = ["stable (1)", "unstable in 1 direction (2)", "unstable in 2 directions (1)", "slow (1)"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == names
    assert f"{variances[-1] / variances.sum():.0%}" in ax.get_xlabel()
    assert rendered(ax)


def test_no_fixed_points(ax):
    inspect.draw_fixed_points(ax, found_points(0), RUNS)
    assert not ax.collections
    assert rendered(ax)


@pytest.mark.usefixtures("without_type_hook")
@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda ax: inspect.draw_gate(ax, np.ones((5, 2, 4))), "gate: expected an array [T, H] (choose one sequence)"),
        (lambda ax: inspect.draw_contributions(ax, np.ones((5, 2))), "contributions: expected an array [T] (choose"),
        (lambda ax: inspect.draw_text(ax, "to be", np.ones(4)), "values: expected one for each of the 5 characters"),
        (lambda ax: inspect.draw_text(ax, "", np.ones(0)), "text: expected at least one character, got ''"),
        (lambda ax: inspect.draw_text(ax, 5, np.ones(2)), "text: expected at least one character, got 5 (int)"),
        (
            lambda ax: inspect.draw_gate(ax, np.ones((5, 4)), limits=1.0),
            "limits: expected two numbers (lowest, highest)",
        ),
        (
            lambda ax: inspect.draw_gate(ax, np.ones((5, 4)), limits=(1, 0)),
            "limits: expected the lowest before the high",
        ),
        (lambda ax: inspect.draw_saturation(ax, RUNS), "saturations: expected a mapping from names, such as"),
        (lambda ax: inspect.draw_gradient_flow(ax, RUNS), "flows: expected a mapping from names, such as"),
        (lambda ax: inspect.draw_text(ax, "be", np.ones(2), columns=0), "columns: expected a positive int"),
        (lambda ax: inspect.draw_retention(ax, np.ones(5)), "retention: expected an array [lags + 1, H], got"),
        (lambda ax: inspect.draw_gradient_flow(ax, {"h": 1.0}), "flows['h']: expected an array [T, *batch], got"),
        (lambda ax: inspect.draw_fixed_points(ax, RUNS, RUNS), "points: expected what fixed_points returned, got LSTM"),
        (lambda ax: inspect.draw_fixed_points(ax, found_points(), RUNS.h), "carries: expected LSTMCarry, got ndarray"),
        (
            lambda ax: inspect.draw_fixed_points(ax, found_points(), jax.tree.map(np.zeros_like, RUNS)),
            "carries: expected finite carries of two or more numbers that differ, got float64[72, 4]",
        ),
        (lambda ax: inspect.draw_singular_values(ax, {"a": [1]}), "singular_values['a']: expected an array, got [1]"),
    ],
)
def test_mistakes(ax, draw, message):
    with pytest.raises((ValueError, TypeError)) as error:
        draw(ax)
    assert message in str(error.value)
