"""What `explain` says is what runs."""

import re
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import pytest

import jaxlstm as jl

B, I, H = 4, 6, 8  # noqa: E741
LSTM, GRU = jl.LSTMCell(H), jl.GRUCell(H)


def shapes(network, steps, dtype=jnp.float32):
    params = jax.eval_shape(lambda: network.init(jax.random.key(0), I, dtype=dtype))
    return params, jax.ShapeDtypeStruct((steps, B, I), dtype)


@pytest.mark.parametrize(
    ("platform", "options", "loop"),
    [
        ("cpu", {}, "26 iterations of 1 step"),
        ("cuda", {}, "2 iterations of 13 steps"),
        ("tpu", {"unroll": 13}, "2 iterations of 13 steps"),
        ("cpu", {"unroll": 99}, "none, all 26 steps in a row"),
        ("cuda", {"remat": 10}, "2 chunks of 10 steps and a rest; in each none, all 10 steps in a row"),
    ],
)
def test_the_loop_is_that_of_the_lowered_program(platform, options, loop):
    params, xs = shapes(LSTM, 26)
    assert f"  loop: {loop}\n" in jl.explain(LSTM, params, xs, platform=platform, **options)
    run = jax.jit(partial(jl.unroll, LSTM, **options))
    text = run.trace(params, xs).lower(lowering_platforms=(platform,)).as_text()
    limits = [int(n) for n in re.findall(r"dense<(\d+)> : tensor<i\d+>", text)]
    said = [int(n) for n in re.findall(r"(\d+) (?:iterations|chunks)", loop)]
    assert text.count("stablehlo.while") >= len(said)
    assert set(said) <= set(limits)


@pytest.mark.parametrize(
    "cell", [LSTM, GRU, jl.LSTMVariantCell(H, projection_size=3)], ids=["lstm", "gru", "projection"]
)
@pytest.mark.parametrize("remat", [None, pytest.param(True, marks=pytest.mark.slow)])
def test_what_is_kept_grows_with_the_steps_as_in_the_compiled_program(cell, remat):
    """Outside jit a gradient keeps just that, xs, and what does not grow."""

    def bytes_kept(steps):
        params = cell.init(jax.random.key(0), I)
        _, pullback = jax.vjp(lambda params, xs: jl.unroll(cell, params, xs)[1], params, jnp.zeros((steps, B, I)))
        return sum(leaf.nbytes for leaf in jax.tree.leaves(pullback))

    def said(steps):
        (megabytes,) = re.findall(r"gradient: ([\d.e-]+) MB", jl.explain(cell, *shapes(cell, steps), remat=remat))
        return float(megabytes)

    carry = jax.eval_shape(lambda: cell.init_carry(shapes(cell, 1)[0], (B,)))
    carries = sum(leaf.size * 4 for leaf in jax.tree.leaves(carry)) * 64 / 1e6
    if remat:
        assert said(64) == pytest.approx(carries, rel=5e-3)
        return
    assert said(64) == pytest.approx(carries + 64 * B * 4 * H * 4 / 1e6, rel=5e-3)
    assert said(64) <= (bytes_kept(128) - bytes_kept(64)) / 1e6


@pytest.mark.parametrize(("cell", "evaluator"), [(jl.MinGRUCell(H), "associative"), (GRU, "newton")])
def test_without_a_loop_no_more_is_kept_than_with_one(cell, evaluator):
    """Jacobians and their products are computed again in the backward pass."""
    params, xs = cell.init(jax.random.key(0), I), jnp.ones((64, B, I))

    def bytes_kept(name):
        _, pullback = jax.vjp(lambda params, xs: jl.unroll(cell, params, xs, evaluator=name)[1], params, xs)
        return sum(leaf.nbytes for leaf in jax.tree.leaves(pullback))

    assert bytes_kept(evaluator) <= 1.01 * bytes_kept("loop")
    said = [jl.explain(cell, params, xs, evaluator=name, platform="cuda") for name in (evaluator, "loop")]
    assert ["except ys" in text for text in said] == [False, True]


@pytest.mark.parametrize(
    ("cell", "kept"),
    [(LSTM, "except ys (0.00205 MB)"), (GRU, "except ys (0 MB)"), (jl.LearnedCarry(GRU), "except ys (0 MB)")],
)
def test_an_accelerator_keeps_no_h_beside_ys(cell, kept):
    assert kept in jl.explain(cell, *shapes(cell, 16), platform="cuda")
    assert "except" not in jl.explain(cell, *shapes(cell, 16), platform="cpu")


MATMULS = [
    *(
        jl.LSTMCell(256),
        jl.GRUCell(256),
        jl.LSTMVariantCell(256, projection_size=64),
        jl.LearnedCarry(jl.LSTMCell(256)),
    ),
    *(jl.SLSTMCell(256, num_heads=2), jl.LearnedCarry(jl.SLSTMCell(128))),
]


@pytest.mark.parametrize("cell", MATMULS, ids=repr)
def test_flops_are_those_that_xla_counts(cell):
    params, xs = shapes(cell, 1)
    (said,) = re.findall(r"matmuls: ([\d.e-]+) Gflop forward", jl.explain(cell, params, xs))
    carry = jax.eval_shape(lambda params: cell.init_carry(params, (B,)), params)
    counted = jax.jit(cell.step).lower(params, carry, xs.update(shape=xs.shape[1:])).cost_analysis()["flops"]
    assert float(said) * 1e9 == pytest.approx(counted, rel=0.06)


