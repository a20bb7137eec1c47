"""Parts that do not fit a VAE, or each other, are refused in a sentence."""

import copy
import io
import pickle

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import nn

from pyro_vae import (
    MLP,
    VAE,
    BernoulliLikelihood,
    CategoricalGuide,
    Config,
    FlowGuide,
    FullNormalGuide,
    GaussianLikelihood,
    MixtureGuide,
    NormalGuide,
    NormalPrior,
    build,
)
from tests.models import PAIRS

D, P = 64, 2


class OwnPrior(nn.Module):
    def forward(self):
        return dist.Normal(torch.zeros(P), 1.0).to_event(1)


class OwnGuide(nn.Module):
    def __init__(self, inputs=D):
        super().__init__()
        self.net = nn.Linear(inputs, P)

    def forward(self, x):
        return dist.Normal(self.net(x), 0.5).to_event(1)


def parts(**choices):
    made = {
        "prior": NormalPrior(P),
        "likelihood": GaussianLikelihood(MLP(P, D, (8,))),
        "guide": NormalGuide(MLP(D, 2 * P, (8,))),
    }
    return {**made, **choices}


def step(vae, x):
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-2}), Trace_ELBO())
    return svi.step(x)


NORMAL = dist.Normal(0.0, 1.0)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (
            lambda: {"prior": NORMAL},
            r"the prior is Normal\(loc: 0.0, scale: 1.0\), a distribution; "
            r"expected a Prior such as NormalPrior\(2\), or another module",
        ),
        (
            lambda: {"likelihood": NORMAL},
            r"the likelihood is Normal.*; expected a Likelihood such as Gauss",
        ),
        (
            lambda: {"guide": NORMAL},
            r"the guide is Normal.*; expected an AmortizedGuide such as Norm",
        ),
        (
            lambda: {"prior": NormalPrior},
            "the prior is of type type, NormalPrior itself; expected a module",
        ),
        (
            lambda: {
                "likelihood": parts()["guide"],
                "guide": parts()["likelihood"],
            },
            "the likelihood is NormalGuide, a guide; expected a Likelihood .*:"
            r" the order is VAE\(prior, likelihood, guide\)",
        ),
        (
            lambda: {"guide": parts()["likelihood"]},
            "the guide is GaussianLikelihood, a likelihood; expected an Amort",
        ),
        (
            lambda: {"prior": parts()["guide"], "guide": parts()["prior"]},
            "the prior is NormalGuide, a guide; expected a Prior such as",
        ),
        (
            lambda: {"prior": OwnGuide(), "guide": OwnPrior()},
            r"the prior is OwnGuide with forward\(x\); expected forward\(\): "
            "the order is VAE",
        ),
        (
            lambda: {"guide": OwnPrior()},
            r"the guide is OwnPrior with forward\(\); expected forward\(x\)",
        ),
        (
            lambda: {"likelihood": GaussianLikelihood(nn.Linear(3, D))},
            "the likelihood's decoder takes 3 numbers and the prior's z has 2;",
        ),
        (
            lambda: {"guide": NormalGuide(nn.Linear(100, 2 * P))},
            "the likelihood's decoder returns 64 pixels and the guide's "
            "encoder takes 100; expected as many",
        ),
        (
            lambda: {"guide": NormalGuide(MLP(D, 5))},
            "the encoder returned 5 parameters; expected an even number",
        ),
        (
            lambda: {"guide": NormalGuide(MLP(D, 6))},
            "the guide's z has 3 dimensions and the prior's 2; expected as man",
        ),
        (
            lambda: {"guide": FullNormalGuide(MLP(D, 4), P)},
            r"the encoder returned 4 parameters; expected 4 \+ 1",
        ),
        (
            lambda: {"guide": FlowGuide(MLP(D, 4), P, 3)},
            r"the encoder returned 4 parameters; expected 4 \+ 3",
        ),
        (
            lambda: {"guide": CategoricalGuide(MLP(D, 2), 2)},
            "is OneHots with 2 discrete states and the prior's .* with 1; exp",
        ),
        (
            lambda: {"guide": MixtureGuide(MLP(D, 10), 2)},
            "is NormalMixture with 2 discrete states and the prior's .* with 1",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_when_joined(choices, message):
    with pytest.raises(ValueError, match=message):
        VAE(**parts(**choices()))


def test_joining_runs_no_code_but_the_priors():
    class Loud(nn.Module):
        in_features, out_features = D, 2 * P

        def forward(self, x):
            raise AssertionError("it ran")

    before = torch.get_rng_state()
    vae = VAE(**parts(guide=NormalGuide(Loud()), likelihood=Loud()))
    assert vae.guide.num_parameters == 2 * P
    VAE(**parts(guide=NormalGuide(nn.LazyLinear(2 * P))))
    assert not torch.equal(torch.get_rng_state(), before)  # the weights


def test_the_packages_own_pairs_all_fit():
    for prior, guide in PAIRS:
        build(Config(prior=prior, guide=guide, hidden=(3,)), 16)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (
            lambda: {"guide": NormalGuide(nn.Sequential(nn.Linear(50, 4)))},
            r"the guide NormalGuide takes 50 numbers, but x has shape "
            r"\(8, 64\); expected 64 in_features of its network, or x of 50 n",
        ),
        (
            lambda: {"guide": OwnGuide(50)},
            r"the guide OwnGuide cannot take x of shape \(8, 64\) and "
            r"torch.float64 \(mat1",
        ),
        (
            lambda: {
                "likelihood": BernoulliLikelihood(nn.Sequential(MLP(5, D)))
            },
            r"the likelihood BernoulliLikelihood takes 5 numbers, but z has "
            r"shape \(.*8, 2\); expected 2 in_features",
        ),
    ],
)
def test_networks_of_another_width_are_refused_when_used(choices, message):
    vae, x = VAE(**parts(**choices())), torch.rand(8, D)
    for call in (vae.compute_elbo, vae.reconstruct, lambda x: step(vae, x)):
        with pytest.raises(ValueError, match=message):
            call(x)


