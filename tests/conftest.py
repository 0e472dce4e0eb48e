"""How the tests run: float64, strict dtype promotion, and what hypothesis draws."""

import os

import hypothesis
import jax
import jaxtyping
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")

hypothesis.settings.register_profile(
    "jaxlstm",
    deadline=None,  # the first example of each shape compiles
    max_examples=10,
    database=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("jaxlstm")


@pytest.fixture
def without_type_hook():
    """No run-time check of the annotations, so that bad input meets the library's own messages."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
