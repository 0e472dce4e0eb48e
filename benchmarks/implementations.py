"""The same LSTM in several libraries: one small function each, from one set of weights to calls that can be timed.

Each takes a `Problem` and gives an `Implementation`. Every library is used as its documentation shows, in its fastest
public form, in the layout of time and batch that it prefers. A library that is not installed raises ImportError.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Size(NamedTuple):
    """Batch B, time steps T, input size I and hidden size H."""

    B: int
    T: int
    I: int  # noqa: E741
    H: int


SIZES = {
    "small": Size(B=32, T=100, I=64, H=128),
    "medium": Size(B=64, T=128, I=256, H=256),
    "large": Size(B=64, T=128, I=512, H=512),
    "stream": Size(B=1, T=1000, I=128, H=256),
}


class Problem(NamedTuple):
    """Inputs and weights, the gates packed in the order i, f, g, o; threads for the libraries that have to be told."""

    xs: np.ndarray  # [T, B, I]
    w_ih: np.ndarray  # [I, 4H]
    w_hh: np.ndarray  # [H, 4H]
    b: np.ndarray  # [4H]
    threads: int


class Implementation(NamedTuple):
    """What the harness calls; everything is converted, compiled and in place before the first timed call."""

    forward: Callable[[], Any]  # -> ys
    train: Callable[[], Any] | None  # -> (mean(ys**2), (gradients of all weights, gradient of xs))
    temp_bytes: Callable[[], int] | None = None  # compiled temporary memory of train
    batch_major: bool = False  # xs and ys are [B, T, ...]


def make_problem(size: Size, threads: int, seed: int = 0) -> Problem:
    """Draw float32 inputs and weights, none of them zero."""
    rng = np.random.default_rng(seed)
    bound = size.H**-0.5
    shapes = ((size.I, 4 * size.H), (size.H, 4 * size.H), (4 * size.H,))
    xs = rng.standard_normal((size.T, size.B, size.I)).astype(np.float32)
    w_ih, w_hh, b = (rng.uniform(-bound, bound, shape).astype(np.float32) for shape in shapes)
    return Problem(xs, w_ih, w_hh, b, threads)


def from_jax(apply: Callable[[Any, jax.Array], Any], weights: Any, xs: np.ndarray, **options) -> Implementation:
    """The calls for a pure JAX function ``apply(weights, xs) -> ys``."""
    weights, x = jax.tree.map(jnp.asarray, (weights, xs))
    forward = jax.jit(apply)
    train = jax.jit(jax.value_and_grad(lambda weights, x: jnp.mean(apply(weights, x) ** 2), argnums=(0, 1)))

    def temp_bytes() -> int:
        memory = train.lower(weights, x).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    return Implementation(lambda: forward(weights, x), lambda: train(weights, x), temp_bytes, **options)


def jaxlstm_unroll(problem: Problem) -> Implementation:
    """The library that these benchmarks belong to."""
    import jaxlstm as jl

    cell = jl.LSTMCell(hidden_size=problem.w_hh.shape[0])
    params = jl.LSTMParams(*map(jnp.asarray, problem[1:4]))
    return from_jax(lambda params, xs: jl.unroll(cell, params, xs)[1], params, problem.xs)


def plain_scan(problem: Problem) -> Implementation:
    """What one writes by hand: two matmuls a step in `jax.lax.scan`, differentiated by JAX."""

    def apply(weights: tuple[jax.Array, ...], xs: jax.Array) -> jax.Array:
        w_ih, w_hh, b = weights

        def step(carry: tuple[jax.Array, jax.Array], x: jax.Array):
            h, c = carry
            i, f, g, o = jnp.split(x @ w_ih + h @ w_hh + b, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zeros = jnp.zeros((xs.shape[1], w_hh.shape[0]), xs.dtype)
        return jax.lax.scan(step, (zeros, zeros), xs)[1]

    return from_jax(apply, (problem.w_ih, problem.w_hh, problem.b), problem.xs)


def flax_linen(problem: Problem) -> Implementation:
    """Flax linen: RNN(OptimizedLSTMCell)."""
    from flax import linen

    return _linen(problem, linen)


def jaxlstm_linen(problem: Problem) -> Implementation:
    """The same with one import changed."""
    from jaxlstm import linen

    return _linen(problem, linen)


def _linen(problem: Problem, linen: Any) -> Implementation:
    model = linen.RNN(linen.OptimizedLSTMCell(problem.w_hh.shape[0]), time_major=True)
    gates = {}
    for name, w_i, w_h, b in zip("ifgo", *(np.split(w, 4, axis=-1) for w in problem[1:4]), strict=True):
        gates["i" + name] = {"kernel": w_i}
        gates["h" + name] = {"kernel": w_h, "bias": b}
    return from_jax(model.apply, {"params": {"cell": gates}}, problem.xs)


def flax_nnx(problem: Problem) -> Implementation:
    """Flax nnx: RNN(OptimizedLSTMCell), split into a graph and its params, as for any function under jax.jit."""
    from flax import nnx

    return _nnx(problem, nnx)


def jaxlstm_nnx(problem: Problem) -> Implementation:
    """The same with one import changed."""
    from jaxlstm import nnx

    return _nnx(problem, nnx)


def _nnx(problem: Problem, modules: Any) -> Implementation:
    from flax import nnx

    sizes = problem.w_ih.shape[0], problem.w_hh.shape[0]
    model = modules.RNN(modules.OptimizedLSTMCell(*sizes, rngs=nnx.Rngs(0)), time_major=True)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    weights = {"dense_i": {"kernel": problem.w_ih}, "dense_h": {"kernel": problem.w_hh, "bias": problem.b}}
    nnx.replace_by_pure_dict(params, {"cell": jax.tree.map(jnp.asarray, weights)})
    return from_jax(lambda params, xs: nnx.merge(graph, params, rest, copy=True)(xs), params, problem.xs)


def haiku_unroll(problem: Problem) -> Implementation:
    """Haiku: LSTM in dynamic_unroll. Its gates are in the order i, g, f, o, and it adds 1 to the forget gate's bias."""
    import haiku as hk

    @hk.without_apply_rng
    @hk.transform
    def model(xs: jax.Array) -> Any:
        core = hk.LSTM(problem.w_hh.shape[0])
        return hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))[0]

    i, f, g, o = np.split(np.concatenate([problem.w_ih, problem.w_hh, problem.b[None]]), 4, axis=-1)
    f = np.concatenate([f[:-1], f[-1:] - 1])
    w = np.concatenate([i, g, f, o], axis=-1)
    return from_jax(model.apply, {"lstm/linear": {"w": w[:-1], "b": w[-1]}}, problem.xs)


