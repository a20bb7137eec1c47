"""Fits a variational autoencoder; writes its trace, its model and figures."""

import platform
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from command_line import parse, parse_some, run
from drawing import FIGURES, write_figures
from runs import check_same_data
from tqdm import tqdm

from pyro_vae import Config, build, fit
from pyro_vae.config.presets import PRESETS, make_preset
from pyro_vae.data import Dataset, DataUnavailableError, load
from pyro_vae.runs.files import CHECKPOINT, PREVIOUS, read_json
from pyro_vae.runs.history import HISTORY, Record, read_history
from pyro_vae.runs.models import BEST, CONFIG, WEIGHTS
from pyro_vae.training import (
    RESUMABLE,
    hold_out,
    resolve_device,
    resolve_engine,
)
from pyro_vae.training.schedules import best_epoch


@dataclass(frozen=True)
class Start:
    """The flags that decide what the others are by default."""

    preset: Literal[tuple(PRESETS)] | None = None
    """Start from a complete configuration of that name, which is printed with
    its source; the other flags override it."""
    resume: bool = False
    """Go on with the run in --output, with its own choices; of those only
    --epochs, --device, --engine and --matmul-precision may be given anew."""
    output: Path | None = None
    """Folder to write; by default results/DATASET-PRIOR."""


@dataclass(frozen=True)
class Flags(Start):
    config: Config = field(default_factory=Config)
    data_dir: Path | None = None
    """Folder of the data sets; by default $PYRO_VAE_DATA, else a cache folder
    in your home."""
    overwrite: bool = False
    """Replace the run in the output folder."""
    no_figures: bool = False
    """Write no figures."""


