"""Each mistake is a ValueError or TypeError that names the argument, what was expected and what came."""

import copy
import dataclasses
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from properties import CountingCell

import jaxlstm as jl

LSTM, GRU, RNN = jl.LSTMCell(4), jl.GRUCell(4), jl.RNNCell(4)
KEY = jax.random.key(0)


def params_of(network, input_size=3):
    template = jax.eval_shape(lambda: network.init(jax.random.key(0), input_size))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template)


def carry_of(cell, *batch):
    return cell.init_carry(params_of(cell), batch)


PARAMS, CARRY = params_of(LSTM), carry_of(LSTM, 2)
XS = np.zeros((5, 2, 3), np.float32)


def unroll(cell=LSTM, params=PARAMS, xs=XS, carry=None, **options):
    return jl.unroll(cell, params, xs, carry, **options)


def step(cell=LSTM, params=PARAMS, carry=CARRY, x=XS[0]):
    return cell.step(params, carry, x)


def init(cell=LSTM, key=KEY, input_size=3, **options):
    return cell.init(key, input_size, **options)


def stack(*layers, params=None, carry=None, **options):
    network = jl.Stack(*layers)
    return network.apply(params_of(network) if params is None else params, XS, carry, **options)


def both_ways(*cells, params=None, carry=None, **options):
    network = jl.Bidirectional(*cells)
    return network.apply(params_of(network) if params is None else params, XS, carry, **options)


class Unhashable(jl.RNNCell):
    __hash__ = None


class UnhashableMerge:
    __hash__ = None

    def __call__(self, forward, backward):
        return forward


