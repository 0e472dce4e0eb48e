"""LSTM and GRU layers on whatever accelerator is present: this library beside torch and other JAX libraries.

First correctness: outputs and gradients against float64 on the CPU. Then blocks in the order of their worth. Each is
written to OUT, a file of JSON lines, as soon as it is done, and none begins once the seconds are spent. What is not
installed, or fails, is left out with its reason. Prints Markdown at the end. With --toy it runs on a CPU too.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs some of the memory

import jax
import jax.numpy as jnp
import numpy as np

import common
import implementations as impl
import jaxlstm as jl
from accelerator_report import OURS, markdown, plot
from implementations import Problem, Size

SIZES = {
    **impl.SIZES,
    "tiny": Size(B=8, T=200, I=32, H=64),
    "long": Size(B=16, T=1024, I=768, H=768),
    "wide": Size(B=128, T=256, I=512, H=1024),
}
TOY = {"small": Size(B=2, T=12, I=3, H=4), "medium": Size(B=2, T=9, I=4, H=6)}
# What XLA may put into a CUDA graph: its default, and loops.
ONE_GRAPH = {"xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,WHILE"}
REPEATS, ROTATION = 30, 4  # timed calls, and sets of inputs that they go through


class Calls(NamedTuple):
    """What is timed: both take the number of a set of inputs, and return when all results are there."""

    forward: Callable[[int], Any]
    train: Callable[[int], Any]


class Block(NamedTuple):
    """A row of the tables."""

    size: str
    who: str
    make: Callable[[], Calls]


def main() -> None:
    """Measure until the seconds are spent, and report."""
    args = arguments()
    sizes = TOY if args.toy else SIZES
    began, rows = time.perf_counter(), []
    device = jax.devices()[0]
    about = f"{device.device_kind} ({device.platform}), jaxlstm {jl.__version__} ({common.revision()}), {versions()}"
    with args.out.open("w", buffering=1) as out:

        def write(**row: Any) -> None:
            out.write(json.dumps(row) + "\n")
            common.note(str(row))

        write(what="machine", about=about)
        errors = relative_errors(sizes["small"])
        write(what="relative errors against float64", **errors)
        for block in blocks(sizes):
            if time.perf_counter() - began > args.seconds:
                write(what="out of time", before=f"{block.size}: {block.who}")
                break
            rows.append(measure(block, REPEATS if not args.toy else 2))
            write(**rows[-1])
    text = markdown(about, errors, rows, sizes)
    print(text)
    if args.into:
        common.write_section(args.into, "accelerator", text)
    if args.plot:
        plot(about, rows, sizes, args.plot)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="the file of JSON lines")
    parser.add_argument("--seconds", type=float, default=420, help="begin no block after this time (420)")
    parser.add_argument("--toy", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument("--into", type=Path, metavar="FILE", help="replace this report's section of a Markdown file")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the times a step (needs matplotlib)")
    return parser.parse_args()


def blocks(sizes: dict[str, Size]) -> Iterator[Block]:
    """Most valuable first: the default beside torch at every size, what the default is made of, then the rest."""
    problems = {name: impl.make_problem(size, threads=common.cores()) for name, size in sizes.items()}
    for name, problem in problems.items():
        yield Block(name, OURS, partial(ours, problem))
        yield Block(name, "torch nn.LSTM", partial(torch_module, problem, "LSTM"))
    for name in ("small", "medium"):
        yield Block(name, "jaxlstm, 4 layers", partial(ours, problems[name], layers=4))
        yield Block(name, "torch nn.LSTM, 4 layers", partial(torch_module, problems[name], "LSTM", layers=4))
        yield Block(name, "jaxlstm, one CUDA graph", partial(ours, problems[name], graph=True))
        yield Block(name, "jaxlstm, unroll=1", partial(ours, problems[name], unroll=1))
        yield Block(name, "flax nnx RNN", partial(others, impl.flax_nnx, problems[name]))
        yield Block(name, "equinox LSTMCell, scan", partial(others, impl.equinox_scan, problems[name]))
        yield Block(name, "jax.experimental.rnn", partial(jax_rnn, problems[name]))
    for name in ("small", "large" if "large" in problems else "medium"):
        yield Block(name, "jaxlstm, bfloat16", partial(ours, problems[name], dtype="bfloat16"))
        yield Block(name, "torch nn.LSTM, bfloat16", partial(torch_module, problems[name], "LSTM", dtype="bfloat16"))
        yield Block(name, "torch nn.LSTM, float16", partial(torch_module, problems[name], "LSTM", dtype="float16"))
        yield Block(name, "jaxlstm GRU", partial(ours, problems[name], kind="GRU"))
        yield Block(name, "torch nn.GRU", partial(torch_module, problems[name], "GRU"))
        yield Block(name, "jaxlstm, full float32", partial(ours, problems[name], precision="highest"))
        yield Block(name, "torch nn.LSTM, full float32", partial(torch_module, problems[name], "LSTM", tf32=False))
        yield Block(name, "jaxlstm Bidirectional", partial(ours, problems[name], both=True))
        yield Block(name, "jaxlstm, lengths", partial(ours, problems[name], lengths=True))


def measure(block: Block, repeats: int) -> dict[str, Any]:
    """Milliseconds of both calls, or the reason why there are none."""
    row: dict[str, Any] = {"size": block.size, "who": block.who}
    try:
        calls = block.make()
        for name, call in calls._asdict().items():
            for turn in range(3):
                call(turn)
            row[name] = [timed(call, turn) for turn in range(repeats)]
    except Exception as error:  # a library that is missing or fails must not end the run; the row says why
        row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
    return row


def timed(call: Callable[[int], Any], turn: int) -> float:
    """Milliseconds of a call."""
    began = time.perf_counter()
    call(turn)
    return 1e3 * (time.perf_counter() - began)


def ours(
    problem: Problem,
    *,
    kind: str = "LSTM",
    layers: int = 1,
    dtype: str = "float32",
    both: bool = False,
    lengths: bool = False,
    precision: str | None = None,
    graph: bool = False,
    **options: Any,
) -> Calls:
    """jaxlstm, with the defaults; `graph` puts the loop into one CUDA graph."""
    size = problem.w_hh.shape[0]
    cell = jl.GRUCell(size) if kind == "GRU" else jl.LSTMCell(size)
    network = jl.Stack(*[jl.Bidirectional(cell) if both else cell] * layers)
    params = network.init(jax.random.key(0), problem.w_ih.shape[0])
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    if lengths:
        options["lengths"] = np.linspace(1, len(problem.xs), problem.xs.shape[1]).astype(np.int32)

    def apply(params: Any, xs: jax.Array) -> jax.Array:
        with jax.default_matmul_precision(precision):
            return network.apply(params, xs, **options)[1]

    return jax_calls(apply, params, problem.xs.astype(jnp.dtype(dtype)), ONE_GRAPH if graph else {})


def others(make: Callable[[Problem], impl.Implementation], problem: Problem) -> Calls:
    """Another JAX library, as in `peers.py`; its inputs stay the same."""
    made = make(problem)
    return Calls(
        lambda turn: jax.block_until_ready(made.forward()),
        lambda turn: jax.block_until_ready(made.train() if made.train else None),
    )


def jax_rnn(problem: Problem) -> Calls:
    """cuDNN's LSTM through JAX: batch first, on NVIDIA alone."""
    from jax.experimental import rnn

    steps, batch, features = problem.xs.shape
    size = problem.w_hh.shape[0]
    weights = rnn.init_lstm_weight(jax.random.key(0), features, size, 1, False)
    zeros, lengths = jnp.zeros((1, batch, size)), jnp.full(batch, steps, jnp.int32)
    sizes = {"input_size": features, "hidden_size": size, "num_layers": 1, "dropout": 0.0, "bidirectional": False}
    return jax_calls(
        lambda weights, xs: rnn.lstm(xs, zeros, zeros, weights, lengths, **sizes)[0],
        weights,
        problem.xs.swapaxes(0, 1),
        {},
    )