def test_every_cell_of_a_network():
    network = jl.Stack(jl.Bidirectional(LSTM), jl.RecurrentDropout(GRU, 0.5))
    told = jl.explain(network, *shapes(network, 16), platform="cuda")
    heads = [line for line in told.splitlines() if not line.startswith(" ")]
    assert heads == [
        f"{LSTM}, forward and backward, on cuda",
        f"{jl.RecurrentDropout(GRU, 0.5)}, forward, on cuda",
    ]
    assert told.count("inputs: projected before the loop") == 2
    assert "projected in each step" in jl.explain(network, *shapes(network, 16), project_first=False)


def test_both_directions():
    """One loop for both where there is one, and twice the bytes and flops of one direction."""
    network = jl.Bidirectional(LSTM)
    (forward, backward), xs = shapes(network, 32)
    told = partial(jl.explain, network, platform="cuda")
    assert "loop: 2 iterations of 16 steps, for both directions" in told((forward, backward), xs)
    assert "32 iterations of 1 step, for each direction" in jl.explain(network, (forward, backward), xs, platform="cpu")
    narrow = jax.tree.map(lambda leaf: leaf.update(dtype=jnp.bfloat16), backward)
    assert "for each direction" in told((forward, narrow), xs)
    one = jl.explain(LSTM, forward, xs, platform="cuda")

    def numbers(text):
        kept, matmuls = re.findall(r"gradient: ([\d.e-]+) MB.*\n.*matmuls: ([\d.e-]+) Gflop", text)[0]
        return float(kept), float(matmuls)

    assert numbers(told((forward, backward), xs)) == pytest.approx(tuple(2 * n for n in numbers(one)), rel=1e-2)
    other = jl.Bidirectional(LSTM, GRU)
    assert jl.explain(other, *shapes(other, 32), platform="cuda").count("loop: 2 iterations of 16 steps\n") == 2


def test_other_evaluators():
    cell = jl.MinGRUCell(H)
    told = partial(jl.explain, cell, *shapes(cell, 16))
    assert "no loop: all steps at once, by an associative scan\n" in told(platform="cuda")
    assert "no loop: the 4 steps of a chunk at once, by an assoc" in told(
        platform="cpu", evaluator="associative", remat=4
    )
    assert "no loop: all steps at once, by Newton's method, or" in told(platform="tpu", evaluator="newton")
    assert "loop: 1" in told(platform="cpu")
    mlstm = jl.MLSTMCell(H)
    in_chunks = partial(jl.explain, mlstm, *shapes(mlstm, 130), evaluator="chunkwise")
    assert "loop: 3 chunks, in each up to 64 steps at once\n" in in_chunks()
    assert "loop: 13 chunks, in each up to 10 steps at once\n" in in_chunks(remat=10)
    assert "loop: 1 chunk, in each up to 130 steps at once\n" in in_chunks(remat=130)
    assert "inputs: projected in each chunk, by one matmul\n" in in_chunks()
    both = jl.Bidirectional(mlstm)
    in_chunks = jl.explain(both, *shapes(both, 130), evaluator="chunkwise", platform="cuda")
    assert "loop: 3 chunks, in each up to 64 steps at once, for each direction\n" in in_chunks
    with pytest.raises(
        ValueError, match="evaluator: expected None or 'loop', 'newton', got 'associative' for LSTMCell"
    ):
        jl.explain(LSTM, *shapes(LSTM, 16), evaluator="associative")


def test_arrays_and_16_bits():
    params = LSTM.init(jax.random.key(0), I, dtype=jnp.bfloat16)
    told = jl.explain(LSTM, params, jnp.zeros((5, B, I), jnp.bfloat16))
    assert f"on {jax.default_backend()}\n  xs: bfloat16[5, 4, 6], computed in bfloat16" in told
    for remat in (None, True, 4, "sqrt"):
        told = jl.explain(LSTM, params, jnp.zeros((0, B, I), jnp.bfloat16), remat=remat)
        assert "loop: none, since there are no steps\n" in told
        assert "kept for the gradient: nothing, since there are no steps\n" in told


def test_one_is_singular():
    assert "loop: 1 iteration of 16 steps and 1 more" in jl.explain(LSTM, *shapes(LSTM, 17), platform="cuda")
    assert "loop: none, a single step\n" in jl.explain(LSTM, *shapes(LSTM, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"platform": "gpu"}, "platform: expected one of 'cpu', 'cuda', 'rocm', 'tpu', got 'gpu'"),
        ({"xs": jnp.zeros((5, B, I + 1), jnp.float32)}, "params.w_ih: expected shape (7, 32) for 7 input features"),
        ({"unroll": 0}, "unroll: expected a positive int, got 0"),
        (
            {"xs": jax.ShapeDtypeStruct((*jax.export.symbolic_shape("T"), B, I), jnp.float32)},
            "xs: expected sizes that are known, not symbolic",
        ),
    ],
)
def test_mistakes(change, message):
    params, xs = shapes(LSTM, 5)
    arguments = {"network": LSTM, "params": params, "xs": xs} | change
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        jl.explain(**arguments)
