"""Make torch.npz: run this with torch installed, from this folder."""

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import common

MODULES = {
    "lstm": nn.LSTM(common.I, common.H, num_layers=2, bidirectional=True),
    "lstm_no_bias": nn.LSTM(common.I, common.H, bias=False),
    "lstm_projected": nn.LSTM(common.I, common.H, num_layers=2, bidirectional=True, proj_size=2),
    "lstm_float64": nn.LSTM(common.I, common.H).double(),
    "gru": nn.GRU(common.I, common.H, num_layers=2),
    "gru_bidirectional": nn.GRU(common.I, common.H, bidirectional=True),
    "rnn_tanh": nn.RNN(common.I, common.H, num_layers=2, bidirectional=True),
    "rnn_relu": nn.RNN(common.I, common.H, nonlinearity="relu"),
}
CELLS = {
    "lstm_cell": nn.LSTMCell(common.I, common.H),
    "gru_cell": nn.GRUCell(common.I, common.H),
    "rnn_relu_cell": nn.RNNCell(common.I, common.H, nonlinearity="relu", bias=False),
}


def fill(module):
    """Draw the module's weights; gives its state dict."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.from_numpy(common.draw(parameter.shape)))
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def run(module):
    """A ragged batch from a random carry."""
    weights = fill(module)
    dtype = module.weight_ih_l0.dtype
    count = module.num_layers * (2 if module.bidirectional else 1)
    sizes = [module.proj_size or common.H] + [common.H] * isinstance(module, nn.LSTM)
    carry = tuple(torch.from_numpy(common.draw((count, common.B, size))).to(dtype) for size in sizes)
    xs = pack_padded_sequence(
        torch.from_numpy(common.XS).to(dtype), torch.from_numpy(common.LENGTHS), enforce_sorted=False
    )
    ys, final = module(xs, carry if len(carry) == 2 else carry[0])
    ys, _ = pad_packed_sequence(ys, total_length=common.T)
    return weights, per_layer(carry), ys.detach().numpy(), per_layer(final if len(carry) == 2 else (final,))


def run_cell(cell):
    """Step by step, all steps of every sequence."""
    weights = fill(cell)
    carry = tuple(torch.from_numpy(common.draw((common.B, common.H))) for _ in range(1 + isinstance(cell, nn.LSTMCell)))
    final, ys = carry, []
    for x in torch.from_numpy(common.XS):
        after = cell(x, final if len(carry) == 2 else final[0])
        final = after if len(carry) == 2 else (after,)
        ys.append(final[0])
    return weights, carry, torch.stack(ys).detach().numpy(), [part.detach().numpy() for part in final]


def per_layer(carry):
    """(h, c) or (h,) of all layers and directions as h, c of the first, h, c of the second, and so on."""
    return [part[k].detach().numpy() for k in range(len(carry[0])) for part in carry]


if __name__ == "__main__":
    cases = {name: run(module) for name, module in MODULES.items()}
    cases |= {name: run_cell(cell) for name, cell in CELLS.items()}
    common.save(__file__, cases, torch=torch.__version__, numpy=np.__version__)
