"""The house's own rules: who may import whom, and at what cost."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_vae

PACKAGE = Path(pyro_vae.__file__).parent
LEAVES = {
    "networks",
    "distributions",
    "flows",
    "clustering",
    "estimators",
    "data",
    "figures",
    "checkpoints",
    "randomness",
}
IMPORTS = {
    **{leaf: set() for leaf in LEAVES},
    "priors": {"networks", "distributions", "flows"},
    "likelihoods": {"networks"},
    "guides": {"networks", "distributions", "flows"},
    "gradients": {"distributions"},
    "pair": {"distributions"},
    "vae": {"pair", "gradients", "distributions", "checkpoints"},
    "objectives": {
        "vae",
        "gradients",
        "config",
        "building",
        "schedules",
        "distributions",
    },
    "traces": {"checkpoints"},
    "schedules": {"traces"},
    "presets": {"config"},
    "inference": {"vae", "svi"},
    "evaluation": {"vae", "svi", "randomness", "distributions", "inference"},
    "svi": set(),
    "config": {"distributions"},
    "building": {
        "config",
        "vae",
        "inference",
        "priors",
        "likelihoods",
        "guides",
        "gradients",
        "networks",
    },
    "training": {
        "inference",
        "schedules",
        "svi",
        "objectives",
        "evaluation",
        "clustering",
        "traces",
        "randomness",
        "data",
        "checkpoints",
        "config",
        "vae",
    },
}
DEFERRED = {("vae", "config"), ("vae", "building")}  # VAE.load


def imports(path: Path) -> set[tuple[str, bool]]:
    """The package's modules that a file imports, and whether at its top."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree):
        top = node in tree.body
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "pyro_vae":
            names = [f"pyro_vae.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        found |= {
            (name.split(".")[1], top)
            for name in names
            if name.startswith("pyro_vae.")
        }
    return found


@pytest.mark.parametrize(
    "path",
    [
        p
        for p in sorted(PACKAGE.rglob("*.py"))
        if p.parent != PACKAGE or p.stem != "__init__"
    ],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_imports_run_one_way(path):
    """A package counts as one module, whose files import each other freely."""
    module = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for target, top in imports(path):
        allowed = target in IMPORTS[module] | {module}
        deferred = (module, target) in DEFERRED and not top
        assert allowed or deferred, f"{path} imports {target}"


def test_the_rules_have_no_cycle():
    order: list[str] = []
    while len(order) < len(IMPORTS):
        ready = [
            module
            for module, targets in IMPORTS.items()
            if module not in order and targets <= set(order)
        ]
        assert ready
        order += ready


def test_importing_it_loads_nothing_heavy_beside_pyro():
    code = (
        "import sys, pyro; before = set(sys.modules); import pyro_vae; "
        "print(*{m.split('.')[0] for m in set(sys.modules) - before})"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    heavy = {"matplotlib", "sklearn", "torchvision", "pandas", "tyro", "scipy"}
    assert not heavy & set(result.stdout.split())


def test_public_names():
    assert all(hasattr(pyro_vae, name) for name in pyro_vae.__all__)
    undocumented = [
        name
        for name in pyro_vae.__all__
        if not (getattr(pyro_vae, name).__doc__ or "").strip()
    ]
    assert not undocumented


def test_no_line_is_longer_than_80_characters():
    root = PACKAGE.parent
    for folder in ("pyro_vae", "scripts", "tests"):
        for path in (root / folder).rglob("*.py"):
            lines = path.read_text().splitlines()
            assert max(map(len, lines)) <= 80, path
