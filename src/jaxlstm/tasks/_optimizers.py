"""The optimizers of the tasks."""

from typing import Any

import optax
from optax import GradientTransformation


def clipped_adam(learning_rate: float, steps: int) -> GradientTransformation:
    """Adam with gradients clipped to norm 1 and a learning rate that decays to 0 along half a cosine."""
    schedule = optax.cosine_decay_schedule(learning_rate, steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


def per_model(optimizer: GradientTransformation) -> GradientTransformation:
    """Apply the optimizer to each model of a dict separately, so that each gradient is clipped by its own norm."""

    def init(params: Any) -> Any:
        return {name: optimizer.init(model) for name, model in params.items()}

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        both = {name: optimizer.update(updates[name], state[name], params and params[name]) for name in updates}
        return {name: update for name, (update, _) in both.items()}, {name: state for name, (_, state) in both.items()}

    return GradientTransformation(init, update)
