"""The published 3D U-Net; ``state_dict()`` has the published keys."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvg_jax.networks.positional import BUCKETS, relative_buckets

ROTARY_BASE = 10000.0


class PositionBias(nn.Module):
    """(heads, D, D): what the distance of two slices adds to their similarity."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.relative_attention_bias = nn.Embedding(BUCKETS, heads)

    def forward(self, n: int) -> Tensor:
        weight = self.relative_attention_bias.weight
        buckets = torch.as_tensor(relative_buckets(n), device=weight.device)
        return F.embedding(buckets, weight).permute(2, 0, 1)


class Rotary(nn.Module):
    """Turns the pairs of (..., D, e) by token times frequency; float32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("freqs", ROTARY_BASE ** (-torch.arange(0, dim, 2) / dim))

    def forward(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[-2], device=x.device)[:, None] * self.freqs
        cos, sin = angle.cos(), angle.sin()
        even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2).to(x.dtype)


class ChannelNorm(nn.Module):
    """Layer norm over channels: a gain, no bias."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, dim, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, unbiased=False, keepdim=True)
        return (x - mean) * torch.rsqrt(variance + 1e-5) * self.gamma


class Attention(nn.Module):
    """Softmax attention over the last axis but one of (..., n, C)."""

    def __init__(self, dim: int, heads: int, head_dim: int, rotary: bool) -> None:
        super().__init__()
        self.heads = heads
        self.rotary_emb = Rotary(head_dim) if rotary else None
        self.to_qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, dim, bias=False)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        rows = x.flatten(0, -3)
        qkv = self.to_qkv(rows).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if self.rotary_emb is not None:
            q, k = self.rotary_emb(q), self.rotary_emb(k)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias[None])
        return self.to_out(out.transpose(1, 2).flatten(-2)).view(x.shape)


class AlongDepth(nn.Module):
    """Gives ``fn`` every (h, w) as a sequence of slices."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        return self.fn(x.permute(0, 3, 4, 2, 1), *rest).permute(0, 4, 3, 1, 2)


class WithinSlices(nn.Module):
    """Gives ``fn`` every slice as a sequence of positions."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.permute(0, 2, 3, 4, 1).flatten(2, 3)
        return self.fn(tokens).unflatten(2, x.shape[3:]).permute(0, 4, 1, 2, 3)


