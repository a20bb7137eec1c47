"""The rows of evaluation.csv: log p(x), the gaps, and the use of latents."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.evaluation import Gaps, check_aggregate, posterior_kl
from pyro_vae.vae import VAE

KL_IMAGES = 50  # whose KL is integrated to check the gaps

Rows = list[dict[str, Any]]


def make_rows(
    what: str,
    values: Tensor,
    errors: Tensor | None = None,
    effective: Tensor | None = None,
    seconds: float = math.nan,
    per_image: bool = False,
    bits: float | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields the rows of a quantity: one for each image, then a summary.

    Args:
        what: The name of the quantity.
        values: The quantity of each image, `(B,)`.
        errors: The errors of the values, `(B,)`.
        effective: The effective sample sizes, `(B,)`.
        seconds: The time that it took.
        per_image: Whether to yield rows for the images.
        bits: Minus the mean in bits per dimension, where that means something.
    """
    missing = torch.full((len(values),), math.nan)
    columns = {
        "value": values,
        "error": missing if errors is None else errors,
        "effective_sample_size": missing if effective is None else effective,
    }
    arrays = {name: column.cpu().numpy() for name, column in columns.items()}
    if per_image:
        for image in range(len(values)):
            row = {name: array[image] for name, array in arrays.items()}
            yield {"what": what, "image": image, **row}
    value = arrays["value"]
    in_bits = {} if bits is None else {"bits_per_dimension": bits}
    yield {
        "what": what,
        "image": None,
        "images": len(value),
        "value": value.mean(),
        "standard_error": value.std() / len(value) ** 0.5,
        "error": arrays["error"].max(),
        "effective_sample_size": np.median(arrays["effective_sample_size"]),
        "seconds": seconds,
        **in_bits,
    }


def describe_aggregate(
    vae: VAE, test: Tensor, labels: Tensor | None, seed: int
) -> Rows:
    """Returns rows on the use of the latents, and on q(z) beside the prior."""
    if vae.num_states > 1:
        return []
    found = check_aggregate(vae, test, seed, labels)
    numbers: list[tuple[str, float, float | None]] = [
        ("active units", float(found.active.sum()), None),
        ("mmd squared", found.mmd, found.mmd_error),
    ]
    for p in range(len(found.kl)):
        numbers += [
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
        for what, value, error in numbers
    ]


def describe_gaps(
    vae: VAE,
    x: Tensor,
    labels: Tensor | None,
    gaps: Gaps,
    seconds: float,
    per_image: bool,
) -> Rows:
    """Returns rows on the two gaps, and on their sum beside an integral."""
    error = (gaps.elbo_error**2 + gaps.best_elbo_error**2).sqrt()
    rows: Rows = []
    for what, values, errors in (
        ("approximation gap", gaps.approximation, gaps.best_elbo_error),
        ("amortization gap", gaps.amortization, error),
    ):
        rows += make_rows(what, values, errors, None, seconds, per_image)
    if is_plane_or_line(vae):
        exact, some = gaps.log_marginal_likelihood, slice(0, KL_IMAGES)
        known = None if labels is None else labels[some]
        kl = posterior_kl(vae, x[some], exact[some], known)
        rows += make_rows("gaps together", (exact - gaps.elbo)[some])
        rows += make_rows("kl(q, posterior) by quadrature", kl)
    return rows


def is_plane_or_line(vae: VAE) -> bool:
    """Returns whether there are one or two latents, and no discrete ones."""
    return vae.num_states == 1 and vae.prior().event_shape[0] <= 2
