"""Run by test_mesh.py in a process with eight virtual devices: one device's results, on many."""

import os
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

import jaxlstm as jl
from jaxlstm.training import Checkpoints, fit, init_state, make_train_step, squared_error

CELL = jl.LSTMCell(8)
PARAMS = {"cell": CELL.init(jax.random.key(0), 3), "head": jnp.ones((8, 1), jnp.float32)}
OPTIMIZER = optax.adam(0.1)


def mesh(**axes):
    return Mesh(np.array(jax.devices()).reshape(*axes.values()), tuple(axes))


def start(carry=None):
    return init_state(PARAMS, OPTIMIZER, jax.random.key(1), carry=carry)


def make_batch(sequences, steps=5):
    draw = np.random.default_rng(0)
    xs = draw.normal(size=(steps, sequences, 3)).astype(np.float32)
    return {"xs": xs, "lengths": draw.integers(0, steps + 1, sequences), "mask": draw.random(sequences) < 0.8}


AXES = {"xs": 1, "lengths": 0, "mask": 0}


def answers(params, batch, carry=None):
    carry, ys = jl.unroll(CELL, params["cell"], batch["xs"], carry, lengths=batch["lengths"])
    return carry, (ys.sum(0) @ params["head"])[:, 0]


def loss_fn(params, batch, key):
    _, predictions = answers(params, batch)
    return squared_error(predictions, jnp.ones_like(predictions), batch["mask"]), {"of the first": predictions[:1]}


def three_steps(train_step, batch, state=None):
    state = start() if state is None else state
    for _ in range(3):
        state, metrics = train_step(state, batch)
    return state, metrics


def assert_close(got, expected, rtol=1e-4):
    got, expected = (jax.tree.map(np.asarray, tree) for tree in (got, expected))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=1e-5), got, expected)


@pytest.fixture(scope="module")
def alone():
    return make_train_step(loss_fn, OPTIMIZER)


def hidden_axis(params):
    cell = jl.LSTMParams(w_ih=Spec(), w_hh=Spec("model"), b=Spec())
    return {"cell": cell, "head": Spec("model")}


LAYOUTS = {
    "data": ({"data": 8}, 16, None),
    "a batch that does not divide": ({"data": 8}, 13, None),
    "data and the gates": ({"data": 4, "model": 2}, 16, None),
    "data and the hidden axis": ({"data": 2, "model": 4}, 16, hidden_axis),
}


