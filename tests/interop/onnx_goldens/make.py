"""Make the files beside this one with torch: an LSTM and a GRU as torch exports them, and what torch computes.

    pip install torch==2.13.0 onnx && python make.py

`folded.onnx` holds weights in ONNX's order, `unfolded.onnx` those of torch, which its nodes cut and join.
"""

from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def main():
    import torch  # here, since pytest imports this file to look for examples

    class Network(torch.nn.Module):
        """Two layers of a bidirectional LSTM with a GRU on top."""

        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(3, 2, num_layers=2, bidirectional=True)
            self.gru = torch.nn.GRU(4, 2)
            for parameter in self.parameters():
                torch.nn.init.normal_(parameter, std=0.7)  # biases too

        def forward(self, xs):
            ys, _ = self.lstm(xs)
            return self.gru(ys)

    torch.manual_seed(0)
    network, xs = Network().eval(), 4 * torch.randn(6, 2, 3)
    for name, fold in {"folded": True, "unfolded": False}.items():
        torch.onnx.export(
            network,
            (xs,),
            HERE / f"{name}.onnx",
            dynamo=False,
            do_constant_folding=fold,
            input_names=["xs"],
            output_names=["ys", "h"],
            dynamic_axes={"xs": {0: "steps", 1: "batch"}},
        )
    with torch.no_grad():
        ys, h = network(xs)
    np.savez(HERE / "torch.npz", xs=xs, ys=ys, h=h[0], torch=torch.__version__)


if __name__ == "__main__":
    main()
