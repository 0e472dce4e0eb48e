"""Evaluators other than the loop: the same numbers, derivatives and options; what they refuse; how deep they are."""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm as jl
from jaxlstm import _flat_steps, _newton

T, B, I, H = 13, 2, 3, 4  # noqa: E741
KEY = jax.random.key(0)
XS = jax.random.normal(jax.random.key(1), (T, B, I))
MASK, RESET = (jax.random.bernoulli(jax.random.key(seed), rate, (T, B)) for seed, rate in ((2, 0.7), (3, 0.3)))
LINEAR = {
    "min_gru": jl.MinGRUCell(H),
    "min_lstm": jl.MinLSTMCell(H),
    "lru": jl.LRUCell(H, state_size=3),
    "learned carry": jl.LearnedCarry(jl.MinGRUCell(H)),
}
ANY = {"gru": jl.GRUCell(H), "lstm": jl.LSTMCell(H), "ind_rnn": jl.IndRNNCell(H)}
OPTIONS = {
    "plain": {},
    "reverse, lengths": {"reverse": True, "lengths": jnp.array([5, 0])},
    "mask, reset": {"mask": MASK, "reset": RESET},
    "reverse, mask, reset": {"reverse": True, "mask": MASK, "reset": RESET},
    "chunks": {"remat": 5, "mask": MASK},
    "remat, reset": {"remat": True, "reset": RESET},
}
SOME = {"gru-mask, reset", "lru-chunks"}  # for the default run; the rest are slow


def drawn(cell):
    """Params none of which is zero, and a carry."""
    params = cell.init(KEY, I, dtype=jnp.float64)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(4), len(leaves))
    moved = [leaf + 0.2 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    params = jax.tree.unflatten(structure, moved)
    return params, jax.tree.map(lambda leaf: leaf + 0.5, cell.init_carry(params, (B,)))


def squares(tree):
    """The sum of all squared magnitudes."""
    return sum(jnp.real(leaf * leaf.conj()).sum() for leaf in jax.tree.leaves(tree))


def both(cell, evaluator, options, order=1):
    """What the loop and the evaluator give: outputs and gradients, or a gradient of the gradient."""
    params, carry = drawn(cell)

    def loss(name, params, xs, carry):
        after, ys = jl.unroll(cell, params, xs, carry, evaluator=name, **options)
        return jnp.sin(ys).sum() + sum(jnp.real(leaf * leaf.conj()).sum() for leaf in jax.tree.leaves(after)), (
            after,
            ys,
        )

    def first(name, *args):
        return jax.value_and_grad(partial(loss, name), argnums=(0, 1, 2), has_aux=True)(*args)

    def second(name, *args):
        return jax.grad(lambda *args: squares(first(name, *args)[1]), argnums=(0, 1, 2))(*args)

    run = jax.jit(first if order == 1 else second, static_argnums=0)
    return run("loop", params, XS, carry), run(evaluator, params, XS, carry)


def assert_same(one, other):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12), one, other)


def finished(results):
    """The results, when they are there and what they warn of is said."""
    jax.block_until_ready(results)
    jax.effects_barrier()
    return results


def cases(cells, evaluator):
    for name in cells:
        for option in OPTIONS:
            case = f"{name}-{option}"
            marks = () if case in SOME else pytest.mark.slow
            yield pytest.param(cells[name], evaluator, option, marks=marks, id=case)


@pytest.mark.parametrize(("cell", "evaluator", "option"), [*cases(LINEAR, "associative"), *cases(ANY, "newton")])
def test_numbers_and_gradients_are_those_of_the_loop(cell, evaluator, option):
    assert_same(*both(cell, evaluator, OPTIONS[option]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "evaluator"), [(LINEAR["min_lstm"], "associative"), (ANY["gru"], "newton"), (ANY["ind_rnn"], "newton")]
)
def test_second_derivatives_are_those_of_the_loop(cell, evaluator):
    assert_same(*both(cell, evaluator, {"mask": MASK, "reset": RESET}, order=2))


@pytest.mark.parametrize("evaluator", ["associative", "newton"])
@pytest.mark.parametrize("steps", [0, 1])
def test_few_steps(evaluator, steps):
    cell = LINEAR["min_gru"] if evaluator == "associative" else ANY["gru"]
    params, carry = drawn(cell)
    assert_same(*(jl.unroll(cell, params, XS[:steps], carry, evaluator=name) for name in ("loop", evaluator)))


