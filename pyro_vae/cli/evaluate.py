"""Evaluates a run: exact and estimated log p(x), and where the ELBO loses."""

import math
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import tyro
from command_line import check_at_least_1, parse, run
from runs import Run, load_run
from torch import Tensor
from tqdm import tqdm

from pyro_vae import figures
from pyro_vae.evaluation import (
    SMALL,
    Gaps,
    check_aggregate,
    default_method,
    evaluation_mode,
    gaps,
    log_marginal_likelihood,
    log_weights,
    posterior_density,
    posterior_kl,
)
from pyro_vae.randomness import random_stream
from pyro_vae.training import resolve_device

CHUNK = 2500  # images between two looks at the bar
GRID_CHUNK = 10_000  # the same for quadrature, whose images share a grid
CURVE_IMAGES = 500
CURVE = (1, 10, 100, 1000, 5000)  # samples of each bound
KL_IMAGES = 50  # whose KL is integrated to check the gaps

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Flags:
    folder: tyro.conf.Positional[Path]
    """Folder of a run, as fit.py wrote it."""
    best: bool = False
    """Evaluate the weights of the best validation ELBO, which early stopping
    kept, in place of the last ones."""
    methods: tuple[
        Literal["elbo", "importance", "quadrature", "ais", "exact"], ...
    ] = ()
    """Estimates of log p(x) on the test set. By default the ELBO, importance,
    and quadrature or exact where the latents allow."""
    num_samples: int = 5000
    """Importance samples for each image."""
    limit: int | None = None
    """Evaluate the first LIMIT test images only."""
    gap_images: int = 500
    """Test images whose gap is split in two; 0 for none."""
    ais_images: int = 50
    """Test images that are annealed, if ais is among the methods."""
    per_image: bool = False
    """Write a row for each image, too."""
    no_figures: bool = False
    """Write no figures."""
    seed: int = 0
    """Of all samples."""
    device: str = "auto"
    """Torch device: cpu, cuda, ... auto: cuda where there is one."""
    data_dir: Path | None = None
    """Folder of the data sets; by default $PYRO_VAE_DATA, else a cache folder
    in your home."""
    output: Path | None = None
    """Folder for evaluation.csv and figures/; by default the run's, or with
    --best the folder best in it."""


def main() -> None:
    flags = parse(Flags)
    check_at_least_1(flags, "num_samples", "ais_images", "limit")
    a_run = load_run(flags.folder, flags.data_dir, flags.best)
    device = resolve_device(flags.device)
    vae, test = a_run.vae.to(device), a_run.data.test[: flags.limit].to(device)
    folder = flags.output or flags.folder / ("best" if flags.best else "")
    pictures = folder / "figures"
    pictures.mkdir(parents=True, exist_ok=True)
    best = default_method(vae)
    methods = flags.methods or tuple(
        dict.fromkeys(("elbo", "importance", best))
    )
    rows: Rows = []
    for method in methods:
        rows += evaluate(method, a_run, test, flags)
    rows += describe_aggregate(a_run, test, flags.seed)
    if flags.gap_images > 0:
        rows += split_gaps(a_run, test[: flags.gap_images], flags, pictures)
    if not flags.no_figures:
        draw_curve(a_run, test[:CURVE_IMAGES], flags.seed, pictures)
    table = pd.DataFrame(rows)
    table.to_csv(folder / "evaluation.csv", index=False)
    summary = table[table["image"].isna()].dropna(axis=1, how="all")
    print(summary.to_string(index=False, float_format="{:.4g}".format))


