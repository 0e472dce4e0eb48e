"""A ConvLSTM beside Flax, Keras and torch: the outputs, and the gradient of mean(ys**2) in the weights.

JAX's libraries give the gradient in the inputs too. Each library draws its own weights, for kernels of the same shape
and without peepholes. The calls of JAX's libraries are interleaved. Prints Markdown; needs torch, and Keras on JAX.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

os.environ["KERAS_BACKEND"] = "jax"

import flax.linen as nn
import jax
import jax.numpy as jnp
import keras
import numpy as np
import torch

import common
import jaxlstm as jl


class Size(NamedTuple):
    """Batch, time steps, maps, input channels, hidden channels, and the kernel along each axis."""

    B: int
    T: int
    spatial: tuple[int, int]
    I: int  # noqa: E741
    H: int
    kernel: int


SIZES = (Size(8, 20, (16, 16), 1, 16, 3), Size(4, 10, (32, 32), 16, 16, 3), Size(4, 10, (32, 32), 16, 16, 5))
Calls = tuple[Callable[[], Any], Callable[[], Any]]  # forward, and with the gradient


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed calls of each (9)")
    parser.add_argument("--into", type=Path, metavar="FILE", help="replace this report's section of a Markdown file")
    args = parser.parse_args()
    torch.set_num_threads(common.cores())
    rows = []
    for size in SIZES:
        xs = np.random.default_rng(0).standard_normal((size.T, size.B, *size.spatial, size.I)).astype(np.float32)
        made = {name: make(size, xs) for name, make in LIBRARIES.items()}
        times: dict[str, list[list[float]]] = {name: [] for name in made}
        for kind in range(2):  # a call is slower behind a large one, and behind torch's threads
            for names in (("jaxlstm", "Flax", "Keras"), ("torch",)):
                for name, found in common.interleave({name: made[name][kind] for name in names}, args.rounds).items():
                    times[name].append(found)
        for name in LIBRARIES:
            rows.append([f"{name}, {tuple(size)}", *(f"{median(found):.1f}" for found in times[name])])
            common.note(str(rows[-1]))
    head = ["library, (B, T, maps, I, H, kernel)", "forward, ms", "train, ms"]
    text = f"{common.circumstances(common.environment())}\n\n{common.table(head, rows)}"
    print(text)
    if args.into:
        common.write_section(args.into, "conv-lstm", text)


def of_jax(apply: Callable[[Any, jax.Array], jax.Array], weights: Any, xs: np.ndarray) -> Calls:
    """Both calls of a function of weights and inputs."""
    given = jax.device_put((weights, xs))
    forward = jax.jit(apply)
    train = jax.jit(jax.value_and_grad(lambda weights, xs: jnp.mean(apply(weights, xs) ** 2), argnums=(0, 1)))
    return lambda: jax.block_until_ready(forward(*given)), lambda: jax.block_until_ready(train(*given))


def of_jaxlstm(size: Size, xs: np.ndarray) -> Calls:
    """`unroll` of a `ConvLSTMCell`."""
    cell = jl.ConvLSTMCell(size.H, spatial_shape=size.spatial, kernel_shape=size.kernel, peephole=False)
    return of_jax(lambda params, xs: jl.unroll(cell, params, xs)[1], cell.init(jax.random.key(0), size.I), xs)


def of_flax(size: Size, xs: np.ndarray) -> Calls:
    """``nn.RNN`` of Flax's cell."""
    network = nn.RNN(nn.ConvLSTMCell(size.H, (size.kernel, size.kernel)), time_major=True)
    return of_jax(network.apply, network.init(jax.random.key(0), xs), xs)


def of_keras(size: Size, xs: np.ndarray) -> Calls:
    """`ConvLSTM2D` on JAX."""
    layer = keras.layers.ConvLSTM2D(size.H, size.kernel, padding="same", return_sequences=True)
    xs = np.moveaxis(xs, 0, 1)
    layer.build(xs.shape)
    values = [variable.value for variable in layer.trainable_variables]
    rest = [variable.value for variable in layer.non_trainable_variables]
    return of_jax(lambda weights, xs: layer.stateless_call(weights, rest, xs)[0], values, xs)


def of_torch(size: Size, xs: np.ndarray) -> Calls:
    """A loop over two convolutions, since torch has no such layer."""
    of_x, of_h = (torch.nn.Conv2d(n, 4 * size.H, size.kernel, padding="same") for n in (size.I, size.H))
    given = torch.from_numpy(np.moveaxis(xs, -1, 2).copy()).requires_grad_()

    def forward() -> torch.Tensor:
        h = c = torch.zeros(size.B, size.H, *size.spatial)
        ys = []
        for x in given:
            i, f, g, o = (of_x(x) + of_h(h)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            ys.append(h)
        return torch.stack(ys)

    def train() -> None:
        (forward() ** 2).mean().backward()

    return torch.no_grad()(forward), train


LIBRARIES = {"jaxlstm": of_jaxlstm, "Flax": of_flax, "Keras": of_keras, "torch": of_torch}

if __name__ == "__main__":
    main()
