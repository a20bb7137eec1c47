"""The rows of evaluation.csv: log p(x), the gaps, and the use of latents.

The columns of a row, of which some are empty:

- `what`: the quantity, in nats per image unless its name says otherwise.
- `image`: the image's place in the test set; empty in a summary of all images.
- `images`: the number of images that a summary is of.
- `epoch`: the epoch of the weights that were evaluated.
- `value`: the quantity of the image, or its mean over images.
- `standard_error`: that of the mean, over images.
- `sampling_error`: the standard error by the samples of z of the image's value,
  or the largest one of all images.
- `tolerance`: how far off the image's value may be by the rules of an exact
  computation, or the largest one of all images.
- `effective_sample_size`: the number of equally weighted samples that would
  tell as much, or the median over images.
- `seconds`: the time that it took.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.evaluation import (
    Gaps,
    LogMarginal,
    check_aggregate,
    posterior_kl,
)
from pyro_vae.vae import VAE

KL_IMAGES = 50  # whose KL is integrated to check the gaps

COLUMNS = (
    "what",
    "image",
    "images",
    "epoch",
    "value",
    "standard_error",
    "sampling_error",
    "tolerance",
    "effective_sample_size",
    "bits_per_dimension",
    "seconds",
)
Rows = list[dict[str, Any]]


def make_rows(
    what: str,
    found: LogMarginal,
    is_exact: bool = False,
    seconds: float = math.nan,
    per_image: bool = False,
    bits: float | None = None,
) -> Rows:
    """Returns the rows of a quantity: one for each image, then a summary.

    Args:
        what: The name of the quantity.
        found: The quantity of each image.
        is_exact: Whether its errors are tolerances, and not standard errors of
            sampling.
        seconds: The time that it took.
        per_image: Whether to make rows for the images.
        bits: Minus the mean in bits per dimension, where that means something.
    """
    errors = "tolerance" if is_exact else "sampling_error"
    columns = {"value": found.value, errors: found.error}
    if found.effective_sample_size is not None:
        columns["effective_sample_size"] = found.effective_sample_size
    arrays = {name: column.cpu().numpy() for name, column in columns.items()}
    rows: Rows = []
    for image in range(len(found.value) if per_image else 0):
        row = {name: array[image] for name, array in arrays.items()}
        rows.append({"what": what, "image": image, **row})
    value = arrays["value"]
    summary = {
        "what": what,
        "images": len(value),
        "value": value.mean(),
        "standard_error": value.std() / len(value) ** 0.5,
        errors: arrays[errors].max(),
        "seconds": seconds,
    }
    if bits is not None:
        summary["bits_per_dimension"] = bits
    if "effective_sample_size" in arrays:
        size = np.median(arrays["effective_sample_size"])
        summary["effective_sample_size"] = size
    return [*rows, summary]


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
        found = LogMarginal(values, errors)
        rows += make_rows(what, found, False, seconds, per_image)
    if is_plane_or_line(vae):
        exact, some = gaps.log_marginal_likelihood, slice(0, KL_IMAGES)
        known = None if labels is None else labels[some]
        kl = posterior_kl(vae, x[some], exact[some], known)
        both, unknown = (exact - gaps.elbo)[some], torch.full_like(kl, math.nan)
        rows += make_rows(
            "gaps together", LogMarginal(both, gaps.elbo_error[some])
        )
        rows += make_rows(
            "kl(q, posterior) by quadrature", LogMarginal(kl, unknown)
        )
    return rows


def is_plane_or_line(vae: VAE) -> bool:
    """Returns whether there are one or two latents, and no discrete ones."""
    return vae.num_states == 1 and vae.prior().event_shape[0] <= 2