def evaluate(method: str, a_run: Run, test: Tensor, flags: Flags) -> Rows:
    """A method's rows: a summary, after each image's if asked for."""
    if method == "ais":
        test = test[: flags.ais_images]
    started = time.perf_counter()
    values, errors, effective = [], [], []
    bar = tqdm(total=len(test), desc=method, unit=" images", disable=None)
    size = GRID_CHUNK if method == "quadrature" else CHUNK
    for chunk in test.split(size):
        value, error, samples = one_method(method, a_run, chunk, flags)
        values.append(value.cpu())
        errors.append(error.cpu())
        effective.append(samples.cpu())
        bar.update(len(chunk))
    bar.close()
    parts = [torch.cat(part).numpy() for part in (values, errors, effective)]
    warn_of_few(parts[2], flags.num_samples)
    seconds = time.perf_counter() - started
    return list(rows_of(method, *parts, seconds, flags.per_image))


def warn_of_few(effective: np.ndarray, num_samples: int) -> None:
    """Says once, of all chunks, where the importance bound is loose."""
    few = int((effective < SMALL).sum())
    if few * 10 > len(effective):
        print(
            f"warning: {few} of {len(effective)} images have an effective "
            f"sample size under {SMALL} of {num_samples}: their importance "
            "bound is loose",
            file=sys.stderr,
        )


