"""Turn the released PyTorch weights into a working folder, without PyTorch.

    python -m dvg_jax.torch_import --checkpoint DVG_Diffusion.pt --workdir runs/official

Afterwards ``load_reconstructor``, ``reconstruct.py`` and ``evaluate.py --config configs/published.py`` take the
folder like that of any trained model.
"""

from dataclasses import replace
from pathlib import Path

from dvg_jax.cli.flags import Parser, number, workdir_path
from dvg_jax.cli.limits import SIDE, WIDTH
from dvg_jax.errors import UserError, say
from dvg_jax.files.lock import exclusive
from dvg_jax.files.outputs import check_outputs
from dvg_jax.torch_import.release import Release, open_trainer, open_vqgan, vqgan_file
from dvg_jax.torch_import.workdir import write_workdir


def main(argv: list[str] | None = None) -> None:
    """Run the command line: see the module's docstring."""
    options = _parser().parse_args(argv)
    folder = workdir_path(options.workdir)
    release = Release()
    if options.checkpoint:
        release = open_trainer(Path(options.checkpoint), options.which, options.heads, options.num_groups)
    elif not options.vqgan:
        raise UserError("--checkpoint is missing; allowed: DVG_Diffusion.pt, or VQGANs alone by --vqgan")
    named = [vqgan_file(text) for text in options.vqgan]
    stages = [stage for stage, _ in named]
    if len(set(stages)) < len(stages):
        raise UserError(f"--vqgan names {', '.join(stages)}; allowed: one file a stage")
    parts = {stage: open_vqgan(stage, path, options.num_groups) for stage, path in named}
    release = replace(release, parts=release.parts | parts)
    files = [Path(options.checkpoint)] if options.checkpoint else []
    read = {"--checkpoint": files, "--vqgan": [path for _, path in named]}
    check_outputs(
        {"--workdir": [folder / "config.json"]},
        read,
        replaced={"--workdir": [folder / stage / "model" for stage in release.parts]},
    )
    with exclusive(folder, "import"):
        config = write_workdir(release, folder, options.size)
    for stage, part in release.parts.items():
        origin = part.origin
        say(f"{folder / stage}: {origin['weights']} of {origin['file']}, step {origin['step']}")
    print(f"{folder}: {config.size}^3 voxels, {config.timesteps} time steps, released conventions")


def _parser() -> Parser:
    parser = Parser(__doc__, "python -m dvg_jax.torch_import")
    parser.add_argument("--checkpoint", default="", help="DVG_Diffusion.pt: all parts")
    parser.add_argument(
        "--vqgan",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="Lightning checkpoints of VQGANs, used instead of those in --checkpoint: CT_VQGAN.ckpt, "
        "VPGE_0_90_VQGAN.ckpt, VPGE_45_VQGAN.ckpt, or STAGE=FILE under any other name",
    )
    parser.add_argument("--workdir", type=Path, required=True, help="folder to write, made if it is missing")
    parser.add_argument(
        "--which",
        choices=("ema", "model"),
        default="ema",
        help="averaged weights, as the released sampler uses, or last",
    )
    parser.add_argument(
        "--heads", type=number(WIDTH), help="attention heads of the U-Nets; read from the file, must agree"
    )
    parser.add_argument(
        "--num_groups",
        type=number(WIDTH),
        help="of the VQGANs' norms; read from a .ckpt, 32 for VQGANs in --checkpoint",
    )
    parser.add_argument("--size", type=number(SIDE), help="voxels along each edge; read from --checkpoint, else 128")
    return parser
