"""Run by test_sharding.py in a process with four virtual devices: one device's numbers, wherever arrays lie."""

from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

import jaxlstm as jl
from jaxlstm import linen
from jaxlstm._sharding import spans_devices
from jaxlstm.inspect import trace

T, B, I, H = 5, 4, 3, 4  # noqa: E741
DRAW = np.random.default_rng(0)
KEY, XS = jax.random.key(3), DRAW.normal(size=(T, B, I))
MASK, RESET = DRAW.random((T, B)) < 0.8, DRAW.random((T, B)) < 0.3

CELL = jl.LSTMCell(H)
LINEAR, DIAGONAL, MLSTM = jl.MinLSTMCell(H), jl.IndRNNCell(H), jl.MLSTMCell(H, num_heads=2)
ZONEOUT = jl.Zoneout(CELL, h=0.3, c=0.3)
STACK = jl.Stack(CELL, jl.GRUCell(H), dropout=0.5)
BOTH = jl.Stack(jl.Bidirectional(CELL), jl.RecurrentDropout(jl.GRUCell(H), 0.5))
PARTITIONING = {"w_ih": (None, "m"), "w_hh": (None, "m"), "b": ("m",)}
LINEN = linen.LSTM(H, dropout=0.5, num_layers=2, param_dtype=jnp.float64, partitioning=PARTITIONING)


def run_linen(params, xs, mask, reset):
    rngs = {"dropout": KEY}
    carry, ys = LINEN.apply(params, jnp.moveaxis(xs, 0, 1), reset=reset.T, deterministic=False, rngs=rngs)
    return carry, jnp.moveaxis(ys, 0, 1)


def two_steps(network, params, xs, **options):
    carry = network.init_carry(params, xs.shape[1:-1])
    carry, first = network.step(params, carry, xs[0], start=0, **options)
    carry, second = network.step(params, carry, xs[1], start=1, **options)
    return carry, jnp.stack([first, second])


RUNS = {  # name: (what draws the params, and a function (params, xs, mask, reset) -> (carry, what leads with time))
    "unroll": (CELL, lambda p, xs, m, r: jl.unroll(CELL, p, xs, mask=m, reset=r)),
    "carry": (CELL, lambda p, xs, m, r: jl.unroll(CELL, p, xs, jl.unroll(CELL, p, xs)[0], lengths=m.sum(0))),
    "reverse": (CELL, lambda p, xs, m, r: jl.unroll(CELL, p, xs, reset=r, reverse=True, project_first=True)),
    "remat": (CELL, lambda p, xs, m, r: jl.unroll(CELL, p, xs, remat=True)),
    "associative": (LINEAR, lambda p, xs, m, r: jl.unroll(LINEAR, p, xs, mask=m, reset=r, evaluator="associative")),
    "newton": (DIAGONAL, lambda p, xs, m, r: jl.unroll(DIAGONAL, p, xs, reset=r, evaluator="newton")),
    "newton, dense": (CELL, lambda p, xs, m, r: jl.unroll(CELL, p, xs, mask=m, evaluator="newton")),
    "chunkwise": (MLSTM, lambda p, xs, m, r: jl.unroll(MLSTM, p, xs, mask=m, reset=r, evaluator="chunkwise", remat=2)),
    "chunks": (CELL, lambda p, xs, m, r: jl.unroll(CELL, p, xs, mask=m, reset=r, remat="sqrt")),
    "zoneout": (ZONEOUT, lambda p, xs, m, r: jl.unroll(ZONEOUT, p, xs, reset=r, key=KEY)),
    "dropout": (STACK, lambda p, xs, m, r: STACK.apply(p, xs, lengths=m.sum(0), key=KEY)),
    "both directions": (BOTH, lambda p, xs, m, r: BOTH.apply(p, xs, lengths=m.sum(0), key=KEY)),
    "linen": (LINEN, run_linen),
    "blocks": (STACK, lambda p, xs, m, r: jl.truncated(STACK, p, xs, k1=2, k2=2, mask=m, reset=r, key=KEY)),
    "windows": (CELL, lambda p, xs, m, r: jl.truncated(CELL, p, xs, k1=2, k2=4, lengths=m.sum(0))),
    "trace": (CELL, lambda p, xs, m, r: trace(CELL, p, xs, mask=m, reset=r)),
    "trace of a stack": (STACK, lambda p, xs, m, r: trace(STACK, p, xs, key=KEY)),
    "step": (CELL, lambda p, xs, m, r: two_steps(CELL, p, xs, mask=m[0], reset=r[0])),
    "step of a stack": (STACK, lambda p, xs, m, r: two_steps(STACK, p, xs, reset=r[0], key=KEY)),
}
FAST = {"explicit": ("unroll",), "shard_map": ("windows", "newton")}  # the rest takes minutes to compile
# Long to compile, and on an explicit mesh like others: "both directions", "trace", "step" and "unroll".
ALIKE = {"explicit": ("dropout", "trace of a stack", "step of a stack", "carry"), "shard_map": ()}