def jax_calls(apply: Callable[..., Any], weights: Any, xs: np.ndarray, options: dict[str, Any]) -> Calls:
    """The output, and the gradient of mean(ys**2) in weights and xs."""
    inputs = [jax.device_put(np.roll(xs, turn, axis=0)) for turn in range(ROTATION)]
    forward = jax.jit(apply, compiler_options=options)

    def loss(weights: Any, xs: jax.Array) -> jax.Array:
        return jnp.mean(apply(weights, xs).astype(jnp.float32) ** 2)

    train = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), compiler_options=options)
    return Calls(
        lambda turn: jax.block_until_ready(forward(weights, inputs[turn % ROTATION])),
        lambda turn: jax.block_until_ready(train(weights, inputs[turn % ROTATION])),
    )


def torch_module(problem: Problem, kind: str, *, layers: int = 1, dtype: str = "float32", tf32: bool = True) -> Calls:
    """torch's layer on the same device, by cuDNN where that is a GPU."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and jax.default_backend() != "cpu":
        raise RuntimeError("this torch does not know the accelerator")
    module = getattr(torch.nn, kind)(problem.w_ih.shape[0], problem.w_hh.shape[0], layers)
    module = module.to(device, getattr(torch, dtype))
    inputs = [
        torch.tensor(np.roll(problem.xs, turn, axis=0)).to(device, getattr(torch, dtype)) for turn in range(ROTATION)
    ]

    def run(turn: int, *, train: bool) -> Any:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        xs = inputs[turn % ROTATION]
        if train:
            xs = xs.detach().requires_grad_(True)
            loss = module(xs)[0].float().square().mean()
            result = torch.autograd.grad(loss, [*module.parameters(), xs])
        else:
            with torch.inference_mode():
                result = module(xs)[0]
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    return Calls(partial(run, train=False), partial(run, train=True))


def relative_errors(size: Size) -> dict[str, float]:
    """Of outputs and gradients here, in default and in full precision, against float64 on the CPU."""
    problem = impl.make_problem(size, threads=1)
    cell = jl.LSTMCell(size.H)

    def results(params: Any, xs: Any) -> Any:
        loss = lambda params, xs: (jl.unroll(cell, params, xs)[1] ** 2).mean()  # noqa: E731
        return jl.unroll(cell, params, xs)[1], jax.grad(loss, argnums=(0, 1))(params, xs)

    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        exact = (
            jl.LSTMParams(*(jnp.asarray(w, jnp.float64) for w in problem[1:4])),
            jnp.asarray(problem.xs, jnp.float64),
        )
        expected = [np.asarray(leaf) for leaf in jax.tree.leaves(jax.jit(results)(*exact))]
    found = {}
    for name, precision in (("default precision", None), ("full float32", "highest")):
        with jax.default_matmul_precision(precision):
            got = jax.tree.leaves(
                jax.jit(results)(jl.LSTMParams(*map(jnp.asarray, problem[1:4])), jnp.asarray(problem.xs))
            )
        apart = [np.linalg.norm(g - e) / np.linalg.norm(e) for g, e in zip(map(np.asarray, got), expected, strict=True)]
        found |= {f"outputs, {name}": float(apart[0]), f"gradients, {name}": float(max(apart[1:]))}
    return found


def versions() -> str:
    """Of the libraries that are installed, and of cuDNN."""
    found = common.versions()
    try:
        import torch
    except ImportError:
        return found
    return f"{found}, cuDNN {torch.backends.cudnn.version()}"


if __name__ == "__main__":
    main()
