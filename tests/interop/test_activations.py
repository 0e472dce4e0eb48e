"""The table of activations: each name leads to one function, which a file can hold and ONNX computes alike."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from onnx_models import run, session_of

import jaxlstm as jl
from jaxlstm.interop import _activations, from_keras, from_onnx, to_onnx
from jaxlstm.interop._description import from_text, to_text

ONNX = list(_activations._TO_ONNX)


def test_whatever_has_a_name_in_keras_can_be_saved():
    weights = {"kernel": np.ones((3, 2), np.float32), "recurrent_kernel": np.ones((2, 2), np.float32)}
    for name, function in _activations.KERAS.items():
        network = from_keras(weights, activation=name)[0]
        assert network.cell.activation_fn is function
        assert from_text(to_text(network, 3))[0] == network


@pytest.mark.parametrize("function", ONNX, ids=[theirs.name for theirs in _activations._TO_ONNX.values()])
def test_what_is_written_to_onnx_is_computed_alike_and_comes_back(function):
    cell = jl.RNNCell(9, activation_fn=function)
    params = jl.RNNParams(
        w_ih=np.eye(9, dtype=np.float32), w_hh=np.zeros((9, 9), np.float32), b=np.zeros(9, np.float32)
    )
    z = np.linspace(-4, 4, 9, dtype=np.float32)
    model = to_onnx(cell, params)
    want = function(jnp.asarray(z))
    assert_allclose(run(session_of(model), {"xs": z[None, None]})["ys"][0, 0], want, rtol=1e-6, atol=1e-7)
    again = next(iter(from_onnx(model).values())).network.cell.activation_fn
    assert_allclose(again(jnp.asarray(z)), want, rtol=1e-6, atol=1e-7)
    theirs = _activations._TO_ONNX[function]
    assert again is function or theirs.alpha is not None
