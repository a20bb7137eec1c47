"""The README's and the docs' commands, code, links and names are true."""

import ast
import functools
import math
import re
import runpy
import shlex
from pathlib import Path

import pandas as pd
import pytest
import torch

from pyro_vae.objectives import list_analytic_pairs
from tests.test_scripts import run

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "results" / "reference"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(), re.S | re.M
    )


def run_python(page: Path) -> dict:
    torch.set_default_dtype(torch.float32)
    scope: dict = {}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), scope)
    return scope


def test_the_readmes_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = run_python(ROOT / "README.md")
    assert scope["images"].shape == (9, 784)
    assert (tmp_path / "results" / "my-vae" / "model.safetensors").exists()


def test_the_compiled_steps_python_runs():
    losses = run_python(ROOT / "docs" / "compiled.md")["losses"]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_the_familys_python_runs():
    assert math.isfinite(run_python(ROOT / "docs" / "family.md")["loss"])


@functools.cache
def help_of(script: str) -> str:
    return run(ROOT, script, "--help").stdout


def test_the_readmes_commands_parse():
    """Every script and flag in the README exists (--help takes them all)."""
    lines = [
        line
        for page in PAGES
        for block in blocks(page, "sh")
        for line in block.splitlines()
        if "scripts/" in line
    ]
    assert lines
    for line in lines:
        words = shlex.split(line.split("&&")[-1])
        assert (ROOT / words[1]).is_file(), line
        helped = help_of(Path(words[1]).name)
        flags = [word for word in words if word.startswith("--")]
        assert all(flag in helped for flag in flags), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    for target in targets:
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def table_after(page: str, words: str) -> list[list[str]]:
    """The cells of the first table below some words: names, then rows."""
    text = (ROOT / "docs" / page).read_text().split(words, 1)[1]
    lines = re.search(r"(^\|.*\n)+", text, re.M).group().splitlines()
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in lines]
    return [cells[0], *cells[2:]]


def test_the_table_of_closed_forms():
    names, *rows = table_after("family.md", "The KL has a closed form here")
    said = {row[0]: dict(zip(names[1:], row[1:], strict=True)) for row in rows}
    for (prior, guide), is_analytic in list_analytic_pairs().items():
        of_prior = said.get(prior, said["any other"])
        assert of_prior.get(guide, "no") == ("yes" if is_analytic else "no")


def test_the_side_by_side_tables():
    """Each cell is the summary's, and each pair of the summary is there."""
    summary = pd.read_csv(REFERENCE / "family" / "summary.csv")
    said = [
        row
        for words in ("Priors, each with", "Guides, each with")
        for row in table_after("family.md", words)[1:]
    ]
    pairs = [(row["prior"], row["guide"]) for row in summary.to_dict("records")]
    named = [(prior, "normal") for prior, *_ in said[: len(said) - 3]]
    named += [("normal", guide) for guide, *_ in said[-3:]]
    assert set(named) == set(pairs) and len(pairs) == 8
    rows = summary.set_index(["prior", "guide"])
    for pair, (_, *cells) in zip(named, said, strict=True):
        for name, cell in zip(
            ("test_elbo", "log_marginal_likelihood"), cells, strict=True
        ):
            mean, error = rows.loc[pair, [name, f"{name}_standard_error"]]
            assert cell == f"{mean:.1f} ± {error:.1f}", pair


def test_the_numbers_of_the_presets_runs():
    trace = pd.read_csv(REFERENCE / "pyro-example" / "elbo.csv")
    for epoch, cell, _ in table_after("family.md", "### Pyro's example")[1:]:
        elbo = trace.set_index("epoch")["test_elbo"][int(epoch)]
        assert cell.startswith(f"[{elbo:.2f}]")
    for k, cell, _, samples in table_after("family.md", "# The importance-w")[
        1:
    ]:
        path = REFERENCE / "iwae-2015" / f"k{k}" / "evaluation.csv"
        found = pd.read_csv(path).set_index("what").loc["importance"]
        said = f"[{found['value']:.2f} ± {found['standard_error']:.2f}]"
        assert cell.startswith(said)
        assert samples == f"{found['effective_sample_size']:.1f}"


def test_the_page_of_combinations_is_its_table(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    page = runpy.run_path(str(ROOT / "scripts" / "combinations.py"))["page"]
    table = pd.read_csv(REFERENCE / "combinations.csv")
    text = (ROOT / "docs" / "combinations.md").read_text()
    assert text == page(table, epochs=4)


def test_the_derivations_name_code_and_tests_that_exist():
    text = (ROOT / "docs" / "derivations.md").read_text()

    def functions(path):
        tree = ast.parse((ROOT / path).read_text())
        return {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}

    code = functions("pyro_vae/estimators.py")
    tests = functions("tests/test_estimators.py")
    lines = re.findall(r"^- (Code|Tests?): (.*?)\n(?=\n|- )", text, re.S | re.M)
    assert len(lines) == 10
    for kind, names in lines:
        for name in re.findall(r"`(\w+)`", names):
            assert name in (code if kind == "Code" else tests), name
