"""The programs that XLA makes for a GPU and a TPU that are not there: launches a step, CUDA graphs, memory, cycles.

Each program is a step of gradient descent, once with one time step in an iteration of its loops, as before
`unroll=None`, and once with the default. Prints Markdown. It needs ``pip install -e '.[gpu-program]'`` for the GPU, and
libtpu for the TPU; what is missing is left out with a sentence.
"""

import argparse
import os
import re
from importlib.util import find_spec
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

import jax
import jax.numpy as jnp
from jax.experimental import topologies

import common
import jaxlstm as jl
from gpu_program import computations, gpu_program, training_step
from jaxlstm._wavefront import lowered_for

B, T, I, H = 32, 96, 64, 128  # noqa: E741
LARGE = 64, 128, 512, 512
LSTM = jl.LSTMCell(H)
NETWORKS = {
    "LSTM": jl.Layer(LSTM),
    "GRU": jl.Layer(jl.GRUCell(H)),
    "RNN": jl.Layer(jl.RNNCell(H)),
    "Bidirectional(LSTM)": jl.Bidirectional(LSTM),
    "Stack(LSTM, LSTM)": jl.Stack(LSTM, LSTM),
}


def main() -> None:
    """Compile what the tables ask for, and report it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, metavar="FILE", help="replace this report's section of a Markdown file")
    args = parser.parse_args()
    parts = [f"- Versions: jaxlstm {jl.__version__} ({common.revision()}), {common.versions()}"]
    parts.append(gpu_table() if find_spec("jax_cuda13_plugin") else "No compiler for GPUs is installed.")
    parts.append(tpu_table() if find_spec("libtpu") else "libtpu is not installed.")
    text = "\n\n".join(parts)
    print(text)
    if args.into:
        common.write_section(args.into, "program", text)


def gpu_table() -> str:
    """Launches and graphs on an H100."""
    rows = []
    for name, network in NETWORKS.items():
        for masked in (False, True):
            for dtype in (jnp.float32, jnp.bfloat16):
                title = f"{name}, {jnp.dtype(dtype).name}{', lengths, mask, reset' if masked else ''}"
                common.note(title)
                rows.append([title])
                for unroll in (1, None):
                    step, shapes = training_step(network, (B, T, I), dtype, masked, unroll=unroll)
                    with lowered_for("cuda" if unroll is None else "cpu"):
                        found = gpu_program(step, *shapes)
                    launches = [f"{loop.launches * loop.trips / T:.2f}" for loop in found.loops]
                    half = len(launches) // 2
                    rows[-1] += [" and ".join(launches[:half]), " and ".join(launches[half:])]
                    rows[-1] += [f"{found.graphs}", f"{found.megabytes:.1f}"]
    head = ["H100", *["forward", "backward", "graphs", "temp MB"] * 2]
    return (
        "Launches (kernels and copies) a time step in the loops forward and backward, CUDA graphs in the program, and "
        f"temporary memory; B {B}, T {T}, I {I}, H {H}. First four columns: `unroll=1`, a loop for each layer. "
        f"Last four: the default.\n\n{common.table(head, rows)}"
    )


def tpu_table() -> str:
    """The compiler's estimates for a TPU v5e."""
    target = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]
    sharding = jax.sharding.SingleDeviceSharding(target)
    rows = []
    for name, make in {"LSTM": jl.LSTMCell, "GRU": jl.GRUCell}.items():
        for size in ((B, T, I, H), LARGE):
            title = f"{name}, B {size[0]}, T {size[1]}, I {size[2]}, H {size[3]}"
            common.note(title)
            rows.append([title])
            for unroll in (1, None):
                step, shapes = training_step(jl.Layer(make(size[3])), size[:3], jnp.float32, False, unroll=unroll)
                shapes = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes)
                text = jax.jit(step).lower(*shapes).compile().as_text()
                rows[-1] += [f"{cycles / (16 if unroll is None else 1):.0f}" for cycles in estimated_cycles(text)]
    head = ["TPU v5e", *["forward", "backward"] * 2]
    return (
        "Cycles a time step in the loops, by XLA's estimate, in float32; such estimates order programs and predict no "
        f"times. First two columns: `unroll=1`. Last two: the default.\n\n{common.table(head, rows)}"
    )


def estimated_cycles(hlo: str) -> list[int]:
    """What an iteration of each loop is estimated to take."""
    texts = computations(hlo)
    bodies = re.findall(r" while\(.*?body=%?([\w.-]+)", hlo)
    return [sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', texts[body]))) for body in bodies]


if __name__ == "__main__":
    main()
