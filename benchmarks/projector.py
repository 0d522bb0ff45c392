"""Forward and back projection beside public peers, in one run.

    python -m benchmarks.projector [--size 128] [--repeats 7]

Same volume (a phantom), geometry and number of samples, float32, all cores or the GPU. Peers: PyTorch's ``grid_sample``
alone, nanodrr and DiffDRR (``pip install nanodrr diffdrr``), on a CPU ``plastimatch drr`` (``apt install
plastimatch``); one that is not installed is left out. Every image is compared with 2048 samples a ray, every gradient
and back projection with PyTorch's, before anything is timed. The published poses are known beforehand, so our
projectors take their line-by-line form; "any pose" is the general one and "rays" our reference. Peers that take a pose
as data give its gradient too, as that of a matrix.
"""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import finished, save, side_by_side
from dvg_jax.cli.entry import run_command
from dvg_jax.cli.flags import Parser
from dvg_jax.data.phantom import chest
from dvg_jax.errors import UserError
from dvg_jax.xray import ConeBeamGeometry, view_pose
from dvg_jax.xray.level import is_level
from dvg_jax.xray.projector import back_project_views, forward_project_views
from dvg_jax.xray.rays import back_project_rays, forward_project_rays

OURS, ANY, RAYS = "dvg_jax", "dvg_jax, any pose", "dvg_jax, rays"
CONTESTS = {
    "0": (view_pose(0.0),),
    "45": (view_pose(45.0),),
    "tilted": (view_pose(37.0, (3.0, -2.0, 1.0), (4.0, -3.0)),),
    "0, 90": (view_pose(0.0), view_pose(90.0)),
    "0, 30, 60, 90": tuple(map(view_pose, (0.0, 30.0, 60.0, 90.0))),
}
"""They map the name of a row to its poses."""

ALLOWED = {
    "forward": 0.02,
    "forward with gradient": 0.1,
    "forward with gradients of volume and pose": 0.1,
    "back": 1e-3,
}
"""Of the rms difference. Images: peers that take voxels as constant are 1 % away, the others far less. Gradients: a
voxel is met by one or two rays, so how it is shared between them shows: 7 % at 45 degrees between planes and samples at
64^3."""

Contestants = dict[str, Callable[[], Any]]


class Contest:
    """One volume, one image a view, and everyone's functions of them."""

    def __init__(self, geometry: ConeBeamGeometry, poses: tuple[Any, ...]) -> None:
        from benchmarks import projector_peers as peers

        self.geometry, self.poses = geometry, np.stack(poses)
        self.traced = jnp.asarray(self.poses, jnp.float32)
        self.volume = chest(jax.random.key(3), geometry.volume_shape[0])
        # Nothing at the rim: an edge pixel reaches to its outer edge with us, to its centre with grid_sample.
        self.images = jax.random.uniform(jax.random.key(0), (len(poses), *geometry.detector_shape))
        self.images = jnp.pad(self.images[:, 2:-2, 2:-2], ((0, 0), (2, 2), (2, 2)))
        self.peer = peers.GridSample(geometry, self.poses)
        self.peers = [self.peer]
        if importlib.util.find_spec("nanodrr"):
            self.peers.append(peers.NanoDRR(geometry, self.poses))
        if importlib.util.find_spec("diffdrr"):
            self.peers += [peers.DiffDRR(geometry, self.poses, kind) for kind in ("trilinear", "siddon")]
        self.theirs = peers.tensor(np.asarray(self.volume)), peers.tensor(np.asarray(self.images))
        self.wait = functools.partial(_wait, peers.DEVICE)

    @functools.cached_property
    def truth(self) -> np.ndarray:
        """The same projections from 2048 samples a ray."""
        fine = dataclasses.replace(self.geometry, samples_per_ray=2048)
        return np.stack([np.asarray(forward_project_rays(self.volume, pose, fine)) for pose in self.poses])

    def ours(self) -> dict[str, Callable[[jax.Array, jax.Array], jax.Array]]:
        """Return our forward projections by name, of a volume and poses that are data."""

        def by_rays(volume: jax.Array, poses: jax.Array) -> jax.Array:
            return jnp.stack([forward_project_rays(volume, pose, self.geometry) for pose in poses])

        general = {ANY: lambda v, poses: forward_project_views(v, list(poses), self.geometry), RAYS: by_rays}
        if not all(map(is_level, self.poses)):
            return general
        return {OURS: lambda v, _: forward_project_views(v, self.poses, self.geometry)} | general

    def forward(self) -> Contestants:
        """Of all views at once."""
        ours = {name: finished(jax.jit(project), self.volume, self.traced) for name, project in self.ours().items()}
        return ours | {p.name: lambda p=p: self.wait(p.forward(self.theirs[0])) for p in self.peers}

    def gradient(self, with_pose: bool) -> Contestants:
        """Differentiate the sum of squared values by the volume, and by the poses for those who take them as data."""

        def ours(project: Callable[..., jax.Array]) -> Callable[[], Any]:
            argnums = (0, 1) if with_pose else 0
            gradient = jax.jit(jax.grad(lambda v, p: jnp.sum(project(v, p) ** 2), argnums))
            return finished(gradient, self.volume, self.traced)

        known = {name: ours(project) for name, project in self.ours().items() if not (with_pose and name == OURS)}
        # Where voxels are constant the gradient is another one: half of its norm away.
        smooth = [p for p in self.peers if p.name != "DiffDRR siddon" and not (with_pose and p is self.peer)]
        return known | {p.name: lambda p=p: self.wait(self._their_gradient(p, with_pose)) for p in smooth}

    def _their_gradient(self, peer: Any, with_pose: bool) -> Any:
        volume = self.theirs[0].clone().requires_grad_()
        if not with_pose:
            (peer.forward(volume) ** 2).sum().backward()
            return volume.grad
        move = peer.eye.clone().requires_grad_()
        (peer.forward(volume, move) ** 2).sum().backward()
        return volume.grad, move.grad

    def back(self) -> Contestants:
        """V_bp of all views, Eqs. (1) and (2)."""

        def spread(images: jax.Array, poses: jax.Array) -> jax.Array:
            return sum(back_project_rays(i, p, self.geometry) for i, p in zip(images, poses, strict=True))

        ours = {ANY: finished(jax.jit(spread), self.images, self.traced)}
        if all(map(is_level, self.poses)):
            known = jax.jit(lambda i: back_project_views(i, self.poses, self.geometry))
            ours = {OURS: finished(known, self.images)} | ours
        return ours | {self.peer.name: lambda: self.wait(self.peer.back(self.theirs[1]))}

    def run(self, repeats: int) -> dict[str, Any]:
        """Times by task and contestant, and how far each is from the truth (forward) or from the peer (others)."""
        tasks = {
            "forward": self.forward(),
            "forward with gradient": self.gradient(with_pose=False),
            "forward with gradients of volume and pose": self.gradient(with_pose=True),
            "back": self.back(),
        }
        by_peer = _numpy(self._their_gradient(self.peer, with_pose=False))
        results: dict[str, Any] = {}
        for task, contestants in tasks.items():
            made = {name: _numpy(function()) for name, function in contestants.items()}
            references = {"forward": self.truth, "back": made.get(self.peer.name)}
            reference = references.get(task, by_peer)
            apart = {name: _apart(image, reference) for name, image in made.items()}
            for name, difference in apart.items():
                if not difference < ALLOWED[task]:
                    raise UserError(f"{task}: {name} is {difference:.3g} away; allowed: {ALLOWED[task]}")
            results[task] = {"seconds": side_by_side(contestants, repeats), "rms difference": apart}
        return results


