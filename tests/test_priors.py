import copy
import math

import pytest
import torch
from scipy import stats
from torch import nn
from torch.autograd.functional import jacobian

from pyro_vae import (
    MLP,
    FlowGuide,
    FlowPrior,
    FullNormalGuide,
    LaplacePrior,
    LogisticPrior,
    MixturePrior,
    NormalGuide,
    NormalPrior,
    StudentTPrior,
    VampPrior,
)
from tests.models import bend
from tests.statistics import assert_mean

SCALED = [LaplacePrior, LogisticPrior, StudentTPrior]


def guide(kind="normal", size=2, data_dim=6):
    if kind == "full":
        outputs = FullNormalGuide.count_parameters(size)
        return FullNormalGuide(MLP(data_dim, outputs, (8,)), size)
    if kind == "flow":
        encoder = MLP(data_dim, 2 * size + 3, (8,))
        return bend(FlowGuide(encoder, size, 3, num_couplings=2, units=8))
    return NormalGuide(MLP(data_dim, 2 * size, (8,)))


def vamp(kind="normal", **choices):
    return VampPrior(guide(kind), 3, data_dim=6, **choices)


def plane(limit, points):
    """The points of a square lattice in the plane, and a point's area."""
    line = torch.linspace(-limit, limit, points)
    return torch.cartesian_prod(line, line), (line[1] - line[0]) ** 2


@pytest.mark.parametrize(
    "prior",
    [NormalPrior(3), *(kind(3, scale=0.5) for kind in SCALED)],
    ids=lambda prior: type(prior).__name__,
)
def test_shapes_and_no_state(prior):
    assert prior().batch_shape == ()
    assert prior().event_shape == (3,)
    assert not prior.state_dict() and not list(prior.parameters())


def test_densities_are_the_formulas():
    z = torch.randn(5, 3)
    normal = -0.5 * (z.square() + torch.tensor(2 * torch.pi).log()).sum(-1)
    assert torch.allclose(NormalPrior(3)().log_prob(z), normal)
    laplace = (-z.abs() / 0.5 - torch.tensor(1.0).log()).sum(-1)
    assert torch.allclose(LaplacePrior(3, 0.5)().log_prob(z), laplace)


@pytest.mark.parametrize("learn_scale", [False, True])
@pytest.mark.parametrize("df", [0.5, 1.0, 4.0, 30.0])
def test_the_student_t_density_is_scipys(df, learn_scale):
    z = 5 * torch.randn(50, 3)
    ours = StudentTPrior(3, df, 0.7, learn_scale)().log_prob(z)
    theirs = stats.t(df, scale=0.7).logpdf(z.numpy()).sum(-1)
    assert torch.allclose(ours, torch.as_tensor(theirs), rtol=1e-12)


@pytest.mark.parametrize("learn_scale", [False, True])
def test_the_logistic_density_is_scipys(learn_scale):
    z = 5 * torch.randn(50, 3)
    ours = LogisticPrior(3, 0.7, learn_scale)().log_prob(z)
    theirs = stats.logistic(scale=0.7).logpdf(z.numpy()).sum(-1)
    assert torch.allclose(ours, torch.as_tensor(theirs), rtol=1e-12)


def test_the_laplace_scale_is_the_mean_absolute_value():
    z = LaplacePrior(2, 0.7)().sample((20_000,))
    assert_mean(z.abs(), 0.7)
    assert_mean(z, 0.0)


@pytest.mark.parametrize("kind", SCALED)
def test_a_learned_scale_starts_where_it_is_told_and_moves(kind):
    prior = kind(3, scale=0.5, learn_scale=True)
    assert torch.allclose(prior.scale, torch.full((3,), 0.5))
    ((name, parameter),) = prior.named_parameters()
    assert name == "unconstrained_scale" and parameter.shape == (3,)
    prior().log_prob(torch.full((3,), 2.0)).backward()
    assert (parameter.grad > 0).all()  # wider, for z so far out


def test_the_summed_mixture_is_the_mixture_without_its_latent():
    torch.manual_seed(1)
    mixture = MixturePrior(3, 2, "learned")
    summed = MixturePrior(3, 2, "learned", is_summed=True)
    summed.load_state_dict(mixture.state_dict())
    z = torch.randn(7, 2)
    by_hand = torch.zeros(7)
    for loc, scale in zip(summed.loc, summed.scale, strict=True):
        residual = ((z - loc) / scale).square().sum(-1)
        by_hand += (-0.5 * residual).exp() / (3 * 2 * torch.pi * scale.prod())
    assert torch.allclose(summed().log_prob(z), by_hand.log())
    assert torch.allclose(mixture().log_prob(z), by_hand.log())
    assert not hasattr(summed(), "given")


