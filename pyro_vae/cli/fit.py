"""Fits a variational autoencoder; writes its history, model and figures."""

import shlex
import warnings
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

import torch

from pyro_vae.cli.drawing import draw_run
from pyro_vae.cli.flags import CommandLine, to_flag
from pyro_vae.cli.outcome import sum_up, warn_of_faults
from pyro_vae.cli.output import check_inner_folder, write_figures
from pyro_vae.cli.processes import Launched, joined, may_restart
from pyro_vae.cli.progress import Progress
from pyro_vae.config import (
    PRESETS,
    Config,
    DataConfig,
    ObjectiveConfig,
    TrainingConfig,
    VAEConfig,
    build,
    make_preset,
    part_of,
)
from pyro_vae.data import Dataset, DataUnavailableError
from pyro_vae.runs.files import load_checkpoint
from pyro_vae.runs.folder import FIGURES
from pyro_vae.runs.history import HISTORY, read_history
from pyro_vae.runs.run import (
    find_caveats,
    load_data,
    read_about,
    read_config,
)
from pyro_vae.svi import Shards
from pyro_vae.training import (
    RESUMABLE,
    fit,
)


@dataclass(frozen=True)
class Start:
    """The flags that decide what the others are by default.

    Attributes:
        preset: Start from a complete configuration of that name, which is
            printed with its source; the other flags override it.
        resume: Go on with the run in --output, with its own choices; of those
            only --epochs, --device, --engine and --matmul-precision may be
            given anew.
        output: Folder to write; by default results/DATASET-PRIOR.
    """

    preset: Literal[tuple(PRESETS)] | None = None  # type: ignore[valid-type]
    resume: bool = False
    output: Path | None = None


