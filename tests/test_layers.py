"""The layers of the package hold: a module imports from its own layer and from lower ones, and never in a circle."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = (
    (
        *("shapes", "errors", "finite", "fingerprint", "plugins", "xla_flags", "runtime", "devices", "keys"),
        *("files", "cli"),
    ),
    ("ct",),
    ("viz", "xray"),
    ("networks",),
    ("diffusion", "latents", "imperfections", "alignment", "film_curve", "consistency", "refinement"),
    ("dvg",),
    ("data",),
    ("metrics",),
    ("calibration",),
    ("stages",),
    ("baselines",),
    ("config",),
    ("methods",),
    ("training",),
    ("report",),
    ("evaluate", "reconstruct", "torch_import"),
    ("experiments",),
)
"""From the ground up; ``docs/architecture.md`` lists the same. Names are modules and packages of ``dvg_jax``."""

COMMANDS = {
    "data.prepare", "data.drr", "metrics.compare", "metrics.paired", "training.command", "evaluate.command",
    "reconstruct.command", "experiments.command", "torch_import.command",
}  # fmt: skip
"""Modules that define a command. No other module imports one."""

PURE = {"xray", "networks", "diffusion", "data"}
"""Layers that know nothing of trained models: neither the method nor what lies above it."""

RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


@cache
def imports() -> dict[str, frozenset[str]]:
    """Return, for each module, the modules of the package that it imports at any place in its code."""
    paths = {_name(path): path for path in (ROOT / "dvg_jax").rglob("*.py")}
    found = {}
    for name, path in paths.items():
        wanted: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names if alias.name.split(".")[0] == "dvg_jax"}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dvg_jax":
                full = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
                wanted |= {f if f in paths else str(node.module) for f in full.values()}
        found[name] = frozenset(wanted - {name})
    return found


def test_every_module_has_a_layer():
    parts = {name.split(".")[1] for name in imports() if "." in name}
    assert parts == set(RANK)


def test_the_page_lists_the_same_layers():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\d+\. ((?:`\w+`(?:,\s+)?)+)", page.split("## Layers")[1].split("\n## ")[0], re.MULTILINE)
    assert [tuple(re.findall(r"\w+", line)) for line in lines] == list(LAYERS)


def test_nothing_imports_upward():
    upward = [
        f"{name} -> {other}"
        for name, others in imports().items()
        for other in others
        if "." in name and "." in other and RANK[other.split(".")[1]] > RANK[name.split(".")[1]]
    ]
    assert not upward


def test_what_networks_and_data_are_built_on_knows_no_model():
    models = RANK["dvg"]
    known = [
        f"{name} -> {other}"
        for name, others in imports().items()
        for other in others
        if name.split(".")[1:2] and name.split(".")[1] in PURE and "." in other
        if RANK[other.split(".")[1]] >= models and other.split(".")[1] not in PURE
    ]
    assert not known


def test_packages_form_no_circle():
    between: dict[str, set[str]] = {}
    for name, others in imports().items():
        if "." in name:
            part = name.split(".")[1]
            between.setdefault(part, set()).update(
                o.split(".")[1] for o in others if "." in o and o.split(".")[1] != part
            )
    while free := [part for part, wanted in between.items() if not wanted & between.keys()]:
        for part in free:
            del between[part]
    assert not between


def test_modules_form_no_circle():
    left = {name: set(others) for name, others in imports().items()}
    # A package's own __init__ imports its modules, and Python runs it before each of them.
    for name, others in left.items():
        others -= {package for package in others if name.startswith(f"{package}.")}
    while free := [name for name, wanted in left.items() if not wanted & left.keys()]:
        for name in free:
            del left[name]
    assert not left


def test_nothing_imports_the_root_of_the_package():
    assert not [name for name, others in imports().items() if "dvg_jax" in others]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_nothing_imports_a_command(command: str):
    # A command is found by its name when it is run, so that the process is set up before JAX is loaded.
    assert not [name for name, others in imports().items() if f"dvg_jax.{command}" in others]


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
