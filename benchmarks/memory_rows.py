"""The rows of `memory.py`: a task, what differs from its recipe, its criterion, and what is published."""

from typing import Any, NamedTuple

RECENT = ("GRU", "LSTM", "MGU", "minGRU", "minLSTM", "IndRNN", "sLSTM", "mLSTM", "LRU", "ConvLSTM")  # with --recent
EVERY = ("RNN", "GRU", "LSTM", "LSTM, no forget gate", "LSTM, forget bias 0")
LONG = (*EVERY, "GRU, chrono", "LSTM, chrono")  # where memory must outlast what a gate of sigma(1) keeps
FEW = ("RNN", "GRU", "LSTM", "GRU, chrono", "LSTM, chrono")  # in the dear rows; --cells runs the others too
PLAIN = ("RNN", "GRU", "LSTM")


class Criterion(NamedTuple):
    """Of the last `window` training sequences at most `wrong` are wrong, and their mean error is below `error`."""

    window: int
    wrong: int
    error: float | None = None


class Row(NamedTuple):
    """One row: `changes` go into the task's recipe; no criterion means that the test figure counts, in `unit`.

    `own`: further changes for single cells, chosen by `choose.py`.

    Published is a number of sequences, or the test figures of kinds of cells, "" for any.
    """

    task: str
    published: int | dict[str, float]
    note: str
    criterion: Criterion | None = None
    unit: str = ""
    changes: dict[str, Any] = {}  # noqa: RUF012
    own: dict[str, dict[str, Any]] = {}  # noqa: RUF012
    cells: tuple[str, ...] = EVERY
    seeds: int = 5


COUNTED = (
    "Training sequences until the task's criterion is met: the median of the seeds that met it, and how many did; "
    "`> n`: none within n. *missed*: more than published; *open*: fewer were tried than published. Published: "
    "Hochreiter & Schmidhuber 1997, the LSTM without forget gate, truncated gradients, one sequence at a time. Here: "
    "Adam with clipping and a falling rate, full gradients, batches. Sizes: see below. Chrono biases, which `jaxlstm "
    "train` has too, are made for the length of the task."
)
OF_RECENT = (
    "Cells since 2016 beside GRU and LSTM. Counts, figures and verdicts as above. No recipe was chosen for a recent "
    "cell, and all have their usual biases. sLSTM and mLSTM have 4 heads. One layer of LRU is linear in time and in "
    "its inputs, minGRU and minLSTM are linear in time."
)
MISSED = (
    "Why *missed* and *open*: a forget gate that starts at sigma(1) = 0.73 (a GRU's at 0.5) keeps 4 % of a value "
    "after 10 steps and nothing after 100, so that there is hardly a gradient to learn from; and *open* rows, which "
    "are dear, stop early. Chrono biases open the gates for the length of the task. The tanh RNN has no gate to open. "
    "The LSTM without a forget gate has the input gates of 1997, which start at sigma(-3) = 0.05. With biases of 0 it "
    "lets in too much at first, and all of it stays: it met reber, and with one seed each temporal-order-6a and the "
    "noise-free lag. On copying, a rate of 0.01, the same for all cells, is too high for RNN: by hand, it came to the "
    "floor at 0.003 and 0.001, and below it, to 0.170, at 0.0003. On the chorales the GRU is 0.06 nats behind: the "
    "weights of the last step count here, and more steps, or two layers, end worse; the published code keeps, of up "
    "to 100 epochs, the weights that are best on validation."
)
FIGURES = "Test figures, mean (and standard deviation) over the seeds. *missed*: worse than published for that cell."
ADDING = Criterion(window=2000, wrong=0, error=0.01)
STRICT = "The mean error is the absolute one, which is at least as strict as the squared."
LINEAR = "Linear output in place of a sigmoid."
SOFTMAX = "Softmax and cross-entropy in place of sigmoids and squared errors."
ROWS = {
    "adding-100": Row("adding-1997", 74_000, f"{LINEAR} {STRICT}", ADDING, changes={"steps": 2400}, cells=LONG),
    "adding-500": Row(
        "adding-1997",
        209_000,
        f"{LINEAR} {STRICT}",
        ADDING,
        changes={"length": 500, "steps": 1250},
        cells=(*FEW, "LSTM, no forget gate"),
        seeds=3,
    ),
    "adding-1000": Row(
        "adding-1997",
        853_000,
        f"{LINEAR} {STRICT}",
        ADDING,
        changes={"length": 1000, "steps": 1500},
        cells=(*FEW, "LSTM, no forget gate"),
        seeds=2,
    ),
    "multiplication": Row("multiplication", 482_000, LINEAR, Criterion(2000, 139), changes={"steps": 1500}, cells=LONG),
    "temporal-order-6a": Row(
        "temporal-order-6a",
        31_390,
        SOFTMAX,
        Criterion(2000, 0, 0.1),
        changes={"steps": 3900, "batch_size": 8},
        cells=LONG,
    ),
    "temporal-order-6b": Row(
        "temporal-order-6b", 571_100, SOFTMAX, Criterion(2000, 0, 0.1), changes={"steps": 1000}, cells=LONG
    ),
    "noise-free-lag": Row(
        "noise-free-lag",
        5_040,
        f"{SOFTMAX} There are but two sequences, and a batch is both (in the paper, one drawn at random). The last 200 "
        "stand for the paper's test on 10 000.",
        Criterion(200, 0),
        changes={"learning_rate": 2e-2},
        cells=(*FEW, "LSTM, no forget gate"),
        seeds=3,
    ),
    "reber": Row(
        "reber",
        8_440,
        f"{SOFTMAX} The last 512 strings, each new, stand for the paper's 256 to train on and 256 to test.",
        Criterion(512, 0),
        changes={"steps": 2100, "batch_size": 4},
    ),
    "copying": Row(
        "copying",
        {"": 0.1733},
        "Published: the floor, 10 ln 8 / (T + 20), which a network without memory has.",
        unit="nats a step",
        changes={"length": 100, "hidden_size": 128, "learning_rate": 1e-2, "batch_size": 16, "steps": 3000},
        cells=FEW,
        seeds=2,
    ),
    "mnist1d": Row(
        "mnist1d",
        {"GRU": 0.91},
        "Bidirectional, all outputs read by one linear layer, as published; here with clipping and a falling rate.",
        unit="accuracy",
        cells=PLAIN,
        seeds=3,
    ),
    "jsb": Row(
        "jsb",
        {"LSTM": 8.45, "GRU": 8.43, "RNN": 8.91},
        "Published with 2 layers of 200, dropout 0.2. Recipes were chosen by the chorales to validate (choose.py). The "
        "GRU came to 8.6241 (0.0592) with RNN's recipe and to 8.6134 (0.0485) with the LSTM's.",
        unit="nats a frame",
        own={"RNN": {"hidden_size": 200, "dropout": 0.5, "learning_rate": 1e-2}, "GRU": {"steps": 1600}},
        cells=PLAIN,
        seeds=2,
    ),
    "vowels": Row(
        "vowels",
        {"LSTM": 0.9541},
        "Bidirectional, as published; here the largest output of each unit is read, not the last, and inputs are noisy "
        "in training.",
        unit="accuracy",
        cells=PLAIN,
        seeds=3,
    ),
}
