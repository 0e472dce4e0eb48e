"""LSTMVariantCell against float64 loops and onnxruntime: each option alone and together, initial params, mistakes."""

import itertools
import re
import typing

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
import references_variants as references
from jaxtyping import jaxtyped
from onnx import TensorProto, helper

import jaxlstm as jl
from jaxlstm.cells import LSTMNormParams

KEY = jax.random.key(0)
OPTIONS = {"peephole": True, "coupled": True, "projection_size": 2, "layer_norm": True, "clip": 0.6}
SETS = [names for count in (0, 1, 2, len(OPTIONS)) for names in itertools.combinations(OPTIONS, count)]


def problem(cell, steps=4, batch=(2,), input_size=2):
    """Params none of which is what a cell starts from, inputs and an initial carry."""
    rng = np.random.default_rng(0)
    params = jax.eval_shape(lambda: cell.init(KEY, input_size))
    carry = jax.eval_shape(lambda p: cell.init_carry(p, batch), params)
    params, carry = jax.tree.map(lambda a: rng.normal(size=a.shape), (params, carry))
    return params, rng.normal(size=(steps, *batch, input_size)), carry


def assert_close(got, want, tolerance=1e-12):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), got, want)


def assert_equals_loop(cell, params, xs, carry):
    equations = {"coupled": cell.coupled, "clip": cell.clip}
    want = references.run(lambda t, n, carry, x: references.lstm_variant_step(params, carry, x, **equations), xs, carry)
    assert_close(jl.unroll(cell, params, xs, carry), want)


@pytest.mark.parametrize("names", SETS, ids=" ".join)
def test_equals_loop(names):
    cell = jl.LSTMVariantCell(3, **{name: OPTIONS[name] for name in names})
    assert_equals_loop(cell, *problem(cell))


@pytest.mark.parametrize("shape", [(1, (), 1), (3, (2, 2), 3), (0, (2,), 2)], ids=str)
def test_equals_loop_at_other_shapes(shape):
    cell = jl.LSTMVariantCell(1, **{**OPTIONS, "projection_size": 3})
    assert_equals_loop(cell, *problem(cell, *shape))


def test_without_options_is_the_lstm():
    params, xs, carry = problem(jl.LSTMVariantCell(3))
    assert_close(
        jl.unroll(jl.LSTMVariantCell(3), params, xs, carry),
        jl.unroll(jl.LSTMCell(3), jl.LSTMParams(params.w_ih, params.w_hh, params.b), xs, carry),
        tolerance=1e-15,
    )


def test_other_activations_are_used_throughout():
    cell = jl.LSTMVariantCell(3, peephole=True, gate_fn=jax.nn.hard_sigmoid, activation_fn=jax.nn.soft_sign)
    params, xs, carry = problem(cell)
    hard_sigmoid, soft_sign = lambda z: np.clip(z / 6 + 0.5, 0, 1), lambda z: z / (1 + abs(z))
    p_i, p_f, p_o = np.split(params.p, 3)
    z_i, z_f, z_g, z_o = np.split(xs[0] @ params.w_ih + carry.h @ params.w_hh + params.b, 4, axis=-1)
    c = hard_sigmoid(z_f + p_f * carry.c) * carry.c + hard_sigmoid(z_i + p_i * carry.c) * soft_sign(z_g)
    h = hard_sigmoid(z_o + p_o * c) * soft_sign(c)
    assert_close(cell.step(params, carry, xs[0]), (jl.LSTMCarry(h=h, c=c), h))


def test_layer_norm_of_a_carry_of_zeros_has_a_gradient():
    cell = jl.LSTMVariantCell(3, layer_norm=True)
    gradient = jax.grad(lambda params: jl.unroll(cell, params, np.ones((2, 1)))[1].sum())(cell.init(KEY, 1))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("clip", [None, 0.4, 3], ids=str)
@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("peephole", [False, True])
def test_equals_onnxruntime(peephole, coupled, clip):
    """The cell state is large here: ONNX speaks of "the input of activations", and onnxruntime leaves c's tanh out."""
    cell = jl.LSTMVariantCell(3, peephole=peephole, coupled=coupled, clip=clip)
    params, xs, carry = jax.tree.map(lambda a: np.float32(2 * a), problem(cell))
    assert_close(jl.unroll(cell, params, xs, carry), run_onnx(cell, params, xs, carry), tolerance=2e-6)


