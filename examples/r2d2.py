"""Recurrent Q-learning from replay, on a recall task: what stored carries and burn-in do.

A sign is shown at the first step of an episode. At random later steps a question is asked, and the right answer is the
action that belongs to the sign. An episode ends with the first wrong answer or the fifth right one. Without memory, the
best an agent can do is to give one answer always, which completes a quarter of the episodes.

Replay holds segments of a few steps. Most of them begin in the middle of an episode, after the sign was shown. R2D2
(Kapturowski et al. 2019, "Recurrent experience replay in distributed reinforcement learning") gives the learner a carry
for their first step in two ways:

- Stored carry: replay keeps the carry that the actor had before the first step of each segment.
- Burn-in: the learner first runs the network over the segment before, and keeps only the carry, without its gradient.

This program trains with both, with each alone, with neither (every segment starts from zeros), and without memory. It
also has the paper's double Q-learning with a target network, and its epsilons, one for each actor. It leaves out
prioritised replay, n-step targets, the rescaling of values and the dueling heads. Unlike the paper's, a segment may
cross the end of an episode: reset[t] = done[t-1] starts the core afresh there.

    pip install '.[flax,training]' && python examples/r2d2.py
"""

import argparse
import statistics
import time
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

import jaxlstm as jl
from jaxlstm.linen import Recurrent

ENVS, T = 32, 12  # environments, and steps of a segment
CAPACITY, BATCH = 64, 32  # segments kept of each environment, and segments in a gradient step
STEPS, TARGET_EVERY = 2, 25  # gradient steps after each segment; segments between copies to the target network
GAMMA = 0.97
LEARNING_RATE, MAX_NORM = 2e-3, 10.0
HIDDEN = 32
TEST_SEGMENTS = 80
OPTIMIZER = optax.chain(optax.clip_by_global_norm(MAX_NORM), optax.adam(LEARNING_RATE))

SIGNS, QUESTIONS, QUESTION_RATE = 4, 5, 0.12


class Agent(NamedTuple):
    """With memory or without, and where the learner's carries come from."""

    memory: bool = True
    stored: bool = True
    burn_in: bool = True


AGENTS = {
    "stored carry, burn-in": Agent(),
    "stored carry": Agent(burn_in=False),
    "zeros, burn-in": Agent(stored=False),
    "zeros": Agent(stored=False, burn_in=False),
    "no memory": Agent(memory=False, stored=False, burn_in=False),
}


class Recall(NamedTuple):
    """One environment: the sign, whether it is shown, whether a question is asked, and the right answers so far."""

    sign: Array
    shown: Array
    asked: Array
    answers: Array


def new_recall(key: Array) -> Recall:
    sign = jax.random.randint(key, (), 0, SIGNS)
    return Recall(sign=sign, shown=jnp.array(True), asked=jnp.array(False), answers=jnp.zeros_like(sign))


def observe(recall: Recall) -> Array:
    """The sign while it is shown, one-hot, and whether a question is asked."""
    return jnp.append(recall.shown * jax.nn.one_hot(recall.sign, SIGNS), recall.asked)


def answer(recall: Recall, action: Array, key: Array) -> tuple[Recall, Array, Array]:
    """The environment after the action, a new one if this ended the episode; the reward; and whether it did."""
    asked_key, new_key = jax.random.split(key)
    right = recall.asked & (action == recall.sign)
    answers = recall.answers + right
    done = (recall.asked & ~right) | (answers == QUESTIONS)
    asked = jax.random.bernoulli(asked_key, QUESTION_RATE)
    later = recall._replace(shown=jnp.array(False), asked=asked, answers=answers)
    return jax.tree.map(partial(jnp.where, done), new_recall(new_key), later), 1.0 * right, done


