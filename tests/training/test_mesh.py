"""Many devices, which one process has only if it is told so before it begins."""

import os
import subprocess
import sys

import eight_devices as there
import jax
import optax
import pytest

from jaxlstm.training import Checkpoints, fit, make_train_step


@pytest.mark.slow
def test_on_eight_devices(tmp_path):
    """A checkpoint of one device goes in, and one of eight comes out."""
    alone = make_train_step(there.loss_fn, there.OPTIMIZER)
    batches = [there.make_batch(16)] * 3
    checkpoints = Checkpoints(tmp_path)
    fit(alone, there.start(), batches, steps=1, checkpoints=checkpoints, progress=False)

    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAXLSTM_TEST_CHECKPOINTS": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", there.__file__]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:]

    assert jax.device_count() == 1
    assert checkpoints.steps == (1, 3)
    resumed = Checkpoints(tmp_path, resume=True)
    state = fit(alone, there.start(), batches, steps=3, checkpoints=resumed, progress=False)
    expected = fit(alone, there.start(), batches, steps=3, progress=False)
    there.assert_close(state.params, expected.params)


def test_a_mesh_is_one(without_type_hook):
    with pytest.raises(TypeError, match=r"mesh: expected a jax.sharding.Mesh, got 8"):
        make_train_step(lambda params, batch, key: None, optax.sgd(0.1), mesh=8)
    with pytest.raises(ValueError, match=r"mesh: expected a jax.sharding.Mesh, since param_specs is given, got None"):
        make_train_step(lambda params, batch, key: None, optax.sgd(0.1), param_specs=lambda params: params)
    with pytest.raises(ValueError, match=r"mesh: expected a jax.sharding.Mesh, since batch_size is given, got None"):
        make_train_step(lambda params, batch, key: None, optax.sgd(0.1), batch_size=8)
    mesh = jax.make_mesh((1,), ("data",))
    with pytest.raises(TypeError, match=r"mask: expected the name of a leaf of the batch, such as .*, got True"):
        make_train_step(lambda params, batch, key: None, optax.sgd(0.1), mesh=mesh, mask=True)
