"""The README's and the docs' commands, code, links, names and numbers hold."""

import ast
import importlib
import math
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
import simulated_counts
import torch
from combinations import write_page
from first_step import write_lines as write_first_step_lines
from processes import write_lines as write_process_lines
from pyro_programs import write_lines
from simulated_counts import sum_up

from pyro_vae import data, load_vae
from pyro_vae.cli import compare, evaluate, explore, fit, sweep
from pyro_vae.cli.flags import CommandLine
from pyro_vae.cli.sweep_fits import check
from pyro_vae.cli.sweep_grid import make_points
from tests.models import keep_the_record, list_analytic_pairs

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "results" / "reference"
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    *sorted((ROOT / "docs").glob("*.md")),
]
COMMANDS = {
    "fit": fit,
    "evaluate": evaluate,
    "compare": compare,
    "explore": explore,
    "sweep": sweep,
}
RUNS = ("mnist-normal", "mnist-laplace", "mnist-mixture", "mnist-categorical")
NUMBER = r"(-?\d[\d,]*(?:\.\d+)?)"


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
    load = data.load
    # All of the digits take half a minute.
    monkeypatch.setattr(data, "load", lambda name: load(name).first(200))
    monkeypatch.chdir(tmp_path)
    scope = run_python(ROOT / "README.md")
    assert scope["images"].shape == (100, 64)
    assert -scope["loss"] / 200 > -55  # untrained it is below -65
    assert (tmp_path / "samples.png").exists()
    assert (tmp_path / "results" / "my-run" / "model.safetensors").exists()


def test_the_compiled_steps_python_runs(monkeypatch):
    keep_the_record(monkeypatch)
    losses = run_python(ROOT / "docs" / "compiled.md")["losses"]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_the_labels_python_runs(monkeypatch):
    load = data.load
    monkeypatch.setattr(data, "load", lambda name: load(name).first(200))
    scope = run_python(ROOT / "docs" / "labels.md")
    assert scope["elbo"].shape == (20,) and scope["ones"].shape == (5, 64)
    assert (scope["bound"] > scope["elbo"] - 5).all()


def test_the_data_pages_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_python(ROOT / "docs" / "data.md")
    for name, shape, share in (
        ("holes", (8, 8), 0.5),
        ("patches", (3, 16, 16), 0),
    ):
        options = data.Options(missing=name == "holes")
        found = data.load(f"{name}.npz", options=options)
        assert found.image_shape == shape
        missing = found.train.isnan().float().mean().item()
        assert missing == pytest.approx(share, abs=0.01)
        if name == "holes":
            check_imputation(found, data.load("digits").test)


def check_imputation(found: data.Dataset, truth: torch.Tensor) -> None:
    """Holds the data page's numbers against the run with holes."""
    text = (ROOT / "docs" / "data.md").read_text().replace("\n", " ")
    vae, hidden = load_vae(REFERENCE / "holes"), found.test.isnan()
    torch.manual_seed(0)
    for guess, words in (
        (vae.impute(found.test), "`vae.impute` is off the lost test pixels by"),
        (found.train.nanmean(0), "the training images is off by"),
    ):
        (said,) = re.findall(f"{words} {NUMBER}", text)
        error = (guess - truth)[hidden].square().mean().sqrt().item()
        assert f"{error:.2f}" == said.rstrip(".")
    for run, key, words in (
        ("holes", "test_elbo", f"observed pixels, is {NUMBER} nats"),
        ("patches", "test_bits_per_dimension", f"worth {NUMBER} bits per"),
    ):
        last = pd.read_csv(REFERENCE / run / "elbo.csv").iloc[-1]
        assert re.findall(words, text) == [f"{last[key]:.2f}"]


