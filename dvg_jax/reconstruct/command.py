"""Make a CT from X-ray files and write it as NIfTI, DICOM and a page.

python reconstruct.py --workdir runs/demo --xray ap.png@0 --xray lat.png@90 --output ct.nii.gz
"""

from pathlib import Path

from dvg_jax import runtime, xla_flags
from dvg_jax.cli.flags import Parser, number, output_file, workdir_path
from dvg_jax.cli.limits import HELD, LENGTH_MM, SEED
from dvg_jax.cli.rules import Number
from dvg_jax.consistency import MODES
from dvg_jax.ct.frame import FIELD_MM
from dvg_jax.devices import full_precision
from dvg_jax.diffusion.samplers import SAMPLERS
from dvg_jax.errors import UserError, visible
from dvg_jax.reconstruct.films import FRAMES, INTENSITIES, parse_film_request
from dvg_jax.reconstruct.placement import ALIGNMENTS
from dvg_jax.reconstruct.reconstructor import BATCH
from dvg_jax.reconstruct.run import MAX_SAMPLES, NIFTI_SUFFIXES, Request, reconstruct
from dvg_jax.training.compilation import enable_compilation_cache
from dvg_jax.training.workdir import load_config


def main(argv: list[str] | None = None) -> None:
    """Run ``reconstruct.py`` on ``argv`` (None: the process's arguments)."""
    options = _parser().parse_args(argv)
    if options.like and options.truth:
        raise UserError("--like and --truth are both given; allowed: one, --truth places the result too")
    place = options.like or options.truth
    request = Request(
        workdir=workdir_path(options.workdir, made=False),
        xrays=tuple(parse_film_request(text) for text in options.xray),
        output=output_file("output", options.output, NIFTI_SUFFIXES),
        dicom=Path(options.dicom) if options.dicom else None,
        report=output_file("report", options.report, (".html",)) if options.report else None,
        seed=options.seed,
        samples=options.samples,
        batch=options.batch,
        steps=options.steps,
        sampler=options.sampler,
        consistency=options.consistency,
        field_mm=options.field_mm,
        like=Path(place) if place else None,
        compare=bool(options.truth),
        frame=options.frame,
        intensity=options.intensity,
        align=options.align,
        strict=options.strict,
    )
    if _is_deterministic(request.workdir):
        xla_flags.choose("deterministic")
    runtime.check_platform()
    enable_compilation_cache()
    with full_precision():
        lines = reconstruct(request)
    print(visible("\n".join(lines)))


def _is_deterministic(workdir: Path) -> bool:
    """Tell whether a folder's config asks for equal bits; what is wrong with the folder is told later, in its turn."""
    try:
        return load_config(workdir).deterministic
    except (UserError, OSError):
        return False


def _parser() -> Parser:
    parser = Parser(__doc__)
    flag = parser.add_argument
    flag("--workdir", type=Path, required=True, help="folder of a trained run")
    flag(
        "--xray", action="append", required=True, metavar="FILE@ANGLE",
        help="once a view: ap.png@0, lateral.png@90; FILE@ANGLE:flip mirrors it",
    )  # fmt: skip
    flag("--frame", choices=FRAMES, default="auto", help="auto finds the thorax, none crops the centre")
    flag("--intensity", choices=INTENSITIES, help="default: match, greys as in training, with --frame auto; else none")
    flag(
        "--align", choices=ALIGNMENTS, default="auto",
        help="bring films to their nominal views: rows by the sums of their rows, model by the model's CT after that; "
        "auto is none with --frame none and for films that dvg_jax.data.drr rendered, else model (default %(default)s)",
    )  # fmt: skip
    flag("--strict", action="store_true", help="refuse films that give a warning")
    flag("--output", type=Path, required=True, help="NIfTI to write: .nii or .nii.gz, with all settings in a .json")
    flag("--dicom", default="", help="folder, new or empty, for the same CT as a DICOM series")
    flag("--report", default="", help="page to write: .html, one file")
    seeds = Number(0, SEED.high - MAX_SAMPLES, whole=True)
    flag("--seed", type=number(seeds), default=0, help="decides the sample (default %(default)s)")
    flag(
        "--samples", type=number(Number(1, MAX_SAMPLES, whole=True)), default=1,
        help="samples, of this seed and the next ones, with their mean and spread (default %(default)s)",
    )  # fmt: skip
    flag(
        "--batch", type=number(Number(1, MAX_SAMPLES, whole=True)), default=BATCH,
        help="samples made at a time; fewer need less memory (default %(default)s)",
    )  # fmt: skip
    flag("--sampler", choices=tuple(SAMPLERS), help="default: that of the model's config")
    # Of the steps that can be meant at all the model, once it is read, names those that it has.
    steps = Number(-HELD.high, HELD.high, whole=True)
    flag("--steps", type=number(steps), help="sampling steps (default: those of the model's config)")
    flag(
        "--consistency", choices=MODES,
        help="how the CT is made to agree with the films: films by the smallest change, refine by the trained refiner "
        "before that (default: that of the model's config)",
    )  # fmt: skip
    flag(
        "--field_mm", type=number(LENGTH_MM), default=FIELD_MM,
        help="edge of the cube that the volume covers (default %(default)s)",
    )  # fmt: skip
    flag("--like", default="", help="prepared CT whose cube the result shares, instead of --field_mm")
    flag("--truth", default="", help="as --like, and the result is compared with it")
    return parser
