"""`Recurrent` of linen and nnx: any network as a module, called, stepped, and converted both ways."""

import copy
import inspect
import pickle
import re
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from flax import nnx
from flax_cases import BATCH, FEATURES, HIDDEN, INPUTS, LENGTHS, MASK, RESET, STEPS, assert_close, random_like, run

import jaxlstm as jl
import jaxlstm.linen
import jaxlstm.nnx
from jaxlstm import interop

F64 = {"param_dtype": jnp.float64}
KEY = jax.random.key(0)
TIME_FIRST = INPUTS.swapaxes(0, 1)


class LeakyParams(NamedTuple):
    w: dict
    leak: jax.Array


@dataclass(frozen=True)
class LeakyCell(jl.Cell):
    """A user's cell, whose params are a tree with a dict in it: h_t = leak h_{t-1} + (1 - leak) tanh(x W + h U)."""

    hidden_size: int

    def init(self, key, input_size, *, dtype=jnp.float32):
        into, back = jax.random.split(key)
        w = {"in": jax.random.normal(into, (input_size, self.hidden_size), dtype)}
        w["back"] = jax.random.normal(back, (self.hidden_size, self.hidden_size), dtype)
        return LeakyParams(w, jnp.full(self.hidden_size, 0.5, dtype))

    def project(self, params, x):
        return x @ params.w["in"]

    def recur(self, params, carry):
        return carry.h @ params.w["back"]

    def transition(self, params, z, carry):
        leak = params.leak[(None,) * (z.ndim - 1)]
        return jl.RNNCarry(leak * carry.h + (1 - leak) * jnp.tanh(z))


@dataclass(frozen=True)
class OneArrayCell(jl.Cell):
    """A cell whose params are one array, and whose output is a tree."""

    hidden_size: int

    def init(self, key, input_size, *, dtype=jnp.float32):
        return jax.random.normal(key, (input_size + self.hidden_size, self.hidden_size), dtype)

    def init_carry(self, params, batch_shape=(), *, dtype=None):
        return jl.RNNCarry(jnp.zeros((*batch_shape, self.hidden_size), dtype or params.dtype))

    def project(self, params, x):
        return x @ params[: -self.hidden_size]

    def recur(self, params, carry):
        return carry.h @ params[-self.hidden_size :]

    def transition(self, params, z, carry):
        return jl.RNNCarry(jnp.tanh(z))

    def readout(self, params, carry):
        return {"h": carry.h, "norm": jnp.sum(carry.h**2, -1)}


FORWARD = {
    "cell": jl.LSTMCell(HIDDEN),
    "a user's cell": LeakyCell(HIDDEN),
    "wrapped": jl.LearnedCarry(jl.Zoneout(jl.LSTMCell(HIDDEN), h=0.1, c=0.2)),
    "one array": OneArrayCell(HIDDEN),
    "stack": jl.Stack(jl.GRUCell(HIDDEN), LeakyCell(4), jl.LSTMVariantCell(3, projection_size=2), dropout=0.3),
}
NETWORKS = FORWARD | {
    "backward": jl.Layer(jl.RNNCell(HIDDEN), reverse=True),
    "both": jl.Bidirectional(jl.GRUCell(HIDDEN), LeakyCell(HIDDEN), merge="sum"),
    "modern": jl.Stack(jl.MinGRUCell(2), jl.IndRNNCell(3), jl.SLSTMCell(4, num_heads=2), jl.MLSTMCell(4, num_heads=2)),
    "lru": jl.LRUCell(2, state_size=3),
    "nested": jl.Stack(jl.Stack(jl.GRUCell(2), jl.Bidirectional(jl.MGUCell(2))), jl.RNNCell(3)),
}


def drawn(network):
    return random_like(jax.eval_shape(lambda: network.init(KEY, FEATURES, dtype=jnp.float64)))


