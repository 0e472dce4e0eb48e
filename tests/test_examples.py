"""The examples run. In full, they reach the figures in docs/recipes."""

import os
import re
import runpy
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from pages import ROOT, jax_as_it_comes

import jaxlstm as jl

EXAMPLES = ROOT / "examples"


def load(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


@pytest.fixture
def as_users_run(without_x64):
    with jax_as_it_comes():
        yield


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.slow
def test_ppo_learns_from_what_its_actors_saw():
    """The learner's values are the actors', across the ends of episodes and from one rollout to the next."""
    example = load("ppo")
    right, _, difference = example["train"](0, memory=True, updates=2)
    assert difference < 1e-5
    assert 0 < right < 1

    model = example["ActorCritic"](True, rngs=nnx.Rngs(0))
    actors = example["new_actors"](model, jax.random.key(0))
    check_resets(*example["act"](*nnx.split(model), actors, jax.random.key(1)))


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.slow
def test_r2d2_runs():
    example = load("r2d2")
    completed, loss = example["train"](0, example["AGENTS"]["stored carry, burn-in"], segments=2)
    assert 0 < completed < 1
    assert 0 < loss < 1

    network = example["QNetwork"](core=example["Recurrent"](jl.LSTMCell(example["HIDDEN"])))
    actors = example["new_actors"](network, jax.random.key(0))
    obs = jax.vmap(example["observe"])(actors.recall)
    params = network.init(jax.random.key(1), actors.carry, obs, actors.reset, method="step")
    check_resets(*example["act"](network, params, jnp.ones(len(obs)), actors, jax.random.key(2)))


def check_resets(actors, seen):
    """reset[t] = done[t-1], into the next rollout."""
    reset = jnp.concatenate([seen.reset[:, : seen.done.shape[1]], actors.reset[:, None]], axis=1)
    np.testing.assert_array_equal(reset[:, 0], True)  # the first rollout of all
    np.testing.assert_array_equal(reset[:, 1:], seen.done)
    assert seen.done.any()


def run(name, *arguments):
    """The numbers in each line of the table that an example prints, by the line's name."""
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert not result.stderr
    _, _, *lines = result.stdout.splitlines()
    rows = (re.split(r"  +|, (?=\d)", line) for line in lines)
    return {name: [float(number) for number in numbers] for name, *numbers in rows}


@pytest.mark.slow
def test_ppo_in_full():
    table = run("ppo")
    right, dense_right = table["LSTM"], table["dense"]  # mean, lowest, highest
    assert right[1] > 0.98
    assert dense_right[2] < 0.55
    assert right[4] < 1e-5  # the learner's values are the actors'


@pytest.mark.slow
def test_r2d2_of_one_seed_in_full():
    table = run("r2d2", "--seeds", "1")
    completed, without_memory, zeros = (table[name][0] for name in ("stored carry, burn-in", "no memory", "zeros"))
    assert completed > 0.9
    assert without_memory < 0.3
    assert zeros < completed - 0.03
