"""The published 3D VQGAN: encoder, decoder and codebook; ``state_dict()`` has the published keys."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvg_jax.networks.codebook import DECAY, EPSILON, NOISE, ROWS_AT_ONCE
from dvg_jax.networks.vqgan3d import EPSILON as NORM_EPSILON
from dvg_jax.networks.vqgan3d import level_strides


class SamePadConv3d(nn.Module):
    """Edges are copied; a kernel of 4 at stride 1 is padded by 2 before and 1 after."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: tuple[int, int, int] = (1, 1, 1)) -> None:
        super().__init__()
        totals = [kernel - s for s in reversed(stride)]
        self.pad = [n for total in totals for n in (total // 2 + total % 2, total // 2)]
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.pad, mode="replicate") if any(self.pad) else x)


class SamePadConvTranspose3d(nn.Module):
    """Doubles the axes of stride 2, edges copied."""

    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.pad = [n for s in reversed(stride) for n in ((1, 1) if s == 2 else (0, 0))]
        kernel, cut = tuple(4 if s == 2 else 1 for s in stride), tuple(3 if s == 2 else 0 for s in stride)
        self.convt = nn.ConvTranspose3d(inputs, outputs, kernel, stride, cut)

    def forward(self, x: Tensor) -> Tensor:
        return self.convt(F.pad(x, self.pad, mode="replicate"))


class ResBlock(nn.Module):
    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, NORM_EPSILON)
        self.conv1 = SamePadConv3d(channels, channels, 3)
        self.norm2 = nn.GroupNorm(groups, channels, NORM_EPSILON)
        self.conv2 = SamePadConv3d(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class Encoder(nn.Module):
    def __init__(self, hiddens: int, strides: list[tuple[int, int, int]], groups: int) -> None:
        super().__init__()
        self.conv_first = SamePadConv3d(1, hiddens, 3)
        self.conv_blocks = nn.ModuleList()
        for i, stride in enumerate(strides):
            inputs, outputs = hiddens * 2**i, hiddens * 2 ** (i + 1)
            down = SamePadConv3d(inputs, outputs, 4, stride)
            self.conv_blocks.append(nn.ModuleDict({"down": down, "res": ResBlock(outputs, groups)}))
        self.final_block = nn.Sequential(nn.GroupNorm(groups, outputs, NORM_EPSILON), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_first(x)
        for block in self.conv_blocks:
            x = block["res"](block["down"](x))
        return self.final_block(x)


class Decoder(nn.Module):
    def __init__(self, hiddens: int, strides: list[tuple[int, int, int]], groups: int, res_blocks: int) -> None:
        super().__init__()
        levels = len(strides)
        width = hiddens * 2**levels
        self.final_block = nn.Sequential(nn.GroupNorm(groups, width, NORM_EPSILON), nn.SiLU())
        self.conv_blocks = nn.ModuleList()
        for i, stride in enumerate(strides):
            outputs = hiddens * 2 ** (levels - i)
            blocks: dict[str, nn.Module] = {"up": SamePadConvTranspose3d(width, outputs, stride)}
            blocks |= {f"res{j}": ResBlock(outputs, groups) for j in range(1, res_blocks + 1)}
            self.conv_blocks.append(nn.ModuleDict(blocks))
            width = outputs
        self.conv_last = SamePadConv3d(width, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.final_block(x)
        for blocks in self.conv_blocks:
            for block in blocks.values():
                x = block(x)
        return self.conv_last(x)


class Codebook(nn.Module):
    """Codes that follow the data by moving averages; codes out of use are drawn anew from the batch."""

    def __init__(self, codes: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("embeddings", torch.randn(codes, dim))
        self.register_buffer("N", torch.zeros(codes))
        self.register_buffer("z_avg", self.embeddings.clone())

    def nearest(self, rows: Tensor) -> Tensor:
        norms = self.embeddings.square().sum(1)
        parts = [torch.addmm(norms, part, self.embeddings.T, alpha=-2).argmin(1) for part in rows.split(ROWS_AT_ONCE)]
        return torch.cat(parts)

    @torch.no_grad()
    def update(self, rows: Tensor, indices: Tensor, threshold: float) -> None:
        codes, dim = self.embeddings.shape
        self.N.lerp_(torch.bincount(indices, minlength=codes).float(), 1 - DECAY)
        self.z_avg.lerp_(torch.zeros_like(self.z_avg).index_add_(0, indices, rows), 1 - DECAY)
        total = self.N.sum()
        weight = (self.N + EPSILON) / (total + codes * EPSILON) * total
        embeddings = self.z_avg / weight[:, None]
        if threshold:
            if len(rows) < codes:
                rows = rows.repeat(-(-codes // len(rows)), 1)
                rows = rows + torch.randn_like(rows) * NOISE / math.sqrt(dim)
            drawn = rows[torch.randperm(len(rows), device=rows.device)[:codes]]
            embeddings = torch.where(self.N[:, None] < threshold, drawn, embeddings)
        self.embeddings.copy_(embeddings)


class Pass(NamedTuple):
    """What one training pass gives; all channels first, ``indices`` flat."""

    volume: Tensor
    latent: Tensor
    embeddings: Tensor
    indices: Tensor


class VQGAN3D(nn.Module):
    """(B, 1, D, H, W) to a latent, to the nearest codes, and back."""

    def __init__(
        self,
        n_hiddens: int = 16,
        downsample: tuple[int, int, int] = (4, 4, 4),
        embedding_dim: int = 8,
        n_codes: int = 16384,
        num_groups: int = 32,
        decoder_res_blocks: int = 2,
    ) -> None:
        super().__init__()
        strides = level_strides(downsample)
        width = n_hiddens * 2 ** len(strides)
        self.encoder = Encoder(n_hiddens, strides, num_groups)
        self.decoder = Decoder(n_hiddens, strides, num_groups, decoder_res_blocks)
        self.pre_vq_conv = SamePadConv3d(width, embedding_dim, 1)
        self.post_vq_conv = SamePadConv3d(embedding_dim, width, 1)
        self.codebook = Codebook(n_codes, embedding_dim)

    def encode(self, x: Tensor) -> Tensor:
        """The latent before quantisation, (B, c, d, h, w)."""
        return self.pre_vq_conv(self.encoder(x)).float()

    def quantize(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest codes, (B, c, d, h, w), and their numbers, (B d h w,); no gradient passes."""
        with torch.no_grad(), torch.autocast(latent.device.type, enabled=False):
            rows = latent.movedim(1, -1)
            indices = self.codebook.nearest(rows.flatten(0, -2))
            return F.embedding(indices, self.codebook.embeddings).view(rows.shape).movedim(-1, 1), indices

    def decode(self, embeddings: Tensor) -> Tensor:
        return self.decoder(self.post_vq_conv(embeddings)).float()

    def forward(self, x: Tensor) -> Pass:
        latent = self.encode(x)
        embeddings, indices = self.quantize(latent)
        straight = latent + (embeddings - latent).detach()
        return Pass(self.decode(straight), latent, embeddings, indices)
