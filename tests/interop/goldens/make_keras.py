"""Make keras.npz: run this with keras and jax installed, from this folder."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
from keras.layers import GRU, LSTM, Bidirectional, SimpleRNN

import common

ALL = {"return_sequences": True, "return_state": True}
LAYERS = {
    "lstm": LSTM(common.H, name="lstm", **ALL),
    "lstm_hard": LSTM(common.H, activation="softsign", recurrent_activation="hard_sigmoid", name="lstm", **ALL),
    "lstm_no_bias": LSTM(common.H, use_bias=False, name="lstm", **ALL),
    "gru": GRU(common.H, name="gru", **ALL),
    "gru_before": GRU(common.H, reset_after=False, name="gru", **ALL),
    "gru_no_bias": GRU(common.H, use_bias=False, name="gru", **ALL),
    "rnn": SimpleRNN(common.H, activation="elu", name="simple_rnn", **ALL),
    "bidirectional": Bidirectional(LSTM(common.H, name="lstm", **ALL), name="bidirectional"),
    "bidirectional_ave": Bidirectional(GRU(common.H, name="gru", **ALL), merge_mode="ave", name="bidirectional"),
}
MASK = np.arange(common.T) < common.LENGTHS[:, None]


def fill(layer):
    """Draw the layer's weights; gives them by path."""
    for variable in layer.weights:
        variable.assign(common.draw(variable.shape))
    return {variable.path: np.asarray(variable) for variable in layer.weights}


def run(*layers):
    """A ragged batch through the layers, each from a random carry."""
    ys, weights, carries, finals = common.XS.swapaxes(0, 1), {}, [], []
    for layer in layers:
        layer.build(ys.shape)
        weights |= fill(layer)
        count = (2 if "bidirectional" in layer.name else 1) * (2 if "lstm" in layer.weights[0].path else 1)
        carry = [common.draw((common.B, common.H)) for _ in range(count)]
        ys, *final = layer(ys, initial_state=carry, mask=MASK)
        carries += carry
        finals += [np.asarray(part) for part in final]
    return weights, carries, common.zero_padding(np.asarray(ys).swapaxes(0, 1)), finals


if __name__ == "__main__":
    cases = {name: run(layer) for name, layer in LAYERS.items()}
    upper = Bidirectional(GRU(common.H, name="gru", **ALL), name="bidirectional")
    cases["stack"] = run(LSTM(common.H, name="lstm", **ALL), upper)
    common.save(__file__, cases, keras=keras.__version__, jax=jax.__version__, numpy=np.__version__)