def run_onnx(cell, params, xs, carry):
    """A model of one node, in onnxruntime's order: gates i, o, f, g, peepholes i, o, f; input_forget reads no f."""

    def to_onnx(a, gates, order):
        blocks = dict(zip(gates, np.split(a, len(gates), axis=-1), strict=True))
        return np.concatenate([blocks.get(gate, np.full_like(blocks["i"], np.e)) for gate in order], axis=-1).T[None]

    gates = "igo" if cell.coupled else "ifgo"
    w, r, b = (to_onnx(a, gates, "iofg") for a in params[:3])
    feeds = {"X": xs, "W": w, "R": r, "B": np.concatenate([b, np.zeros_like(b)], axis=-1)}
    feeds |= {"initial_h": carry.h[None], "initial_c": carry.c[None]}
    if cell.peephole:
        feeds["P"] = to_onnx(params.p, gates.replace("g", ""), "iof")
    places = [name if name in feeds else "" for name in ("X", "W", "R", "B", "", "initial_h", "initial_c", "P")]
    clip = {} if cell.clip is None else {"clip": float(cell.clip)}
    outputs = ["Y", "Y_h", "Y_c"]
    node = helper.make_node("LSTM", places, outputs, hidden_size=3, input_forget=int(cell.coupled), **clip)
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, a.shape) for name, a in feeds.items()]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph([node], "lstm", tensors, results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ys, h, c = session.run(None, feeds)
    return jl.LSTMCarry(h=h[0], c=c[0]), ys[:, 0]


@pytest.mark.parametrize("coupled", [False, True])
def test_params_fit_their_annotations(coupled):
    gates = 3 if coupled else 4
    params = jl.LSTMVariantCell(9, **{**OPTIONS, "coupled": coupled, "projection_size": 5}).init(KEY, 20)
    total = gates * 9
    assert [a.shape for a in params[:3]] == [(20, total), (5, total), (total,)]
    assert (params.p.shape, params.w_hr.shape) == ((total - 9,), (9, 5))
    with jaxtyped("context"):
        for named_tuple in (params, params.norm):
            for name, axes in typing.get_type_hints(type(named_tuple)).items():
                assert isinstance(getattr(named_tuple, name), axes), name


def test_params_that_are_not_there_are_none():
    params = jl.LSTMVariantCell(3).init(KEY, 2)
    assert params[3:] == (None, None, None)
    assert jl.LSTMVariantParams(*params[:3]) == params


def test_initial_params():
    params = jl.LSTMVariantCell(9, **{**OPTIONS, "coupled": False, "projection_size": 5}).init(KEY, 20)
    assert params.b.tolist() == [0.0] * 9 + [1.0] * 9 + [0.0] * 18
    assert not params.p.any()
    assert params.norm == LSTMNormParams(*(pytest.approx(np.full(n, k)) for n in (36, 36, 9) for k in (1.0, 0.0)))
    assert_close(params.w_hr.T @ params.w_hr, np.eye(5), tolerance=1e-6)
    for gate in np.split(np.asarray(params.w_hh), 4, axis=1):
        assert_close(gate @ gate.T, np.eye(5), tolerance=1e-6)


def test_coupled_gates_start_as_open_to_the_past_as_others():
    """f = 1 - sigma(-b) = sigma(b)."""
    b = jl.LSTMVariantCell(2, coupled=True, forget_bias=3).init(KEY, 1).b
    assert b.tolist() == [-3.0] * 2 + [0.0] * 4
    plain = jl.LSTMCell(2, b_init=jl.chrono(50)).init(KEY, 1).b
    coupled = jl.LSTMVariantCell(2, coupled=True, b_init=lambda key, shape, dtype: plain.reshape(shape)).init(KEY, 1).b
    assert coupled.tolist() == plain[:2].tolist() + [0.0] * 4


def test_torch_uniform_has_torchs_bound_for_the_projection():
    initialisers = dict.fromkeys(("w_ih_init", "w_hh_init", "b_init"), jl.torch_uniform)
    params = jl.LSTMVariantCell(25, projection_size=4, **initialisers).init(KEY, 7)
    for a in params[:3] + params[4:5]:
        assert 0.9 / 5 < abs(a).max() <= 1 / 5


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_dtypes(dtype):
    cell = jl.LSTMVariantCell(3, **OPTIONS)
    params = cell.init(KEY, 2, dtype=dtype)
    assert {a.dtype.name for a in jax.tree.leaves(params)} == {dtype}
    carry, ys = jl.unroll(cell, params, jnp.ones((3, 2), dtype))
    assert (carry.h.dtype.name, ys.dtype.name) == (dtype, dtype)
    assert carry.c.dtype.name == ("float64" if dtype == "float64" else "float32")


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"hidden_size": 0}, "hidden_size: expected a positive int, got 0"),
        ({"peephole": 1}, "peephole: expected True or False, got 1 (int)"),
        ({"coupled": None}, "coupled: expected True or False, got None"),
        ({"layer_norm": "yes"}, "layer_norm: expected True or False, got 'yes'"),
        ({"projection_size": 2.0}, "projection_size: expected a positive int, got 2.0 (float)"),
        ({"projection_size": 0}, "projection_size: expected a positive int, got 0"),
        ({"clip": 0}, "clip: expected a positive number or None, got 0"),
        ({"clip": float("inf")}, "clip: expected a finite number, got inf"),
        ({"clip": "1"}, "clip: expected a number, got '1' (str)"),
        ({"forget_bias": None}, "forget_bias: expected a number, got None"),
        ({"gate_fn": 3}, "gate_fn: expected a function, got 3"),
        ({"b_init": jl.chrono(9), "forget_bias": 2.0}, "forget_bias: expected its default where b_init is given"),
    ],
)
@pytest.mark.usefixtures("without_type_hook")
def test_mistakes_are_named(mistake, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        jl.LSTMVariantCell(**{"hidden_size": 3, **mistake})


def test_params_of_other_options_are_an_error():
    params = jl.LSTMVariantCell(3).init(KEY, 2)
    with pytest.raises(ValueError, match="params: expected LSTMVariantParams"):
        jl.unroll(jl.LSTMVariantCell(3, peephole=True), params, np.ones((4, 2)))


def test_layer_norm_of_large_float16_inputs():
    """Their squares do not fit in 16 bits."""
    cell = jl.LSTMVariantCell(8, layer_norm=True)
    params = cell.init(jax.random.key(0), 8, dtype=jnp.float16)
    xs = 200 * jax.random.normal(jax.random.key(1), (4, 2, 8), jnp.float16)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (params, xs))
    got, want = jl.unroll(cell, params, xs)[1], jl.unroll(cell, *wide)[1]
    np.testing.assert_allclose(got.astype(jnp.float32), want, atol=0.02)
    assert jnp.abs(want).max() > 0.3