@pytest.mark.parametrize(("axes", "sequences", "specs"), LAYOUTS.values(), ids=LAYOUTS)
def test_results_are_those_of_one_device(alone, axes, sequences, specs):
    batch = make_batch(sequences)
    train_step = make_train_step(loss_fn, OPTIMIZER, mesh=mesh(**axes), batch_axis=AXES, param_specs=specs, mask="mask")
    state, metrics = three_steps(train_step, batch)
    expected, expected_metrics = three_steps(alone, batch)
    assert_close((state.params, state.opt_state, metrics), (expected.params, expected.opt_state, expected_metrics))
    w_hh, momentum = state.params["cell"].w_hh, state.opt_state[0].mu["cell"].w_hh
    assert w_hh.sharding == momentum.sharding
    rows, columns = w_hh.sharding.shard_shape(w_hh.shape)
    model = axes.get("model", 1)
    assert (rows, columns) == ((8 // model, 32) if specs else (8, 32 // model))
    assert jax.random.key_data(state.key).tolist() == jax.random.key_data(expected.key).tolist()


def test_an_optimizer_that_looks_at_the_loss():
    optimizer = optax.lbfgs(memory_size=2)
    batch = make_batch(13)

    def two_steps(**options):
        step = make_train_step(loss_fn, optimizer, **options)
        state = init_state(PARAMS, optimizer, jax.random.key(1))
        for _ in range(2):
            state, metrics = step(state, batch)
        return state.params, metrics

    assert_close(two_steps(mesh=mesh(data=4, model=2), batch_axis=AXES, mask="mask"), two_steps())


def test_several_seeds_on_a_mesh():
    def loss_fn(params, carry, batch, key):
        carry, ys = jl.unroll(CELL, params["cell"], batch, carry)
        return jnp.mean(ys**2), (carry, {})

    states = [start(CELL.init_carry(PARAMS["cell"], (16,))) for _ in range(2)]
    states[1] = states[1]._replace(params=jax.tree.map(lambda leaf: leaf / 2, states[1].params))
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    xs = np.stack([make_batch(16)["xs"], 2 * make_batch(16)["xs"]])
    step = make_train_step(loss_fn, OPTIMIZER, mesh=mesh(data=8), batch_axis=2, seeds=True)
    together, metrics = step(together, xs)
    assert together.carry.h.sharding.shard_shape((2, 16, 8)) == (2, 2, 8)
    for seed, state in enumerate(states):
        expected, expected_metrics = make_train_step(loss_fn, OPTIMIZER)(state, xs[seed])
        found = jax.tree.map(lambda leaf, seed=seed: leaf[seed], (together.params, together.carry, metrics))
        assert_close(found, (expected.params, expected.carry, expected_metrics))


def test_a_carried_state_lies_with_its_sequences():
    def loss_fn(params, carry, batch, key):
        carry, predictions = answers(params, batch, carry)
        return jnp.mean(predictions), (carry, {})

    carry, batch = CELL.init_carry(PARAMS["cell"], (16,)), make_batch(16)
    spread = make_train_step(loss_fn, OPTIMIZER, mesh=mesh(data=8), batch_axis=AXES)
    state, metrics = three_steps(spread, batch, start(carry))
    expected, expected_metrics = three_steps(make_train_step(loss_fn, OPTIMIZER), batch, start(carry))
    assert_close((state.carry, metrics), (expected.carry, expected_metrics))
    assert state.carry.h.sharding.shard_shape((16, 8)) == (2, 8)
    with pytest.raises(ValueError, match=r"carry.h: expected an axis 0, of sequences, whose size 8 devices divide"):
        spread(start(CELL.init_carry(PARAMS["cell"], (13,))), make_batch(13))


def test_what_devices_tell_each_other_does_not_grow_with_time():
    """Nor does any of it stand in a loop: all is in the entry of the compiled program."""
    train_step = make_train_step(loss_fn, OPTIMIZER, mesh=mesh(data=8), batch_axis=AXES)
    state, sizes = start(), []
    for steps in (5, 10):
        text = train_step.lower(state, make_batch(16, steps)).compile().as_text()
        inside, entry = text.split("\nENTRY ")
        assert not collectives(inside)
        sizes.append(collectives(entry))
    assert sizes[0] == sizes[1] > 0
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(PARAMS))
    assert sizes[0] < 1.5 * weights


def test_weight_gradients_of_bfloat16_are_summed_in_float32():
    """As on one device: with jax 0.12, XLA on CPU sums in 16 bits where a matmul contracts two axes."""
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda p: jnp.asarray(draw.normal(size=p.shape) / 2, jnp.bfloat16), PARAMS["cell"])
    xs = jnp.asarray(draw.normal(size=(512, 16, 3)), jnp.bfloat16)

    def gradient(dtype):
        here, xs_here = jax.tree.map(lambda a: a.astype(dtype), (params, xs))
        xs_here = jax.device_put(xs_here, NamedSharding(mesh(data=8), Spec(None, "data")))
        loss = lambda p: (jl.unroll(CELL, p, xs_here)[1].astype(jnp.float64) ** 2).mean()  # noqa: E731
        return [np.asarray(leaf, np.float64) for leaf in jax.jit(jax.grad(loss))(here)]

    for got, want in zip(gradient(jnp.bfloat16), gradient(jnp.float64), strict=True):
        assert np.linalg.norm(got - want) < 0.01 * np.linalg.norm(want)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_gradients_of_any_batch_axes_are_those_of_plain_autodiff(batch):
    draw = np.random.default_rng(1)
    params = jax.tree.map(lambda p: jnp.asarray(draw.normal(size=p.shape)), PARAMS["cell"])
    xs = jnp.asarray(draw.normal(size=(5, *batch, 3)))

    def by_the_rule(params, xs):
        return (jl.unroll(CELL, params, xs)[1] ** 3).sum()

    def by_plain_autodiff(params, xs):
        return (jax.lax.scan(partial(CELL.step, params), CELL.init_carry(params, batch), xs)[1] ** 3).sum()

    got, want = (jax.jit(jax.grad(loss, argnums=(0, 1)))(params, xs) for loss in (by_the_rule, by_plain_autodiff))
    assert_close(got, want, rtol=1e-10)


