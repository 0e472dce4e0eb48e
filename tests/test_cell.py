"""What a cell's author can rely on: the five pieces, any tree as output, wrappers, scopes in profiles, initialisers."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from properties import assert_close, params_of

import jaxlstm as jl

T, B, I = 5, 3, 2  # noqa: E741
KEY = jax.random.key(0)
XS = np.random.default_rng(0).normal(size=(T, B, I))
LENGTHS = np.array([5, 2, 0])
RESET = np.arange(T)[:, None] == np.array([[2, 1, 9]])


@dataclass(frozen=True)
class Combining(jl.RNNCell):
    """An RNN whose combine is given."""

    function: object = None

    def combine(self, zx, zh):
        return self.function(zx, zh)

    def transition(self, params, z, carry):
        return jl.RNNCarry(h=jnp.tanh(jnp.concatenate(jax.tree.leaves(z), axis=-1)))


def once(cell):
    return jl.unroll(cell, params_of(jl.RNNCell(4), I, np.random.default_rng(1)), XS)


LINEAR = {
    "sum": lambda zx, zh: zx + zh,
    "jitted": jax.jit(lambda zx, zh: zx + zh),
    "parts": lambda zx, zh: {"both": zx[..., :2] + zh[..., :2], "x": zx[..., 2:]},
    "weights": lambda zx, zh: zx + zh * jnp.arange(4.0),
    "where": lambda zx, zh: jnp.where(jnp.arange(4) > 1, zx, jnp.zeros_like(zx)) + zh,
}
NOT_LINEAR = {
    "product": lambda zx, zh: zx * zh,
    "tanh": lambda zx, zh: jnp.tanh(zx) + zh,
    "maximum": jnp.maximum,
    "relu within jit": jax.jit(lambda zx, zh: jax.nn.relu(zx) + zh),
    "choice": lambda zx, zh: jnp.where(zx > 0, zx, zh),
    "quotient": lambda zx, zh: zx / zh,
}


@pytest.mark.parametrize("function", LINEAR.values(), ids=LINEAR)
@pytest.mark.usefixtures("without_type_hook")
def test_a_linear_combine_is_taken(function):
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        once(Combining(4, function=function))


@pytest.mark.parametrize("function", NOT_LINEAR.values(), ids=NOT_LINEAR)
@pytest.mark.usefixtures("without_type_hook")
def test_another_combine_is_refused(function):
    with pytest.raises(ValueError, match=r"Combining\.combine: expected a linear function of zx and zh"):
        once(Combining(4, function=function))


@dataclass(frozen=True)
class Shown(jl.CellWrapper):
    """A cell that gives its carry beside y, nested and with integers."""

    cell: jl.Cell

    def readout(self, params, carry):
        return {"y": self.cell.readout(params, carry), "carry": (carry,), "sign": jnp.sign(carry.h).astype(jnp.int32)}


CELL = jl.LSTMCell(4)
PARAMS = params_of(CELL, I, np.random.default_rng(1))


SLOW = [pytest.param(options, marks=pytest.mark.slow) for options in ({"reverse": True}, {"remat": True})]


@pytest.mark.parametrize("options", [{}, {"remat": 2}, *SLOW], ids=str)
def test_a_readout_may_return_any_tree(options):
    given = {"lengths": LENGTHS, "reset": RESET, **options}
    carry, shown = jl.unroll(Shown(CELL), PARAMS, XS, **given)
    assert_close((carry, shown["y"]), jl.unroll(CELL, PARAMS, XS, **given))
    assert shown["carry"][0].c.shape == (T, B, 4)
    assert_close(shown["carry"][0].h, shown["y"])
    assert shown["sign"].dtype == jnp.int32

    def loss(run, params):
        return (run(params)["y"] ** 2).sum()

    got = jax.grad(partial(loss, lambda params: jl.unroll(Shown(CELL), params, XS, **given)[1]))(PARAMS)
    assert_close(got, jax.grad(partial(loss, lambda params: {"y": jl.unroll(CELL, params, XS, **given)[1]}))(PARAMS))


def test_a_tree_goes_through_networks():
    both = jl.Bidirectional(Shown(CELL), merge="sum")
    params = params_of(both, I, np.random.default_rng(1))
    _, shown = both.apply(params, XS, lengths=LENGTHS)
    assert_close(shown["y"], jl.Bidirectional(CELL, merge="sum").apply(params, XS, lengths=LENGTHS)[1])
    stack = jl.Stack(Shown(CELL), CELL)
    with pytest.raises(ValueError, match=r"layers_or_cells\[0\]: expected one array as its output"):
        stack.apply(params_of(stack, I, np.random.default_rng(1)), XS)
    top = jl.Stack(CELL, Shown(CELL))
    _, shown = jl.truncated(top, params_of(top, I, np.random.default_rng(1)), XS, k1=2, k2=4)
    assert shown["carry"][0].c.shape == (T, B, 4)


@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "gradient"])
def test_scopes_reach_the_lowered_text(gradient):
    run = lambda params: jl.unroll(CELL, params, XS)[1].sum()  # noqa: E731
    lowered = jax.jit(jax.grad(run) if gradient else run).lower(PARAMS)
    text = lowered.compiler_ir("stablehlo").operation.get_asm(enable_debug_info=True)
    scopes = ["project", "recur", "combine", "transition"] + ["all_steps", "linear_scan"] * gradient
    assert [scope for scope in scopes if f"{scope}/" not in text and f"{scope})/" not in text] == []


def test_a_reset_returns_to_the_learned_carry():
    cell = jl.LearnedCarry(jl.GRUCell(4))
    params = params_of(cell, I, np.random.default_rng(1))
    reset = np.zeros((T, B), bool)
    reset[2] = True
    _, ys = jl.unroll(cell, params, XS, reset=reset)
    assert_close(ys[2:], jl.unroll(cell, params, XS[2:])[1])
    gradient = jax.grad(lambda params: jl.unroll(cell, params, XS, reset=reset)[1][2:].sum())(params)
    assert np.abs(gradient.initial_carry.h).min() > 0


BIASED = [
    *(jl.LSTMCell, jl.GRUCell, partial(jl.GRUCell, reset_after=False), jl.RNNCell, jl.MGUCell),
    partial(jl.LSTMVariantCell, peephole=True, layer_norm=True),
    *(
        jl.MinGRUCell,
        jl.MinLSTMCell,
        jl.IndRNNCell,
        partial(jl.SLSTMCell, num_heads=2),
        partial(jl.MLSTMCell, num_heads=2),
        partial(jl.ConvLSTMCell, spatial_shape=(B,)),
    ),
]


QUICK = (jl.LSTMCell, jl.GRUCell, jl.RNNCell)


@pytest.mark.parametrize("make", [pytest.param(one, marks=[pytest.mark.slow] * (one not in QUICK)) for one in BIASED])
def test_without_biases(make):
    cell, biased = make(4, bias=False), make(4)
    params = params_of(cell, I, np.random.default_rng(1))
    zeros = jax.eval_shape(lambda: biased.init(KEY, I))
    names = [name for name in ("b", "b_hn") if getattr(zeros, name, None) is not None]
    assert all(getattr(params, name) is None for name in names)
    same = params._replace(**{name: np.zeros(getattr(zeros, name).shape) for name in names})
    assert_close(jl.unroll(cell, params, XS)[1], jl.unroll(biased, same, XS)[1])
    gradients = (
        jax.grad(lambda p, c=c: (jl.unroll(c, p, XS)[1] ** 2).sum())(p) for c, p in ((cell, params), (biased, same))
    )
    got, want = gradients
    assert_close(got, want._replace(**dict.fromkeys(names)))


@pytest.mark.parametrize("make", [jl.LSTMCell, jl.LSTMVariantCell])
def test_options_of_a_bias_that_is_not_there(make):
    with pytest.raises(
        ValueError, match="forget_bias: expected its default where b_init is given or bias=False, got 2"
    ):
        make(4, bias=False, forget_bias=2.0)
    with pytest.raises(ValueError, match="b_init: expected None where bias=False"):
        make(4, bias=False, b_init=jl.chrono(9))


@pytest.mark.parametrize(
    "make", [jl.LSTMCell, jl.GRUCell, jl.RNNCell, jl.MGUCell, partial(jl.LSTMVariantCell, projection_size=64)]
)
def test_initialisers_of_jax_mean_one_gate(make):
    size = 64
    options = {
        "w_ih_init": jax.nn.initializers.glorot_uniform(),
        "w_hh_init": jax.nn.initializers.orthogonal(),
    }
    params = make(size, **options).init(KEY, 32, dtype=jnp.float64)
    gates = params.w_ih.shape[-1] // size
    for w in jnp.split(params.w_ih, gates, axis=-1):
        assert float(w.std()) == pytest.approx((2 / (32 + size)) ** 0.5, rel=0.05)
    for w in jnp.split(params.w_hh, gates, axis=-1):
        np.testing.assert_allclose(w.T @ w, np.eye(size), atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_16_bit_weights_are_drawn(dtype):
    params = jl.LSTMCell(8).init(KEY, 3, dtype=dtype)
    w = params.w_hh[:, :8].astype(jnp.float32)
    np.testing.assert_allclose(w.T @ w, np.eye(8), atol=0.05)


def test_last_output():
    lstm, both = jl.LSTMCell(4), jl.Bidirectional(jl.LSTMCell(4), jl.GRUCell(3))
    for network in (jl.Layer(lstm), jl.Stack(lstm), jl.Stack(both, jl.Stack(lstm))):
        params = params_of(network, I, np.random.default_rng(1))
        carry, ys = network.apply(params, XS, lengths=LENGTHS)
        for b, length in enumerate(LENGTHS):
            expected = ys[length - 1, b] if length else np.zeros(4)
            assert_close(jl.last_output(carry)[b], jnp.asarray(expected))
    params = params_of(both, I, np.random.default_rng(1))
    (forward, backward), ys = both.apply(params, XS)
    assert_close(
        jl.last_output(jl.BidirectionalCarry(forward, backward)), jnp.concatenate([ys[-1, :, :4], ys[0, :, 4:]], -1)
    )
    assert jl.last_output((forward, backward)).shape == (B, 3)  # a stack of two: the top layer


@pytest.mark.parametrize("wrong", [(), None, jnp.ones(3), (jnp.ones(3),)], ids=repr)
@pytest.mark.usefixtures("without_type_hook")
def test_no_carry_has_no_last_output(wrong):
    with pytest.raises(TypeError, match="carry: expected the carry of a network whose cells have an h"):
        jl.last_output(wrong)


def test_pad():
    rng = np.random.default_rng(0)
    sequences = [rng.normal(size=(t, I)) for t in (3, 0, 5)]
    xs, lengths = jl.pad(sequences)
    assert (xs.shape, lengths.tolist(), lengths.dtype) == ((5, 3, I), [3, 0, 5], jnp.int32)
    for b, one in enumerate(sequences):
        np.testing.assert_array_equal(xs[: len(one), b], one)
        assert not xs[len(one) :, b].any()
    carry, _ = jl.unroll(CELL, PARAMS, xs, lengths=lengths)
    for b, one in enumerate(sequences):
        alone, _ = jl.unroll(CELL, PARAMS, one)
        assert_close(jax.tree.map(lambda leaf, b=b: leaf[b], carry), alone)
    tokens, _ = jl.pad([np.array([1, 2]), np.array([3])])
    assert tokens.tolist() == [[1, 3], [2, 0]]


NOT_SEQUENCES = {
    "none": ([], ValueError, "sequences: expected at least one sequence, got none"),
    "an array": (np.ones((2, 3)), TypeError, r"sequences: expected a list of arrays \[T_i, ...\], got float64\[2, 3\]"),
    "features": ([np.ones((2, 3)), np.ones((2, 4))], ValueError, r"sequences\[1\]: expected float64 of shape \[T, 3\]"),
    "dtypes": ([np.ones(2), np.ones(2, int)], ValueError, r"sequences\[1\]: expected float64"),
    "a number": ([np.ones(2), 3.0], ValueError, r"sequences\[1\]: expected an array \[T, ...\]"),
    "shapes": ([np.ones(3), np.ones((2, 2))], ValueError, r"sequences\[1\]: expected float64 of shape \[T\], as seq"),
    "lists of lists": ([[[1.0, 2.0], [3.0]]], ValueError, r"sequences\[0\]: expected an array \[T, ...\], got"),
    "words": ([["a", "b"]], TypeError, r"sequences\[0\]: expected an array of numbers"),
}


@pytest.mark.parametrize(("sequences", "error", "message"), NOT_SEQUENCES.values(), ids=NOT_SEQUENCES)
@pytest.mark.usefixtures("without_type_hook")
def test_what_cannot_be_padded_is_named(sequences, error, message):
    with pytest.raises(error, match=message):
        jl.pad(sequences)


STEPS, BATCH = jax.export.symbolic_shape("T, B")


def test_known_lengths_of_symbolic_steps(without_type_hook):
    def run(xs, lengths=LENGTHS):
        return jl.unroll(CELL, PARAMS, xs, lengths=lengths)[1]

    shape = jax.ShapeDtypeStruct((STEPS, B, I), jnp.float64)
    assert_close(jax.export.export(jax.jit(run))(shape).call(jnp.asarray(XS)), run(XS))
    with pytest.raises(ValueError, match=r"lengths: expected values in 0..T \(the number of steps\), got -1..5"):
        jax.export.export(jax.jit(partial(run, lengths=np.array([5, -1, 0]))))(shape)


@pytest.mark.parametrize("options", [{}, {"remat": True}, {"reverse": True, "lengths": True}], ids=str)
def test_symbolic_steps_and_batch(options, without_type_hook):
    def run(xs):
        given = dict(options)
        if given.pop("lengths", False):
            given["lengths"] = jnp.zeros(xs.shape[1], jnp.int32) + 2
        return (jl.unroll(CELL, PARAMS, xs, **given)[1] ** 2).sum()

    exported = jax.export.export(jax.jit(jax.grad(run)))(jax.ShapeDtypeStruct((STEPS, BATCH, I), jnp.float64))
    assert_close(exported.call(jnp.asarray(XS)), jax.jit(jax.grad(run))(XS))


@pytest.mark.parametrize("remat", [3, "sqrt"])
def test_a_symbolic_batch_with_chunks(remat, without_type_hook):
    run = lambda xs: jl.unroll(CELL, PARAMS, xs, remat=remat)  # noqa: E731
    exported = jax.export.export(jax.jit(run))(jax.ShapeDtypeStruct((T, BATCH, I), jnp.float64))
    assert_close(exported.call(jnp.asarray(XS))[1], run(XS)[1])


SYMBOLIC = {
    "remat": (partial(jl.unroll, CELL, PARAMS, remat=4), "remat: expected None or True where .* symbolic, got 4"),
    "sqrt": (partial(jl.unroll, CELL, PARAMS, remat="sqrt"), "remat: expected None or True where .* got 'sqrt'"),
    "unroll": (partial(jl.unroll, CELL, PARAMS, unroll=2), "unroll: expected 1 where .* symbolic, got 2"),
    "truncated": (partial(jl.truncated, CELL, PARAMS, k1=2, k2=4), "xs: expected a known number of steps"),
}


@pytest.mark.parametrize(("run", "message"), SYMBOLIC.values(), ids=SYMBOLIC)
def test_what_cannot_be_symbolic_is_named(run, message, without_type_hook):
    with pytest.raises(ValueError, match=message):
        jax.export.export(jax.jit(lambda xs: run(xs)))(jax.ShapeDtypeStruct((STEPS, B, I), jnp.float64))


class CountedCarry(NamedTuple):
    """A carry that also counts steps."""

    h: jax.Array
    count: jax.Array


class PermutedParams(NamedTuple):
    """Params that hold integers."""

    rnn: jl.RNNParams
    scale: jax.Array
    order: jax.Array


@dataclass(frozen=True)
class Permuted(jl.Cell):
    """h_t = scale * tanh(z_t)[order] / t, with integers in the params and in the carry."""

    hidden_size: int

    def init(self, key, input_size, *, dtype=jnp.float32):
        rnn = jl.RNNCell(self.hidden_size).init(key, input_size, dtype=dtype)
        return PermutedParams(rnn, jnp.ones(self.hidden_size, dtype), jnp.arange(self.hidden_size))

    def init_carry(self, params, batch_shape=(), *, dtype=None):
        dtype = dtype or params.scale.dtype
        return CountedCarry(jnp.zeros((*batch_shape, self.hidden_size), dtype), jnp.zeros(batch_shape, jnp.int32))

    def project(self, params, x):
        return jl.RNNCell(self.hidden_size).project(params.rnn, x)

    def recur(self, params, carry):
        return carry.h @ params.rnn.w_hh

    def transition(self, params, z, carry):
        count = carry.count + 1
        scale = jax.lax.expand_dims(params.scale, range(z.ndim - 1))
        return CountedCarry(scale * jnp.tanh(z)[..., params.order] / count[..., None].astype(z.dtype), count)

    def readout(self, params, carry):
        return carry.h


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_integers_in_params_and_carry_and_a_vector_of_the_transition(batch):
    cell, draw = Permuted(4), np.random.default_rng(2)
    rnn = params_of(jl.RNNCell(4), I, draw)
    xs, scale, order = draw.normal(size=(5, *batch, I)), draw.normal(size=4), jnp.array([2, 0, 3, 1])

    def loss(run, rnn, scale, xs):
        return (run(PermutedParams(rnn, scale, order), xs) ** 3).sum()

    def plain(params, xs):
        return jax.lax.scan(partial(cell.step, params), cell.init_carry(params, batch), xs)[1]

    ours, theirs = (
        jax.jit(jax.grad(partial(loss, run), argnums=(0, 1, 2)))(rnn, scale, xs)
        for run in (lambda params, xs: jl.unroll(cell, params, xs)[1], plain)
    )
    assert_close(ours, theirs)