def test_the_data_pages_counts_are_those_of_the_study():
    text = (ROOT / "docs" / "data.md").read_text().replace("\n", " ")
    table = pd.read_csv(REFERENCE / "simulated_counts.csv")
    assert f"for {table['seed'].nunique()} seeds" in text
    summary = sum_up(table)
    log_p, thetas = summary.loc["log p(x)"], summary.drop("log p(x)")
    assert len(thetas) == 12 and thetas["off"].abs().max() < math.log(1.01)
    most = (thetas["off"] / thetas["standard_error"]).abs().max()
    assert f"at most {most:.1f} standard errors" in text
    assert f"is {-log_p['off']:.4f} nats below the truth's (standard" in text
    assert f"error {log_p['standard_error']:.4f})" in text
    # Weights, offsets and dispersions; a rotation of z changes nothing.
    parameters = 12 * (2 + 1 + 1) - 1
    expected = parameters / (2 * simulated_counts.Flags().rows)
    assert f"{parameters} fitted parameters are expected to lose" in text
    assert f"lose {expected:.4f}." in text
    assert abs(log_p["off"] + expected) < 3 * log_p["standard_error"]


def test_the_familys_python_runs():
    assert math.isfinite(run_python(ROOT / "docs" / "family.md")["loss"])


def list_commands() -> list[str]:
    return [
        line.split("&&")[-1].strip()
        for page in PAGES
        for block in blocks(page, "sh")
        for line in block.splitlines()
        if "scripts/" in line
    ]


def parse(line: str) -> None:
    """Reads a command line as its script would, without running it."""
    line = re.sub(r"^torchrun --nproc-per-node \d+ ", "python ", line)
    _, path, *words = shlex.split(line)
    assert (ROOT / path).is_file(), line
    name = Path(path).stem
    script = COMMANDS.get(name) or importlib.import_module(name)
    command = CommandLine(script.Flags, None, words, path)
    if script is fit and "--resume" not in words:
        fit.read_flags(command)
    elif script is sweep:
        flags, grid = sweep.read_flags(command)
        for point in make_points(grid) if grid else []:
            check(point, ROOT / flags.output)
    else:
        command.parse()


def test_the_commands_parse():
    lines = list_commands()
    assert len(lines) > 20
    for line in dict.fromkeys(lines):
        try:
            parse(line)
        except SystemExit:
            pytest.fail(line)
    with pytest.raises(SystemExit):
        parse("python scripts/fit.py --no-such-flag 1")


def test_the_array_job_has_a_task_for_each_point_of_its_grid():
    (text,) = blocks(ROOT / "docs" / "sweeps.md", "bash")
    last = re.findall(r"--array=0-(\d+)", text)[0]
    (line,) = (line for line in text.splitlines() if "pyro-vae sweep" in line)
    words = line.replace("$SLURM_ARRAY_TASK_ID", last).split()[3:]
    flags, grid = sweep.read_flags(CommandLine(sweep.Flags, None, words, ""))
    assert flags.index == int(last) == len(make_points(grid)) - 1


def test_the_commands_read_runs_that_exist_or_that_are_made_before():
    """What a command reads is in the repository, or an earlier one wrote it."""
    made = set()
    for line in list_commands():
        folders = [word for word in line.split() if "results/" in word]
        reads_only = {path for path in folders if "results/reference" in path}
        if "scripts/fit.py" in line:
            made.update(folders)
        for folder in reads_only:
            assert (ROOT / folder / "config.json").exists(), line
        if "scripts/evaluate.py" in line:
            assert folders[0] in made | reads_only, line


@pytest.mark.parametrize("run", RUNS)
def test_the_reference_runs_come_with_their_weights(run):
    assert load_vae(REFERENCE / run).sample(2).shape == (2, 784)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    for target in targets:
        path, _, heading = target.partition("#")
        if target.startswith("http"):
            continue
        where = page.parent / path if path else page
        assert where.exists(), target
        if heading:
            assert heading in headings(where), target


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {
        re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-")
        for line in lines
    }


# Names of code and tests


def list_functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


@pytest.mark.parametrize("page", ["derivations", "estimators", "quadrature"])
def test_the_derivations_name_code_and_tests_that_exist(page):
    text = (ROOT / "docs" / f"{page}.md").read_text()
    paths = set(re.findall(r"`(pyro_vae/[\w./]+)`", text))
    files = [
        file
        for path in paths
        for file in ([ROOT / path, *(ROOT / path).glob("*.py")])
        if file.suffix == ".py"
    ]
    code = set().union(*map(list_functions, files))
    tests = set().union(*map(list_functions, ROOT.glob("tests/test_*.py")))
    lines = re.findall(
        r"^- (Code|Tests?): (.*?)\n(?=\n|- |\Z)", text, re.S | re.M
    )
    assert len(lines) >= 2
    for kind, words in lines:
        names = re.findall(r"`(\w+)`", words)
        assert names, words
        known = tests if kind != "Code" else code
        pyros = {"TraceEnum_ELBO"}
        assert set(names) <= known | pyros, words


