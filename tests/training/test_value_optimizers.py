"""Optimizers that look at the loss: L-BFGS, Polyak's step size, a rate that falls on a plateau."""

import itertools
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import jaxlstm as jl
from jaxlstm.training import Checkpoints, fit, init_state, make_train_step, skip_nonfinite

CELL = jl.RNNCell(4)
XS = np.random.default_rng(0).normal(size=(6, 5, 2))
OPTIMIZERS = {
    "lbfgs": optax.lbfgs(memory_size=3),
    "polyak_sgd": optax.polyak_sgd(max_learning_rate=0.5),
    "reduce_on_plateau": optax.chain(optax.sgd(0.5), optax.contrib.reduce_on_plateau(patience=1, rtol=0.5)),
}
each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


def loss_fn(params, batch, key):
    noise = jax.random.normal(key, batch.shape)
    ys = jl.unroll(CELL, params, batch + noise)[1]
    return jnp.mean((ys - jnp.flip(batch, 0).sum(-1, keepdims=True)) ** 2), {}


def start(optimizer, seed=0):
    return init_state(CELL.init(jax.random.key(seed), 2, dtype=jnp.float64), optimizer, jax.random.key(1))


def by_hand(optimizer, steps):
    """What Optax's documentation says to do."""

    @jax.jit
    def step(params, opt_state, n):
        loss = lambda params: loss_fn(params, jnp.asarray(XS), jax.random.fold_in(jax.random.key(1), n))[0]  # noqa: E731
        value, gradient = jax.value_and_grad(loss)(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(
                gradient, opt_state, params, value=value, grad=gradient, value_fn=loss
            )
            return optax.apply_updates(params, updates), opt_state

    state = start(optimizer)
    params, opt_state = state.params, state.opt_state
    for n in range(steps):
        params, opt_state = step(params, opt_state, n)
    return params


def same(got, want, rtol=1e-9):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=1e-12), got, want)


@each_optimizer
@pytest.mark.parametrize(
    "guard",
    [lambda optimizer: optimizer, pytest.param(skip_nonfinite, marks=pytest.mark.slow)],
    ids=["plain", "guarded"],
)
def test_steps_are_those_of_optax(optimizer, guard):
    guarded = guard(optimizer)
    step, state = make_train_step(loss_fn, guarded), start(guarded)
    for _ in range(4):
        state, _ = step(state, XS)
    same(state.params, by_hand(optimizer, 4))


@each_optimizer
def test_a_step_that_is_not_finite_is_skipped(optimizer):
    guarded = skip_nonfinite(optimizer)
    step, state = make_train_step(loss_fn, guarded), start(guarded)
    state, _ = step(state, XS)
    before = jax.tree.map(np.array, (state.params, state.opt_state.inner))
    state, metrics = step(state, np.full_like(XS, np.nan))
    assert int(metrics["skipped"]) == 1
    same((state.params, state.opt_state.inner), before, rtol=0)


@pytest.mark.parametrize(
    "optimizer", [pytest.param(one, marks=[pytest.mark.slow] * (name == "lbfgs")) for name, one in OPTIMIZERS.items()]
)
def test_a_run_resumes_bit_for_bit(optimizer, tmp_path):
    step, checkpoints = make_train_step(loss_fn, optimizer), Checkpoints(tmp_path / "run")
    run = partial(fit, step, batches=itertools.repeat(XS), progress=False)
    whole = run(start(optimizer), steps=4)
    run(start(optimizer), steps=2, checkpoints=checkpoints)
    resumed = run(start(optimizer), steps=4, checkpoints=replace(checkpoints, resume=True))
    same((resumed.params, resumed.opt_state), (whole.params, whole.opt_state), rtol=0)


@pytest.mark.parametrize("name", ["polyak_sgd", "reduce_on_plateau"])
def test_several_seeds_at_once(name):
    optimizer = OPTIMIZERS[name]
    states = [start(optimizer, seed) for seed in range(2)]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    step = make_train_step(loss_fn, optimizer)
    together, _ = jax.vmap(step, in_axes=(0, None))(together, XS)
    for seed, state in enumerate(states):
        alone, _ = step(state, XS)
        same(jax.tree.map(lambda leaf, seed=seed: leaf[seed], together.params), alone.params)


@pytest.mark.slow
def test_l_bfgs_needs_fewer_steps_than_adam():
    """A small network on all its data at once: the case that L-BFGS is for."""

    def without_noise(params, batch, key):
        return jnp.mean((jl.unroll(CELL, params, batch)[1][-1].sum(-1) - jnp.sin(batch.sum((0, 2)))) ** 2), {}

    def loss_after(steps, optimizer):
        state = fit(
            make_train_step(without_noise, optimizer),
            start(optimizer),
            itertools.repeat(XS),
            steps=steps,
            progress=False,
        )
        return float(without_noise(state.params, jnp.asarray(XS), None)[0])

    assert loss_after(15, optax.lbfgs()) < 0.1 * min(loss_after(60, optax.adam(rate)) for rate in (0.003, 0.01, 0.03))