def plastimatch(geometry: ConeBeamGeometry) -> dict[str, Any]:
    """Seconds of one forward projection at 270 degrees, and the rms difference to the truth."""
    from benchmarks.projector_peers import Plastimatch

    if jax.default_backend() != "cpu" or not Plastimatch.is_installed():
        return {}
    contest = Contest(geometry, (view_pose(Plastimatch.angle),))
    results = {}
    for algorithm in ("exact", "uniform"):
        peer = Plastimatch(geometry, algorithm)
        image, seconds = peer.run(np.asarray(contest.volume))
        apart = _apart(image[None], contest.truth)
        if not apart < ALLOWED["forward"]:
            raise UserError(f"forward: {peer.name} is {apart:.3g} away; allowed: {ALLOWED['forward']}")
        results[peer.name] = {"median": seconds, "rms difference": apart}
    return results


def _wait(device: str, result: Any) -> Any:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
    return result


def _numpy(result: Any) -> np.ndarray:
    """Return an image, a volume, or the first of two gradients."""
    result = result[0] if isinstance(result, tuple) else result
    return np.asarray(result if isinstance(result, jax.Array) else result.detach().cpu(), np.float64)


def _apart(image: np.ndarray, reference: np.ndarray) -> float:
    return float(np.sqrt(np.mean((image - reference) ** 2) / np.mean(reference**2)))


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = Parser(__doc__, "python -m benchmarks.projector")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args(argv)
    if importlib.util.find_spec("torch") is None:
        raise UserError('PyTorch is missing; allowed: pip install ".[bench]"')
    geometry = ConeBeamGeometry.paper(args.size)
    results: dict[str, Any] = {"size": args.size, "samples_per_ray": geometry.samples_per_ray}
    print(f"{args.size}^3 to {args.size}^2, {geometry.samples_per_ray} samples a ray, medians of {args.repeats}\n")
    print("| views | task | contestant | ms | ours is ... times as fast | rms difference |\n|---|---|---|---|---|---|")
    for views, poses in CONTESTS.items():
        results[views] = Contest(geometry, poses).run(args.repeats)
        if views == "0":
            results[views]["plastimatch"] = plastimatch(geometry)
        _print(views, results[views])
    print(f"\nwritten: {save(f'projector_{jax.default_backend()}', results)}")


def _print(views: str, result: dict[str, Any]) -> None:
    for task in ALLOWED:
        times = result[task]["seconds"]
        ours = times.get(OURS, times[ANY])["median"]
        for name, seconds in times.items():
            ratio, apart = seconds["median"] / ours, result[task]["rms difference"][name]
            print(
                f"| {views} | {task} | {name} | {1000 * seconds['median']:.1f} | {ratio:.1f} | {apart:.1e} |",
                flush=True,
            )
    ours = result["forward"]["seconds"].get(OURS, {}).get("median")
    for name, figures in result.get("plastimatch", {}).items():
        ms, ratio = 1000 * figures["median"], figures["median"] / ours
        print(f"| 270 | forward | {name} | {ms:.1f} | {ratio:.1f} | {figures['rms difference']:.1e} |", flush=True)


if __name__ == "__main__":
    run_command(main)
