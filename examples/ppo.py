"""PPO with a recurrent policy on a T-maze, which no policy without memory solves.

A cue at the start of a corridor tells where to turn at its end, 5 to 15 steps later (after Bakker 2002, "Reinforcement
learning with long short-term memory"). Environments run in parallel and reset themselves, so one rollout may hold the
end of an episode and the start of the next. A recurrent policy then needs four things:

- reset[t] = done[t-1]: the core starts afresh at the first step of an episode.
- The actors keep the carry from step to step, and from one rollout to the next.
- The learner calls the core once, over the whole rollout, from the carry before its first step. Until the first
  gradient step, its values are those that the actors computed, to rounding. The program prints the difference.
- A minibatch is some of the environments, each with all its steps.

The rest is PPO as in Schulman et al. 2017: clipped ratios, generalised advantage estimation, an entropy bonus.

    pip install '.[flax,training]' && python examples/ppo.py
"""

import argparse
import statistics
import time
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

import jaxlstm as jl
from jaxlstm.nnx import Recurrent

ENVS, T = 64, 32  # environments, and steps of a rollout
EPOCHS, MINIBATCHES = 4, 4
GAMMA, LAMBDA, CLIP = 0.99, 0.95, 0.2
VALUE_COST, ENTROPY_COST = 0.5, 0.01
LEARNING_RATE, MAX_NORM = 2e-3, 0.5
HIDDEN = 32
TEST_ROLLOUTS = 10
OPTIMIZER = optax.chain(optax.clip_by_global_norm(MAX_NORM), optax.adam(LEARNING_RATE))

OBSERVATIONS = 4  # one-hot: cue up, cue down, corridor, junction
ACTIONS = 3  # forward, up, down


class Maze(NamedTuple):
    """One environment: where to turn (0 is up, 1 down), the place of the junction, and that of the agent."""

    cue: Array
    junction: Array
    position: Array


def new_maze(key: Array) -> Maze:
    cue_key, junction_key = jax.random.split(key)
    junction = jax.random.randint(junction_key, (), 5, 16)
    return Maze(cue=jax.random.randint(cue_key, (), 0, 2), junction=junction, position=jnp.zeros_like(junction))


def observe(maze: Maze) -> Array:
    place = jnp.where(maze.position == maze.junction, 3, 2)
    return jax.nn.one_hot(jnp.where(maze.position == 0, maze.cue, place), OBSERVATIONS)


def move(maze: Maze, action: Array, key: Array) -> tuple[Maze, Array, Array]:
    """The maze after the action, or a new one if this ended the episode; the reward; and whether it did."""
    done = (maze.position == maze.junction) & (action > 0)
    forward = (maze.position < maze.junction) & (action == 0)
    right = done & (action - 1 == maze.cue)
    reward = jnp.where(right, 4.0, jnp.where(forward, 0.0, -0.1))
    maze = maze._replace(position=maze.position + forward)
    return jax.tree.map(partial(jnp.where, done), new_maze(key), maze), reward, done