def equinox_scan(problem: Problem) -> Implementation:
    """Equinox: LSTMCell, which knows neither batch nor time, in vmap in scan."""
    import equinox as eqx

    sizes = problem.w_ih.shape[0], problem.w_hh.shape[0]
    weights = problem.w_ih.T, problem.w_hh.T, problem.b
    cell = eqx.nn.LSTMCell(*sizes, key=jax.random.key(0))
    cell = eqx.tree_at(lambda cell: (cell.weight_ih, cell.weight_hh, cell.bias), cell, weights)

    def apply(cell: Any, xs: jax.Array) -> jax.Array:
        def step(carry: tuple[jax.Array, jax.Array], x: jax.Array):
            carry = jax.vmap(cell)(x, carry)
            return carry, carry[0]

        zeros = jnp.zeros((xs.shape[1], cell.hidden_size), xs.dtype)
        return jax.lax.scan(step, (zeros, zeros), xs)[1]

    return from_jax(apply, cell, problem.xs)


def keras_layer(problem: Problem) -> Implementation:
    """Keras on JAX (KERAS_BACKEND=jax): the LSTM layer, batch first as everywhere in Keras, by stateless_call."""
    import keras

    if keras.backend.backend() != "jax":
        raise RuntimeError(f"Keras runs on {keras.backend.backend()}: set KERAS_BACKEND=jax")
    layer = keras.layers.LSTM(problem.w_hh.shape[0], return_sequences=True)
    xs = problem.xs.swapaxes(0, 1).copy()
    layer.build(xs.shape)
    layer.set_weights([problem.w_ih, problem.w_hh, problem.b])
    weights = [variable.value for variable in layer.trainable_variables]
    rest = [variable.value for variable in layer.non_trainable_variables]
    return from_jax(lambda weights, xs: layer.stateless_call(weights, rest, xs)[0], weights, xs, batch_major=True)


def torch_lstm(problem: Problem) -> Implementation:
    """PyTorch on the CPU: nn.LSTM with its own backward. It has two biases, of which the second is 0 here."""
    import torch

    torch.set_num_threads(problem.threads)
    lstm = torch.nn.LSTM(problem.w_ih.shape[0], problem.w_hh.shape[0])
    weights = problem.w_ih.T, problem.w_hh.T, problem.b, np.zeros_like(problem.b)
    with torch.no_grad():
        for parameter, weight in zip(lstm.parameters(), weights, strict=True):
            parameter.copy_(torch.tensor(weight))
    xs = torch.tensor(problem.xs)
    xs_train = torch.tensor(problem.xs, requires_grad=True)

    def forward() -> Any:
        with torch.inference_mode():
            return lstm(xs)[0]

    def train() -> Any:
        loss = lstm(xs_train)[0].square().mean()
        *dweights, dxs = torch.autograd.grad(loss, [*lstm.parameters(), xs_train])
        return loss.detach(), (dweights, dxs)

    return Implementation(forward, train)


def onnx_runtime(problem: Problem) -> Implementation:
    """ONNX Runtime on the CPU: a graph of one LSTM node, whose gates are in the order i, o, f, g. Forward only."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    def pack(w: np.ndarray) -> np.ndarray:
        i, f, g, o = np.split(w, 4, axis=-1)
        return np.ascontiguousarray(np.concatenate([i, o, f, g], axis=-1).T[None])

    arrays = {"W": pack(problem.w_ih), "R": pack(problem.w_hh)}
    arrays["B"] = np.concatenate([pack(problem.b), np.zeros((1, problem.b.size), np.float32)], axis=-1)
    node = helper.make_node("LSTM", ["xs", "W", "R", "B"], ["ys"], hidden_size=problem.w_hh.shape[0])
    graph = helper.make_graph(
        [node],
        "lstm",
        [helper.make_tensor_value_info("xs", TensorProto.FLOAT, problem.xs.shape)],
        [helper.make_tensor_value_info("ys", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = problem.threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # after a run: others are next
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def forward() -> np.ndarray:
        (ys,) = session.run(None, {"xs": problem.xs})
        return np.asarray(ys)[:, 0]  # from [T, 1, B, H], without a copy

    return Implementation(forward, None)


def gemm_floor(problem: Problem) -> Implementation:
    """Not an LSTM: its matmuls' flops as one matmul ``[T B, I + H] @ [I + H, 4H]`` in JAX; three of them to train."""
    steps, batch, _ = problem.xs.shape
    w = jnp.concatenate([problem.w_ih, problem.w_hh])
    x_and_h = jnp.asarray(np.random.default_rng(1).standard_normal((steps * batch, len(w))), jnp.float32)
    matmul = jax.jit(jnp.matmul)

    def train() -> None:
        for _ in range(3):
            matmul(x_and_h, w).block_until_ready()

    return Implementation(lambda: matmul(x_and_h, w), train)
