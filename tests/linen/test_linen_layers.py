"""linen's `LSTM`, `GRU` and `SimpleRNN`: the core's networks, and what a module adds to them."""

import copy
import pickle
from functools import partial

import cloudpickle
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax_cases import (
    BATCH,
    FEATURES,
    HIDDEN,
    INPUTS,
    LENGTHS,
    MASK,
    RESET,
    STEPS,
    VALID,
    assert_close,
    assert_same,
    random_like,
    run,
)

import jaxlstm as jl
from jaxlstm.linen import GRU, LSTM, SimpleRNN, last_output

F64 = {"param_dtype": jnp.float64}
KEY = jax.random.key(0)
DROPPED = jl.RecurrentDropout(jl.LSTMCell(HIDDEN), 0.5)
LAYERS = {
    "lstm": (LSTM(HIDDEN, forget_bias=2.0, **F64), jl.Stack(jl.LSTMCell(HIDDEN, forget_bias=2.0))),
    "gru": (
        GRU(HIDDEN, num_layers=2, reset_after=False, **F64),
        jl.Stack(*[jl.GRUCell(HIDDEN, reset_after=False)] * 2),
    ),
    "rnn": (
        SimpleRNN(HIDDEN, bidirectional=True, activation_fn=jnp.sin, **F64),
        jl.Stack(jl.Bidirectional(jl.RNNCell(HIDDEN, activation_fn=jnp.sin))),
    ),
    "projection": (
        LSTM(HIDDEN, num_layers=2, bidirectional=True, projection=1, remat=True, **F64),
        jl.Stack(*[jl.Bidirectional(jl.LSTMVariantCell(HIDDEN, projection_size=1))] * 2),
    ),
    "dropout": (
        LSTM(HIDDEN, num_layers=2, dropout=0.5, recurrent_dropout=0.5, deterministic=True, **F64),
        jl.Stack(DROPPED, DROPPED),
    ),
}
CALL = {"seq_lengths": LENGTHS, "mask": MASK, "reset": RESET}


@pytest.mark.parametrize("name", LAYERS)
def test_they_are_networks_of_the_core(name):
    module, network = LAYERS[name]
    params = jax.eval_shape(module.init, KEY, INPUTS)["params"]
    assert sorted(params) == [f"layer_{index}" for index in range(module.num_layers)]
    drawn = random_like(jax.eval_shape(lambda: network.init(KEY, FEATURES, dtype=jnp.float64)))
    renamed = {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(drawn)}
    params = jax.tree_util.tree_map_with_path(lambda path, leaf: renamed[name_of(path)], params)
    carry, ys = run(module.apply, {"params": params}, INPUTS, **CALL)
    after, expected = run(network.apply, drawn, INPUTS.swapaxes(0, 1), lengths=LENGTHS, mask=MASK.T, reset=RESET.T)
    assert_close((carry, ys), (after, jnp.swapaxes(expected, 0, 1)))
    assert not ys[~(VALID & MASK)].any()


def name_of(path):
    """layer, direction and field of a leaf, from a path in the core's params or in a module's."""
    directions = {0: "forward", 1: "backward"}
    words = [getattr(entry, "name", getattr(entry, "key", getattr(entry, "idx", None))) for entry in path]
    words[0] = int(str(words[0]).removeprefix("layer_"))
    return tuple(directions.get(word, word) if index else word for index, word in enumerate(words))


def test_any_split_with_the_carry_handed_on():
    module, _ = LAYERS["gru"]
    (carry, ys), variables = run(module.init_with_output, KEY, INPUTS)
    middle, first = run(module.apply, variables, INPUTS[:, :2])
    end, second = run(module.apply, variables, INPUTS[:, 2:], initial_carry=middle)
    assert_close((end, jnp.concatenate([first, second], axis=1)), (carry, ys))


def test_the_last_output_of_a_ragged_batch(without_type_hook):
    module = GRU(HIDDEN, num_layers=2, bidirectional=True, **F64)
    (carry, ys), variables = run(module.init_with_output, KEY, INPUTS, seq_lengths=LENGTHS)
    assert last_output(carry).shape == (BATCH, 2 * HIDDEN)
    for index, length in enumerate(LENGTHS):
        both = [ys[index, length - 1, :HIDDEN], ys[index, 0, HIDDEN:]]
        assert_close(last_output(carry)[index], jnp.concatenate(both) if length else jnp.zeros(2 * HIDDEN))
    _, alone = run(module.apply, variables, INPUTS[2, : LENGTHS[2]])
    assert_close(ys[2, : LENGTHS[2]], alone)
    for wrong in (None, (), (jnp.zeros(2), jnp.zeros(2))):
        with pytest.raises(TypeError, match="carry: expected the carry of a network whose cells have an h"):
            last_output(wrong)