# Numbers, against the tables in results/reference


def round_like(value: float, said: str) -> str:
    """Rounds a value to the digits of a number that a page says."""
    digits = said.replace(",", "")
    decimals = len(digits.partition(".")[2])
    if not decimals and digits.strip("-0"):
        decimals = len(digits.rstrip("0")) - len(digits)
    return f"{round(value, decimals):.{max(decimals, 0)}f}"


def check_numbers(where: str, said: list[str], values: list[float]) -> None:
    """Checks numbers that a page says, each to the digits that it has."""
    assert len(said) == len(values), f"{where}: {said} for {values}"
    expected = [
        round_like(value, number)
        for value, number in zip(values, said, strict=True)
    ]
    assert [number.replace(",", "") for number in said] == expected, where


def check_sentence(page: str, sentence: str, *values: float) -> None:
    """Checks the numbers of a sentence, in which each stands as `{}`."""
    text = " ".join((ROOT / page).read_text().split())
    pattern = re.escape(sentence).replace(r"\{\}", NUMBER)
    found = re.findall(pattern, text)
    assert len(found) == 1, f"{page} does not say once: {sentence}"
    said = [found[0]] if isinstance(found[0], str) else list(found[0])
    check_numbers(f"{page}: {sentence}", said, list(values))


def check_cell(where: str, cell: str, *values: float) -> None:
    """Checks the numbers of a table's cell, such as `1.0 ± 0.2`."""
    text = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", cell)
    check_numbers(f"{where}: {cell}", re.findall(NUMBER, text), list(values))


def table_after(page: str, words: str) -> list[list[str]]:
    """The cells of the first table below some words: names, then rows."""
    text = (ROOT / page).read_text().split(words, 1)[1]
    lines = re.search(r"(^\|.*\n)+", text, re.M).group().splitlines()
    cells = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in lines
    ]
    return [cells[0], *cells[2:]]


def last(run: str) -> pd.Series:
    return pd.read_csv(REFERENCE / run / "elbo.csv").iloc[-1]


def first(run: str) -> pd.Series:
    return pd.read_csv(REFERENCE / run / "elbo.csv").iloc[0]


def evaluation(run: str) -> pd.DataFrame:
    table = pd.read_csv(REFERENCE / run / "evaluation.csv")
    return table[table["image"].isna()].set_index("what")


COLUMNS = {
    "test ELBO": "test_elbo",
    "expected log-likelihood": "test_expected_log_likelihood",
    "KL": "test_kl",
    "learned noise scale": "noise_scale",
    "training ELBO, last epoch": "train_elbo",
    "states or components in use": "components_used",
    "purity": "purity",
}


def test_the_readmes_results():
    """Each cell is the history's, in the columns that have such a name."""
    names, *rows = table_after("README.md", "## Results")
    assert len(rows) == len(RUNS) and "test ELBO" in names
    for row in rows:
        (run,) = [run for run in RUNS if run in row[0]]
        for name, cell in zip(names[1:], row[1:], strict=True):
            if name == "test ELBO, untrained":
                check_cell(run, cell, first(run)["test_elbo"])
            else:
                check_cell(run, cell, last(run)[COLUMNS[name]])


@pytest.mark.parametrize(
    "words, runs",
    [
        ("## The two priors", ("mnist-normal", "mnist-laplace")),
        ("## 4b. Discrete latents", ("mnist-categorical", "mnist-mixture")),
    ],
)
def test_the_discussions_tables_of_runs(words, runs):
    _, *rows = table_after("docs/discussion.md", words)
    assert len(rows) >= 5
    for name, *cells in rows:
        for run, cell in zip(runs, cells, strict=True):
            if name == "test ELBO, untrained":
                check_cell(run, cell, first(run)["test_elbo"])
            else:
                check_cell(f"{run}, {name}", cell, last(run)[COLUMNS[name]])


