"""Latent space as equal cells, and how much of images' mass they hold."""

import copy
import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from pyro_vae.parts.contracts import Likelihood, pairwise_log_prob
from pyro_vae.parts.distributions import center
from pyro_vae.vae import VAE

COARSE = 2  # points along each axis of a cell, when mass is looked for
FINE = 4  # and when it is measured
SLACK = 60.0  # nats below an image's best cell, at which one is left out
POINTS = 512  # decoded at a time


@dataclass(frozen=True)
class Cells:
    """M (cell, image) pairs: how much of the image's mass the cell holds.

    Attributes:
        cell: The cell's index in the grid of its level, `(M,)`.
        image: The image's index, `(M,)`.
        log_mass: The log of the integral of p(x, z) over the cell, `(M,)`.
        log_error: The log of how far off the integral may be, `(M,)`; at first
            that is the whole mass.
        level: How often the grid was halved, `(M,)`.
    """

    cell: Tensor
    image: Tensor
    log_mass: Tensor
    log_error: Tensor
    level: Tensor

    def total(self, num_images: int) -> Tensor:
        """Returns the log of each image's mass, `(B,)`."""
        return log_sums(self.log_mass, self.image, num_images)

    def where(self, keep: Tensor) -> "Cells":
        """Returns the pairs where a mask, `(M,)`, is true."""
        return Cells(*[tensor[keep] for tensor in self.tensors()])

    def tensors(self) -> list[Tensor]:
        """Returns the five columns, in the order of the attributes."""
        return [getattr(self, field.name) for field in fields(self)]


def join(cells: list[Cells]) -> Cells:
    """Returns the pairs of several `Cells` as one."""
    columns = zip(*[one.tensors() for one in cells], strict=True)
    return Cells(*map(torch.cat, columns))


