"""The projectors that ours is measured against, each set to our geometry; PyTorch ones on the device that JAX uses.

What does not depend on the volume or image (rays, sampling points, lengths) is made beforehand and not timed.
"""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import SimpleITK
import torch
from torch.nn.functional import grid_sample

from dvg_jax.xray import ConeBeamGeometry
from dvg_jax.xray.geometry import box_crossing, detector_slopes, rotation, source_position, voxel_centres

DEVICE = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"


def tensor(array: np.ndarray) -> torch.Tensor:
    """float32, on the device of the contest."""
    return torch.tensor(np.ascontiguousarray(array), dtype=torch.float32, device=DEVICE)


class Rays:
    """The rays of one view: source (3,), unit directions (h, w, 3), mm of entry and exit (h, w), float64."""

    def __init__(self, geometry: ConeBeamGeometry, pose: np.ndarray) -> None:
        pose = np.asarray(pose, np.float64)
        self.geometry, self.turn = geometry, rotation(pose)
        self.source = source_position(pose, geometry)
        rows, columns = (np.asarray(s, np.float64) for s in detector_slopes(geometry))
        local = np.stack([*np.meshgrid(rows, columns, indexing="ij"), np.ones(geometry.detector_shape)], -1)
        self.directions = local @ self.turn
        self.directions /= np.linalg.norm(self.directions, axis=-1, keepdims=True)
        self.half = np.array(geometry.extent_mm) / 2
        self.entry, self.leave = self.crossing(self.directions)

    def crossing(self, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances from the source at which rays enter and leave the volume."""
        return box_crossing(self.source, np.moveaxis(directions, -1, 0), -self.half, self.half)


class GridSample:
    """PyTorch alone: points along every ray, ``grid_sample``, sum; back projection by ``grid_sample`` of the image."""

    name = "torch grid_sample"

    def __init__(self, geometry: ConeBeamGeometry, poses: Sequence[np.ndarray]) -> None:
        views = [Rays(geometry, pose) for pose in poses]
        forward = [self._points(view) for view in views]
        # grid_sample wants (x, y, z), x along the last axis; the views' rays stand side by side.
        self.points = tensor(np.concatenate([points[..., ::-1] for points, _ in forward]))[None]
        self.step = tensor(np.stack([step for _, step in forward]))
        back = [self._places(view) for view in views]
        self.places = [tensor(places[..., ::-1]).reshape(1, geometry.volume_shape[0], -1, 2) for places, _ in back]
        self.lengths = [tensor(length) for _, length in back]

    @staticmethod
    def _points(view: Rays) -> tuple[np.ndarray, np.ndarray]:
        n = view.geometry.samples_per_ray
        step = (view.leave - view.entry) / n
        t = view.entry[..., None] + (np.arange(n) + 0.5) * step[..., None]
        return (view.source + t[..., None] * view.directions[:, :, None]) / view.half, step

    @staticmethod
    def _places(view: Rays) -> tuple[np.ndarray, np.ndarray]:
        g = view.geometry
        offset = np.stack(np.meshgrid(*voxel_centres(g), indexing="ij"), -1) - view.source
        seen = offset @ view.turn.T
        place = seen[..., :2] / seen[..., 2:] * g.source_detector_mm
        distance = np.linalg.norm(offset, axis=-1, keepdims=True)
        entry, leave = view.crossing(offset / distance)
        return place / (np.array(g.detector_shape) * np.array(g.pixel_mm) / 2), leave - entry

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """(D, H, W) -> (V, h, w)."""
        sums = grid_sample(volume[None, None], self.points, align_corners=False)[0, 0].sum(-1)
        return sums.reshape(self.step.shape) * self.step

    def back(self, images: torch.Tensor) -> torch.Tensor:
        """(V, h, w) -> (D, H, W), the sum over views."""
        total = 0
        for image, places, length in zip(images, self.places, self.lengths, strict=True):
            sampled = grid_sample(image[None, None], places, align_corners=False)
            total = total + sampled.reshape(length.shape) / length
        return total


class NanoDRR:
    """nanodrr's renderer: its grid_sample form on a CPU, its fused kernel on a CUDA GPU."""

    name = "nanodrr"

    def __init__(self, geometry: ConeBeamGeometry, poses: Sequence[np.ndarray]) -> None:
        from nanodrr.data import Subject
        from nanodrr.drr import render

        views = [Rays(geometry, pose) for pose in poses]
        self.render, self.size, self.samples = render, geometry.detector_shape, geometry.samples_per_ray
        far = geometry.source_detector_mm * 2
        ends = [(v.source, (v.source + far * v.directions).reshape(-1, 3)) for v in views]
        self.src = tensor(np.stack([s[None, ::-1] for s, _ in ends]))
        self.tgt = tensor(np.stack([t[:, ::-1] for _, t in ends]))
        self.eye = torch.eye(4, device=DEVICE).expand(len(views), 4, 4)
        grid = torch.diag(tensor(np.array([*(2 / np.array(geometry.extent_mm)[::-1]), 1.0])))
        unit = torch.eye(4, device=DEVICE)
        empty = torch.zeros((1, 1, *geometry.volume_shape), device=DEVICE)
        self.subject = Subject(
            empty, empty, unit, unit, grid, torch.zeros(3, device=DEVICE), max_label=0, convert_to_mu=False
        )

    def forward(self, volume: torch.Tensor, move: torch.Tensor | None = None) -> torch.Tensor:
        """Project (D, H, W) to (V, h, w), with the views moved by matrices (V, 4, 4)."""
        self.subject._buffers["_image_hu"] = volume[None, None]
        sdd = torch.ones(len(self.src), device=DEVICE)
        k_inv = torch.eye(3, device=DEVICE)[None]
        image = self.render(
            self.subject,
            k_inv,
            self.eye if move is None else move,
            sdd,
            *self.size,
            n_samples=self.samples,
            src=self.src,
            tgt=self.tgt,
        )
        return image[:, 0]


class DiffDRR:
    """DiffDRR's renderers: ``trilinear`` samples as we do, ``siddon`` takes voxels as constant."""

    def __init__(self, geometry: ConeBeamGeometry, poses: Sequence[np.ndarray], kind: str) -> None:
        from diffdrr.renderers import Siddon, Trilinear

        self.name = f"DiffDRR {kind}"
        self.renderer = Siddon() if kind == "siddon" else Trilinear()
        self.options = {} if kind == "siddon" else {"n_points": geometry.samples_per_ray}
        voxel, size = np.array(geometry.voxel_mm), np.array(geometry.volume_shape)
        views = [Rays(geometry, pose) for pose in poses]
        far = geometry.source_detector_mm * 2

        def index(mm: np.ndarray) -> torch.Tensor:
            return tensor((mm / voxel + (size - 1) / 2)[..., ::-1])

        self.source = torch.stack([index(v.source[None]) for v in views])
        self.target = torch.stack([index((v.source + far * v.directions).reshape(-1, 3)) for v in views])
        self.eye = torch.eye(4, device=DEVICE).expand(len(views), 4, 4)
        self.length = torch.full((len(views), 1, self.target.shape[1]), far, device=DEVICE)
        self.shape = (len(views), *geometry.detector_shape)

    def forward(self, volume: torch.Tensor, move: torch.Tensor | None = None) -> torch.Tensor:
        """Project (D, H, W) to (V, h, w), with the views moved by matrices (V, 4, 4), in voxels."""
        source, target = self.source, self.target
        if move is not None:
            source, target = (x @ move[:, :3, :3].mT + move[:, None, :3, 3] for x in (source, target))
        image = self.renderer(volume.permute(2, 1, 0), source, target, self.length, **self.options)
        return image.reshape(self.shape)


class Plastimatch:
    """``plastimatch drr`` (C, OpenMP) at 270 degrees: ``exact`` takes voxels as constant, ``uniform`` samples.

    It is a program of its own. Seconds are those of one more view of many, so without start and reading.
    """

    angle, views = 270.0, 41

    def __init__(self, geometry: ConeBeamGeometry, algorithm: str) -> None:
        self.name, self.geometry, self.algorithm = f"plastimatch {algorithm}", geometry, algorithm

    @staticmethod
    def is_installed() -> bool:
        """Whether the command is there: ``apt install plastimatch``."""
        return shutil.which("plastimatch") is not None

    def run(self, volume: np.ndarray) -> tuple[np.ndarray, float]:
        """The image (h, w) in value * mm, and seconds a view."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            image = SimpleITK.GetImageFromArray(volume.astype(np.float32))
            d, h, w = self.geometry.voxel_mm
            image.SetSpacing((w, h, d))
            image.SetOrigin([(v - e) / 2 for v, e in zip((w, h, d), self.geometry.extent_mm[::-1], strict=True)])
            SimpleITK.WriteImage(image, str(folder / "ct.mha"))
            one, many = (min(self._seconds(folder, n) for _ in range(3)) for n in (1, self.views))
            return self._read(folder / "drr0000.pfm"), (many - one) / (self.views - 1)

    def _seconds(self, folder: Path, views: int) -> float:
        g = self.geometry
        size = [n * p for n, p in zip(g.detector_shape, g.pixel_mm, strict=True)]
        command = ["plastimatch", "drr", "-i", self.algorithm, "--sad", str(g.source_isocentre_mm)]
        command += ["--sid", str(g.source_detector_mm), "-r", "{} {}".format(*g.detector_shape)]
        command += ["-z", "{} {}".format(*size), "-y", "0", "-a", str(views), "-N", "0.01", "-P", "none"]
        command += ["-t", "pfm", "-o", "0 0 0", "-O", str(folder / "drr"), "-I", str(folder / "ct.mha")]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start

    @staticmethod
    def _read(path: Path) -> np.ndarray:
        _, size, scale, values = path.read_bytes().split(b"\n", 3)
        width, height = map(int, size.split())
        image = np.frombuffer(values, "<f4" if float(scale) < 0 else ">f4").reshape(height, width)
        # Row 0 at the head, seen from the source's side; its sums are in cm.
        return image[::-1, ::-1] * 10
