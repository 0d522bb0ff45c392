"""X-rays to a CT:

python reconstruct.py --workdir runs/demo --xray ap.png@0 --xray lat.png@90 --output ct.nii.gz
"""

from dvg_jax.cli.entry import run_module

if __name__ == "__main__":
    run_module("dvg_jax.reconstruct.command")
