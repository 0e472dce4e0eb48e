"""Types of what tasks treat as opaque."""

from typing import Any

from jaxtyping import Array

Key = Array  # one PRNG key
Params = Any  # of any network
Carry = Any  # of any network
