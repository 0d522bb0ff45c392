"""DVG-Diffusion's whole reconstruction in PyTorch: films to CT, as ``dvg_jax/dvg.py`` has it, with DDIM."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from benchmarks.projector_peers import GridSample
from benchmarks.torch_peer.unet3d import UNet3D
from benchmarks.torch_peer.vqgan3d import VQGAN3D
from dvg_jax.diffusion.samplers import Coefficients
from dvg_jax.xray import ConeBeamGeometry, view_pose


class Views:
    """Both projections of some views; back projection with edge pixels that reach to their outer edge, as ours."""

    def __init__(self, geometry: ConeBeamGeometry, angles_deg: tuple[float, ...]) -> None:
        self.rays, self.scale = GridSample(geometry, [view_pose(angle) for angle in angles_deg]), geometry.extent_mm[1]
        self.seen = [(place.abs() <= 1).all(-1) for place in self.rays.places]

    def render(self, ct: Tensor) -> Tensor:
        """(D, H, W) -> (V, h, w), each view min-max."""
        images = self.rays.forward(ct)
        low, high = images.amin((1, 2), keepdim=True), images.amax((1, 2), keepdim=True)
        return (images - low) / (high - low)

    def lift(self, images: Tensor) -> Tensor:
        """(V, h, w) -> V_bp, (1, 1, D, H, W)."""
        total = torch.zeros(self.rays.lengths[0].shape, device=images.device)
        for image, place, seen, length in zip(images, self.rays.places, self.seen, self.rays.lengths, strict=True):
            sampled = grid_sample(image[None, None], place, padding_mode="border", align_corners=False)
            total += (sampled[0, 0] * seen[0]).reshape(length.shape) / length
        return total[None, None] * self.scale


@dataclass
class Pipeline:
    """The five networks, latents taken as they are, and the views; ``table`` holds the sampler's steps."""

    ct_vqgan: VQGAN3D
    view_vqgan: VQGAN3D
    new_view_vqgan: VQGAN3D
    generator: UNet3D
    denoiser: UNet3D
    shown: Views
    new: Views
    table: Coefficients

    def decode(self, z: Tensor) -> Tensor:
        """By way of the nearest codes, (1, c, d, h, w) -> (D, H, W), float32 under autocast too."""
        return self.ct_vqgan.decode(self.ct_vqgan.quantize(z.float())[0])[0, 0].float()

    @torch.inference_mode()
    def __call__(self, films: Tensor, z: Tensor) -> Tensor:
        """Films (V, h, w) and noise (1, c, d, h, w) -> CT (D, H, W)."""
        z_in, _, view = self.synthesize(films)
        return self.sample((z_in, self.new_view_vqgan.encode(self.new.lift(view))), z)

    @torch.inference_mode()
    def synthesize(self, films: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z_in, G_z's latent and the new view (1, h, w)."""
        z_in = self.view_vqgan.encode(self.shown.lift(films))
        first = self.generator(z_in, torch.zeros(1, dtype=torch.long, device=films.device))
        return z_in, first, self.new.render(self.decode(first))

    @torch.inference_mode()
    def sample(self, condition: tuple[Tensor, Tensor], z: Tensor) -> Tensor:
        """From noise under both blocks of the condition to the CT."""
        for t, of_z0, of_z in zip(self.table.t, self.table.of_z0, self.table.of_z, strict=True):
            time = torch.full((1,), int(t), device=z.device)
            z = float(of_z0) * self.denoiser(torch.cat((*condition, z), dim=1), time) + float(of_z) * z
        return self.decode(z).clip(0, 1)
