"""Exact answers where there are at most two latent dimensions.

The integrals are Gauss-Legendre sums over cells of latent space. All images
share the grid, so that each point is decoded once and meets its images in one
matrix product; a cell is split, for the images whose mass it holds, until its
parts add up to what it held.
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
import torch
from torch import Tensor

from pyro_vae.distributions import center
from pyro_vae.evaluation.elbo import evaluation_mode
from pyro_vae.vae import VAE

CELLS = 64  # along each axis, before any is split
SIZES = 12  # of the domain, each of twice the sides
COARSE = 2  # points along each axis of a cell, when mass is looked for
FINE = 8  # and when it is measured
MAX_SPLITS = 12
ROUGH = 6  # splits in the VAE's own precision, the rest in double
SLACK = 60.0  # nats below an image's best cell, at which one is left out
NEGLIGIBLE = 20.0  # the same, when the masses are known
EDGE = 1e-5  # of an image's mass in the outermost cells, for a larger domain
STEADY = 0.1  # nats, by which a total may move for cells to be left alone
FALL = 32  # what a split may divide an error by: two sums can agree by luck
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
    value, error = (x.new_empty(len(x), dtype=torch.float64) for _ in range(2))
    left = torch.arange(len(x), device=x.device)
    with evaluation_mode(vae):
        low, high = _domain(vae, x)
        for _ in range(SIZES):
            grid = _Grid(vae, x[left], low, (high - low) / CELLS, CELLS)
            cells = grid.integrate(*grid.find())
            is_inside = grid.edge_mass(cells) < EDGE
            cells = cells.where(is_inside[cells.image])
            found = _refine(grid, cells, tolerance)
            inside = left[is_inside]
            value[inside] = found.log_marginal_likelihood[is_inside]
            error[inside] = found.error[is_inside]
            left = left[~is_inside]
            if not len(left):
                return Marginals(value, error)
            margin = (high - low) / 2
            low, high = low - margin, high + margin
    raise ArithmeticError(
        f"{len(left)} images have mass at {low.tolist()} or {high.tolist()}, "
        "in units of z, or farther out; expected it to end before: use method "
        "importance or ais"
    )


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
class _Cells:
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
        return _log_sums(self.log_mass, self.image, num_images)

    def where(self, keep: Tensor) -> "_Cells":
        return _Cells(*[tensor[keep] for tensor in self.tensors()])

    def tensors(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]


def _join(cells: list[_Cells]) -> _Cells:
    columns = zip(*[one.tensors() for one in cells], strict=True)
    return _Cells(*map(torch.cat, columns))


def _log_sums(values: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """logsumexp over the values of each group, `(num_groups,)`."""
    highest = values.new_full((num_groups,), -math.inf)
    highest = highest.scatter_reduce(0, group, values, "amax")
    excess = (values - highest[group]).exp()
    return highest + torch.zeros_like(highest).index_add(0, group, excess).log()


def _log_difference(left: Tensor, right: Tensor) -> Tensor:
    """log |exp(left) - exp(right)|."""
    high, low = torch.maximum(left, right), torch.minimum(left, right)
    return high + (-torch.expm1(low - high)).log()


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

    def halved(self, times: int) -> "_Grid":
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

    def integrate(self, cell: Tensor, image: Tensor) -> _Cells:
        """The pairs' masses, of which nothing more is known yet."""
        log_mass = self.log_masses(cell, image)
        return _Cells(cell, image, log_mass, log_mass, torch.zeros_like(cell))

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

    def edge_mass(self, cells: _Cells) -> Tensor:
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
        center = torch.cat([_center(self.vae, x) for x in self.x.split(1000)])
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


def _refine(grid: _Grid, cells: _Cells, tolerance: float) -> Marginals:
    """Halves the cells whose parts do not add up to what they held."""
    num_images, exact = len(grid.x), cache(grid.double)
    value = cells.log_mass.new_full((num_images,), -math.inf)
    error, before = torch.zeros_like(value), value
    while len(cells.cell):
        total = cells.total(num_images)
        depth = torch.where(cells.level == 0, SLACK, NEGLIGIBLE)
        is_light = cells.log_mass < total[cells.image] - depth
        share = (cells.log_error - total[cells.image]).exp().clamp(max=1.0)
        share = torch.where(is_light, 0.0, share)
        errors = torch.zeros_like(total).index_add(0, cells.image, share)
        is_steady = (total - before).abs() < STEADY
        is_done = is_steady & (errors <= tolerance)
        value = torch.where(is_done, total, value)
        error = torch.where(is_done, errors, error)
        is_small = _smallest(share, cells.image, num_images, tolerance / 2)
        is_kept = is_light | (is_small & is_steady[cells.image])
        is_open = ~is_done[cells.image]
        before, old = total, cells.where(is_open & is_kept)
        cells = _join(
            [old, *_halve(grid, exact, cells.where(is_open & ~is_kept))]
        )
    return Marginals(value, error)


def _halve(
    grid: _Grid, exact: Callable[[], _Grid], cells: _Cells
) -> Iterator[_Cells]:
    """Yields the halves of cells, level by level."""
    for level in cells.level.unique().tolist():
        wholes = cells.where(cells.level == level)
        if level == MAX_SPLITS:
            raise ArithmeticError(
                f"the quadrature of {len(wholes.image.unique())} images is not "
                f"exact to the tolerance; expected {MAX_SPLITS} splits of a "
                "cell to be enough: use method importance or ais"
            )
        finer = (grid if level < ROUGH else exact()).halved(level + 1)
        cell = grid.halved(level).halves(wholes.cell)
        whole = torch.arange(len(cell), device=cell.device)
        whole = whole.repeat_interleave(cell.shape[1])
        cell, order = cell.flatten().sort()
        whole = whole[order]
        image = wholes.image[whole]
        log_mass = finer.log_masses(cell, image)
        sums = _log_sums(log_mass, whole, len(wholes.cell))
        moved = _log_difference(sums, wholes.log_mass)
        error = moved.maximum(wholes.log_error - math.log(FALL))
        log_error = log_mass + (error - sums)[whole]  # as the mass is shared
        levels = torch.full_like(cell, level + 1)
        yield _Cells(cell, image, log_mass, log_error, levels)


def _smallest(
    values: Tensor, group: Tensor, num_groups: int, budget: float
) -> Tensor:
    """Which values of each group, the smallest first, are within a budget."""
    order = values.argsort()
    order = order[group[order].argsort(stable=True)]
    sums = torch.zeros(num_groups).to(values).index_add(0, group, values)
    before = (sums.cumsum(0) - sums)[group[order]]
    is_within = torch.empty_like(values, dtype=torch.bool)
    is_within[order] = values[order].cumsum(0) - before <= budget
    return is_within


def _domain(vae: VAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """A box that the prior's bulk and the guide's centres fit into."""
    centers = torch.cat([_center(vae, part) for part in x.split(1000)])
    with torch.random.fork_rng([x.device] if x.is_cuda else []):
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
    steps = torch.arange(size, device=low.device).view(-1, 1) + 0.5
    steps = low + side * steps
    first, second = torch.meshgrid(*steps.T, indexing="ij")
    z = torch.stack([first, second], dim=-1)
    with evaluation_mode(vae):
        joint = log_joint(vae, z.flatten(0, 1), x.double()).view(size, size)
    return z, (joint - joint.logsumexp((0, 1)) - side.log().sum()).exp()
