"""Record tests/training/reference_losses.json: losses and gradients by another library, in float64.

usage, in an environment of its own: pip install torch pytorch-metric-learning, then
python tools/reference_losses.py

The batch has embeddings of any length, which are scaled to length 1 within the loss; gradients are
those by the embeddings before that, and by the proxies. `tests/training/test_losses.py` reads it.
"""

import json
import math
from pathlib import Path

import torch
from pytorch_metric_learning import distances, losses, miners, reducers

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
LABELS = torch.arange(6).repeat_interleave(4)[torch.randperm(24)]
CENTRES = torch.randn(6, 5)
EMBEDDINGS = 0.8 * CENTRES[LABELS] + torch.randn(24, 5)
PROXIES = torch.randn(8, 5)  # two classes are not in the batch
SQUARED = {"distance": distances.LpDistance(normalize_embeddings=True, p=2, power=2)}
SIZES = {"num_classes": 8, "embedding_size": 5}

# our name -> our options, their loss, a factor, their miner
CASES = {
    "triplet": (  # theirs is by default the mean over the triplets above 0 alone
        {"margin": 0.3},
        losses.TripletMarginLoss(0.3, **SQUARED, reducer=reducers.MeanReducer()),
        1,
        None,
    ),
    "soft triplet": ({"margin": 1e-15, "temperature": 0.2}, losses.NTXentLoss(0.1), 0.2, None),
    "contrastive": (
        {"positive_margin": 0.1, "negative_margin": 1.2},
        losses.ContrastiveLoss(0.1, 1.2, **SQUARED),
        1,
        None,
    ),
    "supervised contrastive": ({"temperature": 0.1}, losses.SupConLoss(0.1), 1, None),
    "multi-similarity": (
        {"alpha": 2, "beta": 40, "base": 0.6, "epsilon": 0.1},
        losses.MultiSimilarityLoss(2, 40, 0.6),
        1,
        miners.MultiSimilarityMiner(0.1),
    ),
    "proxy-anchor": (
        {"alpha": 24, "margin": 0.15},
        losses.ProxyAnchorLoss(**SIZES, margin=0.15, alpha=24),
        1,
        None,
    ),
    "cosine softmax": (
        {"scale": 12},
        losses.NormalizedSoftmaxLoss(**SIZES, temperature=1 / 12),
        1,
        None,
    ),
    "arcface": (
        {"scale": 12, "margin": 0.7},
        losses.ArcFaceLoss(**SIZES, margin=math.degrees(0.7), scale=12),
        1,
        None,
    ),
}


def semi_hard(x: torch.Tensor) -> tuple:
    """The triplets of our miner by a plain loop; their own asks for a negative in the margin."""
    unit = torch.nn.functional.normalize(x.detach())
    d = ((unit[:, None] - unit) ** 2).sum(-1)
    found = []
    for a in range(24):
        for p in range(24):
            farther = (LABELS[a] != LABELS) & (d[a] > d[a, p])
            if a != p and LABELS[a] == LABELS[p] and farther.any():
                found.append((a, p, int(torch.where(farther, d[a], torch.inf).argmin())))
    return tuple(torch.tensor(found).T)


def measure(name: str) -> dict:
    """Return options, value and gradients of a loss on the batch."""
    options, loss, factor, miner = CASES[name]
    x = EMBEDDINGS.clone().requires_grad_()
    weights = list(loss.parameters())
    for weight in weights:  # (c, dim) or (dim, c)
        weight.data = (PROXIES if weight.shape[0] == 8 else PROXIES.T).clone()
    pairs = semi_hard(x) if name == "triplet" else miner(x, LABELS) if miner else None
    value = factor * loss(x, LABELS, pairs)
    gradients = torch.autograd.grad(value, [x, *weights])
    by_proxies = [g if len(g) == 8 else g.T for g in gradients[1:]]
    return {
        "options": options,
        "value": value.item(),
        "by embeddings": gradients[0].tolist(),
        "by proxies": by_proxies[0].tolist() if by_proxies else None,
    }


if __name__ == "__main__":
    batch = {"embeddings": EMBEDDINGS, "labels": LABELS, "proxies": PROXIES}
    recorded = {name: value.tolist() for name, value in batch.items()}
    recorded["losses"] = {name: measure(name) for name in CASES}
    file = Path(__file__).parents[1] / "tests/training/reference_losses.json"
    file.write_text(json.dumps(recorded) + "\n", "utf-8")
