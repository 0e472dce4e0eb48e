"""What the README shows is run: its Python from top to bottom, and its links lead to files."""

import re

import jax
import numpy as np
from pages import ROOT, jax_as_it_comes, python_blocks, run_page

README = ROOT / "README.md"


def test_the_readmes_python_runs(without_x64, without_type_hook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it writes files
    assert len(python_blocks(README.read_text())) >= 4
    shown = run_page(README)
    with jax_as_it_comes():
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
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", README.read_text()):
        assert (ROOT / target).exists(), target
