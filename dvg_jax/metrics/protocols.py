"""Define the measuring protocols: which metrics belong together, and under which convention each is computed.

A protocol is frozen: its metrics do not change under its name. ``docs/metrics.md`` defines every metric.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
from jax import Array

from dvg_jax.errors import UserError
from dvg_jax.metrics.tissue import BANDS
from dvg_jax.metrics.volume import lpips_slices, lpips_sum, view_metrics, volume_figures
from dvg_jax.networks.lpips import NETWORKS, Net, Pictures, load_lpips, lpips
from dvg_jax.shapes import Image, Volume

RANGES = ("unit", "signed")
"""Input of LPIPS: images in [0, 1], as the published code does, or stretched to [-1, 1], as LPIPS was trained."""

TITLES = {"vgg": "VGG16", "alex": "AlexNet"}


@dataclass(frozen=True)
class Perceptual:
    """Say how a protocol uses LPIPS.

    Attributes:
      net: the network; None leaves it to the user, and the table then names it.
      range: of the images, one of ``RANGES``; None as for ``net``.
      reduction: mean over a direction's slices, or their sum; then the mean over the three directions.
    """

    net: Net | None = None
    range: str | None = None
    reduction: str = "mean"

    @property
    def figure(self) -> str:
        """Return the name of its column for volumes."""
        return "lpips" if self.reduction == "mean" else "lpips_sum"

    @property
    def view_figure(self) -> str:
        """Return the name of its column for X-rays, where there are no slices to sum."""
        return "lpips" if self.net is None else f"lpips_{self.net}"


@dataclass(frozen=True)
class Protocol:
    """Freeze a set of metrics under a name.

    Attributes:
      summary: one line.
      figures: names in ``metrics.volume.FIGURES``.
      bands: further metrics, by tissue; a table of their own.
    """

    name: str
    summary: str
    figures: tuple[str, ...]
    lpips: Perceptual | None = None
    bands: tuple[str, ...] = ()


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "hu",
            "errors over the window of 2500 HU, overall and by tissue",
            figures=("psnr", "psnr_slices", "ssim", "ssim_3d", "mae_hu"),
            lpips=Perceptual(),
            bands=tuple(band.figure for band in BANDS),
        ),
        Protocol(
            "x2ct",
            "as X2CT-GAN's code: PSNR with peak 4095 on a range of 2500",
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
        ),
        Protocol(
            "dvg",
            "as DVG-Diffusion's tables: LPIPS (VGG16, images in [0, 1]) summed over slices",
            figures=("psnr", "ssim"),
            lpips=Perceptual("vgg", "unit", "sum"),
        ),
    )
}


@dataclass(frozen=True)
class Measures:
    """Compute the metrics of the chosen protocols, each once.

    Attributes:
      protocols: names in ``PROTOCOLS``.
      lpips: the network of LPIPS where a protocol leaves it open, ``vgg`` or ``alex``; "" leaves that metric out.
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

    def volume(self, truth: Volume, result: Volume) -> dict[str, float]:
        """Return the metrics of one CT by name; NaN where a tissue is absent from the truth.

        Raises:
          UserError: the slices are too small.
        """
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

    def view(self, truth: Image, view: Image) -> dict[str, float]:
        """Return the metrics of one X-ray by name; both images are min-max normalised to [0, 1] already, peak 1."""
        figures = view_metrics(truth, view)
        for rule in self._rules():
            distance = perceptual(*self._resolved(rule))
            figures[rule.view_figure] = float(distance(truth[None, ..., None], view[None, ..., None])[0])
        return figures

    def tables(self) -> dict[str, tuple[str, ...]]:
        """Return the metrics of CTs by the heading that they are printed under."""
        tables = {}
        for p in self._chosen():
            extra = (p.lpips.figure,) if p.lpips in self._rules() else ()
            tables[f"Protocol {p.name}"] = (*p.figures, *extra)
            if p.bands:
                tables[f"Protocol {p.name}, by tissue of the truth"] = p.bands
        return tables

    @property
    def lpips_by(self) -> str:
        """Describe network and range of the metric ``lpips`` for people; empty where it is left out."""
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
    """Return LPIPS as a function of two sets of images in [0, 1], (n, h, w, 1) each, to (n,).

    The weights are read once, and both ranges share the compiled program.
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
