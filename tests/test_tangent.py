"""The derivative rule: every mode and order against plain autodiff of a loop, the matmuls it leaves in the loops, and
what else it promises: weight gradients of 16-bit weights, lowering for other platforms, no NaN out of the padding."""

from collections import Counter
from dataclasses import dataclass
from functools import partial

import jax
import jax.export
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from properties import LearnedStartCell, MinimalGatedCell, weighed, where

import jaxlstm as jl

KEY = jax.random.key(0)


def cells(hidden_size, projection_size):
    """Every cell and option."""
    variant = partial(jl.LSTMVariantCell, hidden_size)
    every_option = variant(peephole=True, coupled=True, projection_size=projection_size, layer_norm=True, clip=0.9)
    return {
        "lstm": jl.LSTMCell(hidden_size),
        "gru": jl.GRUCell(hidden_size),
        "gru reset before": jl.GRUCell(hidden_size, reset_after=False),
        "rnn": jl.RNNCell(hidden_size),
        "peephole": variant(peephole=True),
        "coupled": variant(coupled=True),
        "projection": variant(projection_size=projection_size),
        "layer norm": variant(layer_norm=True),
        "clip": variant(clip=0.5),
        "zoneout": jl.Zoneout(jl.LSTMCell(hidden_size), h=0.3, c=0.4),
        "dropout": jl.RecurrentDropout(jl.GRUCell(hidden_size), 0.4),
        "every option": jl.RecurrentDropout(jl.Zoneout(every_option, h=0.3, c=0.4), 0.4),
        "mgu": jl.MGUCell(hidden_size),
        "min gru": jl.MinGRUCell(hidden_size),
        "min lstm": jl.MinLSTMCell(hidden_size),
        "ind rnn": jl.IndRNNCell(hidden_size, activation_fn=jnp.tanh),
        "slstm": jl.LearnedCarry(jl.SLSTMCell(hidden_size, num_heads=hidden_size)),  # an m that sums can hold
        "mlstm": jl.MLSTMCell(hidden_size),
        "lru": jl.LRUCell(hidden_size, state_size=2),
        "conv lstm": jl.ConvLSTMCell(hidden_size, spatial_shape=(2, 2), kernel_shape=2),
        "user's": MinimalGatedCell(hidden_size),
        "learned start": LearnedStartCell(hidden_size),
    }


CELLS = cells(3, 2)
# Of the cells that the rule sees alike, one: where a test's programs are so long that every cell would take minutes.
UNLIKE = ("lstm", "gru reset before", "every option", "slstm", "mlstm", "lru", "conv lstm", "user's", "learned start")


def every_cell(*, quick, names=tuple(CELLS)):
    """Each cell of that name; all but the quick ones among the slow tests, since these are long programs to compile."""
    return pytest.mark.parametrize(
        "cell",
        [pytest.param(CELLS[name], id=name, marks=[pytest.mark.slow] * (name not in quick)) for name in names],
    )


def problem(network, steps=4, batch=(3,), input_size=2, seed=0):
    """``(params, xs, carry)``, tangents like them, and lengths, mask and resets with all that may meet in a step."""
    rng = np.random.default_rng(seed)
    params = jax.eval_shape(lambda: network.init(KEY, input_size))
    carry = jax.eval_shape(lambda p: network.init_carry(p, batch), params)
    spatial_shape = getattr(network, "spatial_shape", ())
    xs = jax.ShapeDtypeStruct((steps, *batch, *spatial_shape, input_size), jnp.float64)

    def draw(leaf):
        number = rng.normal(size=leaf.shape)
        return jnp.asarray(number + 1j * rng.normal(size=leaf.shape) if leaf.dtype.kind == "c" else number)

    point, tangent = (jax.tree.map(draw, (params, xs, carry)) for _ in range(2))
    options = {
        "lengths": jnp.asarray([steps, steps - 1, 1][: batch[0]]),
        "mask": jnp.asarray(rng.random((steps, *batch)) < 0.8),
        "reset": jnp.asarray(rng.random((steps, *batch)) < 0.4),
    }
    return point, tangent, options