def test_images_of_another_size_are_refused():
    vae, x = VAE(**parts()), torch.rand(8, 100)
    message = r"takes 64 numbers, but x has shape \(8, 100\); expected 100 in_"
    for call in (vae.infer, vae.guide.encode, lambda x: step(vae, x)):
        with pytest.raises(ValueError, match=message):
            call(x)
    conv = build(Config(network="conv", channels=(2,), hidden=()), 64)
    with pytest.raises(ValueError, match="takes 64 numbers, but x has shape"):
        conv.infer(torch.rand(3, 81))


def test_images_of_another_dtype_are_refused():
    vae, x = VAE(**parts()), torch.rand(8, D, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"and torch.float32 \(.*; expected l"):
        vae.infer(x)


def test_other_errors_of_a_part_stay_as_they_are():
    class Wrong(OwnGuide):
        def forward(self, x):
            raise RuntimeError("of its own")

    with pytest.raises(RuntimeError, match=r"^of its own"):
        VAE(**parts(guide=Wrong())).infer(torch.rand(8, D))


def test_one_image_alone_under_batch_norm_is_refused():
    for part in ("guide", "likelihood"):
        inputs, outputs = (D, 2 * P) if part == "guide" else (P, D)
        network = nn.Sequential(
            nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.Linear(8, outputs)
        )
        kind = NormalGuide if part == "guide" else GaussianLikelihood
        vae = VAE(**parts(**{part: kind(network)}))
        step(vae, torch.rand(2, D))
        with pytest.raises(
            ValueError,
            match=f"the minibatch has 1 image, and the {part} .* has a batch "
            "norm, .*: choose another batch_size",
        ):
            step(vae, torch.rand(1, D))
        vae.eval()
        step(vae, torch.rand(1, D))


@pytest.mark.parametrize("prior", ["normal", "vamp"])
def test_a_used_vae_can_be_pickled(prior):
    vae, x = build(Config(prior=prior, hidden=(4,)), D), torch.rand(8, D)
    step(vae, x)
    buffer = io.BytesIO()
    torch.save(vae, buffer)
    buffer.seek(0)
    copies = [
        pickle.loads(pickle.dumps(vae)),
        torch.load(buffer, weights_only=False),
        copy.deepcopy(vae),
    ]
    part = pickle.loads(pickle.dumps(vae.guide))
    assert part.infer(x).batch_shape == (8,)
    for one in copies:
        before = {k: v.clone() for k, v in vae.state_dict().items()}
        torch.manual_seed(1)
        elbo = vae.compute_elbo(x)
        torch.manual_seed(1)
        assert torch.equal(one.compute_elbo(x), elbo)
        step(one, x)  # it trains, and the first stays as it is
        after = vae.state_dict()
        assert all(torch.equal(before[k], after[k]) for k in before)
        weights = zip(one.parameters(), vae.parameters(), strict=True)
        assert not any(torch.equal(ours, theirs) for ours, theirs in weights)
    step(vae, x)