class QNetwork(nn.Module):
    """Embedding, core, and the value of each action. Without a core there is a dense layer, and the carry is None."""

    core: Recurrent | None

    def setup(self):
        self.embedding, self.q = nn.Dense(HIDDEN), nn.Dense(SIGNS)
        self.dense = nn.Dense(HIDDEN)

    def step(self, carry: jl.LSTMCarry | None, obs: Array, reset: Array) -> tuple[jl.LSTMCarry | None, Array]:
        """The actors' step: obs [E, I], reset [E] -> carry, q [E, A]."""
        x = nn.relu(self.embedding(obs))
        if self.core is None:
            y = nn.tanh(self.dense(x))
        else:
            carry, y = self.core.step(carry, x, reset=reset)
        return carry, self.q(y)

    def __call__(self, carry: jl.LSTMCarry | None, obs: Array, reset: Array) -> tuple[jl.LSTMCarry | None, Array]:
        """The learner's call: obs [B, T, I], reset [B, T] -> carry, q [B, T, A]. A carry of None begins with zeros."""
        xs = nn.relu(self.embedding(obs))
        if self.core is None:
            ys = nn.tanh(self.dense(xs))
        else:
            carry, ys = self.core(xs, reset=reset, initial_carry=carry)
        return carry, self.q(ys)


class Actors(NamedTuple):
    """What the actors keep from step to step, and from one segment to the next."""

    recall: Recall
    reset: Array  # done of the step before
    carry: jl.LSTMCarry | None


class Segment(NamedTuple):
    """What replay keeps: arrays [E, T, ...], but obs and reset are [E, T + 1, ...]; and the carry before them."""

    obs: Array
    reset: Array
    action: Array
    reward: Array
    done: Array
    first_carry: jl.LSTMCarry | None


def new_actors(network: QNetwork, key: Array) -> Actors:
    carry = None if network.core is None else network.core.init_carry((ENVS,))
    recall = jax.vmap(new_recall)(jax.random.split(key, ENVS))
    return Actors(recall=recall, reset=jnp.ones(ENVS, bool), carry=carry)


@partial(jax.jit, static_argnames="network")
def act(network: QNetwork, params, epsilon: Array, actors: Actors, key: Array) -> tuple[Actors, Segment]:
    """Act for a segment, each actor at random with probability epsilon [E]."""

    def step(actors: Actors, key: Array):
        explore_key, action_key, answer_key = jax.random.split(key, 3)
        obs = jax.vmap(observe)(actors.recall)
        carry, q = network.apply(params, actors.carry, obs, actors.reset, method="step")
        explore = jax.random.bernoulli(explore_key, epsilon)
        action = jnp.where(explore, jax.random.randint(action_key, (ENVS,), 0, SIGNS), q.argmax(-1))
        recall, reward, done = jax.vmap(answer)(actors.recall, action, jax.random.split(answer_key, ENVS))
        return Actors(recall=recall, reset=done, carry=carry), (obs, actors.reset, action, reward, done)

    first_carry = actors.carry
    actors, seen = jax.lax.scan(step, actors, jax.random.split(key, T))
    obs, reset, *rest = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), seen)  # scan puts time first
    obs = jnp.concatenate([obs, jax.vmap(observe)(actors.recall)[:, None]], axis=1)
    reset = jnp.concatenate([reset, actors.reset[:, None]], axis=1)
    return actors, Segment(obs, reset, *rest, first_carry)


def replayed_q(params, network: QNetwork, agent: Agent, before: Segment, segment: Segment) -> Array:
    """Q over a segment and the step after it, [B, T + 1, A], from the carry that this kind of agent starts with."""
    carry = (before if agent.burn_in else segment).first_carry if agent.stored else None
    if agent.burn_in:
        carry, _ = network.apply(params, carry, before.obs[:, :-1], before.reset[:, :-1])
        carry = jax.lax.stop_gradient(carry)
    return network.apply(params, carry, segment.obs, segment.reset)[1]


def loss_fn(params, target_params, network: QNetwork, agent: Agent, before: Segment, segment: Segment) -> Array:
    """The mean of (Q(o_t, a_t) - y_t)^2,   y_t = r_t + gamma (1 - done_t) Q_target(o_{t+1}, argmax_a Q(o_{t+1}, a))"""
    q = replayed_q(params, network, agent, before, segment)
    target_q = replayed_q(target_params, network, agent, before, segment)
    next_value = value_of(target_q[:, 1:], q[:, 1:].argmax(-1))
    y = segment.reward + GAMMA * (1.0 - segment.done) * next_value
    return jnp.square(value_of(q[:, :-1], segment.action) - jax.lax.stop_gradient(y)).mean()


