"""Sequence tasks from the literature, and the functions behind the command line.

`train`, `resume` and `evaluate` run any task of `TASKS`; each task is documented in a file of its own. The functions
`make_...` draw a batch of a generated task from a key, the functions `load_...` read real data. Needs the extra
``jaxlstm[tasks]``.
"""

from jaxlstm.tasks._adding import make_batch as make_adding
from jaxlstm.tasks._continual_reber import make_batch as make_continual_reber
from jaxlstm.tasks._copying import make_batch as make_copying
from jaxlstm.tasks._generated import Sequences
from jaxlstm.tasks._jsb import load as load_jsb
from jaxlstm.tasks._long_lags import make_batch as make_long_lag
from jaxlstm.tasks._marked import make_batch as make_marked
from jaxlstm.tasks._mnist1d import load as load_mnist1d
from jaxlstm.tasks._reber import make_batch as make_reber
from jaxlstm.tasks._run import RunError
from jaxlstm.tasks._sample import sample
from jaxlstm.tasks._task import CELLS, Problem, Recipe, Task
from jaxlstm.tasks._temporal_order import make_batch as make_temporal_order
from jaxlstm.tasks._text_model import TextModel, held_out_text, load_text
from jaxlstm.tasks._train import TASKS, evaluate, recipe_of, resume, train
from jaxlstm.tasks._vowels import load as load_vowels
from jaxlstm.training import Terminated

__all__ = [
    "CELLS",
    "TASKS",
    "Problem",
    "Recipe",
    "RunError",
    "Sequences",
    "Task",
    "Terminated",
    "TextModel",
    "evaluate",
    "held_out_text",
    "load_jsb",
    "load_mnist1d",
    "load_text",
    "load_vowels",
    "make_adding",
    "make_continual_reber",
    "make_copying",
    "make_long_lag",
    "make_marked",
    "make_reber",
    "make_temporal_order",
    "recipe_of",
    "resume",
    "sample",
    "train",
]
