"""What `jaxlstm.linen` and `jaxlstm.nnx` share. It imports no Flax, and speaks Flax's names for arguments."""