def log_sums(values: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """Returns the logsumexp over each group's values, `(num_groups,)`."""
    highest = values.new_full((num_groups,), -math.inf)
    highest = highest.scatter_reduce(0, group, values, "amax")
    excess = (values - highest[group]).exp()
    return highest + torch.zeros_like(highest).index_add(0, group, excess).log()


class Grid:
    """Equal cells over a box of latent space, for some images.

    Args:
        vae: The VAE.
        x: Images, `(B, D)`.
        low: The box's lower corner, `(P,)`.
        side: The cells' sides, `(P,)`.
        count: The number of cells along each axis.
    """

    def __init__(
        self, vae: VAE, x: Tensor, low: Tensor, side: Tensor, count: int
    ):
        self.vae, self.x, self.low = vae, x, low
        self.exact_x = x.double()
        self.side, self.count = side, count
        self.dim = len(low)

    def double(self) -> "Grid":
        """Returns the grid in double precision, for narrow peaks far out."""
        vae, x = copy.deepcopy(self.vae).double(), self.exact_x
        return Grid(vae, x, self.low.double(), self.side.double(), self.count)

    def halved(self, times: int) -> "Grid":
        """Returns the grid whose cells were halved that many times."""
        finer = copy.copy(self)
        finer.side, finer.count = self.side / 2**times, self.count * 2**times
        return finer

    def halves(self, cells: Tensor) -> Tensor:
        """Returns the cells' parts in the grid halved once, `(C, 2^P)`."""
        places = 2 * self._coordinates(cells).unsqueeze(1)
        return self.halved(1)._index(places + self._product(torch.arange(2)))

    def points(self, cells: Tensor, places: Tensor) -> Tensor:
        """Returns points in the cells, `(C, size^P, P)`.

        Args:
            cells: The cells' indices, `(C,)`.
            places: The points' places along each side of a cell, from 0 to 1,
                `(size,)`.
        """
        corners = self.low + self._coordinates(cells) * self.side
        offsets = self._product(places).to(corners) * self.side
        return corners.unsqueeze(1) + offsets

    def find(self) -> tuple[Tensor, Tensor]:
        """Returns the pairs of cells and images that may hold mass.

        A peak between the points of the first, coarse look is seen by its
        slopes; the cells around the guide's center are always looked into.

        Returns:
            The cells' and the images' indices, `(M,)` each.
        """
        best = []
        num_points = COARSE**self.dim
        places = (torch.arange(COARSE) + 0.5) / COARSE
        everywhere = torch.arange(self.count**self.dim, device=self.x.device)
        for cells in everywhere.split(POINTS // num_points):
            z = self.points(cells, places)
            joint = log_joint(self.vae, z.flatten(0, 1), self.x)
            joint = joint.view(len(cells), num_points, -1)
            best.append(joint.amax(1))
        highest = torch.cat(best)
        active = highest > highest.amax(0) - SLACK
        images = torch.arange(len(self.x), device=self.x.device)
        for neighbor in self._around_guide():
            active[neighbor, images] = True
        cell, image = active.nonzero(as_tuple=True)
        return cell, image

    def integrate(self, cell: Tensor, image: Tensor) -> Cells:
        """Returns the pairs with their masses, of unknown errors so far."""
        log_mass = self.log_masses(cell, image)
        return Cells(cell, image, log_mass, log_mass, torch.zeros_like(cell))

    def log_masses(self, cell: Tensor, image: Tensor) -> Tensor:
        """Integrates the joint density over each pair's cell.

        Args:
            cell: The cells' indices, sorted, `(M,)`.
            image: The images' indices, `(M,)`.

        Returns:
            The logs of the integrals, `(M,)`, in double precision.
        """
        nodes, weights = map(
            torch.tensor, np.polynomial.legendre.leggauss(FINE)
        )
        log_weights = self._product((weights / 2).log()).sum(-1, keepdim=True)
        log_volume = self.side.log().sum()
        cells, counts = cell.unique_consecutive(return_counts=True)
        size = POINTS // FINE**self.dim
        parts, start = [], 0
        for group, of_each in zip(
            cells.split(size), counts.split(size), strict=True
        ):
            stop = start + int(of_each.sum())
            images, column = image[start:stop].unique(return_inverse=True)
            row = torch.arange(len(group), device=cell.device)
            row = row.repeat_interleave(of_each)
            z = self.points(group, (nodes + 1) / 2)
            x = self.exact_x[images]
            joint = log_joint(self.vae, z.flatten(0, 1), x)
            joint = joint.view(*z.shape[:2], -1)
            sums = (joint + log_weights.to(joint)).logsumexp(1)
            parts.append(sums[row, column] + log_volume)
            start = stop
        return torch.cat(parts).double()

    def edge_mass(self, cells: Cells) -> Tensor:
        """Returns the fraction of each image's mass at the edge, `(B,)`."""
        coordinates = self._coordinates(cells.cell)
        is_edge = ((coordinates == 0) | (coordinates == self.count - 1)).any(-1)
        total = cells.total(len(self.x))
        at_edge = cells.where(is_edge)
        return (at_edge.total(len(self.x)) - total).exp()

    def _product(self, values: Tensor) -> Tensor:
        """Returns every choice of one of n values for each axis, `(n^P, P)`."""
        values = values.to(self.x.device)
        product = torch.cartesian_prod(*[values] * self.dim)
        return product.view(-1, self.dim)

    def _coordinates(self, cells: Tensor) -> Tensor:
        places = [cells // self.count**i % self.count for i in range(self.dim)]
        return torch.stack(places, dim=-1)

    def _index(self, coordinates: Tensor) -> Tensor:
        powers = self.count ** torch.arange(self.dim)
        return (coordinates * powers.to(coordinates)).sum(-1)

    def _around_guide(self) -> list[Tensor]:
        center = find_centers(self.vae, self.x)
        place = ((center - self.low) / self.side).floor().long()
        return [
            self._index((place + shift).clamp(0, self.count - 1))
            for shift in self._product(torch.arange(-1, 2))
        ]


def log_joint(vae: VAE, z: Tensor, x: Tensor) -> Tensor:
    """Returns log p(x, z) for every pair of a latent and an image.

    Args:
        vae: The VAE.
        z: Latents, `(M, P)`.
        x: Images, `(B, D)`.

    Returns:
        `(M, B)`, in nats, of x's dtype.
    """
    log_p = vae.prior().log_prob(z).to(x).unsqueeze(-1)
    likelihood = vae.likelihood
    if isinstance(likelihood, Likelihood):
        return log_p + likelihood.cross_log_prob(z, x)
    return log_p + pairwise_log_prob(likelihood, z, x)


def find_centers(vae: VAE, x: Tensor) -> Tensor:
    """Returns one point to stand for each image's q(z | x), `(B, P)`."""
    return torch.cat([center(vae.infer(part)) for part in x.split(1000)])