SLOW = ("stack", "nested", "backward", "modern", "lru")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in NETWORKS])
def test_any_network_is_a_module(name):
    network = NETWORKS[name]
    core = network if isinstance(network, jl.Network) else jl.Layer(network)
    params = drawn(core)
    call = {"seq_lengths": LENGTHS, "mask": MASK, "reset": RESET}
    after, expected = run(core.apply, params, TIME_FIRST, lengths=LENGTHS, mask=MASK.T, reset=RESET.T)
    expected = after, jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), expected)
    module, variables = jaxlstm.linen.from_network(network, params, deterministic=True)
    assert_close(run(module.apply, variables, INPUTS, **call), expected)
    made = jax.eval_shape(module.init, KEY, INPUTS)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, variables)
    back, given = jaxlstm.linen.to_network(module, variables)
    assert back == core
    assert_close(given, params)
    model = jaxlstm.nnx.from_network(network, params, deterministic=True, rngs=nnx.Rngs(0))
    assert_close(run(model, INPUTS, **call), expected)
    assert_close(nnx.to_pure_dict(nnx.state(model, nnx.Param)), variables["params"])
    back, given = jaxlstm.nnx.to_network(model)
    assert back == core
    assert_close(given, params)


def step_by_step(step, carry):
    """What an actor sees, one step after another: the last carry and the outputs, batch first."""
    outputs = []
    for time in range(STEPS):
        carry, y = step(carry, INPUTS[:, time], mask=MASK[:, time], reset=RESET[:, time])
        outputs.append(y)
    return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *outputs)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in FORWARD])
def test_steps_are_the_whole_sequence(name):
    params = drawn(FORWARD[name] if isinstance(FORWARD[name], jl.Network) else jl.Layer(FORWARD[name]))
    module, variables = jaxlstm.linen.from_network(FORWARD[name], params, deterministic=True)
    model = jaxlstm.nnx.from_network(FORWARD[name], params, deterministic=True, rngs=nnx.Rngs(0))
    expected = run(model, INPUTS, mask=MASK, reset=RESET)
    first = jax.jit(lambda model: model.init_carry((BATCH,)))(model)
    assert_close(run(partial(step_by_step, model.step), first), expected)
    step = partial(module.apply, variables, method="step")
    assert_close(run(partial(step_by_step, step), None), expected)
    assert_close(run(module.apply, variables, batch_shape=(BATCH,), method="init_carry"), first)
    if name != "wrapped":  # whose first carry is a param
        assert_close(module.init_carry((BATCH,)), first)


@pytest.mark.slow
def test_inputs_with_spatial_axes():
    """Masks and resets have the axes of batch and time alone."""
    cell = jl.ConvLSTMCell(2, spatial_shape=(3, 2))
    params = drawn(jl.Layer(cell))
    inputs = np.random.default_rng(0).normal(size=(BATCH, STEPS, 3, 2, FEATURES))
    call = {"mask": MASK, "reset": RESET}
    options = {"lengths": LENGTHS, "mask": MASK.T, "reset": RESET.T}
    after, ys = run(partial(jl.unroll, cell), params, inputs.swapaxes(0, 1), **options)
    module, variables = jaxlstm.linen.from_network(cell, params)
    model = jaxlstm.nnx.from_network(cell, params)
    assert jax.tree.map(jnp.shape, jax.eval_shape(module.init, KEY, inputs)) == jax.tree.map(jnp.shape, variables)
    for apply in (partial(module.apply, variables), model):
        assert_close(run(apply, inputs, seq_lengths=LENGTHS, **call), (after, ys.swapaxes(0, 1)))
    expected = run(model, inputs, **call)
    carry = model.init_carry((BATCH,))
    for time in range(STEPS):
        carry, y = model.step(carry, inputs[:, time], mask=MASK[:, time], reset=RESET[:, time])
        assert_close(y, expected[1][:, time])
    for apply in (partial(module.apply, variables), model):
        with pytest.raises(ValueError, match=r"inputs: expected an array \[\*batch, T, 3, 2, I\], got float64"):
            apply(inputs[..., 0])


def test_first_and_later_steps_share_one_trace(without_x64):
    """Also in bfloat16, whose c is float32, and of a whole sequence."""
    inputs = jnp.asarray(INPUTS[:, 0], jnp.float32)
    for dtype in (None, jnp.bfloat16):
        model = jaxlstm.nnx.Recurrent(jl.Stack(jl.LSTMCell(2), jl.GRUCell(2)), 3, dtype=dtype, rngs=nnx.Rngs(0))
        step, call = (
            nnx.jit(lambda model, carry, x: model.step(carry, x)),
            nnx.jit(lambda model, carry, x: model(x, initial_carry=carry)),
        )
        carry = model.init_carry((BATCH,))
        for jitted, x in ((step, inputs), (call, inputs[:, None])):
            after, _ = jitted(model, carry, x)
            with compilations() as compiled:
                jitted(model, after, x)
            assert not compiled
        module = jaxlstm.linen.LSTM(2, dtype=dtype)
        variables = module.init(KEY, inputs[:, None])
        traced = []

        @jax.jit
        def act(carry, x, module=module, variables=variables, traced=traced):
            traced.append(1)
            return module.apply(variables, carry, x, method="step")

        carry = module.init_carry((BATCH,))
        for _ in range(3):
            carry, _ = act(carry, inputs)
        assert len(traced) == 1


