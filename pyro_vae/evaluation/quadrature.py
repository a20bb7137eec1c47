"""Exact answers where there are at most two latent dimensions.

The integrals are Gauss-Legendre sums over cells of latent space. All images
share the grid, so that each point is decoded once and meets its images in one
matrix product; a cell is split, for the images whose mass it holds, until its
parts add up to what it held.
"""

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pyro_vae.distributions import center
from pyro_vae.evaluation.elbo import evaluation_mode
from pyro_vae.vae import VAE

CELLS = 64  # along each axis, before any is split
COARSE = 2  # points along each axis of a cell, when mass is looked for
FINE = 8  # and when it is measured
MAX_SPLITS = 12
ROUGH = 6  # splits in the VAE's own precision, the rest in double
SLACK = 60.0  # nats below an image's best cell, at which one is left out
NEGLIGIBLE = 20.0  # the same, when the masses are known
EDGE = 1e-5  # of an image's mass in the outermost cells, for a larger domain
STEADY = 0.1  # nats, by which a total may move for cells to be left alone
POINTS = 512  # decoded at a time


@dataclass(frozen=True)
class Marginals:
    """Marginal likelihoods by quadrature.

    Attributes:
        log_marginal_likelihood: log p(x), `(B,)`, in nats.
        error: What the last splits of all cells moved, added up without their
            signs, `(B,)`, in nats.
    """

    log_marginal_likelihood: Tensor
    error: Tensor


@torch.no_grad()
def integrate(vae: VAE, x: Tensor, tolerance: float = 1e-3) -> Marginals:
    r"""Integrates the latents out, exactly up to a tolerance.

    .. math:: \log p(x) = \log \int p(z) p(x \mid z) dz

    Args:
        vae: Of one or two continuous latent dimensions.
        x: Images, `(B, D)`.
        tolerance: Of the error, in nats.

    Raises:
        ValueError: If there are more than two latent dimensions.
        ArithmeticError: If the error does not come to be so small.
    """
    check_quadrature(vae)
    with evaluation_mode(vae):
        low, high = _domain(vae, x)
        while True:
            grid = _Grid(vae, x, low, (high - low) / CELLS, CELLS)
            masses = grid.estimate(*grid.find())
            if grid.edge_mass(masses).max() < EDGE:
                break
            margin = (high - low) / 2
            low, high = low - margin, high + margin
        return _refine(grid, masses, tolerance)


def check_quadrature(vae: VAE) -> None:
    """Refuses what quadrature cannot integrate.

    Raises:
        ValueError: If the latents are discrete, or more than two.
    """
    prior = vae.prior()
    if prior.has_enumerate_support or prior.event_shape[0] > 2:
        raise ValueError(
            f"the prior has {prior.event_shape[0]} latent dimensions, "
            f"{'discrete' if prior.has_enumerate_support else 'continuous'}; "
            "expected one or two continuous ones: use method importance or ais "
            "(exact, where discrete)"
        )


@dataclass(frozen=True)
class _Masses:
    """Sparse (cell, image) pairs with their log-masses, sorted by cell."""

    cell: Tensor
    image: Tensor
    log_mass: Tensor

    def total(self, num_images: int) -> Tensor:
        """The log of each image's sum, `(B,)`."""
        highest = torch.full((num_images,), -math.inf).to(self.log_mass)
        highest = highest.scatter_reduce(0, self.image, self.log_mass, "amax")
        excess = (self.log_mass - highest[self.image]).exp()
        sums = torch.zeros_like(highest).scatter_add(0, self.image, excess)
        return highest + sums.log()

    def where(self, keep: Tensor) -> "_Masses":
        return _Masses(self.cell[keep], self.image[keep], self.log_mass[keep])


