"""nnx's `RNN`, `Bidirectional` and cells: Flax's numbers where Flax is right, the named fixes where it is not."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax_cases import (
    BATCH,
    CALLS,
    FEATURES,
    HIDDEN,
    INPUTS,
    LENGTHS,
    MASK,
    RESET,
    STEPS,
    SWEEP,
    VALID,
    assert_close,
    assert_same,
    counting,
    everything,
    last_carry,
    random_like,
    run,
    weighed,
)

import jaxlstm.nnx as ours
from jaxlstm._wrappers import _sequence
from jaxlstm._wrappers._sequence import run_on_core
from jaxlstm.nnx import _rnn

F64 = {"dtype": jnp.float64, "param_dtype": jnp.float64}
SIZES = (FEATURES, HIDDEN)
CELLS = {
    "LSTMCell": {},
    "OptimizedLSTMCell": {"activation_fn": jnp.sin},
    "GRUCell": {"gate_fn": jax.nn.hard_sigmoid},
    "SimpleCell": {"residual": True},
}
ZEROS = jnp.zeros((BATCH, HIDDEN))


class Subclass(ours.LSTMCell):
    """A cell that the core does not know, and that computes what an LSTM does."""


class Dropping(nnx.Module):
    """What a user writes: random numbers at each step, a carry that is drawn, outputs in a dict."""

    num_feature_axes = 1

    def __init__(self, rngs):
        self.dense = nnx.Linear(*SIZES, rngs=rngs, **F64)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, carry, x):
        h = self.dropout(jnp.tanh(self.dense(x) + carry))
        return h, {"h": h}

    def initialize_carry(self, input_shape, rngs):
        return jax.random.normal(rngs(), (*input_shape[:-1], HIDDEN))


def cell_of(module, name, **options):
    return getattr(module, name)(*SIZES, rngs=nnx.Rngs(0), **{**F64, **CELLS.get(name, {}), **options})


def split(model):
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    return graph, random_like(params), rest


def rnn_of(module, name, **options):
    return module.RNN(cell_of(module, name), return_carry=True, **options)


def compare(name, calls, dtype=jnp.float64, tolerance=1e-12):
    """Our results and Flax's with random params."""
    first = random_like((ZEROS, ZEROS) if "LSTM" in name else ZEROS, 1)

    def results(module):
        def call_of(params, inputs, first, call):
            rnn = nnx.merge(graph, params, rest)
            rnn.unroll = 1 + call.get("reverse", False)
            result = rnn(inputs, initial_carry=first, **call)
            return result if call.get("return_carry", True) else (first, result)

        graph, params, rest = split(
            module.RNN(cell_of(module, name, dtype=dtype, param_dtype=dtype), return_carry=True)
        )
        point = jax.tree.map(lambda leaf: leaf.astype(dtype), (params, jnp.asarray(INPUTS), first))
        return [
            ((nnx.to_pure_dict(by_params), *others), result)
            for (by_params, *others), result in everything(call_of, calls, *point)
        ]

    mine, theirs = (nnx.state(rnn_of(module, name)) for module in (ours, nnx))
    assert jax.tree.structure(mine) == jax.tree.structure(theirs)
    assert_same(*(nnx.to_pure_dict(nnx.state(rnn_of(module, name), nnx.Param)) for module in (ours, nnx)))
    assert_close(results(ours), results(nnx), tolerance)


@pytest.mark.parametrize(("name", "call"), [("LSTMCell", "reverse"), ("GRUCell", "keep_order")])
def test_numbers_are_flaxs(name, call):
    compare(name, [call])


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_numbers_are_flaxs_in_every_call(name):
    compare(name, SWEEP)
    compare(name, SWEEP[1:], jnp.float32, 1e-6)


def test_the_way_each_cell_goes(monkeypatch):
    def run_on_core(*runs):
        raise RuntimeError("on the core")

    monkeypatch.setattr(_rnn, "run_on_core", run_on_core)

    def goes_to_the_core(cell, call=None, **options):
        rnn = ours.RNN(cell, **options)
        try:
            rnn(INPUTS, **(call or {}))
        except RuntimeError as error:
            return str(error) == "on the core"
        return False

    lstm = partial(cell_of, ours, "LSTMCell")
    assert all(goes_to_the_core(cell_of(module, name)) for name in CELLS for module in (ours, nnx))
    assert goes_to_the_core(lstm(), CALLS["reverse"])
    assert not goes_to_the_core(Subclass(*SIZES, rngs=nnx.Rngs(0), **F64))
    assert not goes_to_the_core(lstm(), CALLS["lengths"], zero_padding=False)
    changed = lstm()
    changed.hi = nnx.Linear(HIDDEN, HIDDEN, rngs=nnx.Rngs(0), precision="highest", **F64)
    assert not goes_to_the_core(changed)


