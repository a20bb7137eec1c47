"""The test set's latents, and the plane through latent space that is drawn."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation import evaluation_mode
from pyro_vae.explorer.arrays import Blob, to_list
from pyro_vae.parts.distributions import center
from pyro_vae.vae import VAE

INSIDE = 0.005  # of the points lie outside the first view, on each side


@dataclass(frozen=True)
class Plane:
    """Latent space itself up to P = 2, else two principal components.

    Attributes:
        origin: The latent at the coordinates 0, `(P,)`.
        directions: Orthonormal rows, `(2, P)`; `(1, P)` where P is 1.
    """

    origin: Tensor
    directions: Tensor

    @staticmethod
    def through(z: Tensor) -> "Plane":
        """Returns the plane of latents `(N, P)`."""
        dim = z.shape[1]
        if dim <= 2:
            return Plane(z.new_zeros(dim), torch.eye(dim).to(z))
        origin = z.mean(0)
        _, _, rows = torch.linalg.svd(z - origin, full_matrices=False)
        return Plane(origin, rows[:2])

    def project(self, z: Tensor) -> Tensor:
        """Returns the coordinates of latents `(N, P)`."""
        return (z - self.origin) @ self.directions.T


@torch.no_grad()
def find_latents(vae: VAE, x: Tensor) -> Tensor:
    """Returns the center of q(z | x) of each image, `(N, P)`."""
    with evaluation_mode(vae):
        return torch.cat([center(vae.infer(part)) for part in x.split(1000)])


def describe_latents(z: Tensor, blob: Blob) -> dict[str, Any]:
    """Returns the plane, the points on it and the sliders' range, JSON-able.

    Args:
        z: The test set's latents, `(N, P)`.
        blob: Where the points go.
    """
    plane = Plane.through(z)
    points = plane.project(z)
    return {
        "latent_dim": z.shape[1],
        "origin": to_list(plane.origin),
        "directions": to_list(plane.directions),
        "points": blob.add(points),
        "low": to_list(points.quantile(INSIDE, dim=0)),
        "high": to_list(points.quantile(1 - INSIDE, dim=0)),
        "range": to_list(torch.stack([z.amin(0), z.amax(0)], dim=1)),
    }
