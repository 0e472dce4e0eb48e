"""The optimizers of the tasks, made of Optax's parts."""

from typing import Any

import optax
from optax import GradientTransformation


def clipped_adam(learning_rate: float, steps: int) -> GradientTransformation:
    """Adam, on gradients of norm 1 at most, with a learning rate that falls to 0 as half a cosine."""
    schedule = optax.cosine_decay_schedule(learning_rate, steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


def per_model(optimizer: GradientTransformation) -> GradientTransformation:
    """The optimizer for each model of a dict apart, so that clipping one's gradient does not look at the others'."""

    def init(params: Any) -> Any:
        return {name: optimizer.init(model) for name, model in params.items()}

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        both = {name: optimizer.update(updates[name], state[name], params and params[name]) for name in updates}
        return {name: update for name, (update, _) in both.items()}, {name: state for name, (_, state) in both.items()}

    return GradientTransformation(init, update)
