"""What the tests of the Flax modules share: one ragged batch, random params, and what to compare."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

BATCH, STEPS, FEATURES, HIDDEN = 4, 5, 3, 2
LENGTHS = np.array([5, 0, 3, 1])
VALID = np.arange(STEPS) < LENGTHS[:, None]
RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(BATCH, STEPS, FEATURES))
MASK = np.array([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]], bool)
RESET = np.array([[0, 1, 0, 1, 0], [1, 0, 0, 0, 1], [0, 0, 0, 0, 0], [0, 1, 1, 0, 0]], bool)

# Ways of Flax's call.
CALLS = {
    "lengths": {"seq_lengths": LENGTHS},
    "reverse": {"reverse": True, "seq_lengths": LENGTHS},
    "keep_order": {"reverse": True, "keep_order": True, "seq_lengths": LENGTHS, "time_major": True},
    "outputs": {"reverse": True, "seq_lengths": LENGTHS, "return_carry": False},
}
SWEEP = ("lengths", "keep_order", "outputs")  # every option in one of them, more steps a loop iteration in the last two


def random_like(tree, seed=0):
    """Normal numbers in place of every array, biases included."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape, scale=0.6), leaf.dtype), tree)


def laid(inputs, call):
    """Batch-major inputs as the call wants them."""
    return jnp.swapaxes(inputs, 0, 1) if call.get("time_major") else jnp.asarray(inputs)


def counting(outputs, call):
    """Outputs that count; the others, in which Flax and we differ, are zero."""
    valid = jnp.asarray(VALID if "seq_lengths" in call else np.ones_like(VALID))
    valid = valid.T if call.get("time_major") else valid
    return jnp.where(valid[..., None], outputs, jnp.zeros_like(outputs))


def last_carry(carry, call):
    """A carry, but of the sequence of length 0, for which Flax's is wrong."""
    kept = np.flatnonzero(LENGTHS) if "seq_lengths" in call else slice(None)
    return jax.tree.map(lambda leaf: leaf[kept], carry)


def weighed(tree):
    """A scalar of all leaves, with a weight of its own for each number."""
    return sum(
        jnp.sum(leaf * jnp.asarray(np.cos(np.arange(leaf.size)), leaf.dtype).reshape(leaf.shape))
        for leaf in jax.tree.leaves(tree)
    )


def everything(run, calls, variables, inputs, first):
    """For each of the calls: outputs and carry, and gradients by params, inputs and the first carry, of what counts."""

    def result(variables, inputs, first, call):
        carry, outputs = run(variables, laid(inputs, call), first, call)
        result = last_carry(carry, call), counting(outputs, call)
        return weighed(result), result

    def each(*point):
        return [jax.grad(result, argnums=(0, 1, 2), has_aux=True)(*point, CALLS[call]) for call in calls]

    # In a hurry, since it runs once: the slow tests have the optimiser.
    return jax.jit(each, compiler_options={"xla_backend_optimization_level": 0})(variables, inputs, first)


def run(function, *arguments, **options):
    """What a function returns, compiled as one program; eagerly, each of its operations would be one."""
    return jax.jit(partial(function, **options))(*arguments)


def assert_close(ours, theirs, tolerance=1e-12):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def assert_same(ours, theirs):
    assert_close(ours, theirs, 0)