def collectives(text):
    """Bytes that come out of them, for float32 and for what is as long."""
    found = re.findall(r"= (.*) (?:all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)", text)
    shapes = (shape for line in found for shape in re.findall(r"\w+\[([\d,]*)\]", line))
    return sum(4 * int(np.prod([int(size) for size in shape.split(",") if size], dtype=int)) for shape in shapes)


def test_a_batch_without_a_mask_must_divide():
    train_step = make_train_step(lambda p, b, k: (p["head"].sum() * b.sum(), {}), OPTIMIZER, mesh=mesh(data=8))
    with pytest.raises(ValueError, match=r"batch: expected 16 sequences, a multiple of the devices, or .*mask="):
        train_step(start(), np.zeros((5, 13, 3), np.float32))
    targets = {"xs": np.zeros((5, 13, 3), np.float32), "targets": np.zeros((5, 13), bool)}
    with pytest.raises(ValueError, match=r"batch: expected 16 sequences, .* got 13 and no mask"):
        train_step(start(), targets)


@pytest.mark.parametrize(
    ("name", "batch", "axes"),
    [
        ("1", lambda xs, counts, target: (xs, counts, target), (1, 0, 0)),
        ("given.mask", lambda xs, counts, target: {"given": {"xs": xs, "mask": counts}, "target": target}, None),
        ("lengths", lambda xs, counts, target: {"xs": xs, "lengths": 5 * counts, "target": target}, None),
    ],
)
def test_the_mask_is_the_leaf_that_is_named(name, batch, axes):
    """Of several bool leaves, and wherever it stands; a bool target is none."""
    draw = np.random.default_rng(0)
    xs, target = draw.normal(size=(5, 13, 3)).astype(np.float32), draw.random(13) < 0.5
    whole = batch(xs, np.ones(13, int if name == "lengths" else bool), target)

    def loss_fn(params, batch, key):
        leaves = jax.tree_util.tree_leaves_with_path(batch)
        by_name = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
        (inputs,) = (leaf for leaf in by_name.values() if leaf.ndim == 3)
        target = by_name["2" if isinstance(batch, tuple) else "target"]
        counts = by_name[name].astype(bool)
        answer = jl.unroll(CELL, params["cell"], inputs)[1][-1] @ params["head"]
        return squared_error(answer, jnp.broadcast_to(target[:, None], answer.shape).astype(float), counts), {}

    axes = axes or jax.tree.map(lambda leaf: int(leaf.ndim == 3), whole)
    step = make_train_step(loss_fn, OPTIMIZER, mesh=mesh(data=8), batch_axis=axes, mask=name)
    state, metrics = step(start(), whole)
    expected, expected_metrics = make_train_step(loss_fn, OPTIMIZER)(start(), whole)
    assert_close((state.params, metrics), (expected.params, expected_metrics))


def test_a_mask_that_is_none_is_named():
    def step(name):
        step = make_train_step(loss_fn, OPTIMIZER, mesh=mesh(data=8), batch_axis=AXES, mask=name)
        return step(start(), make_batch(16))

    with pytest.raises(ValueError, match=r"mask: expected the name of a leaf of the batch, .*'mask'.*got 'valid'"):
        step("valid")
    with pytest.raises(ValueError, match=r"mask: expected 'xs' to be bool, or integer lengths, got float"):
        step("xs")
    with pytest.raises(ValueError, match=r"mesh: expected a jax.sharding.Mesh, since mask is given"):
        make_train_step(loss_fn, OPTIMIZER, mask="mask")


def test_batches_are_filled_up_to_a_size(alone):
    """A last one that is smaller takes the same program."""
    train_step = make_train_step(loss_fn, OPTIMIZER, mesh=mesh(data=8), batch_axis=AXES, batch_size=20, mask="mask")
    shapes = [train_step.lower(start(), make_batch(size)).in_avals[0][1]["xs"].shape for size in (20, 7)]
    assert shapes == [(5, 24, 3)] * 2
    state, metrics = three_steps(train_step, make_batch(7))
    expected, expected_metrics = three_steps(alone, make_batch(7))
    assert_close((state.params, metrics), (expected.params, expected_metrics))
    with pytest.raises(
        ValueError, match=r"batch: expected at most 24 sequences of each process \(batch_size\), got 25"
    ):
        train_step(start(), make_batch(25))


