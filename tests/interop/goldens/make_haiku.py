"""Make haiku.npz: run this with dm-haiku installed, from this folder."""

import haiku as hk
import jax
import numpy as np

import common

CORES = {
    "lstm": lambda: hk.LSTM(common.H),
    "gru": lambda: hk.GRU(common.H),
    "rnn": lambda: hk.VanillaRNN(common.H),
    "rnn_one_bias": lambda: hk.VanillaRNN(common.H, double_bias=False),
    "deep": lambda: hk.DeepRNN([hk.LSTM(common.H), hk.LSTM(common.H), hk.GRU(common.H)]),
}


def run(make_core):
    """Every sequence to its own length, from a random carry, by dynamic_unroll with all states kept."""

    def unroll(xs, carry):
        return hk.dynamic_unroll(make_core(), xs, carry, return_all_states=True)

    model = hk.without_apply_rng(hk.transform(unroll))
    shapes = hk.without_apply_rng(hk.transform(lambda: make_core().initial_state(common.B)))
    zeros = jax.eval_shape(shapes.apply, {})
    carry = jax.tree.map(lambda leaf: common.draw(leaf.shape), zeros)
    params = jax.eval_shape(model.init, jax.random.key(0), common.XS, carry)
    params = jax.tree.map(lambda leaf: common.draw(leaf.shape), params)
    ys, states = model.apply(params, common.XS, carry)
    final = jax.tree.map(lambda leaf: np.asarray(leaf)[common.LENGTHS - 1, np.arange(common.B)], states)
    weights = {f"{module}/{name}": leaf for module, leaves in params.items() for name, leaf in leaves.items()}
    return weights, jax.tree.leaves(carry), common.zero_padding(np.asarray(ys)), jax.tree.leaves(final)


if __name__ == "__main__":
    cases = {name: run(core) for name, core in CORES.items()}
    common.save(__file__, cases, haiku=hk.__version__, jax=jax.__version__, numpy=np.__version__)
