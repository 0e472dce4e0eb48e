"""What a type checker tells users of the library. Pyright checks this file (see `test_types`); nothing runs it.

`assert_type` gives the type of a result. A mistake that pyright must find is followed by a comment that ignores the
error. Pyright also reports comments that ignore nothing, so it fails here when it no longer finds one of the mistakes.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, assert_type

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

import jaxlstm as jl
import jaxlstm.linen
import jaxlstm.nnx
from jaxlstm.inspect import trace
from jaxlstm.training import (
    CarriedLossFn,
    Checkpoints,
    Evaluation,
    Log,
    LossFn,
    StatelessLossFn,
    TrainState,
    TrainStep,
    cross_entropy,
    fit,
    init_state,
    make_train_step,
)


def a_cell(key: Array, x: Array, xs: Array) -> None:
    cell = jl.LSTMCell(4)
    params = cell.init(key, 3)
    assert_type(params, jl.LSTMParams)
    assert_type(params.b, Array | None)
    assert_type(cell.init_carry(params, (2,)), jl.LSTMCarry)
    assert_type(cell.gates(params, x, cell.init_carry(params)), jl.Gates)
    assert_type(cell.step(params, cell.init_carry(params), x), tuple[jl.LSTMCarry, Array])
    assert_type(jl.unroll(cell, params, xs), tuple[jl.LSTMCarry, Array])
    assert_type(jl.unroll(cell, params, xs, cell.init_carry(params), reverse=True), tuple[jl.LSTMCarry, Array])
    assert_type(jl.truncated(cell, params, xs, k1=2, k2=4), tuple[jl.LSTMCarry, Array])
    assert_type(trace(cell, params, xs)[0], jl.LSTMCarry)
    assert_type(jl.last_output(jl.unroll(cell, params, xs)[0]), Array)


def each_cell(key: Array, xs: Array) -> None:
    gru, rnn, mgu, variant = jl.GRUCell(4), jl.RNNCell(4), jl.MGUCell(4), jl.LSTMVariantCell(4)
    assert_type(gru.init(key, 3), jl.GRUParams)
    assert_type(rnn.init(key, 3), jl.RNNParams)
    assert_type(mgu.init(key, 3), jl.MGUParams)
    assert_type(variant.init(key, 3), jl.LSTMVariantParams)
    min_gru, slstm, mlstm = jl.MinGRUCell(4), jl.SLSTMCell(4), jl.MLSTMCell(4)
    assert_type(min_gru.coefficients(min_gru.init(key, 3), xs), tuple[jl.RNNCarry, jl.RNNCarry])
    assert_type(jl.unroll(slstm, slstm.init(key, 3), xs), tuple[jl.SLSTMCarry, Array])
    assert_type(jl.unroll(mlstm, mlstm.init(key, 3), xs), tuple[jl.MLSTMCarry, Array])
    lru, conv = jl.LRUCell(4), jl.ConvLSTMCell(4, spatial_shape=(8, 8))
    assert_type(lru.init(key, 3), jl.LRUParams)
    assert_type(jl.unroll(lru, lru.init(key, 3), xs), tuple[jl.LRUCarry, Array])
    assert_type(conv.init(key, 3), jl.ConvLSTMParams)
    assert_type(jl.unroll(conv, conv.init(key, 3), xs), tuple[jl.LSTMCarry, Array])
    assert_type(jl.unroll(min_gru, min_gru.init(key, 3), xs), tuple[jl.RNNCarry, Array])
    assert_type(jl.unroll(gru, gru.init(key, 3), xs), tuple[jl.RNNCarry, Array])
    assert_type(jl.unroll(rnn, rnn.init(key, 3), xs), tuple[jl.RNNCarry, Array])
    assert_type(jl.unroll(mgu, mgu.init(key, 3), xs), tuple[jl.RNNCarry, Array])
    assert_type(jl.unroll(variant, variant.init(key, 3), xs), tuple[jl.LSTMCarry, Array])


def cells_around_a_cell(key: Array, xs: Array) -> None:
    zoneout = jl.Zoneout(jl.LSTMCell(4), h=0.1)
    assert_type(zoneout, jl.Zoneout[jl.LSTMParams, jl.LSTMCarry])
    assert_type(jl.unroll(zoneout, zoneout.init(key, 3), xs), tuple[jl.LSTMCarry, Array])
    dropout = jl.RecurrentDropout(jl.GRUCell(4), 0.1)
    assert_type(dropout, jl.RecurrentDropout[jl.GRUParams, jl.RNNCarry])
    assert_type(jl.unroll(dropout, dropout.init(key, 3), xs), tuple[jl.RNNCarry, Array])
    learned = jl.LearnedCarry(jl.LSTMCell(4))
    assert_type(learned.init(key, 3), jl.LearnedCarryParams)
    assert_type(learned.init_carry(learned.init(key, 3)), jl.LSTMCarry)
    assert_type(jl.unroll(learned, learned.init(key, 3), xs), tuple[jl.LSTMCarry, Array])
    both = jl.Zoneout(jl.RecurrentDropout(jl.LSTMCell(4), 0.1), h=0.1)
    assert_type(jl.unroll(both, both.init(key, 3), xs), tuple[jl.LSTMCarry, Array])


def a_layer(key: Array, x: Array, xs: Array) -> None:
    layer = jl.Layer(jl.LSTMCell(4))
    assert_type(layer, jl.Layer[jl.LSTMParams, jl.LSTMCarry])
    params = layer.init(key, 3)
    assert_type(params, jl.LSTMParams)
    assert_type(layer.init_carry(params, (2,)), jl.LSTMCarry)
    assert_type(layer.step(params, layer.init_carry(params), x), tuple[jl.LSTMCarry, Array])
    assert_type(layer.apply(params, xs), tuple[jl.LSTMCarry, Array])
    assert_type(jl.truncated(layer, params, xs, k1=2, k2=4), tuple[jl.LSTMCarry, Array])
    assert_type(trace(layer, params, xs)[0], jl.LSTMCarry)


def both_directions(key: Array, xs: Array) -> None:
    network = jl.Bidirectional(jl.LSTMCell(4))
    params = network.init(key, 3)
    assert_type(params[0], jl.LSTMParams)
    assert_type(network.init_carry(params), jl.BidirectionalCarry)
    assert_type(network.apply(params, xs), tuple[jl.BidirectionalCarry, Array])
    assert_type(trace(network, params, xs)[0], jl.BidirectionalCarry)
    jl.Bidirectional(jl.LSTMCell(4), jl.GRUCell(4), merge="sum")
    jl.Bidirectional(jl.LSTMCell(4), merge=jnp.maximum)


def a_stack(key: Array, x: Array, xs: Array) -> None:
    network = jl.Stack(jl.LSTMCell(4), jl.Layer(jl.GRUCell(4)), jl.Zoneout(jl.LSTMCell(4), h=0.1), dropout=0.5)
    params = network.init(key, 3)
    assert_type(params, tuple[Any, ...])
    assert_type(network.init_carry(params), tuple[Any, ...])
    assert_type(network.step(params, network.init_carry(params), x), tuple[tuple[Any, ...], Array])
    assert_type(network.apply(params, xs, key=key), tuple[tuple[Any, ...], Array])
    assert_type(jl.truncated(network, params, xs, k1=2, k2=4), tuple[tuple[Any, ...], Array])
    assert_type(trace(network, params, xs)[0], tuple[Any, ...])


class MyParams(NamedTuple):
    w_ih: Array
    w_hh: Array
    b: Array


class MyCarry(NamedTuple):
    h: Array
    steps: Array


@dataclass(frozen=True)
class MyCell(jl.Cell[MyParams, MyCarry]):
    hidden_size: int

    def init(self, key: Array, input_size: int, *, dtype: DTypeLike = jnp.float32) -> MyParams:
        size = self.hidden_size
        return MyParams(jnp.zeros((input_size, size), dtype), jnp.eye(size, dtype=dtype), jnp.zeros(size, dtype))

    def init_carry(
        self, params: MyParams, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None
    ) -> MyCarry:
        return MyCarry(jnp.zeros((*batch_shape, self.hidden_size), dtype), jnp.zeros(batch_shape, dtype))

    def transition(self, params: MyParams, z: Array, carry: MyCarry) -> MyCarry:
        return MyCarry(h=jnp.tanh(z), steps=carry.steps + 1)


class WrongCell(MyCell):
    def transition(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, params: MyParams, z: Array, carry: MyCarry
    ) -> jl.RNNCarry:
        return jl.RNNCarry(jnp.tanh(z))


def a_cell_of_the_user(key: Array, x: Array, xs: Array) -> None:
    cell = MyCell(4)
    params = cell.init(key, 3)
    assert_type(cell.step(params, cell.init_carry(params), x), tuple[MyCarry, Array])
    assert_type(jl.unroll(cell, params, xs), tuple[MyCarry, Array])
    assert_type(jl.Layer(cell).apply(params, xs), tuple[MyCarry, Array])
    assert_type(jl.unroll(jl.Zoneout(cell, h=0.1), params, xs), tuple[MyCarry, Array])
    assert_type(jl.LearnedCarry(cell).init_carry(jl.LearnedCarry(cell).init(key, 3)), MyCarry)


def any_cell(cell: jl.Cell, network: jl.Network, key: Array, xs: Array) -> None:
    """Code for any cell or network needs no type arguments."""
    carry, ys = jl.unroll(cell, cell.init(key, 3), xs)
    carry, ys = jl.Layer(cell).apply(cell.init(key, 3), xs, carry)
    carry, ys = network.apply(network.init(key, 3), xs)
    assert_type(ys, Array)


def mistakes(key: Array, x: Array, xs: Array) -> None:
    lstm, gru = jl.LSTMCell(4), jl.GRUCell(4)
    params, carry = lstm.init(key, 3), lstm.init_carry(lstm.init(key, 3))
    gru_params, gru_carry = gru.init(key, 3), gru.init_carry(gru.init(key, 3))

    jl.unroll(gru, params, xs)  # pyright: ignore[reportArgumentType]
    jl.unroll(lstm, params, xs, gru_carry)  # pyright: ignore[reportArgumentType]
    jl.unroll(lstm, params, xs, length=3)  # pyright: ignore[reportCallIssue]
    jl.unroll(lstm, params, xs, carry, xs)  # pyright: ignore[reportCallIssue]
    jl.unroll(lstm, xs)  # pyright: ignore[reportCallIssue]
    jl.unroll(jl.Layer(lstm), params, xs)  # pyright: ignore[reportArgumentType]
    jl.unroll(jl.Zoneout(gru, h=0.1), params, xs)  # pyright: ignore[reportArgumentType]
    jl.unroll(jl.LearnedCarry(lstm), params, xs)  # pyright: ignore[reportArgumentType]
    jl.truncated(gru, params, xs, k1=2, k2=4)  # pyright: ignore[reportArgumentType]
    jl.truncated(lstm, params, xs, gru_carry, k1=2, k2=4)  # pyright: ignore[reportArgumentType]
    jl.truncated(lstm, params, xs)  # pyright: ignore[reportCallIssue]
    trace(gru, params, xs)  # pyright: ignore[reportArgumentType]

    lstm.step(gru_params, carry, x)  # pyright: ignore[reportArgumentType]
    lstm.step(params, gru_carry, x)  # pyright: ignore[reportArgumentType]
    lstm.step(params, x, carry)  # pyright: ignore[reportArgumentType]
    lstm.init_carry(gru_params)  # pyright: ignore[reportArgumentType]
    jl.Layer(lstm).apply(gru_params, xs)  # pyright: ignore[reportArgumentType]
    jl.Layer(lstm).step(params, gru_carry, x)  # pyright: ignore[reportArgumentType]
    jl.Bidirectional(lstm).apply(params, xs)  # pyright: ignore[reportArgumentType]
    jl.Stack(lstm).apply(params, xs, lengths=None, reverse=True)  # pyright: ignore[reportCallIssue]

    jl.LSTMCell(4, 1.0)  # pyright: ignore[reportCallIssue]
    jl.LSTMCell(4, forget=1.0)  # pyright: ignore[reportCallIssue]
    jl.LSTMCell("4")  # pyright: ignore[reportArgumentType]
    jl.Layer(lstm, True)  # pyright: ignore[reportCallIssue]
    jl.Stack(4)  # pyright: ignore[reportArgumentType]
    lstm.hidden_size = 5  # pyright: ignore[reportAttributeAccessIssue]


def flax_modules(xs: Array, x: Array, rngs: nnx.Rngs) -> None:
    lstm = jaxlstm.nnx.LSTM(3, 4, rngs=rngs)
    assert_type(lstm, jaxlstm.nnx.LSTM)
    assert_type(lstm(xs), tuple[Any, Array])
    assert_type(lstm.step(lstm.init_carry((2,)), x, reset=x > 0), tuple[Any, Array])
    assert_type(jaxlstm.nnx.to_network(lstm), tuple[jl.Network, Any])
    assert_type(jaxlstm.linen.from_network(*jaxlstm.nnx.to_network(lstm))[0], jaxlstm.linen.Recurrent)
    jaxlstm.nnx.Recurrent(4, 3, rngs=rngs)  # pyright: ignore[reportArgumentType]


def training(network: jl.Network, model: Any, key: Array, batch: Any, batches: list[Any]) -> None:
    def loss_fn(model, batch, key):  # the one of docs/guides/training.md
        xs, labels = batch
        _, ys = network.apply(model["network"], xs, key=key)
        return cross_entropy(ys[-1] @ model["w"] + model["b"], labels), {}

    def carried(params: Any, carry: jl.LSTMCarry, batch: Array, key: Array):
        carry, ys = jl.unroll(jl.LSTMCell(4), params, batch, carry)
        return jnp.mean(ys**2), (carry, {"largest": ys.max()})

    optimizer = optax.adam(1e-3)
    step = make_train_step(loss_fn, optimizer)
    assert_type(step, TrainStep)
    state = init_state(model, optimizer, key)
    assert_type(state, TrainState)
    assert_type(step(state, batch), tuple[TrainState, dict[str, Any]])
    assert_type(fit(step, state, batches, steps=3), TrainState)
    evaluation = Evaluation(lambda state: {"largest": jnp.max(state.params["b"])}, every=2)
    checkpoints = Checkpoints("run", every=2, resume=True)
    fit(step, state, batches, steps=3, evaluation=evaluation, log=Log("log.csv"), checkpoints=checkpoints)
    fit(jax.jit(step), state, batches, steps=3)
    jax.vmap(step)(state, batch)

    make_train_step(carried, optimizer)
    make_train_step(jax.jit(loss_fn), optimizer)
    make_train_step(partial(lambda scale, p, b, k: (scale * p.sum(), {}), 2.0), optimizer)
    make_train_step(lambda params, batch, key: ((params - batch) ** 2, {}), optimizer)
    make_train_step(lambda params, carry, batch, key: (params.sum(), (carry, {})), optimizer)
    first: StatelessLossFn = loss_fn
    second: CarriedLossFn = carried
    either: list[LossFn] = [first, second]
    for one in either:
        make_train_step(one, optimizer)

    make_train_step(lambda params, batch: (params.sum(), {}), optimizer)  # pyright: ignore[reportArgumentType]
    make_train_step(lambda params, batch, key: jnp.sum(params), optimizer)  # pyright: ignore[reportArgumentType]
    make_train_step(lambda params, batch, key: (1.0, {}), optimizer)  # pyright: ignore[reportArgumentType]
    make_train_step(loss_fn, 0.1)  # pyright: ignore[reportArgumentType]
    fit(step, state, batches, steps=3, log="log.csv")  # pyright: ignore[reportArgumentType]
    fit(step, state, batches, steps=3, evaluation=lambda state: {})  # pyright: ignore[reportArgumentType]
    fit(loss_fn, state, batches, steps=3)  # pyright: ignore[reportArgumentType]
