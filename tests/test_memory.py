"""Compiled memory of gradients: exact and free of noise, so it is held to numbers."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import pytest

import jaxlstm as jl

SMALL = {"B": 32, "T": 100, "I": 64, "H": 128}
SIZES = {
    "small": SMALL,
    "medium": {"B": 64, "T": 128, "I": 256, "H": 256},
    "large": {"B": 64, "T": 128, "I": 512, "H": 512},
    "stream": {"B": 1, "T": 1000, "I": 128, "H": 256},
}


def megabytes(cell, *, B, T, I, run=jl.unroll, **_):  # noqa: E741
    """The temporary memory of the gradient of mean(ys**2) in params and xs, float32."""
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), I))
    xs = jax.ShapeDtypeStruct((T, B, *cell.spatial_shape, I), jnp.float32)
    gradient = jax.grad(lambda params, xs: (run(cell, params, xs)[1] ** 2).mean(), argnums=(0, 1))
    return jax.jit(gradient).lower(params, xs).compile().memory_analysis().temp_size_in_bytes / 1e6


def plain_scan(cell, params, xs):
    """What a user writes without the library: autodiff of a scan over the step."""
    batch_shape = xs.shape[1 : -1 - len(cell.spatial_shape)]
    return jax.lax.scan(partial(cell.step, params), cell.init_carry(params, batch_shape), xs)


def cells(H):
    variant = partial(jl.LSTMVariantCell, H)
    return {
        "lstm": jl.LSTMCell(H),
        "gru": jl.GRUCell(H),
        "gru reset before": jl.GRUCell(H, reset_after=False),
        "rnn": jl.RNNCell(H),
        "mgu": jl.MGUCell(H),
        "min gru": jl.MinGRUCell(H),
        "min lstm": jl.MinLSTMCell(H),
        "ind rnn": jl.IndRNNCell(H, activation_fn=jnp.tanh),
        "slstm": jl.SLSTMCell(H, num_heads=4),
        "mlstm": jl.MLSTMCell(H, num_heads=H // 16),
        "lru": jl.LRUCell(H),
        "peephole": variant(peephole=True),
        "coupled": variant(coupled=True),
        "projection": variant(projection_size=H // 2),
        "layer norm": variant(layer_norm=True),
        "clip": variant(clip=1.0),
        "learned carry": jl.LearnedCarry(jl.LSTMCell(H)),
    }


# In MB at "small", with a margin of about 3 %. One more array [T, B, H] kept would be 1.6.
LIMITS = {
    "lstm": 20.2,
    "gru": 18.6,
    "gru reset before": 18.6,
    "rnn": 8.5,
    "mgu": 15.2,
    "min gru": 11.8,
    "min lstm": 15.2,
    "ind rnn": 8.5,
    "slstm": 23.7,
    "mlstm": 46.2,
    "lru": 18.8,
    "peephole": 20.3,
    "coupled": 16.9,
    "projection": 18.7,
    "layer norm": 54.0,
    "clip": 20.2,
    "learned carry": 20.2,
}


@pytest.mark.parametrize("name", LIMITS)
def test_gradient_memory_at_small(name):
    assert megabytes(cells(SMALL["H"])[name], **SMALL) < LIMITS[name]


# Of a linear step, autodiff keeps the carry alone. For an LRU, the rule keeps z and dz besides, for one matmul each,
# which is faster (at "small" 18.2 MB; a plain scan 10.1). In chunks it keeps the least of all.
@pytest.mark.slow
@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("size", SIZES)
def test_gradient_memory_is_below_a_plain_scan_s(name, size):
    cell, run = cells(SIZES[size]["H"])[name], jl.unroll
    if name == "lru":
        run = partial(jl.unroll, remat=10)
    assert megabytes(cell, **SIZES[size], run=run) <= megabytes(cell, **SIZES[size], run=plain_scan)


def test_gradient_memory_of_a_convlstm_is_below_a_plain_scan_s():
    """Of kernels, too: their gradients read the inputs at each position of the kernel, one position after another."""
    cell = jl.ConvLSTMCell(16, spatial_shape=(12, 12), kernel_shape=5)
    size = {"B": 4, "T": 10, "I": 16}
    assert megabytes(cell, **size) < 0.85 * megabytes(cell, **size, run=plain_scan)


@jax.jit
def add(zx, zh):
    return zx + zh


@dataclass(frozen=True)
class ByHand(jl.LSTMCell):
    """The LSTM as its user might spell it."""

    spelling: str = "split"

    def combine(self, zx, zh):
        if self.spelling == "jitted sum":
            return add(zx, zh)
        if self.spelling == "reshape":
            return (zx + zh).reshape(*zx.shape[:-1], 4, self.hidden_size)
        return zx + zh

    def transition(self, params, z, carry):
        size = self.hidden_size
        if self.spelling == "slices":
            i, f, g, o = (z[..., k * size : (k + 1) * size] for k in range(4))
        elif self.spelling == "reshape":
            i, f, g, o = (z[..., k, :] for k in range(4))
        else:
            i, f, g, o = jnp.split(z, 4, axis=-1)
        c = jax.nn.sigmoid(f) * carry.c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jl.LSTMCarry(h=jax.nn.sigmoid(o) * jnp.tanh(c), c=c)


@pytest.mark.parametrize("spelling", ["slices", "reshape", "jitted sum", "split"])
def test_gradient_memory_does_not_depend_on_the_spelling(spelling):
    by_hand = megabytes(ByHand(SMALL["H"], spelling=spelling), **SMALL)
    assert by_hand == pytest.approx(megabytes(jl.LSTMCell(SMALL["H"]), **SMALL), rel=0.02)
