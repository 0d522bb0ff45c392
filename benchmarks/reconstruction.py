"""A whole biplanar reconstruction, films to CT, beside the same in PyTorch eager, in one run, on CPU or GPU.

    python -m benchmarks.reconstruction [--size demo] [--steps 100 10] [--repeats 5]

Ours is what ``Reconstructor`` calls. Same random weights, films, z_T and DDIM steps. Before anything is timed the two
must agree piece by piece (``ALLOWED``); in bfloat16, ours and PyTorch's autocast, how far a CT is from float32's is
only told.
"""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import contest
from benchmarks.common import finished, save, side_by_side
from dvg_jax import torch_import
from dvg_jax.cli.entry import run_command
from dvg_jax.cli.flags import Parser
from dvg_jax.config.build import build_dvg
from dvg_jax.data.phantom import chest
from dvg_jax.diffusion import Sampler
from dvg_jax.dvg import DVG
from dvg_jax.errors import UserError
from dvg_jax.latents import latent_shape

try:
    import torch

    from benchmarks.network_cases import SIZES, Size, architecture, as_numpy
    from benchmarks.torch_peer.pipeline import Pipeline, Views
    from benchmarks.torch_peer.training import Manner
    from benchmarks.torch_peer.unet3d import UNet3D
    from benchmarks.torch_peer.vqgan3d import VQGAN3D
except ImportError:
    SIZES = {}

ALLOWED = {"G_z": 1e-4, "new view": 0.1, "CT under the same condition": 1e-3}
"""Of the relative rms difference. The two forward projectors sample rays at different places, and what random weights
decode to is noise, where that shows most; so the CTs are compared under our condition."""

OURS = "dvg_jax"


