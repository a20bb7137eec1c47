import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy.stats import chisquare

from pyro_vae.parts.distributions import (
    MAX_STATES,
    Detached,
    NormalMixture,
    OneHots,
    check_num_states,
    count_states,
    declare_latents,
    detach_draws,
    most_probable_state,
    weighted_draws,
)
from tests.statistics import FAILURE_RATE, assert_mean


def make(batch=(), num_variables=2, num_components=3):
    return OneHots(torch.randn(*batch, num_variables, num_components))


def make_mixture(batch=(), num_components=3, size=2):
    shape = (*batch, num_components, size)
    logits = torch.randn(*batch, num_components)
    return NormalMixture(logits, torch.randn(shape), torch.rand(shape) + 0.5)


def make_normal(batch=(), size=2):
    loc, scale = torch.randn(*batch, size), torch.rand(*batch, size) + 0.5
    return dist.Normal(loc, scale).to_event(1)


def test_the_states_are_all_configurations_in_order():
    p = make()
    states = p.enumerate_support().view(9, 2, 3).argmax(-1)
    expected = list(itertools.product(range(3), repeat=2))
    assert [tuple(state) for state in states.tolist()] == expected
    assert p.index(p.enumerate_support()).tolist() == list(range(9))
    assert p.log_prob(p.enumerate_support()).exp().sum() == pytest.approx(1)


def test_it_is_a_product_of_pyros_one_hot_categoricals():
    p = make(batch=(4,))
    z = p.sample((5,))
    pieces = dist.OneHotCategorical(logits=p.logits)
    expected = pieces.log_prob(z.view(5, 4, 2, 3)).sum(-1)
    assert torch.allclose(p.log_prob(z), expected)
    assert torch.allclose(p.entropy(), pieces.entropy().sum(-1))
    assert torch.allclose(p.mean, pieces.probs.flatten(-2))
    assert torch.equal(p.mode, pieces.mode.flatten(-2))
    assert p.batch_shape == (4,) and p.event_shape == (6,)


def test_enumeration_leaves_room_for_the_batch():
    p = make(batch=(4,))
    assert p.enumerate_support(expand=False).shape == (9, 1, 6)
    assert p.enumerate_support().shape == (9, 4, 6)
    assert p.expand((7, 4)).log_prob(p.sample()).shape == (7, 4)


def test_draws_have_the_probabilities():
    p = make(num_variables=1, num_components=4)
    counts = p.sample((20_000,)).sum(0)
    assert chisquare(counts, 20_000 * p.mean).pvalue > FAILURE_RATE


def test_relaxed_draws_lie_in_the_simplex_and_carry_gradients():
    logits = torch.randn(2, 3, requires_grad=True)
    soft = OneHots(logits).relax(0.5, straight_through=False)
    z = soft.rsample((1000,)).view(1000, 2, 3)
    assert torch.allclose(z.sum(-1), torch.ones(1000, 2))
    assert ((z > 0) & (z < 1)).all(-1).float().mean() > 0.9
    # The largest entry has the categorical's probabilities.
    winners = z.argmax(-1)[:, 0].unsqueeze(-1) == torch.arange(3)
    assert_mean(winners.double(), soft.mean[:3])
    hard = OneHots(logits).relax(0.5, straight_through=True)
    z = hard.rsample()
    assert set(z.tolist()) == {0.0, 1.0}
    (z * torch.randn(6)).sum().backward()
    assert logits.grad.abs().sum() > 0


def test_too_many_states_are_refused():
    check_num_states(MAX_STATES)
    with pytest.raises(ValueError, match=r"there are 3125 .* lower num_var"):
        make(num_variables=5, num_components=5).enumerate_support()


