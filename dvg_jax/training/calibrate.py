"""Calibrate a trained model's errors on cases kept aside, and store the quantiles beside its stages.

<workdir>/calibration.json        quantiles of |error|, the cases, and the stages and the way of sampling of the results

The cases are those of split ``val``, which no stage is trained on and no test reads. Their films are as imperfect as
those of the training.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from tqdm import tqdm

from dvg_jax.calibration import LEAST, SHARES, Calibration, Errors, ray_support, way_of
from dvg_jax.config import CALIBRATION
from dvg_jax.config.build import required_stages
from dvg_jax.ct.intensity import intensity_to_hu
from dvg_jax.data.manifest import read_manifest
from dvg_jax.data.mixture import Joined
from dvg_jax.data.opening import PHANTOM, folders_of, named_sources
from dvg_jax.data.sources import PhantomSource, PreparedSource, Source
from dvg_jax.dvg import DVG
from dvg_jax.files.atomic import replacing
from dvg_jax.keys import named
from dvg_jax.shapes import Key, VariablesByStage, Views
from dvg_jax.training.checkpoint import load_facts
from dvg_jax.training.distributed import is_first, leave_if_asked
from dvg_jax.training.stop import StopRequest
from dvg_jax.training.workdir import finished_steps, load_stages, model_folder


class KeptAside(NamedTuple):
    """Hold the cases of a calibration: ``phantoms`` or ``scans``, and their places in ``source``."""

    kind: str
    source: Source
    places: list[int]


def kept_aside(config: ConfigDict) -> KeptAside:
    """Open the cases that ``config.data.source`` keeps aside: a scan of each patient in split ``val`` of its folders.

    Where those are too few for any guarantee and the source has phantoms, ``config.calibration.cases`` of these.
    """
    text, size = config.data.source, config.size
    folders = [f for f in folders_of(text) if any(r.status == "ok" and r.split == "val" for r in read_manifest(f))]
    scans = Joined([PreparedSource(folder, "val", size) for folder in folders])
    places = [scans.patients.index(patient) for patient in dict.fromkeys(scans.patients)]
    if len(places) < LEAST and any(source.name == PHANTOM for source in named_sources(text)):
        count = config.calibration.cases
        return KeptAside("phantoms", PhantomSource(count, size, config.seed, "val"), list(range(count)))
    return KeptAside("scans", scans, places)


def calibrate(config: ConfigDict, dvg: DVG, workdir: Path, stop: StopRequest) -> None:
    """Calibrate a folder whose stages are all trained, unless that is done; say so where cases are too few.

    Every process does all of it, and the first one writes. A run that is stopped here begins it again.

    Args:
      config: of the run; ``config.calibration.cases`` 0 leaves it out.
      dvg: the method that the config describes.
      workdir: the working folder.
      stop: is asked between two cases.
    """
    needed = required_stages(config)
    if not config.calibration.cases or not all(finished_steps(config, workdir, name) for name in needed):
        return
    found = load_calibration(config, workdir)
    wanted = {"way": way_of(dvg, dvg.angles), "films": asdict(dvg.imperfections)}
    if isinstance(found, Calibration) and {name: found.facts.get(name) for name in wanted} == wanted:
        return
    cases = kept_aside(config)
    if len(cases.places) < LEAST:
        print(
            f"no error map: {len(cases.places)} patients in split 'val' of {config.data.source}; allowed: {LEAST} or "
            "more, by dvg_jax.data.prepare --val_fraction, or config.calibration.cases 0",
            file=sys.stderr,
        )
        return
    variables = jax.device_put(load_stages(config, workdir, needed, wanted_by="calibration"))
    samples = config.calibration.samples if dvg.use_diffusion else 1
    errors = Errors(ray_support(dvg.angles, dvg.geometry), samples > 1)
    key = named(jax.random.key(config.seed), "calibration")
    for place in tqdm(cases.places, desc="calibration", disable=not is_first(), dynamic_ncols=True):
        leave_if_asked(stop, "calibration: the next run begins it again")
        own = jax.random.fold_in(key, place)
        keys = jax.random.split(own, samples)
        ct = cases.source[place]["ct"]
        views = dvg.films(jnp.asarray(ct)[None], dvg.angles, named(own, "films"))
        drawn = intensity_to_hu(_samples(dvg, variables, views, keys, config.evaluate.batch_size))
        errors.add(drawn[0], intensity_to_hu(ct[..., 0]), drawn.std(axis=0, ddof=1) if samples > 1 else None)
    facts = {
        "cases": len(cases.places),
        "kind": cases.kind,
        "samples": samples,
        **wanted,
        "stages": _stages(config, workdir),
    }
    if is_first():
        table = {"shares": SHARES, "quantiles_hu": [level.tolist() for level in errors.quantiles()]}
        with replacing(workdir / CALIBRATION) as part:
            part.write_text(json.dumps(facts | table) + "\n", encoding="utf-8")


def load_calibration(config: ConfigDict, workdir: Path) -> Calibration | str:
    """Read a folder's calibration; where it has none of the stages that are there now, return the reason.

    Args:
      config: of the run.
      workdir: the working folder.
    """
    path = workdir / CALIBRATION
    if not path.is_file():
        return f"{path} is missing: its model is not calibrated (train.py does it, also to a folder trained before)"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        quantiles, stages = [np.array(level) for level in facts.pop("quantiles_hu")], facts["stages"]
    except (ValueError, KeyError) as error:
        return f"{path} cannot be read: {error} (train.py makes it anew)"
    if stages != _stages(config, workdir):
        return f"{path} is of other stages than {workdir} holds now (train.py makes it anew)"
    return Calibration(quantiles, facts)


def _stages(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Return the digest of each stage that a result is made by."""
    folders = {name: model_folder(config, workdir, name) for name in required_stages(config)}
    return {name: load_facts(place).get("fingerprint") for name, place in folders.items() if place.is_dir()}


def _samples(
    dvg: DVG, variables: VariablesByStage, views: Views, keys: Key, batch: int
) -> Float[np.ndarray, "K D H W"]:
    """Return samples of the result from the films of a case, a key each."""
    parts = [keys[i : i + batch] for i in range(0, len(keys), batch)]
    return np.concatenate([dvg.reconstruct(variables, views, dvg.angles, part)[..., 0] for part in parts])