def test_the_discussion_of_samples_and_priors():
    page, normal, laplace = "docs/discussion.md", last(RUNS[0]), last(RUNS[1])
    rise = laplace - normal
    precision = pd.read_csv(REFERENCE / "precision" / "compare.csv")
    spread = precision.set_index("run")["test_elbo_std"]
    overfit = [
        run["train_elbo"] - run["test_elbo"] for run in (normal, laplace)
    ]
    check_sentence(page, "The learned scale is {}, a fi", normal["noise_scale"])
    check_sentence(
        page,
        "log-likelihood is higher by {} nats), while the KL rises by only {} ",
        rise["test_expected_log_likelihood"],
        rise["test_kl"],
    )
    check_sentence(
        page,
        "The difference in test ELBO, {} nats, is that of one seed. The "
        "standard deviation over three seeds of the normal prior's run is {}",
        rise["test_elbo"],
        spread["matmul_precision highest"],
    )
    check_sentence(page, "than the test images, by {} and {} nats", *overfit)


def test_the_discussion_of_discrete_latents():
    page, states, mixture = "docs/discussion.md", last(RUNS[3]), last(RUNS[2])
    check_sentence(page, "log 64 = {} nats on the KL", math.log(64))
    check_sentence(
        page, "most frequent label, {} % of the", 100 * states["purity"]
    )
    check_sentence(
        page,
        "one to one, {} % of the images are right, and the normalized mutual "
        "information is {}.",
        100 * mixture["clustering_accuracy"],
        mixture["normalised_mutual_information"],
    )


def test_the_table_of_gradient_estimators():
    table = pd.read_csv(REFERENCE / "gradients" / "gradients.csv")
    table = table[table["block"] == "encoder"].set_index("estimator")
    rows = table_after("docs/discussion.md", "### Estimators")[1:]
    assert len(rows) == 9
    for name, bias, variance, milliseconds in rows:
        key = name.replace("score function", "score-function")
        key = key.replace("Gumbel-softmax, temperature ", "gumbel-softmax ")
        key = key.replace("Gumbel-softmax, ", "gumbel-softmax ")
        row = table.loc[key]
        check_cell(name, bias, row["bias_along"], row["bias_along_se"])
        check_cell(name, variance, row["variance"])
        check_cell(name, milliseconds, row["ms"])
    biased = [
        -table.loc[key, "bias_along"] / table.loc[key, "bias_along_se"]
        for key in ("gumbel-softmax 1", "gumbel-softmax 0.5")
    ]
    check_sentence(
        "docs/discussion.md", "0.5, by {} and {} standard errors;", *biased
    )


def test_the_discussion_of_gradient_estimators():
    page, folder = "docs/discussion.md", REFERENCE / "gradients"
    table = pd.read_csv(folder / "continuous" / "gradients.csv")
    table = table[table["block"] == "encoder"].set_index("estimator")
    check_sentence(
        page,
        "pathwise gradient has a variance of {} in the same unit, and the "
        "score function one of {}.",
        *table.loc[["pathwise", "score-function"], "variance"],
    )
    runs = pd.read_csv(folder / "compare.csv")
    order = ("auto", "gumbel", "baseline", "score-function, ")
    rows = [
        runs[runs["run"].str.contains(word, regex=False)].iloc[0]
        for word in order
    ]
    check_sentence(
        page, "same. After {} seconds", runs["equal_seconds"].iloc[0]
    )
    check_sentence(
        page,
        "enumeration is at a test ELBO of {}, the Gumbel-softmax at "
        "temperature 0.5 at {} and falling, the score function with a "
        "decaying baseline at {}, and without one at {}.",
        *[row["test_elbo_at_equal_seconds"] for row in rows],
    )
    assert rows[1]["test_elbo"] < rows[1]["test_elbo_at_equal_seconds"]


def test_the_tables_of_bounds():
    page = "docs/discussion.md"
    _, *rows = table_after(page, "## How good is the bound?")
    names = ("elbo", "importance", "quadrature")
    names += ("approximation gap", "amortization gap")
    for (said, *cells), name in zip(rows, names, strict=True):
        for run, cell in zip(RUNS[:2], cells, strict=True):
            row = evaluation(run).loc[name]
            check_cell(said, cell, row["value"], row["standard_error"])
            if "gap" in said:
                assert f"{row['images']:.0f} images" in said
    _, *rows = table_after(page, "A Laplace guide gives the same picture")
    names = ("elbo", "quadrature", "approximation gap", "amortization gap")
    assert len(rows) == 2
    for _, link, *cells in rows:
        run = re.findall(r"guides/([\w-]+)/", link)[0]
        found = evaluation(f"guides/{run}")
        for name, cell in zip(names, cells, strict=True):
            row = found.loc[name]
            check_cell(link, cell, row["value"], row["standard_error"])


