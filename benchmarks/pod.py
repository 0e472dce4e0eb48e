"""A paper model of an LSTM's training step on a pod: which of its parts takes how long, and what limits its scaling.

Nothing here is measured. One layer with I = H, bfloat16 weights, D devices, b sequences on each:

    loops   2 T max(latency, 8 b H^2 / flops, 8 H^2 bytes / memory)     one matmul a step forward, one back: each step
                                                                        starts anew, and reads w_hh [H, 4H] again
    rest    4 * 8 T b H^2 / flops                                       project, dx, dw_ih, dw_hh: all steps at once
    ring    2 (D - 1) / D * 32 H^2 bytes / link + 2 (D - 1) hop         float32 gradients round a ring, once a step

Where the gates lie on a model axis of two devices, each step of both loops also waits for the other one's half.
"""

from typing import NamedTuple

import common


class Device(NamedTuple):
    """Peak numbers of a data sheet, per second; and two times that no sheet has, assumed."""

    name: str
    flops: float  # bfloat16
    memory: float  # bytes
    link: float  # bytes, one way, to the next device of the ring
    latency: float  # seconds that a step of a loop takes at least
    hop: float  # seconds from one device to the next


DEVICES = (
    Device("TPU v5e", flops=197e12, memory=819e9, link=45e9, latency=5e-6, hop=1e-6),
    Device("H100, 400 Gbit/s each", flops=989e12, memory=3.35e12, link=50e9, latency=15e-6, hop=5e-6),
)
T, H = 512, 1024
COUNTS = (1, 8, 64, 256)
TOTAL, EACH = 2048, 64  # sequences: in all, or on each device


class Times(NamedTuple):
    """Seconds of one training step."""

    loops: float
    rest: float
    ring: float

    @property
    def total(self) -> float:
        """All of it, nothing overlapping."""
        return self.loops + self.rest + self.ring


def step(device: Device, count: int, sequences: float) -> Times:
    """The model above for so many devices with so many sequences on each."""
    matmul = 8 * sequences * H**2 / device.flops
    loops = 2 * T * max(device.latency, matmul, 8 * H**2 / device.memory)
    ring = 2 * (count - 1) * (32 * H**2 / count / device.link + device.hop)
    return Times(loops, 4 * T * matmul, ring)


def limit(device: Device, sequences: float) -> str:
    """What a step of the loops waits for."""
    matmul = 8 * sequences * H**2 / device.flops
    waits = {"starting": device.latency, "reading w_hh": 8 * H**2 / device.memory, "the matmul": matmul}
    return max(waits, key=lambda name: waits[name])


def enough(device: Device) -> float:
    """The sequences on one device from which on a step of the loops waits for the matmul."""
    return max(device.latency, 8 * H**2 / device.memory) * device.flops / (8 * H**2)


def markdown() -> str:
    """The tables, and what they say."""
    parts = [
        f"A paper model of a pod (`benchmarks/pod.py`; nothing of it is measured): one layer, T {T}, I = H = {H}, "
        "bfloat16, peak numbers of the data sheets, nothing overlapping. Assumed: "
        + "; ".join(f"{d.name}, {d.latency * 1e6:.0f} us a loop step, {d.hop * 1e6:.0f} us a hop" for d in DEVICES)
        + ". ms of a training step: loops over time + batched matmuls + the gradients' way round the ring."
    ]
    for title, share in (
        (f"{TOTAL} sequences in all", lambda count: TOTAL / count),
        (f"{EACH} sequences on each device", lambda count: EACH),
    ):
        rows = []
        for device in DEVICES:
            alone = step(device, 1, share(1))
            for count in COUNTS:
                times = step(device, count, share(count))
                ideal = alone.total * share(count) / share(1)
                rows.append(
                    [
                        f"{device.name} x {count}",
                        " + ".join(f"{1e3 * part:.2f}" for part in times),
                        f"{ideal / times.total:.0%}",
                        limit(device, share(count)),
                    ]
                )
        parts.append(common.table([title, "ms", "efficiency", "a loop step waits for"], rows))
    parts.append(
        "So a pod pays with more sequences, not with fewer on each device: the loops take as long for one as for "
        + " or ".join(f"{enough(device):.0f} ({device.name})" for device in DEVICES)
        + ", and only from there on does the matmul count. The ring is short beside them, and does not grow with T. "
        "Gates on a model axis of two devices add a hop to each step of both loops: "
        + " or ".join(f"{2e3 * T * device.hop:.1f} ms ({device.name})" for device in DEVICES)
        + " for weights that would fit on one device anyway."
    )
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(markdown())
