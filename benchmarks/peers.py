"""An LSTM layer, forward and training gradient, in this library and in others, in one process.

Every implementation first has to compute the same numbers from the same weights. Then each round calls each of them
once, in a rotating order. Prints Markdown. `implementations.py` says how each library is used.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # where torch and onnxruntime run here

import jax
import numpy as np

import common
import implementations as impl
from implementations import SIZES, Implementation
from report import FLOOR, OURS, markdown, plot


class Peer(NamedTuple):
    """A row of the tables."""

    title: str
    build: Callable[[impl.Problem], Implementation]


PEERS = {
    OURS: Peer("jaxlstm", impl.jaxlstm_unroll),
    "scan": Peer("plain lax.scan", impl.plain_scan),
    "linen": Peer("flax linen RNN", impl.flax_linen),
    "jaxlstm.linen": Peer("jaxlstm.linen RNN", impl.jaxlstm_linen),
    "nnx": Peer("flax nnx RNN", impl.flax_nnx),
    "jaxlstm.nnx": Peer("jaxlstm.nnx RNN", impl.jaxlstm_nnx),
    "haiku": Peer("haiku dynamic_unroll", impl.haiku_unroll),
    "equinox": Peer("equinox LSTMCell, scan", impl.equinox_scan),
    "keras": Peer("Keras LSTM on JAX", impl.keras_layer),
    "torch": Peer("torch nn.LSTM", impl.torch_lstm),
    "onnxruntime": Peer("onnxruntime", impl.onnx_runtime),
    FLOOR: Peer("GEMM floor", impl.gemm_floor),
}
TOLERANCE = 1e-4


def main() -> None:
    """Measure what the arguments ask for, and report it."""
    args = arguments()
    if args.keep_pages:
        common.keep_pages()
    names = [name for name in PEERS if name == OURS or name in args.only]
    titles = {name: PEERS[name].title for name in names}
    report = {**common.environment(), "rounds": args.rounds, "threads": args.threads, "titles": titles, "sizes": {}}
    for size in args.sizes:
        report["sizes"][size] = measure(size, names, args.rounds, args.threads)
    text = markdown(report)
    print(text)
    if args.into:
        common.write_section(args.into, "peers, pages kept" if args.keep_pages else "peers", text)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.plot:
        plot(report, args.plot)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), metavar="SIZE", help=", ".join(SIZES))
    parser.add_argument("--rounds", type=int, default=20, help="timed calls of each implementation (20)")
    parser.add_argument(
        "--only", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER", help=f"{', '.join(PEERS)}"
    )
    parser.add_argument("--threads", type=int, default=common.cores(), help="of torch and onnxruntime (all cores)")
    parser.add_argument("--keep-pages", action="store_true", help="have glibc keep freed memory, in a new process")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every time measured")
    parser.add_argument("--plot", type=Path, metavar="OUT", help="draw the ratios (needs matplotlib)")
    parser.add_argument("--into", type=Path, metavar="FILE", help="replace this report's section of a Markdown file")
    return parser.parse_args()


def measure(size: str, names: list[str], rounds: int, threads: int) -> dict[str, Any]:
    """Build, verify and time the implementations at one size."""
    common.note(f"{size}: building and verifying")
    built, skipped = build(impl.make_problem(SIZES[size], threads), names)
    differences = verify(built)
    memory = {name: one.temp_bytes() / 1e6 for name, one in built.items() if one.temp_bytes}
    result = {"shape": SIZES[size]._asdict(), "skipped": skipped, "differences": differences, "temp_mb": memory}
    for what in ("forward", "train"):
        common.note(f"{size}: timing {what}")
        calls = {name: getattr(one, what) for name, one in built.items() if getattr(one, what)}
        times = common.interleave(calls, rounds)
        result[what] = {name: summary(many, times[OURS]) for name, many in times.items()}
    return result


def build(problem: impl.Problem, names: list[str]) -> tuple[dict[str, Implementation], list[str]]:
    """The implementations whose libraries are installed, and a sentence for each of the others."""
    built, skipped = {}, []
    for name in names:
        try:
            built[name] = PEERS[name].build(problem)
        except ImportError as error:
            if name == OURS:
                raise
            skipped.append(f"{PEERS[name].title} is left out: {error}.")
            common.note(skipped[-1])
    return built, skipped


def verify(built: dict[str, Implementation]) -> dict[str, float]:
    """The largest differences between the implementations; too large a one ends the run.

    Of ys, and relative to its largest value of the gradient of xs. Weights are stored in other shapes and orders, so
    their gradients are compared by their norm, without biases, of which torch has two.
    """
    ours_ys, ours_dxs, ours_norm = outputs(built[OURS])
    differences = {"ys": 0.0, "gradients": 0.0}
    for name, one in built.items():
        if name in (OURS, FLOOR):
            continue
        ys, dxs, norm = outputs(one)
        found = {"ys": float(np.abs(ys - ours_ys).max()), "gradients": 0.0}
        if dxs is not None:
            dxs_error = float(np.abs(dxs - ours_dxs).max() / np.abs(ours_dxs).max())
            found["gradients"] = max(dxs_error, abs(norm / ours_norm - 1))
        if not max(found.values()) <= TOLERANCE:
            raise SystemExit(f"{PEERS[name].title} computes something else than jaxlstm: {found}")
        differences = {key: max(differences[key], found[key]) for key in found}
    return differences


def outputs(one: Implementation) -> tuple[np.ndarray, Any, float]:
    """ys, the gradient of xs, both time first, and the norm of the weights' gradients."""
    order = (1, 0, 2) if one.batch_major else (0, 1, 2)
    ys = np.asarray(one.forward()).transpose(order)
    if one.train is None:
        return ys, None, 0.0
    _, (dweights, dxs) = one.train()
    squares = [np.square(np.asarray(leaf, np.float64)).sum() for leaf in jax.tree.leaves(dweights) if leaf.ndim > 1]
    return ys, np.asarray(dxs).transpose(order), float(np.sqrt(sum(squares)))


def summary(times: list[float], ours: list[float]) -> dict[str, Any]:
    """The ratio is the median of the ratios to jaxlstm in the same round: slow spells of the machine cancel."""
    return {
        "median_ms": median(times),
        "min_ms": min(times),
        "ratio": median(time / our for time, our in zip(times, ours, strict=True)),
        "times_ms": times,
    }


if __name__ == "__main__":
    main()