class Policy(nn.Module):
    """An actor of linen for ``nn.scan``."""

    @nn.compact
    def __call__(self, carry, now):
        x, reset = now
        return jaxlstm.linen.GRU(HIDDEN, num_layers=2, **F64, name="core").step(carry, x, reset=reset)


def test_steps_inside_flaxs_transforms():
    core = jaxlstm.linen.GRU(HIDDEN, num_layers=2, **F64)
    rollout = nn.scan(Policy, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1)()
    first, now = core.init_carry((BATCH,)), (jnp.asarray(INPUTS), jnp.asarray(RESET))
    variables = random_like(jax.eval_shape(rollout.init, KEY, first, now))
    learner = run(core.apply, {"params": variables["params"]["core"]}, INPUTS, reset=RESET, initial_carry=first)
    assert_close(run(rollout.apply, variables, first, now), learner)

    network, params = jaxlstm.linen.to_network(core, {"params": variables["params"]["core"]})
    model = jaxlstm.nnx.from_network(network, params)

    @nnx.scan(in_axes=(None, nnx.Carry, 1), out_axes=(nnx.Carry, 1))
    def scanned(model, carry, now):
        return model.step(carry, now[0], reset=now[1])

    assert_close(nnx.jit(scanned)(model, model.init_carry((BATCH,)), now), learner)
    each = nnx.vmap(lambda model, carry, x: model.step(carry, x), in_axes=(None, 0, 0))
    assert_close(each(model, first, now[0][:, 0])[1], model.step(first, now[0][:, 0])[1])


def test_draws_of_steps_are_those_of_the_whole_sequence():
    """With one key and the time of each step: also dropout of the recurrence, one mask a sequence."""
    model = jaxlstm.nnx.GRU(FEATURES, HIDDEN, 2, dropout=0.5, recurrent_dropout=0.5, **F64, rngs=nnx.Rngs(0))
    _, expected = model(INPUTS, rngs=nnx.Rngs(dropout=1))
    carry = model.init_carry((BATCH,))
    for time in range(STEPS):
        carry, y = model.step(carry, INPUTS[:, time], rngs=nnx.Rngs(dropout=1), start=time)
        assert_close(y, expected[:, time])
    assert (model(INPUTS, deterministic=True)[1] != expected).any()


def flax_modules():
    """Every recurrent module of linen and nnx that the core runs, with its outputs for the inputs."""
    for name in ("LSTM", "GRU", "SimpleRNN"):
        yield name, {"num_layers": 2, "bidirectional": name != "SimpleRNN"}
    for name in ("LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell", "MGUCell"):
        yield name, {}
    yield "RNN", {"reverse": True, "keep_order": True}
    yield "Bidirectional", {}


def in_linen(name, options):
    flax = jaxlstm.linen
    if name in ("LSTM", "GRU", "SimpleRNN"):
        return getattr(flax, name)(HIDDEN, **options, **F64)
    if name == "RNN":
        return flax.RNN(flax.GRUCell(HIDDEN, **F64), **options)
    if name == "Bidirectional":
        return flax.Bidirectional(flax.RNN(flax.LSTMCell(HIDDEN, **F64)), flax.RNN(flax.SimpleCell(3, **F64)))
    return flax.RNN(getattr(flax, name)(HIDDEN, **F64))


def in_nnx(name, options):
    flax, more = jaxlstm.nnx, {"rngs": nnx.Rngs(0)} | F64
    wide = {"dtype": jnp.float64}  # of nnx's SimpleCell, which computes in float32 unless told
    if name in ("LSTM", "GRU", "SimpleRNN"):
        return getattr(flax, name)(FEATURES, HIDDEN, **options, **more)
    if name == "RNN":
        return flax.RNN(flax.GRUCell(FEATURES, HIDDEN, b_hn=True, **more), **options)
    if name == "Bidirectional":
        both = (flax.LSTMCell(FEATURES, HIDDEN, **more), flax.SimpleCell(FEATURES, 3, **more, **wide))
        return flax.Bidirectional(*map(flax.RNN, both))
    return flax.RNN(getattr(flax, name)(FEATURES, HIDDEN, **more, **wide))


