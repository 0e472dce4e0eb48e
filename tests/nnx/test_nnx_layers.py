"""nnx's `LSTM`, `GRU` and `SimpleRNN`: linen's, with the same params, and what nnx adds."""

import copy
import pickle

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax_cases import (
    BATCH,
    FEATURES,
    HIDDEN,
    INPUTS,
    LENGTHS,
    MASK,
    RESET,
    STEPS,
    assert_close,
    assert_same,
    random_like,
    run,
    weighed,
)

from jaxlstm import linen
from jaxlstm.nnx import GRU, LSTM, SimpleRNN, last_output

F64 = {"param_dtype": jnp.float64}
OPTIONS = {
    "LSTM": {"num_layers": 2, "bidirectional": True, "initial_carry": "learned", "projection": 1},
    "GRU": {"num_layers": 2, "reset_after": False},
    "SimpleRNN": {"activation_fn": jnp.sin, "remat": "sqrt"},
}
CALL = {"seq_lengths": LENGTHS, "mask": MASK, "reset": RESET}


def drawn(kind, **options):
    """A module with random params; to make them as it does would take seconds."""
    model = nnx.eval_shape(lambda: kind(FEATURES, HIDDEN, **options, **F64, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(model)
    return nnx.merge(graph, random_like(state))


@pytest.mark.parametrize(("kind", "name"), [(LSTM, "LSTM"), (GRU, "GRU"), (SimpleRNN, "SimpleRNN")])
def test_they_are_linens(kind, name):
    model = drawn(kind, **OPTIONS[name])
    params = nnx.to_pure_dict(nnx.state(model))
    twin = getattr(linen, name)(HIDDEN, **OPTIONS[name], **F64)
    assert jax.tree.structure(jax.eval_shape(twin.init, jax.random.key(0), INPUTS)["params"]) == jax.tree.structure(
        params
    )
    carry, ys = run(model, INPUTS, **CALL)
    after, expected = run(twin.apply, {"params": params}, INPUTS, **CALL)
    assert_close((carry, ys), (after, expected))
    assert_close(last_output(carry), linen.last_output(after))


def test_without_dropout_all_state_is_params():
    model = drawn(LSTM)
    graph, state = nnx.split(model)
    carry, ys = jax.jit(model)(INPUTS)
    middle, first = run(model, INPUTS[:, :2])
    end, second = run(model, INPUTS[:, 2:], initial_carry=middle)
    assert_close((end, jnp.concatenate([first, second], axis=1)), (carry, ys))
    plain = run(jax.grad(lambda state: weighed(nnx.merge(graph, state)(INPUTS))), state)
    lifted = nnx.grad(lambda model: weighed(model(INPUTS)))(model)
    assert_close(nnx.to_pure_dict(plain), nnx.to_pure_dict(lifted))
    assert_close(nnx.jit(lambda model, xs: model(xs))(model, jnp.asarray(INPUTS)), (carry, ys))


def test_dropout_draws_until_the_model_is_evaluated():
    model = LSTM(FEATURES, HIDDEN, num_layers=2, dropout=0.5, recurrent_dropout=0.25, **F64, rngs=nnx.Rngs(0))
    _, one = model(INPUTS)
    _, other = model(INPUTS)
    assert (one != other).any()
    _, same = model(INPUTS, rngs=nnx.Rngs(dropout=1))
    assert_same(model(INPUTS, rngs=nnx.Rngs(dropout=1))[1], same)
    _, calm = model(INPUTS, deterministic=True)
    model.eval()
    assert_same(model(INPUTS)[1], calm)
    assert (calm != same).any()
    model.train()
    assert (model(INPUTS)[1] != calm).any()


@pytest.mark.parametrize(
    "through",
    [
        lambda value: pickle.loads(pickle.dumps(value)),
        lambda value: cloudpickle.loads(cloudpickle.dumps(value)),
        copy.deepcopy,
    ],
    ids=["pickle", "cloudpickle", "deepcopy"],
)
def test_round_trips_are_equal(through):
    for kind in (LSTM, GRU, SimpleRNN):
        model = drawn(kind)
        (graph, state), (same_graph, same_state) = nnx.split(model), nnx.split(through(model))
        assert same_graph == graph
        assert_same(same_state, state)
    assert_same(run(through(model), INPUTS), run(model, INPUTS))


class Block(nnx.Module):
    """A layer to be repeated by ``nnx.scan``."""

    def __init__(self, rngs):
        self.gru = GRU(FEATURES, FEATURES, **F64, rngs=rngs)

    def __call__(self, xs):
        return self.gru(xs)[1]


@pytest.mark.slow
def test_inside_flaxs_transforms():
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(
        LSTM(FEATURES, HIDDEN, **F64, rngs=rngs), lambda carry, ys: ys, nnx.Linear(HIDDEN, 1, rngs=rngs, **F64)
    )
    assert model(jnp.asarray(INPUTS)).shape == (BATCH, STEPS, 1)
    layers = nnx.split_rngs(splits=2)(nnx.vmap(Block, in_axes=0, out_axes=0))(nnx.Rngs(0))
    through = nnx.scan(lambda xs, layer: layer(xs), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    graph, state = nnx.split(layers)
    first, second = (nnx.merge(graph, jax.tree.map(lambda leaf, i=i: leaf[i], state)) for i in range(2))
    assert_close(through(jnp.asarray(INPUTS), layers), second(first(INPUTS)))


def test_mixed_precision(without_x64):
    def state_and_outputs(inputs):
        model = GRU(FEATURES, HIDDEN, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
        return nnx.to_pure_dict(nnx.state(model)), model(inputs)

    params, (carry, ys) = jax.eval_shape(state_and_outputs, jnp.asarray(INPUTS, jnp.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    assert (ys.dtype, carry[0].h.dtype) == (jnp.bfloat16, jnp.bfloat16)


def test_partitioning(without_type_hook):
    """Params are made under a mesh, which flax 0.12 asks for; this one has a single device."""
    with jax.set_mesh(jax.make_mesh((1,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))):
        model = LSTM(FEATURES, HIDDEN, partitioning={"w_hh": (None, "model")}, **F64, rngs=nnx.Rngs(0))
    params = nnx.state(model)["layer_0"]
    specs = nnx.to_pure_dict(nnx.get_partition_spec(params))
    assert specs["w_hh"] == jax.sharding.PartitionSpec(None, "model")
    assert specs["w_ih"] == jax.sharding.PartitionSpec()
    plain = LSTM(FEATURES, HIDDEN, **F64, rngs=nnx.Rngs(0))
    assert_same(nnx.to_pure_dict(params), nnx.to_pure_dict(nnx.state(plain)["layer_0"]))
    assert_same(run(model, INPUTS), run(plain, INPUTS))
    with pytest.raises(ValueError, match=r"partitioning: expected names among b, b_hn, w_hh, w_ih, got 'kernel'"):
        GRU(2, 2, partitioning={"kernel": (None,)}, rngs=nnx.Rngs(0))


def test_bad_input(without_type_hook):
    rngs = nnx.Rngs(0)
    bad = {
        "in_features: expected a positive int, got 0": lambda: LSTM(0, 2, rngs=rngs),
        "features: expected a positive int": lambda: GRU(2, 2.0, rngs=rngs),
        "initial_carry: expected 'zeros' or 'learned'": lambda: SimpleRNN(2, 2, initial_carry=None, rngs=rngs),
        "inputs: expected 2 features on the last axis, as the params, got 3": lambda: GRU(2, 2, **F64, rngs=rngs)(
            INPUTS
        ),
        "reset: expected shape (4, 5), got (4,)": lambda: GRU(3, 2, **F64, rngs=rngs)(INPUTS, reset=np.ones(4, bool)),
    }
    for message, call in bad.items():
        with pytest.raises((ValueError, TypeError)) as error:
            call()
        assert str(error.value).startswith(message)