def test_a_carry_that_is_learned():
    module = LSTM(HIDDEN, bidirectional=True, initial_carry="learned", **F64)
    params = run(module.init, KEY, INPUTS)["params"]
    start = params["layer_0"]["backward"]["initial_carry"]
    assert_same(start, {"h": jnp.zeros(HIDDEN), "c": jnp.zeros(HIDDEN)})
    params["layer_0"]["backward"]["initial_carry"] = {"h": jnp.ones(HIDDEN), "c": jnp.full(HIDDEN, 2.0)}
    ((_, backward),), _ = run(module.apply, {"params": params}, INPUTS, seq_lengths=LENGTHS)
    assert_same((backward.h[1], backward.c[1]), (jnp.ones(HIDDEN), jnp.full(HIDDEN, 2.0)))
    gradient = run(jax.grad(lambda params: jnp.sum(module.apply({"params": params}, INPUTS)[1])), params)
    assert all(leaf.any() for leaf in jax.tree.leaves(gradient))
    _, ys = run(module.apply, {"params": params}, INPUTS, reset=np.ones_like(VALID))  # which starts from it, too
    _, alone = run(module.apply, {"params": params}, INPUTS[:, 3:4])
    assert_close(ys[:, 3:4], alone)


def test_dropout_needs_a_key_and_is_off_where_deterministic():
    module = LSTM(HIDDEN, num_layers=2, dropout=0.5, recurrent_dropout=0.25, **F64)
    variables = random_like(jax.eval_shape(partial(module.init, deterministic=True), KEY, INPUTS))
    _, calm = run(module.apply, variables, INPUTS, deterministic=True)
    drop = jax.jit(lambda key: module.apply(variables, INPUTS, deterministic=False, rngs={"dropout": key})[1])
    one, same, other = (drop(jax.random.key(seed)) for seed in (0, 0, 1))
    assert_same(one, same)
    assert (one != other).any()
    assert (one != calm).any()
    with pytest.raises(ValueError, match="deterministic"):
        module.apply(variables, INPUTS)
    with pytest.raises(nn.module.errors.InvalidRngError):
        module.apply(variables, INPUTS, deterministic=False)
    one_layer = {"params": {"layer_0": variables["params"]["layer_0"]}}
    run(LSTM(HIDDEN, dropout=0.5, **F64).apply, one_layer, INPUTS)  # there is nothing between layers