def test_a_mixture_and_its_components():
    q = make_mixture(batch=(5,))
    assert q.loc.shape == q.scale.shape == (5, 3, 2)
    z, joint = torch.randn(5, 2), []
    for k in range(3):
        given = q.given(torch.full((5,), k))
        assert torch.equal(given.base_dist.loc, q.loc[:, k])
        log_weight = q.mixture_distribution.logits[:, k]
        joint.append(log_weight + given.log_prob(z))
    total = torch.stack(joint).logsumexp(0)
    assert torch.allclose(q.log_prob(z), total)
    enumerated = q.given(torch.arange(3).view(3, 1))
    assert enumerated.batch_shape == (3, 5)
    assert torch.equal(enumerated.base_dist.scale[2], q.scale[:, 2])
    best = q.mixture_distribution.logits.argmax(-1)
    assert torch.equal(q.most_probable_state, best)
    assert torch.equal(q.mode, q.loc[range(5), best])


def test_counting_states():
    assert count_states(make()) == 9
    assert count_states(make_mixture(num_components=4)) == 4
    assert count_states(make_normal()) == 1


def test_all_of_z_is_discrete_where_the_support_can_be_enumerated():
    assert make().has_enumerate_support
    relaxed = make().relax(0.5, straight_through=False)
    for continuous in (relaxed, make_mixture(), make_normal()):
        assert not continuous.has_enumerate_support


def test_the_most_probable_state():
    one_hots = make(batch=(4,))
    probabilities = one_hots.log_prob(one_hots.enumerate_support())
    expected = probabilities.argmax(0)
    assert torch.equal(most_probable_state(one_hots), expected)
    mixture = make_mixture(batch=(4,))
    expected = mixture.mixture_distribution.probs.argmax(-1)
    assert torch.equal(most_probable_state(mixture), expected)
    state = most_probable_state(make_normal(batch=(4,)))
    assert state.tolist() == [0] * 4 and state.dtype == torch.long


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (make, {"z": 6}),
        (make_mixture, {"y": None, "z": 2}),
        (make_normal, {"z": 2}),
    ],
)
def test_the_sites_that_a_distribution_declares(kind, expected):
    d = kind(batch=(4,))

    def model():
        with pyro.plate("data", 4):
            return declare_latents(d, {"mark": "this"})

    trace = poutine.trace(model).get_trace()
    sites = {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and name != "data"
    }
    assert list(sites) == list(expected)
    for name, size in expected.items():
        shape = (4,) if size is None else (4, size)
        assert sites[name]["value"].shape == shape
    # What is said of a discrete site is not said of z given the component.
    marked = [name for name, site in sites.items() if "mark" in site["infer"]]
    assert marked == list(expected)[:1]
    assert trace.nodes["_RETURN"]["value"] is sites["z"]["value"]
    if isinstance(d, NormalMixture):
        y, z = (sites[name]["value"] for name in "yz")
        assert torch.equal(sites["z"]["fn"].log_prob(z), d.given(y).log_prob(z))


def test_detached_draws_carry_no_gradient():
    logits, loc = torch.randn(4, 2, 3), torch.randn(4, 2)
    for kind, parameter in (
        (lambda value: OneHots(value), logits),
        (lambda value: dist.Normal(value, 1.0).to_event(1), loc),
    ):
        parameter.requires_grad_()
        d = kind(parameter)
        detached = detach_draws(d)
        assert isinstance(detached, Detached) and not detached.has_rsample
        assert repr(detached.support) == repr(d.support)
        assert detached.batch_shape == (4,)
        torch.manual_seed(1)
        z = detached.sample((5,))
        torch.manual_seed(1)
        assert torch.equal(z, d.sample((5,))) and not z.requires_grad
        assert torch.equal(detached.log_prob(z), d.log_prob(z))
        assert detached.log_prob(z).requires_grad
        assert detached.expand((3, 4)).sample().shape[:2] == (3, 4)


def test_a_mixtures_component_has_no_gradient_as_it_is():
    q = make_mixture(batch=(4,))
    assert detach_draws(q) is q
    assert not q.mixture_distribution.has_rsample
    assert q.given(torch.zeros(4, dtype=torch.long)).has_rsample