def test_leaves_of_a_batch_have_as_many_sequences_as_each_other():
    train_step = make_train_step(loss_fn, OPTIMIZER, mesh=mesh(data=8), batch_axis=AXES)
    with pytest.raises(ValueError, match=r"batch\['mask'\]: expected 16 sequences, as in batch\['lengths'\], got 13"):
        train_step(start(), make_batch(16) | {"mask": np.ones(13, bool)})


def test_layouts_that_cannot_be_are_named():
    def step(**options):
        return make_train_step(loss_fn, OPTIMIZER, **options)(start(), make_batch(16))

    with pytest.raises(ValueError, match=r"batch\['lengths'\]: expected an axis 1 \(batch_axis\), got int64\[16\]"):
        step(mesh=mesh(data=8))
    specs = {"cell": jl.LSTMParams(w_ih=Spec("model"), w_hh=Spec(), b=Spec()), "head": Spec()}
    with pytest.raises(ValueError, match=r"params\['cell'\].w_ih: expected sizes that the mesh divides .*2 devices"):
        step(mesh=mesh(data=4, model=2), batch_axis=AXES, param_specs=lambda params: specs)
    with pytest.raises(ValueError, match="param_specs: expected to return a PartitionSpec for each of the params"):
        step(mesh=mesh(data=4, model=2), batch_axis=AXES, param_specs=lambda params: Spec())
    with pytest.raises(ValueError, match="mesh: expected an axis named 'data', got"):
        step(mesh=mesh(rows=8), batch_axis=AXES)
    with pytest.raises(ValueError, match="batch_axis: expected axes from 0 on, got -1"):
        step(mesh=mesh(data=8), batch_axis=-1)


def test_checkpoints_go_from_eight_devices_to_one_and_back(alone):
    """The folder comes with a checkpoint of one device's step 1; it goes on with eight, to step 3."""
    checkpoints = Checkpoints(Path(os.environ["JAXLSTM_TEST_CHECKPOINTS"]), resume=True)
    options = {"batches": [make_batch(16)] * 3, "steps": 3, "progress": False}
    train_step = make_train_step(loss_fn, OPTIMIZER, mesh=mesh(data=4, model=2), batch_axis=AXES)
    state = fit(train_step, start(), **options, checkpoints=checkpoints)
    expected = fit(alone, start(), **options)
    assert checkpoints.steps == (1, 3)
    assert_close(state.params, expected.params)
    one = checkpoints.restore(start())
    assert one.params["head"].sharding.num_devices == 1
    jax.tree.map(np.testing.assert_array_equal, one.params, state.params)
    eight = checkpoints.restore(state)
    assert eight.params["cell"].w_hh.sharding == state.params["cell"].w_hh.sharding
    jax.tree.map(np.testing.assert_array_equal, eight.params, state.params)


def gradient_of(params, xs, lengths, reset):
    _, ys = jl.unroll(CELL, params, xs, lengths=lengths, reset=reset)
    return jax.grad(lambda params: (jl.unroll(CELL, params, xs, lengths=lengths, reset=reset)[1] ** 2).sum())(
        params
    ), ys


def sharded_case():
    draw = np.random.default_rng(0)
    xs, lengths = draw.normal(size=(5, 16, 3)).astype(np.float32), draw.integers(0, 6, 16)
    return PARAMS["cell"], xs, lengths, draw.random((5, 16)) < 0.2


def test_within_shard_map():
    auto = mesh(data=8)
    specs = (Spec(), Spec(None, "data"), Spec("data"), Spec(None, "data"))
    run = jax.shard_map(gradient_of, mesh=auto, in_specs=specs, out_specs=(Spec(), Spec(None, "data")))
    assert_close(jax.jit(run)(*sharded_case()), gradient_of(*sharded_case()))


def test_on_a_mesh_of_explicit_axes():
    case = sharded_case()
    expected = gradient_of(*case)
    explicit = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    specs = (Spec(), Spec(None, "data"), Spec("data"), Spec(None, "data"))
    there = [jax.device_put(leaf, NamedSharding(explicit, spec)) for leaf, spec in zip(case, specs, strict=True)]
    with jax.set_mesh(explicit):
        assert_close(jax.jit(gradient_of)(*there), expected)
