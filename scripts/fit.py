"""Fits a variational autoencoder; writes its trace, its model and figures."""

import math
import platform
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from command_line import parse, run
from matplotlib.figure import Figure
from runs import check_same_data
from torch import Tensor
from tqdm import tqdm

from pyro_vae import VAE, Config, build, figures, fit
from pyro_vae.checkpoints import CHECKPOINT, PREVIOUS, read_json
from pyro_vae.data import Dataset, DataUnavailableError, load
from pyro_vae.distributions import NormalMixture, OneHots, center
from pyro_vae.evaluation import assign
from pyro_vae.presets import PRESETS, make_preset
from pyro_vae.schedules import best_epoch
from pyro_vae.traces import TRACE, Record, read_trace
from pyro_vae.training import hold_out, resolve_device, resolve_engine
from pyro_vae.vae import BEST, CONFIG, WEIGHTS

FIGURES = "figures"
ROW = 10  # images
RESUMABLE = {
    "epochs",
    "device",
    "engine",
    "matmul_precision",
}  # choices that may change in a resumed run


@dataclass(frozen=True)
class Flags:
    config: Config = field(default_factory=Config)
    preset: Literal[tuple(PRESETS)] | None = None
    """Start from a complete configuration of that name, which is printed with
    its source; the other flags override it."""
    output: Path | None = None
    """Folder to write; by default results/DATASET-PRIOR."""
    data_dir: Path | None = None
    """Folder of the data sets; by default $PYRO_VAE_DATA, else a cache folder
    in your home."""
    resume: bool = False
    """Go on with the run in --output, with its own choices; of those only
    --epochs, --device, --engine and --matmul-precision may be given anew."""
    overwrite: bool = False
    """Replace the run in the output folder."""
    no_figures: bool = False
    """Write no figures."""


def main() -> int:
    flags = parse(Flags)
    if flags.resume:
        flags = resumed(flags)
    elif flags.preset is not None:
        flags = preset(flags)
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
    records = read_trace(folder / TRACE)
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


def preset(flags: Flags) -> Flags:
    """Reads the flags again, over the choices of a preset, and shows it."""
    config = make_preset(flags.preset)
    choices, source = PRESETS[flags.preset]
    print(f"preset {flags.preset}: {source}")
    flags = parse(Flags, Flags(config=config))
    for name in choices:
        ours, theirs = getattr(flags.config, name), getattr(config, name)
        changed = "" if ours == theirs else f", instead of {theirs}"
        print(f"  {name} = {ours}{changed}")
    return flags


def resumed(flags: Flags) -> Flags:
    """Reads the flags again, over the choices of the run in the folder."""
    if flags.preset is not None:
        raise ValueError(
            "--resume and --preset were given; expected --resume alone, which "
            "keeps the run's own choices"
        )
    if flags.overwrite:
        raise ValueError("--resume and --overwrite were given; expected one")
    if flags.output is None:
        raise ValueError(
            "--resume was given without --output; expected the run's folder"
        )
    recipe = read_json(flags.output / CONFIG)
    saved = Config.from_dict(recipe.get("config", {}))
    flags = parse(Flags, Flags(config=saved))
    flags = replace(flags, preset=recipe.get("preset"))
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
    return flags


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
        for name in (CONFIG, TRACE, WEIGHTS, BEST, CHECKPOINT, PREVIOUS):
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


@torch.no_grad()
def write_figures(vae: VAE, data: Dataset, folder: Path) -> None:
    """Draws what the run has learned into its folder."""
    (folder / FIGURES).mkdir(exist_ok=True)
    elbo = figures.elbo_curves(read_trace(folder / TRACE))
    drawn = {**draw_images(vae, data), **draw_latents(vae, data), "elbo": elbo}
    for name, figure in drawn.items():
        figure.savefig(folder / FIGURES / f"{name}.png")


def draw_images(vae: VAE, data: Dataset) -> dict[str, Figure]:
    """Real images, samples and reconstructions."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(data.train), generator=generator)[:100]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        samples = vae.sample(100)
    columns = min(10, len(data.test))
    x = data.test[: 5 * columns].to(samples.device)
    x = x[: len(x) // columns * columns].unflatten(0, (-1, columns))
    means = vae.reconstruct(x.flatten(0, 1)).view_as(x)
    pairs = torch.stack([x, means], dim=1).flatten(0, 2)

    def grid(images: Tensor, columns: int, title: str) -> Figure:
        images = images.cpu().numpy()
        return figures.image_grid(images, data.image_shape, columns, title)

    return {
        "data": grid(data.train[chosen], 10, f"Images of {data.name}"),
        "samples": grid(samples, 10, "Mean images of samples from the prior"),
        "reconstructions": grid(
            pairs, columns, "Test images, each above its reconstruction"
        ),
    }


def draw_latents(vae: VAE, data: Dataset) -> dict[str, Figure]:
    """The test set in latent space, and what the decoder makes of it."""
    test = data.test.to(next(vae.parameters()).device)
    labels = None if data.test_labels is None else data.test_labels.numpy()
    prior = vae.prior()
    if isinstance(prior, OneHots):
        return {
            "usage": draw_usage(vae, test, labels),
            "components": draw_states(vae, test, data.image_shape),
        }
    z = torch.cat([center(vae.infer(x)) for x in test.split(1000)])

    def generate(latents: np.ndarray) -> np.ndarray:
        return vae.generate(torch.as_tensor(latents).to(z)).cpu().numpy()

    points = z.cpu().numpy()
    drawn = {"manifold": figures.manifold(generate, points, data.image_shape)}
    if not isinstance(prior, NormalMixture):
        return {**drawn, "latent": figures.latent_scatter(points, labels)}
    components = (prior.loc.cpu().numpy(), prior.scale.cpu().numpy())
    return {
        **drawn,
        "latent": figures.latent_scatter(points, labels, components),
        "usage": draw_usage(vae, test, labels),
        "components": figures.image_grid(
            generate(draw_rows(prior)),
            data.image_shape,
            ROW,
            "Samples, a component a row",
        ),
    }


def draw_usage(vae: VAE, test: Tensor, labels: np.ndarray | None) -> Figure:
    return figures.state_usage(
        assign(vae, test).numpy(), labels, vae.num_states
    )


def draw_rows(mixture: NormalMixture) -> np.ndarray:
    """Latents, a row of them for each component."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        z = mixture.component_distribution.sample((ROW,))
    return z.transpose(0, 1).flatten(0, 1).cpu().numpy()


def draw_states(vae: VAE, test: Tensor, image_shape: tuple[int, ...]) -> Figure:
    """The mean image of each state; of several variables, a row for each."""
    num_variables, num_components = vae.prior().logits.shape[-2:]
    usual = torch.cat([vae.infer(x).mean for x in test.split(1000)]).mean(0)
    usual = usual.view(num_variables, num_components).argmax(-1)
    states = torch.eye(num_components).to(test)
    z = states[usual].expand(num_variables, num_components, -1, -1).clone()
    for variable in range(num_variables):
        z[variable, :, variable] = states
    images = vae.generate(z.flatten(-2).flatten(0, 1)).cpu().numpy()
    if num_variables == 1:
        columns = math.ceil(math.sqrt(num_components))
        title = f"The mean images of the {num_components} states"
    else:
        columns = num_components
        title = "Each row changes one variable, the others as usual"
    return figures.image_grid(images, image_shape, columns, title)


if __name__ == "__main__":
    run(main)
