"""What the tests and the doctests share: the CPU, and what a doctest finds in its namespace."""

import gc
import os
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Most of the time goes into compiling programs that run once. XLA_FLAGS= in the environment brings the optimiser back.
# Without the fusion emitters the compiler takes half the time; from jaxlib 0.11 on XLA aborts at that flag.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    + " --xla_cpu_use_fusion_emitters=false" * (tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11)),
)

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

# JAX's caches hold thousands of compiled programs. A full collection walks through them: a tenth of the time or more.
gc.set_threshold(50_000, 20, 20)


@pytest.fixture
def without_x64():
    """The dtypes that JAX starts with: float32 and int32."""
    with _disable_x64():
        yield


@pytest.fixture
def without_type_hook():
    """No run-time check of the annotations: bad input meets the library's own messages, and sizes may be symbols."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(autouse=True)
def _as_in_a_fresh_interpreter(request, doctest_namespace):
    """Doctests run as a reader would run them: the three usual imports, float32, standard promotion, no type hook."""
    if not isinstance(request.node, pytest.DoctestItem):
        yield
        return
    request.getfixturevalue("without_type_hook")
    import jaxlstm  # not above, or it would load before the hook that checks its annotations

    doctest_namespace.update(jax=jax, jnp=jnp, jl=jaxlstm)
    with _disable_x64(), jax.numpy_dtype_promotion("standard"):
        yield


def _disable_x64():
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(False)
    from jax.experimental import disable_x64  # jax before 0.8

    return disable_x64()
