"""The imported weights give the released pipeline's numbers, step by step.

The released code was run on a 16^3 CT with the weights of DVG_Diffusion.pt; each test starts from its stored tensors,
so that an error has one place. Everything goes through the folder that the import command writes and the methods that
training, evaluation and reconstruction call.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax import load_reconstructor
from dvg_jax.diffusion import add_noise
from dvg_jax.diffusion.samplers import Coefficients, reverse_step
from dvg_jax.latents import encode
from dvg_jax.torch_import import command, load_dvg, unet3d
from dvg_jax.xray import ConeBeamGeometry
from tests.paths import GOLDEN, needs_shared

pytestmark = needs_shared
FILE = "finestage_e2e.npz"
TOLERANCE = 1e-4
"""Of the largest number in a tensor: float32 sums in another order, over up to 100 passes."""


def ours(array: np.ndarray) -> jax.Array:
    """(B, C, D, H, W) -> (B, D, H, W, C); an X-ray (B, 1, h, w) becomes one view (B, 1, h, w, 1)."""
    return jnp.asarray(np.moveaxis(array, 1, -1) if array.ndim == 5 else array[..., None])


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / FILE) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """Return the method and its variables as imported, with the geometry of the 16^3 run (voxels of 1 mm).

    ``head_first`` is off: the stored tensors are in the released code's own order of D.
    """
    workdir = tmp_path_factory.mktemp("official")
    command.main([f"--checkpoint={GOLDEN / 'DVG_Diffusion.pt'}", f"--workdir={workdir}", "--which=model",
                  "--num_groups=4"])  # fmt: skip
    model = load_reconstructor(workdir)
    geometry = ConeBeamGeometry((16,) * 3, (1.0,) * 3, (16,) * 2, (1.0,) * 2, samples_per_ray=32)
    return replace(model.dvg, geometry=geometry, head_first=False), model.variables


@pytest.fixture
def close(report, golden):
    """Compare with a stored tensor, or with ``expected``."""

    def compare(name: str, result: jax.Array, expected: np.ndarray | None = None) -> None:
        expected = ours(golden[name]) if expected is None else expected
        assert result.shape == expected.shape
        error = float(np.abs(np.asarray(result) - expected).max() / np.abs(expected).max())
        report(file=FILE, name=name, error=error, tolerance=TOLERANCE)

    return compare


def condition(golden: dict[str, np.ndarray], kind: str) -> tuple[jax.Array, jax.Array]:
    """What g_theta is shown, as stored: ``z_new_t0`` when sampling, ``train_z_new`` when training."""
    return jnp.asarray(ours(golden["z_in"])), jnp.asarray(ours(golden[kind]))


def raw(variables, z: jax.Array) -> np.ndarray:
    """A latent of ours in the CT VQGAN's own numbers, which is what G_z gives in the released code."""
    statistics = variables["ct_vqgan"]["statistics"]
    return np.asarray(z * statistics["std"] + statistics["mean"])


def test_xrays_and_what_is_spread_back_from_them(official, golden, close):
    """The published projector, with its scales: V_bp as it is, real views min-max normalised, the new one not."""
    dvg, variables = official
    ct = ours(golden["ct"])
    plain, films = (dvg.render(ct, dvg.angles, normalize) for normalize in (False, True))
    for i, name in enumerate(("ap", "lat")):
        close(f"xray_{name}_raw", plain[:, i : i + 1])
        close(f"bp_{name}", dvg.lift(films[:, i : i + 1], dvg.angles[i : i + 1]))
    close("bp_total", dvg.lift(films, dvg.angles))
    new = dvg.synthesize_view(variables, ours(golden["z_in"])).views
    close("xray_new_raw_t0", new)
    close("bp_new_t0", dvg.lift(new, dvg.new_angles))


def test_condition_from_the_ct_alone(official, golden, close):
    """X-rays, back projection, both encoders, G_z, decoder and new view in one call."""
    dvg, variables = official
    z_in, z_new = dvg.condition(variables, dvg.render(ours(golden["ct"]), dvg.angles), dvg.angles)
    close("z_in", z_in)
    close("z_new_t0", z_new)


def test_new_view_at_a_training_time(official, golden, close):
    dvg, variables = official
    statistics = variables["ct_vqgan"]["statistics"]
    z = (ours(golden["train_z_coarse"]) - statistics["mean"]) / statistics["std"]
    views = dvg.render(dvg.decode(variables, z), dvg.new_angles, dvg.normalize_new_view)
    close("train_xray_new", views)
    lifted = dvg.lift(views, dvg.new_angles)
    close("train_z_new", encode(dvg.new_view_vqgan, variables["new_view_vqgan"], lifted))