MISTAKES = {
    "a cell as layers": (lambda: jl.Stack(layers=LSTM), "layers: expected a tuple of cells and layers, got LSTMCell("),
    "layers of which one is none": (lambda: jl.Stack(layers=(LSTM, 1)), "layers[1]: expected a Cell", "got 1 (int)"),
    "a b_init that is not used": (
        lambda: jl.GRUCell(4, bias=False, b_init=jl.chrono(9)),
        "b_init: expected its default where bias=False, got chrono(9)",
    ),
    "learned params as a tuple": (
        lambda: (lambda cell: cell.init_carry(tuple(params_of(cell)), (2,)))(jl.LearnedCarry(RNN)),
        "params: expected LearnedCarryParams, got (RNNParams(",
    ),
    "an unhashable merge": (
        lambda: jl.Bidirectional(LSTM, merge=UnhashableMerge()),
        "merge: expected a hashable",
        "got",
    ),
    "gates of a list": (lambda: jl.lstm_gates([0.0] * 4), "z: expected an array, got [0.0, 0.0, 0.0, 0.0] (list)"),
    "a cell state of a number": (
        lambda: jl.lstm_transition(jl.Gates(*np.ones((4, 2))), [0.5]),
        "c: expected an array, got [0.5] (list)",
    ),
    "an array as evaluator": (
        lambda: unroll(evaluator=np.array(["loop", "newton"])),
        "evaluator: expected None or one of 'loop', 'associative', 'chunkwise', 'newton', got <U6[2]",
    ),
    # the sequence
    "xs of one axis": (lambda: unroll(xs=XS[0, 0]), "xs: expected an array [T, *batch, I], got float32[3]"),
    "xs of other features": (
        lambda: unroll(xs=XS[..., :2]),
        "params.w_ih: expected shape (2, 16)",
        "xs",
        "got (3, 16)",
    ),
    "xs of ints": (lambda: unroll(xs=XS.astype(int)), "xs: expected a floating-point array, got int64[5, 2, 3]"),
    "xs as a list": (lambda: unroll(xs=XS.tolist()), "xs: expected an array, got [[[", "(list)"),
    "xs as None": (lambda: unroll(xs=None), "xs: expected an array, got None"),
    "xs of complex": (lambda: unroll(xs=XS + 0j), "xs: expected a floating-point array, got complex"),
    "x of no axis": (lambda: step(x=np.float32(1)), "x: expected an array [*batch, I], got float32[]"),
    "x of another batch": (lambda: step(x=np.zeros((7, 3))), "carry.h: expected shape (7, 4)", "got (2, 4)"),
    # the carry
    "carry of another cell": (lambda: unroll(carry=carry_of(GRU, 2)), "carry: expected LSTMCarry, got RNNCarry"),
    "carry as a tuple": (lambda: unroll(carry=tuple(CARRY)), "carry: expected LSTMCarry, got tuple"),
    "carry of another batch": (lambda: unroll(carry=carry_of(LSTM, 7)), "carry.h: expected shape (2, 4)", "got (7, 4)"),
    "carry without its batch": (lambda: unroll(carry=carry_of(LSTM)), "carry.h: expected shape (2, 4)", "got (4,)"),
    "carry of another size": (
        lambda: unroll(carry=carry_of(jl.LSTMCell(5), 2)),
        "carry.h: expected shape (2, 4) for xs of shape (5, 2, 3), got (2, 5)",
    ),
    "carry with a list": (lambda: unroll(carry=CARRY._replace(c=[0.0])), "carry", "expected", "got"),
    "carry of ints": (
        lambda: unroll(carry=jax.tree.map(lambda c: c.astype(int), CARRY)),
        "carry.h: expected",
        "got int",
    ),
    "carry in a step": (lambda: step(carry=tuple(CARRY)), "carry: expected LSTMCarry, got tuple"),
    "no carry in a step": (lambda: step(carry=None), "carry: expected LSTMCarry, got NoneType"),
    # the params
    "params as a tuple": (lambda: unroll(params=tuple(PARAMS)), "params: expected LSTMParams, got tuple"),
    "params of another cell": (lambda: unroll(params=params_of(RNN)), "params: expected LSTMParams, got RNNParams"),
    "params of the other GRU": (
        lambda: unroll(GRU, params_of(jl.GRUCell(4, reset_after=False))),
        "params: expected GRUParams(",
        "b_hn='float32[4]'), got GRUParams(",
        "b_hn=None)",
    ),
    "w_hh of another shape": (
        lambda: unroll(params=PARAMS._replace(w_hh=np.zeros((5, 16)))),
        "params.w_hh: expected shape (4, 16)",
        "got (5, 16)",
    ),
    "params of ints": (
        lambda: unroll(params=jax.tree.map(lambda p: p.astype(int), PARAMS)),
        "params.w_ih: expected a floating-point array, got int64[3, 16]",
    ),
    "params with a list": (lambda: unroll(params=PARAMS._replace(b=[0.0] * 16)), "params", "expected", "got"),
    "params of another input size": (
        lambda: unroll(params=params_of(LSTM, 7)),
        "params.w_ih: expected shape (3, 16) for 3 input features (the last axis of xs), got (7, 16)",
    ),
    # which steps count, and where sequences begin
    "lengths of floats": (
        lambda: unroll(lengths=np.ones(2)),
        "lengths: expected an integer array",
        "(2,), got float64[2]",
    ),
    "negative lengths": (lambda: unroll(lengths=np.array([3, -1])), "lengths: expected values in 0..5", "got -1..3"),
    "lengths too long": (lambda: unroll(lengths=np.array([3, 6])), "lengths: expected values in 0..5", "got 3..6"),
    "lengths of another batch": (lambda: unroll(lengths=np.ones(32, int)), "lengths: expected shape (2,), got (32,)"),
    "lengths as a list": (lambda: unroll(lengths=[3, 5]), "lengths: expected an array, got [3, 5] (list)"),
    "lengths of bools": (lambda: unroll(lengths=np.ones(2, bool)), "lengths: expected an integer array", "got bool[2]"),
    "a single length": (lambda: unroll(lengths=3), "lengths: expected shape (2,), got ()"),
    "lengths beyond 32 bits": (
        lambda: unroll(lengths=np.array([5, 2**32 + 2])),
        "lengths: expected values in 0..5",
        "got 5..4294967298",
    ),
    "start beyond the widest integer": (
        lambda: unroll(start=2**63),
        f"start: expected an integer in {-(2**63)}..{2**63 - 1}, got {2**63}",
    ),
    "xs of objects": (lambda: unroll(xs=XS.astype(object)), "xs: expected an array of numbers, got object[5, 2, 3]"),
    "xs of 8 bits": (
        lambda: unroll(xs=jnp.asarray(XS, jnp.float8_e4m3fn)),
        "xs: expected a floating-point array, got float8_e4m3fn[5, 2, 3]",
    ),
    "params of 8 bits": (
        lambda: unroll(params=jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float8_e4m3fn), PARAMS)),
        "params.w_ih: expected a floating-point array, got float8_e4m3fn[3, 16]",
    ),
    "17 numbers for 4 gates": (
        lambda: jl.lstm_gates(jnp.zeros(17)),
        "z: expected 4 gates side by side on the last axis, got float64[17]",
    ),
    "mask of ints": (
        lambda: unroll(mask=np.ones((5, 2), int)),
        "mask: expected a bool array of shape (5, 2), got int64",
    ),
    "mask, batch first": (lambda: unroll(mask=np.ones((2, 5), bool)), "mask: expected shape (5, 2), got (2, 5)"),
    "mask as a list": (lambda: unroll(mask=[True] * 5), "mask: expected an array, got [True", "(list)"),
    "reset of ints": (
        lambda: unroll(reset=np.ones((5, 2), int)),
        "reset: expected a bool array of shape (5, 2), got int",
    ),
    "reset without batch": (lambda: unroll(reset=np.ones(5, bool)), "reset: expected shape (5, 2), got (5,)"),
    # the other options of unroll
    "reverse as a word": (lambda: unroll(reverse="yes"), "reverse: expected True or False, got 'yes' (str)"),
    "remat 0": (lambda: unroll(remat=0), "remat: expected a positive int, got 0"),
    "remat -1": (lambda: unroll(remat=-1), "remat: expected a positive int, got -1"),
    "remat 2.5": (lambda: unroll(remat=2.5), "remat: expected None, True, False, 'sqrt' or a", "got 2.5 (float)"),
    "project_first 1": (lambda: unroll(project_first=1), "project_first: expected None, True or False, got 1 (int)"),
    "remat log": (lambda: unroll(remat="log"), "remat: expected None, True, False, 'sqrt' or a", "got 'log' (str)"),
    "unroll 0": (lambda: unroll(unroll=0), "unroll: expected a positive int, got 0"),
    "unroll True": (lambda: unroll(unroll=True), "unroll: expected a positive int, got True (bool)"),
    "start of a float": (lambda: unroll(start=1.5), "start: expected an integer, got float"),
    "start of two": (lambda: unroll(start=np.array([0, 1])), "start: expected a single integer, got int64[2]"),
    "start as None": (lambda: unroll(start=None), "start: expected an array, got None"),
    "key of a seed": (lambda: unroll(key=0), "key: expected a PRNG key (jax.random.key(seed)), got 0 (int)"),
    "a raw key of three words": (
        lambda: unroll(key=np.zeros(3, np.uint32)),
        "key: expected a PRNG key (jax.random.key(seed)), got uint32[3]",
    ),
    "a batch of keys": (lambda: unroll(key=jax.random.split(KEY)), "key: expected a single PRNG key, got key<fry>[2]"),
    "the cell's class": (
        lambda: unroll(jl.LSTMCell),
        "cell: expected a Cell such as LSTMCell(128) (an instance",
        "got",
    ),
    "a layer as the cell": (lambda: unroll(jl.Layer(LSTM)), "cell: expected a Cell", "got Layer("),
    "a cell without hash": (
        lambda: unroll(Unhashable(4), params_of(RNN)),
        "cell: expected static, hashable",
        "unhashable",
    ),
    # the options of cells
    "hidden_size 0": (lambda: jl.LSTMCell(0), "hidden_size: expected a positive int, got 0"),
    "hidden_size -1": (lambda: jl.GRUCell(-1), "hidden_size: expected a positive int, got -1"),
    "hidden_size 2.5": (lambda: jl.RNNCell(2.5), "hidden_size: expected a positive int, got 2.5 (float)"),
    "hidden_size True": (lambda: jl.LSTMCell(True), "hidden_size: expected a positive int, got True (bool)"),
    "forget_bias as a word": (lambda: jl.LSTMCell(4, forget_bias="1"), "forget_bias: expected a number, got '1' (str)"),
    "forget_bias nan": (lambda: jl.LSTMCell(4, forget_bias=np.nan), "forget_bias: expected a finite number, got nan"),
    "forget_bias and b_init": (
        lambda: jl.LSTMCell(4, forget_bias=2.0, b_init=jl.chrono(9)),
        "forget_bias: expected its default where b_init is given or bias=False, got 2.0",
    ),
    "activation by name": (
        lambda: jl.RNNCell(4, activation_fn="tanh"),
        "activation_fn: expected a function, got 'tanh'",
    ),
    "gate_fn by name": (lambda: jl.GRUCell(4, gate_fn="sigmoid"), "gate_fn: expected a function, got 'sigmoid' (str)"),
    "an initialiser's value": (
        lambda: jl.LSTMCell(4, w_ih_init=0.1),
        "w_ih_init: expected a function, got 0.1 (float)",
    ),
    "reset_after 1": (lambda: jl.GRUCell(4, reset_after=1), "reset_after: expected True or False, got 1 (int)"),
    "chrono(1)": (lambda: jl.chrono(1), "longest: expected more than 2 steps, got 1"),
    "chrono in an RNN": (
        lambda: init(jl.RNNCell(4, b_init=jl.chrono(9))),
        "b_init: expected an LSTM or a GRU for chrono, got a cell of 1 gates",
    ),
    # init
    "input_size 0": (lambda: init(input_size=0), "input_size: expected a positive int, got 0"),
    "input_size of a float": (lambda: init(input_size=3.0), "input_size: expected a positive int, got 3.0 (float)"),
    "no key": (lambda: init(key=None), "key: expected a PRNG key (jax.random.key(seed)), got None"),
    "a seed for a key": (lambda: init(key=0), "key: expected a PRNG key (jax.random.key(seed)), got 0 (int)"),
    "keys for a key": (lambda: init(key=jax.random.split(KEY)), "key: expected a single PRNG key, got key<fry>[2]"),
    "a float for a key": (lambda: init(key=jnp.zeros(2)), "key: expected a PRNG key", "got float64[2]"),
    "dtype int": (lambda: init(dtype=int), "dtype: expected a floating-point dtype", "got <class 'int'>"),
    "dtype complex": (lambda: init(dtype=complex), "dtype: expected a floating-point dtype", "got <class 'complex'>"),
    "dtype of 8 bits": (
        lambda: init(dtype=jnp.float8_e4m3fn),
        "dtype: expected a floating-point dtype of at least 16 bits, got <class 'jax.numpy.float8_e4m3fn'>",
    ),
    "dtype of no sense": (lambda: init(dtype="float23"), "dtype: expected a floating-point dtype", "got 'float23'"),
    "dtype None": (lambda: init(dtype=None), "dtype: expected a floating-point dtype", "got None"),
    "dtype int of a carry": (
        lambda: LSTM.init_carry(PARAMS, dtype=int),
        "dtype: expected a floating-point dtype",
        "int",
    ),
    # layers
    "dropout 1": (lambda: jl.Stack(LSTM, LSTM, dropout=1.0), "dropout: expected a rate in [0, 1), got 1.0"),
    "dropout -0.1": (lambda: jl.Stack(LSTM, LSTM, dropout=-0.1), "dropout: expected a rate in [0, 1), got -0.1"),
    "dropout nan": (lambda: jl.Stack(LSTM, LSTM, dropout=np.nan), "dropout: expected a finite number, got nan"),
    "dropout as a word": (lambda: jl.Stack(LSTM, dropout="0.5"), "dropout: expected a number, got '0.5' (str)"),
    "an empty stack": (lambda: jl.Stack(), "layers_or_cells: expected at least one cell or layer, got none"),
    "a stack of a number": (lambda: jl.Stack(LSTM, 4), "layers_or_cells[1]: expected a Cell", "got 4 (int)"),
    "a stack of a class": (lambda: jl.Stack(jl.LSTMCell), "layers_or_cells[0]: expected a Cell", "an instance", "got"),
    "a stack of a list": (
        lambda: jl.Stack([LSTM, LSTM]),
        "layers_or_cells[0]: expected a Cell",
        "got [LSTMCell",
        "(list)",
    ),
    "a layer of a layer": (lambda: jl.Layer(jl.Layer(LSTM)), "cell: expected a Cell", "got Layer("),
    "reverse of a layer": (lambda: jl.Layer(LSTM, reverse="no"), "reverse: expected True or False, got 'no' (str)"),
    "merge of no sense": (
        lambda: jl.Bidirectional(LSTM, merge="add"),
        "merge: expected one of 'concat', 'sum', 'mean', 'mul' or a function of two arrays, got 'add' (str)",
    ),
    "merge None": (
        lambda: jl.Bidirectional(LSTM, merge=None),
        "merge: expected one of 'concat'",
        "got None (NoneType)",
    ),
    "merge of a list": (lambda: jl.Bidirectional(LSTM, merge=["sum"]), "merge: expected one of", "got ['sum'] (list)"),
    "sum of two sizes": (
        lambda: jl.Bidirectional(LSTM, jl.GRUCell(5), merge="sum"),
        "backward_cell: expected 4 output features for merge='sum', got 5",
    ),
    "a backward layer": (
        lambda: jl.Bidirectional(LSTM, jl.Layer(LSTM)),
        "backward_cell: expected a Cell such as LSTMCell(128), got Layer(",
    ),
    "too few params": (lambda: stack(LSTM, GRU, params=(PARAMS,)), "params: expected a tuple of 2", "got a tuple of 1"),
    "params in a list": (
        lambda: stack(LSTM, params=[PARAMS]),
        "params: expected a tuple of 1",
        "got [LSTMParams",
        "(list)",
    ),
    "params of one layer": (lambda: stack(LSTM, params=PARAMS), "params: expected a tuple of 1", "got LSTMParams("),
    "a carry of one layer": (lambda: stack(LSTM, carry=CARRY), "carry: expected a tuple of 1", "got LSTMCarry("),
    "too many carries": (lambda: stack(LSTM, carry=(CARRY, CARRY)), "carry: expected a tuple of 1", "got a tuple of 2"),
    "params of one direction": (
        lambda: both_ways(LSTM, params=PARAMS),
        "params: expected a tuple of 2",
        "got LSTMParams(",
    ),
    "a carry of one direction": (
        lambda: both_ways(LSTM, carry=CARRY),
        "carry: expected a tuple of 2",
        "got LSTMCarry(",
    ),
    "lengths in a stack": (lambda: stack(LSTM, lengths=np.ones(3, int)), "lengths: expected shape (2,), got (3,)"),
    "a seed in a stack": (lambda: stack(LSTM, key=1), "key: expected a PRNG key", "got 1 (int)"),
    "no key for a stack": (lambda: init(jl.Stack(LSTM), key=None), "key: expected a PRNG key", "got None"),
    "input_size of a stack": (lambda: init(jl.Stack(LSTM), input_size=0), "input_size: expected a positive int, got 0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_names_argument_expectation_and_what_came(mistake, without_type_hook):
    make, *sentence = MISTAKES[mistake]
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    message = str(caught.value)
    assert type(caught.value) in (ValueError, TypeError)
    assert all(part in message for part in (*sentence, ": expected ", ", got ")), message
    assert "\n" not in message


@pytest.mark.parametrize("mistake", ["lengths of another batch", "mask, batch first", "xs of other features"])
def test_mistakes_are_found_inside_jit(mistake, without_type_hook):
    make, argument, *_ = MISTAKES[mistake]
    with pytest.raises(ValueError, match=argument.partition(":")[0]):
        jax.jit(make)()


def test_numbers_that_32_bits_do_not_hold_are_not_wrapped(without_x64, without_type_hook):
    with pytest.raises(ValueError, match=r"start: expected an integer in -2147483648\.\.2147483647, got 2147483648"):
        unroll(start=2**31)
    with pytest.raises(ValueError, match=r"lengths: expected values in 0\.\.5 .*, got 5\.\.4294967298"):
        unroll(lengths=np.array([5, 2**32 + 2]))


def test_the_type_hook_is_on():
    with pytest.raises(TypeError, match="parameter"):
        jl.Stack(4)


def test_nothing_else_is_a_mistake(without_type_hook):
    raw = jax.random.PRNGKey(0)
    assert jl.LSTMCell(np.int64(4)).init(raw, np.int32(3), dtype="bfloat16").b.dtype == jnp.bfloat16
    unroll(lengths=np.array([0, 5], np.uint8), start=np.int32(7), unroll=np.int64(2), key=raw, remat=True)
    jl.Stack(LSTM, dropout=np.float32(0.5))


@dataclasses.dataclass(frozen=True)
class Mistaken(jl.RNNCell):
    """One whose author has something else in mind for its transition."""

    returned: Any = None

    def transition(self, params, z, carry):
        return self.returned(z)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (jnp.tanh, TypeError, "transition returns: expected RNNCarry, got "),
        (lambda z: (jl.RNNCarry(z), z), TypeError, "transition returns: expected RNNCarry, got tuple"),
        (
            lambda z: jl.RNNCarry(z[..., :2]),
            ValueError,
            r"transition returns.h: expected shape \(2, 4\) .*got \(2, 2\)",
        ),
        (lambda z: jl.RNNCarry(z > 0), TypeError, "transition returns.h: expected a floating-point array, got bool"),
    ],
)
def test_a_transition_that_returns_no_carry_is_named(returned, error, message):
    cell = Mistaken(4, returned=returned)
    params = params_of(jl.RNNCell(4))
    with pytest.raises(error, match=f"what Mistaken.{message}"):
        jl.unroll(cell, params, XS)
    with pytest.raises(error, match=f"what Mistaken.{message}"):
        cell.step(params, cell.init_carry(params, (2,)), XS[0])