class ActorCritic(nnx.Module):
    """Embedding, core and two heads. Without memory the core is a dense layer of the same size, and the carry None."""

    def __init__(self, memory: bool, *, rngs: nnx.Rngs) -> None:
        self.embedding = nnx.Linear(OBSERVATIONS, HIDDEN, rngs=rngs)
        if memory:
            self.core = Recurrent(jl.LSTMCell(HIDDEN), HIDDEN, rngs=rngs)
        else:
            self.core = nnx.Linear(HIDDEN, HIDDEN, rngs=rngs)
        small = jax.nn.initializers.orthogonal(0.01)  # the first policy is near uniform
        self.policy = nnx.Linear(HIDDEN, ACTIONS, kernel_init=small, rngs=rngs)
        self.value = nnx.Linear(HIDDEN, 1, rngs=rngs)

    def init_carry(self, envs: int) -> jl.LSTMCarry | None:
        return self.core.init_carry((envs,)) if isinstance(self.core, Recurrent) else None

    def step(self, carry: jl.LSTMCarry | None, obs: Array, reset: Array) -> tuple[jl.LSTMCarry | None, Array, Array]:
        """The actors' step: obs [E, I], reset [E] -> carry, logits [E, A], values [E]."""
        x = nnx.relu(self.embedding(obs))
        if isinstance(self.core, Recurrent):
            carry, y = self.core.step(carry, x, reset=reset)
        else:
            y = nnx.tanh(self.core(x))
        return carry, self.policy(y), self.value(y)[..., 0]

    def __call__(self, carry: jl.LSTMCarry | None, obs: Array, reset: Array) -> tuple[Array, Array]:
        """The learner's call: obs [E, T, I], reset [E, T] -> logits [E, T, A], values [E, T]."""
        xs = nnx.relu(self.embedding(obs))
        if isinstance(self.core, Recurrent):
            _, ys = self.core(xs, reset=reset, initial_carry=carry)
        else:
            ys = nnx.tanh(self.core(xs))
        return self.policy(ys), self.value(ys)[..., 0]


class Actors(NamedTuple):
    """What the actors keep from step to step, and from one rollout to the next."""

    maze: Maze
    reset: Array  # done of the step before
    carry: jl.LSTMCarry | None


class Rollout(NamedTuple):
    """What the learner reads: arrays [E, T, ...], but value is [E, T + 1]; and the carry before the first step."""

    obs: Array
    reset: Array
    action: Array
    log_prob: Array
    reward: Array
    done: Array
    value: Array
    first_carry: jl.LSTMCarry | None


def new_actors(model: ActorCritic, key: Array) -> Actors:
    maze = jax.vmap(new_maze)(jax.random.split(key, ENVS))
    return Actors(maze=maze, reset=jnp.ones(ENVS, bool), carry=model.init_carry(ENVS))


@partial(jax.jit, static_argnames="graphdef")
def act(graphdef: nnx.GraphDef, params: nnx.State, actors: Actors, key: Array) -> tuple[Actors, Rollout]:
    model = nnx.merge(graphdef, params)

    def step(actors: Actors, key: Array):
        action_key, move_key = jax.random.split(key)
        obs = jax.vmap(observe)(actors.maze)
        carry, logits, value = model.step(actors.carry, obs, actors.reset)
        action = jax.random.categorical(action_key, logits)
        maze, reward, done = jax.vmap(move)(actors.maze, action, jax.random.split(move_key, ENVS))
        seen = (obs, actors.reset, action, log_prob_of(action, logits), reward, done, value)
        return Actors(maze=maze, reset=done, carry=carry), seen

    first_carry = actors.carry
    actors, seen = jax.lax.scan(step, actors, jax.random.split(key, T))
    *seen, value = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), seen)  # scan puts time first
    _, _, last_value = model.step(actors.carry, jax.vmap(observe)(actors.maze), actors.reset)
    value = jnp.concatenate([value, last_value[:, None]], axis=1)
    return actors, Rollout(*seen, value, first_carry)


def log_prob_of(action: Array, logits: Array) -> Array:
    return jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], axis=-1)[..., 0]