def test_the_discussion_of_the_bounds():
    page, found = "docs/discussion.md", evaluation("mnist-normal")
    value = found["value"]
    check_sentence(
        page, "normal fits them within {} nats.", value["approximation gap"]
    )
    check_sentence(
        page,
        "It is {} nats over the first 50 images, and the two gaps of these "
        "images add up to {}.",
        value["kl(q, posterior) by quadrature"],
        value["gaps together"],
    )
    check_sentence(
        page,
        "median image has {} effective ones, and the bound is still {} nats",
        found["effective_sample_size"]["importance"],
        value["quadrature"] - value["importance"],
    )
    check_sentence(
        page,
        "standard deviations are {} and {}, where",
        value["scale of q(z1)"],
        value["scale of q(z2)"],
    )


def test_the_numbers_of_amortization():
    page = "docs/discussion.md"
    table = pd.read_csv(REFERENCE / "amortization" / "amortization.csv")
    table = table.groupby("inference").last()
    rows = table_after(page, "## What amortization costs")[1:]
    assert {name for name, *_ in rows} == set(table.index)
    names = ("train_seconds", "test_elbo", "log_marginal_likelihood", "gap")
    for said, *cells in rows:
        for name, cell in zip(names, cells, strict=True):
            check_cell(said, cell, table.loc[said, name])
    alone, five = table.loc["amortized"], table.loc["semi-amortized, 5"]
    gain = five["log_marginal_likelihood"] - alone["log_marginal_likelihood"]
    check_sentence(page, "encoder stands, gain {} nats", gain)
    seconds = five["train_seconds"]
    check_sentence(page, "In the {} seconds that these", seconds)
    passes = 6 * seconds / alone["train_seconds"]
    check_sentence(page, "encoder alone makes about {} passes.", passes)
    value = evaluation("mnist-normal")["value"]
    check_sentence(page, "over all test images is {}.", value["quadrature"])
    check_sentence(
        page, "lowers the bound by {} nats", value["amortization gap"]
    )


def test_the_accuracies_from_a_few_labels():
    table = pd.read_csv(REFERENCE / "semi_supervised.csv")
    last = table.groupby("seed").last()["test_accuracy"]
    page = (ROOT / "docs" / "labels.md").read_text()
    said = re.findall(r"^\| (\d|mean) \| (\S+) % \|$", page, re.M)
    expected = {str(seed): accuracy for seed, accuracy in last.items()}
    expected["mean"] = last.mean()
    assert dict(said) == {k: f"{100 * a:.2f}" for k, a in expected.items()}
    assert set(table["labeled"]) == {100} and len(last) == 3


def test_the_numbers_of_the_quadrature():
    page = "docs/quadrature.md"
    row = evaluation("mnist-normal/quadrature").loc["quadrature"]
    check_sentence(page, "[{} seconds]", row["seconds"])
    check_sentence(
        page, "({} nats for the reference run)", row["standard_error"]
    )


def test_the_tables_of_the_benchmark():
    page = "docs/compiled.md"
    table = pd.read_csv(REFERENCE / "benchmark.csv")
    steps = table[table["what"] == "Gaussian, 784-512-2"]
    steps = steps.set_index(["rival", "batch_size"])
    _, *rows = table_after(page, "the median of ten interleaved rounds")
    for name, *cells in rows:
        rival = re.sub("^floor.*, (?=highest|medium)", "floor, ", name)
        for size, cell in zip((32, 128, 512, 2048), cells, strict=True):
            check_cell(name, cell, steps.loc[(rival, size), "ms"])
    fits = table[table["what"] == "fit.py, 20 epochs"].set_index("rival")["ms"]
    for engine, *cells in table_after(page, "A whole `scripts/fit.py`")[1:]:
        for cell, cache in zip(cells, ("cold", "warm"), strict=True):
            name = engine if engine == "eager" else f"{engine}, {cache}"
            if cell:
                check_cell(name, cell, fits[name] / 1000)
    highest, medium = (
        steps.loc[(f"pyro_vae, compiled, {precision}", 128)]
        for precision in ("highest", "medium")
    )
    check_sentence(
        page,
        "step is {} times as fast as Pyro's SVI, and {} times at `medium`",
        highest["times_faster_than_svi"],
        medium["times_faster_than_svi"],
    )
    check_sentence(
        page,
        "({} times as fast; {} times at `medium`)",
        highest["times_faster_than_numpyro"],
        medium["times_faster_than_numpyro"],
    )
    check_sentence(
        page, "It takes {} times the floor", highest["times_the_floor"]
    )