def test_both_directions_go_together(monkeypatch):
    """To the core in one call, where the core runs both; else each as it would alone."""
    runs = []
    for module in (_rnn, _sequence):
        monkeypatch.setattr(module, "run_on_core", lambda *args: runs.append(len(args)) or run_on_core(*args))

    def ways(*cells):
        runs.clear()
        ours.Bidirectional(*map(ours.RNN, cells))(INPUTS)
        return runs[:1]

    lstm, gru = partial(cell_of, ours, "LSTMCell"), partial(cell_of, ours, "GRUCell")
    assert ways(lstm(), lstm()) == [2]
    assert ways(lstm(), gru()) == [2]
    assert ways(lstm(), Subclass(*SIZES, rngs=nnx.Rngs(0), **F64)) == [1]


MASKED = {
    "all": {"seq_lengths": LENGTHS, "mask": MASK, "reset": RESET},
    "backward": {"seq_lengths": LENGTHS, "mask": MASK, "reset": RESET, "reverse": True},
}


@pytest.mark.parametrize("call", [pytest.param(MASKED["all"], marks=pytest.mark.slow), MASKED["backward"]])
def test_a_cell_that_the_core_does_not_know_gets_the_same(call):
    """Masks, resets and lengths, their gradients too; NaN stands where nothing counts."""
    inputs = jnp.asarray(np.where((VALID & MASK)[..., None], INPUTS, np.nan))
    first = random_like((ZEROS, ZEROS), 1)

    def results(cell):
        graph, params, rest = split(ours.RNN(cell(*SIZES, rngs=nnx.Rngs(0), **F64), return_carry=True))

        def loss(params, inputs, first):
            result = nnx.merge(graph, params, rest)(inputs, initial_carry=first, **call)
            return weighed(result), result

        gradients, result = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(params, inputs, first)
        return nnx.to_pure_dict(gradients[0]), gradients[1:], result

    core, scanned = results(ours.LSTMCell), results(Subclass)
    assert_close(scanned, core)
    assert np.isfinite(core[1][0]).all()


def test_what_is_fixed():
    first = random_like((ZEROS, ZEROS), 1)
    rnn, theirs = (rnn_of(module, "LSTMCell") for module in (ours, nnx))
    (c, h), outputs = run(rnn, INPUTS, initial_carry=first, seq_lengths=LENGTHS)
    assert_same((c[1], h[1]), (first[0][1], first[1][1]))
    assert not outputs[~VALID].any()
    padded = rnn_of(ours, "LSTMCell", zero_padding=False)
    for call in (CALLS["lengths"], CALLS["reverse"]):
        carry, outputs = padded(INPUTS, initial_carry=first, **call)  # scanned as in Flax, which plain jit cannot trace
        their_carry, their_outputs = theirs(INPUTS, initial_carry=first, **call)
        assert_close((last_carry(carry, call), outputs), (last_carry(their_carry, call), their_outputs))
        assert_same(carry[0][1], first[0][1])


