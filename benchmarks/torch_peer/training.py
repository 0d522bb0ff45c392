"""A training step of each network, as one would write it in PyTorch: autocast, fused Adam, averaged weights."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.torch_peer.adversary import LPIPS, PatchDiscriminator, statistics_kept
from dvg_jax.diffusion import Schedule
from dvg_jax.stages.adversary import Weights
from dvg_jax.training.optim import Recipe


@dataclass(frozen=True)
class Manner:
    """How a module is run; ``compiled`` goes through ``torch.compile``, ``half`` through bfloat16 autocast."""

    device: str = "cpu"
    half: bool = False
    channels_last: bool = False
    compiled: bool = False

    def place(self, module: nn.Module) -> nn.Module:
        """On the device, in the memory order, compiled or not; parameters are shared with ``module``."""
        module.to(self.device)
        if self.channels_last:
            for m in module.modules():
                order = torch.channels_last if isinstance(m, nn.Conv2d) else torch.channels_last_3d
                if isinstance(m, nn.Conv2d | nn.Conv3d | nn.ConvTranspose3d):
                    m.to(memory_format=order)
        return torch.compile(module) if self.compiled else module

    def tensor(self, array: np.ndarray) -> Tensor:
        """An array of ours, channels last where it has any, as an input."""
        x = torch.from_numpy(np.array(array)).to(self.device)
        if x.ndim != 5:
            return x
        x = x.movedim(-1, 1)
        return x.contiguous(memory_format=torch.channels_last_3d if self.channels_last else torch.contiguous_format)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.half)

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def adam(parameters: Iterable[nn.Parameter], recipe: Recipe, rate: float) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, lr=rate, betas=(recipe.beta1, recipe.beta2), fused=True)


@dataclass
class DiffusionStep:
    """Eq. (6), Adam, average. Called with condition blocks, z_0, times and noise; gives the loss."""

    model: nn.Module
    schedule: Schedule
    recipe: Recipe
    rate: float
    manner: Manner
    run: Callable[..., Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.run = self.manner.place(self.model)
        self.optimizer = adam(self.model.parameters(), self.recipe, self.rate)
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(self.recipe.ema_decay))
        abar = self.schedule.alphas_cumprod
        self.keep, self.spread = (
            torch.tensor(a, dtype=torch.float32, device=self.manner.device) for a in (abar**0.5, (1 - abar) ** 0.5)
        )

    def __call__(self, condition: tuple[Tensor, ...], z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        keep, spread = (table[t].view(-1, 1, 1, 1, 1) for table in (self.keep, self.spread))
        z = keep * z0 + spread * noise
        self.optimizer.zero_grad()
        with self.manner.autocast():
            predicted = self.run(torch.cat((*condition, z), dim=1), t)
        loss = F.mse_loss(predicted.float(), z0)
        loss.backward()
        self.optimizer.step()
        self.average.update_parameters(self.model)
        return loss.detach()


@dataclass
class VQGANStep:
    """All losses of the published VQGAN from one backward pass, its codebook's update, one Adam for it and one for the
    critics. Called with a volume and the slice of each that LPIPS and the 2D critic see; gives the loss.
    """

    model: nn.Module
    critics: dict[str, PatchDiscriminator]
    weights: Weights
    recipe: Recipe
    rate: float
    manner: Manner

    def __post_init__(self) -> None:
        self.run = self.manner.place(self.model)
        self.judges = {name: self.manner.place(critic) for name, critic in self.critics.items()}
        self.lpips = self.manner.place(LPIPS()) if self.weights.perceptual else None
        self.groups = [list(self.model.parameters())]
        if self.critics:
            self.groups.append([p for critic in self.critics.values() for p in critic.parameters()])
        self.optimizers = [adam(group, self.recipe, self.rate) for group in self.groups]

    def __call__(self, x: Tensor, slices: Tensor) -> Tensor:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        with self.manner.autocast():
            out = self.run(x)
        loss = self.weights.reconstruction * F.l1_loss(out.volume, x)
        loss = loss + self.weights.commitment * F.mse_loss(out.latent, out.embeddings)
        loss = loss + self._adversarial(x, out.volume, slices)
        loss.backward()
        for group, optimizer in zip(self.groups, self.optimizers, strict=True):
            if self.recipe.clip_norm:
                nn.utils.clip_grad_norm_(group, self.recipe.clip_norm)
            optimizer.step()
        rows = out.latent.detach().movedim(1, -1).flatten(0, -2)
        self.model.codebook.update(rows, out.indices, self.weights.restart_threshold)
        return loss.detach()

    def _adversarial(self, x: Tensor, y: Tensor, slices: Tensor) -> Any:
        if self.lpips is None and not self.critics:
            return 0.0
        rows = torch.arange(len(x), device=x.device)
        x2, y2 = (v[rows, :, slices] for v in (x, y))
        with self.manner.autocast():
            loss = self.weights.perceptual * self.lpips(x2, y2) if self.lpips is not None else 0.0
            for name, real, fake in (("slices", x2, y2), ("volume", x, y)) if self.critics else ():
                loss = loss + self._judge(name, real, fake)
        return loss

    def _judge(self, name: str, real: Tensor, fake: Tensor) -> Tensor:
        critic, judge = self.critics[name], self.judges[name]
        critic.requires_grad_(False)
        features = judge(fake)
        critic.requires_grad_(True)
        features_real = judge(real)
        with statistics_kept(critic):
            logits = judge(fake.detach())[-1]
        pairs = zip(features[:-1], features_real[:-1], strict=True)
        matching = sum(F.l1_loss(f, r.detach()) for f, r in pairs)
        hinge = 0.5 * (F.relu(1 - features_real[-1]).mean() + F.relu(1 + logits).mean())
        return -self.weights.gan * features[-1].mean() + self.weights.feature_matching * matching + hinge
