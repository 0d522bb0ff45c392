"""``reconstruct.py``: X-ray files in, a CT as NIfTI in HU out."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

import dvg_jax
from dvg_jax import cli
from dvg_jax.data.films import read_film
from dvg_jax.data.films_in import FRAMES, INTENSITIES, frame_films, parse_request
from dvg_jax.data.frame import Affine, frame_affine, spacing
from dvg_jax.data.intensity import intensity_to_hu
from dvg_jax.data.nifti import save_nifti
from dvg_jax.data.scans import load_scan
from dvg_jax.errors import UserError
from dvg_jax.reconstructor import load_reconstructor
from dvg_jax.training.cache import enable_compilation_cache


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    values = flags.FlagValues()
    workdir = flags.DEFINE_string("workdir", "", "Folder of a trained run.", flag_values=values)
    xray = flags.DEFINE_multi_string(
        "xray", [], "FILE@ANGLE, once a view: ap.png@0, lateral.png@90; FILE@ANGLE:flip mirrors it.", flag_values=values
    )
    frame = flags.DEFINE_enum(
        "frame", "auto", FRAMES, "auto finds the thorax, none crops the centre.", flag_values=values
    )
    intensity = flags.DEFINE_enum(
        "intensity", None, INTENSITIES, "match: greys as in training; unless given, with --frame auto only.",
        flag_values=values,
    )  # fmt: skip
    strict = flags.DEFINE_bool("strict", False, "Refuse films that give a warning.", flag_values=values)
    output = flags.DEFINE_string("output", "", "The NIfTI to write: .nii or .nii.gz.", flag_values=values)
    seed = flags.DEFINE_integer("seed", 0, "Decides the sample.", lower_bound=0, flag_values=values)
    steps = flags.DEFINE_integer("steps", None, "Sampling steps; as trained unless given.", flag_values=values)
    field_mm = flags.DEFINE_float(
        "field_mm", 320.0, "Edge of the cube that the volume stands for.", lower_bound=1.0, flag_values=values
    )
    like = flags.DEFINE_string(
        "like", "", "A prepared CT whose cube the result shares, instead of --field_mm.", flag_values=values
    )
    cli.parse_flags(values, argv, required=("workdir", "xray", "output"))
    path = _output_path(output.value)
    named = [parse_request(text) for text in xray.value]
    read = [read_film(request.path) for request in named]
    enable_compilation_cache()
    reconstructor = load_reconstructor(cli.workdir_path(workdir.value))
    geometry = reconstructor.dvg.geometry
    affine = _affine(geometry.volume_shape, field_mm.value, like.value)
    films = frame_films(read, named, reconstructor, frame.value, intensity.value, field_mm.value, strict.value)
    for warning in (line for film in films for line in film.warnings):
        print(f"warning: {warning}", file=sys.stderr)
    views = np.stack([film.image for film in films])
    with tqdm(desc="reconstruction", file=sys.stderr) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        volume = reconstructor(
            views, [request.angle for request in named], jax.random.key(seed.value), steps.value, progress
        )
    hu = intensity_to_hu(np.asarray(volume))
    save_nifti(path, hu, affine)
    facts = {
        "xrays": [film.record for film in films],
        "seed": seed.value,
        "steps": steps.value or reconstructor.dvg.sampler.steps or reconstructor.dvg.schedule.timesteps,
        "model": workdir.value,
        "voxel_mm": spacing(affine),
        "version": dvg_jax.__version__,
        "notice": "Synthetic. Not for diagnosis.",
    }
    record = path.with_name(path.name.split(".nii")[0] + ".json")
    record.write_text(json.dumps(facts, indent=2) + "\n")
    print(f"{path}: {'x'.join(map(str, hu.shape))} voxels, HU {hu.min():.0f} to {hu.max():.0f}; settings in {record}")


def _affine(shape: tuple[int, int, int], field_mm: float, like: str) -> Affine:
    """Where the result's cube lies: around the origin, or where the CT ``like`` lies."""
    if not like:
        depth, height, width = (field_mm / n for n in shape)
        return frame_affine(shape, (depth, height, width))
    scan = load_scan(like)
    if scan.hu.shape != shape:
        raise UserError(f"--like is {like}, with {scan.hu.shape} voxels; allowed: a CT of the model's {shape}")
    return scan.affine


def _output_path(name: str) -> Path:
    path = Path(name)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise UserError(f"--output is {name}; allowed: a name that ends in .nii or .nii.gz")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--output is {name}; allowed: a file in a folder that exists")
    return path