def test_networks_and_draws():
    """Both directions, stacks, dropout with a key and a start, and vmap over params."""
    network = jl.Stack(jl.Bidirectional(jl.MinGRUCell(H)), jl.MinLSTMCell(H), dropout=0.5)
    params = jax.vmap(lambda key: network.init(key, I, dtype=jnp.float64))(jax.random.split(KEY, 2))

    def run(name, params):
        return network.apply(params, XS, mask=MASK, key=KEY, start=7, evaluator=name)

    assert_same(*(jax.vmap(partial(run, name))(params) for name in ("loop", "associative")))


def test_newton_s_method_with_draws():
    cell = jl.RecurrentDropout(jl.Zoneout(ANY["lstm"], h=0.3, c=0.4), 0.3)
    assert_same(*both(cell, "newton", {"key": KEY, "start": 7, "reset": RESET}))


@pytest.mark.parametrize("k2", [5, 10])
def test_windows_and_blocks(k2):
    cell = LINEAR["min_lstm"]
    params, carry = drawn(cell)

    def gradient(name):
        run = partial(jl.truncated, cell, xs=XS, carry=carry, k1=5, k2=k2, mask=MASK, reset=RESET, evaluator=name)
        return jax.jit(jax.value_and_grad(lambda params: jnp.sin(run(params)[1]).sum()))(params)

    assert_same(gradient("associative"), gradient("loop"))


@pytest.mark.parametrize(("evaluator", "cell"), [("associative", LINEAR["min_gru"]), ("newton", ANY["gru"])])
def test_nan_reaches_nothing_behind_a_reset_or_in_the_padding(evaluator, cell):
    params, carry = drawn(cell)
    carry = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), carry)
    reset = jnp.zeros((T, B), bool).at[0].set(True)
    xs, lengths = XS.at[9:, 1].set(jnp.nan), jnp.array([T, 9])

    def loss(params, name):
        return jl.unroll(cell, params, xs, carry, reset=reset, lengths=lengths, evaluator=name)[1].sum()

    found, expected = (jax.value_and_grad(loss)(params, name) for name in (evaluator, "loop"))
    assert np.isfinite(found[0])
    assert_same(found, expected)


@pytest.mark.parametrize(
    ("cell", "evaluator"),
    [
        pytest.param(cell, evaluator, marks=() if name == "lstm" else pytest.mark.slow, id=name)
        for cells, evaluator in ((LINEAR, "associative"), (ANY | {"mlstm": jl.MLSTMCell(2)}, "newton"))
        for name, cell in cells.items()
    ],
)
def test_16_bit_params_and_carries_of_several_dtypes(cell, evaluator):
    """Under strict promotion, as all tests are."""
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), drawn(cell)[0])

    def loss(params, name):
        options = {"remat": True, "mask": MASK, "reset": RESET}
        ys = jl.unroll(cell, params, XS.astype(jnp.bfloat16), evaluator=name, **options)[1]
        return jnp.sin(ys.astype(jnp.float32)).sum()

    found, expected = (jax.jit(jax.grad(partial(loss, name=name)))(params) for name in (evaluator, "loop"))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == jnp.bfloat16
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        np.testing.assert_allclose(one, other, atol=0.15 * max(1, np.abs(other).max()))


def test_16_bits_are_at_least_as_exact_as_in_the_loop():
    cell = jl.MinLSTMCell(H)
    params, _ = drawn(cell)
    xs = jax.random.normal(KEY, (300, B, I), jnp.bfloat16)
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)

    def error(name):
        exact = jl.unroll(cell, jax.tree.map(lambda leaf: leaf.astype(jnp.float64), narrow), xs.astype(jnp.float64))[1]
        ys = jl.unroll(cell, narrow, xs, evaluator=name)[1]
        assert ys.dtype == jnp.bfloat16
        return jnp.abs(ys.astype(jnp.float64) - exact).max()

    assert error("associative") <= 1.5 * error("loop") < 0.03


def test_float32_over_a_long_sequence():
    """The bound that the docs state: 1e-5 after 16 384 steps, against float64."""
    cell = jl.MinGRUCell(H)
    params, _ = drawn(cell)
    xs = jax.random.normal(KEY, (16_384, 1, I))
    exact = jl.unroll(cell, params, xs)[1]
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (params, xs))
    found = jl.unroll(cell, *narrow, evaluator="associative")[1]
    np.testing.assert_allclose(found, exact, atol=1e-5)


