"""Make the files beside this one with torch: models as torch exports them, and what torch computes.

    pip install torch==2.13.0 onnx onnxscript && python make.py

`folded.onnx` holds weights in ONNX's order, `unfolded.onnx` those of torch, which its nodes cut and join. The others
are whole models, small, as torch's exporter of today and the one before it write them.
"""

from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def main():
    import onnx
    import torch  # here, since pytest imports this file to look for examples
    from torch import nn

    class Network(nn.Module):
        """Two layers of a bidirectional LSTM with a GRU on top."""

        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 2, num_layers=2, bidirectional=True)
            self.gru = nn.GRU(4, 2)

        def forward(self, xs):
            ys, _ = self.lstm(xs)
            return self.gru(ys)

    class Tagger(nn.Module):
        """A class for each word of a sentence."""

        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(11, 3)
            self.lstm = nn.LSTM(3, 2, bidirectional=True, batch_first=True)
            self.head = nn.Linear(4, 5)

        def forward(self, words):
            return self.head(self.lstm(self.embedding(words))[0])

    class Crnn(nn.Module):
        """Convolutions over an image, then a bidirectional LSTM and a GRU over its columns."""

        def __init__(self):
            super().__init__()
            self.convolutions = nn.Sequential(
                nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2)
            )
            self.lstm, self.gru = nn.LSTM(8, 3, bidirectional=True), nn.GRU(6, 2)
            self.head = nn.Linear(2, 5)

        def forward(self, image):
            columns = self.convolutions(image).flatten(1, 2).permute(2, 0, 1)
            return self.head(self.gru(self.lstm(columns)[0])[0]).log_softmax(-1)

    class Translator(nn.Module):
        """The decoder begins where the encoder ends."""

        def __init__(self):
            super().__init__()
            self.source, self.target = nn.Embedding(7, 3), nn.Embedding(9, 2)
            self.encoder, self.decoder = nn.LSTM(3, 4), nn.LSTM(2, 4)
            self.head = nn.Linear(4, 9)

        def forward(self, source, target):
            state = self.encoder(self.source(source))[1]
            return self.head(self.decoder(self.target(target), state)[0])

    class Rate(nn.Module):
        """Voice activity at one sample rate; a batch of one goes another way, as scripted code often does."""

        def __init__(self, stride):
            super().__init__()
            self.convolution, self.lstm = nn.Conv1d(1, 3, 4, stride=stride), nn.LSTM(3, 2)
            self.head = nn.Linear(2, 1)

        def forward(self, audio, state):
            xs = torch.relu(self.convolution(audio.unsqueeze(1))).permute(2, 0, 1)
            if audio.size(0) > 1:
                ys, (h, c) = self.lstm(xs, (state[0:1], state[1:2]))
            else:
                ys, (h, c) = self.lstm(xs, (state[0:1], state[1:2]))
            return torch.sigmoid(self.head(ys)).mean(0), torch.cat([h, c])

    class Voice(nn.Module):
        """Speech or not, chunk by chunk: the state is carried, and the sample rate chooses the network."""

        def __init__(self):
            super().__init__()
            self.high, self.low = Rate(4), Rate(2)

        def forward(self, audio, state, rate):
            if bool(rate == 16000):
                speech, state = self.high(audio, state)
            else:
                speech, state = self.low(audio, state)
            return speech, state

    def made(kind):
        torch.manual_seed(0)
        module = kind().eval()
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.7)  # biases too
        return module

    def old(module, name, inputs, names, outputs, axes, **options):
        axes = {key: dict(enumerate(value)) for key, value in axes.items()}
        torch.onnx.export(
            module, inputs, HERE / f"{name}.onnx", dynamo=False,
            input_names=names, output_names=outputs, dynamic_axes=axes, **options,
        )  # fmt: skip

    network, xs = made(Network), 4 * torch.randn(6, 2, 3)
    for name, fold in {"folded": True, "unfolded": False}.items():
        axes = {"xs": ("steps", "batch")}
        old(network, name, (xs,), ["xs"], ["ys", "h"], axes, do_constant_folding=fold)
    with torch.no_grad():
        ys, h = network(xs)
    np.savez(HERE / "torch.npz", xs=xs, ys=ys, h=h[0], torch=torch.__version__)

    any_size = torch.export.Dim.DYNAMIC
    words = torch.randint(0, 7, (3, 6))
    torch.onnx.export(
        made(Tagger), (words,), HERE / "tagger.onnx", dynamo=True, external_data=False,
        input_names=["words"], output_names=["tags"], dynamic_shapes={"words": {0: any_size, 1: any_size}},
    )  # fmt: skip
    model = onnx.load(HERE / "tagger.onnx")
    for part in (model.graph, *model.graph.node, *model.graph.value_info):
        del part.metadata_props[:]  # where the code lay that it was made from
    onnx.save(model, HERE / "tagger.onnx")
    image, axes = torch.randn(2, 1, 8, 12), {"image": ("batch", "one", "rows", "columns")}
    old(made(Crnn), "crnn", (image,), ["image"], ["symbols"], axes, opset_version=9)
    axes = {"source": ("steps", "batch"), "target": ("target_steps", "batch")}
    old(made(Translator), "translator", (words, words[:4]), ["source", "target"], ["words"], axes)
    state, rate = torch.zeros(2, 2, 2), torch.tensor(16000)
    names, axes = ["audio", "state", "rate"], {"audio": ("batch", "samples"), "state": ("two", "batch")}
    old(torch.jit.script(made(Voice)), "voice", (torch.randn(2, 32), state, rate), names, ["speech", "final"], axes)


if __name__ == "__main__":
    main()
