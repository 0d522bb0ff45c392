"""List what the paper claims about the order of its methods, and judge each claim by our metrics.

A claim is judged by the paired difference over cases: it holds, or the opposite does, where the 95 % bootstrap interval
of the mean difference leaves out 0.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dvg_jax.experiments.catalogue import Row
from dvg_jax.metrics.tables import labels, summarise

FIGURES = ("psnr", "ssim", "lpips")
LOWER_IS_BETTER = ("lpips",)

HOLDS, OPPOSITE, OPEN = "holds", "the opposite", "not told apart"


@dataclass(frozen=True)
class Claim:
    """State, as the paper does, that the first row is better than the second in these metrics."""

    text: str
    better: Row
    worse: Row
    figures: tuple[str, ...] = FIGURES


@dataclass(frozen=True)
class Verdict:
    """Hold what was found about a claim.

    ``difference`` [``low``, ``high``] is positive where the claim is met, in the metric's own unit.
    """

    claim: Claim
    figure: str
    difference: float
    low: float
    high: float

    @property
    def word(self) -> str:
        return HOLDS if self.low > 0 else OPPOSITE if self.high < 0 else OPEN


def claims_of(table: str, rows: Sequence[Row]) -> Iterator[Claim]:
    """Yield the paper's claims about a table or, for Fig. 5, about the points in ``rows``."""
    if table in _CLAIMS:
        yield from _CLAIMS[table](rows)


def judge(claim: Claim, cases: Mapping[Row, list[dict]]) -> Iterator[Verdict]:
    """Yield a verdict for each measured metric; ``cases`` are rows of metrics by case, in the same order."""
    pairs = list(zip(cases[claim.better], cases[claim.worse], strict=True))
    for figure in (f for f in claim.figures if f in pairs[0][0]):
        sign = -1.0 if figure in LOWER_IS_BETTER else 1.0
        differences = [{**labels(a), figure: sign * (a[figure] - b[figure])} for a, b in pairs]
        summary = summarise(differences)[figure]
        yield Verdict(claim, figure, summary["mean"], summary["low"], summary["high"])


def _pick(rows: Sequence[Row], **fields: object) -> Row:
    (row,) = (r for r in rows if all(getattr(r, name) == value for name, value in fields.items()))
    return row


def _settings(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.setting for row in rows))


def _table_1(rows: Sequence[Row]) -> Iterator[Claim]:
    single, both = _settings(rows)
    for method in dict.fromkeys(row.method for row in rows):
        two, one = (_pick(rows, method=method, setting=s) for s in (both, single))
        yield Claim(f"two views beat one: {two.label}", two, one)
    for row in rows:
        if row.method != "dvg_diffusion":
            best = _pick(rows, method="dvg_diffusion", setting=row.setting)
            yield Claim(f"{row.setting}: DVG-Diffusion beats {row.label}", best, row, ("psnr", "lpips"))


def _table_2(rows: Sequence[Row]) -> Iterator[Claim]:
    for setting in _settings(rows):
        base, new_view, vpge, full = (r for r in rows if r.setting == setting)
        yield Claim(f"{setting}: VPGE beats Base", vpge, base)
        yield Claim(f"{setting}: a new view helps Base", new_view, base)
        yield Claim(f"{setting}: a new view helps VPGE", full, vpge)


def _table_5(rows: Sequence[Row]) -> Iterator[Claim]:
    for setting in ("single view", "two views"):
        none, one = (_pick(rows, setting=setting, label=label) for label in ("0 new views", "1 new view"))
        yield Claim(f"{setting}: one new view helps", one, none)
    none, one = (_pick(rows, setting="three views", label=label) for label in ("0 new views", "1 new view"))
    yield Claim("three views: a new view helps no more", none, one, ("psnr", "ssim"))


def _table_6(rows: Sequence[Row]) -> Iterator[Claim]:
    for row in rows:
        if row.method != "dvg_net":
            best = _pick(rows, method="dvg_net", setting=row.setting)
            yield Claim(f"{row.setting}: DVG-Net beats {row.label}", best, row, ("psnr", "lpips"))


def _table_7(rows: Sequence[Row]) -> Iterator[Claim]:
    for setting in _settings(rows):
        cnn, gan, net, full = (
            _pick(rows, setting=setting, method=m) for m in ("x2ct_cnn", "x2ct_gan", "dvg_net", "dvg_diffusion")
        )
        yield Claim(f"{setting}: X2CT-CNN beats X2CT-GAN in distortion", cnn, gan, ("psnr", "ssim"))
        yield Claim(f"{setting}: X2CT-GAN beats X2CT-CNN in perception", gan, cnn, ("lpips",))
        yield Claim(f"{setting}: DVG-Net beats DVG-Diffusion in distortion", net, full, ("psnr", "ssim"))
        yield Claim(f"{setting}: DVG-Diffusion beats DVG-Net in perception", full, net, ("lpips",))


def _fig_5(rows: Sequence[Row]) -> Iterator[Claim]:
    for near in (r for r in rows if r.label == "VPGE-Diffusion, 90 degrees" and len(r.angles) > 1):
        far = _pick(rows, label="VPGE-Diffusion, 360 degrees", setting=near.setting)
        few = len(near.angles) < 10
        better, worse = (near, far) if few else (far, near)
        yield Claim(f"{near.setting}: {90 if few else 360} degrees beat {360 if few else 90}", better, worse)


_CLAIMS = {"I": _table_1, "II": _table_2, "V": _table_5, "VI": _table_6, "VII": _table_7, "fig5": _fig_5}
