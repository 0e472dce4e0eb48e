"""Every block of docs/coming_from.md is run where its framework is installed, and the networks are compared.

First as the page reads and writes them; then with other weights written back, so that no bias is zero. Files are made
by their framework, here or by the scripts in tests/interop/goldens.
"""

import functools
import os
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pages import ROOT, jax_as_it_comes

import jaxlstm as jl
from jaxlstm import interop

PAGE = (ROOT / "docs" / "coming_from.md").read_text()
BLOCKS = dict(re.findall(r"^##+ ([\w ]+)\n[^#]*?```python\n(.*?)```", PAGE, flags=re.DOTALL | re.MULTILINE))
GOLDENS = ROOT / "tests" / "interop" / "goldens"


def run_torch(shown, params):
    torch = shown["torch"]
    arrays = shown["to_torch"](shown["network"], params)
    shown["rnn"].load_state_dict({name: torch.from_dlpack(jnp.asarray(array)) for name, array in arrays.items()})
    return shown["rnn"](shown["xs"])[0].detach().numpy()


def run_keras(shown, params):
    ys = shown["xs"].swapaxes(0, 1)
    for layer, ours, weights in zip(shown["layers"], shown["network"].layers, params, strict=True):
        layer.set_weights(list(shown["to_keras"](ours, weights).values()))
        ys = layer(ys)
    return np.swapaxes(ys, 0, 1)


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
    with jax_as_it_comes():
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


@pytest.mark.slow
def test_what_was_read_is_trained_on(without_x64, without_type_hook):
    network = jl.Stack(jl.LSTMCell(8), jl.GRUCell(4))
    params = network.init(jax.random.key(0), 3)
    xs = np.random.default_rng(0).normal(size=(20, 5, 3)).astype(np.float32)
    shown = {"network": network, "params": params, "xs": xs}
    with jax_as_it_comes():
        exec(BLOCKS["Training on"], shown)
    assert shown["state"].step == 10
    assert shown["network"].dropout == 0.3
    assert not np.array_equal(shown["params"][0].w_hh, params[0].w_hh)


def test_nnx_gets_its_own_weights_back(without_x64):
    nnx = pytest.importorskip("flax.nnx", reason="Flax is not installed")
    empty = {"kernel_init": nnx.initializers.ones, "recurrent_kernel_init": nnx.initializers.ones}
    with jax_as_it_comes():
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


def save_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    model = torch.nn.ModuleDict({"emb": torch.nn.Embedding(9, 3), "rnn": torch.nn.GRU(3, 4)})
    wrapped = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, "model.pt")


def copy_safetensors():
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    shutil.copy(GOLDENS / "torch_models" / "crnn.safetensors", "crnn.safetensors")


def copy_keras():
    pytest.importorskip("h5py", reason="h5py is not installed")
    for path in (GOLDENS / "keras2").glob("*"):
        shutil.copy(path, path.name)


@functools.cache
def linen_variables():
    linen = pytest.importorskip("flax.linen", reason="Flax is not installed")

    class Model(linen.Module):
        @linen.compact
        def __call__(self, ids):
            xs = linen.Embed(9, 3)(ids)
            for cell in (linen.OptimizedLSTMCell(2), linen.GRUCell(4)):
                xs = linen.RNN(cell)(xs)
            return linen.BatchNorm(use_running_average=True)(xs)

    return jax.jit(Model().init)(jax.random.key(0), np.zeros((2, 5), np.int32))


def save_msgpack():
    variables = linen_variables()
    Path("model.msgpack").write_bytes(pytest.importorskip("flax.serialization").to_bytes(variables))


def save_orbax():
    orbax = pytest.importorskip("orbax.checkpoint", reason="Orbax is not installed")
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path("checkpoint").absolute(), linen_variables())


def save_haiku():
    haiku = pytest.importorskip("haiku", reason="Haiku is not installed")
    shown = {}
    exec(BLOCKS["Haiku"], shown)
    line = re.search(r"`(np\.savez\(.*\))`", PAGE)[1]
    exec(line, shown | {"hk": haiku})


def save_equinox():
    equinox = pytest.importorskip("equinox", reason="Equinox is not installed")
    lines = BLOCKS["Files of Equinox"].partition("model = ")[0]
    exec(lines, shown := {})
    equinox.tree_serialise_leaves("model.eqx", shown["template"])


FILES = {
    "Checkpoints of torch": (save_torch, jl.Layer(jl.GRUCell(4))),
    "Safetensors files": (copy_safetensors, jl.Stack(jl.Bidirectional(jl.GRUCell(3)), jl.GRUCell(2))),
    "Files of Keras": (copy_keras, None),
    "Files of Flax": (save_msgpack, jl.Stack(jl.LSTMCell(2), jl.GRUCell(4))),
    "Orbax checkpoints": (save_orbax, jl.Stack(jl.LSTMCell(2), jl.GRUCell(4))),
    "Files of Haiku": (save_haiku, jl.Stack(jl.LSTMCell(8), jl.LSTMCell(4))),
    "Files of Equinox": (save_equinox, jl.Layer(jl.LSTMCell(4))),
}


@pytest.mark.parametrize("heading", FILES)
def test_a_file_is_read_as_the_page_says(heading, without_x64, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save, network = FILES[heading]
    shown = {}
    with jax_as_it_comes():
        save()
        exec(BLOCKS[heading], shown)
    if network is None:  # the same layers, alone in files of weights and both from a file of a model
        network = jl.Stack(shown["bi"], shown["top"])
        jax.tree.map(np.testing.assert_array_equal, shown["params"], (shown["bi_params"], shown["top_params"]))
    assert shown["network"] == network


def test_no_block_goes_unrun():
    assert set(BLOCKS) == {*FRAMEWORKS, *FILES, "Training on"}
