"""Latent space as equal cells, and what they hold of some images' mass."""

import copy
import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from pyro_vae.parts.distributions import center
from pyro_vae.vae import VAE

COARSE = 2  # points along each axis of a cell, when mass is looked for
FINE = 8  # and when it is measured
SLACK = 60.0  # nats below an image's best cell, at which one is left out
POINTS = 512  # decoded at a time


@dataclass(frozen=True)
class Cells:
    """Sparse (cell, image) pairs: what each cell holds of an image's mass.

    Attributes:
        cell: Its index in the grid of its level.
        image: The image's index.
        log_mass: log of the integral over the cell.
        log_error: log of what that may be off by; at first, the whole mass.
        level: How often the grid was halved.
    """

    cell: Tensor
    image: Tensor
    log_mass: Tensor
    log_error: Tensor
    level: Tensor

    def total(self, num_images: int) -> Tensor:
        """The log of each image's mass, `(B,)`."""
        return log_sums(self.log_mass, self.image, num_images)

    def where(self, keep: Tensor) -> "Cells":
        """Some of them."""
        return Cells(*[tensor[keep] for tensor in self.tensors()])

    def tensors(self) -> list[Tensor]:
        """All columns."""
        return [getattr(self, field.name) for field in fields(self)]


def join(cells: list[Cells]) -> Cells:
    """All of them."""
    columns = zip(*[one.tensors() for one in cells], strict=True)
    return Cells(*map(torch.cat, columns))


def log_sums(values: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """logsumexp over the values of each group, `(num_groups,)`."""
    highest = values.new_full((num_groups,), -math.inf)
    highest = highest.scatter_reduce(0, group, values, "amax")
    excess = (values - highest[group]).exp()
    return highest + torch.zeros_like(highest).index_add(0, group, excess).log()


class Grid:
    """Equal cells over a box of latent space, for some images."""

    def __init__(
        self, vae: VAE, x: Tensor, low: Tensor, side: Tensor, count: int
    ):
        self.vae, self.x, self.low = vae, x, low
        self.exact_x = x.double()
        self.side, self.count = side, count
        self.dim = len(low)

    def double(self) -> "Grid":
        """The same grid in double precision, as narrow peaks far out need."""
        vae, x = copy.deepcopy(self.vae).double(), self.exact_x
        return Grid(vae, x, self.low.double(), self.side.double(), self.count)

    def halved(self, times: int) -> "Grid":
        """The grid whose cells were halved so often."""
        finer = copy.copy(self)
        finer.side, finer.count = self.side / 2**times, self.count * 2**times
        return finer

    def halves(self, cells: Tensor) -> Tensor:
        """What cells consist of in the grid halved once: `(C, 2^P)`."""
        places = 2 * self._coordinates(cells).unsqueeze(1)
        return self.halved(1)._index(places + self._product(torch.arange(2)))

    def points(self, cells: Tensor, places: Tensor) -> Tensor:
        """Points at so much of each axis of the cells: `(C, size^P, P)`."""
        corners = self.low + self._coordinates(cells) * self.side
        offsets = self._product(places).to(corners) * self.side
        return corners.unsqueeze(1) + offsets

    def find(self) -> tuple[Tensor, Tensor]:
        """The cells that may hold mass, with the images that may have it.

        A peak between the points of the first, coarse look is seen by its
        slopes; the cells around the guide's centre are always looked into.
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
        best = torch.cat(best)
        active = best > best.amax(0) - SLACK
        images = torch.arange(len(self.x), device=self.x.device)
        for neighbour in self._around_guide():
            active[neighbour, images] = True
        cell, image = active.nonzero(as_tuple=True)
        return cell, image

    def integrate(self, cell: Tensor, image: Tensor) -> Cells:
        """The pairs' masses, of which nothing more is known yet."""
        log_mass = self.log_masses(cell, image)
        return Cells(cell, image, log_mass, log_mass, torch.zeros_like(cell))

    def log_masses(self, cell: Tensor, image: Tensor) -> Tensor:
        """Integrates the joint density over each pair's cell.

        Args:
            cell: Sorted, `(M,)`.
            image: `(M,)`.

        Returns:
            The logs, `(M,)`, in double precision.
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
        """The fraction of each image's mass that lies in outermost cells."""
        coordinates = self._coordinates(cells.cell)
        is_edge = ((coordinates == 0) | (coordinates == self.count - 1)).any(-1)
        total = cells.total(len(self.x))
        at_edge = cells.where(is_edge)
        return (at_edge.total(len(self.x)) - total).exp()

    def _product(self, values: Tensor) -> Tensor:
        """Every choice of one of n values for each axis: `(n^P, P)`."""
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
    """Returns log p(x, z) for every pair of `(M, P)` and `(B, D)`: `(M, B)`.

    By the likelihood's `cross_log_prob` if it has one.
    """
    log_p = vae.prior().log_prob(z).to(x).unsqueeze(-1)
    if hasattr(vae.likelihood, "cross_log_prob"):
        return log_p + vae.likelihood.cross_log_prob(z, x)
    rows = max(1, 100_000_000 // x.numel())
    parts = [
        vae.likelihood(part.unsqueeze(1)).log_prob(x.to(z)).to(x)
        for part in z.split(rows)
    ]
    return log_p + torch.cat(parts)


def find_centers(vae: VAE, x: Tensor) -> Tensor:
    """One point to stand for the guide of each image, `(B, P)`."""
    return torch.cat([center(vae.infer(part)) for part in x.split(1000)])