@pytest.mark.parametrize("kind", ["normal", "full", "flow"])
def test_the_vamp_density_is_the_mean_of_the_guides(kind):
    prior, z = vamp(kind), torch.randn(7, 2)
    inputs = prior.unconstrained_inputs.sigmoid()
    components = [
        prior._guide[0](u.unsqueeze(0)).log_prob(z).exp() for u in inputs
    ]
    by_hand = sum(components).log() - math.log(3)
    assert torch.allclose(prior().log_prob(z), by_hand)
    assert torch.allclose(prior().expand((7,)).log_prob(z), by_hand)
    assert prior().expand((4,)).sample().shape == (4, 2)


def test_the_vamp_prior_leaves_the_guide_to_the_guide():
    prior = vamp(weights="learned")
    names = [name for name, _ in prior.named_parameters()]
    assert sorted(names) == ["logits", "unconstrained_inputs"]
    prior().log_prob(torch.zeros(2)).backward()
    encoder = prior._guide[0].encoder
    assert all(p.grad is not None for p in encoder.parameters())


def test_a_vamp_prior_is_copied_with_its_guide():
    pair = nn.ModuleDict({"guide": guide()})
    pair["prior"] = VampPrior(pair["guide"], 3, data_dim=6)
    twin = copy.deepcopy(pair)
    assert twin["prior"]._guide[0] is twin["guide"]
    assert twin["guide"] is not pair["guide"]
    assert pair.to(torch.float32)["prior"]().sample().dtype == torch.float32


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_flow_density_is_that_of_autograds_jacobian(size):
    p = bend(FlowPrior(size, num_couplings=3, units=8))()

    def push(noise):
        for transform in p.transforms:
            noise = transform(noise)
        return noise

    for noise in torch.randn(5, size):
        _, log_det = jacobian(push, noise).slogdet()
        expected = p.base_dist.log_prob(noise) - log_det
        z = push(noise).clone()
        assert torch.allclose(p.log_prob(z), expected, rtol=1e-12)


def test_a_flow_changes_every_dimension_by_another():
    p = bend(FlowPrior(5, num_couplings=2, units=8))()

    def push(noise):
        for transform in p.transforms:
            noise = transform(noise)
        return noise

    influence = jacobian(push, torch.randn(5)).abs() > 0
    assert (influence.sum(-1) > 1).sum() >= 4


@pytest.mark.parametrize(
    "make",
    [
        lambda: bend(FlowPrior(2, units=8)),
        lambda: MixturePrior(3, 2, is_summed=True),
        vamp,
        lambda: vamp("flow"),
    ],
    ids=["flow", "mixture", "vamp", "vamp of flows"],
)
def test_densities_integrate_to_one(make):
    points, area = plane(10.0, 400)
    with torch.no_grad():
        total = make()().log_prob(points).exp().sum() * area
    # The lattice's error, where a network's ReLUs give the density an edge.
    assert total.item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    "make",
    [lambda: bend(FlowPrior(2, units=8)), vamp, lambda: vamp("flow")],
    ids=["flow", "vamp", "vamp of flows"],
)
def test_draws_follow_the_density(make):
    """The mean and the mean square by quadrature."""
    p = make()()
    points, area = plane(10.0, 400)
    with torch.no_grad():
        weight = (p.log_prob(points).exp() * area).unsqueeze(-1)
    z = p.sample((20_000,))
    assert_mean(z, (weight * points).sum(0))
    assert_mean(z.square(), (weight * points.square()).sum(0))


def test_a_flow_starts_as_the_identity():
    """Else some fits get stuck, far below the others."""
    prior, z = FlowPrior(3, units=8), torch.randn(5, 3)
    assert torch.allclose(prior().log_prob(z), NormalPrior(3)().log_prob(z))
    guide = FlowGuide(MLP(6, 10), 3, 4, units=8)
    q = guide(torch.rand(5, 6))
    flipped = q.base_dist.log_prob(z.flip(-1))  # by an odd number of turns
    assert torch.allclose(q.log_prob(z), flipped)
    prior().log_prob(z).sum().backward()
    assert prior.couplings.networks[0].layers[-1].weight.grad.any()


def test_a_flow_keeps_no_draw_after_it():
    """Else it could not be copied, and would hold on to a graph."""
    prior = bend(FlowPrior(2, units=8))
    prior().log_prob(prior().rsample((3,))).sum().backward()
    copy.deepcopy(prior)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NormalPrior(0), "latent_dim is 0; expected at least 1"),
        (lambda: LaplacePrior(2, -1.0), "scale is -1.0; expected a positive"),
        (
            lambda: LaplacePrior(2, float("nan")),
            "scale is nan; expected a positive",
        ),
        (lambda: LogisticPrior(2, 1e-5, True), "positive number above 0.0001"),
        (lambda: StudentTPrior(2, df=0.0), "df is 0.0; expected a positive"),
        (lambda: FlowPrior(1), "latent_dim is 1; expected at least 2 for a"),
        (lambda: FlowPrior(2, 0), "num_couplings is 0 .* at least 1"),
        (lambda: vamp(weights="even"), "'even'; expected one of uniform"),
        (lambda: VampPrior(guide(), 1, 6), "num_components is 1; expected at"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
