"""Look inside a run: every gate and carry, how long units remember, how far gradients reach, where a cell can rest.

carry, seen = trace(cell, params, xs)               # seen.gates.f, seen.carry.c, ...: [T, *batch, H]
remembered = retention(seen.gates.f, lags=50)       # a pure function computes it
draw_retention(ax, remembered)                      # another draws it on Matplotlib axes, which it returns
"""

from jaxlstm.inspect._fixed_points import FixedPoints, fixed_points
from jaxlstm.inspect._gates import Saturation, half_life, retention, saturation
from jaxlstm.inspect._gradients import gradient_flow, input_contributions, input_jacobian_norms
from jaxlstm.inspect._jacobians import largest_singular_values, lyapunov_exponents, step_jacobians
from jaxlstm.inspect._newton import NewtonReport, newton_converges, newton_report
from jaxlstm.inspect._pictures import (
    draw_contributions,
    draw_gate,
    draw_gradient_flow,
    draw_retention,
    draw_saturation,
    draw_singular_values,
    draw_text,
)
from jaxlstm.inspect._portrait import draw_fixed_points
from jaxlstm.inspect._trace import Trace, trace

__all__ = [
    "FixedPoints",
    "NewtonReport",
    "Saturation",
    "Trace",
    "draw_contributions",
    "draw_fixed_points",
    "draw_gate",
    "draw_gradient_flow",
    "draw_retention",
    "draw_saturation",
    "draw_singular_values",
    "draw_text",
    "fixed_points",
    "gradient_flow",
    "half_life",
    "input_contributions",
    "input_jacobian_norms",
    "largest_singular_values",
    "lyapunov_exponents",
    "newton_converges",
    "newton_report",
    "retention",
    "saturation",
    "step_jacobians",
    "trace",
]