def test_the_table_of_first_steps():
    table = pd.read_csv(REFERENCE / "first_step.csv").fillna("")
    text = (ROOT / "docs" / "compiled.md").read_text()
    assert "\n".join(write_first_step_lines(table)) in text
    assert f"(medians of {table['rounds'].min()} processes each;" in text


def test_the_numbers_of_the_precision():
    table = pd.read_csv(REFERENCE / "precision" / "compare.csv")
    rows = table.set_index("run")
    order = ["matmul_precision medium", "matmul_precision highest"]
    check_sentence(
        "docs/compiled.md",
        "test ELBO is {} nats per image at `medium` and {} at `highest`, with "
        "standard deviations over the seeds of {} and {} (",
        *rows.loc[order, "test_elbo"],
        *rows.loc[order, "test_elbo_std"],
    )


def test_the_table_of_closed_forms():
    names, *rows = table_after("docs/family.md", "closed form of the KL for")
    said = {row[0]: dict(zip(names[1:], row[1:], strict=True)) for row in rows}
    for (prior, guide), is_analytic in list_analytic_pairs().items():
        of_prior = said.get(prior, said["any other"])
        assert of_prior.get(guide, "no") == ("yes" if is_analytic else "no")


def test_the_side_by_side_tables():
    """Each cell is the summary's, and each pair of the summary is there."""
    summary = pd.read_csv(REFERENCE / "family" / "summary.csv")
    rows = summary.set_index(["prior", "guide"])
    priors = table_after("docs/family.md", "each with the normal guide")[1:]
    guides = table_after("docs/family.md", "each with the normal prior")[1:]
    said = {(prior, "normal"): cells for prior, *cells in priors}
    said |= {("normal", guide): cells for guide, *cells in guides}
    assert set(said) == set(rows.index)
    for pair, cells in said.items():
        for name, cell in zip(
            ("test_elbo", "log_marginal_likelihood"), cells, strict=True
        ):
            values = rows.loc[pair, [name, f"{name}_standard_error"]]
            check_cell(str(pair), cell, *values)


def test_the_sentences_side_by_side():
    page, folder = "docs/family.md", REFERENCE / "family"
    summary = pd.read_csv(folder / "summary.csv")
    rows = summary.set_index(["prior", "guide"])
    normal = rows.loc[("normal", "normal")]
    vamp, flow = rows.loc[("vamp", "normal")], rows.loc[("normal", "flow")]

    def gain(row: pd.Series, name: str) -> tuple[float, float]:
        error = f"{name}_standard_error"
        return row[name] - normal[name], math.hypot(row[error], normal[error])

    def gap(row: pd.Series) -> float:
        return row["log_marginal_likelihood"] - row["test_elbo"]

    check_sentence(
        page,
        "VampPrior is {} nats above the normal one, twice the standard error "
        "of the difference ({}).",
        *gain(vamp, "log_marginal_likelihood"),
    )
    check_sentence(page, "gains {} ± {} nats of ELBO", *gain(flow, "test_elbo"))
    check_sentence(
        page,
        "tightest: {} nats below log p(x), where that of the normal guide is "
        "{} nats",
        gap(flow),
        gap(normal),
    )
    fits = pd.read_csv(folder / "family.csv")
    fits = fits[(fits["prior"] == "flow") & (fits["guide"] == "normal")]
    fits = fits.set_index("seed")["test_elbo"]
    check_sentence(
        page,
        "flow prior end at {} and {}. The third, with seed 0, diverged and "
        "ends at {}, which",
        fits[1],
        fits[2],
        fits[0],
    )
    clipped = last("family/flow-clipped")["test_elbo"]
    check_sentence(page, "same fit ends at [{}](", clipped)