@dataclass(frozen=True)
class Flags(Start):
    """All flags of a fit.

    Attributes:
        data_dir: Folder of the data sets; by default $PYRO_VAE_DATA, else a
            cache folder in your home.
        overwrite: Replace the run in the output folder.
        no_figures: Write no figures.
    """

    vae: VAEConfig = field(default_factory=VAEConfig)
    data: DataConfig = field(default_factory=DataConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    data_dir: Path | None = None
    overwrite: bool = False
    no_figures: bool = False

    @classmethod
    def over(cls, config: Config) -> "Flags":
        """Returns the flags of a configuration."""
        return cls(
            vae=VAEConfig(**part_of(config, VAEConfig)),
            data=DataConfig(**part_of(config, DataConfig)),
            objective=ObjectiveConfig(**part_of(config, ObjectiveConfig)),
            training=TrainingConfig(**part_of(config, TrainingConfig)),
        )

    def config(self) -> Config:
        """Returns the configuration that the flags describe."""
        return Config.of(self.vae, self.data, self.objective, self.training)


def main(command: CommandLine[Flags]) -> int:
    """Fits; returns 0, or 130 or 143 if a signal stopped it.

    Raises:
        KeyboardInterrupt: If a signal stopped it at once; it says what is
            saved, and how to go on.
    """
    with joined() as shards:
        return fit_together(command, shards)


def fit_together(command: CommandLine[Flags], shards: Shards) -> int:
    """Fits as one of the processes that share each minibatch."""
    flags, config = read_flags(command)
    if shards.rank > 0:
        shards.wait()  # for the first process, which may download
    data = choose_data(config, flags.data_dir)
    if shards.rank == 0:
        shards.wait()
    if data.reading:
        sizes = f"{len(data.train)} for training, {len(data.test)} for testing"
        print(f"{data.name}: {data.reading}; {sizes}")
    if config.dataset == "auto" and config.static_binarization is None:
        config = replace(config, dataset=data.name)
    folder = flags.output or Path("results", f"{data.name}-{config.prior}")
    go_on = f"{command.program} --resume --output {shlex.quote(str(folder))}"
    flags = going_on(flags, folder, shards)
    interrupt = command.interrupt
    progress = Progress(config.batch_size, interrupt)
    try:
        train(command, flags, config, data, folder, go_on, progress, shards)
    except KeyboardInterrupt:
        is_ours = flags.resume or progress.has_saved
        epoch = epoch_saved(folder) if is_ours else None
        if epoch is None:
            raise KeyboardInterrupt(
                "nothing was saved yet: give the same command to start again"
            ) from None
        raise KeyboardInterrupt(
            f"{folder} holds the run up to epoch {epoch}. To go on: {go_on}"
        ) from None
    if is_stopped(command, shards):
        print(f"stopped; everything is saved in {folder}. To go on: {go_on}")
    return interrupt.status


def going_on(flags: Flags, folder: Path, shards: Shards) -> Flags:
    """Returns the flags, with --resume if torchrun has started anew.

    Before the first checkpoint there is nothing to go on with. A run that was
    there before the launch is left alone.

    Raises:
        ValueError: If --overwrite is given, with which a second start could
            not tell the run that it has begun from the one to be replaced.
    """
    if flags.overwrite and may_restart():
        raise ValueError(
            "--overwrite was given, and torchrun's --max-restarts; expected "
            "one of the two: delete the folder, or leave --max-restarts out"
        )
    if flags.resume or not isinstance(shards, Launched):
        return flags
    epoch = shards.agree(epoch_saved(folder) if shards.has_begun else None)
    if epoch is None:
        return flags
    print(f"started anew by torchrun: {folder} holds the run to epoch {epoch}")
    return replace(flags, resume=True)


def train(
    command: CommandLine[Flags],
    flags: Flags,
    config: Config,
    data: Dataset,
    folder: Path,
    go_on: str,
    progress: Progress,
    shards: Shards,
) -> None:
    """Fits, draws and prints what has become of the run, unless it stops."""
    if not flags.no_figures:
        check_inner_folder(folder / FIGURES)
    torch.manual_seed(config.seed)
    sizes = (data.data_dim, data.image_shape, max(2, data.num_labels))
    vae = build(config, *sizes)
    for caveat in (caveats := find_caveats(vae, data)):
        warnings.warn(caveat, stacklevel=2)
    records = fit(
        vae,
        data,
        config,
        folder,
        flags.resume,
        flags.overwrite,
        on_step=progress.on_step,
        stop=command.interrupt.is_requested,
        notes={"preset": flags.preset},
        shards=shards,
    )
    if isinstance(shards, Launched) and shards.rank == 0:
        shards.note_begun()
    progress.start(records.epochs, records.num_batches, records.engine)
    for record in records:
        progress.on_record(record)
    progress.close()
    if shards.rank > 0 or is_stopped(command, shards):
        return
    if not flags.no_figures:
        write_figures(draw_run(vae, data, folder), folder / FIGURES)
    history = read_history(folder / HISTORY)
    warn_of_faults(folder, history)
    notes = "".join(f" ({command.in_flags(caveat)})" for caveat in caveats)
    prior = f"{config.prior} prior on {data.name}"
    print(f"{folder}: {prior}, {sum_up(history, config, go_on)}{notes}")


def is_stopped(command: CommandLine[Flags], shards: Shards) -> bool:
    """Returns whether a signal has stopped this process or another."""
    return command.interrupt.is_requested() or shards.is_stopping


def epoch_saved(folder: Path) -> int | None:
    """Returns the epoch of a folder's checkpoint; None if it has none."""
    with warnings.catch_warnings(), suppress(Exception):  # it may be damaged
        warnings.simplefilter("ignore")
        checkpoint = load_checkpoint(folder)
        if checkpoint is not None:
            return max(0, int(checkpoint[1]["position"]["epoch"]))
    return None


def read_flags(command: CommandLine[Flags]) -> tuple[Flags, Config]:
    """Reads the command line, over a preset or over the run to resume.

    Raises:
        ValueError: If flags contradict each other, or the run to resume.
    """
    start = command.parse_some(Start)
    if start.resume:
        return resumed(command, start)
    if start.preset is None:
        flags = command.parse()
        return flags, flags.config()
    preset = make_preset(start.preset)
    flags = command.parse(Flags.over(preset))
    config = flags.config()
    show_preset(start.preset, preset, config)
    return flags, config


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


def resumed(command: CommandLine[Flags], start: Start) -> tuple[Flags, Config]:
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
    # A run that was killed while it saved is not whole, and can go on.
    saved = read_config(start.output, is_whole=False)
    flags = command.parse(Flags.over(saved))
    if flags.overwrite:
        raise ValueError("--resume and --overwrite were given; expected one")
    config = flags.config()
    for choice in fields(Config):
        given, kept = (getattr(c, choice.name) for c in (config, saved))
        if given != kept and choice.name not in RESUMABLE:
            raise ValueError(
                f"{to_flag(choice.name)} is {given}, but the run in "
                f"{flags.output} has {kept}; expected the same: leave the flag "
                "out, or start a new run with another --output"
            )
    about = read_about(start.output, is_whole=False)
    return replace(flags, preset=about.get("preset")), config


def choose_data(config: DataConfig, data_dir: Path | None) -> Dataset:
    """Loads the data; unless the user named them, digits stand in."""
    if config.dataset != "auto" or config.static_binarization is not None:
        return load_data(config, data_dir)
    try:
        return load_data(replace(config, dataset="mnist"), data_dir)
    except DataUnavailableError as error:
        print(f"{error}; going on with scikit-learn's embedded 8 x 8 digits")
        return load_data(replace(config, dataset="digits"), data_dir)
