"""Make the files of Keras 2 in keras2/: run this with tensorflow 2.15 installed, from this folder.

tagger.*      Embedding, Bidirectional LSTM "bi", LSTM "top" with hard_sigmoid, Dense; ids [B, T] and the outputs of
              "bi" and "top" are in outputs.npz
weights.h5    its weights alone, in the layout of .h5 files
two.keras     two GRUs with names unlike their classes, of which the second has no bias
cudnn.h5      CuDNNLSTM "cu", Bidirectional CuDNNGRU "cubi"; the outputs are those of the LSTM and GRU that Keras
              itself converts them to, since the cuDNN layers run on GPUs alone
"""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

from pathlib import Path

import numpy as np
import tensorflow as tf
from keras.src.layers.rnn import base_cudnn_rnn

keras, layers, cudnn = tf.keras, tf.keras.layers, tf.compat.v1.keras.layers
RNG = np.random.default_rng(21)
FOLDER = Path(__file__).parent / "keras2"


def fill(model):
    """Draw the model's weights."""
    model.set_weights([RNG.normal(scale=0.6, size=w.shape).astype("f4") for w in model.get_weights()])
    return model


def tagger():
    ids = keras.Input((None,), dtype="int32")
    embedded = layers.Embedding(9, 3, name="emb")(ids)
    bi = layers.Bidirectional(layers.LSTM(2, return_sequences=True), merge_mode="sum", name="bi")(embedded)
    top = layers.LSTM(4, recurrent_activation="hard_sigmoid", return_sequences=True, name="top")
    normal = layers.BatchNormalization(name="norm")(top(bi))
    model = fill(keras.Model(ids, layers.Dense(2)(normal), name="tagger"))
    for name in ("tagger.keras", "tagger.h5"):
        model.save(FOLDER / name)
    for name in ("tagger.weights.h5", "weights.h5"):
        model.save_weights(FOLDER / name)
    batch = RNG.integers(0, 9, (3, 6))
    embedded, bi, ys = keras.Model(ids, [embedded, bi, top.output])(batch)
    return {"embedded": embedded, "bi": bi, "top": ys}


def two():
    xs = RNG.normal(size=(3, 6, 3)).astype("f4")
    inputs = keras.Input((None, 3))
    lower = layers.GRU(4, return_sequences=True, reset_after=False, activation="relu", name="lower")(inputs)
    upper = layers.GRU(2, return_sequences=True, use_bias=False, name="upper")(lower)
    model = fill(keras.Model(inputs, upper))
    model.save(FOLDER / "two.keras")
    return {"xs": xs, "two": model(xs)}


def stack(lstm, gru):
    inputs = keras.Input((6, 3))
    lower = lstm(4, return_sequences=True, name="cu")(inputs)
    upper = layers.Bidirectional(gru(2, return_sequences=True), name="cubi")(lower)
    return keras.Model(inputs, upper)


def cudnn_stack(xs):
    def output(self, inputs, initial_state):
        return tf.zeros([tf.shape(inputs)[0], 6, self.units]), initial_state  # in place of what runs on GPUs alone

    for kind in base_cudnn_rnn._CuDNNRNN.__subclasses__():
        kind._process_batch = output
    with tf.Graph().as_default():
        fill(stack(cudnn.CuDNNLSTM, cudnn.CuDNNGRU)).save(FOLDER / "cudnn.h5")
    model = stack(layers.LSTM, layers.GRU)
    model.load_weights(FOLDER / "cudnn.h5")
    return {"cudnn": model(xs)}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    outputs = tagger() | two()
    outputs |= cudnn_stack(outputs["xs"])
    arrays = {name: np.asarray(array).swapaxes(0, 1) for name, array in outputs.items()}  # time first
    np.savez_compressed(FOLDER / "outputs.npz", **arrays)
    print({path.name: path.stat().st_size for path in sorted(FOLDER.iterdir())}, tf.__version__)