def test_the_numbers_of_the_presets_runs():
    page = "docs/family.md"
    history = pd.read_csv(REFERENCE / "pyro-example" / "elbo.csv")
    for epoch, cell, _ in table_after(page, "### Pyro's example")[1:]:
        elbo = history.set_index("epoch")["test_elbo"][int(epoch)]
        check_cell(f"epoch {epoch}", cell, elbo)
    for k, cell, _, samples in table_after(page, "# The importance-w")[1:]:
        row = evaluation(f"iwae-2015/k{k}").loc["importance"]
        check_cell(f"k {k}", cell, row["value"], row["standard_error"])
        check_cell(f"k {k}", samples, row["effective_sample_size"])


def test_the_report_of_the_sweep():
    report = pd.read_csv(REFERENCE / "sweep" / "report.csv").set_index("run")
    assert (report["seeds"] == 3).all() and (report["epochs"] == 5).all()
    names, *rows = table_after("docs/sweeps.md", "[this report]")
    assert [f"prior {prior}" for prior, *_ in rows] == list(report.index)
    for prior, *cells in rows:
        row = report.loc[f"prior {prior}"]
        for name, cell in zip(names[1:], cells, strict=True):
            column = COLUMNS[name]
            values = row[[column, f"{column}_standard_error"]]
            check_cell(prior, cell, *values)


def test_the_page_of_combinations_is_its_table():
    table = pd.read_csv(REFERENCE / "combinations.csv")
    text = (ROOT / "docs" / "combinations.md").read_text()
    assert text == write_page(table, epochs=4)


def test_the_page_of_processes_says_what_its_table_does():
    table = pd.read_csv(REFERENCE / "processes.csv")
    text = (ROOT / "docs" / "scale.md").read_text()
    assert "\n".join(write_process_lines(table)) in text
    words = text.replace("\n", " ")
    assert f"its {table['megabytes'].max():.1f} MB alone" in words
    ms = table.set_index(["engine", "batch_size", "processes"])["step_ms"]
    few, many = ms["compiled", 128, 1], ms["compiled", 1024, 1]
    compiled = ms["compiled", 1024, 2] / many
    eager = ms["eager", 1024, 2] / ms["eager", 1024, 1]
    assert f"they take {compiled:.2f} of its time compiled" in words
    assert f"and {eager:.2f} eagerly" in words
    for engine in ("compiled", "eager"):  # two take longer than one
        assert ms[engine, 128, 2] > ms[engine, 128, 1]
    image = (many - few) / (1024 - 128)
    start = few - 128 * image
    assert f"about {start:.1f} ms" in words and f"{image:.3f} ms for" in words
    for size, whole in ((128, few), (1024, many)):
        shared = size / 8 * image
        assert (
            f"{start:.1f} + {shared:.1f} ms in the place of {whole:.1f} at"
        ) in words


def test_the_table_of_pyros_programs():
    table = pd.read_csv(REFERENCE / "pyro_programs.csv")
    table["remarks"] = table["remarks"].fillna("")
    text = (ROOT / "docs" / "programs.md").read_text()
    assert text.endswith("\n".join(write_lines(table)) + "\n")
    ran = table[~table["verdict"].str.startswith("not run")]
    kinds = ran["verdict"].str.partition(":")[0].value_counts()
    files = ran["program"].str.split().str[0]
    is_same = ran["verdict"] == "same"
    words = text.replace("\n", " ")
    assert (
        f"Of the {files.nunique()} files that take a step, "
        f"{files[is_same].nunique()} have a variant that is the same; of "
        f"{len(ran)} variants, {kinds['same']} are the same, "
        f"{kinds['refused']} are refused"
    ) in words
    assert f"{kinds['not finished']} did not compile" in words
    ratio, seconds = ran[is_same][["ratio", "compile_s"]].median()
    assert f"a compiled one's is {ratio:.1f}, and" in words
    assert (ran[is_same]["ratio"].dropna() > 1).all()
    assert f"time to compile is {seconds:.1f} seconds" in words
    assert (
        f"of {files.nunique()} files that take a step, "
        f"{files[is_same].nunique()} have"
    ) in (ROOT / "docs" / "compiled.md").read_text().replace("\n", " ")
