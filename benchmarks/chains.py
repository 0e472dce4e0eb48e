"""The longest chain of dependent operations in compiled programs, and their memory: the loop beside other evaluators.

A device runs the operations of a chain one after the other, however many it could run at once. A chain's length is that
of the longest path through the program that XLA has compiled for the CPU. What computes nothing, such as a tuple,
counts as 0, a fusion or a matmul as 1, and a loop as its iterations times its body. Nothing is timed or run.
"""

import argparse
import re
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import common
import jaxlstm as jl

STEPS = (256, 1024, 4096, 16_384)
PAIRS = {
    "MinGRUCell(256)": (jl.MinGRUCell(256), "associative"),
    "LRUCell(256)": (jl.LRUCell(256), "associative"),
    "MLSTMCell(256, num_heads=4)": (jl.MLSTMCell(256, num_heads=4), "chunkwise"),
}
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota", "partition-id"}


def main() -> None:
    """Compile, count and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, metavar="FILE", help="replace this report's section of a Markdown file")
    args = parser.parse_args()
    head = ["cell, T", "forward: loop", "at once", "train: loop", "at once", "MB: loop", "at once"]
    lines = []
    for name, (cell, evaluator) in PAIRS.items():
        for steps in STEPS:
            each = [measure(cell, steps, which) for which in ("loop", evaluator)]
            lines.append([f"{name}, {steps}", *(str(number) for both in zip(*each, strict=True) for number in both)])
            common.note(str(lines[-1]))
    text = f"- jaxlstm {jl.__version__} ({common.revision()}), {common.versions()}\n\n{common.table(head, lines)}"
    print(text)
    if args.into:
        common.write_section(args.into, "chains", text)


def measure(cell: jl.Cell, steps: int, evaluator: str) -> tuple[int, int, str]:
    """The chains of the outputs and of a gradient of one sequence, and the gradient's temporary memory in MB."""
    forward, gradient = programs(cell, steps, evaluator)
    memory = gradient.memory_analysis()
    assert memory is not None
    return chain(forward.as_text()), chain(gradient.as_text()), f"{memory.temp_size_in_bytes / 1e6:.1f}"


def programs(cell: jl.Cell, steps: int, evaluator: str) -> tuple[Any, Any]:
    """The compiled outputs, and the gradient of mean(ys**2) in params and inputs, in float32."""
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), cell.hidden_size))
    xs = jax.ShapeDtypeStruct((steps, 1, cell.hidden_size), jnp.float32)

    def forward(params: Any, xs: jax.Array) -> jax.Array:
        return jl.unroll(cell, params, xs, evaluator=evaluator)[1]

    gradient = jax.grad(lambda params, xs: jnp.mean(forward(params, xs) ** 2), argnums=(0, 1))
    one, other = (jax.jit(function).lower(params, xs).compile() for function in (forward, gradient))
    return one, other


def chain(text: str) -> int:
    """The longest chain of dependent operations in the text of a compiled program."""
    computations = {
        name: re.findall(r"^ +(?:ROOT )?%?([\w.-]+) = .*? ([\w-]+)\((.*)$", body, re.MULTILINE)
        for name, body in re.findall(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{\n((?: .*\n)*)\}", text, re.MULTILINE)
    }
    (entry,) = re.findall(r"^ENTRY %?([\w.-]+)", text, re.MULTILINE)

    @cache
    def length(computation: str) -> int:
        found: dict[str, int] = {}
        for name, operation, rest in computations[computation]:
            operands = re.findall(r"%?([\w.-]+)", rest.partition(")")[0])
            found[name] = cost(operation, rest) + max((found.get(operand, 0) for operand in operands), default=0)
        return max(found.values())

    def cost(operation: str, rest: str) -> int:
        if operation == "while":
            (trips,) = re.findall(r'known_trip_count"?[:=]\{"?n"?[:=]"?(\d+)', rest)
            (body,) = re.findall(r"body=%?([\w.-]+)", rest)
            return int(trips) * length(body)
        if operation == "call":
            (called,) = re.findall(r"to_apply=%?([\w.-]+)", rest)
            return length(called)
        return 0 if operation in FREE else 1

    return length(entry)


if __name__ == "__main__":
    main()
