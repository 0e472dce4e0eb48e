"""What the scripts beside this file share: inputs, weights and initial carries to draw, and the file they write.

A golden is a few recurrent networks that another framework made and ran, each as arrays named ``case/what``:

    case/weights/NAME    the framework's weights, by its own names
    case/carry/K         initial carry, and case/final/K the final one: h (and c) [B, H], layer by layer, forward first
    case/ys              outputs [T, B, H], zero in the padding

and for all cases ``xs [T, B, I]``, float32, some large enough to saturate the gates, and ``lengths [B]``.
"""

from pathlib import Path

import numpy as np

T, B, I, H = 6, 3, 3, 4  # noqa: E741
RNG = np.random.default_rng(20)
LENGTHS = np.array([6, 1, 4])
XS = RNG.normal(scale=2.0, size=(T, B, I)).astype(np.float32)
XS[1, 0], XS[3, 2] = 20.0, -20.0


def draw(shape, dtype=np.float32):
    """Weights or a carry, none of them zero."""
    return RNG.normal(scale=0.6, size=shape).astype(dtype)


def zero_padding(ys):
    """Outputs ``[T, B, H]`` with zeros past the lengths, where frameworks differ."""
    return np.where(np.arange(T)[:, None, None] < LENGTHS[:, None], ys, np.zeros_like(ys))


def save(script, cases, **versions):
    """Write the cases beside the script, with the versions of what ran."""
    arrays = {"xs": XS, "lengths": LENGTHS}
    for case, (weights, carry, ys, final) in cases.items():
        arrays |= {f"{case}/weights/{name}": np.asarray(array) for name, array in weights.items()}
        for name, part in (("carry", carry), ("final", final)):
            arrays |= {f"{case}/{name}/{k}": np.asarray(array) for k, array in enumerate(part)}
        arrays[f"{case}/ys"] = np.asarray(ys)
    name = Path(script).stem.removeprefix("make_")
    versions = ", ".join(f"{package} {version}" for package, version in versions.items())
    np.savez_compressed(Path(script).with_name(f"{name}.npz"), versions=np.array(versions), **arrays)
    print(f"{name}.npz: {len(cases)} networks, {versions}")
