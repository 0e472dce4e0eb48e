"""MNIST-1D as the package makes it, and the network that reads all its outputs."""

import dataclasses
import random

import jax
import numpy as np
import pytest

from jaxlstm.tasks import TASKS, _mnist1d
from jaxlstm.tasks._model import init_model

RECIPE = TASKS["mnist1d"].recipe


@pytest.fixture(scope="module")
def data():
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    loaded = _mnist1d.load()
    states = random.random(), np.random.rand()  # noqa: NPY002
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    assert states == (random.random(), np.random.rand())  # noqa: NPY002 - loading leaves global generators alone
    return loaded


def test_the_data_are_those_published(data):
    train, test = data
    assert (train.xs.shape, test.xs.shape) == ((4000, 40), (1000, 40))
    assert (train.xs.dtype, train.labels.dtype) == (np.float32, np.int32)
    counts = np.bincount(train.labels) + np.bincount(test.labels)
    assert counts.tolist() == [500] * 10
    both = np.concatenate([train.xs, test.xs]).astype(np.float64)
    np.testing.assert_allclose((both.mean(), both.std()), (0, 1), atol=1e-6)
    again, _ = _mnist1d.load()
    np.testing.assert_array_equal(again.xs, train.xs)


def test_the_head_reads_every_step(monkeypatch, data):
    monkeypatch.setattr(_mnist1d, "load", lambda: jax.tree.map(lambda a: a[:20], data))
    problem = _mnist1d.problem(dataclasses.replace(RECIPE, hidden_size=3))
    network = problem.network(problem.cell("gru", 3))
    params = init_model(network, jax.random.key(0), problem.input_size, problem.outputs, problem.steps_read)
    assert params.head.w.shape == (40 * 6, 10)
    _, ys = network.apply(params.network, data[1].xs[4, :, None])
    np.testing.assert_allclose(
        problem.predict(network, params)[4], ys.ravel() @ params.head.w + params.head.b, rtol=1e-4, atol=1e-5
    )