class Drawing(jl.RNNCell):
    """One that draws a number a step."""

    def draw(self, key, time, carry):
        return jax.random.uniform(jax.random.fold_in(key, time))


def test_what_is_drawn_has_the_batch_s_axes():
    cell = Drawing(4)
    params = params_of(cell)
    message = r"Drawing.draw returns: .* begin with the batch axes \(2,\), got shape \(\)"
    with pytest.raises(ValueError, match=message):
        jl.unroll(cell, params, XS, key=KEY)
    with pytest.raises(ValueError, match=message):
        cell.step(params, cell.init_carry(params, (2,)), XS[0], key=KEY)


class Reading(jl.RNNCell):
    """One whose output is part of its params."""

    def readout(self, params, carry):
        return params.b[:3]


@pytest.mark.parametrize("options", [{}, {"lengths": np.array([1, 2])}])
def test_what_is_read_has_the_batch_s_axes(options):
    cell = Reading(4)
    params = params_of(cell)
    message = r"Reading.readout returns: .* begin with the batch axes \(2,\), got shape \(3,\)"
    with pytest.raises(ValueError, match=message):
        jl.unroll(cell, params, XS, **options)
    with pytest.raises(ValueError, match=message):
        cell.step(params, cell.init_carry(params, (2,)), XS[0])