@dataclass(frozen=True)
class Overriding(jl.MinGRUCell):
    """It claims to be linear by its class, and is not."""

    def transition(self, params, z, carry):
        return jl.RNNCarry(h=jnp.tanh(super().transition(params, z, carry).h))


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        (jl.LSTMCell(H), "no coefficients"),
        (jl.LearnedCarry(jl.GRUCell(H)), "no coefficients"),
        (jl.Zoneout(jl.MinGRUCell(H), h=0.1), "its own transition may not be linear"),
        (Overriding(H), "its own transition may not be linear"),
    ],
    ids=["lstm", "learned", "zoneout", "overriding"],
)
def test_a_cell_that_is_not_linear_is_refused(cell, why):
    params = cell.init(KEY, I)
    with pytest.raises(ValueError, match=f"evaluator: expected .*{why}"):
        jl.unroll(cell, params, XS, evaluator="associative")


@dataclass(frozen=True)
class Decaying(jl.MinGRUCell):
    """A cell with coefficients of its own: `given` makes them of one a for each feature, and of b."""

    given: Callable = lambda a, b: (jl.RNNCarry(a), jl.RNNCarry(b))

    def coefficients(self, params, zx):
        return self.given(jax.nn.sigmoid(params.b[:H]), zx[..., :H])


def test_one_coefficient_for_all_sequences_will_do():
    cell, explicit = (
        Decaying(H),
        Decaying(H, given=lambda a, b: (jl.RNNCarry(jnp.broadcast_to(a, b.shape)), jl.RNNCarry(b))),
    )
    params, carry = drawn(cell)

    def gradient(name, cell):
        return jax.grad(lambda params: squares(jl.unroll(cell, params, XS, carry, evaluator=name)))(params)

    expected = gradient("loop", explicit)
    with jax.numpy_rank_promotion("raise"):
        for name in ("loop", "associative"):
            assert_same(gradient(name, cell), expected)


@pytest.mark.parametrize("evaluator", ["loop", "associative"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda a, b: jl.RNNCarry(b), r"returns: expected a tuple of 2 \(a, b\), got RNNCarry"),
        (lambda a, b: (a, b, a), r"returns: expected a tuple of 2 \(a, b\), got a tuple of 3"),
        (lambda a, b: (jl.RNNCarry(a), b), r"returns, \[1\]: expected a RNNCarry, as the carry, got float64\[2, 4\]"),
        (lambda a, b: (jl.RNNCarry(a[:2]), jl.RNNCarry(b)), r"returns, \[0\]: .*broadcasts to .*\(2, 4\), got \(2,\)"),
    ],
    ids=["one", "three", "bare", "shape"],
)
def test_coefficients_that_do_not_fit_the_carry_are_refused(evaluator, given, message, without_type_hook):
    cell = Decaying(H, given=given)
    params, _ = drawn(jl.MinGRUCell(H))
    with pytest.raises((ValueError, TypeError), match=f"what Decaying.coefficients {message}"):
        jl.unroll(cell, params, XS, evaluator=evaluator)


def test_chunks_are_those_of_the_mlstm_and_of_remat():
    cell = jl.LearnedCarry(jl.MLSTMCell(H, num_heads=2))
    network = jl.Bidirectional(cell)
    params = network.init(KEY, I, dtype=jnp.float64)
    expected = network.apply(params, XS, mask=MASK, reset=RESET)
    for remat in (None, 4):
        found = network.apply(params, XS, mask=MASK, reset=RESET, evaluator="chunkwise", remat=remat)
        assert_same(found, expected)
    with pytest.raises(ValueError, match="evaluator: expected None or 'loop', 'newton', got 'chunkwise' for LSTMCell"):
        jl.unroll(jl.LSTMCell(H), jl.LSTMCell(H).init(KEY, I), XS, evaluator="chunkwise")


@dataclass(frozen=True, repr=False)
class Twice(jl.LearnedCarry):
    """One that reads its output in its own way."""

    def readout(self, params, carry):
        return 2 * super().readout(params, carry)


def test_chunks_refuse_a_wrapper_with_its_own_readout():
    cell = Twice(jl.MLSTMCell(H))
    with pytest.raises(ValueError, match="got 'chunkwise' for Twice: its own readout may differ from the mLSTM"):
        jl.unroll(cell, cell.init(KEY, I), XS, evaluator="chunkwise")


class CountedCarry(NamedTuple):
    h: jax.Array
    n: jax.Array