def names(kind):
    names = (name for name in RUNS if name not in ALIKE[kind])
    return [pytest.param(name, marks=() if name in FAST[kind] else pytest.mark.slow) for name in names]


def init(network):
    if isinstance(network, nn.Module):
        return nn.meta.unbox(network.init(KEY, jnp.zeros((B, T, I)), deterministic=True))
    return jax.jit(partial(network.init, input_size=I, dtype=jnp.float64))(KEY)


@cache
def results(name):
    """Params, and a function: what a run gives, and the gradient of all of it in params and xs."""
    network, run = RUNS[name]

    def results(params, xs, mask, reset):
        def loss(params, xs):
            out = run(params, xs, mask, reset)
            return sum((leaf**2).sum() for leaf in jax.tree.leaves(out)), out

        gradient, out = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, xs)
        return out, gradient

    return init(network), results


def assert_close(got, expected):
    got, expected = (jax.tree.map(np.asarray, tree) for tree in (got, expected))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), got, expected)


@pytest.mark.parametrize("name", names("explicit"))
def test_on_a_mesh_of_explicit_axes(name):
    """Params with their last axis on "m", and the batch whole or on "d"."""
    mesh = jax.make_mesh((2, 2), ("d", "m"), axis_types=(AxisType.Explicit,) * 2)
    params, run = results(name)
    expected = jax.jit(run)(params, XS, MASK, RESET)

    def put(leaf, *axes):
        return jax.device_put(leaf, NamedSharding(mesh, Spec(*axes)))

    params = jax.tree.map(lambda leaf: put(leaf, *(None,) * (leaf.ndim - 1), "m"), params)
    divided = params, *(put(leaf, None, "d") for leaf in (XS, MASK, RESET))
    assert_close(jax.jit(run)(*divided), expected)
    if name in FAST["explicit"]:
        return
    assert_close(RUNS[name][1](*divided), expected[0])  # plain JAX has no gradient outside jit and set_mesh
    with jax.set_mesh(mesh):
        if jax.__version_info__ >= (0, 10):  # jax 0.7 has no eager gradient of any scan in `auto_axes`
            assert_close(run(*divided), expected)
        assert_close(jax.jit(run)(params, put(XS), MASK, RESET), expected)


