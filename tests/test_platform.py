"""What is chosen for each platform, and that the programs of all of them compute the same."""

import re
from functools import partial
from typing import NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm as jl
from jaxlstm import _run
from jaxlstm._platform import Choice, choices

DRAW = np.random.default_rng(0)
B, I, H = 2, 2, 3  # noqa: E741
KEY = jax.random.key(1)
EVERY_OPTION = jl.LSTMVariantCell(H, peephole=True, projection_size=2, layer_norm=True, clip=0.9)
CELLS = {
    "lstm": jl.LSTMCell(H),
    "gru": jl.GRUCell(H),
    "gru reset before": jl.GRUCell(H, reset_after=False),
    "every option": jl.Zoneout(EVERY_OPTION, h=0.3, c=0.3),
    "both directions": jl.Bidirectional(jl.LSTMCell(H)),
    "both directions, rnn": jl.Bidirectional(jl.RNNCell(H)),
    "both directions, slstm": jl.Bidirectional(jl.SLSTMCell(H, num_heads=H)),
    "both directions, mlstm": jl.Bidirectional(jl.MLSTMCell(H)),
    "both directions, lru": jl.Bidirectional(jl.LRUCell(H)),
    "both directions, conv lstm": jl.Bidirectional(jl.ConvLSTMCell(H, spatial_shape=(3,))),
    "both directions, every option": jl.Bidirectional(jl.Zoneout(EVERY_OPTION, h=0.3, c=0.3)),
}
OPTIONS = {
    "plain": {},
    "remat": {"remat": True},
    "chunks": {"remat": 3},
    "reverse": {"reverse": True},
    "reverse, lengths, mask, reset": {"reverse": True, "masked": True},
}


@pytest.mark.parametrize(
    ("steps", "chunk"),
    [(96, 16), (100, 10), (28, 14), (12, 12), (26, 13), (34, 16), (101, 16), (7, 7), (3, 3), (1, 1), (0, 1)],
)
def test_steps_in_an_iteration_divide_all_steps_where_they_can(steps, chunk):
    cpu, accelerator = choices(None, None, {}, (steps, B, I)).values()
    assert cpu == Choice(project_first=False, unroll=1, pack=False, one_loop=False)
    assert accelerator == Choice(project_first=True, unroll=chunk, pack=True, one_loop=True)


def test_what_is_given_holds_on_every_platform():
    assert {choice[:2] for choice in choices(False, 3, {}, (96, B, I)).values()} == {(False, 3)}
    (steps,) = jax.export.symbolic_shape("T")
    assert {choice.unroll for choice in choices(None, None, {}, (steps, B, I)).values()} == {1}


@pytest.mark.parametrize(
    ("hidden_size", "batch", "first"),
    [(512, (1,), True), (512, (1, 1), True), (512, (2,), False), (512, (), False), (256, (1,), False)],
)
def test_one_sequence_with_large_weights_is_projected_first_on_a_cpu(hidden_size, batch, first):
    cell = jl.LSTMCell(hidden_size)
    params = jax.eval_shape(lambda: cell.init(KEY, 128))
    assert choices(None, None, params, (96, *batch, 128))["cpu"].project_first == first
    told = jl.explain(cell, params, jax.ShapeDtypeStruct((96, *batch, 128), jnp.float32), platform="cpu")
    assert ("before the loop" in told) == first
    narrow = jax.eval_shape(lambda: cell.init(KEY, 128, dtype=jnp.bfloat16))
    assert choices(None, None, narrow, (96, 1, 128))["cpu"].project_first == (hidden_size == 512)


class Case(NamedTuple):
    """Params, inputs and options of a cell over some steps."""

    network: jl.Layer | jl.Bidirectional
    params: object
    carry: object
    xs: np.ndarray
    options: dict


