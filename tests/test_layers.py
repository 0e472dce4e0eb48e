"""`Layer`, `Bidirectional`, `Stack`: what `unroll` promises still holds through them, and what they add does."""

from functools import partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from properties import (
    ALL,
    CELLS,
    USUAL,
    Case,
    assert_close,
    carry_of,
    case_of,
    example,
    params_of,
    sequences,
    valid_of,
    weighed,
)

import jaxlstm as jl

LSTM, GRU, RNN = jl.LSTMCell(3), jl.GRUCell(2), jl.RNNCell(3)
FORWARD = {
    "layer": jl.Layer(LSTM),
    "stack": jl.Stack(LSTM, GRU, CELLS["user"]),
    "nested": jl.Stack(jl.Stack(RNN, GRU), LSTM),
}
BACKWARD = {
    "reverse": jl.Layer(GRU, reverse=True),
    "bidirectional": jl.Bidirectional(LSTM),
    "unlike": jl.Bidirectional(LSTM, GRU),
    "merged": jl.Bidirectional(LSTM, RNN, merge=lambda forward, backward: 1 + forward - backward),
    "deep": jl.Stack(jl.Bidirectional(LSTM, merge="sum"), jl.Bidirectional(GRU, merge="mul"), RNN),
}
NETWORKS = FORWARD | BACKWARD
QUICK = ("stack", "unlike", "deep")


def of_networks(networks):
    """Some among the slow tests, since the compiler takes most of the time."""
    return pytest.mark.parametrize(
        "network",
        [pytest.param(one, id=name, marks=[pytest.mark.slow] * (name not in QUICK)) for name, one in networks.items()],
    )


every_network = of_networks(NETWORKS)
forward_networks = of_networks(FORWARD)


def case_for(network, drawn):
    """The drawn sequence, with params and a carry for the network."""
    case, rng = case_of(RNN, drawn), np.random.default_rng(drawn.seed)
    return remade(case, network, rng)


def example_for(network, **changes):
    return remade(example(RNN, **changes), network, np.random.default_rng(0))


def remade(case, network, rng):
    params = params_of(network, case.xs.shape[-1], rng)
    shape = USUAL._replace(steps=case.xs.shape[0], batch=case.xs.shape[1:-1])
    return Case(network, params, case.xs, carry_of(network, shape, rng), case.options)


def run(case, **changes):
    arguments = {**case.options, **changes}
    return case.cell.apply(case.params, case.xs, case.carry, **arguments)


def at(carry, index):
    return jax.tree.map(lambda leaf: leaf[index], carry)


def test_a_layer_is_unroll():
    for reverse in (False, True):
        case = example_for(jl.Layer(LSTM, reverse=reverse))
        assert_close(run(case), jl.unroll(LSTM, *case[1:4], **case.options, reverse=reverse))


def test_bidirectional_is_unroll_twice():
    case = example_for(jl.Bidirectional(LSTM, GRU))
    (params, carries), xs = (case.params, case.carry), case.xs
    forward = jl.unroll(LSTM, params[0], xs, carries[0], **case.options)
    backward = jl.unroll(GRU, params[1], xs, carries[1], **case.options, reverse=True)
    carry = jl.BidirectionalCarry(forward[0], backward[0])
    assert_close(run(case), (carry, jnp.concatenate([forward[1], backward[1]], -1)))


def test_a_stack_reads_the_ys_below():
    case = example_for(jl.Stack(LSTM, jl.Layer(GRU, reverse=True)))
    below, ys = jl.unroll(LSTM, case.params[0], case.xs, case.carry[0], **case.options)
    above, ys = jl.unroll(GRU, case.params[1], ys, case.carry[1], **case.options, reverse=True)
    assert_close(run(case), ((below, above), ys))


@forward_networks
@given(drawn=sequences(present=(ALL,)), cut=st.sampled_from([0, 2, 5]))
def test_any_split_with_the_carry_handed_on(network, drawn, cut):
    case = case_for(network, drawn)
    carry, ys = case.carry, []
    for start, stop in ((0, cut), (cut, USUAL.steps)):
        options = {name: case.options[name][start:stop] for name in ("mask", "reset")}
        options["lengths"] = np.clip(case.options["lengths"] - start, 0, stop - start)
        carry, part = network.apply(case.params, case.xs[start:stop], carry, **options)
        ys.append(part)
    assert_close((carry, jnp.concatenate(ys)), run(case))