BAD_INITIALISERS = {
    "shape": (
        jl.LSTMCell(4, w_ih_init=lambda key, shape, dtype: jnp.ones((2, 2), dtype)),
        "w_ih_init",
        "float32[2, 2]",
    ),
    "one gate's": (jl.RNNCell(4, b_init=lambda key, shape, dtype: jnp.ones((1, 1), dtype)), "b_init", "float32[1, 1]"),
    "dtype": (
        jl.GRUCell(4, w_hh_init=lambda key, shape, dtype: jnp.ones(shape, jnp.int32)),
        "w_hh_init",
        "int32[4, 4]",
    ),
    "precision": (jl.SLSTMCell(4, w_hh_init=lambda key, shape, dtype: jnp.ones(shape, "bfloat16")), "w_hh_init", "bfl"),
    "no array": (jl.IndRNNCell(4, u_init=lambda key, shape, dtype: 0.5), "u_init", "0.5 (float)"),
    "projection": (
        jl.LSTMVariantCell(4, projection_size=2, b_init=lambda key, shape, dtype: jnp.ones(4, dtype)),
        "b_init",
        "float32[4]",
    ),
}


@pytest.mark.parametrize(("cell", "name", "got"), BAD_INITIALISERS.values(), ids=BAD_INITIALISERS)
def test_what_an_initialiser_returns(cell, name, got):
    with pytest.raises(ValueError, match=f"what {name} returns: expected float32\\[.*\\], got {re.escape(got)}"):
        cell.init(KEY, 2, dtype=jnp.float32)