def plain(cell, params, xs, carry, *, lengths, mask, reset, reverse=False, key=None):
    """The recurrence as one scan of the five pieces, for plain autodiff."""
    initial, times = cell.init_carry(params, lengths.shape), jnp.arange(len(xs))
    noise = None if key is None else jax.vmap(lambda time: cell.draw(key, time, initial))(times)

    def step(carry, now):
        x, valid, reset, noise = now
        noise = () if noise is None else (noise,)
        if not reverse:
            carry = where(reset, initial, carry)
        zx = cell.project(params, where(valid, x, jnp.zeros_like(x)))
        after = cell.transition(params, cell.combine(zx, cell.recur(params, carry, *noise)), carry, *noise)
        carry = where(valid, after, carry)
        y = cell.readout(params, carry)
        y = where(valid, y, jnp.zeros_like(y))
        return where(reset, initial, carry) if reverse else carry, y

    valid = mask & (times[:, None] < lengths[None])
    return jax.lax.scan(step, carry, (xs, valid, reset, noise), reverse=reverse)


def assert_close(got, want, tolerance=1e-12):
    """Each leaf to a tolerance relative to its largest number."""
    assert jax.tree.structure(got) == jax.tree.structure(want)

    def leaf(path, got, want):
        largest = np.abs(want).max(initial=0)
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * largest, err_msg=str(path))

    jax.tree_util.tree_map_with_path(leaf, got, want)


