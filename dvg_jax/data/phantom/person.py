"""Draw the numbers by which one chest differs from the next, and which findings it has.

Numbers are log-normal: most people are alike and a few are far off, mostly to one side. Findings are rare. Both hang
together: the old have bent spines and hard arteries, the obese short lungs, the ill several findings at once. Shares of
findings are those of patients who are X-rayed or scanned, see ``docs/phantom.md``.
"""

from math import prod
from statistics import NormalDist
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from dvg_jax.shapes import Key

Sizes = tuple[float, float, float]
"""It holds what 2.5, 50 and 97.5 % stay below."""

NUMBERS: dict[str, Sizes] = {
    "scale": (0.9, 1.0, 1.1),
    "turn": (-0.15, 0.0, 0.15),  # radians about the foot-head axis
    "tilt": (-0.08, 0.0, 0.1),  # about the right-left axis
    "roll": (-0.04, 0.0, 0.04),  # about the front-back axis
    "shift_d": (-18.0, 0.0, 18.0),
    "shift_h": (-16.0, 0.0, 16.0),
    "shift_w": (-16.0, 0.0, 16.0),
    "fat": (4.0, 14.0, 40.0),  # subcutaneous, mm
    "muscle": (6.0, 10.0, 17.0),  # over the rib cage, mm
    "breast": (12.0, 24.0, 52.0),  # thickness of a woman's, mm
    "cage_w": (120.0, 136.0, 154.0),  # half width of the rib cage, mm
    "cage_h": (80.0, 96.0, 116.0),  # half depth
    "lung_length": (205.0, 262.0, 310.0),  # apex to the lowest recess, mm
    "taper": (0.1, 0.23, 0.4),  # share of its depth that the chest loses towards the apex
    "kyphosis": (12.0, 24.0, 48.0),  # how far the spine bows backwards, mm
    "dome_drop": (2.0, 12.0, 30.0),  # how much lower the left hemidiaphragm is, mm
    "dome_depth": (26.0, 44.0, 66.0),  # from the domes to the recesses, mm
    "heart": (0.84, 1.0, 1.2),
    "heart_shift": (-14.0, 0.0, 12.0),  # mm to the left
    "aorta": (11.0, 13.5, 20.0),  # radius, mm
    "lung_hu": (-895.0, -845.0, -690.0),
    "gradient": (0.0, 0.3, 1.2),  # HU a mm towards where blood settles
    "texture": (8.0, 20.0, 60.0),  # HU
    "vessels": (0.75, 1.0, 1.4),  # radius, relative
    "bone": (0.55, 0.9, 1.2),
    "rib_slope": (45.0, 68.0, 95.0),  # drop of a rib from spine to front, mm
    "rib_phase": (-1.0, 0.0, 1.0),
    "enhancement": (50.0, 140.0, 320.0),  # HU that a contrast agent adds to blood
    "bubble": (8.0, 20.0, 50.0),  # radius of the stomach's air, mm
    "over": (6.0, 24.0, 70.0),  # what a scan shows beyond the lungs, upwards, mm
    "under": (8.0, 30.0, 80.0),  # downwards
    "field": (152.0, 185.0, 250.0),  # radius of the scanner's field, mm
    "noise": (4.0, 11.0, 40.0),  # HU in voxels of 2.5 mm
}

FINDINGS: dict[str, float] = {
    # Shares of people. First what is no disease.
    "contrast": 0.45,
    "upright": 0.25,  # the others lie on their back
    "arms_down": 0.25,
    "scanned": 0.6,  # shown as far as a CT scan reaches; the others as far as the cube does
    "nodules": 0.35,
    "mass": 0.07,
    "consolidation": 0.15,
    "ground_glass": 0.1,
    "bullae": 0.06,
    "emphysema": 0.12,
    "fibrosis": 0.06,
    "effusion": 0.15,
    "pneumothorax": 0.05,
    "collapse": 0.06,  # a lobe without air or taken out: the dome rises, the mediastinum moves over
    "raised_dome": 0.05,
    "cardiomegaly": 0.1,
    "hernia": 0.06,
    "scoliosis": 0.1,
    "calcification": 0.28,
    "pacemaker": 0.05,
    "wires": 0.05,
    "rods": 0.01,
    "prosthesis": 0.02,
}

LOADS: dict[str, dict[str, float]] = {
    # Correlation of what is drawn with three things that are not shown themselves.
    "habitus": {
        "fat": 0.85, "breast": 0.5, "cage_w": 0.4, "cage_h": 0.5, "lung_length": -0.45, "heart": 0.4,
        "cardiomegaly": 0.3, "hernia": 0.3, "muscle": 0.3,
    },
    "age": {
        "kyphosis": 0.6, "bone": -0.7, "aorta": 0.6, "calcification": 0.7, "emphysema": 0.3, "nodules": 0.3,
        "hernia": 0.4, "pacemaker": 0.5, "wires": 0.4, "prosthesis": 0.4, "cage_h": 0.2, "cardiomegaly": 0.3,
    },
    "illness": {
        "effusion": 0.6, "consolidation": 0.5, "collapse": 0.5, "mass": 0.4, "ground_glass": 0.3, "cardiomegaly": 0.3,
        "lung_hu": 0.3, "raised_dome": 0.2, "upright": -0.2, "arms_down": 0.4, "pneumothorax": 0.2,
    },
}  # fmt: skip

LIMIT = 2.6
"""Numbers stay within so many standard deviations before they are made skew, so that organs keep their order."""

CHANCES = 36
"""Each number and finding has so many further draws, since four nodules need nine each."""