def advantages(rollout: Rollout) -> Array:
    """A_t = delta_t + gamma lambda (1 - done_t) A_{t+1},   delta_t = r_t + gamma (1 - done_t) v_{t+1} - v_t"""
    discount = GAMMA * (1.0 - rollout.done)
    delta = rollout.reward + discount * rollout.value[:, 1:] - rollout.value[:, :-1]

    def step(later: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        delta, discount = now
        advantage = delta + LAMBDA * discount * later
        return advantage, advantage

    _, result = jax.lax.scan(step, jnp.zeros(ENVS), (delta.T, discount.T), reverse=True)
    return result.T


def loss_fn(params: nnx.State, graphdef: nnx.GraphDef, rollout: Rollout, advantage: Array) -> Array:
    logits, value = nnx.merge(graphdef, params)(rollout.first_carry, rollout.obs, rollout.reset)
    ratio = jnp.exp(log_prob_of(rollout.action, logits) - rollout.log_prob)
    normed = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    policy_loss = -jnp.minimum(ratio * normed, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * normed).mean()
    value_loss = jnp.square(value - (rollout.value[:, :-1] + advantage)).mean()
    entropy = -(jax.nn.softmax(logits) * jax.nn.log_softmax(logits)).sum(-1).mean()
    return policy_loss + VALUE_COST * value_loss - ENTROPY_COST * entropy


@partial(jax.jit, static_argnames="graphdef")
def learn(graphdef: nnx.GraphDef, state: tuple[nnx.State, optax.OptState], rollout: Rollout, key: Array):
    """Take all gradient steps on one rollout; also return how far the learner's values are from the actors' before."""
    _, values = nnx.merge(graphdef, state[0])(rollout.first_carry, rollout.obs, rollout.reset)
    difference = jnp.abs(values - rollout.value[:, :-1]).max()

    def gradient_step(state, minibatch):
        params, opt_state = state
        gradient = jax.grad(loss_fn)(params, graphdef, *minibatch)
        changes, opt_state = OPTIMIZER.update(gradient, opt_state, params)
        return (optax.apply_updates(params, changes), opt_state), None

    orders = jax.vmap(partial(jax.random.permutation, x=ENVS))(jax.random.split(key, EPOCHS))
    envs = orders.reshape(EPOCHS * MINIBATCHES, ENVS // MINIBATCHES)
    minibatches = jax.tree.map(lambda leaf: leaf[envs], (rollout, advantages(rollout)))
    state, _ = jax.lax.scan(gradient_step, state, minibatches)
    return state, difference


def train(seed: int, memory: bool, updates: int) -> tuple[float, float, float]:
    """Train, then act in new mazes: the share of right turns, the mean return, and the largest difference of values."""
    model = ActorCritic(memory, rngs=nnx.Rngs(seed))
    graphdef, params = nnx.split(model)
    state = params, OPTIMIZER.init(params)
    actors_key, test_key, updates_key = jax.random.split(jax.random.key(seed), 3)
    actors, difference = new_actors(model, actors_key), 0.0
    for act_key, learn_key in jax.random.split(updates_key, (updates, 2)):
        actors, rollout = act(graphdef, state[0], actors, act_key)
        state, now = learn(graphdef, state, rollout, learn_key)
        difference = max(difference, float(now))

    rewards, right, ended = 0.0, 0, 0
    actors_key, *keys = jax.random.split(test_key, 1 + TEST_ROLLOUTS)
    actors = new_actors(model, actors_key)
    for key in keys:
        actors, rollout = act(graphdef, state[0], actors, key)
        rewards, ended = rewards + float(rollout.reward.sum()), ended + int(rollout.done.sum())
        right += int((rollout.reward > 0).sum())
    return right / ended, rewards / ended, difference


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=100, help=f"rollouts of {ENVS} x {T} steps (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="how many to train, from 0 on (%(default)s)")
    options = parser.parse_args(arguments)
    print(f"{options.updates * ENVS * T} steps, {options.seeds} seeds; difference between values of actors and learner")
    print("core   right turns: mean, lowest, highest  mean return  largest difference  seconds")
    for name, memory in (("LSTM", True), ("dense", False)):
        start = time.perf_counter()
        results = [train(seed, memory, options.updates) for seed in range(options.seeds)]
        right, rewards, differences = zip(*results, strict=True)
        spread = f"{statistics.mean(right):.3f}, {min(right):.3f}, {max(right):.3f}"
        seconds = f"{time.perf_counter() - start:.0f}"
        print(f"{name:5}  {spread:>34}  {statistics.mean(rewards):11.2f}  {max(differences):18.1e}  {seconds:>7}")


if __name__ == "__main__":
    main()
