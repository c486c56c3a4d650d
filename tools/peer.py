"""The peer of `tools.machine_limit`, which starts it: the same training step in PyTorch.

It needs torch and pytorch-metric-learning, and nothing of the workbook. Each line of its standard
input names a program and a precision, such as "step bfloat16"; it answers with the seconds of one
call. The step has all that makes PyTorch fast on a processor: channels last, a fused AdamW, and
autocast in bfloat16.
"""

import sys
import time

import numpy as np
import torch
from pytorch_metric_learning import losses, miners
from torch import nn

CLASSES, IMAGES, KEPT, SIDE = 24, 4, 480, 2048


class Block(nn.Module):
    """A bottleneck block of ResNet50's last stage, 2048 channels in and out (He et al. 2016)."""

    def __init__(self):
        super().__init__()
        sizes = ((2048, 512, 1), (512, 512, 3), (512, 2048, 1))
        layers = []
        for inside, outside, kernel in sizes:
            layers += [nn.Conv2d(inside, outside, kernel, padding=kernel // 2)]
            layers += [nn.BatchNorm2d(outside), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x):
        return torch.relu(self.layers(x) + x)


def build_tail():
    """The trained part of the specified network: (b, 2048, 7, 7) to (b, 256)."""
    return nn.Sequential(
        nn.ReLU(), Block(), Block(), nn.Flatten(),
        nn.Linear(7 * 7 * 2048, 512), nn.ReLU(), nn.BatchNorm1d(512),
        nn.Linear(512, 256), nn.ReLU(), nn.BatchNorm1d(256), nn.Linear(256, 256),
    ).to(memory_format=torch.channels_last)  # fmt: skip


def make_step(precision):
    """Return a function that gathers a batch and trains on it once."""
    torch.manual_seed(0)
    rng, tail = np.random.default_rng(0), build_tail()
    optimizer = torch.optim.AdamW(tail.parameters(), lr=1e-5, weight_decay=0.1, fused=True)
    mine, loss_function = miners.BatchHardMiner(), losses.TripletMarginLoss(margin=1.0)
    features = np.maximum(rng.normal(size=(KEPT, 7, 7, 2048)), 0).astype(np.float16)
    labels = torch.arange(CLASSES).repeat_interleave(IMAGES)

    def step():
        rows = rng.choice(KEPT, CLASSES * IMAGES, replace=False)
        batch = torch.from_numpy(np.float32(features[rows])).permute(0, 3, 1, 2)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            embeddings = tail(batch)
        embeddings = embeddings.float()
        loss = loss_function(embeddings, labels, mine(embeddings, labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def make_product(precision):
    matrix = torch.randn(SIDE, SIDE, dtype=getattr(torch, precision))
    return lambda: matrix @ matrix


if __name__ == "__main__":
    makers, made = {"step": make_step, "product": make_product}, {}
    for line in sys.stdin:
        name, precision = line.split()
        if line not in made:
            made[line] = makers[name](precision)
        begin = time.perf_counter()
        made[line]()
        print(time.perf_counter() - begin, flush=True)