def test_zeros_need_no_random_numbers():
    for name in CELLS:
        cell = cell_of(ours, name)
        before = nnx.state(cell)
        assert not any(leaf.any() for leaf in jax.tree.leaves(cell.initialize_carry((BATCH, FEATURES))))
        rnn = ours.RNN(cell, rngs=False)
        assert jax.tree.structure(nnx.state(rnn)["cell"]) == jax.tree.structure(before)
        jax.eval_shape(rnn, jnp.asarray(INPUTS))  # nothing is drawn, so nothing of the module changes in another trace
    keep = ours.RNN(cell_of(ours, "GRUCell"))
    jax.eval_shape(keep, jnp.asarray(INPUTS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from flax 0.12 on, carry_init gives one
        drawn = cell_of(ours, "GRUCell", carry_init=nnx.initializers.normal())
    with pytest.raises(ValueError, match="RNGs must be provided"):
        drawn.initialize_carry((BATCH, FEATURES))


@pytest.mark.parametrize("reverse", [False, True])
def test_a_users_cell_works_as_in_flax(reverse):
    def results(module):
        rnn = module.RNN(
            Dropping(nnx.Rngs(0, dropout=1)),
            reverse=reverse,
            return_carry=True,
            broadcast_rngs="dropout",
            rngs=nnx.Rngs(2),
        )
        twice = rnn(jnp.asarray(INPUTS)), rnn(jnp.asarray(INPUTS))
        return twice, nnx.to_pure_dict(nnx.state(rnn, nnx.RngCount))

    mine, theirs = results(ours), results(nnx)
    assert_close(mine, theirs)
    assert (mine[0][0][1]["h"] != mine[0][1][1]["h"]).any()


def test_bidirectional():
    def network(module, **options):
        return module.Bidirectional(*(module.RNN(cell_of(module, "GRUCell")) for _ in range(2)), **options)

    mine, theirs = (network(module, return_carry=True) for module in (ours, nnx))
    call = CALLS["lengths"]
    (carry, outputs), (their_carry, their_outputs) = run(mine, INPUTS, **call), theirs(INPUTS, **call)
    assert_close(
        (last_carry(carry, call), counting(outputs, call)),
        (last_carry(their_carry, call), counting(their_outputs, call)),
    )
    assert_close(run(network(ours), INPUTS, mask=VALID), outputs)
    reset = np.zeros_like(VALID)
    reset[:, 2] = True
    assert_close(run(mine, INPUTS, reset=reset)[1][:, 2:], run(mine, INPUTS[:, 2:])[1])


def test_b_hn():
    """The GRU with b_hn is linen's GRU, step by step and as a sequence; without, it is nnx's."""
    from flax import linen

    cell = cell_of(ours, "GRUCell", b_hn=True)
    assert sorted(nnx.to_pure_dict(nnx.state(cell))) == ["b_hn", "dense_h", "dense_i"]
    without = nnx.to_pure_dict(nnx.state(cell_of(nnx, "GRUCell")))
    assert_same({name: nnx.to_pure_dict(nnx.state(cell))[name] for name in without}, without)
    graph, state = nnx.split(cell)
    cell = nnx.merge(graph, random_like(state))
    kernels = {"i": jnp.split(cell.dense_i.kernel[...], 3, axis=1), "h": jnp.split(cell.dense_h.kernel[...], 3, axis=1)}
    params = {side + gate: {"kernel": kernels[side][index]} for side in "ih" for index, gate in enumerate("rzn")}
    for index, gate in enumerate("rzn"):
        params[f"i{gate}"]["bias"] = jnp.split(cell.dense_i.bias[...], 3)[index]
    params["hn"]["bias"] = cell.b_hn[...]
    reference = linen.GRUCell(HIDDEN, gate_fn=jax.nn.hard_sigmoid, param_dtype=jnp.float64)
    first, expected = linen.RNN(reference, return_carry=True).apply({"params": {"cell": params}}, INPUTS)
    assert_close(ours.RNN(cell, return_carry=True)(INPUTS), (first, expected))
    carry = cell.initialize_carry((BATCH, FEATURES))
    for time in range(STEPS):
        carry, y = cell(carry, jnp.asarray(INPUTS[:, time]))
        assert_close(y, expected[:, time])


class Deep(nnx.Module):
    """A layer to be repeated by ``nnx.scan``."""

    def __init__(self, rngs):
        self.rnn = ours.RNN(ours.GRUCell(FEATURES, FEATURES, rngs=rngs, **F64), rngs=False)

    def __call__(self, xs):
        return self.rnn(xs)


@pytest.mark.slow
def test_inside_flaxs_transforms():
    inputs = jnp.asarray(INPUTS)
    rnn = ours.RNN(cell_of(ours, "GRUCell"))
    expected = rnn(inputs)
    assert_close(nnx.jit(lambda rnn, inputs: rnn(inputs))(rnn, inputs), expected)
    graph, params, rest = nnx.split(rnn, nnx.Param, ...)
    plain = jax.grad(lambda params: weighed(nnx.merge(graph, params, rest)(inputs)))(params)
    assert_close(nnx.to_pure_dict(nnx.grad(lambda rnn: weighed(rnn(inputs)))(rnn)), nnx.to_pure_dict(plain))
    layers = nnx.split_rngs(splits=2)(nnx.vmap(Deep, in_axes=0, out_axes=0))(nnx.Rngs(0))
    each = nnx.vmap(lambda layer, xs: layer(xs), in_axes=(0, None), out_axes=0)(layers, inputs)
    through = nnx.scan(lambda xs, layer: layer(xs), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(inputs, layers)
    graph, state = nnx.split(layers)
    first, second = (nnx.merge(graph, jax.tree.map(lambda leaf, i=i: leaf[i], state)) for i in range(2))
    assert_close((each[1], through), (second(inputs), second(first(inputs))))


def test_options_that_do_not_fit(without_type_hook):
    with pytest.raises(ValueError, match="zero_padding: expected True where mask or reset is given, got False"):
        rnn_of(ours, "LSTMCell", zero_padding=False)(INPUTS, mask=MASK)
    with pytest.raises(ValueError, match="remat: expected None where the cell is scanned as in Flax"):
        ours.RNN(Dropping(nnx.Rngs(0)), remat=True)(INPUTS)
    with pytest.raises(TypeError, match="remat: expected None, True"):
        rnn_of(ours, "LSTMCell", remat=0.5)
    with pytest.raises(ValueError, match=r"inputs: expected 3 features on the last axis, as the params, got 2"):
        rnn_of(ours, "LSTMCell")(INPUTS[..., :2])
    with pytest.raises(TypeError, match="b_hn: expected True or False"):
        cell_of(ours, "GRUCell", b_hn=1)
