"""`step` of cells and networks gives the numbers of the whole sequence, with every option."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from properties import assert_close, params_of

import jaxlstm as jl

T, B, I = 6, 3, 2  # noqa: E741
KEY = jax.random.key(7)
RNG = np.random.default_rng(0)
XS = RNG.normal(size=(T, B, I))
MASK = RNG.random((T, B)) < 0.7
RESET = RNG.random((T, B)) < 0.3
LSTM = jl.LSTMCell(3)
NETWORKS = {
    "lstm": jl.Layer(LSTM),
    "noise": jl.Layer(jl.RecurrentDropout(jl.Zoneout(jl.LSTMCell(3), h=0.3, c=0.4), 0.4)),
    "learned": jl.Layer(jl.LearnedCarry(jl.GRUCell(3))),
    "stack": jl.Stack(jl.Zoneout(LSTM, c=0.5), jl.Stack(jl.GRUCell(2), jl.RNNCell(3), dropout=0.3), dropout=0.4),
}


def steps(network, params, carry, step, key):
    ys = []
    for t in range(T):
        carry, y = step(params, carry, XS[t], mask=MASK[t], reset=RESET[t], key=key, start=5 + t)
        ys.append(y)
    return carry, jnp.stack(ys)


def whole(network, params, carry, key):
    return network.apply(params, XS, carry, mask=MASK, reset=RESET, key=key, start=5)


@pytest.fixture(params=["noise", "stack", *(pytest.param(n, marks=pytest.mark.slow) for n in ("lstm", "learned"))])
def problem(request):
    network = NETWORKS[request.param]
    params = params_of(network, I, np.random.default_rng(1))
    carry = jax.tree.map(lambda leaf: leaf + 0.3, network.init_carry(params, (B,)))
    return network, params, carry


@pytest.mark.parametrize("key", [None, KEY], ids=["evaluation", "training"])
def test_steps_are_the_whole(problem, key):
    network, params, carry = problem
    expected = whole(network, params, carry, key)
    assert_close(steps(network, params, carry, network.step, key), expected)
    assert_close(steps(network, params, carry, jax.jit(network.step), key), expected)


def test_in_a_scan(problem):
    network, params, carry = problem

    def body(carry, now):
        x, mask, reset, t = now
        return network.step(params, carry, x, mask=mask, reset=reset, key=KEY, start=t)

    scanned = jax.lax.scan(body, carry, (XS, MASK, RESET, 5 + jnp.arange(T)))
    assert_close(scanned, whole(network, params, carry, KEY))


def test_under_vmap_over_environments(problem):
    network, params, carry = problem
    step = partial(network.step, params, start=5)
    mapped = jax.vmap(lambda carry, x, reset: step(carry, x, reset=reset))(carry, XS[0], RESET[0])
    assert_close(mapped, step(carry, XS[0], reset=RESET[0]))


def test_each_environment_draws_by_its_own_key(problem):
    network, params, carry = problem
    keys = jax.random.split(KEY, B)

    def step(carry, x, mask, reset, key):
        return network.step(params, carry, x, mask=mask, reset=reset, key=key, start=5)

    arguments = carry, XS[0], MASK[0], RESET[0], keys
    alone = [step(*jax.tree.map(lambda leaf, b=b: leaf[b], arguments)) for b in range(B)]
    assert_close(jax.vmap(step)(*arguments), jax.tree.map(lambda *each: jnp.stack(each), *alone))


def test_gradients_of_steps_are_those_of_the_whole(problem):
    network, params, carry = problem

    def loss(run):
        return jax.jit(jax.grad(lambda params: (run(params)[1] ** 2).sum()))(params)

    by_steps = loss(lambda params: steps(network, params, carry, network.step, KEY))
    assert_close(by_steps, loss(lambda params: whole(network, params, carry, KEY)), rtol=1e-11)


def test_masked_inputs_reach_no_gradient(problem):
    network, params, carry = problem

    def gradients(x):
        step = partial(network.step, mask=MASK[0], key=KEY)
        loss = jax.jit(jax.grad(lambda *args: (step(*args)[1] ** 2).sum(), argnums=(0, 1, 2)))
        return loss(params, carry, x)

    assert not MASK[0].all()
    without = np.where(MASK[0][:, None], XS[0], 0)
    assert_close(gradients(np.where(MASK[0][:, None], XS[0], np.nan)), gradients(without))


@pytest.mark.parametrize(
    "implementation", ["rbg", *(pytest.param(one, marks=pytest.mark.slow) for one in ("threefry2x32", "unsafe_rbg"))]
)
@pytest.mark.parametrize("name", ["noise", pytest.param("stack", marks=pytest.mark.slow)])
def test_every_prng_gives_whole_split_steps_and_windows(name, implementation):
    network, key = NETWORKS[name], jax.random.key(1, impl=implementation)
    params = params_of(network, I, np.random.default_rng(1))
    carry = network.init_carry(params, (B,))
    expected = whole(network, params, carry, key)
    assert_close(steps(network, params, carry, network.step, key), expected)
    options = [{"mask": MASK[part], "reset": RESET[part], "key": key} for part in (slice(0, 2), slice(2, T))]
    half, first = network.apply(params, XS[:2], carry, **options[0], start=5)
    after, second = network.apply(params, XS[2:], half, **options[1], start=7)
    assert_close((after, jnp.concatenate([first, second])), expected)
    for k1, k2 in (2, 4), (3, 3):
        truncated = jl.truncated(network, params, XS, carry, k1=k1, k2=k2, mask=MASK, reset=RESET, key=key, start=5)
        assert_close(truncated, expected)


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg"])
def test_draws_under_vmap_are_those_alone(implementation):
    cell, key = jl.Zoneout(jl.RNNCell(4), h=0.5), jax.random.key(3, impl=implementation)
    params = params_of(cell, I, np.random.default_rng(2))
    run = lambda start: jl.unroll(cell, params, XS, key=key, start=start)[1]  # noqa: E731
    several = jax.vmap(run)(jnp.arange(3))
    for start in range(3):
        assert_close(several[start], run(start))


@pytest.mark.parametrize("start", [np.uint8(240), np.int8(100), np.uint16(65_530)], ids=repr)
def test_narrow_starts_do_not_wrap(start):
    cell, xs = jl.Zoneout(jl.RNNCell(2), h=0.5), np.ones((40, I))
    params = params_of(cell, I, np.random.default_rng(2))
    run = partial(jl.unroll, cell, params, xs, key=KEY)
    expected = run(start=int(start))
    assert_close(run(start=start), expected)
    assert_close(jax.jit(lambda start: run(start=start))(start), expected)
    assert_close(jl.truncated(cell, params, xs, k1=20, k2=20, key=KEY, start=start), expected)


BACKWARD = [jl.Layer(LSTM, reverse=True), jl.Bidirectional(LSTM), jl.Stack(LSTM, jl.Stack(jl.Bidirectional(LSTM)))]


@pytest.mark.parametrize("network", BACKWARD, ids=repr)
def test_a_backward_layer_cannot_be_stepped(network):
    params = network.init(KEY, I, dtype=jnp.float64)
    with pytest.raises(ValueError, match="network: expected layers that run forward, since a backward layer reads"):
        network.step(params, network.init_carry(params, (B,)), XS[0])


def test_a_carry_of_another_dtype_says_what_makes_the_right_one(without_x64):
    params = LSTM.init(KEY, I, dtype=jnp.bfloat16)
    xs = XS.astype(np.float32)
    with pytest.raises(TypeError, match=r"carry.h: expected dtype float32, as from init_carry\(.*dtype=.*bfloat16"):
        jax.lax.scan(partial(LSTM.step, params), LSTM.init_carry(params, (B,)), xs)
    right = LSTM.init_carry(params, (B,), dtype=jnp.float32)
    _, ys = jax.lax.scan(partial(LSTM.step, params), right, xs)
    np.testing.assert_allclose(ys, jl.unroll(LSTM, params, xs)[1], rtol=1e-6)


MISTAKES = {
    "mask": ({"mask": np.ones((T, B), bool)}, r"mask: expected shape \(3,\), got \(6, 3\)"),
    "reset": ({"reset": np.ones(B)}, r"reset: expected a bool array of shape \(3,\), got float64\[3\]"),
    "key": ({"key": 3}, "key: expected a PRNG key"),
    "start": ({"start": 0.5}, "start: expected an integer, got float64"),
}


@pytest.mark.parametrize(("options", "message"), MISTAKES.values(), ids=MISTAKES)
@pytest.mark.parametrize("network", [LSTM, NETWORKS["stack"]], ids=["cell", "stack"])
@pytest.mark.usefixtures("without_type_hook")
def test_mistakes_are_named(network, options, message):
    params = network.init(KEY, I, dtype=jnp.float64)
    with pytest.raises((ValueError, TypeError), match=message):
        network.step(params, network.init_carry(params, (B,)), XS[0], **options)
