"""The notebook of the assignment: its source, its run, and its script."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "notebooks" / "assignment.py"
NOTEBOOK, PDF = SOURCE.with_suffix(".ipynb"), SOURCE.with_suffix(".pdf")
SCRIPT = ROOT / "scripts" / "assignment.py"
ITEMS = ("1a", "1b", "1c", "1d", "2a", "2b", "3a", "3b", "4a", "4b")
WIDTH = 80
CHECKS = 18  # lines of output that compare two results, at least


def read_source() -> list[tuple[str, str]]:
    """Returns the kind and the text of each cell of the percent file."""
    _, *parts = re.split(r"^# %%(.*)\n", SOURCE.read_text(), flags=re.M)
    cells = []
    for tags, text in zip(parts[::2], parts[1::2], strict=True):
        if "[markdown]" in tags:
            text = re.sub(r"^# ?", "", text.strip(), flags=re.M)
            cells.append(("markdown", text))
        else:
            cells.append(("code", text.strip()))
    return cells


def read_notebook(path: Path = NOTEBOOK) -> list[dict]:
    return json.loads(path.read_text())["cells"]


def text_of(cell: dict) -> str:
    return "".join(cell["source"])


def outputs_of(cells: list[dict]) -> str:
    """Returns all text that the code cells printed."""
    return "".join(
        "".join(output["text"])
        for cell in cells
        for output in cell.get("outputs", [])
        if output["output_type"] == "stream"
    )


def assert_whole_run(cells: list[dict]) -> None:
    """Asserts that a notebook was run once, in order, without an error."""
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    counts = [cell["execution_count"] for cell in code]
    assert counts == list(range(1, len(code) + 1))
    kinds = {
        output.get("name", output["output_type"])
        for cell in code
        for output in cell["outputs"]
    }
    assert kinds == {"stdout", "display_data"}
    printed = outputs_of(cells)
    assert len(re.findall(r"\d+e[-+]\d+$", printed, re.M)) >= CHECKS


def test_no_line_of_code_is_longer_than_80_columns():
    code = [text for kind, text in read_source() if kind == "code"]
    assert code
    for text in code:
        assert max(map(len, text.splitlines())) <= WIDTH, text


def test_each_item_has_a_heading_that_the_table_leads_to():
    table, *rest = (text for kind, text in read_source() if kind == "markdown")
    headings = re.findall(r"^#+ (.*)$", "\n".join(rest), re.M)
    for item in ITEMS:
        assert any(h.startswith(f"Problem {item}: ") for h in headings), item
    anchors = {heading.replace(" ", "-") for heading in headings}
    links = dict(re.findall(r"^\[(\w+)\]: #(\S+)$", table, re.M))
    assert {*ITEMS, "infer", "generate", "compute_elbo"} <= set(links)
    for name, anchor in links.items():
        assert anchor in anchors, name
        assert f"[{name}]" in table.split("[1a]: #")[0], name


def test_the_committed_notebook_is_the_source():
    cells = [(c["cell_type"], text_of(c)) for c in read_notebook()]
    assert cells == read_source()


def test_the_committed_notebook_is_a_whole_run():
    cells = read_notebook()
    assert_whole_run(cells)
    printed = outputs_of(cells)
    assert "mnist: 60,000 training and 10,000 test images" in printed
    assert max(map(len, printed.splitlines())) <= WIDTH


def test_the_committed_files_are_small_and_name_no_folder_of_a_machine():
    sizes = [path.stat().st_size for path in (NOTEBOOK, PDF)]
    assert sum(sizes) < 5e6
    assert PDF.read_bytes().startswith(b"%PDF")
    assert not re.search(r"site-packages|/home/|/tmp/", NOTEBOOK.read_text())


def run_script(*words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_programs_that_are_missing_are_named_at_once(monkeypatch):
    check = runpy.run_path(str(SCRIPT))["check_programs"]
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=r"pandoc and xelatex .*texlive-xetex"):
        check("pdf")
    monkeypatch.setitem(sys.modules, "playwright", None)
    with pytest.raises(ValueError, match=r"playwright .*to=html"):
        check("webpdf")
    check("html")
    check("none")


def test_a_library_that_is_missing_is_named(monkeypatch):
    find = runpy.run_path(str(SCRIPT))["import_libraries"]
    monkeypatch.setitem(sys.modules, "ipykernel", None)
    with pytest.raises(ValueError, match=r"ipykernel .*\[notebook\]"):
        find()


def test_a_refused_flag_is_one_sentence():
    done = run_script("--epochs", "0")
    assert done.returncode == 2
    assert done.stderr == "error: --epochs is 0; expected at least 1\n"


@pytest.mark.slow
def test_the_notebook_runs_shortened_and_its_checks_hold(tmp_path):
    pytest.importorskip("jupytext")
    done = run_script(
        *("--dataset", "digits", "--epochs", "1", "--limit", "400"),
        *("--to", "html", "--output", str(tmp_path)),
    )
    assert done.returncode == 0, done.stderr
    cells = read_notebook(tmp_path / "assignment.ipynb")
    assert_whole_run(cells)
    assert "EPOCHS = 1\nLIMIT = 400  #" in text_of(cells[2])
    assert "digits: 400 training" in outputs_of(cells)
    assert "Problem 4b" in (tmp_path / "assignment.html").read_text()


@pytest.mark.slow
def test_without_mnist_and_network_the_digits_stand_in(tmp_path):
    pytest.importorskip("jupytext")
    nowhere = "http://127.0.0.1:9"
    done = run_script(
        *("--epochs", "1", "--limit", "200", "--to", "none"),
        *("--output", str(tmp_path)),
        PYRO_VAE_DATA=str(tmp_path / "data"),
        http_proxy=nowhere,
        https_proxy=nowhere,
    )
    assert done.returncode == 0, done.stderr
    printed = outputs_of(read_notebook(tmp_path / "assignment.ipynb"))
    assert "digits of scikit-learn stand in" in printed


@pytest.mark.slow
def test_ctrl_c_while_cells_run_ends_it_with_a_sentence(tmp_path):
    pytest.importorskip("jupytext")
    log = tmp_path / "log"
    words = ("--dataset", "digits", "--to", "none", "--output", tmp_path / "o")
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, SCRIPT, *words], cwd=ROOT, stderr=stream
        )
    try:
        while re.search(r" [1-9]\d*/\d+ ", log.read_text()) is None:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
    said = log.read_text().splitlines()
    assert said[-1] == "stopped at once; give the same command to start again"
    assert not any("Traceback" in line for line in said)
    assert not any((tmp_path / "o").iterdir())