@pytest.mark.parametrize("cell", [LSTM, RNN, jl.LRUCell(4), jl.Stack(GRU, LSTM), jl.LearnedCarry(LSTM)], ids=repr)
@pytest.mark.usefixtures("without_type_hook")
def test_the_arguments_of_init_carry(cell):
    params = params_of(cell)
    for batch_shape, got in ((3, "3"), ((3.0,), "(3.0,)"), ((-1,), "(-1,)"), ((True,), "(True,)"), ("ab", "'ab'")):
        message = f"batch_shape: expected a tuple of sizes, such as (32,) or (), got {got}"
        with pytest.raises((ValueError, TypeError), match=re.escape(message)):
            cell.init_carry(params, batch_shape)
    with pytest.raises(TypeError, match=r"params: expected .*, got None"):
        cell.init_carry(None)


def test_an_error_in_a_network_says_in_which_layer():
    stack = jl.Stack(LSTM, jl.Bidirectional(GRU), RNN)
    params, carry = params_of(stack), stack.init_carry(params_of(stack), (2,))
    forward, backward = params[1]
    wrong = params[0], (forward, backward._replace(b=np.zeros(5, np.float32))), params[2]
    with pytest.raises(ValueError, match=r"params.b: expected shape") as error:
        stack.apply(wrong, XS)
    assert error.value.__notes__ == [
        "In the backward direction",
        f"In layer 1 of 0 to 2, bottom first: {stack.layers[1]}",
    ]
    with pytest.raises(ValueError, match=r"carry.h: expected shape") as error:
        stack.apply(params, XS, (*carry[:2], jl.RNNCarry(jnp.ones((3, 4)))))
    assert error.value.__notes__ == [f"In layer 2 of 0 to 2, bottom first: {stack.layers[2]}"]
    with pytest.raises(ValueError, match=r"carry.h: expected shape") as error:
        jl.unroll(RNN, params_of(RNN), XS, jl.RNNCarry(jnp.ones((3, 4))))
    assert not hasattr(error.value, "__notes__")


