"""Define the command line of ``reconstruct.py``: X-ray files in, a CT as NIfTI, DICOM and a page out."""

from pathlib import Path

from absl import flags

from dvg_jax import cli, runtime
from dvg_jax.config.table import MOST_SEED
from dvg_jax.ct.frame import FIELD_MM
from dvg_jax.diffusion.samplers import SAMPLERS
from dvg_jax.errors import UserError
from dvg_jax.reconstruct.films import FRAMES, INTENSITIES, parse_film_request
from dvg_jax.reconstruct.reconstructor import BATCH
from dvg_jax.reconstruct.run import MAX_SAMPLES, NIFTI_SUFFIXES, Request, reconstruct
from dvg_jax.training.compilation import enable_compilation_cache


def main(argv: list[str] | None = None) -> None:
    """Run ``reconstruct.py``."""
    values = flags.FlagValues()
    workdir = flags.DEFINE_string("workdir", "", "Folder of a trained run.", flag_values=values)
    xray = flags.DEFINE_multi_string(
        "xray", [], "FILE@ANGLE, once a view: ap.png@0, lateral.png@90; FILE@ANGLE:flip mirrors it.", flag_values=values
    )
    frame = flags.DEFINE_enum(
        "frame", "auto", FRAMES, "auto finds the thorax, none crops the centre.", flag_values=values
    )
    intensity = flags.DEFINE_enum(
        "intensity", None, INTENSITIES,
        "match: greys as in training. Default: match with --frame auto, none otherwise.", flag_values=values,
    )  # fmt: skip
    strict = flags.DEFINE_bool("strict", False, "Refuse films that give a warning.", flag_values=values)
    output = flags.DEFINE_string(
        "output",
        "",
        "The NIfTI to write: .nii or .nii.gz; a JSON with all settings goes beside it.",
        flag_values=values,
    )
    dicom = flags.DEFINE_string(
        "dicom", "", "Folder, new or empty, for the same CT as a DICOM series.", flag_values=values
    )
    report = flags.DEFINE_string("report", "", "The page to write: .html, one file.", flag_values=values)
    seed = flags.DEFINE_integer(
        "seed", 0, "Decides the sample.", lower_bound=0, upper_bound=MOST_SEED - MAX_SAMPLES, flag_values=values
    )
    samples = flags.DEFINE_integer(
        "samples", 1, "Samples, of this seed and the next ones: mean and spread go beside the output.",
        lower_bound=1, upper_bound=MAX_SAMPLES, flag_values=values,
    )  # fmt: skip
    batch = flags.DEFINE_integer(
        "batch", BATCH, "Samples made at a time; fewer need less memory.",
        lower_bound=1, flag_values=values,
    )  # fmt: skip
    sampler = flags.DEFINE_enum(
        "sampler", None, tuple(SAMPLERS), "That of the model's config unless given.", flag_values=values
    )
    steps = flags.DEFINE_integer(
        "steps", None, "Sampling steps; those of the model's config unless given.", flag_values=values
    )
    field_mm = flags.DEFINE_float(
        "field_mm", FIELD_MM, "Edge of the cube that the volume stands for.", lower_bound=1.0, flag_values=values
    )
    like = flags.DEFINE_string(
        "like", "", "A prepared CT whose cube the result shares, instead of --field_mm.", flag_values=values
    )
    truth = flags.DEFINE_string("truth", "", "As --like, and the result is compared with it.", flag_values=values)
    cli.parse_flags(values, argv, required=("workdir", "xray", "output"))
    if like.value and truth.value:
        raise UserError("--like and --truth are both given; allowed: one, --truth places the result too")
    request = Request(
        workdir=cli.workdir_path(workdir.value, made=False),
        xrays=tuple(parse_film_request(text) for text in xray.value),
        output=cli.output_file("output", output.value, NIFTI_SUFFIXES),
        dicom=Path(dicom.value) if dicom.value else None,
        report=cli.output_file("report", report.value, (".html",)) if report.value else None,
        seed=seed.value,
        samples=samples.value,
        batch=batch.value,
        steps=steps.value,
        sampler=sampler.value,
        field_mm=field_mm.value,
        like=Path(like.value or truth.value) if like.value or truth.value else None,
        compare=bool(truth.value),
        frame=frame.value,
        intensity=intensity.value,
        strict=strict.value,
    )
    runtime.check_platform()
    enable_compilation_cache()
    print("\n".join(reconstruct(request)))