def test_views_that_are_compared(official, golden, close):
    """The released sampler returns the true and the result's new view as films."""
    dvg, _ = official
    for name, ct in (("gt", "ct"), ("pred", "sample_ct")):
        close(f"sample_xray45_of_{name}_norm", dvg.render(ours(golden[ct]), dvg.new_angles))


def test_conditions_are_the_encoders_plain_latents(official, golden, close):
    dvg, variables = official
    close("z_in", encode(dvg.view_vqgan, variables["view_vqgan"], ours(golden["bp_total"])))
    close("z_new_t0", encode(dvg.new_view_vqgan, variables["new_view_vqgan"], ours(golden["bp_new_t0"])))


def test_first_ct(official, golden, close):
    dvg, variables = official
    z = dvg.first_latent(variables["new_view"]["params"], ours(golden["z_in"]))
    close("z_coarse_t0", raw(variables, z))
    close("ct_coarse_t0", dvg.decode(variables, z))


def test_first_latent_at_a_training_time(official, golden, close):
    """The released training gives G_z the diffusion time; the network does too, though the method holds it at 0."""
    dvg, variables = official
    params = {"params": variables["new_view"]["params"]}
    z = jax.jit(dvg.generator.apply)(params, ours(golden["z_in"]), jnp.asarray(golden["train_t"]))
    close("train_z_coarse", raw(variables, z))


def test_target_latent(official, golden, close):
    dvg, variables = official
    z0 = dvg.ct_latent(variables, ours(golden["ct"]))
    close("ct_latent_norm", z0)
    close("ct_latent_raw", raw(variables, z0))
    ends = raw(variables, jnp.asarray([[-1.0], [1.0]]))[:, 0]
    close("codebook_min_max", ends, golden["codebook_min_max"])


def test_sampling_with_the_recorded_noise(official, golden, close):
    """All 100 steps in a row, from the stored x_T; then decoded and finished."""
    dvg, variables = official
    arguments = variables["diffusion"]["params"], condition(golden, "z_new_t0")

    @jax.jit
    def step(row: Coefficients, z: jax.Array, noise: jax.Array) -> jax.Array:
        z0 = dvg.denoiser.predict(arguments, z, jnp.full(z.shape[:1], row.t))
        return reverse_step(row, z, jnp.clip(z0, -dvg.sampler.clip, dvg.sampler.clip), jnp.zeros_like(z), noise)

    table = dvg.sampler.coefficients(dvg.schedule)
    assert list(table.t) == list(range(99, -1, -1))
    z, steps = ours(golden["sample_x_T"]), []
    for i, noise in enumerate(golden["sample_step_noise_t99_to_t0"]):
        z = step(Coefficients(*(column[i] for column in table)), z, ours(noise))
        steps.append(z)
    close("sample_x_after_each_step", np.stack(steps), np.moveaxis(golden["sample_x_after_each_step"], 2, -1))
    ct = dvg.decode(variables, z)
    close("sample_decoded_before_postprocess", ct)
    close("sample_ct", dvg.finish(ct))


@pytest.fixture(scope="module")
def training_loss(official, golden):
    """Loss at the stored time and noise, and its gradient by g_theta's parameters."""
    dvg, variables = official
    arguments = (
        condition(golden, "train_z_new"),
        ours(golden["ct_latent_norm"]),
        jnp.asarray(golden["train_t"]),
        ours(golden["train_noise"]),
    )
    return jax.jit(jax.value_and_grad(dvg.loss_at))(variables["diffusion"]["params"], *arguments)


def test_training_loss(official, golden, close, training_loss):
    dvg, variables = official
    z_t = add_noise(
        dvg.schedule, ours(golden["ct_latent_norm"]), jnp.asarray(golden["train_t"]), ours(golden["train_noise"])
    )
    close("train_x_t", z_t)
    arguments = variables["diffusion"]["params"], condition(golden, "train_z_new")
    close(
        "train_pred",
        jax.jit(dvg.denoiser.predict)(arguments, ours(golden["train_x_t"]), jnp.asarray(golden["train_t"])),
    )
    close("train_loss", training_loss[0], golden["train_loss"])


def test_training_gradients(golden, close, training_loss):
    prefix = "grad/fine_model."
    stored = {name.removeprefix(prefix): name for name in golden if name.startswith(prefix)}
    assert len(stored) == 7
    zeros = {key: np.zeros_like(array) for key, array in load_dvg(GOLDEN / "DVG_Diffusion.pt")["fine_model"].items()}
    found = jax.tree_util.tree_leaves_with_path(training_loss[1]["unet"])
    for key, name in stored.items():
        # The importer itself says where a PyTorch tensor goes and how its axes lie.
        placed = jax.tree.leaves(unet3d(zeros | {key: golden[name]})[1]["params"])
        ((leaf, expected),) = [(g, e) for (_, g), e in zip(found, placed, strict=True) if np.any(e)]
        close(name, leaf, np.asarray(expected))
