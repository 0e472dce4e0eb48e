"""Make flax.npz: run this with flax installed, from this folder."""

import flax
import jax
import numpy as np
from flax import linen, nnx

import common

BOTH = {"time_major": True, "return_carry": True}


class Compact(linen.Module):
    """Two layers and no container: Flax numbers the cells as they come."""

    @linen.compact
    def __call__(self, xs, initial_carry=(None, None), seq_lengths=None):
        """The carries of both layers, and ys of the second."""
        lower = linen_rnn(linen.OptimizedLSTMCell)
        upper = linen_rnn(linen.GRUCell)
        below, ys = lower(xs, initial_carry=initial_carry[0], seq_lengths=seq_lengths)
        above, ys = upper(ys, initial_carry=initial_carry[1], seq_lengths=seq_lengths)
        return (below, above), ys


def linen_rnn(cell, **options):
    return linen.RNN(cell(common.H), **BOTH, **options)


def nnx_rnn(cell, features=common.I):
    return nnx.RNN(cell(features, common.H, rngs=nnx.Rngs(0)), **BOTH)


LINEN = {
    "linen_lstm": linen_rnn(linen.LSTMCell),
    "linen_optimized_lstm": linen_rnn(linen.OptimizedLSTMCell),
    "linen_gru": linen_rnn(linen.GRUCell),
    "linen_simple": linen_rnn(linen.SimpleCell),
    "linen_bidirectional": linen.Bidirectional(linen_rnn(linen.LSTMCell), linen_rnn(linen.LSTMCell), **BOTH),
    "linen_compact": Compact(),
}
NNX = {
    "nnx_lstm": nnx_rnn(nnx.LSTMCell),
    "nnx_optimized_lstm": nnx_rnn(nnx.OptimizedLSTMCell),
    "nnx_gru": nnx_rnn(nnx.GRUCell),
    "nnx_simple": nnx_rnn(nnx.SimpleCell),
    "nnx_bidirectional": nnx.Bidirectional(nnx_rnn(nnx.GRUCell), nnx_rnn(nnx.GRUCell), **BOTH),
}


def make_carry(name):
    """A random carry as Flax has it, (c, h) or h, in a pair for two directions or layers."""
    h = [common.draw((common.B, common.H)) for _ in range(4)]
    if name == "linen_bidirectional":
        return (h[0], h[1]), (h[2], h[3])
    if name == "linen_compact":
        return (h[0], h[1]), h[2]
    if name == "nnx_bidirectional":
        return h[0], h[1]
    return (h[0], h[1]) if "lstm" in name else h[0]


def run_linen(name, module):
    """A ragged batch from a random carry."""
    carry = make_carry(name)
    options = {"initial_carry": carry, "seq_lengths": common.LENGTHS}
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), common.XS, seq_lengths=common.LENGTHS))
    variables = jax.tree.map(lambda leaf: common.draw(leaf.shape), shapes)
    final, ys = module.apply(variables, common.XS, **options)
    return (
        named(variables["params"]),
        jax.tree.leaves(carry),
        common.zero_padding(np.asarray(ys)),
        jax.tree.leaves(final),
    )


def run_nnx(name, module):
    """The same for nnx."""
    carry = make_carry(name)
    state = nnx.state(module, nnx.Param)
    weights = jax.tree.map(lambda leaf: common.draw(leaf.shape), nnx.to_pure_dict(state))
    nnx.replace_by_pure_dict(state, weights)
    nnx.update(module, state)
    final, ys = module(common.XS, initial_carry=carry, seq_lengths=common.LENGTHS)
    return named(weights), jax.tree.leaves(carry), common.zero_padding(np.asarray(ys)), jax.tree.leaves(final)


def named(tree):
    """Leaves by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


if __name__ == "__main__":
    cases = {name: run_linen(name, module) for name, module in LINEN.items()}
    cases |= {name: run_nnx(name, module) for name, module in NNX.items()}
    common.save(__file__, cases, flax=flax.__version__, jax=jax.__version__, numpy=np.__version__)
