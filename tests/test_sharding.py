"""Types of arrays on many devices. One process has them only if it is told so before it begins."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxlstm as jl
from jaxlstm import _sharding


@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_on_four_devices(which):
    # Most of the time is the compiler's, which need not try hard here.
    more = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {more}"
    script = str(Path(__file__).with_name("many_devices.py"))
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-m", which, script]
    result = subprocess.run(command, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:]


class OfAnotherJax:
    """The type of an array that says under other names along which axes it varies."""


def test_nothing_varies_under_names_that_are_not_known(monkeypatch):
    cell = jl.LSTMCell(2)
    params, xs = cell.init(jax.random.key(0), 3), jnp.ones((2, 1, 3), jnp.float32)
    expected = jl.unroll(cell, params, xs)[1]
    monkeypatch.setattr(_sharding.jax, "typeof", lambda array: OfAnotherJax())
    assert _sharding._varying(xs) == frozenset()
    again = jl.unroll(cell, params, xs, unroll=2)[1]  # an option of its own, so that it is traced here
    assert jnp.allclose(again, expected)
