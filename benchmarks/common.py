"""What the benchmarks share: interleaved timing, the allocator's setting, the machine, Markdown."""

import gc
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "numpy", "flax", "dm-haiku", "equinox", "keras", "torch", "onnxruntime")
KEEP_PAGES = {"MALLOC_MMAP_THRESHOLD_": str(2**34), "MALLOC_TRIM_THRESHOLD_": str(2**34)}
SETTINGS = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "OMP_", "GOMP_", "MKL_", "XLA_FLAGS", "JAX_PLATFORMS")
PAUSE = 0.01  # seconds before each call, for the threads of the call before to stop spinning


def interleave(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every call in every round; each round begins one further on, so that all see the same machine."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(2):
            jax.block_until_ready(call())
    names = list(calls)
    for turn in range(rounds):
        first = turn % len(names)
        gc.collect()
        for name in names[first:] + names[:first]:
            samples[name].append(timed(calls[name]))
    return samples


def timed(call: Callable[[], Any]) -> float:
    """Milliseconds until all results of a call are there; freeing them is not counted."""
    time.sleep(PAUSE)
    gc.disable()
    begin = time.perf_counter()
    result = jax.block_until_ready(call())
    seconds = time.perf_counter() - begin
    gc.enable()
    del result
    return seconds * 1e3


def keep_pages() -> None:
    """Start this process again with glibc told to keep freed memory; it reads these variables only at its start."""
    if any(os.environ.get(name) != value for name, value in KEEP_PAGES.items()):
        os.execve(sys.executable, sys.orig_argv, os.environ | KEEP_PAGES)


def settings() -> str:
    """The allocator's setting, and what else the environment says that changes speed."""
    found = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(SETTINGS)]
    kept = all(os.environ.get(name) == value for name, value in KEEP_PAGES.items())
    how = "keeps its pages" if kept else "default" if not any("MALLOC" in one for one in found) else "as set"
    return f"allocator {how} ({' '.join(platform.libc_ver())}); environment: {' '.join(found) or 'nothing set'}"


def environment() -> dict[str, str]:
    """The machine, the versions and the setting that a number was measured with."""
    import jaxlstm

    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text() if cpuinfo.exists() else "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    device = jax.devices()[0]
    return {
        "machine": f"{model[1] if model else platform.machine()}, {cores()} cores, {memory:.0f} GiB, "
        f"{platform.system()} {platform.machine()}; JAX on {device.platform} ({device.device_kind})",
        "versions": f"jaxlstm {jaxlstm.__version__} ({revision()}), Python {platform.python_version()}, " + versions(),
        "settings": settings(),
        "load": f"{os.getloadavg()[0]:.1f} processes running in the minute before the start",
    }


def circumstances(report: dict[str, Any]) -> str:
    """What `environment` found, as a Markdown list."""
    return "\n".join(f"- {name.capitalize()}: {report[name]}" for name in ("machine", "versions", "settings", "load"))


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def versions() -> str:
    """The installed packages among those that matter here."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def revision() -> str:
    """The git commit measured, with a + where files of the library differ from it."""
    root = Path(__file__).parent.parent

    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", root, *args], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "src") else "")
    except (OSError, subprocess.CalledProcessError):
        return "no commit"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def listed(options: dict[str, Any]) -> str:
    """Options of a recipe in words."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in options.items())


def write_section(path: Path, name: str, text: str) -> None:
    """Put `text` into a Markdown file, in place of what a run before put under the same name, or at the end."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    section = f"{begin}\n{text}\n{end}"
    old = path.read_text() if path.exists() else ""
    found = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    new = found.sub(lambda _: section, old) if found.search(old) else f"{old.rstrip()}\n\n{section}\n".lstrip()
    path.write_text(new)


def note(text: str) -> None:
    """Say how far it is, where it does not get into the report."""
    print(text, file=sys.stderr, flush=True)
