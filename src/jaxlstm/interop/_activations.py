"""Activation functions and their names in saved descriptions, Keras and ONNX."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxlstm import _checks

Activation = Callable[[Array], Array]


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


def numbers_of(name: str) -> tuple[str, ...]:
    """Which of alpha and beta a function of ONNX has."""
    return _NUMBERS.get(name, ())


# Slopes that only Keras has: of hard_sigmoid before Keras 3, and of leaky_relu.
_KERAS2_HARD_SIGMOID = OnnxFunction("HardSigmoid", alpha=0.2, beta=0.5)
_KERAS_LEAKY_RELU = OnnxFunction("LeakyRelu", alpha=0.2)

# Function, name in saved descriptions, names in Keras, counterpart in ONNX.
_TABLE: tuple[tuple[Activation, str, str, OnnxFunction | None], ...] = (
    (jax.nn.celu, "jax.nn.celu", "celu", None),
    (jax.nn.elu, "jax.nn.elu", "elu", OnnxFunction("Elu", alpha=1.0)),
    (jax.nn.gelu, "jax.nn.gelu", "", None),  # Keras has the exact one, this is an approximation
    (jax.nn.hard_sigmoid, "jax.nn.hard_sigmoid", "hard_sigmoid", OnnxFunction("HardSigmoid", alpha=1 / 6, beta=0.5)),
    (jax.nn.hard_silu, "jax.nn.hard_silu", "hard_silu hard_swish", None),
    (jax.nn.hard_tanh, "jax.nn.hard_tanh", "hard_tanh", None),
    (jax.nn.identity, "jax.nn.identity", "linear", OnnxFunction("Affine", alpha=1.0, beta=0.0)),
    (jax.nn.leaky_relu, "jax.nn.leaky_relu", "", OnnxFunction("LeakyRelu", alpha=0.01)),
    (jax.nn.log_sigmoid, "jax.nn.log_sigmoid", "log_sigmoid", None),
    (jax.nn.mish, "jax.nn.mish", "mish", None),
    (jax.nn.relu, "jax.nn.relu", "relu", OnnxFunction("Relu")),
    (jax.nn.relu6, "jax.nn.relu6", "relu6", None),
    (jax.nn.selu, "jax.nn.selu", "selu", None),
    (jax.nn.sigmoid, "jax.nn.sigmoid", "sigmoid", OnnxFunction("Sigmoid")),
    (jax.nn.silu, "jax.nn.silu", "silu swish", None),
    (jax.nn.soft_sign, "jax.nn.soft_sign", "softsign", OnnxFunction("Softsign")),
    (jax.nn.softplus, "jax.nn.softplus", "softplus", OnnxFunction("Softplus")),
    (jax.nn.sparse_plus, "jax.nn.sparse_plus", "sparse_plus", None),
    (jax.nn.sparse_sigmoid, "jax.nn.sparse_sigmoid", "sparse_sigmoid", None),
    (jax.nn.squareplus, "jax.nn.squareplus", "squareplus", None),
    (jnp.arctan, "jax.numpy.arctan", "", None),
    (jnp.cos, "jax.numpy.cos", "", None),
    (jnp.exp, "jax.numpy.exp", "exponential", None),
    (jnp.sin, "jax.numpy.sin", "", None),
    (jnp.square, "jax.numpy.square", "", None),
    (jnp.tanh, "jax.numpy.tanh", "tanh", OnnxFunction("Tanh")),
    (_KERAS2_HARD_SIGMOID, "", "keras2_hard_sigmoid", _KERAS2_HARD_SIGMOID),
    (_KERAS_LEAKY_RELU, "", "leaky_relu", _KERAS_LEAKY_RELU),
)
SAVED = {saved: function for function, saved, _, _ in _TABLE if saved}
KERAS = {name: function for function, _, names, _ in _TABLE for name in names.split()}
_TO_ONNX = {function: theirs for function, _, _, theirs in _TABLE if theirs}
_FROM_ONNX = {theirs: function for function, theirs in _TO_ONNX.items()}


def from_onnx_function(function: OnnxFunction) -> Activation:
    """JAX's own function, if it has one."""
    return _FROM_ONNX.get(function, function)


def to_onnx_function(name: str, function: Any) -> OnnxFunction:
    """A cell's function, the option `name`, as one of ONNX's."""
    if isinstance(function, OnnxFunction):
        return function
    if function in _TO_ONNX:
        return _TO_ONNX[function]
    called = getattr(function, "__name__", None) or _checks.describe(function)
    return _checks.reject(name, "a function that ONNX has, such as sigmoid or an OnnxFunction", called)
