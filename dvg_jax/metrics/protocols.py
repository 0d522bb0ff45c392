"""Measuring protocols by name: which figures belong together, and under which convention each is computed.

A protocol is frozen: its figures do not change under its name. ``docs/metrics.md`` states every figure.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
from jax import Array

from dvg_jax.ct.intensity import HU_RANGE
from dvg_jax.errors import UserError
from dvg_jax.metrics.tissue import BANDS
from dvg_jax.metrics.volume import X2CT_PEAK, lpips_slices, lpips_sum, view_metrics, volume_figures
from dvg_jax.networks.lpips import NETWORKS, Net, Pictures, load_lpips, lpips
from dvg_jax.shapes import AnyImage, AnyVolume

RANGES = ("unit", "signed")
"""What LPIPS is fed: images in [0, 1], as the published code does, or stretched to [-1, 1], as LPIPS was trained."""

TITLES = {"vgg": "VGG16", "alex": "AlexNet"}


@dataclass(frozen=True)
class Perceptual:
    """How a protocol uses LPIPS.

    Attributes:
      net, range: None where the user chooses, which is then said beside the figure.
      reduction: mean over a direction's slices, or their sum; then the mean over the three directions.
    """

    net: Net | None = None
    range: str | None = None
    reduction: str = "mean"

    @property
    def figure(self) -> str:
        """Its column for volumes."""
        return "lpips" if self.reduction == "mean" else "lpips_sum"

    @property
    def view_figure(self) -> str:
        """Its column for X-rays, where there are no slices to sum."""
        return "lpips" if self.net is None else f"lpips_{self.net}"


@dataclass(frozen=True)
class Protocol:
    """A frozen set of figures.

    Attributes:
      summary: one line.
      since: the version of this library that froze it.
      figures: names in ``metrics.volume.FIGURES``.
      bands: further figures, by tissue; a table of their own.
      peak_hu: what its PSNR calls the largest possible value.
    """

    name: str
    summary: str
    since: str
    figures: tuple[str, ...]
    peak_hu: float
    lpips: Perceptual | None = None
    bands: tuple[str, ...] = ()


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "hu",
            "errors over the window of 2500 HU, overall and by tissue",
            since="0.1.0",
            figures=("psnr", "psnr_slices", "ssim", "ssim_3d", "mae_hu"),
            peak_hu=HU_RANGE,
            lpips=Perceptual(),
            bands=tuple(band.figure for band in BANDS),
        ),
        Protocol(
            "x2ct",
            "as X2CT-GAN's code: PSNR with peak 4095 on a range of 2500",
            since="0.1.0",
            figures=(
                "psnr_x2ct",
                "psnr_slices_x2ct",
                "ssim",
                "mae_unit",
                "mse_unit",
                "mae_hu",
                "mse_hu2",
                "cosine",
            ),
            peak_hu=X2CT_PEAK,
        ),
        Protocol(
            "dvg",
            "as DVG-Diffusion's tables: LPIPS (VGG16, images in [0, 1]) summed over slices",
            since="0.1.0",
            figures=("psnr", "ssim"),
            peak_hu=HU_RANGE,
            lpips=Perceptual("vgg", "unit", "sum"),
        ),
    )
}


@dataclass(frozen=True)
class Measures:
    """The figures of the chosen protocols, each computed once.

    Attributes:
      protocols: names in ``PROTOCOLS``.
      lpips: the network of LPIPS where a protocol leaves it open, ``vgg`` or ``alex``; "" leaves that figure out.
      lpips_range: ``unit`` or ``signed``, where a protocol leaves it open.

    Raises:
      UserError: an unknown name, or no protocol.
    """

    protocols: tuple[str, ...] = ("hu",)
    lpips: str = ""
    lpips_range: str = "unit"

    def __post_init__(self) -> None:
        if not self.protocols:
            raise UserError(f"no protocol is chosen; allowed: {', '.join(PROTOCOLS)}")
        for name in self.protocols:
            _one_of("protocol", name, PROTOCOLS)
        _one_of("LPIPS network", self.lpips, ("", *NETWORKS))
        _one_of("LPIPS range", self.lpips_range, RANGES)

    def volume(self, truth: AnyVolume, result: AnyVolume) -> dict[str, float]:
        """Figures of one CT by name; NaN where a tissue is absent from the truth. Raises UserError for small slices."""
        names = dict.fromkeys(name for p in self._chosen() for name in (*p.figures, *p.bands))
        figures = volume_figures(tuple(names), truth, result)
        per_axis: dict[tuple[Net, str], Array] = {}
        for rule in self._rules():
            key = self._resolved(rule)
            if key not in per_axis:
                per_axis[key] = lpips_slices(truth, result, perceptual(*key))
            total = rule.reduction == "sum"
            figures[rule.figure] = lpips_sum(per_axis[key], truth.shape) if total else jnp.mean(per_axis[key])
        return {name: float(figures[name]) for table in self.tables().values() for name in table}

    def view(self, truth: AnyImage, view: AnyImage) -> dict[str, float]:
        """Figures of one X-ray by name: both min-max normalised to [0, 1] already, peak 1."""
        figures = view_metrics(truth, view)
        for rule in self._rules():
            distance = perceptual(*self._resolved(rule))
            figures[rule.view_figure] = float(distance(truth[None, ..., None], view[None, ..., None])[0])
        return figures

    def tables(self) -> dict[str, tuple[str, ...]]:
        """Figures of CTs by the heading they are printed under."""
        tables = {}
        for p in self._chosen():
            extra = (p.lpips.figure,) if p.lpips in self._rules() else ()
            tables[f"Protocol {p.name}"] = (*p.figures, *extra)
            if p.bands:
                tables[f"Protocol {p.name}, by tissue of the truth"] = p.bands
        return tables

    @property
    def lpips_by(self) -> str:
        """Network and range of the figure ``lpips``, for people; empty where it is left out."""
        span = "[0, 1]" if self.lpips_range == "unit" else "[-1, 1]"
        open_rules = any(rule.net is None for rule in self._rules())
        return f"{TITLES[self.lpips]} on {span}" if open_rules else ""

    def _chosen(self) -> list[Protocol]:
        return [PROTOCOLS[name] for name in dict.fromkeys(self.protocols)]

    def _rules(self) -> list[Perceptual]:
        return [p.lpips for p in self._chosen() if p.lpips is not None and (p.lpips.net or self.lpips)]

    def _resolved(self, rule: Perceptual) -> tuple[Net, str]:
        return rule.net or self.lpips, rule.range or self.lpips_range  # type: ignore[return-value]


@cache
def perceptual(net: Net, value_range: str = "unit") -> Callable[[Pictures, Pictures], Array]:
    """LPIPS of n images in [0, 1], (n, h, w, 1) twice to (n,); the weights are read once, and both ranges share what is
    compiled.
    """
    params = load_lpips(net)

    def distance(a: Pictures, b: Pictures) -> Array:
        if value_range == "signed":
            a, b = 2 * a - 1, 2 * b - 1
        return _distance(params, a, b, net)

    return distance


_distance = jax.jit(lpips, static_argnames="net")


def _one_of(what: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise UserError(f"{what} is {value!r}; allowed: {', '.join(name or repr(name) for name in allowed)}")
