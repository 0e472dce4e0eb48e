"""Params to a file and back, and every way in which a file can be the wrong one."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from properties import params_of

import jaxlstm as jl
from jaxlstm.interop import load_params, save_params

NETWORK = jl.Stack(jl.Bidirectional(jl.LSTMCell(3)), jl.GRUCell(2))


def init():
    return {"network": NETWORK.init(jax.random.key(0), 4)}


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(jnp.asarray, {"network": params_of(NETWORK, 4, np.random.default_rng(0), np.float32)})


@pytest.fixture
def path(tmp_path, params):
    save_params(tmp_path / "weights.safetensors", params)
    return tmp_path / "weights.safetensors"


def test_tensors_are_named_by_their_paths(path):
    names = set(safetensors.numpy.load_file(path))
    assert {"network.0.0.w_ih", "network.0.1.b", "network.1.b_hn"} <= names
    assert len(names) == 2 * 3 + 4


@pytest.mark.parametrize("template", ["arrays", "shapes"])
def test_the_round_trip_changes_nothing(path, params, template):
    loaded = load_params(path, params if template == "arrays" else jax.eval_shape(init))
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    for got, expected in zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True):
        assert isinstance(got, jax.Array)
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int32", "bool"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_every_dtype_and_shape(tmp_path, dtype, shape):
    tree = {"a": jnp.ones(shape, dtype), "t": jnp.arange(6).reshape(2, 3).T.astype(dtype)}
    save_params(tmp_path / "x", tree)
    loaded = load_params(tmp_path / "x", tree)
    assert loaded["a"].dtype == dtype
    assert loaded["a"].shape == shape
    np.testing.assert_array_equal(loaded["t"], tree["t"])


def test_none_has_no_tensor_and_comes_back(tmp_path):
    tree = {"params": params_of(jl.GRUCell(2, bias=False), 3, np.random.default_rng(0), np.float32), "more": None}
    save_params(tmp_path / "x", tree)
    assert set(safetensors.numpy.load_file(tmp_path / "x")) == {"params.w_ih", "params.w_hh"}
    loaded = load_params(tmp_path / "x", tree)
    assert loaded["more"] is loaded["params"].b is loaded["params"].b_hn is None
    np.testing.assert_array_equal(loaded["params"].w_hh, tree["params"].w_hh)


def test_a_bare_array_and_numpy_arrays(tmp_path):
    save_params(tmp_path / "x", np.arange(3.0))
    np.testing.assert_array_equal(load_params(str(tmp_path / "x"), np.zeros(3)), np.arange(3.0))


def test_a_failed_save_leaves_the_old_file_and_no_other(path, params, monkeypatch):
    before = path.read_bytes()

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_params(path, params)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_save_replaces_what_there_was(path):
    save_params(path, {"new": jnp.ones(1)})
    assert set(safetensors.numpy.load_file(path)) == {"new"}


CHANGES = {
    "missing": (lambda p: p | {"more": jnp.ones(1)}, r"weights.*: expected a tensor 'more', got none of that name"),
    "extra": (
        lambda p: {"network": (p["network"][0],)},
        r"weights.*: expected only the 6 tensors .* also 'network.1.b'",
    ),
    "shape": (
        lambda p: {"network": (p["network"][0], p["network"][1]._replace(b=jnp.ones(5, jnp.float32)))},
        r"weights.*: network.1.b: expected shape \(5,\), got \(6,\)",
    ),
    "dtype": (
        lambda p: {"network": (p["network"][0], p["network"][1]._replace(b=jnp.ones(6, jnp.float16)))},
        r"weights.*: network.1.b: expected dtype float16, got float32",
    ),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_another_model_s_file_is_an_error_that_names_the_tensor(path, params, change, message):
    with pytest.raises(ValueError, match=message):
        load_params(path, change(params))


DAMAGE = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[:-10],
    "truncated header": lambda data: data[:20],
    "of another kind": lambda data: b"\x89PNG\r\n" + bytes(100),
    "header changed": lambda data: data.replace(b"F32", b"F99"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_an_error_that_names_it(path, params, damage):
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"weights\.safetensors: damaged, or not a safetensors file"):
        load_params(path, params)


def test_a_missing_file_is_python_s_own_error(tmp_path, params):
    with pytest.raises(FileNotFoundError):
        load_params(tmp_path / "none", params)


def test_leaves_that_no_file_can_hold(tmp_path):
    with pytest.raises(TypeError, match="params: key: expected an array of numbers"):
        save_params(tmp_path / "x", {"key": jax.random.key(0)})
    with pytest.raises(TypeError, match=r"params: a: expected an array of numbers, got 1\.0"):
        save_params(tmp_path / "x", {"a": 1.0})
    with pytest.raises(ValueError, match=r"params: expected leaves with different names, got two named 'a\.b'"):
        save_params(tmp_path / "x", {"a": {"b": jnp.ones(1)}, "a.b": jnp.ones(1)})
    assert not list(tmp_path.iterdir())


def test_without_the_package_the_message_names_the_extra(path, params, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxlstm\[safetensors\]'"):
        load_params(path, params)
    with pytest.raises(ImportError, match=r"pip install 'jaxlstm\[safetensors\]'"):
        save_params(path, params)
