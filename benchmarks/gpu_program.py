"""The program that XLA makes for an NVIDIA H100, on a machine without one: what each iteration of a loop launches.

It needs the compiler of JAX's CUDA plugin: ``pip install 'jaxlstm[gpu-program]'``. Without a card nothing can be tuned,
so tilings, and the choice between Triton and cuBLAS, are XLA's defaults. What is counted is right for those.
"""

import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies

import jaxlstm as jl

H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  memory_bandwidth: 3350000000000 l2_cache_size: 52428800 device_memory_size: 85000000000
  driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
UNTUNED = {"xla_gpu_autotune_level": 0}


class Loop(NamedTuple):
    """A loop of the program."""

    trips: int  # iterations
    launches: int  # kernels and copies of an iteration, without those of loops within
    offset_copies: int  # of these, copies to an offset that depends on the iteration: they keep a loop out of a graph


class Program(NamedTuple):
    """What runs on the card."""

    loops: list[Loop]  # in the order in which they run, each before those within
    graphs: int  # CUDA graphs
    megabytes: float  # temporary memory
    sums: int  # in the kernel that has most of them


def gpu_program(fn: Callable[..., Any], *shapes: Any, **options: Any) -> Program:
    """Compile a function for arguments of these shapes and dtypes, with these options for the compiler."""
    target = {"platform": "cuda", "topology_name": "h100", "target_config": H100, "topology": "1x1x1"}
    on_gpu = jax.sharding.SingleDeviceSharding(topologies.get_topology_desc(**target).devices[0])
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on_gpu), shapes)
    with tempfile.TemporaryDirectory() as folder:
        dump = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        compiled = jax.jit(fn).lower(*shapes).compile(compiler_options=UNTUNED | dump | options)
        (thunks,) = Path(folder).glob("*.thunk_sequence_after_thunk_passes.txt")
        root = _parse(thunks.read_text())
        hlo = compiled.as_text()
    loops = zip(_trips(hlo), root.find("While"), strict=True)
    return Program(
        loops=[Loop(trips, loop.launches(), loop.offset_copies()) for trips, loop in loops],
        graphs=len(list(root.find("CommandBuffer"))),
        megabytes=compiled.memory_analysis().temp_size_in_bytes / 1e6,
        sums=max(text.count(" reduce(") for name, text in computations(hlo).items() if "fused" in name),
    )


def training_step(
    network: jl.Network, size: tuple[int, int, int], dtype: Any, masked: bool, **options: Any
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A step of gradient descent, and the shapes of its arguments."""
    batch, steps, features = size
    given = {}
    if masked:
        flags = jax.ShapeDtypeStruct((steps, batch), bool)
        given = {"lengths": jax.ShapeDtypeStruct((batch,), jnp.int32), "mask": flags, "reset": flags}
    params = jax.eval_shape(lambda: network.init(jax.random.key(0), features, dtype=dtype))

    def step(params: Any, xs: jax.Array, given: dict[str, Any]) -> Any:
        def loss(params: Any) -> jax.Array:
            return jnp.mean(network.apply(params, xs, **given, **options)[1].astype(jnp.float32) ** 2)

        value, gradient = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda p, d: p - jnp.asarray(0.1, p.dtype) * d, params, gradient)

    return step, (params, jax.ShapeDtypeStruct((steps, batch, features), dtype), given)


@dataclass
class Thunk:
    """A node of XLA's dump: a launch, or what holds some. The condition of a loop is not among its children."""

    kind: str
    indent: int
    children: list["Thunk"] = field(default_factory=list)

    def find(self, kind: str) -> Any:
        """All nodes of a kind below this one, in order."""
        for child in self.children:
            if child.kind == kind:
                yield child
            yield from child.find(kind)

    def launches(self) -> int:
        """Kernels and copies below, without those of loops below."""
        inner = (child for child in self.children if child.kind not in ("While", "AsyncDone"))
        return sum(child.launches() if child.children else 1 for child in inner)

    def offset_copies(self) -> int:
        """Copies below to an offset that depends on the iteration, without those of loops below."""
        inner = (child for child in self.children if child.kind != "While")
        return sum((child.kind == "DynamicSliceFusion") + child.offset_copies() for child in inner)


def computations(hlo: str) -> dict[str, str]:
    """The text of each computation of a program, by name."""
    return dict(re.findall(r"^(?:ENTRY )?%?([\w.-]+) \(.*?\{$(.*?)^\}", hlo, re.MULTILINE | re.DOTALL))


def _trips(hlo: str) -> Iterator[int]:
    """The numbers of iterations of all loops, each before those within, in the order in which they run."""
    texts = computations(hlo)
    (entry,) = re.findall(r"^ENTRY %?([\w.-]+)", hlo, re.MULTILINE)

    def walk(name: str) -> Iterator[int]:
        for line in texts[name].splitlines():
            if " while(" in line:
                (trips,) = re.findall(r'"known_trip_count":\{"n":"(\d+)"\}', line)
                yield int(trips)
                (body,) = re.findall(r"body=%?([\w.-]+)", line)
                yield from walk(body)

    return walk(entry)


def _parse(text: str) -> Thunk:
    """The tree of a dump: children are indented, those of a loop behind the label of its body."""
    root = Thunk("Root", -1)
    path, skipped = [root], None
    for line in text.splitlines():
        if line.strip() == "condition:":
            skipped = path[-1]  # the loop just begun
        elif line.strip() == "body:":
            while path[-1] is not skipped:
                path.pop()
            skipped = None
        elif found := re.match(r"( *)\d+: k(\w+)", line):
            indent, kind = len(found[1]), found[2]
            if skipped is not None:
                continue
            while path[-1].indent >= indent:
                path.pop()
            thunk = Thunk(kind, indent)
            path[-1].children.append(thunk)
            path.append(thunk)
    return root
