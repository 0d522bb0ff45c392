"""Compare the films of one patient, to find swapped views and one film given twice.

One film alone shows its view less clearly than two do: an odd chest or a weak film lowers both of its scores. Both
assignments are scored on the films as given, not inverted: a view under another view's angle can look like its own
negative, and would match once it is inverted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from dvg_jax.ct.frame import HostImage, NewHostImage
from dvg_jax.data.films.frame import NEAR_DEG, NOMINAL, kind_of, working_film
from dvg_jax.data.films.read import Film
from dvg_jax.data.films.search import likeness, readings
from dvg_jax.data.films.template import thorax_template

EXCHANGE_GAIN = 0.06
"""Least difference of summed scores by which one assignment wins.

It is a third of the smallest difference, 0.18, over views of 10 cubes of 5 real CTs and of 16 phantoms, half of them
disturbed, and one pair of real films.
"""
SAME = 0.97
"""Least likeness of two copies of one film.

Of 44 real films, copies as JPEG of quality 30 have at least 0.98, two films of one patient at most 0.90; views of a
phantom 18 degrees apart have 0.96.
"""

Readings = dict[float, tuple[float, float]]
"""Scores of a film as it is and of its negative, by nominal angle in degrees."""


@dataclass
class Verdict:
    """Describe what the other films show about one film.

    Attributes:
      exchanged: True if another film has this one's view, False if each has its own, None where that is not clear.
      warnings: warnings for the user, one line each.
    """

    exchanged: bool | None = None
    warnings: list[str] = field(default_factory=list)


def judge_films(films: Sequence[Film], names: Sequence[str], angles: Sequence[float]) -> list[Verdict]:
    """Judge every film by the others and return one verdict each.

    Args:
      films: films as read, not yet mirrored or inverted. Rendered views state their own angle and are left out.
      names: names of the films for messages.
      angles: angles of their views in degrees.
    """
    verdicts = [Verdict() for _ in films]
    scores: dict[int, Readings] = {}
    for a, b in combinations(range(len(films)), 2):
        if _is_one(films[a].image, films[b].image, angles[a] - angles[b]):
            verdicts[b].warnings.append(f"is the same film as {names[a]}; every view needs a film of its own")
            continue
        rendered = any(films[i].facts.rendered is not None for i in (a, b))
        if rendered or {kind_of(angles[a]), kind_of(angles[b])} != set(NOMINAL):
            continue
        scores |= {i: film_readings(films[i].image) for i in (a, b) if i not in scores}
        frontal, lateral = (a, b) if kind_of(angles[a]) == "frontal" else (b, a)
        verdict, gain = compare_assignments(scores[frontal], scores[lateral])
        if verdict:
            verdicts[a].warnings.append(
                f"the views are swapped: {names[frontal]} looks lateral and {names[lateral]} frontal (by {gain:.2f}); "
                f"exchange them, {names[frontal]}@{angles[lateral]:g} and {names[lateral]}@{angles[frontal]:g}"
            )
        for one in (verdicts[a], verdicts[b]):
            one.exchanged = verdict if one.exchanged is None else one.exchanged or verdict
    return verdicts


def film_readings(image: HostImage) -> Readings:
    """Score how well a film shows the frontal and the lateral view."""
    return readings(working_film(image).inside, {angle: thorax_template(angle)[0] for angle in NOMINAL.values()})


def compare_assignments(frontal: Readings, lateral: Readings) -> tuple[bool | None, float]:
    """Compare two films as they were given with the same two exchanged.

    An assignment wins clearly if its summed score is better by ``EXCHANGE_GAIN``. Each film counts as itself or as its
    negative, whichever scores better, since two negatives left as they are fit neither view. The films as they are
    decide as well, unless the first sum contradicts them.

    Returns:
      True if the exchanged ones are clearly better, False if the given ones are, None otherwise; and the gain of the
      exchanged ones in summed score.
    """
    zero, ninety = NOMINAL["frontal"], NOMINAL["lateral"]
    given = np.array([frontal[zero], lateral[ninety]])
    exchanged = np.array([frontal[ninety], lateral[zero]])
    # A column is (positive, negative); the second gain takes the better of the two for each film.
    as_they_are = float(exchanged[:, 0].sum() - given[:, 0].sum())
    either = float(exchanged.max(axis=1).sum() - given.max(axis=1).sum())
    for verdict, sign in ((True, 1), (False, -1)):
        if sign * either > EXCHANGE_GAIN or (sign * as_they_are > EXCHANGE_GAIN and sign * either > 0):
            return verdict, max(as_they_are, either, key=abs)
    return None, as_they_are


def _is_one(a: HostImage, b: NewHostImage, turned_deg: float) -> bool:
    if a.shape == b.shape and np.array_equal(a, b):
        return True
    # Neighbouring views of one patient are nearly alike.
    apart = abs((turned_deg + 180) % 360 - 180)
    return apart >= NEAR_DEG and likeness(a, b) >= SAME