@dataclass(frozen=True, repr=False)
class Counting(jl.LinearCell):
    """minGRU that counts its steps, in integers."""

    hidden_size: int

    def init(self, key, input_size, *, dtype=jnp.float32):
        return jl.MinGRUCell(self.hidden_size).init(key, input_size, dtype=dtype)

    def init_carry(self, params, batch_shape=(), *, dtype=None):
        h = jl.MinGRUCell(self.hidden_size).init_carry(params, batch_shape, dtype=dtype).h
        return CountedCarry(h, jnp.zeros(batch_shape, jnp.int32))

    def coefficients(self, params, zx):
        a, b = jl.MinGRUCell(self.hidden_size).coefficients(params, zx)
        one = jnp.ones(zx.shape[:-1], jnp.int32)
        return CountedCarry(a.h, one), CountedCarry(b.h, one)


def test_a_linear_cell_with_integers_runs_by_the_loop():
    cell, plain = Counting(H), jl.MinGRUCell(H)
    params = cell.init(KEY, I, dtype=jnp.float64)
    (carry, ys), gradient = (
        jl.unroll(cell, params, XS, lengths=jnp.array([T, 4])),
        jax.grad(lambda params: jl.unroll(cell, params, XS)[1].sum())(params),
    )
    assert carry.n.tolist() == [T, 4]
    assert_same(ys, jl.unroll(plain, params, XS, lengths=jnp.array([T, 4]))[1])
    assert_same(gradient, jax.grad(lambda params: jl.unroll(plain, params, XS)[1].sum())(params))
    with pytest.raises(ValueError, match="got 'associative' for Counting: its carry holds integers"):
        jl.unroll(cell, params, XS, evaluator="associative")


class Drawing(jl.MinGRUCell):
    def draw(self, key, time, carry):
        return jnp.ones(carry.h.shape)


def test_a_linear_cell_cannot_draw():
    cell = Drawing(H)
    with pytest.raises(ValueError, match=r"Drawing.draw: expected None, since coefficients depend on the input alone"):
        jl.unroll(cell, cell.init(KEY, I), XS, key=KEY)


def test_both_directions_run_the_loop_only_where_newton_s_method_needs_it():
    network = jl.Bidirectional(jl.GRUCell(H))
    params = network.init(KEY, I)
    lowered = jax.jit(partial(network.apply, evaluator="newton")).lower(params, jnp.ones((8, B, I)))
    assert len(re.findall("stablehlo.case|stablehlo.if", lowered.as_text())) == 2


def test_an_unknown_evaluator_and_symbolic_steps_are_refused(without_type_hook):
    cell = LINEAR["min_gru"]
    params, _ = drawn(cell)
    with pytest.raises(
        ValueError, match=r"evaluator: .*got 'newton' for LRUCell: its carry does not hold real numbers"
    ):
        jl.unroll(jl.LRUCell(H), jl.LRUCell(H).init(KEY, I), XS, evaluator="newton")
    with pytest.raises(ValueError, match=r"evaluator: expected None or one of 'loop', .*got 'scan'"):
        jl.unroll(cell, params, XS, evaluator="scan")
    (steps,) = jax.export.symbolic_shape("T")
    xs = jax.ShapeDtypeStruct((steps, B, I), jnp.float64)
    run = lambda evaluator: jax.export.export(jax.jit(partial(jl.unroll, cell, evaluator=evaluator)))(params, xs)  # noqa: E731
    run(None)
    for evaluator in ("associative", "chunkwise", "newton"):
        with pytest.raises(ValueError, match=f"evaluator: expected None or 'loop', got '{evaluator}' .*symbolic"):
            run(evaluator)


def test_no_loop_over_time_is_left():
    """The longest chain of dependent steps: the loop's T iterations, or no loop at all."""
    cell = LINEAR["min_gru"]
    params, _ = drawn(cell)
    xs = jnp.ones((64, B, I))

    def loops(evaluator, platform="cpu"):
        loss = lambda params: jl.unroll(cell, params, xs, evaluator=evaluator)[1].sum()  # noqa: E731
        lowered = jax.jit(jax.grad(loss)).trace(params).lower(lowering_platforms=(platform,))
        return len(re.findall("stablehlo.while", lowered.as_text()))

    assert [loops("loop"), loops(None), loops("associative")] == [2, 2, 0]
    assert loops(None, "cuda") == loops(None, "tpu") == 0