CELLS = [pytest.param(name, marks=[pytest.mark.slow] * name.endswith("Cell")) for name in dict(flax_modules())]


@pytest.mark.parametrize("name", CELLS)
def test_from_a_module_to_a_file_and_back(name, tmp_path):
    options = dict(flax_modules())[name]

    def outputs(result):
        return result[1] if isinstance(result, tuple) else result

    def through_a_file(network, params):
        interop.save(tmp_path / "network.safetensors", network, params)
        return interop.load(tmp_path / "network.safetensors")

    module = in_linen(name, options)
    variables = random_like(jax.eval_shape(module.init, KEY, INPUTS))
    expected = outputs(run(module.apply, variables, INPUTS))
    network, params = through_a_file(*jaxlstm.linen.to_network(module, variables))
    _, ys = run(network.apply, params, TIME_FIRST)
    assert_close(ys.swapaxes(0, 1), expected)
    again, its = jaxlstm.linen.from_network(network, params)
    assert_close(run(again.apply, its, INPUTS)[1], expected)
    if not hasattr(jaxlstm.nnx, name):
        return
    model = in_nnx(name, options)
    nnx.update(model, random_like(nnx.state(model, nnx.Param)))
    expected = outputs(run(model, INPUTS))
    network, params = through_a_file(*jaxlstm.nnx.to_network(model))
    assert_close(run(jaxlstm.nnx.from_network(network, params), INPUTS)[1], expected)


def test_from_a_module_to_torch_to_onnx_and_to_a_program(tmp_path, without_x64, without_type_hook):
    model = jaxlstm.nnx.LSTM(FEATURES, HIDDEN, 2, bidirectional=True, rngs=nnx.Rngs(0))
    network, params = jaxlstm.nnx.to_network(model)
    inputs = jnp.asarray(INPUTS, jnp.float32)
    _, expected = model(inputs)
    onnx_layers = interop.from_onnx(interop.to_onnx(network, params)).values()
    from_onnx = jl.Stack(*(layer.network for layer in onnx_layers)), tuple(layer.params for layer in onnx_layers)
    for read, its in (interop.from_torch(interop.to_torch(network, params)), from_onnx):
        assert_close(jaxlstm.nnx.from_network(read, its)(inputs)[1], expected, 1e-6)
    interop.export(tmp_path / "network.bin", network, params)
    program = jax.export.deserialize((tmp_path / "network.bin").read_bytes())
    _, ys = program.call(inputs.swapaxes(0, 1))
    assert_close(ys.swapaxes(0, 1), expected, 1e-6)


def test_modules_are_static_arguments_and_copy():
    axes = {"w_hh": (None, "model")}
    for module in (jaxlstm.linen.LSTM(4, partitioning=axes), jaxlstm.linen.Recurrent(jl.GRUCell(4), partitioning=axes)):
        twins = (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), module.clone())
        assert all(hash(twin) == hash(module) and twin == module for twin in twins)
        jax.jit(lambda module, x: module.init_with_output(KEY, x)[0], static_argnums=0)(module, jnp.ones((2, 3, 3)))
    for kind in ("Recurrent", "RNN"):
        rngs = nnx.Rngs(0)
        model = {
            "Recurrent": lambda rngs: jaxlstm.nnx.Recurrent(jl.GRUCell(4), 3, rngs=rngs),
            "RNN": lambda rngs: jaxlstm.nnx.RNN(jaxlstm.nnx.LSTMCell(3, 4, rngs=rngs)),
        }[kind](rngs)
        twins = [nnx.clone(model), nnx.merge(*nnx.split(model))]
        if kind == "Recurrent" or hasattr(nnx, "compat"):  # before flax 0.12, cells held local functions
            twins.append(pickle.loads(pickle.dumps(model)))
        for twin in twins:
            assert nnx.split(twin)[0] == nnx.split(model)[0]
        assert_close(copy.deepcopy(model)(jnp.ones((2, 5, 3))), model(jnp.ones((2, 5, 3))))


