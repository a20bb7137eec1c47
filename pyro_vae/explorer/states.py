"""Discrete latents: the states' mean images, and the images in each."""

from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation import assign, evaluation_mode, has_numbered_states
from pyro_vae.explorer.arrays import Blob
from pyro_vae.vae import VAE

MOST = 256  # states that are shown, the fullest first


@torch.no_grad()
def describe_states(
    vae: VAE, x: Tensor, labels: Tensor | None, blob: Blob
) -> dict[str, Any]:
    """Returns the states in use, JSON-able, those with most images first.

    Args:
        vae: A VAE of one-hot latents.
        x: The test images, `(N, D)`.
        labels: Their labels, numbered from 0, `(N,)`.
        blob: Where the images go.

    Raises:
        ValueError: If there are more states than integers number.
    """
    if not has_numbered_states(vae):
        raise ValueError(
            "there are more than 2**63 discrete states; expected fewer, which "
            "can be numbered: explore a run with fewer num_variables"
        )
    states = assign(vae, x)
    used, counts = states.unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)[:MOST]
    used, counts = used[order], counts[order]
    z = _one_hots(used, *vae.prior().logits.shape[-2:]).to(x)
    with evaluation_mode(vae):
        images = vae.generate(z)
    kinds = torch.zeros(len(x), dtype=torch.long) if labels is None else labels
    table = torch.stack(
        [
            torch.bincount(kinds[states == s], minlength=int(kinds.max()) + 1)
            for s in used
        ]
    )
    place = torch.full((len(x),), len(used))
    for number, state in enumerate(used):
        place[states == state] = number
    return {
        "num_states": vae.num_states,
        "numbers": used.tolist(),
        "counts": counts.tolist(),
        "labels": table.tolist(),
        "images": blob.add((images.clamp(0, 1) * 255).round().byte()),
        "state_of": blob.add(place.clamp(max=65_535).float()),
    }


def _one_hots(
    numbers: Tensor, num_variables: int, num_components: int
) -> Tensor:
    """Returns the configurations of given numbers, `(S, L K)`."""
    powers = num_components ** torch.arange(num_variables - 1, -1, -1)
    digits = numbers.unsqueeze(-1) // powers % num_components
    return torch.eye(num_components)[digits].flatten(-2)