def test_mixed_precision(without_x64):
    module = LSTM(HIDDEN, num_layers=2, dtype=jnp.bfloat16)
    inputs = jnp.asarray(INPUTS, jnp.float32)
    (carry, ys), variables = run(module.init_with_output, KEY, inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert (ys.dtype, carry[0].h.dtype, carry[1].c.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    _, exact = run(LSTM(HIDDEN, num_layers=2).apply, variables, inputs)
    assert exact.dtype == jnp.float32
    np.testing.assert_allclose(ys.astype(jnp.float32), exact, atol=0.02)


@pytest.mark.parametrize(
    "through",
    [
        lambda value: pickle.loads(pickle.dumps(value)),
        lambda value: cloudpickle.loads(cloudpickle.dumps(value)),
        copy.copy,
        copy.deepcopy,
    ],
    ids=["pickle", "cloudpickle", "copy", "deepcopy"],
)
def test_round_trips_are_equal(through):
    for module in (*(module for module, _ in LAYERS.values()), SimpleRNN(HIDDEN), SimpleRNN(2, activation_fn=nn.relu)):
        result = through(module)
        assert (type(result), result, repr(result)) == (type(module), module, repr(module))
    variables = random_like(jax.eval_shape(LAYERS["rnn"][0].init, KEY, INPUTS))
    assert_same(*(run(module.apply, variables, INPUTS) for module in (through(LAYERS["rnn"][0]), LAYERS["rnn"][0])))


class Block(nn.Module):
    """A layer to be repeated by ``nn.scan``."""

    @nn.compact
    def __call__(self, x, _):
        return GRU(FEATURES, **F64)(x)[1], None


def test_inside_flaxs_transforms():
    model = nn.Sequential([LSTM(HIDDEN, **F64), lambda carry, ys: ys, nn.Dense(1, param_dtype=jnp.float64)])
    outputs, variables = run(model.init_with_output, KEY, INPUTS)
    assert outputs.shape == (BATCH, STEPS, 1)
    assert "layer_0" in model.tabulate(KEY, INPUTS)
    assert variables["params"].keys() == {"layers_0", "layers_2"}
    deep = nn.scan(nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=2)()
    (outputs, _), stacked = jax.jit(deep.init_with_output)(KEY, jnp.asarray(INPUTS), None)
    expected = jnp.asarray(INPUTS)
    for index in range(2):
        params = jax.tree.map(lambda leaf, index=index: leaf[index], stacked["params"]["GRU_0"])
        _, expected = run(GRU(FEATURES, **F64).apply, {"params": params}, expected)
    assert_close(outputs, expected)


def test_partitioning():
    options = {"bidirectional": True, "initial_carry": "learned", **F64}
    axes = {"w_ih": (None, "model"), "w_hh": ("data", "model"), "h": ("model",)}
    plain = LSTM(HIDDEN, **options)
    variables = run(LSTM(HIDDEN, partitioning=axes, **options).init, KEY, INPUTS)
    specs = {name: jax.sharding.PartitionSpec(*names) for name, names in axes.items()}
    none = jax.sharding.PartitionSpec()
    direction = {
        "cell": {"w_ih": specs["w_ih"], "w_hh": specs["w_hh"], "b": none},
        "initial_carry": {"h": specs["h"], "c": none},
    }
    layer = {"forward": direction, "backward": direction}
    assert nn.get_partition_spec(variables) == {"params": {"layer_0": layer}}
    assert_same(nn.meta.unbox(variables), run(plain.init, KEY, INPUTS))
    jitted = nn.jit(LSTM)(HIDDEN, partitioning=axes, **options)
    assert_close(run(jitted.apply, variables, INPUTS), run(plain.apply, nn.meta.unbox(variables), INPUTS))
    stacked = nn.vmap(
        GRU,
        in_axes=None,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        axis_size=2,
        metadata_params={nn.PARTITION_NAME: "ensemble"},
    )(HIDDEN, partitioning={"b_hn": ("model",)})
    spec = nn.get_partition_spec(jax.eval_shape(stacked.init, KEY, jnp.asarray(INPUTS)))
    assert spec["params"]["layer_0"]["b_hn"] == jax.sharding.PartitionSpec("ensemble", "model")


BAD_OPTIONS = {
    "features: expected a positive int, got 0": lambda: LSTM(0),
    "num_layers: expected a positive int, got 0": lambda: LSTM(2, num_layers=0),
    "bidirectional: expected True or False": lambda: GRU(2, bidirectional=1),
    "dropout: expected a rate in [0, 1), got 1": lambda: SimpleRNN(2, dropout=1.0),
    "recurrent_dropout: expected a rate in [0, 1), got 2": lambda: SimpleRNN(2, recurrent_dropout=2.0),
    "projection: expected a positive int, got -1": lambda: LSTM(2, projection=-1),
    "initial_carry: expected 'zeros' or 'learned', got 'ones'": lambda: LSTM(2, initial_carry="ones"),
    "dtype: expected a floating-point dtype": lambda: LSTM(2, dtype=int),
    "param_dtype: expected a floating-point dtype": lambda: LSTM(2, param_dtype=jnp.int32),
    "partitioning: expected a dict {param: mesh axes}, got ('model',)": lambda: GRU(2, partitioning=("model",)),
    "partitioning: expected names among b, w_hh, w_ih, got 'w_hr' (str)": lambda: LSTM(
        2, partitioning={"w_hr": ("x", "y")}
    ),
    "partitioning['b']: expected a tuple of names and None, got 'model'": lambda: LSTM(2, partitioning={"b": "model"}),
    "partitioning['w_hh']: expected 2 mesh axes, None for an undivided axis, got ('model',)": lambda: SimpleRNN(
        2, partitioning={"w_hh": ("model",)}
    ),
    "remat: expected None, True, False, 'sqrt' or a chunk length": lambda: LSTM(2, remat="all"),
}


@pytest.mark.parametrize("message", BAD_OPTIONS)
def test_bad_options(message, without_type_hook):
    with pytest.raises((ValueError, TypeError)) as error:
        BAD_OPTIONS[message]()
    assert str(error.value).startswith(message)


def test_bad_calls():
    module, _ = LAYERS["lstm"]
    variables = random_like(jax.eval_shape(module.init, KEY, INPUTS))
    bad = {
        "inputs: expected 3 features on the last axis, as the params, got 2": {"inputs": INPUTS[..., :2]},
        "inputs: expected an array [*batch, T, I]": {"inputs": INPUTS[0, 0]},
        "seq_lengths: expected shape (4,), got (5,)": {"seq_lengths": np.ones(5, int)},
        "mask: expected shape (4, 5), got (5, 4)": {"mask": VALID.T},
        "initial_carry: expected tuple, got list": {"initial_carry": [1]},
        "initial_carry[0].h: expected shape (4, 2)": {
            "initial_carry": (jl.LSTMCarry(h=jnp.zeros((3, 2)), c=jnp.zeros((3, 2))),)
        },
    }
    for message, call in bad.items():
        with pytest.raises((ValueError, TypeError)) as error:
            module.apply(variables, **{"inputs": INPUTS, **call})
        assert str(error.value).startswith(message)
