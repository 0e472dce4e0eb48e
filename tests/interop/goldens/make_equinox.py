"""Make equinox.npz: run this with equinox installed, from this folder."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import common

KEY = jax.random.key(0)
MODULES = {
    "lstm": eqx.nn.LSTMCell(common.I, common.H, key=KEY),
    "lstm_no_bias": eqx.nn.LSTMCell(common.I, common.H, use_bias=False, key=KEY),
    "gru": eqx.nn.GRUCell(common.I, common.H, key=KEY),
    "gru_no_bias": eqx.nn.GRUCell(common.I, common.H, use_bias=False, key=KEY),
    "list": [eqx.nn.LSTMCell(common.I, common.H, key=KEY), eqx.nn.GRUCell(common.H, common.H, key=KEY)],
}


def run(module):
    """Every sequence to its own length, from a random carry, cell upon cell."""
    module = jax.tree.map(lambda leaf: jnp.asarray(common.draw(leaf.shape)), module)
    ys, carries, finals = jnp.asarray(common.XS), [], []
    for cell in module if isinstance(module, list) else [module]:
        lstm = isinstance(cell, eqx.nn.LSTMCell)
        carry = tuple(common.draw((common.B, common.H)) for _ in range(1 + lstm))
        ys, final = run_cell(cell, ys, carry if lstm else carry[0])
        carries += carry
        finals += final
    leaves = jax.tree_util.tree_leaves_with_path(module)
    weights = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
    return weights, carries, common.zero_padding(np.asarray(ys)), finals


def run_cell(cell, xs, carry):
    """(ys, final carry of each sequence's length)."""
    states = []
    for x in xs:
        carry = jax.vmap(cell)(x, carry)
        states.append(carry)
    states = jax.tree.map(lambda *leaves: np.stack(leaves), *states)
    final = jax.tree.map(lambda leaf: leaf[common.LENGTHS - 1, np.arange(common.B)], states)
    return jnp.asarray(jax.tree.leaves(states)[0]), jax.tree.leaves(final)


if __name__ == "__main__":
    cases = {name: run(module) for name, module in MODULES.items()}
    common.save(__file__, cases, equinox=eqx.__version__, jax=jax.__version__, numpy=np.__version__)
