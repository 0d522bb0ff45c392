"""Define what a method is, and the titles by which tables and files know it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from dvg_jax.shapes import Key, NewViews, VariablesByStage, Views, Volumes

MEAN, ANOTHER, LINEAR = "mean training volume", "CT of another patient", "linear estimate"
"""The yardsticks have these titles and no network. The first two use no X-ray."""

CODEC = "CT VQGAN of the truth"
DVG_NET, DVG_FULL = "DVG-Net", "DVG-Diffusion"

AGREEMENTS = {"films": "consistency", "refine": "refiner"}
"""The title of a row is extended by this where ``DVG.agree`` has changed the method's CTs in that mode."""


def agreeing(title: str, mode: str) -> str:
    """Return the title of the row of a method whose CTs are made to agree with their X-rays."""
    return f"{title} + {AGREEMENTS[mode]}"


class Prediction(NamedTuple):
    """Hold the prediction of a method for a batch.

    Attributes:
      ct: CTs (B, D, H, W, 1) in [0, 1]; None for a view synthesiser.
      views: X-rays (B, V_new, h, w, 1) at ``dvg.new_angles``; None unless the method is measured by them.
      first: DVG-Net's CTs that ``ct`` was made from, for the refiner; None where there are none.
    """

    ct: Volumes | None
    views: NewViews | None = None
    first: Volumes | None = None


@dataclass(frozen=True)
class Method:
    """Describe a way from X-rays to a CT or to new views.

    Attributes:
      title: in tables.
      requires: stages whose variables are read, in the order of training.
      predict: (variables by stage, views (B, V, h, w, 1) in [0, 1] at ``dvg.angles``, key) -> prediction. A method that
        draws nothing ignores the key.
      sees_truth: ``predict`` gets the true CTs (B, D, H, W, 1) instead of views: no reconstruction.
      agrees: modes of ``DVG.agree``, in each of which the same CTs are measured too, as a row of its own.
    """

    title: str
    requires: tuple[str, ...]
    predict: Callable[[VariablesByStage, Views | Volumes, Key], Prediction]
    sees_truth: bool = False
    agrees: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[str, ...]:
        """Return the titles of all rows that the method has in a table of CTs."""
        return (self.title, *(agreeing(self.title, mode) for mode in self.agrees))