@every_network
def test_lengths_and_mask_are_removal(network):
    case = example_for(network, present=("lengths", "mask"))
    carry, ys = run(case)
    for b, kept in enumerate(valid_of(case).T):
        alone = network.apply(case.params, case.xs[kept, b], at(case.carry, b))
        assert_close((at(carry, b), ys[kept, b]), alone)
        assert not ys[~kept, b].any()


@every_network
def test_episodes_in_a_row_are_episodes_apart(network):
    case = example_for(network, present=())
    reset = np.zeros((USUAL.steps, *USUAL.batch), bool)
    reset[[0, 2, 3]] = True
    _, ys = network.apply(case.params, case.xs, reset=reset)
    apart = [network.apply(case.params, case.xs[start:stop])[1] for start, stop in ((0, 2), (2, 3), (3, 5))]
    assert_close(ys, jnp.concatenate(apart))


@every_network
def test_nothing_leaks_from_the_padding(network):
    case = example_for(network)
    skipped = ~valid_of(case)

    @jax.jit
    def with_gradients(params, xs, carry):
        def loss(params, xs, carry):
            after = network.apply(params, xs, carry, **case.options, key=jax.random.key(0))
            return weighed(after), after

        return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(params, xs, carry)

    def outcome(filling):
        xs = np.where(skipped[..., None], filling, case.xs)
        return with_gradients(case.params, xs, case.carry)

    gradients, _ = spoilt = outcome([np.nan, np.inf])
    jax.tree.map(np.testing.assert_array_equal, spoilt, outcome(0.0))
    assert not np.asarray(gradients[1])[skipped].any()


@every_network
def test_batch_order_vmap_and_jit(network):
    case = example_for(network)
    carry, ys = expected = run(case)
    lengths, mask, reset = (case.options[name] for name in ALL)

    order = np.array([2, 0, 1])
    options = {name: value[..., order] for name, value in case.options.items()}
    shuffled = network.apply(case.params, case.xs[:, order], at(case.carry, order), **options)
    assert_close(shuffled, (at(carry, order), ys[:, order]))

    def alone(xs, carry, lengths, mask, reset):
        return network.apply(case.params, xs, carry, lengths=lengths, mask=mask, reset=reset)

    mapped = jax.vmap(alone, in_axes=(1, 0, 0, 1, 1), out_axes=(0, 1))(case.xs, case.carry, lengths, mask, reset)
    assert_close(mapped, expected)

    @jax.jit
    def compiled(params, xs, carry, options):
        return network.apply(params, xs, carry, **options)

    assert_close(compiled(case.params, case.xs, case.carry, case.options), expected)


@every_network
def test_options_of_the_loop_are_handed_down(network):
    case = example_for(network)
    assert_close(run(case, unroll=2, remat=2, project_first=True), run(case))


@every_network
@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("batch", [(), (0,), (2, 2)], ids=str)
def test_odd_shapes(network, steps, batch):
    case = example_for(network, shape=USUAL._replace(steps=steps, batch=batch))
    carry, ys = jax.eval_shape(lambda: run(case))
    assert ys.shape == (steps, *batch, network.output_size)
    assert jax.tree.map(jnp.shape, carry) == jax.tree.map(jnp.shape, case.carry)


def test_without_steps_the_carry_comes_back():
    case = example_for(NETWORKS["deep"], shape=USUAL._replace(steps=0), present=())
    assert_close(run(case)[0], case.carry)


