"""What the README shows is run: its Python from top to bottom, and its links lead to files."""

import re
from pathlib import Path

import jax
import numpy as np

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_readmes_python_runs(without_x64, without_type_hook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it writes files
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 4
    shown = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec("\n".join(blocks), shown)
        jl, jnp = shown["jl"], shown["jnp"]
        cell = shown["MinimalGatedCell"](hidden_size=4)
        params = cell.init(jax.random.key(0), 64)
        differentiate = jax.jit(
            jax.grad(lambda params: jnp.sum(jl.unroll(cell, params, shown["xs"], remat=30)[1] ** 2))
        )
        gradient = differentiate(params)
    assert shown["ys"].shape == (100, 32, 32)
    assert int(shown["state"].step) == 4
    np.testing.assert_allclose(shown["ys"], shown["program"].call(shown["xs"], lengths=jnp.full(32, 80))[1], atol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in gradient)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