@pytest.mark.parametrize("cell", [LINEAR["min_gru"], jl.LRUCell(H)], ids=["min_gru", "lru"])
@pytest.mark.parametrize("steps", [64, pytest.param(1024, marks=pytest.mark.slow)])
def test_the_longest_chain_of_dependent_operations_grows_with_log_t(cell, steps):
    chains = pytest.importorskip("chains", reason="needs the folder benchmarks")
    forward, gradient = (chains.chain(program.as_text()) for program in chains.programs(cell, steps, "associative"))
    assert forward <= 5 * np.log2(steps)
    assert gradient <= 10 * np.log2(steps)
    assert chains.chain(chains.programs(cell, steps, "loop")[0].as_text()) >= steps


def of_unlike_sizes():
    """Sequences whose numbers differ so much in size that one must not stand for the others."""
    lstm, slstm, rnn = jl.LSTMCell(H), jl.SLSTMCell(H), jl.RNNCell(H)
    xs = jax.random.normal(jax.random.key(1), (40, B, I), jnp.float32)
    first = lstm.init_carry(lstm.init(KEY, I, dtype=jnp.float32), (B,))
    yield "one large feature", lstm, xs, {"carry": first._replace(c=first.c.at[:, 0].set(1e6))}
    yield "held, -1e30", slstm, xs, {"lengths": jnp.array([40, 9]), "reverse": True}
    growing = jl.IndRNNCell(H, u_init=lambda key, shape, dtype: jnp.array([1.5, 0.5, 0.9, 0.9], dtype))
    yield "growth, then a reset", growing, xs + 1, {"reset": jnp.zeros((40, B), bool).at[25].set(True)}
    for cell in (rnn, lstm):
        yield f"all tiny, {type(cell).__name__}", cell, 1e-12 * xs, {}


@pytest.mark.parametrize(
    ("cell", "xs", "options"),
    [
        pytest.param(*rest, id=name, marks=() if name == "all tiny, RNNCell" else pytest.mark.slow)
        for name, *rest in of_unlike_sizes()
    ],
)
def test_newton_s_method_is_right_in_every_number(cell, xs, options):
    params = cell.init(KEY, I, dtype=jnp.float32)
    ys, by_loop = (jl.unroll(cell, params, xs, evaluator=name, **options)[1] for name in ("newton", "loop"))
    sizes = jnp.abs(by_loop).max(-1, keepdims=True)
    np.testing.assert_allclose(ys / (sizes + 1e-30), by_loop / (sizes + 1e-30), atol=1e-5)


def test_where_newton_s_method_does_not_converge_the_loop_runs_and_says_so(monkeypatch):
    cell = jl.GRUCell(H + 1)  # of no other test, whose program would be in the cache
    params = jax.tree.map(lambda leaf: 30 * leaf, drawn(cell)[0])
    monkeypatch.setattr(_newton, "ITERATIONS", 2)
    expected = jl.unroll(cell, params, XS)
    with pytest.warns(UserWarning, match="did not converge for 2 of 2 sequences in 2 iterations; the loop ran"):
        found = finished(jl.unroll(cell, params, XS, evaluator="newton"))
    assert_same(found, expected)


def test_where_it_converges_nothing_is_said():
    cell = ANY["gru"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finished(jl.unroll(cell, drawn(cell)[0], XS, evaluator="newton"))


@pytest.mark.slow
@pytest.mark.parametrize("cell", [jl.LSTMCell(H + 2), jl.GRUCell(H + 2)])
def test_beyond_the_largest_jacobian_diagonals_do(cell, monkeypatch):
    monkeypatch.setattr(_flat_steps, "DENSE", 2)
    assert_same(*both(cell, "newton", {"mask": MASK, "reset": RESET}))
    assert_same(*both(cell, "newton", {}, order=2))


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        (jl.IndRNNCell(H), "diagonal"),
        (jl.MinGRUCell(H), "diagonal"),
        (jl.LSTMCell(H), "dense"),
        (jl.RNNCell(H), "dense"),
        (jl.GRUCell(200), "large"),
    ],
)
def test_kinds_of_jacobians(cell, kind):
    params = cell.init(KEY, I, dtype=jnp.float64)
    inputs = _flat_steps.Inputs(XS, None, RESET, None)
    assert _flat_steps.jacobian_kind(cell, params, cell.init_carry(params, (B,)), inputs) == kind


def test_no_steps_need_no_iterations():
    cell = ANY["gru"]
    report = jl.inspect.newton_report(cell, drawn(cell)[0], XS[:0])
    assert report.iterations.tolist() == [0, 0]
    assert report.converged.all()