def value_of(q: Array, action: Array) -> Array:
    return jnp.take_along_axis(q, action[..., None], axis=-1)[..., 0]


@jax.jit
def store(replay: Segment, index: int, newest: Segment) -> Segment:
    """Replace the oldest segments by the newest; replay is a ring [CAPACITY, E, ...]."""
    return jax.tree.map(lambda kept, new: kept.at[index % CAPACITY].set(new), replay, newest)


@partial(jax.jit, static_argnames=("network", "agent"))
def learn(network: QNetwork, agent: Agent, state, target_params, replay: Segment, index: int, key: Array):
    """Take one gradient step on segments drawn from replay, each with the one before it; index is the newest's."""
    params, opt_state = state
    age_key, env_key = jax.random.split(key)
    env = jax.random.randint(env_key, (BATCH,), 0, ENVS)
    place = index - jax.random.randint(age_key, (BATCH,), 0, jnp.clip(index, 1, CAPACITY - 1))
    segment = jax.tree.map(lambda kept: kept[place % CAPACITY, env], replay)
    before = jax.tree.map(lambda kept: kept[(place - 1) % CAPACITY, env], replay)
    loss, gradient = jax.value_and_grad(loss_fn)(params, target_params, network, agent, before, segment)
    changes, opt_state = OPTIMIZER.update(gradient, opt_state, params)
    return (optax.apply_updates(params, changes), opt_state), loss


def train(seed: int, agent: Agent, segments: int) -> tuple[float, float]:
    """Train, then act greedily in new environments: the share of episodes completed; and the last tenth's mean loss."""
    network = QNetwork(core=Recurrent(jl.LSTMCell(HIDDEN)) if agent.memory else None)
    params_key, actors_key, test_key, segments_key = jax.random.split(jax.random.key(seed), 4)
    actors = new_actors(network, actors_key)
    params = network.init(params_key, actors.carry, jax.vmap(observe)(actors.recall), actors.reset, method="step")
    state = params, OPTIMIZER.init(params)
    epsilon = 0.4 ** (1 + 7 * jnp.arange(ENVS) / (ENVS - 1))  # one for each actor, as in the paper
    empty = jax.eval_shape(act, network, params, epsilon, actors, params_key)[1]
    replay = jax.tree.map(lambda leaf: jnp.zeros((CAPACITY, *leaf.shape), leaf.dtype), empty)
    target_params, losses = params, []
    for index, (act_key, *learn_keys) in enumerate(jax.random.split(segments_key, (segments, 1 + STEPS))):
        actors, newest = act(network, state[0], epsilon, actors, act_key)
        replay = store(replay, index, newest)
        if index % TARGET_EVERY == 0:
            target_params = state[0]
        for key in learn_keys:
            state, loss = learn(network, agent, state, target_params, replay, index, key)
        losses.append(loss)

    completed, ended = 0, 0
    actors_key, *keys = jax.random.split(test_key, 1 + TEST_SEGMENTS)
    actors = new_actors(network, actors_key)
    for key in keys:
        actors, segment = act(network, state[0], 0 * epsilon, actors, key)
        completed, ended = completed + int((segment.reward * segment.done).sum()), ended + int(segment.done.sum())
    last = losses[-max(segments // 10, 1) :]
    return completed / ended, float(sum(last)) / len(last)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--segments", type=int, default=800, help=f"of {ENVS} x {T} steps (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="how many to train, from 0 on (%(default)s)")
    options = parser.parse_args(arguments)
    print(f"{options.segments * ENVS * T} steps, {options.seeds} seeds; the loss is that of the last tenth")
    print("the learner's carry    episodes completed: mean, lowest, highest  mean loss  seconds")
    for name, agent in AGENTS.items():
        start = time.perf_counter()
        results = [train(seed, agent, options.segments) for seed in range(options.seeds)]
        completed, losses = zip(*results, strict=True)
        spread = f"{statistics.mean(completed):.2f}, {min(completed):.2f}, {max(completed):.2f}"
        seconds = f"{time.perf_counter() - start:.0f}"
        print(f"{name:21}  {spread:>41}  {statistics.mean(losses):9.3f}  {seconds:>7}")


if __name__ == "__main__":
    main()
