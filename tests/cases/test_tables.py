"""A table of evaluate.py that is damaged, in another encoding or empty is refused in one line."""

import pytest

from dvg_jax.metrics.paired import main


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ("method,case,psnr\nDVG,0,20\n".encode("utf-16"), "cannot be read as CSV"),
        ("method,case,patient\nDVG,0,M\xfcller\n".encode("latin-1"), "cannot be read as CSV"),
        (b"method,case,psnr\nDVG,0,20,7\n", "line 2 has more cells than columns"),
        (b"method,case,psnr\n", "holds no case"),
        (b'method,case,psnr\nDVG,0,"20\n', "cannot be read as CSV"),
    ],
)
def test_a_table_that_is_none(fails, tmp_path, held, said):
    (tmp_path / "a.csv").write_bytes(held)
    assert said in fails(main, f"--a={tmp_path / 'a.csv'}", "--method-a=DVG", "--method-b=DVG")
