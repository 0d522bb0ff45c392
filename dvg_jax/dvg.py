"""Put DVG-Diffusion on one page (Xie et al., IEEE TIP 2026, arXiv 2503.17804).

    views --lift--> V_bp --E_bp--> z_in --------------------------------.
                                    |                                   |
                                    v                                   v
                                   G_z --D_ct--> V_init             condition --> g_theta (T steps) --> z_0 --D_ct--> CT
                                                   |                    ^
                                          render (new view)             |
                                                   '--lift--> E_new --> z_new

    views, CT --refine, fit--> a CT whose X-rays are the views    (not in the paper: ``consistency``)

Training, evaluation and reconstruction all call the methods below; there is no second pipeline. ``variables`` maps a
stage's name to its learned variables: ``{"ct_vqgan": {"params": ..., "codebook": ..., "statistics": ...}, ...}``.

The blocks of the picture are compiled one by one, so that stages, evaluation and reconstruction share them; inside a
larger compiled program they are inlined.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dvg_jax.alignment import Alignment, align
from dvg_jax.consistency import Fit, fit_films
from dvg_jax.diffusion import Sampler, Schedule, add_noise, sample
from dvg_jax.diffusion.samplers import Progress
from dvg_jax.finite import clipped
from dvg_jax.imperfections import Imperfections
from dvg_jax.keys import named
from dvg_jax.latents import decode, encode, first_latent, latent_shape
from dvg_jax.networks.denoiser import ConditionalDenoiser
from dvg_jax.networks.unet3d import UNet3D
from dvg_jax.networks.vqgan3d import VQGAN3D
from dvg_jax.refinement import Refinement
from dvg_jax.shapes import Key, Latent, SampledVolumes, Times, Variables, VariablesByStage, Views, Volumes
from dvg_jax.xray import ConeBeamGeometry
from dvg_jax.xray.views import (
    Angles,
    Projector,
    lift_views,
    minmax,
    project_views,
    random_view_sets,
    table_of,
)

ALIGNMENT_STEPS = 4
"""Films are compared with a CT that is sampled in so many steps; more change it little."""

Condition = tuple[jax.Array, ...]
"""The condition of g_theta: one block a source, (B, d, h, w, c), or (B, D, H, W, 1) without VPGE."""


class NewView(NamedTuple):
    """Hold the output of DVG-Net: the first CT, and the new views that are rendered from it."""

    ct: Volumes
    views: Views


class Estimates(NamedTuple):
    """Hold the CTs of a method, and DVG-Net's if they were made from those."""

    ct: SampledVolumes
    first: Volumes | None = None

    @property
    def blended(self) -> SampledVolumes:
        """Return what the refiner corrects: the mean of both, or the only one."""
        return self.ct if self.first is None else (self.ct + self.first) / 2


