"""Training with Optax: a state, a jitted step, masked losses, a plain loop, checkpoints.

state = init_state(params, optimizer, key)
train_step = make_train_step(loss_fn, optimizer)        # loss_fn(params, batch, key) -> (loss, metrics)
state = fit(train_step, state, batches, steps=1000, checkpoints=Checkpoints("run", every=100))
"""

try:
    import optax as _optax  # noqa: F401
    import tqdm as _tqdm  # noqa: F401
except ImportError as error:
    raise ImportError(f"jaxlstm.training needs its extra: pip install 'jaxlstm[training]' ({error})") from error

from jaxlstm.training._checkpoints import Checkpoints
from jaxlstm.training._errors import CheckpointError, LogError, Terminated
from jaxlstm.training._evaluation import Evaluation
from jaxlstm.training._fit import fit
from jaxlstm.training._guard import skip_nonfinite
from jaxlstm.training._log import Log
from jaxlstm.training._loss_fn import CarriedLossFn, LossFn, StatelessLossFn
from jaxlstm.training._losses import cross_entropy, masked_mean, squared_error
from jaxlstm.training._processes import connect, first_alone
from jaxlstm.training._state import TrainState, init_state
from jaxlstm.training._step import TrainStep, make_train_step

__all__ = [
    "CarriedLossFn",
    "CheckpointError",
    "Checkpoints",
    "Evaluation",
    "Log",
    "LogError",
    "LossFn",
    "StatelessLossFn",
    "Terminated",
    "TrainState",
    "TrainStep",
    "connect",
    "cross_entropy",
    "first_alone",
    "fit",
    "init_state",
    "make_train_step",
    "masked_mean",
    "skip_nonfinite",
    "squared_error",
]
