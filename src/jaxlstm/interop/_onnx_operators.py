"""What ONNX's recurrent operators are made of, for reading and for writing: inputs, gate order, activation functions.

ONNX packs the gates of an LSTM as i, o, f, c and of a GRU as z, r, h, and stores weights ``[directions, G, in]``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxlstm import _checks


class Operator(NamedTuple):
    """One operator: its inputs by place, where each of our gates stands in it, its default functions of a direction."""

    inputs: tuple[str, ...]
    gates: tuple[int, ...]
    functions: tuple[str, ...]
    attributes: tuple[str, ...] = ()  # those that the others lack


_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h")
OPERATORS = {
    "LSTM": Operator((*_INPUTS, "initial_c", "P"), (0, 2, 3, 1), ("Sigmoid", "Tanh", "Tanh"), ("input_forget",)),
    "GRU": Operator(_INPUTS, (1, 0, 2), ("Sigmoid", "Tanh"), ("linear_before_reset",)),
    "RNN": Operator(_INPUTS, (0,), ("Tanh",)),
}


@dataclass(frozen=True)
class OnnxFunction:
    """An activation function of ONNX with its numbers, as an option of a cell; equal by value.

        Affine           alpha * z + beta                    HardSigmoid  max(0, min(1, alpha * z + beta))
        ScaledTanh       alpha * tanh(beta * z)              Elu          z, or alpha * (exp(z) - 1) where z < 0
        LeakyRelu        z, or alpha * z where z < 0         Relu, Sigmoid, Softplus, Softsign, Tanh: as in JAX
        ThresholdedRelu  z, or 0 where z <= alpha

    Args:
      name: one of the above.
      alpha: its alpha, of those that have one.
      beta: its beta, of those that have one.
      clip: a bound on its input: z within [-clip, clip].

    Raises:
      ValueError, TypeError: if there is no such function, or it lacks a number or has no such number.

    >>> from jaxlstm.interop import OnnxFunction
    >>> jl.GRUCell(4, gate_fn=OnnxFunction("HardSigmoid", alpha=0.2, beta=0.5)).gate_fn(jnp.zeros(1))
    Array([0.5], dtype=float32)
    """

    name: str
    alpha: float | None = None
    beta: float | None = None
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.name not in _EQUATIONS:
            _checks.reject("name", f"one of {', '.join(_EQUATIONS)}", repr(self.name))
        for number in ("alpha", "beta"):
            value = getattr(self, number)
            if number in numbers_of(self.name):
                _checks.check_number(number, value)
            elif value is not None:
                _checks.reject(number, f"None, since {self.name} has none", value)
        if self.clip is not None:
            _checks.check_number("clip", self.clip)
            if self.clip <= 0:
                _checks.reject("clip", "a positive number or None", self.clip)

    def __call__(self, z: Array) -> Array:
        """The function of z, elementwise."""
        if self.clip is not None:
            z = jnp.clip(z, -self.clip, self.clip)
        return _EQUATIONS[self.name](z, *(getattr(self, number) for number in numbers_of(self.name)))


_EQUATIONS: dict[str, Callable[..., Array]] = {
    "Affine": lambda z, alpha, beta: alpha * z + beta,
    "Elu": jax.nn.elu,
    "HardSigmoid": lambda z, alpha, beta: jnp.clip(alpha * z + beta, 0, 1),
    "LeakyRelu": jax.nn.leaky_relu,
    "Relu": jax.nn.relu,
    "ScaledTanh": lambda z, alpha, beta: alpha * jnp.tanh(beta * z),
    "Sigmoid": jax.nn.sigmoid,
    "Softplus": jax.nn.softplus,
    "Softsign": jax.nn.soft_sign,
    "Tanh": jnp.tanh,
    "ThresholdedRelu": lambda z, alpha: jnp.where(z > alpha, z, jnp.zeros_like(z)),
}
_NUMBERS = {"Affine": ("alpha", "beta"), "HardSigmoid": ("alpha", "beta"), "ScaledTanh": ("alpha", "beta")}
_NUMBERS |= {"Elu": ("alpha",), "LeakyRelu": ("alpha",), "ThresholdedRelu": ("alpha",)}

# The defaults of the ONNX operators of these names. The others must be given: onnxruntime has other defaults for them.
DEFAULTS = {
    "Elu": {"alpha": 1.0},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "LeakyRelu": {"alpha": 0.01},
}


def numbers_of(name: str) -> tuple[str, ...]:
    """Which of alpha and beta a function has."""
    return _NUMBERS.get(name, ())


def ours(function: OnnxFunction) -> Callable[[Array], Array]:
    """JAX's own function, if it is one without a number."""
    return function if numbers_of(function.name) or function.clip else _EQUATIONS[function.name]


def onnx_function(name: str, function: Any) -> OnnxFunction:
    """A cell's function, the option `name`, as one of ONNX's."""
    if isinstance(function, OnnxFunction):
        return function
    for known, theirs in _KNOWN:
        if function is known:
            return theirs
    return _checks.reject(name, "a function that ONNX has, such as sigmoid or an OnnxFunction", _called(function))


def _called(function: Any) -> str:
    return getattr(function, "__name__", None) or _checks.describe(function)


_KNOWN = [(_EQUATIONS[name], OnnxFunction(name)) for name in _EQUATIONS if not numbers_of(name)] + [
    (jax.nn.elu, OnnxFunction("Elu", alpha=1.0)),
    (jax.nn.hard_sigmoid, OnnxFunction("HardSigmoid", alpha=1 / 6, beta=0.5)),
    (jax.nn.identity, OnnxFunction("Affine", alpha=1.0, beta=0.0)),
    (jax.nn.leaky_relu, OnnxFunction("LeakyRelu", alpha=0.01)),
]