def compiled(function):
    """Jitted, and compiled in a hurry, since each of these runs once and second derivatives are long programs."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def scalar(run):
    """A smooth function of everything that `run` returns, whose second derivative has no part that is zero."""
    return lambda point: jnp.sin(weighed(run(*point)))


def first_and_second(run, point, tangent):
    """Values, and the derivatives of first and second order in each order of modes."""
    loss = scalar(run)
    grad = jax.grad(loss)

    def along(point):
        return sum(jax.tree.leaves(jax.tree.map(lambda a, b: (a * b).sum().real, grad(point), tangent)))

    gradient, jvp_of_grad = jax.jvp(grad, (point,), (tangent,))
    return {
        "jvp": jax.jvp(lambda point: run(*point), (point,), (tangent,)),
        "grad": gradient,
        "jvp of grad": jvp_of_grad,
        "grad of grad": jax.grad(along)(point),
    }


def assert_derivatives_are_those_of(expected, run, point, tangent):
    got = compiled(partial(first_and_second, run))(point, tangent)
    assert_close(got, compiled(partial(first_and_second, expected))(point, tangent))


@every_cell(quick=["lstm", "peephole", "user's"])
def test_every_mode_and_order(cell):
    point, tangent, options = problem(cell)
    run, expected = (partial(f, cell, **options, key=KEY) for f in (jl.unroll, plain))
    assert_derivatives_are_those_of(expected, run, point, tangent)


@every_cell(quick=["lstm"], names=UNLIKE)
def test_in_reverse_under_other_options_of_the_loop(cell):
    point, tangent, options = problem(cell)
    options |= {"reverse": True, "key": KEY}

    def derivatives(run):
        grad = jax.grad(scalar(run))
        return jax.jvp(grad, (point,), (tangent,))

    want = compiled(lambda: derivatives(partial(plain, cell, **options)))()
    for loop in {"remat": True}, {"remat": 3}, {"project_first": True, "unroll": 2}:
        assert_close(compiled(lambda: derivatives(partial(jl.unroll, cell, **options, **loop)))(), want)  # noqa: B023


@every_cell(quick=["lstm"], names=UNLIKE)
def test_under_other_transformations(cell):
    point, tangent, options = problem(cell)
    run, expected = (scalar(partial(f, cell, **options, key=KEY)) for f in (jl.unroll, plain))
    several = jax.tree.map(lambda a, b: jnp.stack([a, b]), point, tangent)

    def transformed(f):
        value, linear = jax.linearize(f, point)
        return {
            "vmap of grad": jax.vmap(jax.grad(f))(several),
            "linearize": (value, linear(tangent)),
            "linear_transpose": jax.linear_transpose(linear, point)(value),
        }

    got = compiled(lambda: (transformed(run), jax.grad(jax.checkpoint(run))(point)))()
    assert_close(got, compiled(lambda: (transformed(expected), jax.grad(expected)(point)))())


@every_cell(quick=[], names=("lstm", "gru reset before", "every option", "slstm", "user's"))
def test_hessian(cell):
    (name,) = (name for name, other in CELLS.items() if other is cell)
    cell = cells(2, 1)[name]
    point, _, options = problem(cell, steps=3, batch=(1,), input_size=1)
    flat, unflatten = jax.flatten_util.ravel_pytree(point)

    def hessians(f):
        loss = scalar(partial(f, cell, **options, key=KEY))
        of_flat = lambda flat: loss(unflatten(flat))  # noqa: E731
        return jax.hessian(of_flat)(flat), jax.jacrev(jax.jacrev(of_flat))(flat), jax.jacfwd(jax.jacfwd(of_flat))(flat)

    (got, *others), (want, *_) = (compiled(partial(hessians, f))() for f in (jl.unroll, plain))
    for hessian in (got, *others):
        assert_close(hessian, want)
    assert_close(got, got.T)


@every_cell(quick=["lstm"])
def test_finite_differences(cell):
    point, _, options = problem(cell, steps=2, batch=(2,))
    loss = jax.jit(scalar(partial(jl.unroll, cell, **options, key=KEY)))
    check_grads(loss, (jax.tree.map(lambda a: a / 2, point),), order=2, modes=["rev"], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_stack():
    """A stack of both directions and a reversed layer: the derivatives of its parts, each a plain scan."""
    cells = jl.LSTMCell(2), jl.GRUCell(2), jl.RNNCell(2)
    network = jl.Stack(jl.Bidirectional(cells[0], cells[1]), jl.Layer(cells[2], reverse=True))
    point, tangent, options = problem(network)

    def expected(params, xs, carry):
        (p_0, p_1), p_2 = params
        (c_0, c_1), c_2 = carry
        c_0, forward = plain(cells[0], p_0, xs, c_0, **options)
        c_1, backward = plain(cells[1], p_1, xs, c_1, **options, reverse=True)
        c_2, ys = plain(cells[2], p_2, jnp.concatenate([forward, backward], -1), c_2, **options, reverse=True)
        return (jl.BidirectionalCarry(c_0, c_1), c_2), ys

    assert_derivatives_are_those_of(expected, partial(network.apply, **options), point, tangent)


# The matmuls and convolutions of a step by what they give, for B = 2, I = 7, H = 3, P = 5: those of recur and
# transition going forward, and their transposes going back. GRU reset before: W_hn (r * h) is computed again in the
# backward loop, since n's pre-activation is not kept. LSTM with a projection: nothing of the derivative needs h again.
MATMULS = {
    "lstm": (jl.LSTMCell(3), [(2, 12)], [(2, 3)]),
    "gru": (jl.GRUCell(3), [(2, 9)], [(2, 3)]),
    "gru reset before": (jl.GRUCell(3, reset_after=False), [(2, 6), (2, 3)], [(2, 3), (2, 3), (2, 3)]),
    "rnn": (jl.RNNCell(3), [(2, 3)], [(2, 3)]),
    "every option": (
        jl.RecurrentDropout(
            jl.Zoneout(jl.LSTMVariantCell(3, peephole=True, projection_size=5, layer_norm=True, clip=1), h=0.1), 0.1
        ),
        [(2, 12), (2, 5)],
        [(2, 3), (2, 5)],
    ),
    "user's": (MinimalGatedCell(3), [(2, 6)], [(2, 3)]),
    "conv lstm": (jl.ConvLSTMCell(3, spatial_shape=(4, 5)), [(2, 4, 5, 12)], [(2, 4, 5, 3)]),
}


@pytest.mark.parametrize("name", MATMULS)
@pytest.mark.parametrize(
    "options",
    [pytest.param((), id="plain", marks=pytest.mark.slow), pytest.param(("lengths", "mask", "reset"), id="options")],
)
def test_matmuls_in_the_loops(name, options):
    cell, forward, backward = MATMULS[name]
    (params, xs, carry), _, given = problem(cell, 5, (2,), 7)
    given = {name: given[name] for name in options}
    loss = scalar(partial(jl.unroll, cell, **given, key=KEY))
    outside, *loops = matmuls(jax.jit(jax.grad(loss)).lower((params, xs, carry)))
    kernels = 2 if name == "conv lstm" else 0  # whose gradients have a loop each, over the positions of the kernel
    assert len(loops) == 2 + kernels
    projected = Counter([tuple(jax.eval_shape(cell.project, params, xs[0]).shape)])
    assert loops[0] in (Counter(forward), Counter(forward) + projected)
    assert loops[1] == Counter(backward)
    weights = [leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim == 2]
    if name == "gru reset before":  # the two parts of w_hh are used apart
        weights[1:] = [(3, 6), (3, 3)]
    assert Counter(map(frozenset, weights)) <= Counter(map(frozenset, outside.elements()))


def matmuls(lowered):
    """The shapes that matmuls and convolutions of a lowered program give: outside of loops, then in each with some."""
    module = lowered.compiler_ir("stablehlo")
    functions = {function.attributes["sym_name"].value: function for function in module.body.operations}
    found = [Counter()]

    def visit(operation, place):
        operation = operation.operation
        if operation.name in ("stablehlo.dot_general", "stablehlo.convolution"):
            found[place][tuple(operation.results[0].type.shape)] += 1
        elif operation.name == "func.call":
            visit(functions[operation.attributes["callee"].value], place)
        elif operation.name == "stablehlo.while":
            assert place == 0, "a loop within a loop"
            found.append(Counter())
            place = len(found) - 1
        for region in operation.regions:
            for block in region.blocks:
                for inner in block.operations:
                    visit(inner, place)

    visit(functions["main"], 0)
    return [found[0], *filter(None, found[1:])]


@pytest.mark.parametrize(
    ("platform", "project_first", "inside"),
    [("cpu", None, 1), ("cuda", None, 0), ("tpu", None, 0), ("cpu", True, 0), ("tpu", False, 1)],
)
def test_where_the_inputs_are_projected(platform, project_first, inside):
    cell = jl.LSTMCell(3)
    point, _, _ = problem(cell, 5, (2,), 7)
    run = jax.jit(partial(jl.unroll, cell, project_first=project_first, unroll=1))
    outside, loop = matmuls(run.trace(*point).lower(lowering_platforms=(platform,)))
    assert (sum(outside.values()), loop) == (1 - inside, Counter({(2, 12): 1 + inside}))


def test_plain_autodiff_has_the_weight_gradient_in_its_loop():
    """What the rule is for, and that `matmuls` would see it."""
    cell = jl.LSTMCell(3)
    point, _, options = problem(cell, 5, (2,), 7)
    _, *loops = matmuls(jax.jit(jax.grad(scalar(partial(plain, cell, **options)))).lower(point))
    assert frozenset((3, 12)) in map(frozenset, loops[-1])


@pytest.mark.parametrize(
    "run",
    [jl.unroll, partial(jl.unroll, remat=4), *(partial(jl.truncated, k1=4, k2=k2) for k2 in (4, 8))],
    ids=["whole", "chunks", "blocks", "windows"],
)
def test_weight_gradient_of_bfloat16_over_2048_steps(run):
    """0.1 to 0.2 % off float64's at the same values, where plain autodiff sums in bfloat16 and is off by 30 to 60 %.

    So are gradients that are summed over chunks, blocks and windows.
    """
    cell, rng = jl.LSTMCell(8), np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: jnp.asarray(rng.normal(size=a.shape) / 2, jnp.bfloat16), jax.eval_shape(lambda: cell.init(KEY, 4))
    )
    xs = jnp.asarray(rng.normal(size=(2048, 4, 4)), jnp.bfloat16)

    def by_the_rule(params, xs):
        return run(cell, params, xs)[1]

    def by_plain_autodiff(params, xs):
        return jax.lax.scan(partial(cell.step, params), cell.init_carry(params, (4,)), xs)[1]

    def gradient(run, dtype):
        params_, xs_ = jax.tree.map(lambda a: a.astype(dtype), (params, xs))
        loss = lambda params: (run(params, xs_).astype(jnp.float64) ** 2).mean()  # noqa: E731
        return jax.tree.map(lambda a: np.asarray(a, np.float64), jax.jit(jax.grad(loss))(params_))

    def errors(run, want):
        each = zip(gradient(run, jnp.bfloat16), want, strict=True)
        return [np.linalg.norm(got - exact) / np.linalg.norm(exact) for got, exact in each]

    want = gradient(by_the_rule, jnp.float64)
    # With jax 0.12, XLA on CPU sums a matmul over two axes in 16 bits: the window and the step.
    in_16_bits = isinstance(run, partial) and run.keywords.get("k2") == 8
    assert max(errors(by_the_rule, want)) < (0.03 if in_16_bits and jax.__version_info__ >= (0, 12) else 0.004)
    if run is jl.unroll:
        assert min(errors(by_plain_autodiff, want)) > 0.1


@every_cell(quick=["lstm"])
def test_lowers_for_every_platform(cell):
    point, _, options = problem(cell, steps=2)
    gradient = compiled(jax.grad(scalar(partial(jl.unroll, cell, **options, key=KEY))))
    exported = jax.export.export(gradient, platforms=["cpu", "cuda", "tpu"])(point)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert_close(exported.call(point), gradient(point))


@pytest.mark.parametrize("reverse", [False, True])
@every_cell(quick=["lstm"])
def test_nan_in_the_padding_reaches_no_gradient(cell, reverse):
    (params, xs, carry), tangent, options = problem(cell)
    valid = options["mask"] & (jnp.arange(len(xs))[:, None] < options["lengths"][None])
    loss = scalar(partial(jl.unroll, cell, **options, reverse=reverse, key=KEY))
    derivatives = compiled(lambda point: jax.jvp(jax.grad(loss), (point,), (tangent,)))
    clean, padded = (derivatives((params, where(valid, xs, jnp.full_like(xs, pad)), carry)) for pad in (0.0, jnp.nan))
    assert_close(padded, clean, tolerance=0)
    assert not padded[0][1][~valid].any()


@jax.custom_vjp
def spike(z):
    """1 above 0, with the gradient of something smooth."""
    return (z > 0).astype(z.dtype)


spike.defvjp(lambda z: (spike(z), z), lambda z, g: (g / (1 + jnp.abs(z)) ** 2,))


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason="the rule takes a jvp twice before jax 0.10")
@pytest.mark.parametrize("remat", [None, True, 2])
def test_a_custom_vjp_within_a_cell(remat):
    cell = jl.RNNCell(4, activation_fn=spike)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), cell.init(KEY, 3))
    xs = jax.random.normal(KEY, (5, 2, 3))

    def by_the_rule(params):
        return (jl.unroll(cell, params, xs, remat=remat)[1] ** 2).sum()

    def by_plain_autodiff(params):
        return (jax.lax.scan(partial(cell.step, params), cell.init_carry(params, (2,)), xs)[1] ** 2).sum()

    got, want = (jax.jit(jax.grad(loss))(params) for loss in (by_the_rule, by_plain_autodiff))
    assert jnp.abs(want.w_hh).max() > 0.01
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12), got, want)


@dataclass(frozen=True)
class OneBatchAxis(jl.RNNCell):
    """A cell as one may write it who has batches of one axis only."""

    def transition(self, params, z, carry):
        return jl.RNNCarry(h=jnp.einsum("bh,bh->bh", jnp.tanh(z[:, :]), z))


def test_a_transition_without_vectors_sees_the_whole_batch():
    cell = OneBatchAxis(3)
    point, _, options = problem(cell)
    ours, theirs = (scalar(partial(run, cell, **options)) for run in (jl.unroll, plain))
    assert_close(jax.grad(ours)(point), jax.grad(theirs)(point))


@dataclass(frozen=True)
class BiasedOutputs(jl.RNNCell):
    """A readout that depends on the params even where the carry is zero."""

    def readout(self, params, carry):
        return carry.h + jnp.broadcast_to(params.b, carry.h.shape)


@pytest.mark.parametrize("reverse", [False, True])
def test_no_gradient_comes_from_the_outputs_of_masked_steps(reverse):
    cell = BiasedOutputs(3)
    point, _, options = problem(cell)

    def loss(run, point):
        _, ys = run(cell, *point, **options, reverse=reverse)
        return jnp.sin(ys + 1).sum()

    got, want = (compiled(jax.grad(partial(loss, run)))(point) for run in (jl.unroll, plain))
    assert_close(got, want)