@dataclass(frozen=True)
class DVG:
    """Combine geometry, networks and switches into the method. No learned numbers are stored here.

    ``use_vpge``, ``new_angles = ()`` and ``use_diffusion`` switch off parts of the picture: the paper's Table II.
    With ``residual``, not the paper's, g_theta learns what DVG-Net's latent lacks of z_0, under that latent too.
    ``random_views`` is the largest number of views of a model for any number. ``projector``, ``normalize_new_view``,
    ``head_first`` and ``floor`` are where the released code departs from the paper; see ``config/defaults.py``.
    Angles are in degrees about the foot-head axis, 0 frontal and 90 lateral. ``angles`` are the views that the model is
    trained on; methods take the angles of their views as an argument.

    Every method takes and returns volumes and views with the foot at index 0 of D and at row 0. With ``head_first`` the
    networks and the projector have the head there: the axis is reversed once, where volumes and views enter
    (``turned``, ``turned_views``) and where they leave. Latents and conditions stay in the networks' order.
    """

    geometry: ConeBeamGeometry
    angles: tuple[float, ...]
    new_angles: tuple[float, ...]
    ct_vqgan: VQGAN3D
    view_vqgan: VQGAN3D
    new_view_vqgan: VQGAN3D
    generator: UNet3D
    denoiser: ConditionalDenoiser
    schedule: Schedule
    sampler: Sampler
    use_vpge: bool
    use_diffusion: bool
    residual: bool
    random_views: int
    projector: Projector
    normalize_new_view: bool
    decode_quantized: bool
    head_first: bool
    floor: float
    imperfections: Imperfections
    refinement: Refinement
    consistency: str
    fit: Fit

    def input_views(self, ct: Volumes, key: Key) -> tuple[Views, Angles]:
        """Make the films of a CT that a stage learns from: those at ``angles``, or a set drawn for each CT."""
        angles = random_view_sets(key, len(ct), self.random_views) if self.random_views else self.angles
        return self.films(ct, angles, named(key, "films")), angles

    def films(self, ct: Volumes, angles: Angles, key: Key) -> Views:
        """Make films of a CT as training sees them: rendered, with the imperfections that the key decides, if any.

        Args:
          ct: volumes, (B, D, H, W, 1), [0, 1].
          angles: of the views, in degrees.
          key: decides the imperfections.
        """
        if not self.imperfections:
            return self.render(ct, angles)
        return self.imperfections.films(ct, table_of(angles, len(ct)), key, self.geometry)

    def render(self, ct: Volumes, angles: Angles, normalize: bool = True) -> Views:
        """Render X-rays of a CT, Eq. (9).

        Args:
          ct: volumes, (B, D, H, W, 1), [0, 1].
          angles: of the views, in degrees.
          normalize: scale each view by its own minimum and maximum to [0, 1], as films are; else return line integrals.
        """
        return self.turned_views(self._project(self.turned(ct), angles, normalize))

    def lift(self, views: Views, angles: Angles) -> Volumes:
        """Return V_bp: every view spread back along its rays, Eq. (1), and summed, Eq. (2).

        With ``random_views`` it is the mean of the views. It is scaled so that a uniform view of 1 gives about 1
        (default projector; see ``xray/views.py``).
        """
        return self.turned(self._lift(self.turned_views(views), angles))

    def view_latent(self, variables: VariablesByStage, views: Views, angles: Angles) -> Latent:
        """Return z_in, the latent of the input views, Eq. (3), before quantisation, standardised per channel.

        Args:
          variables: of all stages, by name.
          views: (B, V, h, w, 1), [0, 1].
          angles: of the views, in degrees.
        """
        lifted = self._lift(self.turned_views(views), angles)
        return encode(self.view_vqgan, variables["view_vqgan"], lifted)

    def ct_latent(self, variables: VariablesByStage, ct: Volumes) -> Latent:
        """Return z_0, the target of g_theta, standardised per channel."""
        return encode(self.ct_vqgan, variables["ct_vqgan"], self.turned(ct))

    def decode(self, variables: VariablesByStage, z: Latent) -> Volumes:
        """Return the CT of a standardised latent, through the nearest codes unless ``decode_quantized`` is off."""
        return self.turned(self._decode(variables, z))

    def first_latent(self, params: Variables, z_in: Latent) -> Latent:
        """Apply G_z: z_in to the latent of a first CT, Eq. (8). The time input of its U-Net is always 0."""
        return first_latent(self.generator, params, z_in)

    def synthesize_view(self, variables: VariablesByStage, z_in: Latent) -> NewView:
        """Apply DVG-Net: decode the first CT, and render the new views from it."""
        made = self._new_view(variables, self.first_latent(variables["new_view"]["params"], z_in))
        return NewView(self.turned(made.ct), self.turned_views(made.views))

    def condition(self, variables: VariablesByStage, views: Views, angles: Angles) -> Condition:
        """Return g_theta's condition: features of the input views and, if a new view is generated, of that view.

        With ``residual`` the last block is DVG-Net's latent. Without VPGE the blocks are V_bp themselves, with D in the
        networks' order as in latents.

        Args:
          variables: of all stages, by name.
          views: (B, V, h, w, 1), [0, 1].
          angles: of the views, in degrees.
        """
        return self._condition(variables, views, angles)[0]

    def target(self, learned: Variables, condition: Condition, z0: Latent) -> Latent:
        """Return what g_theta predicts: z_0, or with ``residual`` what DVG-Net's latent lacks of it, standardised.

        Args:
          learned: with ``residual``, ``statistics`` of stage ``diffusion``.
          condition: from :meth:`condition`.
          z0: from :meth:`ct_latent`.
        """
        return (z0 - condition[-1]) / learned["statistics"]["std"] if self.residual else z0

    def loss(self, params: Variables, condition: Condition, z0: Latent, key: Key) -> jax.Array:
        """Return Eq. (6): the squared error of the predicted z_0 at a random time, as a mean over elements.

        Args:
          params: of g_theta.
          condition: from :meth:`condition`.
          z0: the target, (B, d, h, w, c), from :meth:`target`.
          key: decides times and noise.
        """
        key_t, key_noise = jax.random.split(key)
        t = jax.random.randint(key_t, z0.shape[:1], 0, self.schedule.timesteps)
        return self.loss_at(params, condition, z0, t, jax.random.normal(key_noise, z0.shape, z0.dtype))

    def loss_at(self, params: Variables, condition: Condition, z0: Latent, t: Times, noise: Latent) -> jax.Array:
        """Return Eq. (6) at a given time with given noise.

        Args:
          params: of g_theta.
          condition: from :meth:`condition`.
          z0: the target, (B, d, h, w, c).
          t: times, (B,), from 0.
          noise: standard normal, of the shape of ``z0``.
        """
        z_t = add_noise(self.schedule, z0, t, noise)
        return jnp.mean((self.denoiser.predict((params, condition), z_t, t) - z0) ** 2)

    def reconstruct(
        self, variables: VariablesByStage, views: Views, angles: Angles, key: Key, progress: Progress | None = None
    ) -> SampledVolumes:
        """Reconstruct CTs from X-rays, as near to the X-rays as ``consistency`` asks. Values are in [0, 1].

        Without diffusion the result is DVG-Net's.

        Args:
          variables: of all stages, by name.
          views: (B, V, h, w, 1), [0, 1].
          angles: of the views, in degrees.
          key: decides the noise. K keys, (K,), with one row of views give K samples; the views are encoded once.
          progress: is called after every step, as in :func:`dvg_jax.diffusion.sample`.
        """
        made = self.estimates(variables, views, angles, key, progress)
        return self.agree(variables, made, views, angles)

    def estimate(
        self, variables: VariablesByStage, views: Views, angles: Angles, key: Key, progress: Progress | None = None
    ) -> SampledVolumes:
        """Return the paper's result, which need not agree with the X-rays: see :meth:`reconstruct`.

        Args:
          variables, views, angles, key, progress: as of :meth:`reconstruct`.
        """
        return self.estimates(variables, views, angles, key, progress).ct

    def estimates(
        self, variables: VariablesByStage, views: Views, angles: Angles, key: Key, progress: Progress | None = None
    ) -> Estimates:
        """Return the paper's result and DVG-Net's CT, which is made on the way: see :meth:`reconstruct`.

        Args:
          variables, views, angles, key, progress: as of :meth:`reconstruct`.
        """
        if not self.use_diffusion:
            net = self.synthesize_view(variables, self.view_latent(variables, views, angles))
            return Estimates(self.finish(net.ct))
        condition, first = self._condition(variables, views, angles)
        if key.ndim:
            samples = (jnp.broadcast_to(block, (len(key), *block.shape[1:])) for block in condition)
            condition = jax.device_put(tuple(samples), key.sharding)  # over the devices that the keys are on
        return Estimates(self.sample(variables, variables["diffusion"]["params"], condition, key, progress), first)

    def sample(
        self, variables: Variables, params: Variables, condition: Condition, key: Key, progress: Progress | None = None
    ) -> Volumes:
        """Draw a CT under a condition by g_theta of ``params``. Values in [0, 1]."""
        shape = latent_shape(self.ct_vqgan, (len(condition[0]), *self.geometry.volume_shape))
        arguments = (self.denoiser.prepared(params), condition)
        z = sample(self.denoiser, arguments, key, shape, self.schedule, self.sampler, progress)
        if self.residual:
            z = condition[-1] + variables["diffusion"]["statistics"]["std"] * z
        return self.finish(self.decode(variables, z))

    def align(self, variables: VariablesByStage, views: Views, angles: Angles, key: Key) -> Alignment:
        """Find how films were taken otherwise than at their angles, and bring them there: ``dvg_jax.alignment``.

        Args:
          variables: of all stages, by name.
          views: films of each patient, (B, V, h, w, 1), [0, 1], or with a margin.
          angles: of the nominal views, in degrees.
          key: decides the noise of the CTs that films are compared with.
        """

        quick = self.quick(ALIGNMENT_STEPS)

        def model(films: Views) -> Volumes:
            made = quick.estimates(variables, films, angles, key)
            if self.consistency != "refine":
                return made.blended
            return self.finish(self.refine(variables["refine"]["params"], made.blended, films, angles)[-1])

        def fit(ct: Volumes, films: Views) -> Volumes:
            return self.fitted(ct, films, angles)

        return align(views, table_of(angles, len(views)), self.geometry, model, fit)

    def agree(self, variables: VariablesByStage, made: Estimates, views: Views, angles: Angles) -> SampledVolumes:
        """Make CTs agree with their X-rays, by any method: as ``consistency`` asks, ``none``, ``films`` or ``refine``.

        ``films`` makes the smallest change, see :mod:`dvg_jax.consistency`; ``refine`` applies the trained refiner
        before, to the mean of the CT and DVG-Net's where both are given.

        Args:
          variables: of all stages, by name; ``films`` reads none.
          made: K samples of one case, or one CT of each of K cases, (K, D, H, W, 1).
          views: of the one case, or of each, (B, V, h, w, 1).
          angles: of the views, in degrees.
        """
        if self.consistency == "none":
            return made.ct
        ct, films = made.ct, jnp.broadcast_to(views, (len(made.ct), *views.shape[1:]))
        if self.consistency == "refine":
            ct = self.refine(variables["refine"]["params"], made.blended, films, angles)[-1]
        return self.fitted(ct, films, angles)

    def fitted(self, ct: Volumes, views: Views, angles: Angles) -> Volumes:
        """Return the nearest CTs whose X-rays are the views, up to a curve of each: see :mod:`dvg_jax.consistency`.

        Args:
          ct: (B, D, H, W, 1), [0, 1].
          views: of each, (B, V, h, w, 1).
          angles: of the views, in degrees.
        """
        x, films = self.turned(ct), self.turned_views(views)
        return self.finish(self.turned(fit_films(self.projector, self.geometry, x, films, angles, self.fit)))

    def refine(self, params: Variables, ct: Volumes, views: Views, angles: Angles) -> list[Volumes]:
        """Correct CTs by the networks of stage ``refine``; return the result of each round, not clipped.

        Args:
          params: of the stage.
          ct: (B, D, H, W, 1), [0, 1].
          views: their X-rays, (B, V, h, w, 1), [0, 1].
          angles: of the views, in degrees.
        """
        rounds = self.refinement(params, self.turned(ct), self.turned_views(views), angles)
        return [self.turned(ct) for ct in rounds]

    def quick(self, steps: int) -> "DVG":
        """Return the method with so few deterministic sampling steps, or all of them if there are fewer."""
        return replace(self, sampler=Sampler(min(steps, self.schedule.timesteps), eta=0.0, clip=self.sampler.clip))

    def finish(self, ct: Volumes) -> Volumes:
        """Clip to [0, 1] and replace values under ``floor`` by air (the released code uses 0.04)."""
        ct = clipped(ct, 0, 1)
        return jnp.where(ct < self.floor, 0, ct)

    def turned(self, ct: Volumes) -> Volumes:
        """Reverse D with ``head_first``, from this project's order to the networks' or back; else change nothing."""
        return ct[:, ::-1] if self.head_first else ct

    def turned_views(self, views: Views) -> Views:
        """Reverse the rows of views in the same cases."""
        return views[:, :, ::-1] if self.head_first else views

    def _condition(self, variables: VariablesByStage, views: Views, angles: Angles) -> tuple[Condition, Volumes | None]:
        """Return the condition, and DVG-Net's CT if a new view is generated."""
        lifted = self._lift(self.turned_views(views), angles)
        if self.use_vpge or self.new_angles:
            z_in = encode(self.view_vqgan, variables["view_vqgan"], lifted)
        blocks, first = [z_in if self.use_vpge else lifted], None
        if self.new_angles:
            z_first = self.first_latent(variables["new_view"]["params"], z_in)
            made = self._new_view(variables, z_first)
            first = self.finish(self.turned(made.ct))
            new = self._lift(made.views, self.new_angles)
            if self.use_vpge:
                new = encode(self.new_view_vqgan, variables["new_view_vqgan"], new)
            blocks += [new, z_first] if self.residual else [new]
        return tuple(blocks), first

    # From here on volumes and views are in the networks' order.

    def _project(self, ct: Volumes, angles: Angles, normalize: bool) -> Views:
        views = project_views(self.projector, self.geometry, ct, angles)
        return minmax(views[..., 0])[..., None] if normalize else views

    def _lift(self, views: Views, angles: Angles) -> Volumes:
        return lift_views(self.projector, self.geometry, views, angles, mean=self.random_views > 0)

    def _decode(self, variables: VariablesByStage, z: Latent) -> Volumes:
        return decode(self.ct_vqgan, self.decode_quantized, variables["ct_vqgan"], z)

    def _new_view(self, variables: VariablesByStage, z_first: Latent) -> NewView:
        ct = self._decode(variables, z_first)
        return NewView(ct, self._project(ct, self.new_angles, self.normalize_new_view))
