"""Tasks that show what the cells do, on real and generated sequences; the work behind the command line.

One file a task; `train`, `resume` and `evaluate` run any of them. Needs the extra ``jaxlstm[tasks]``.
"""

from jaxlstm.tasks._run import RunError
from jaxlstm.tasks._sample import sample
from jaxlstm.tasks._task import CELLS, Problem, Recipe, Task
from jaxlstm.tasks._text_model import TextModel, held_out_text, load_text
from jaxlstm.tasks._train import TASKS, evaluate, resume, train
from jaxlstm.training import Terminated

__all__ = [
    "CELLS",
    "TASKS",
    "Problem",
    "Recipe",
    "RunError",
    "Task",
    "Terminated",
    "TextModel",
    "evaluate",
    "held_out_text",
    "load_text",
    "resume",
    "sample",
    "train",
]