@every_network
@pytest.mark.parametrize("params_dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("xs_dtype", [jnp.bfloat16, jnp.float32])
def test_dtypes_follow_params_and_inputs(network, params_dtype, xs_dtype):
    params = params_of(network, 2, np.random.default_rng(0), params_dtype)
    xs = jax.ShapeDtypeStruct((5, 3, 2), xs_dtype)
    with jax.numpy_dtype_promotion("standard"):
        expected = jnp.promote_types(params_dtype, xs_dtype)
    carry, ys = jax.eval_shape(lambda params, xs: network.apply(params, xs, key=jax.random.key(0)), params, xs)
    assert ys.dtype == expected
    assert jax.eval_shape(network.apply, params, xs, carry) == (carry, ys)
    initial = jax.eval_shape(lambda params: network.init_carry(params, (3,), dtype=expected), params)
    assert initial == carry


@pytest.mark.parametrize(
    ("merge", "expected"),
    [
        ("concat", lambda forward, backward: np.concatenate([forward, backward], -1)),
        ("sum", np.add),
        ("mean", lambda forward, backward: 0.5 * forward + 0.5 * backward),
        ("mul", np.multiply),
        (jnp.maximum, np.maximum),
    ],
    ids=["concat", "sum", "mean", "mul", "function"],
)
def test_merge(merge, expected):
    case = example_for(jl.Bidirectional(LSTM, RNN, merge=merge), present=())
    forward = jl.unroll(LSTM, case.params[0], case.xs, case.carry[0])[1]
    backward = jl.unroll(RNN, case.params[1], case.xs, case.carry[1], reverse=True)[1]
    assert_close(run(case)[1], expected(np.asarray(forward), np.asarray(backward)))


def test_the_cell_runs_backward_too():
    network = jl.Bidirectional(LSTM)
    params = network.init(jax.random.key(0), 2)
    assert [type(p) for p in params] == [jl.LSTMParams] * 2
    assert not np.array_equal(params[0].w_ih, params[1].w_ih)


@pytest.mark.parametrize(
    ("network", "size"),
    [
        (jl.Layer(GRU), 2),
        (jl.Bidirectional(LSTM), 6),
        (jl.Bidirectional(LSTM, GRU), 5),
        (jl.Bidirectional(LSTM, RNN, merge="mean"), 3),
        (jl.Bidirectional(LSTM, merge=lambda forward, backward: forward[..., :1]), 1),
        (jl.Stack(LSTM, jl.Bidirectional(GRU)), 4),
    ],
    ids=["layer", "bidirectional", "unlike", "mean", "function", "stack"],
)
def test_output_size(network, size):
    assert network.output_size == size
    params = network.init(jax.random.key(0), 5)
    assert network.apply(params, jnp.ones((2, 5)))[1].shape == (2, size)


def test_params_and_carries_nest_as_the_layers_do():
    network = jl.Stack(jl.Bidirectional(LSTM, GRU), jl.Stack(RNN))
    params = network.init(jax.random.key(0), 2)
    (forward, backward), (top,) = params
    assert (type(forward), type(backward), type(top)) == (jl.LSTMParams, jl.GRUParams, jl.RNNParams)
    assert (forward.w_ih.shape, backward.w_ih.shape, top.w_ih.shape) == ((2, 12), (2, 6), (5, 3))
    initial = network.init_carry(params, (4,))
    (forward, backward), (top,) = initial
    assert (type(forward), type(backward), type(top)) == (jl.LSTMCarry, jl.RNNCarry, jl.RNNCarry)
    assert not any(leaf.any() for leaf in jax.tree.leaves(initial))
    xs = jnp.ones((5, 4, 2))
    assert_close(network.apply(params, xs), network.apply(params, xs, initial))


def test_layers_do_not_share_their_draws():
    lower, upper = jl.Stack(LSTM, LSTM).init(jax.random.key(0), 3)
    assert not np.array_equal(lower.w_hh, upper.w_hh)


RATE = 0.3


class Echo(jl.RNNCell):
    """ys are the inputs, so that what dropout did between two of them can be seen."""

    def init(self, key, input_size, *, dtype=jnp.float32):
        size = self.hidden_size
        return jl.RNNParams(jnp.eye(size, dtype=dtype), jnp.zeros((size, size), dtype), jnp.zeros(size, dtype))

    def combine(self, zx, zh):
        return zx

    def transition(self, params, z, carry):
        return jl.RNNCarry(h=z)


def echo(depth, steps=50, **options):
    network = jl.Stack(*[Echo(40)] * depth, dropout=RATE)
    return network.apply(network.init(jax.random.key(0), 40), jnp.ones((steps, 20, 40), jnp.float32), **options)[1]


def test_dropout_has_its_rate_and_keeps_the_mean():
    ys = np.asarray(echo(2, key=jax.random.key(1)))
    dropped = ys == 0
    np.testing.assert_allclose(ys[~dropped], 1 / (1 - RATE), rtol=1e-6)
    deviation = np.sqrt(RATE * (1 - RATE) / ys.size)
    assert abs(dropped.mean() - RATE) < 5 * deviation
    for axis in range(3):  # no step, sequence or unit has a rate of its own
        others = tuple({0, 1, 2} - {axis})
        assert np.abs(dropped.mean(others) - RATE).max() < 5 * deviation * np.sqrt(ys.shape[axis])


def test_dropout_only_with_a_key_and_only_between_layers():
    assert (echo(3) == 1).all()
    assert (echo(1, key=jax.random.key(1)) == 1).all()
    zeros = (echo(3, key=jax.random.key(1)) == 0).mean()
    np.testing.assert_allclose(zeros, 1 - (1 - RATE) ** 2, atol=0.02)


def test_dropout_draws_anew_for_each_key():
    one, same, other = (echo(2, key=jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


@pytest.mark.parametrize("key", [jax.random.key(1), jax.random.PRNGKey(1)], ids=["typed", "raw"])
def test_dropout_of_a_split_is_dropout_of_the_whole(key):
    case = example_for(jl.Stack(LSTM, jl.Stack(GRU, RNN, dropout=RATE), RNN, dropout=RATE), present=())
    whole = run(case, key=key, start=7)
    carry, first = case.cell.apply(case.params, case.xs[:2], case.carry, key=key, start=7)
    carry, second = case.cell.apply(case.params, case.xs[2:], carry, key=key, start=jnp.asarray(9))
    assert_close((carry, jnp.concatenate([first, second])), whole)
    assert (run(case, key=key, start=8)[1] != whole[1]).any()


def test_dropout_keeps_padded_ys_zero():
    case = example_for(jl.Stack(LSTM, GRU, dropout=RATE))
    _, ys = run(case, key=jax.random.key(0))
    assert not np.asarray(ys)[~valid_of(case)].any()
    assert np.isfinite(ys).all()


def test_a_rate_of_zero_is_no_dropout():
    case = example_for(jl.Stack(LSTM, GRU))
    assert_close(run(case, key=jax.random.key(0)), run(case))


def test_networks_are_values():
    assert jl.Stack(LSTM, GRU) == jl.Stack(jl.Layer(jl.LSTMCell(3)), jl.Layer(jl.GRUCell(2)), dropout=0.0)
    assert jl.Stack(LSTM, GRU) != jl.Stack(GRU, LSTM)
    assert jl.Stack(LSTM) != jl.Stack(LSTM, dropout=0.5)
    assert jl.Bidirectional(LSTM) != jl.Bidirectional(LSTM, merge="sum")
    assert jl.Layer(LSTM) != jl.Layer(LSTM, reverse=True)
    assert jl.LSTMCell(3) != jl.GRUCell(3)
    assert len({jl.Stack(LSTM), jl.Stack(jl.LSTMCell(3)), jl.Stack(jl.Layer(LSTM)), jl.Layer(LSTM)}) == 2


def test_networks_print_themselves():
    assert repr(jl.LSTMCell(3, forget_bias=0.0)) == "LSTMCell(hidden_size=3, forget_bias=0.0)"
    assert repr(jl.RNNCell(3, activation_fn=jax.nn.relu)) == "RNNCell(hidden_size=3, activation_fn=relu)"
    words = {name: getattr(jl, name) for name in ("Stack", "Layer", "Bidirectional", "LSTMCell", "GRUCell", "RNNCell")}
    for network in (jl.Stack(LSTM, GRU, dropout=0.5), jl.Stack(jl.Bidirectional(LSTM, GRU, merge="concat"))):
        assert eval(repr(network), words) == network


def test_networks_are_static_arguments_of_jit():
    traces = []

    @partial(jax.jit, static_argnames="network")
    def apply(network, params, xs):
        traces.append(None)
        return network.apply(params, xs)[1]

    case = example_for(NETWORKS["nested"], present=())
    for _ in range(3):
        equal = jl.Stack(jl.Stack(jl.RNNCell(3), jl.GRUCell(2)), jl.LSTMCell(3))
        apply(equal, case.params, case.xs)
    assert len(traces) == 1


def test_params_and_carries_are_plain_trees():
    case = example_for(NETWORKS["deep"])
    leaves, structure = jax.tree.flatten((case.params, case.carry))
    assert jax.tree.unflatten(structure, leaves)[0][0][1].w_hh is case.params[0][1].w_hh
    assert all(isinstance(leaf, np.ndarray) for leaf in leaves)
