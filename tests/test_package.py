"""The house's own rules: who may import whom, how long, and at what cost."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import pyro_vae

PACKAGE = Path(pyro_vae.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))
CODE = [*FILES, *sorted((ROOT / "scripts").rglob("*.py"))]
LIBRARY = {
    "by_hand": set(),
    "data": {"files", "machine"},
    "figures": {"evaluation", "parts", "vae"},
    "files": set(),
    "machine": set(),
    "parts": set(),
    "randomness": set(),
    "svi": {"files"},
    "pair": {"parts"},
    "inference": {"pair", "svi"},
    "vae": {"inference", "pair", "parts"},
    "objectives": {"parts", "svi", "vae"},
    "evaluation": {"inference", "parts", "randomness", "svi", "vae"},
    "config": {"inference", "machine", "objectives", "parts", "vae"},
    "runs": {"config", "data", "files", "parts", "vae"},
    "explorer": {"data", "evaluation", "parts", "randomness", "vae"},
    "training": {
        "config",
        "data",
        "evaluation",
        "objectives",
        "parts",
        "randomness",
        "runs",
        "svi",
        "vae",
    },
}
IMPORTS = {**LIBRARY, "cli": set(LIBRARY), "__main__": {"cli"}}


def module_name(path: Path) -> str:
    """Returns the dotted name of a file of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in FILES}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yields the package's modules that a file imports, and if at its top."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            base = node.module or ""
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                names.append(whole if whole in MODULES else base)
        for name in names:
            if name.split(".")[0] == "pyro_vae":
                yield name, node in tree.body


def part(name: str) -> str:
    """Returns the top-level module or package that a name lies in."""
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("name", [n for n in MODULES if part(n)])
def test_imports_run_one_way(name):
    for target, is_at_top in imports(MODULES[name]):
        assert is_at_top, f"{name} defers its import of {target}"
        allowed = IMPORTS[part(name)] | {part(name)}
        if part(name) == "__main__" and not part(target):
            continue  # the version
        assert part(target) in allowed, f"{name} imports {target}"


def test_the_rules_have_no_circle():
    assert list(TopologicalSorter(IMPORTS).static_order())


def test_the_files_have_no_circle():
    graph = {
        name: {target for target, _ in imports(path) if target != name}
        for name, path in MODULES.items()
    }
    # A package's own names are imported from its files, and not the reverse.
    assert list(TopologicalSorter(graph).static_order())


def test_the_house_is_small():
    rooms = [
        entry
        for entry in PACKAGE.iterdir()
        if not entry.name.startswith("__") and entry.name != "py.typed"
    ]
    assert len(rooms) <= 18
    for path in CODE:
        text = path.read_text()
        assert len(text.splitlines()) <= 320, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                length = node.end_lineno - node.lineno + 1
                assert length <= 45, f"{path}:{node.lineno} {node.name}"


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


def test_names_of_the_version_before_warn():
    with pytest.warns(DeprecationWarning, match="is now pyro_vae.LaplacePrior"):
        assert pyro_vae.Laplace is pyro_vae.LaplacePrior
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = pyro_vae.Nonsense


def test_no_public_name_hides_one_of_torchs_or_pyros():
    import pyro.distributions as dist
    from torch import distributions, nn

    classes = [n for n in pyro_vae.__all__ if n[0].isupper()]
    for theirs in (dist, distributions, nn):
        assert not set(classes) & set(dir(theirs)), theirs


def test_no_line_is_longer_than_80_characters():
    for folder in ("pyro_vae", "scripts", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            lines = path.read_text().splitlines()
            assert max(map(len, lines), default=0) <= 80, path


@pytest.mark.xdist_group("one worker")
def test_groups_of_tests_run_in_one_worker(request):
    """Fixtures that take minutes are made once."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        pytest.skip("there are no workers")
    assert request.node.nodeid.endswith("@one worker")