class _Grid:
    """Equal cells over a box of latent space, for some images."""

    def __init__(
        self, vae: VAE, x: Tensor, low: Tensor, side: Tensor, count: int
    ):
        self.vae, self.x, self.low = vae, x, low
        self.exact_x = x.double()
        self.side, self.count = side, count
        self.dim = len(low)

    def double(self) -> "_Grid":
        """The same grid in double precision, as narrow peaks far out need."""
        vae, x = copy.deepcopy(self.vae).double(), self.exact_x
        return _Grid(vae, x, self.low.double(), self.side.double(), self.count)

    def split(self, masses: _Masses) -> tuple["_Grid", Tensor, Tensor]:
        """Halves the cells: the grid of halves, its cells, their wholes."""
        finer = _Grid(self.vae, self.x, self.low, self.side / 2, 2 * self.count)
        halves = torch.cartesian_prod(*[torch.arange(2)] * self.dim)
        places = 2 * self._coordinates(masses.cell).unsqueeze(1)
        cell = finer._index(places + halves.view(-1, self.dim))
        whole = torch.arange(len(cell)).unsqueeze(1).expand_as(cell).flatten()
        cell, order = cell.flatten().sort()
        return finer, cell, whole[order]

    def points(self, cells: Tensor, places: Tensor) -> Tensor:
        """Points at so much of each axis of the cells: `(C, size^P, P)`."""
        corners = self.low + self._coordinates(cells) * self.side
        offsets = torch.cartesian_prod(*[places.to(corners)] * self.dim)
        offsets = offsets.view(-1, self.dim) * self.side
        return corners.unsqueeze(1) + offsets

    def find(self) -> tuple[Tensor, Tensor]:
        """The cells that may hold mass, with the images that may have it.

        A peak between the points of the first, coarse look is seen by its
        slopes; the cells around the guide's centre are always looked into.
        """
        best = []
        num_points = COARSE**self.dim
        places = (torch.arange(COARSE) + 0.5) / COARSE
        everywhere = torch.arange(self.count**self.dim)
        for cells in everywhere.split(POINTS // num_points):
            z = self.points(cells.to(self.x.device), places)
            joint = log_joint(self.vae, z.flatten(0, 1), self.x)
            joint = joint.view(len(cells), num_points, -1)
            best.append(joint.amax(1))
        best = torch.cat(best)
        active = best > best.amax(0) - SLACK
        for neighbour in self._around_guide():
            active[neighbour, torch.arange(len(self.x))] = True
        cell, image = active.nonzero(as_tuple=True)
        return cell, image

    def estimate(self, cell: Tensor, image: Tensor) -> _Masses:
        """Integrates the joint density over each pair's cell."""
        log_mass = torch.empty(len(cell), dtype=torch.float64)
        nodes, weights = map(
            torch.tensor, np.polynomial.legendre.leggauss(FINE)
        )
        log_weights = torch.cartesian_prod(*[(weights / 2).log()] * self.dim)
        log_weights = log_weights.view(-1, self.dim).sum(-1, keepdim=True)
        log_volume = self.side.log().sum()
        cells, counts = cell.unique_consecutive(return_counts=True)
        size = POINTS // FINE**self.dim
        start = 0
        for group, of_each in zip(
            cells.split(size), counts.split(size), strict=True
        ):
            stop = start + int(of_each.sum())
            images, column = image[start:stop].unique(return_inverse=True)
            row = torch.arange(len(group)).repeat_interleave(of_each)
            z = self.points(group, (nodes + 1) / 2)
            x = self.exact_x[images]
            joint = log_joint(self.vae, z.flatten(0, 1), x)
            joint = joint.view(*z.shape[:2], -1)
            sums = (joint + log_weights.to(joint)).logsumexp(1)
            log_mass[start:stop] = sums[row, column] + log_volume
            start = stop
        return _Masses(cell, image, log_mass)

    def edge_mass(self, masses: _Masses) -> Tensor:
        """The fraction of each image's mass that lies in outermost cells."""
        coordinates = self._coordinates(masses.cell)
        is_edge = ((coordinates == 0) | (coordinates == self.count - 1)).any(-1)
        total = masses.total(len(self.x))
        at_edge = masses.where(is_edge)
        return (at_edge.total(len(self.x)) - total).exp()

    def _coordinates(self, cells: Tensor) -> Tensor:
        places = [cells // self.count**i % self.count for i in range(self.dim)]
        return torch.stack(places, dim=-1)

    def _index(self, coordinates: Tensor) -> Tensor:
        powers = self.count ** torch.arange(self.dim)
        return (coordinates * powers).sum(-1)

    def _around_guide(self) -> list[Tensor]:
        center = torch.cat([_center(self.vae, x) for x in self.x.split(1000)])
        place = ((center - self.low) / self.side).floor().long()
        shifts = torch.cartesian_prod(*[torch.arange(-1, 2)] * self.dim)
        return [
            self._index((place + shift).clamp(0, self.count - 1))
            for shift in shifts.view(-1, self.dim)
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


def _refine(grid: _Grid, masses: _Masses, tolerance: float) -> Marginals:
    """Splits the cells whose parts do not add up to what they held."""
    num_images = len(grid.x)
    total = masses.total(num_images)
    settled = torch.full_like(total, -math.inf)  # log-mass in cells left alone
    error = torch.zeros_like(total)  # of it, as a fraction of the total
    for split in range(MAX_SPLITS):
        if split == ROUGH:
            grid = grid.double()
        light = masses.log_mass < total[masses.image] - NEGLIGIBLE
        settled = settled.logaddexp(masses.where(light).total(num_images))
        masses = masses.where(~light)
        grid, cell, whole = grid.split(masses)
        image, before = masses.image, total
        parts = grid.estimate(cell, image[whole])
        wholes = replace(
            masses, log_mass=replace(parts, image=whole).total(len(image))
        )
        total = settled.logaddexp(wholes.total(num_images))
        error = error * (before - total).exp()
        share, was = (m.log_mass - total[image] for m in (wholes, masses))
        moved = (share.exp() - was.exp()).abs()
        steady = (total - before).abs() < STEADY
        is_done = _choose(moved, image, steady * (tolerance - error), tolerance)
        settled = settled.logaddexp(wholes.where(is_done).total(num_images))
        error = error.index_add(0, image[is_done], moved[is_done])
        masses = parts.where(~is_done[whole])
        if not len(masses.cell):
            return Marginals(total, error)
    raise ArithmeticError(
        f"the quadrature of {len(masses.image.unique())} images still moves "
        f"by more than {tolerance} nats; expected {MAX_SPLITS} splits to be "
        "enough: use method importance or ais"
    )


def _choose(
    moved: Tensor, image: Tensor, left: Tensor, tolerance: float
) -> Tensor:
    """Which cells need no split: an image's, the least moved ones first.

    They are all of them if what they moved adds up to what is left of the
    tolerance, else as many as a split's part of half the tolerance is enough
    for.
    """
    together = torch.zeros_like(left).index_add(0, image, moved)
    part = left.clamp(max=tolerance / 2 / MAX_SPLITS)
    budget = torch.where(together <= left, left, part)
    order = moved.argsort()
    order = order[image[order].argsort(stable=True)]
    before = (together.cumsum(0) - together)[image[order]]
    so_far = moved[order].cumsum(0) - before
    is_done = torch.empty_like(moved, dtype=torch.bool)
    is_done[order] = so_far <= budget[image[order]]
    return is_done


def _domain(vae: VAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """A box that the prior's bulk and the guide's centres fit into."""
    centers = torch.cat([_center(vae, part) for part in x.split(1000)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inside = torch.cat([centers, vae.prior().sample((10_000,))])
    low, high = inside.amin(0), inside.amax(0)
    margin = 0.15 * (high - low) + 1e-3
    return low - margin, high + margin


def _center(vae: VAE, x: Tensor) -> Tensor:
    return center(vae.infer(x))


@torch.no_grad()
def posterior_density(
    vae: VAE, x: Tensor, low: Tensor, high: Tensor, size: int = 200
) -> tuple[Tensor, Tensor]:
    """Evaluates one image's joint density, normalised over a grid.

    Args:
        vae: Of two continuous latent dimensions.
        x: One image, `(1, D)`.
        low, high: The box's corners, `(2,)`.
        size: Midpoints along each axis.

    Returns:
        The points, `(size, size, 2)`, and p(z | x) at them, `(size, size)`,
        if the box holds the posterior.
    """
    check_quadrature(vae)
    side = (high - low) / size
    steps = low + side * (torch.arange(size).view(-1, 1) + 0.5)
    first, second = torch.meshgrid(*steps.T, indexing="ij")
    z = torch.stack([first, second], dim=-1)
    with evaluation_mode(vae):
        joint = log_joint(vae, z.flatten(0, 1), x.double()).view(size, size)
    return z, (joint - joint.logsumexp((0, 1)) - side.log().sum()).exp()
