"""What tasks know of the networks that they are given."""

from typing import Any

from jaxtyping import Array

Key = Array  # one PRNG key
Params = Any  # of a network that may be any
Carry = Any  # likewise
