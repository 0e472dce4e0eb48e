"""Make the files in torch_models/: run this with torch and safetensors installed, from this folder.

Three whole models, each with tensors that are no recurrent layer's, as safetensors files; and outputs.npz, what their
recurrent modules compute, time first.
"""

from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn

FOLDER = Path(__file__).parent / "torch_models"


class Tagger(nn.Module):
    """Embedding in bfloat16, two layers in both directions, a projection in float8."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(9, 3, dtype=torch.bfloat16)
        self.lstm = nn.LSTM(3, 2, num_layers=2, bidirectional=True, bias=False)
        self.register_buffer("table", torch.ones(3).to(torch.float8_e4m3fn))

    def forward(self):
        embedded = self.emb(torch.arange(12).reshape(6, 2) % 9).float()
        return {"embedded": embedded, "lstm": self.lstm(embedded)[0]}


class CRNN(nn.Module):
    """A convolution and BatchNorm, whose num_batches_tracked is an integer, below two modules of one layer."""

    def __init__(self):
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU())
        self.rnns = nn.ModuleList([nn.GRU(8, 3, bidirectional=True), nn.GRU(6, 2)])

    def forward(self):
        image = torch.linspace(-1, 1, 2 * 6 * 4).reshape(2, 1, 6, 4)
        features = self.cnn(image).permute(2, 0, 1, 3).reshape(6, 2, 8)
        lower = self.rnns[0](features)[0]
        return {"features": features, "lower": lower, "upper": self.rnns[1](lower)[0]}


class Translator(nn.Module):
    """An encoder whose state a decoder begins with."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.LSTM(3, 4), nn.LSTM(2, 4)
        self.head = nn.Linear(4, 2)

    def forward(self):
        source, target = (torch.linspace(-1, 1, 12 * size).reshape(6, 2, size) for size in (3, 2))
        _, state = self.encoder(source)
        return {"source": source, "target": target, "decoded": self.decoder(target, state)[0]}


if __name__ == "__main__":
    torch.manual_seed(0)
    FOLDER.mkdir(exist_ok=True)
    outputs = {}
    for model in (Tagger(), CRNN().eval(), Translator()):
        name = type(model).__name__.lower()
        with torch.no_grad():
            outputs |= {f"{name}/{part}": array.numpy() for part, array in model().items()}
        safetensors.torch.save_file(model.state_dict(), FOLDER / f"{name}.safetensors")
    np.savez_compressed(FOLDER / "outputs.npz", **outputs)
    print({path.name: path.stat().st_size for path in sorted(FOLDER.iterdir())}, torch.__version__)
