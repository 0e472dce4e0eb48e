"""JSB chorales: the loader on a small file made here and, where it is at hand, on the real one; the loss per frame."""

import hashlib
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.io import savemat

from jaxlstm.tasks import RunError
from jaxlstm.tasks._jsb import Chorales, frame_loss, load

REAL = Path(os.environ.get("JSB_CHORALES", "JSB_Chorales.mat"))
PARTS = ("traindata", "validdata", "testdata")


def cells(*matrices):
    """A MATLAB cell array of one row."""
    row = np.empty((1, len(matrices)), object)
    for index, matrix in enumerate(matrices):
        row[0, index] = matrix
    return row


def frames(steps, seed=0, keys=88):
    return np.random.default_rng(seed).integers(0, 2, (steps, keys)).astype(np.uint8)


def test_sequences_are_padded_to_the_longest_of_their_part(tmp_path):
    parts = {name: cells(frames(3, seed), frames(5, seed + 1)) for seed, name in enumerate(PARTS)}
    savemat(tmp_path / "small.mat", parts)
    for (loaded, lengths), cell in zip(load(tmp_path / "small.mat"), parts.values(), strict=True):
        assert (loaded.shape, loaded.dtype, lengths.tolist()) == ((2, 5, 88), np.float32, [3, 5])
        np.testing.assert_array_equal(loaded[0, :3], cell[0, 0])
        assert (loaded[0, 3:] == 0).all()
        np.testing.assert_array_equal(loaded[1], cell[0, 1])


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: parts.pop("testdata"),
        lambda parts: parts.update(testdata=cells(frames(3), frames(4, keys=87))),
        lambda parts: parts.update(testdata=cells(frames(3), frames(1))),
        lambda parts: parts.update(testdata=cells(frames(3), 2 * frames(4))),
        lambda parts: parts.update(testdata=np.zeros(3)),
    ],
    ids=["a part missing", "87 keys", "one frame", "twos", "no cells"],
)
def test_another_file_is_named_in_the_error(tmp_path, change):
    parts = {name: cells(frames(3), frames(4)) for name in PARTS}
    change(parts)
    savemat(tmp_path / "other.mat", parts)
    with pytest.raises(RunError, match=r"other\.mat: damaged, or not JSB_Chorales\.mat"):
        load(tmp_path / "other.mat")


def test_the_real_file_is_the_published_split():
    if not REAL.exists():
        pytest.skip(f"{REAL} is not here; the variable JSB_CHORALES can say where it is")
    assert hashlib.sha256(REAL.read_bytes()).hexdigest().startswith("ac0e6085")
    parts = load(REAL)
    assert [len(part.lengths) for part in parts] == [229, 76, 77]
    assert [int(part.lengths.sum()) for part in parts] == [13807, 4602, 4725]
    assert (min(part.lengths.min() for part in parts), max(part.lengths.max() for part in parts)) == (25, 160)
    # A constant answer: each key at its own frequency. Published as 11.09.
    train, _, test = parts
    p = jnp.asarray(train.frames.sum((0, 1)) / train.lengths.sum(), jnp.float32).clip(1e-4)
    constant = jnp.broadcast_to(jnp.log(p / (1 - p)), (159, 77, 88))
    np.testing.assert_allclose(frame_loss(constant, Chorales(*map(jnp.asarray, test))), 11.09, atol=0.1)


def test_the_loss_is_the_mean_over_all_frames_but_each_first():
    data = Chorales(jnp.asarray(np.stack([frames(4, 0), frames(4, 1)]), jnp.float32), jnp.array([2, 4], jnp.int32))
    logits = jnp.asarray(np.random.default_rng(2).normal(size=(3, 2, 88)), jnp.float32)
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    surprises = []
    for n, length in enumerate([2, 4]):
        for t in range(1, length):
            x, q = np.asarray(data.frames[n, t]), p[t - 1, n]
            surprises.append(-np.sum(x * np.log(q) + (1 - x) * np.log(1 - q)))
    np.testing.assert_allclose(frame_loss(logits, data), np.mean(surprises), rtol=1e-5)
