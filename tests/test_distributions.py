import itertools

import pyro.distributions as dist
import pytest
import torch
from scipy.stats import chisquare

from pyro_vae.distributions import (
    MAX_STATES,
    NormalMixture,
    OneHots,
    check_num_states,
    count_states,
)
from tests.statistics import FAILURE_RATE, assert_mean


def make(batch=(), num_variables=2, num_components=3):
    return OneHots(torch.randn(*batch, num_variables, num_components))


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
    with pytest.raises(ValueError, match=r"there are 3125 .* lower --num-var"):
        make(num_variables=5, num_components=5).enumerate_support()


def test_a_mixture_and_its_components():
    q = NormalMixture(
        torch.randn(5, 3), torch.randn(5, 3, 2), torch.rand(5, 3, 2)
    )
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
    assert torch.equal(q.component, best)
    assert torch.equal(q.mode, q.loc[range(5), best])


def test_counting_states():
    assert count_states(make()) == 9
    shape = torch.zeros(4), torch.zeros(4, 2), torch.ones(4, 2)
    assert count_states(NormalMixture(*shape)) == 4
    assert count_states(dist.Normal(0.0, 1.0)) == 1