class LinearAttention(nn.Module):
    """Within slices by way of one e x e context a head."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Conv2d(dim, 3 * heads * head_dim, 1, bias=False)
        self.to_out = nn.Conv2d(heads * head_dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, d, h, w = x.shape
        slices = x.transpose(1, 2).flatten(0, 1)
        q, k, v = self.to_qkv(slices).view(b * d, 3, self.heads, -1, h * w).unbind(1)
        q = q.softmax(dim=-2) * q.shape[-2] ** -0.5
        context = k.softmax(dim=-1) @ v.transpose(-1, -2)
        out = context.transpose(-1, -2) @ q
        return self.to_out(out.reshape(b * d, -1, h, w)).unflatten(0, (b, d)).transpose(1, 2)


class PreNorm(nn.Module):
    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn
        self.norm = ChannelNorm(dim)

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        return self.fn(self.norm(x), *rest)


class Residual(nn.Module):
    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        return self.fn(x, *rest) + x


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(inputs, outputs, (1, 3, 3), padding=(0, 1, 1))
        self.norm = nn.GroupNorm(groups, outputs)

    def forward(self, x: Tensor, scale_shift: tuple[Tensor, Tensor] | None = None) -> Tensor:
        x = self.norm(self.proj(x))
        if scale_shift is not None:
            scale, shift = scale_shift
            x = x * (scale + 1) + shift
        return F.silu(x)


class ResnetBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, groups: int, time_dim: int | None = None) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(time_dim, 2 * outputs)) if time_dim else None
        self.block1 = Block(inputs, outputs, groups)
        self.block2 = Block(outputs, outputs, groups)
        self.res_conv = nn.Conv3d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        scale_shift = None if self.mlp is None else self.mlp(time)[:, :, None, None, None].chunk(2, dim=1)
        return self.block2(self.block1(x, scale_shift)) + self.res_conv(x)


class TimeFeatures(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.half = dim // 2

    def forward(self, t: Tensor) -> Tensor:
        steps = torch.arange(self.half, device=t.device)
        angle = t.float()[:, None] * torch.exp(-math.log(10000.0) / (self.half - 1) * steps)
        return torch.cat((angle.sin(), angle.cos()), dim=-1)


class UNet3D(nn.Module):
    """(B, C, D, H, W), (B,) -> (B, out_dim, D, H, W)."""

    def __init__(
        self,
        channels: int,
        dim: int = 64,
        dim_mults: tuple[int, ...] = (1, 2, 4, 8),
        out_dim: int = 8,
        heads: int = 8,
        head_dim: int = 32,
        groups: int = 8,
    ) -> None:
        super().__init__()

        def along(width: int) -> nn.Module:
            return Residual(PreNorm(width, AlongDepth(Attention(width, heads, head_dim, rotary=True))))

        def stage(inputs: int, outputs: int, resample: nn.Module) -> nn.ModuleList:
            first = ResnetBlock(inputs, outputs, groups, 4 * dim)
            second = ResnetBlock(outputs, outputs, groups, 4 * dim)
            within = Residual(PreNorm(outputs, LinearAttention(outputs, heads, head_dim)))
            return nn.ModuleList([first, second, within, along(outputs), resample])

        def resample(kind: type[nn.Module], width: int, last: bool) -> nn.Module:
            return nn.Identity() if last else kind(width, width, (1, 4, 4), (1, 2, 2), (0, 1, 1))

        outer = [dim * m for m in dim_mults]
        pairs = list(zip([dim, *outer[:-1]], outer, strict=True))
        last = len(pairs) - 1
        self.time_rel_pos_bias = PositionBias(heads)
        self.init_conv = nn.Conv3d(channels, dim, (1, 3, 3), padding=(0, 1, 1))
        self.init_temporal_attn = along(dim)
        self.time_mlp = nn.Sequential(
            TimeFeatures(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, 4 * dim)
        )
        self.downs = nn.ModuleList(stage(i, o, resample(nn.Conv3d, o, n == last)) for n, (i, o) in enumerate(pairs))
        self.mid_block1 = ResnetBlock(outer[-1], outer[-1], groups, 4 * dim)
        self.mid_spatial_attn = Residual(
            PreNorm(outer[-1], WithinSlices(Attention(outer[-1], heads, head_dim, rotary=False)))
        )
        self.mid_temporal_attn = along(outer[-1])
        self.mid_block2 = ResnetBlock(outer[-1], outer[-1], groups, 4 * dim)
        self.ups = nn.ModuleList(
            stage(2 * o, i, resample(nn.ConvTranspose3d, i, n == last)) for n, (i, o) in enumerate(reversed(pairs))
        )
        self.final_conv = nn.Sequential(ResnetBlock(2 * dim, dim, groups), nn.Conv3d(dim, out_dim, 1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        bias = self.time_rel_pos_bias(x.shape[2])
        x = first = self.init_conv(x)
        x = self.init_temporal_attn(x, bias)
        time = self.time_mlp(t)
        skips = []
        for first_block, second_block, within, along, down in self.downs:
            x = within(second_block(first_block(x, time), time))
            x = along(x, bias)
            skips.append(x)
            x = down(x)
        x = self.mid_spatial_attn(self.mid_block1(x, time))
        x = self.mid_block2(self.mid_temporal_attn(x, bias), time)
        for first_block, second_block, within, along, up in self.ups:
            x = torch.cat((x, skips.pop()), dim=1)
            x = within(second_block(first_block(x, time), time))
            x = up(along(x, bias))
        return self.final_conv(torch.cat((x, first), dim=1))
