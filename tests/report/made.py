"""A page whose every voxel is known, with text that would run if it were not escaped."""

import numpy as np

from dvg_jax.ct.frame import frame_affine
from dvg_jax.report import Case, Difference, Film, Layer, Page, Picture, Table

SHAPE = (12, 10, 8)
SPACING = (3.0, 2.0, 4.0)
HOSTILE = "<script>window.ran = 1</script>\"><img src=x onerror='window.ran = 1'></script>$title.png"


def hu(case: int = 0) -> np.ndarray:
    """Every voxel has a value of its own, within the range of a CT."""
    return np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE) - 500 + 100 * case


def a_page(text: str = "film.png", cases: int = 2) -> Page:
    """``text`` stands wherever a file name or tag may."""
    ramp = np.linspace(0, 1, 16 * 12).reshape(16, 12).astype(np.float32)
    unseen = np.zeros(SHAPE, bool)
    unseen[0] = True
    film = Film(text, ramp, ramp[::-1], np.tile(ramp, (2, 2)), (4.0, 2.0, 28.0, 20.0), {text: [{"box": text}, 1.5]})
    made = [
        Case(
            f"{text} {number}",
            frame_affine(SHAPE, SPACING),
            (
                Layer("result", hu(number)),
                Layer("spread", np.full(SHAPE, 12.0), "amount"),
                Layer("truth", hu(number)[::-1]),
                Difference("error of result", "result", "truth"),
            ),
            unseen,
            (film,),
            (Picture(text, ramp),),
            Table(text, ["", "psnr"], [[text, "20.00"]]),
        )
        for number in range(cases)
    ]
    table = Table(text, ["", text], [["a", "b"]])
    return Page(text, tuple(made), {"seed": 3, text: {"nested": text}}, (text,), (table,))