BAD = {
    "network: expected a Cell": lambda: jaxlstm.nnx.Recurrent(3, 3, rngs=nnx.Rngs(0)),
    "network: expected a Cell such as LSTMCell(128) (an instance": lambda: jaxlstm.linen.Recurrent(jl.LSTMCell),
    "rngs: expected nnx.Rngs, such as nnx.Rngs(0), got None": lambda: jaxlstm.nnx.LSTM(2, 2, rngs=None),
    "deterministic: expected True or False, got 'no'": lambda: jaxlstm.nnx.GRU(
        2, 2, deterministic="no", rngs=nnx.Rngs(0)
    ),
    "deterministic: expected True or False, got 1": lambda: jaxlstm.linen.GRU(2, deterministic=1),
    "deterministic: expected True or False, got 0": lambda: jaxlstm.nnx.GRU(3, 2, rngs=nnx.Rngs(0))(
        jnp.ones((1, 3)), deterministic=0
    ),
    "time_major: expected True or False, got 'no'": lambda: jaxlstm.nnx.RNN(
        jaxlstm.nnx.GRUCell(3, 2, rngs=nnx.Rngs(0)), time_major="no"
    )(jnp.ones((2, 3))),
    "return_carry: expected True or False, got 1": lambda: jaxlstm.linen.RNN(
        jaxlstm.linen.GRUCell(2), return_carry=1
    ).init(KEY, jnp.ones((2, 3))),
    "batch_shape: expected a tuple of ints, got 3": lambda: jaxlstm.linen.GRU(2).init_carry(3),
    "init_carry: expected a call within apply": lambda: jaxlstm.linen.GRU(2, initial_carry="learned").init_carry((3,)),
    "network: expected layers that run forward": lambda: jaxlstm.nnx.GRU(
        3, 2, bidirectional=True, rngs=nnx.Rngs(0)
    ).step(None, jnp.ones(3)),
    "inputs: expected an array [*batch, I]": lambda: jaxlstm.nnx.GRU(3, 2, rngs=nnx.Rngs(0)).step(None, 1.0),
    "reset: expected shape (2,), got (3,)": lambda: jaxlstm.nnx.GRU(3, 2, rngs=nnx.Rngs(0)).step(
        None, jnp.ones((2, 3)), reset=np.ones(3, bool)
    ),
    "carry[0].h: expected shape (2, 2)": lambda: jaxlstm.nnx.GRU(3, 2, rngs=nnx.Rngs(0)).step(
        (jl.RNNCarry(jnp.ones((3, 2))),), jnp.ones((2, 3))
    ),
    "module: expected a recurrent module of jaxlstm.nnx": lambda: jaxlstm.nnx.to_network(
        nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    ),
    "module: expected a recurrent module of jaxlstm.linen": lambda: jaxlstm.linen.to_network(
        nn.Dense(2), {"params": {}}
    ),
    "variables: expected a dict with the module's 'params'": lambda: jaxlstm.linen.to_network(jaxlstm.linen.GRU(2), {}),
    "params: expected those of Stack(": lambda: jaxlstm.linen.to_network(jaxlstm.linen.GRU(2), {"params": {}}),
    "params: expected the structure": lambda: jaxlstm.nnx.from_network(jl.GRUCell(2), {"w": 1.0}),
    "rngs: expected nnx.Rngs for a network that draws": lambda: jaxlstm.nnx.from_network(
        jl.Zoneout(jl.GRUCell(2), h=0.5), jl.GRUCell(2).init(KEY, 3)
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message, without_type_hook):
    with pytest.raises((ValueError, TypeError)) as error:
        BAD[message]()
    assert str(error.value).startswith(message)


def test_help_leaves_nothing_to_look_up_elsewhere():
    """Arguments of the same name are described alike in all one-call modules of an API."""
    for api in (jaxlstm.linen, jaxlstm.nnx):
        described = {}
        for name in api.__all__:
            text = inspect.getdoc(getattr(api, name)) or ""
            if getattr(api, name).__module__.startswith("jaxlstm."):
                assert not any(words in text for words in ("see there", "see above", "so are all")), name
            if name in ("LSTM", "GRU", "SimpleRNN"):
                arguments = text.split("Args:\n")[1].split("\n\n")[0]
                for argument in ("num_layers", "bidirectional", "dropout", "initial_carry", "remat", "partitioning"):
                    said = re.search(rf"^  {argument}: ((?:.*\n?)(?:    .*\n?)*)", arguments, re.M)[1].strip()
                    assert described.setdefault(argument, said) == said