EMPTY = [
    *(LSTM, GRU, RNN, jl.LSTMVariantCell(4, peephole=True, layer_norm=True), jl.MGUCell(4), jl.MinGRUCell(4)),
    *(jl.MinLSTMCell(4), jl.IndRNNCell(4), jl.SLSTMCell(4, num_heads=2), jl.MLSTMCell(4, num_heads=2), jl.LRUCell(4)),
    *(jl.ConvLSTMCell(4, spatial_shape=(3,)), jl.LearnedCarry(jl.Zoneout(LSTM, h=0.5))),
]


@pytest.mark.parametrize(
    "cell", [pytest.param(cell, marks=() if cell == RNN else pytest.mark.slow, id=repr(cell)) for cell in EMPTY]
)
def test_a_batch_may_be_empty(cell):
    params, xs = params_of(cell), np.zeros((4, 0, *cell.spatial_shape, 3), np.float32)
    runs = {"unroll": jl.unroll, "truncated": partial(jl.truncated, k1=2, k2=4)}
    for run in runs.values():
        gradient = jax.grad(lambda params, run=run: run(cell, params, xs)[1].sum())(params)
        assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))
        assert run(cell, params, xs)[1].shape == (4, 0, *cell.spatial_shape, 4)


def test_a_carry_may_hold_integers():
    cell = CountingCell(4)
    params = params_of(cell)
    carry, ys = jl.unroll(cell, params, XS, lengths=np.array([5, 3]))
    assert carry.n.tolist() == [5, 3]
    half, _ = jl.unroll(cell, params, XS[:2])
    again, rest = jl.unroll(cell, params, XS[2:], half, lengths=np.array([3, 1]))
    assert again.n.tolist() == [5, 3]
    np.testing.assert_array_equal(rest, ys[2:])
    assert cell.step(params, carry, XS[0])[0].n.tolist() == [6, 4]
    options = {"lengths": np.array([5, 3]), "reset": np.arange(5)[:, None] == np.array([2, 1])}

    def loss(cell, params):
        return (jl.unroll(cell, params, XS + 1, **options)[1] ** 2).sum()

    losses = (partial(loss, cell) for cell in (cell, RNN))
    jax.tree.map(np.testing.assert_array_equal, *(jax.grad(loss)(params) for loss in losses))
    with pytest.raises(TypeError, match=r"carry.n: expected dtype int32, got float32"):
        jl.unroll(cell, params, XS, half._replace(n=half.n.astype(jnp.float32)))


@pytest.mark.parametrize("network", [LSTM, jl.Stack(jl.Bidirectional(LSTM), GRU, dropout=0.2)])
def test_a_deep_copy_is_equal(network):
    copied = copy.deepcopy({"network": network})["network"]
    assert copied == network
    assert hash(copied) == hash(network)


def test_a_carry_with_integers_cannot_be_learned_and_needs_no_gradient():
    cell = CountingCell(4)
    gradient = jax.grad(lambda params: jl.unroll(cell, params, XS)[1].sum())(params_of(cell))
    assert gradient.b.any()
    with pytest.raises(ValueError, match="cell: expected a cell whose carry holds real numbers alone"):
        jl.LearnedCarry(cell).init(KEY, 3)