def test_the_weighted_draws_of_one_hots_are_all_states():
    q, p = make(batch=(4,)), make()
    draws = weighted_draws(q, p, 3)
    states = q.enumerate_support(expand=False)
    assert torch.equal(draws.z, states)
    assert torch.allclose(draws.weight.sum(0), torch.ones(4))
    # The expectation of z is q's mean, and that of log q - log p the KL.
    for index in range(6):
        mean = draws.expectation(draws.z[..., index].expand(-1, 4))
        assert torch.allclose(mean, q.mean[:, index])
    pieces = [dist.OneHotCategorical(logits=d.logits) for d in (q, p)]
    kl = torch.distributions.kl_divergence(*pieces).sum(-1)
    assert torch.allclose(draws.expectation(draws.log_ratio), kl)


def test_one_hots_with_too_many_states_are_drawn():
    q, p = make((4,), 5, 5), make((), 5, 5)
    draws = weighted_draws(q, p, 7)
    assert draws.z.shape == (7, 4, 25) and draws.weight == 1 / 7
    ratio = q.log_prob(draws.z) - p.log_prob(draws.z)
    assert torch.equal(draws.log_ratio, ratio)


def test_the_weighted_draws_of_a_mixture_are_draws_of_each_component():
    q, p = make_mixture(batch=(2,)), make_mixture()
    torch.manual_seed(1)
    draws = weighted_draws(q, p, 5)
    torch.manual_seed(1)
    z = q.loc + q.scale * torch.randn(5, 2, 3, 2)
    assert torch.allclose(draws.z, z)
    probabilities = q.mixture_distribution.probs
    assert torch.allclose(draws.weight, probabilities / 5)
    for k in range(3):
        of_k = [
            d.mixture_distribution.logits[..., k]
            + d.given(torch.tensor(k)).log_prob(z[:, :, k])
            for d in (q, p)
        ]
        assert torch.allclose(draws.log_ratio[..., k], of_k[0] - of_k[1])
    means = torch.stack(
        [
            draws.expectation(draws.z[..., 0])
            for draws in [weighted_draws(q, p, 5) for _ in range(1000)]
        ]
    )
    assert_mean(means, (probabilities * q.loc[..., 0]).sum(-1))


def test_the_weighted_draws_of_a_normal_are_draws_of_equal_weight():
    q, p = make_normal(batch=(4,)), make_normal()
    torch.manual_seed(1)
    draws = weighted_draws(q, p, 5)
    torch.manual_seed(1)
    z = q.rsample((5,))
    assert torch.equal(draws.z, z) and draws.weight == 1 / 5
    assert torch.equal(draws.log_ratio, q.log_prob(z) - p.log_prob(z))
    assert torch.allclose(draws.expectation(z[..., 0]), z[..., 0].mean(0))
    # Without a gradient, where the draws have none.
    detached = weighted_draws(detach_draws(q), p, 5)
    assert detached.z.shape == (5, 4, 2)


def test_a_mixture_has_no_weighted_draws_under_another_prior():
    loc, scale = torch.zeros(4, 3, 2), torch.ones(4, 3, 2)
    q = NormalMixture(torch.zeros(4, 3), loc, scale)
    with pytest.raises(ValueError, match="is OneHots; expected a NormalMixt"):
        weighted_draws(q, OneHots(torch.zeros(1, 3)), 5)


def test_states_that_no_integer_can_number_are_refused():
    few = OneHots(torch.zeros(62, 2))
    assert few.index(torch.tensor([0.0, 1.0]).repeat(62)) == 2**62 - 1
    many = OneHots(torch.zeros(64, 2))
    with pytest.raises(ValueError, match=r"there are 2\*\*64 states"):
        many.index(torch.tensor([0.0, 1.0]).repeat(64))
