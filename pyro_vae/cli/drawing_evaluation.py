"""The figures of an evaluation: posteriors, gaps, and the importance bound."""

import math

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae import figures
from pyro_vae.evaluation import (
    Gaps,
    default_method,
    evaluation_mode,
    log_marginal_likelihood,
    log_weights,
    posterior_density,
    zip_batches,
)
from pyro_vae.randomness import random_stream
from pyro_vae.runs.run import Run
from pyro_vae.vae import VAE

CURVE = (1, 10, 100, 1000, 5000)  # samples of each bound
WEIGHTS_AT_A_TIME = 250  # samples of z for each image
IMAGES_AT_A_TIME = 8
POINTS = 120  # along each axis of a posterior's picture
GROUP = 4  # images with good, with usual and with bad gaps


def draw_gaps(gaps: Gaps) -> Figure:
    """Draws how the two gaps are distributed over images."""
    approximation, amortization = (
        gap.cpu().numpy() for gap in (gaps.approximation, gaps.amortization)
    )
    of = f"the first {len(amortization):,} test images"
    return figures.gap_histogram(approximation, amortization, of)


def draw_posteriors(
    run: Run, x: Tensor, labels: Tensor | None, gaps: Gaps
) -> Figure:
    """Draws the posteriors of the best, the usual and the worst gaps.

    Args:
        run: The run.
        x: The images that the gaps are of, `(B, D)`, or more.
        labels: Their labels, `(B,)`, of a conditional VAE.
        gaps: Their gaps.
    """
    total = gaps.log_marginal_likelihood - gaps.elbo
    order = total.argsort().tolist()
    middle = max(0, len(order) // 2 - GROUP // 2)
    groups = {
        "least gap": order[:GROUP],
        "median gap": order[middle : middle + GROUP],
        "largest gap": order[-GROUP:],
    }
    return figures.posterior_panels(
        [
            _make_panel(
                run.vae
                if labels is None
                else run.vae.given(int(labels[index])),
                x[index : index + 1],
                gaps.parameters[index],
                run.data.image_shape,
                f"{name}:\n{total[index]:.2f} nats",
            )
            for name, chosen in groups.items()
            for index in chosen
        ]
    )


@torch.no_grad()
def _make_panel(
    vae: VAE,
    image: Tensor,
    parameters: Tensor,
    image_shape: tuple[int, ...],
    title: str,
) -> figures.Panel:
    best = vae.guide.family(parameters)
    size = torch.Size([2000])
    with random_stream(0, 0, image.device):
        draws = {
            "guide": vae.infer(image).sample(size).squeeze(1),
            "best of its family": best.sample(size),
        }
    normals = {
        name: (z.mean(0).cpu().numpy(), z.T.cov().cpu().numpy())
        for name, z in draws.items()
    }
    both = torch.cat(list(draws.values()))
    low, high = both.amin(0), both.amax(0)
    middle = (low + high) / 2
    side = 0.8 * (high - low).max()  # half of a square's
    corners = (middle - side, middle + side)
    z, density = posterior_density(vae, image, *corners, size=POINTS)
    picture = image.nan_to_num(1.0).view(image_shape)  # on white
    if picture.dim() == 3:  # imshow wants the channels last
        picture = picture.movedim(0, -1)
    return figures.Panel(
        title,
        picture.cpu().numpy(),
        z.cpu().numpy(),
        density.cpu().numpy(),
        normals,
    )


@torch.no_grad()
def draw_bounds(
    vae: VAE, x: Tensor, labels: Tensor | None, seed: int
) -> Figure:
    """Draws the importance bound against its number of samples.

    Args:
        vae: The VAE.
        x: Images, `(B, D)`.
        labels: Their labels, `(B,)`, of a conditional VAE.
        seed: The seed of the samples.
    """
    weights = _draw_weights(vae, x, labels, seed)
    bounds, errors = [], []
    for count in CURVE:
        groups = weights.view(-1, count, len(x)).logsumexp(1) - math.log(count)
        bounds.append(groups.mean().item())
        means = groups.mean(1)
        spread = means.std() if len(means) > 1 else means.new_zeros(())
        errors.append(spread.item() / len(means) ** 0.5)
    method, exact = default_method(vae), None
    if method != "importance":
        found = log_marginal_likelihood(vae, x, method=method, labels=labels)
        exact = found.value.mean().item()
    of = f"{len(x):,} images, spread over the test set"
    return figures.bound_curve(
        CURVE, np.array(bounds), np.array(errors), exact, of
    )


def _draw_weights(
    vae: VAE, x: Tensor, labels: Tensor | None, seed: int
) -> Tensor:
    """Returns log-weights for the longest bound, `(S, B)`."""
    num_chunks = max(CURVE) // WEIGHTS_AT_A_TIME

    def all_weights(x: Tensor, *y: Tensor) -> Tensor:
        given = vae.given(int(y[0])) if y else vae
        chunks = range(num_chunks)
        return torch.cat(
            [log_weights(given, x, WEIGHTS_AT_A_TIME) for _ in chunks]
        )

    with evaluation_mode(vae), random_stream(seed, 0, x.device):
        size = IMAGES_AT_A_TIME if labels is None else 1
        parts = [all_weights(*part) for part in zip_batches(x, labels, size)]
    return torch.cat(parts, dim=1).double()
