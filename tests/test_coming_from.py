"""What docs/coming_from.md shows is run where the framework is installed, and its networks beside ours.

First as the page reads and writes them; then with other weights written back, so that no bias is zero.
"""

import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm as jl
from jaxlstm import interop

PAGE = (Path(__file__).parent.parent / "docs" / "coming_from.md").read_text()
BLOCKS = dict(re.findall(r"^## ([\w ]+)\n[^#]*?```python\n(.*?)```", PAGE, flags=re.DOTALL | re.MULTILINE))


def run_torch(shown, params):
    torch = shown["torch"]
    state = {name: torch.from_numpy(array) for name, array in shown["to_torch"](shown["network"], params).items()}
    shown["rnn"].load_state_dict(state)
    return shown["rnn"](shown["xs"])[0].detach().numpy()


def run_keras(shown, params):
    arrays = shown["to_keras"](shown["network"], params, layers=("lstm", "gru"))
    shown["model"].set_weights(list(arrays.values()))
    return np.swapaxes(shown["model"](shown["xs"].swapaxes(0, 1)), 0, 1)


def run_linen(shown, params):
    weights = shown["to_flax"](shown["network"], params, layout="linen")
    return jax.jit(shown["model"].apply)({"params": weights}, shown["xs"].swapaxes(0, 1)).swapaxes(0, 1)


def run_haiku(shown, params):
    weights = shown["to_haiku"](shown["network"], params, layers=("lstm", "lstm_1"))
    return jax.jit(shown["model"].apply)(weights, shown["xs"])


def run_equinox(shown, params):
    arrays = shown["to_equinox"](shown["network"], params)
    cell = shown["eqx"].tree_at(
        lambda cell: [getattr(cell, name) for name in arrays], shown["cell"], list(arrays.values())
    )

    def step(carry, x):
        carry = cell(x, carry)
        return carry, carry[0]

    return jax.lax.scan(step, (jnp.zeros(8, "f4"),) * 2, shown["xs"])[1]


def run_onnx(shown, params):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = shown["to_onnx"](shown["network"], params).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(["ys"], {"xs": shown["xs"]})[0]


FRAMEWORKS = {
    "ONNX": run_onnx,
    "torch": run_torch,
    "Keras": run_keras,
    "Flax": run_linen,
    "Haiku": run_haiku,
    "Equinox": run_equinox,
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_block_runs_and_computes_the_same(framework, without_x64, monkeypatch, tmp_path):
    monkeypatch.setitem(os.environ, "KERAS_BACKEND", "jax")
    monkeypatch.chdir(tmp_path)
    pytest.importorskip(framework.lower(), reason=f"{framework} is not installed")
    shown = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(BLOCKS[framework], shown)
        changed = jax.tree.map(lambda leaf: leaf + np.float32(0.1), shown["params"])
        theirs = FRAMEWORKS[framework](shown, changed)
    ours = shown["network"].apply(changed, np.asarray(shown["xs"]))[1]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    assert shown["ys"].shape == ours.shape
    assert np.abs(shown["ys"] - ours).max() > 0.01


def test_torch_s_last_carries_are_these():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    shown = {}
    exec(BLOCKS["torch"].partition("rnn.load_state_dict")[0], shown)
    _, (h_n, c_n) = shown["rnn"](torch.as_tensor(shown["xs"]))
    np.testing.assert_allclose(shown["h_n"], h_n.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(shown["c_n"], c_n.detach().numpy(), rtol=1e-5, atol=1e-6)
    again = shown["network"].apply(shown["params"], np.asarray(shown["xs"]), shown["carry"])[1]
    theirs = shown["rnn"](torch.as_tensor(shown["xs"]), (h_n, c_n))[0].detach().numpy()
    np.testing.assert_allclose(again, theirs, rtol=1e-5, atol=1e-6)


def test_what_was_read_is_trained_on(without_x64, without_type_hook):
    network = jl.Stack(jl.LSTMCell(8), jl.GRUCell(4))
    params = network.init(jax.random.key(0), 3)
    xs = np.random.default_rng(0).normal(size=(20, 5, 3)).astype(np.float32)
    shown = {"network": network, "params": params, "xs": xs}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(BLOCKS["Training on"], shown)
    assert shown["state"].step == 10
    assert shown["network"].dropout == 0.3
    assert not np.array_equal(shown["params"][0].w_hh, params[0].w_hh)


def test_nnx_gets_its_own_weights_back(without_x64):
    nnx = pytest.importorskip("flax.nnx", reason="Flax is not installed")
    empty = {"kernel_init": nnx.initializers.ones, "recurrent_kernel_init": nnx.initializers.ones}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        cells = [nnx.OptimizedLSTMCell(3, 4, rngs=nnx.Rngs(0), **empty) for _ in range(2)]
        model = nnx.Bidirectional(*(nnx.RNN(cell) for cell in cells))
        state = nnx.state(model, nnx.Param)
        network, params = interop.from_flax(nnx.to_pure_dict(state))
        changed = jax.tree.map(lambda leaf: leaf + np.float32(0.1), params)
        nnx.replace_by_pure_dict(state, interop.to_flax(network, changed, layout="nnx_optimized"))
        nnx.update(model, state)
    again, got = interop.from_flax(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    assert again == network
    jax.tree.map(np.testing.assert_array_equal, got, changed)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_torch_s_tensors_of_any_dtype(dtype):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    module = torch.nn.GRU(3, 4, dtype=getattr(torch, dtype))
    network, params = interop.from_torch(module.state_dict())
    assert params.w_ih.dtype == dtype
    back = interop.to_torch(network, params)["weight_hh_l0"].astype(np.float64)
    np.testing.assert_array_equal(back, module.weight_hh_l0.detach().double().numpy())