@pytest.mark.parametrize("name", names("shard_map"))
def test_in_a_shard_map(name):
    """With its checks on: each device runs its part of the batch, and gradients of params are summed over all."""
    params, run = results(name)
    once = jax.jit(run)
    (out, (dparams, dxs)), (more, (more_dparams, more_dxs)) = (
        once(params, *(leaf[:, part] for leaf in (XS, MASK, RESET))) for part in (slice(0, 2), slice(2, 4))
    )
    join = [partial(jax.tree.map, lambda a, b, axis=axis: jnp.concatenate([a, b], axis)) for axis in (0, 1)]
    carry, ys = (join[axis](out[axis], more[axis]) for axis in (0, 1))
    expected = (carry, ys), (jax.tree.map(jnp.add, dparams, more_dparams), join[1](dxs, more_dxs))

    mesh, batch = Mesh(np.array(jax.devices()).reshape(2, 2), ("d", "m")), Spec(None, "d")
    specs = {"in_specs": (Spec(), batch, batch, batch), "out_specs": ((Spec("d"), batch), (Spec(), batch))}
    assert_close(jax.jit(jax.shard_map(run, mesh=mesh, **specs))(params, XS, MASK, RESET), expected)


@pytest.mark.parametrize(
    ("network", "run"),
    [
        (ZONEOUT, jl.unroll),
        pytest.param(STACK, partial(jl.truncated, k1=2, k2=2), marks=pytest.mark.slow),
        pytest.param(STACK, trace, marks=pytest.mark.slow),
    ],
    ids=("unroll", "truncated", "trace"),
)
def test_a_key_may_differ_where_nothing_else_does(network, run):
    mesh = Mesh(np.array(jax.devices()), ("d",))
    run = partial(run, network)

    def on_each(params, xs):
        key = jax.random.fold_in(KEY, jax.lax.axis_index("d"))
        return jax.tree.map(lambda leaf: leaf[None], run(params, xs, key=key))

    params = init(network)
    got = jax.jit(jax.shard_map(on_each, mesh=mesh, in_specs=Spec(), out_specs=Spec("d")))(params, XS)
    last = run(params, XS, key=jax.random.fold_in(KEY, 3))
    assert_close(jax.tree.map(lambda leaf: leaf[3], got), last)


def test_what_is_known_of_where_xs_lie():
    mesh = Mesh(np.array(jax.devices()), ("d",))
    batch = NamedSharding(mesh, Spec(None, "d"))
    divided = jax.device_put(XS, batch)
    assert spans_devices(divided)
    assert not spans_devices(jnp.asarray(XS))

    def seen(call):
        known = []
        call(lambda xs: (known.append(spans_devices(2 * xs)), xs)[1])
        return known

    assert seen(lambda see: jax.jit(see)(divided)) == [True]
    assert seen(lambda see: jax.jit(see)(XS)) == [False]
    assert seen(lambda see: jax.jit(jax.grad(lambda xs: see(xs).sum()))(divided)) == [True]
    with jax.set_mesh(mesh):
        assert seen(lambda see: jax.jit(see, in_shardings=batch)(XS)) == [True]
    within = partial(jax.shard_map, mesh=mesh, in_specs=batch.spec, out_specs=batch.spec)
    assert seen(lambda see: jax.jit(within(see))(divided)) == [False]


@pytest.mark.parametrize(
    "cell",
    [
        *(CELL, jl.LSTMVariantCell(H, peephole=True, layer_norm=True), jl.GRUCell(H, reset_after=False)),
        *(pytest.param(cell, marks=pytest.mark.slow) for cell in (jl.MinLSTMCell(H), jl.IndRNNCell(H), jl.LRUCell(H))),
        *(pytest.param(cell(H, num_heads=2), marks=pytest.mark.slow) for cell in (jl.SLSTMCell, jl.MLSTMCell)),
    ],
    ids=repr,
)
def test_gradients_over_a_divided_batch_need_no_message_in_a_loop(cell):
    params = cell.init(jax.random.key(0), I)
    xs = jax.device_put(XS.astype(np.float32), NamedSharding(Mesh(jax.devices(), ("d",)), Spec(None, "d")))
    gradient = jax.jit(jax.grad(lambda params, xs: (jl.unroll(cell, params, xs)[1] ** 2).sum()))
    loops, entry = gradient.lower(params, xs).compile().as_text().split("\nENTRY ")
    assert "all-reduce" in entry
    assert not [word for word in ("all-reduce", "all-gather", "all-to-all", "permute") if word in loops]