def main() -> int:
    flags = read_flags()
    device = resolve_device(flags.config.device)
    data = load_data(flags.config, flags.data_dir)
    config = flags.config
    if config.dataset == "auto":
        config = replace(config, dataset=data.name)
    folder = flags.output or Path("results", f"{data.name}-{config.prior}")
    caveats = find_caveats(config, data)
    for caveat in caveats:
        print(f"warning: {caveat}", file=sys.stderr)
    about = {
        **describe(data),
        "device": str(device),
        "preset": flags.preset,
        "caveats": caveats,
    }
    torch.manual_seed(config.seed)
    vae = build(config, data.data_dim, data.image_shape)
    num_train = len(hold_out(data, config)[0].train)
    num_batches = -(-num_train // config.batch_size)
    engine = resolve_engine(config, vae, config.epochs * num_batches)
    if flags.resume:
        check_same_data(folder, data)
    else:
        prepare(folder, flags.overwrite)
        vae.save(folder, about)

    if engine == "compiled":
        print(
            "compiling the step: some seconds, fewer the next time; "
            "--engine eager does without"
        )
    interrupt = Interrupt()
    progress = Progress(config, num_batches)
    records = fit(
        vae,
        data,
        config,
        folder,
        flags.resume,
        on_step=progress.on_step,
        stop=interrupt.is_requested,
    )
    for record in records:
        vae.save(folder, about)
        progress.on_record(record)
    progress.close()
    vae.save(folder, about)
    if interrupt.is_requested():
        print(
            f"stopped; everything is saved in {folder}. To go on: "
            f"python scripts/fit.py --resume --output {folder}"
        )
        return 130
    if not flags.no_figures:
        write_figures(vae, data, folder)
    print(
        f"{folder}: {config.prior} prior on {data.name}, {sum_up(folder)}"
        + "".join(f" ({caveat})" for caveat in caveats)
    )
    return 0


def sum_up(folder: Path) -> str:
    """How good the run has become, in words."""
    records = read_history(folder / HISTORY)
    config = Config.from_dict(read_json(folder / CONFIG)["config"])

    def describe_epoch(record: Record) -> str:
        return (
            f"test ELBO {record['test_elbo']:.2f} nats per image after epoch "
            f"{record['epoch']:.0f}"
        )

    best = None
    if config.early_stopping is not None:
        best = best_epoch(records, config.warmup)
    if best is None:
        return describe_epoch(records[-1])
    return (
        f"{describe_epoch(records[-1])}; by the validation set the best, kept "
        f"in {BEST}: {describe_epoch(records[best])}"
    )


def read_flags() -> Flags:
    """Reads the command line, over a preset or over the run to resume."""
    start = parse_some(Start)
    if start.resume:
        return resumed(start)
    if start.preset is None:
        return parse(Flags)
    preset = make_preset(start.preset)
    flags = parse(Flags, Flags(config=preset))
    show_preset(start.preset, preset, flags.config)
    return flags


def show_preset(name: str, preset: Config, config: Config) -> None:
    """Prints a preset, its source, and what was chosen in its place."""
    choices, source = PRESETS[name]
    print(f"preset {name}: {source}")
    for choice in fields(Config):
        ours, theirs = (
            getattr(config, choice.name),
            getattr(preset, choice.name),
        )
        changed = "" if ours == theirs else f", instead of {theirs}"
        if choice.name in choices or changed:
            print(f"  {choice.name} = {ours}{changed}")


def resumed(start: Start) -> Flags:
    """Reads the flags over the choices of the run in the folder."""
    if start.preset is not None:
        raise ValueError(
            "--resume and --preset were given; expected --resume alone, which "
            "keeps the run's own choices"
        )
    if start.output is None:
        raise ValueError(
            "--resume was given without --output; expected the run's folder"
        )
    recipe = read_json(start.output / CONFIG)
    saved = Config.from_dict(recipe.get("config", {}))
    flags = parse(Flags, Flags(config=saved))
    if flags.overwrite:
        raise ValueError("--resume and --overwrite were given; expected one")
    for choice in fields(Config):
        given, kept = (
            getattr(config, choice.name) for config in (flags.config, saved)
        )
        if given != kept and choice.name not in RESUMABLE:
            raise ValueError(
                f"--{choice.name.replace('_', '-')} is {given}, but the run in "
                f"{flags.output} has {kept}; expected the same: leave the flag "
                "out, or start a new run with another --output"
            )
    return replace(flags, preset=recipe.get("preset"))


def load_data(config: Config, data_dir: Path | None) -> Dataset:
    """Loads the data; unless the user named them, digits stand in."""
    name = "mnist" if config.dataset == "auto" else config.dataset
    try:
        data = load(name, data_dir)
    except DataUnavailableError as error:
        if config.dataset != "auto":
            raise
        print(f"{error}; going on with scikit-learn's embedded 8 x 8 digits")
        data = load("digits")
    return data.first(config.limit).binarize(config.binarize)


def find_caveats(config: Config, data: Dataset) -> list[str]:
    """What a reader of the run's numbers must know."""
    if config.likelihood == "bernoulli" and not data.is_binary:
        return [
            "grey pixels under a Bernoulli are not a likelihood: use "
            "--binarize, or --likelihood continuous-bernoulli"
        ]
    return []


def describe(data: Dataset) -> dict:
    """What `config.json` says beside the choices."""
    packages = ("pyro-vae", "pyro-ppl", "torch", "torchvision", "numpy")
    return {
        "data": data.describe(),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "git_commit": git_commit(),
    }


def git_commit() -> str | None:
    """The commit that this script is of, if it is in a repository."""
    try:
        return subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def prepare(folder: Path, overwrite: bool) -> None:
    """Makes the folder; with `overwrite`, removes the run in it."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output is {folder}, a file; expected a folder")
    if folder.exists() and any(folder.iterdir()):
        if not overwrite:
            raise ValueError(
                f"{folder} exists; expected a new folder: go on with --resume "
                f"--output {folder}, replace it with --overwrite, or name "
                "another --output"
            )
        if not (folder / CONFIG).exists():
            raise ValueError(
                f"--overwrite was given, but {folder} holds no run; expected "
                "a folder that fit.py wrote: name another --output"
            )
        for name in (CONFIG, HISTORY, WEIGHTS, BEST, CHECKPOINT, PREVIOUS):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / FIGURES, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)


class Interrupt:
    """Turns the first Ctrl-C into a request to stop after the step."""

    def __init__(self):
        self._requested = False
        signal.signal(signal.SIGINT, self._request)

    def is_requested(self) -> bool:
        return self._requested

    def _request(self, *_) -> None:
        self._requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Progress:
    """A live bar on a terminal, a line for each epoch elsewhere."""

    def __init__(self, config: Config, num_batches: int):
        self._last: Record = {}
        self._epochs = config.epochs
        self._num_batches = num_batches
        self._bar = tqdm(
            total=config.epochs * self._num_batches,
            unit=" images",
            unit_scale=config.batch_size,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def on_step(self, step: int, elbo: float) -> None:
        if self._bar.disable:
            return
        if self._bar.n == 0:  # a resumed run's rate is that of this session
            self._bar.initial = self._bar.n = step - 1
        epoch = (step - 1) // self._num_batches + 1
        kl = self._last.get("test_kl", float("nan"))
        self._bar.set_postfix_str(
            f"epoch {epoch}/{self._epochs}, ELBO {elbo:.1f}, KL {kl:.2f}",
            refresh=False,
        )
        self._bar.update(step - self._bar.n)

    def on_record(self, record: Record) -> None:
        self._last = record
        tqdm.write(
            f"epoch {record['epoch']:3d}  train ELBO "
            f"{record['train_elbo']:9.2f}  test ELBO "
            f"{record['test_elbo']:9.2f}  KL {record['test_kl']:6.2f}  "
            f"{record['images_per_second']:8.0f} images/s  "
            f"{record['seconds']:7.1f} s"
        )

    def close(self) -> None:
        self._bar.close()


if __name__ == "__main__":
    run(main)