def one_method(
    method: str, a_run: Run, x: Tensor, flags: Flags
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, their errors, and effective sample sizes or NaN: `(B,)` each."""
    vae, nothing = a_run.vae, torch.full((len(x),), math.nan)
    if method != "elbo":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # see warn_of_few
            result = log_marginal_likelihood(
                vae, x, flags.num_samples, method, flags.seed
            )
        size = result.effective_sample_size
        return result.value, result.error, nothing if size is None else size
    with (
        torch.no_grad(),
        evaluation_mode(vae),
        random_stream(flags.seed, 0, x.device),
    ):
        draws = [
            torch.stack([vae.compute_elbo(part) for _ in range(20)]).double()
            for part in x.split(1000)
        ]
    draws = torch.cat(draws, dim=1)
    return draws.mean(0), draws.std(0) / len(draws) ** 0.5, nothing


def rows_of(
    what: str,
    values: np.ndarray,
    errors: np.ndarray,
    effective: np.ndarray,
    seconds: float,
    per_image: bool,
) -> Iterator[dict[str, Any]]:
    if per_image:
        for image, (value, error, size) in enumerate(
            zip(values, errors, effective, strict=True)
        ):
            yield {
                "what": what,
                "image": image,
                "value": value,
                "error": error,
                "effective_sample_size": size,
            }
    yield {
        "what": what,
        "image": None,
        "images": len(values),
        "value": values.mean(),
        "standard_error": values.std() / len(values) ** 0.5,
        "error": errors.max(),
        "effective_sample_size": np.median(effective),
        "seconds": seconds,
    }


def describe_aggregate(a_run: Run, test: Tensor, seed: int) -> Rows:
    """How the latents are used, and how far q(z) is from the prior."""
    if a_run.vae.num_states > 1:
        return []
    found = check_aggregate(a_run.vae, test, seed)
    rows = [
        ("active units", float(found.active.sum()), None),
        ("mmd squared", found.mmd, found.mmd_error),
    ]
    for p in range(len(found.kl)):
        rows += [
            (f"kl of z{p + 1}", found.kl[p].item(), None),
            (f"scale of q(z{p + 1})", found.scale[p].item(), None),
            (f"scale of p(z{p + 1})", found.prior_scale[p].item(), None),
        ]
    return [
        {
            "what": what,
            "image": None,
            "images": len(test),
            "value": value,
            "standard_error": error,
        }
        for what, value, error in rows
    ]


def split_gaps(a_run: Run, x: Tensor, flags: Flags, folder: Path) -> Rows:
    """Rows of the gaps, and their figures."""
    vae = a_run.vae
    started = time.perf_counter()
    found = gaps(vae, x, seed=flags.seed)
    seconds = time.perf_counter() - started
    error = (found.elbo_error**2 + found.best_elbo_error**2).sqrt()
    rows: Rows = []
    for what, values, errors in (
        ("approximation gap", found.approximation, found.best_elbo_error),
        ("amortization gap", found.amortization, error),
    ):
        nothing = np.full(len(x), math.nan)
        parts = (values.cpu().numpy(), errors.cpu().numpy(), nothing)
        rows += rows_of(what, *parts, seconds, flags.per_image)
    prior = vae.prior()
    if vae.num_states > 1 or prior.event_shape[0] > 2:
        return rows
    chosen = slice(0, KL_IMAGES)
    total = (found.log_marginal_likelihood - found.elbo)[chosen]
    kl = posterior_kl(vae, x[chosen], found.log_marginal_likelihood[chosen])
    for what, values in (
        ("gaps together", total),
        ("kl(q, posterior) by quadrature", kl),
    ):
        values = values.cpu().numpy()
        nothing = np.full(len(values), math.nan)
        rows += rows_of(what, values, nothing, nothing, math.nan, False)
    if not flags.no_figures:
        figures.gap_histogram(
            found.approximation.cpu().numpy(), found.amortization.cpu().numpy()
        ).savefig(folder / "gaps.png")
        if prior.event_shape[0] == 2:
            draw_posteriors(a_run, x, found).savefig(folder / "posteriors.png")
    return rows


def draw_posteriors(a_run: Run, x: Tensor, found: Gaps):
    """A dozen test images: the best, the usual and the worst gaps."""
    total = found.log_marginal_likelihood - found.elbo
    order = total.argsort().tolist()
    middle = max(0, len(order) // 2 - 2)
    groups = {
        "good": order[:4],
        "median": order[middle : middle + 4],
        "bad": order[-4:],
    }
    return figures.posteriors(
        [
            panel(a_run, x, found, index, f"{name}: gap {total[index]:.2f}")
            for name, chosen in groups.items()
            for index in chosen
        ]
    )


@torch.no_grad()
def panel(
    a_run: Run, x: Tensor, found: Gaps, index: int, title: str
) -> figures.Panel:
    vae, image = a_run.vae, x[index : index + 1]
    family = vae.guide.distribution.family
    with random_stream(0, 0, x.device):
        draws = {
            "guide": vae.infer(image).sample((2000,)).squeeze(1),
            "best of its family": family(found.features[index]).sample((2000,)),
        }
    normals = {
        name: (z.mean(0).cpu().numpy(), z.T.cov().cpu().numpy())
        for name, z in draws.items()
    }
    both = torch.cat(list(draws.values()))
    low, high = both.amin(0), both.amax(0)
    margin = (high - low) / 2
    z, density = posterior_density(vae, image, low - margin, high + margin)
    picture = image.view(a_run.data.image_shape).cpu().numpy()
    return figures.Panel(
        title, picture, z.cpu().numpy(), density.cpu().numpy(), normals
    )


@torch.no_grad()
def draw_curve(a_run: Run, x: Tensor, seed: int, folder: Path) -> None:
    """The importance bound against its number of samples."""
    vae, size = a_run.vae, 250

    def all_weights(x: Tensor) -> Tensor:
        chunks = range(max(CURVE) // size)
        return torch.cat([log_weights(vae, x, size) for _ in chunks])

    with evaluation_mode(vae), random_stream(seed, 0, x.device):
        weights = torch.cat([all_weights(part) for part in x.split(8)], dim=1)
    weights = weights.double()
    bounds, errors = [], []
    for count in CURVE:
        groups = weights.view(-1, count, len(x)).logsumexp(1) - math.log(count)
        bounds.append(groups.mean().item())
        means = groups.mean(1)
        spread = means.std() if len(means) > 1 else means.new_zeros(())
        errors.append(spread.item() / len(means) ** 0.5)
    method = default_method(vae)
    exact = None
    if method != "importance":
        exact = log_marginal_likelihood(vae, x, method=method).value.mean()
    figures.bound_curve(
        CURVE, np.array(bounds), np.array(errors), exact
    ).savefig(folder / "importance.png")


if __name__ == "__main__":
    run(main)