POSE = ("turn", "tilt", "roll", "shift_d", "shift_h", "shift_w")

_NAMES = [*NUMBERS, *FINDINGS]


class Person(NamedTuple):
    """Hold one draw.

    Attributes:
      numbers: those of ``NUMBERS`` and what follows from them, each a scalar, also an attribute each.
      has: 1 or 0 for each of ``FINDINGS``.
      female: 1 or 0.
      chances: between 0 and 1, a row for each number and finding; see :meth:`draws`.
      key: for the rest of the drawing.
    """

    numbers: dict[str, Array]
    has: dict[str, Array]
    female: Array
    chances: Float[Array, "names draws"]
    key: Key

    def __getattr__(self, name: str) -> Array:
        try:
            return self.numbers[name]
        except KeyError:
            raise AttributeError(name) from None

    def draws(self, name: str, *shape: int) -> Array:
        """Return further numbers, between 0 and 1, that belong to one number or finding alone."""
        return self.chances[_NAMES.index(name), : prod(shape)].reshape(shape)

    def side(self, finding: str) -> Array:
        """Return the side of a finding: -1 right, 1 left, with equal chances."""
        return jnp.where(self.draws(finding, 1)[0] < 0.5, -1.0, 1.0)


def draw_person(key: Key, plain: bool = False) -> Person:
    """Draw a person, a woman with probability one half; with ``plain`` one without findings, straight and centred."""
    key_normal, key_sex, key_chances, key_rest = jax.random.split(key, 4)
    chances = jax.random.uniform(key_chances, (len(_NAMES), CHANCES))
    loads = np.array([[LOADS[factor].get(name, 0.0) for name in _NAMES] for factor in LOADS])
    normal = jax.random.normal(key_normal, (len(LOADS) + len(_NAMES),))
    normal = normal[: len(LOADS)] @ loads + normal[len(LOADS) :] * np.sqrt(1 - (loads**2).sum(axis=0))
    percentiles = np.array(list(NUMBERS.values()), np.float32).T
    numbers = _skewed(jnp.clip(normal[: len(NUMBERS)], -LIMIT, LIMIT), percentiles)
    least = np.array([NormalDist().inv_cdf(1 - share) for share in FINDINGS.values()])
    found = (normal[len(NUMBERS) :] > least).astype(jnp.float32)
    drawn, has = dict(zip(NUMBERS, numbers, strict=True)), dict(zip(FINDINGS, found, strict=True))
    if plain:
        drawn, has = drawn | dict.fromkeys(POSE, jnp.zeros(())), dict.fromkeys(FINDINGS, jnp.zeros(()))
    female = jax.random.bernoulli(key_sex).astype(jnp.float32)
    return with_findings(Person(drawn, has, female, chances, key_rest), has)


def with_findings(person: Person, has: dict[str, Array]) -> Person:
    """Return a person as drawn, with other findings and all that follows from these and from sex."""
    drawn, person = person.numbers, person._replace(has=has)
    moved = _size(person, "collapse", (14.0, 30.0, 60.0))
    raised = _size(person, "raised_dome", (20.0, 34.0, 70.0))
    depth = drawn["dome_depth"] * (1 - 0.4 * has["emphysema"])
    base = -drawn["lung_length"] / 2
    dome = base + 1.6 * depth
    numbers = drawn | {
        "size": drawn["scale"] * (1.02 - 0.06 * person.female),
        "top": drawn["lung_length"] / 2,
        "base": base,
        "depth": depth,
        "dome": dome,
        "right_dome": dome + _on(-1.0, person, "collapse", moved) + _on(-1.0, person, "raised_dome", raised),
        "left_dome": dome - drawn["dome_drop"] + _on(1.0, person, "collapse", moved)
        + _on(1.0, person, "raised_dome", raised),
        "shift": 0.6 * moved * person.side("collapse"),  # of the mediastinum, mm to the left
        "bend": _size(person, "scoliosis", (6.0, 12.0, 32.0)) * person.side("scoliosis"),  # mm to the left
        "heart_size": drawn["heart"] * (1 + has["cardiomegaly"] * (0.14 + 0.22 * person.draws("cardiomegaly", 2)[1])),
        "contrast": has["contrast"] * drawn["enhancement"],
        "arm": 1 - has["arms_down"],
    }  # fmt: skip
    return person._replace(numbers=numbers)


def skewed_size(share: Array, sizes: Sizes) -> Array:
    """Return the size below which a share of findings stays, 2.5, 50 and 97.5 % of them below ``sizes``."""
    return _skewed(jax.scipy.special.ndtri(jnp.clip(share, 0.005, 0.995)), np.array(sizes, np.float32))


def _size(person: Person, finding: str, sizes: Sizes) -> Array:
    return person.has[finding] * skewed_size(person.draws(finding, 2)[1], sizes)


def _on(side: float, person: Person, finding: str, size: Array) -> Array:
    return jnp.where(person.side(finding) == side, size, 0.0)


def _skewed(normal: Array, percentiles: Float[np.ndarray, "3 *numbers"]) -> Array:
    """Return shifted log-normal numbers with these 2.5, 50 and 97.5 percentiles for standard normal ones."""
    end, (low, typical, high) = 1.96, percentiles
    skew = np.log((high - typical) / (typical - low)) / end
    skew = np.where(np.abs(skew) < 1e-3, np.float32(1e-3), skew)  # percentiles that lie evenly
    return typical + (high - typical) * jnp.expm1(skew * normal) / np.expm1(skew * end)