class Case:
    """Both pipelines at one size, with weights drawn by PyTorch and codes drawn like latents."""

    def __init__(self, size: "Size", device: str) -> None:
        config = size.config()
        self.dvg, self.half = (_biplanar(size.config(dtype)) for dtype in ("float32", "bfloat16"))
        self.ct = chest(jax.random.key(3), size.edge)[None, ..., None]
        self.films = self.dvg.render(self.ct, self.dvg.angles)
        self.key = jax.random.key(0)
        shape = latent_shape(self.dvg.ct_vqgan, (1, *self.dvg.geometry.volume_shape))
        # What ``sample`` starts from with this key.
        self.noise = jax.random.normal(jax.random.fold_in(self.key, self.dvg.schedule.timesteps), shape)
        torch.manual_seed(0)
        self.peers = {
            name: VQGAN3D(**architecture(config[name].network)) for name in ("ct_vqgan", "view_vqgan", "new_view_vqgan")
        } | {
            "generator": UNet3D(shape[-1], **architecture(config.new_view.network), out_dim=shape[-1]),
            "denoiser": UNet3D(3 * shape[-1], **architecture(config.diffusion.network), out_dim=shape[-1]),
        }
        self._draw_codes()
        self.peers = {name: model.eval().to(device) for name, model in self.peers.items()}
        self.device = device
        self.shown, self.new = (Views(self.dvg.geometry, a) for a in (self.dvg.angles, self.dvg.new_angles))

    @torch.inference_mode()
    def _draw_codes(self) -> None:
        model = self.peers["ct_vqgan"]
        rows = model.encode(torch.tensor(np.asarray(self.ct)).movedim(-1, 1)).movedim(1, -1).flatten(0, -2)
        codes = rows.mean(0) + rows.std(0) * torch.randn(model.codebook.embeddings.shape)
        model.codebook.embeddings.copy_(codes)

    def variables(self) -> dict[str, Any]:
        """The peers' weights as ours."""
        channels = self.dvg.ct_vqgan.embedding_dim
        raw = {"mean": np.zeros(channels, np.float32), "std": np.ones(channels, np.float32)}
        found: dict[str, Any] = {}
        for name, model in self.peers.items():
            state = as_numpy(model.state_dict())
            if name.endswith("vqgan"):
                groups = getattr(self.dvg, name).num_groups
                found[name] = torch_import.vqgan3d(state, groups)[1] | {"statistics": raw}
            else:
                found[name] = {"params": torch_import.unet3d(state)[1]["params"]}
        found["new_view"] = found.pop("generator")
        found["diffusion"] = {"params": {"unet": found.pop("denoiser")["params"]}}
        return jax.device_put(found)

    def run(self, steps: int, repeats: int) -> dict[str, Any]:
        """Seconds of both, and how far their results lie apart."""
        sampler = Sampler(steps, eta=0.0)
        dvg, half = (replace(d, sampler=sampler) for d in (self.dvg, self.half))
        variables = self.variables()
        pipeline = Pipeline(**self.peers, shown=self.shown, new=self.new, table=sampler.coefficients(dvg.schedule))
        films = torch.tensor(np.asarray(self.films[0, ..., 0]), device=self.device)
        noise = channels_first(self.noise, self.device)

        def theirs(manner: Manner) -> Any:
            with manner.autocast():
                result = pipeline(films, noise)
            manner.wait()
            return result

        ours = finished(dvg.reconstruct, variables, self.films, dvg.angles, self.key)
        z_in = dvg.view_latent(variables, self.films, dvg.angles)
        condition = tuple(
            channels_first(block, self.device) for block in dvg.condition(variables, self.films, dvg.angles)
        )
        made, (_, first, view) = channels_first(ours(), self.device), pipeline.synthesize(films)
        pairs = {
            "G_z": (channels_first(dvg.first_latent(variables["new_view"]["params"], z_in), self.device), first),
            "new view": (channels_first(dvg.synthesize_view(variables, z_in).views, self.device)[0], view[None]),
            "CT under the same condition": (made[0, 0], pipeline.sample(condition, noise)),
        }
        apart = {name: _apart(a, b) for name, (a, b) in pairs.items()}
        for name, difference in apart.items():
            if not difference < ALLOWED[name]:
                raise UserError(f"{name} of the two lies {difference:.3g} apart; allowed: {ALLOWED[name]}")
        contestants = {
            OURS: ours,
            f"{OURS} bfloat16": finished(half.reconstruct, variables, self.films, half.angles, self.key),
            contest.PEER: lambda: theirs(Manner(self.device)),
            "torch bfloat16": lambda: theirs(Manner(self.device, half=True)),
        }
        for name, of in ((f"{OURS} bfloat16", OURS), ("torch bfloat16", contest.PEER)):
            rounded, exact = (_tensor(contestants[n]()).float().squeeze() for n in (name, of))
            apart[name] = _apart(rounded, exact)
        return {"seconds": side_by_side(contestants, repeats, warm_ups=1), "difference": apart}


def _biplanar(config: ConfigDict) -> DVG:
    config.angles, config.new_angles = (0.0, 90.0), (45.0,)
    return build_dvg(config)


def channels_first(array: jax.Array, device: str) -> "torch.Tensor":
    """(B, ..., C) of ours as PyTorch's (B, C, ...)."""
    return torch.tensor(np.asarray(array), device=device).movedim(-1, 1).contiguous()


def _tensor(result: Any) -> "torch.Tensor":
    return result if isinstance(result, torch.Tensor) else torch.tensor(np.asarray(result))


def _apart(a: "torch.Tensor", b: "torch.Tensor") -> float:
    return float(((a - b).square().mean() / b.square().mean()).sqrt())


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = Parser(__doc__, "python -m benchmarks.reconstruction")
    parser.add_argument("--size", choices=tuple(SIZES), default="demo")
    parser.add_argument("--steps", type=int, nargs="*", default=[100, 10])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(argv)
    device = contest.device()
    case = Case(SIZES[options.size], device)
    results: dict[str, Any] = {"size": options.size}
    print("| size | steps | contestant | ms | ours is ... times as fast |\n|---|---|---|---|---|")
    for steps in options.steps:
        results[f"{steps} steps"] = found = case.run(steps, options.repeats)
        for name, seconds in found["seconds"].items():
            ratio = seconds["median"] / found["seconds"][OURS]["median"]
            print(f"| {options.size} | {steps} | {name} | {1000 * seconds['median']:.0f} | {ratio:.2f} |", flush=True)
    print(f"\nwritten: {save(f'reconstruction_{jax.default_backend()}', results)}")


if __name__ == "__main__":
    run_command(main)
