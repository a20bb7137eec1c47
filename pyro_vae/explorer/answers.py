"""What only the package computes: exact posteriors, and gaps in nats."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation import (
    Gaps,
    default_method,
    evaluation_mode,
    split_gap,
)
from pyro_vae.evaluation.grid import log_joint
from pyro_vae.explorer.arrays import Blob, to_list
from pyro_vae.explorer.distributions import describe_ellipse
from pyro_vae.parts.contracts import AmortizedGuide
from pyro_vae.randomness import random_stream
from pyro_vae.vae import VAE

SIDE = 41  # grid points along each axis of a posterior
DRAWS = 2000  # of q, around which a posterior is looked for
DEPTH = 12.0  # nats below its peak, at which a density is cut off
MASSES = (0.5, 0.9, 0.99)  # of the posterior within its contours
AT_A_TIME = 12  # images
METHODS = {  # the words for log p(x)
    "quadrature": "exact log p(x)",
    "exact": "exact log p(x)",
    "importance": "log p(x), at least",
    "ais": "log p(x), at least",
}


def answer(vae: VAE, x: Tensor, blob: Blob) -> Iterator[dict[str, Any]]:
    """Yields the answers for each of a few images, JSON-able.

    Args:
        vae: The VAE, with continuous latents.
        x: Images, `(B, D)`.
        blob: Where the densities go.
    """
    if not (len(x) and isinstance(vae.guide.distribution, AmortizedGuide)):
        return
    method = default_method(vae)
    for part in x.split(AT_A_TIME):
        gaps = split_gap(vae, part, method)
        for index in range(len(part)):
            words = _describe_gap(gaps, index)
            words["method"] = METHODS[method]
            words.update(
                _describe_posterior(
                    vae, part[index : index + 1], gaps, index, blob
                )
            )
            yield words


def _describe_gap(gaps: Gaps, index: int) -> dict[str, Any]:
    columns = {
        "elbo": gaps.elbo,
        "elbo_error": gaps.elbo_error,
        "log_p": gaps.log_marginal_likelihood,
        "approximation": gaps.approximation,
        "amortization": gaps.amortization,
        "error": gaps.best_elbo_error,
    }
    return {name: to_list(column[index]) for name, column in columns.items()}


@torch.no_grad()
def _describe_posterior(
    vae: VAE, x: Tensor, gaps: Gaps, index: int, blob: Blob
) -> dict[str, Any]:
    """Returns q, the best q, and the posterior where it is exact."""
    with evaluation_mode(vae), random_stream(0, 0, x.device):
        q = vae.infer(x)
        best = vae.guide.family(gaps.parameters[index : index + 1])
        size = torch.Size([DRAWS])
        draws = torch.cat([d.sample(size).squeeze(1) for d in (q, best)])
        words = {"q": describe_ellipse(q), "best": describe_ellipse(best)}
        if draws.shape[1] > 2:
            return words
        low, high = draws.amin(0), draws.amax(0)
        margin = (high - low) / 4
        log_p = gaps.log_marginal_likelihood[index]
        density = _Posterior(vae, x, log_p)
        return {
            **words,
            "posterior": density.describe(low - margin, high + margin, blob),
        }


class _Posterior:
    """The density p(z | x) of an image, exact where log p(x) is."""

    def __init__(self, vae: VAE, x: Tensor, log_p: Tensor):
        self.vae, self.x, self.log_p = vae, x.double(), log_p

    def evaluate(self, low: Tensor, high: Tensor) -> Tensor:
        """Returns log p(z | x) on a grid over a box, row by row."""
        steps = torch.linspace(0, 1, SIDE).to(low).unsqueeze(-1)
        axes = (low + (high - low) * steps).T
        z = torch.cartesian_prod(*axes).view(-1, len(low))
        joint = log_joint(self.vae, z, self.x)
        return (joint - self.log_p).view([SIDE] * len(low))

    def describe(self, low: Tensor, high: Tensor, blob: Blob) -> dict[str, Any]:
        """Returns the density around its peak, JSON-able.

        Args:
            low: A box's lower corner, `(P,)`.
            high: Its upper corner, `(P,)`.
            blob: Where the values go.
        """
        low, high = self._shrink(low, high)
        values = self.evaluate(low, high)
        depth = ((values - values.max()) / DEPTH).clamp(-1, 0) + 1
        return {
            "low": to_list(low),
            "high": to_list(high),
            "depth": DEPTH,
            "peak": to_list(values.max()),
            "levels": to_list(_mass_levels(values) - values.max()),
            "values": blob.add((depth * 255).round().byte()),
        }

    def _shrink(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the part of a box that holds what is not cut off."""
        for _ in range(3):
            values = self.evaluate(low, high)
            side = (high - low) / (SIDE - 1)
            places = (values > values.max() - DEPTH / 2).nonzero()
            first, last = places.amin(0), places.amax(0)
            high = low + side * (last + 2)
            low = low + side * (first - 2)
        return low, high


def _mass_levels(values: Tensor) -> Tensor:
    """Returns the log-densities whose contours hold given masses."""
    ordered = values.flatten().sort(descending=True).values
    mass = (ordered - ordered[0]).exp().cumsum(0)
    places = [int((mass < mass[-1] * part).sum()) for part in MASSES]
    return ordered[places]
