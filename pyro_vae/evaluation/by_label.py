"""A conditional VAE, evaluated class by class.

Given its label, each image has a VAE of its own, that of p(x | y), and every
method that takes a VAE without labels takes that one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyro_vae.vae import VAE

Result = TypeVar("Result")


def place_labels(vae: VAE, labels: Tensor | None) -> Tensor | None:
    """Returns labels on the device of a conditional VAE; otherwise None."""
    if labels is None or not vae.num_labels:
        return None
    return labels.to(next(vae.parameters()).device, torch.long)


def split_labels(
    vae: VAE, labels: Tensor | None
) -> Iterator[tuple[VAE, Tensor]]:
    """Yields each label's VAE, and the places of its images, `(b,)`.

    Args:
        vae: A VAE with labels.
        labels: The images' labels, `(B,)`.

    Raises:
        ValueError: If there are no labels, or one is none of the VAE's.
    """
    if labels is None:
        raise ValueError(
            f"the VAE is conditional on {vae.num_labels} labels, and none were "
            "given; expected labels=, one for each image"
        )
    for label in labels.unique().tolist():
        yield vae.given(label), (labels == label).nonzero().squeeze(1)


def by_label(
    compute: Callable[[VAE, Tensor], Result],
    vae: VAE,
    x: Tensor,
    labels: Tensor | None,
) -> Result:
    """Computes something of each image, by the VAE of its label.

    Args:
        compute: Takes a VAE and images `(b, D)`; returns a dataclass whose
            tensors have a row for each image.
        vae: The VAE; one without labels computes all at once.
        x: Images, `(B, D)`.
        labels: Their labels, `(B,)`; None for a VAE without labels.

    Raises:
        ValueError: If labels are missing, or not asked for.
    """
    if not vae.num_labels:
        if labels is not None:
            raise ValueError(
                "labels were given to a VAE that takes none; expected none"
            )
        return compute(vae, x)
    if labels is not None and labels.shape != (len(x),):
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} for {len(x)} images; "
            "expected one for each"
        )
    parts, places = [], []
    for member, index in split_labels(vae, labels):
        parts.append(compute(member, x[index]))
        places.append(index)
    return _join(parts, torch.cat(places).argsort())


def _join(parts: Sequence[Any], order: Tensor) -> Any:
    """Returns dataclasses of tensors as one, with its rows in an order."""
    columns = {}
    for field in fields(parts[0]):
        column = [getattr(part, field.name) for part in parts]
        is_known = column[0] is not None
        columns[field.name] = torch.cat(column)[order] if is_known else None
    return type(parts[0])(**columns)