def case(name, options, steps, unroll=None):
    draw = lambda leaf: (DRAW.normal(size=leaf.shape) / 2).astype(leaf.dtype)  # noqa: E731
    given = dict(OPTIONS[options], unroll=unroll)
    reverse = given.pop("reverse", False)
    network = CELLS[name] if isinstance(CELLS[name], jl.Bidirectional) else jl.Layer(CELLS[name], reverse=reverse)
    params = jax.tree.map(draw, jax.eval_shape(lambda: network.init(KEY, I, dtype=jnp.float64)))
    carry = jax.tree.map(draw, jax.eval_shape(lambda: network.init_carry(params, (B,))))
    if given.pop("masked", False):
        given |= {"lengths": np.array([steps, steps // 2]), "mask": DRAW.random((steps, B)) < 0.8}
        given["reset"] = DRAW.random((steps, B)) < 0.2
    return Case(network, params, carry, DRAW.normal(size=(steps, B, *network.spatial_shape, I)), given)


def derivatives(case):
    """The results, the gradient of a function of them, and a derivative of that."""
    run = partial(case.network.apply, key=KEY, **case.options)

    def loss(point):
        return sum((leaf**3).sum().real for leaf in jax.tree.leaves(run(*point)))

    point = jax.tree.map(jnp.asarray, (case.params, case.xs, case.carry))
    return run(*point), *jax.jvp(jax.grad(loss), (point,), (jax.tree.map(jnp.ones_like, point),))


def compiled(fn, *args):
    """Compiled in a hurry, since each of these runs once."""
    return jax.jit(lambda: fn(*args), compiler_options={"xla_backend_optimization_level": 0})()


def as_on_an_accelerator(monkeypatch, fn, *args):
    """Call a function with what JAX would take there. Nothing of it may stay in a cache."""
    _run.run_checked.clear_cache()
    with monkeypatch.context() as patch:
        patch.setattr(jax.lax, "platform_dependent", lambda *operands, default, **_: default(*operands))
        results = compiled(fn, *args)
    _run.run_checked.clear_cache()
    return results


def assert_close(got, want):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12), got, want)


@pytest.mark.parametrize(
    ("name", "options", "steps", "unroll"),
    [
        ("gru", "reverse, lengths, mask, reset", 11, None),
        ("both directions, rnn", "reverse, lengths, mask, reset", 9, None),
        pytest.param("lstm", "plain", 16, None, marks=pytest.mark.slow),
        pytest.param("lstm", "reverse", 16, None, marks=pytest.mark.slow),
        # XLA takes minutes and 9 GB for second derivatives of 16 steps with every option on a CPU.
        *(
            pytest.param(name, options, 5, 2, marks=pytest.mark.slow)
            for name in ("gru reset before", "both directions")
            for options in OPTIONS
        ),
        pytest.param("every option", "chunks", 5, 2, marks=pytest.mark.slow),
        *(
            pytest.param(f"both directions, {name}", list(OPTIONS)[-1], 5, 2, marks=pytest.mark.slow)
            for name in ("every option", "slstm", "mlstm", "lru", "conv lstm")
        ),
    ],
)
def test_the_numbers_are_those_of_the_cpu_s_program(name, options, steps, unroll, monkeypatch):
    this = case(name, options, steps, unroll)
    assert_close(as_on_an_accelerator(monkeypatch, derivatives, this), compiled(derivatives, this))


def test_under_vmap(monkeypatch):
    this = case("gru", "plain", 12)
    seeds = jax.tree.map(lambda leaf: np.stack([leaf, 2 * leaf]), this.params)
    gradients = jax.vmap(jax.grad(lambda params: (this.network.apply(params, this.xs)[1] ** 2).sum()))
    assert_close(as_on_an_accelerator(monkeypatch, gradients, seeds), compiled(gradients, seeds))


@pytest.mark.parametrize(("platform", "forward", "backward"), [("cpu", 2, 1), ("cuda", 12, 12), ("tpu", 12, 12)])
def test_matmuls_in_the_lowered_loops(platform, forward, backward):
    """Of a platform's own program alone: no other is left in the text."""
    cell = CELLS["lstm"]
    params, xs = cell.init(KEY, I), jnp.ones((24, B, I), jnp.float32)  # 12 steps an iteration off the CPU
    gradient = jax.jit(jax.grad(lambda params, xs: (jl.unroll(cell, params, xs)[1] ** 2).sum(), argnums=(0, 1)))
    text = gradient.trace(params, xs).lower(lowering_platforms=(platform,)).as_text()
    outside = 3 + (platform != "cpu")  # the gradients of w_ih, w_hh and xs; off the CPU the projection of all inputs
    assert text.count("stablehlo.while") == 2
    functions = dict(re.findall(r"func.func \w+ @(\w+)(.*?)\n  }", text, re.DOTALL))

    def dots(name):
        called = re.findall(r"call @(\w+)", functions[name])
        return functions[name].count("stablehlo.dot_general") + sum(map(dots, called))

    assert dots("main") == forward + backward + outside


def test_one_export_for_all_platforms():
    cell = CELLS["gru"]
    params, xs = cell.init(KEY, I), jnp.ones((12, B, I), jnp.float32)
    gradient = jax.jit(jax.grad(lambda params, xs: (jl.unroll(cell, params, xs)[1] ** 2).sum()))
    exported = jax.export.export(gradient, platforms=["cpu", "cuda", "rocm", "tpu"])(params, xs)
    np.testing.assert_allclose(exported.call(params, xs).w_hh, gradient(params, xs).w_hh, rtol=1e-6)
