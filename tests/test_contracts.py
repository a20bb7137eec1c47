"""What a user's own parts get: the features that they allow, or a sentence."""

import copy
import filecmp
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import nn

import pyro_vae
from pyro_vae import (
    MLP,
    VAE,
    AmortizedGuide,
    EStep,
    FitConfig,
    GaussianLikelihood,
    Likelihood,
    LocalInference,
    NormalGuide,
    NormalPrior,
    Prior,
    SemiAmortized,
    build,
    fit,
    make_objective,
)
from pyro_vae.evaluation import log_marginal_likelihood, split_gap

D, P = 64, 2

# What a stranger writes to add a prior, and then does with it.
CAUCHY_PRIOR = """
import pyro.distributions as dist

from pyro_vae.parts.priors.location_scale import LocationScale


class CauchyPrior(LocationScale):
    def forward(self):
        return dist.Cauchy(self.loc, self.scale).to_event(1)
"""
CAUCHY_ROW = """
    "toy": Variant(
        lambda c, guide: priors.CauchyPrior(c.latent_dim, c.prior_scale),
        uses=("prior_scale",),
        goes_with=CONTINUOUS,
    ),
"""
CAUCHY_RUN = """
import contextlib, io
from pathlib import Path

import pyro_vae
import torch
from pyro_vae import Config, build, fit, load_vae, save_vae
from pyro_vae.cli.command import run
from pyro_vae.cli.fit import Flags
from pyro_vae.cli.flags import CommandLine
from pyro_vae.data import load

assert Path(pyro_vae.__file__).is_relative_to(Path.cwd()), pyro_vae.__file__

def refuse(words, **choices):
    try:
        Config(prior="toy", **choices)
    except ValueError as error:
        assert words in str(error), error
    else:
        raise AssertionError(words)

refuse("guide is 'categorical'; expected one of normal, laplace, full, flow "
       "with prior=toy", guide="categorical")
refuse("gradient is 'enumerated'; expected one of pathwise, score-function, "
       "score-function-baseline with prior=toy", gradient="enumerated")
refuse("prior_df is 2.0; expected 4.0", prior_df=2.0)

digits = load("digits").first(200)
config = Config(prior="toy", prior_scale=0.5, hidden=(8,), epochs=1,
                device="cpu", dataset="digits")
vae = build(config, 64)
assert type(vae.prior).__name__ == "CauchyPrior"
assert (vae.prior.scale == 0.5).all()
records = list(fit(vae, digits, config, "run"))
assert records[1]["test_elbo"] > records[0]["test_elbo"]
save_vae(vae, "saved")
for folder in ("run", "saved"):
    loaded = load_vae(folder)
    assert type(loaded.prior).__name__ == "CauchyPrior"
    x = digits.test[:5]
    assert torch.equal(loaded.reconstruct(x), vae.reconstruct(x))

shown = io.StringIO()
with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
    CommandLine(Flags, None, ["--help"], "fit").parse()
assert "toy" in shown.getvalue()
flags = CommandLine(Flags, None, ["--prior", "toy"], "fit").parse()
assert flags.config().prior == "toy"
print("all of it")
"""


class OwnPrior(nn.Module):
    """A plain module: a wide normal, its location learned."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(P))

    def forward(self):
        return dist.Normal(self.loc, 2.0).to_event(1)


class OwnLikelihood(nn.Module):
    """A plain module: Laplace noise around a linear decoder."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(P, D)

    def forward(self, z):
        return dist.Laplace(self.net(z), 0.5).to_event(1)


class OwnGuide(nn.Module):
    """A plain module with no encoder and no family."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(D, P)

    def forward(self, x):
        return dist.Normal(self.net(x), 0.5).to_event(1)


class Returning(nn.Module):
    """A part that returns what a function makes of its arguments."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, *args):
        return self.function(*args)


def normal(*shape):
    return dist.Normal(torch.zeros(shape), 1.0)


def own_vae(**choices):
    parts = {
        "prior": OwnPrior(),
        "likelihood": OwnLikelihood(),
        "guide": OwnGuide(),
    }
    return VAE(**{**parts, **choices})


def test_a_vaes_parts_are_what_was_passed():
    prior, likelihood, guide = OwnPrior(), OwnLikelihood(), OwnGuide()
    vae = VAE(prior, likelihood, guide)
    assert vae.prior is prior and vae.likelihood is likelihood
    assert vae.guide.distribution is guide
    amortized = NormalGuide(MLP(D, 2 * P, (8,)))
    vae = VAE(prior, likelihood, amortized)
    assert vae.guide.encoder is amortized.encoder
    assert vae.guide.num_parameters == 2 * P


def test_the_contracts_are_abstract():
    for contract in (Prior, Likelihood, AmortizedGuide):
        with pytest.raises(TypeError, match="abstract"):
            contract(nn.Linear(2, 2)) if contract is not Prior else contract()
    for part, contract in (
        (NormalPrior(P), Prior),
        (GaussianLikelihood(nn.Linear(P, D)), Likelihood),
        (NormalGuide(nn.Linear(D, 2 * P)), AmortizedGuide),
    ):
        assert isinstance(part, contract)


@pytest.mark.parametrize("part", ["prior", "likelihood", "guide", "all"])
def test_plain_modules_work_for_svi_and_inference(part):
    """Each beside the package's own parts, and all of them together."""
    own = {
        "prior": OwnPrior(),
        "likelihood": OwnLikelihood(),
        "guide": OwnGuide(),
    }
    theirs = {
        "prior": NormalPrior(P),
        "likelihood": GaussianLikelihood(nn.Linear(P, D)),
        "guide": NormalGuide(nn.Linear(D, 2 * P)),
    }
    vae = VAE(**(own if part == "all" else {**theirs, part: own[part]}))
    x = torch.rand(8, D)
    before = copy.deepcopy(vae.state_dict())
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-2}), Trace_ELBO())
    assert math.isfinite(svi.step(x))
    after = vae.state_dict()
    assert not [n for n in before if torch.equal(before[n], after[n])]
    q = vae.infer(x)
    assert q.batch_shape == (8,) and q.event_shape == (P,)
    assert vae.compute_elbo(x, 3).shape == (8,)
    assert vae.sample(4).shape == (4, D)
    assert vae.reconstruct(x).shape == (8, D)
    assert vae.generate(torch.zeros(3, 5, P)).shape == (3, 5, D)
    objective = make_objective(vae, "iwae", 3)
    assert math.isfinite(objective.loss(vae.model, vae.guide, x))
    with pytest.warns(UserWarning, match="effective sample size"):
        marginal = log_marginal_likelihood(vae, x, num_samples=20)
    assert marginal.value.isfinite().all()


def test_plain_modules_can_be_fitted(digits, tmp_path):
    data, vae = digits.first(300), own_vae()
    config = FitConfig(epochs=2, batch_size=50, device="cpu")
    records = list(fit(vae, data, config, tmp_path))
    elbos = [record["test_elbo"] for record in records]
    assert len(elbos) == 3 and elbos[0] + 0.5 < elbos[1] < elbos[2] - 0.5
    with pytest.raises(ValueError, match="expected one made by build"):
        pyro_vae.save_vae(vae, tmp_path)


def test_what_needs_a_family_says_so():
    vae, x = own_vae(), torch.rand(4, D)
    for kind in (LocalInference, SemiAmortized):
        message = (
            f"inference is {kind.__name__} with a guide of type OwnGuide; "
            "expected an AmortizedGuide"
        )
        with pytest.raises(ValueError, match=message):
            own_vae(inference=kind(EStep()))
    message = "the guide is OwnGuide; expected an AmortizedGuide, with an enc"
    for ask in (
        lambda: vae.guide.encoder,
        lambda: vae.guide.num_parameters,
        lambda: vae.guide.encode(x),
        lambda: vae.guide.family(x),
        lambda: split_gap(vae, x[:1]),
    ):
        with pytest.raises(ValueError, match=message):
            ask()
    guide = NormalGuide(nn.Sequential(nn.Linear(D, 2 * P)))
    vae = own_vae(guide=guide, inference=LocalInference(EStep()))
    with pytest.raises(ValueError, match="Sequential has no out_features; exp"):
        vae.inference.start(vae, 10)


def test_parts_that_are_no_modules_are_refused():
    for part in ("prior", "likelihood", "guide"):
        message = f"the {part} is of type function; expected a module"
        with pytest.raises(ValueError, match=message):
            own_vae(**{part: lambda *args: normal(P).to_event(1)})


NOT_A_DISTRIBUTION = "returned Tensor; expected a module whose forward returns"
TORCHS = "returned torch's Independent; expected one of pyro.distributions"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: torch.zeros(P), NOT_A_DISTRIBUTION),
        (
            lambda: torch.distributions.Independent(
                torch.distributions.Normal(torch.zeros(P), 1.0), 1
            ),
            TORCHS,
        ),
        (
            lambda: normal(P),
            r"returned p\(z\) of batch shape \(2,\) and event shape \(\); "
            r"expected batch shape \(\) and event shape \(n,\) of any size: "
            r"use \.to_event\(1\)",
        ),
        (
            lambda: normal(3, P).to_event(1),
            r"batch shape \(3,\) and event shape \(2,\); expected batch shape "
            r"\(\)",
        ),
        (
            lambda: normal(3, P).to_event(2),
            r"event shape \(3, 2\); expected batch shape \(\) and event shape "
            r"\(n,\) of any size$",
        ),
    ],
    ids=["tensor", "torch's", "no event", "batch", "two dimensions"],
)
def test_a_prior_of_another_kind_is_refused_at_once(made, message):
    with pytest.raises(ValueError, match=f"prior Returning .*{message}"):
        own_vae(prior=Returning(made))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda x: x, NOT_A_DISTRIBUTION),
        (
            lambda x: normal(len(x), P),
            r"q\(z \| x\) of batch shape \(8, 2\) and event shape \(\); "
            r"expected batch shape \(8,\) and event shape \(n,\) of any size: "
            r"use \.to_event\(1\)",
        ),
        (
            lambda x: normal(P).to_event(1),
            r"batch shape \(\) and event shape \(2,\); expected batch shape "
            r"\(8,\)",
        ),
    ],
    ids=["tensor", "no event", "no batch"],
)
def test_a_guide_of_another_kind_is_refused(made, message):
    vae, x = own_vae(guide=Returning(made)), torch.rand(8, D)
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-2}), Trace_ELBO())
    for call in (vae.infer, vae.compute_elbo, svi.step):
        with pytest.raises(ValueError, match=f"guide Returning.*{message}"):
            call(x)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda z: z, NOT_A_DISTRIBUTION),
        (
            lambda z: normal(*z.shape[:-1], D),
            r"p\(x \| z\) of batch shape \(.*8, 64\) and event shape \(\); "
            r"expected .* event shape \(64,\): use \.to_event\(1\)",
        ),
        (
            lambda z: normal(*z.shape[:-1], 9).to_event(1),
            r"event shape \(9,\); expected .* event shape \(64,\)",
        ),
        (
            lambda z: normal(D).to_event(1),
            r"batch shape \(\) and event shape \(64,\); expected batch shape",
        ),
    ],
    ids=["tensor", "no event", "pixels", "no batch"],
)
def test_a_likelihood_of_another_kind_is_refused(made, message):
    vae, x = own_vae(likelihood=Returning(made)), torch.rand(8, D)
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-2}), Trace_ELBO())
    for call in (vae.compute_elbo, svi.step):
        with pytest.raises(
            ValueError, match=f"likelihood Returning.*{message}"
        ):
            call(x)


def test_a_guide_of_another_size_than_the_prior_is_refused():
    message = "z has 3 dimensions and the prior's 2; expected"
    with pytest.raises(ValueError, match=message):
        own_vae(guide=NormalGuide(nn.Linear(D, 6)))
    untold = nn.Sequential(nn.Linear(D, 6))  # it tells no out_features
    vae = own_vae(guide=NormalGuide(untold))
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-2}), Trace_ELBO())
    for call in (vae.compute_elbo, svi.step):
        with pytest.raises(ValueError, match=message):
            call(torch.rand(8, D))


def test_a_continuous_guide_of_a_discrete_prior_is_refused():
    config = pyro_vae.Config(prior="mixture", num_components=3, hidden=(4,))
    mixture = build(config, D)
    guide = NormalGuide(nn.Linear(D, 2 * P))
    for prior, q, message in (
        (mixture.prior, guide, r"with 1 discrete .* NormalMixture with 3; exp"),
        (NormalPrior(P), mixture.guide.distribution, "with 3 .* with 1; exp"),
    ):
        with pytest.raises(ValueError, match=message):
            VAE(prior, mixture.likelihood, q)
        q.encoder = nn.Sequential(q.encoder)  # it tells no out_features
        vae = VAE(prior, mixture.likelihood, q)
        with pytest.raises(ValueError, match=message):
            vae.compute_elbo(torch.rand(8, D))


def list_changes(left: Path, right: Path) -> list[str]:
    """Returns the Python files that differ between two folders."""
    names = {
        path.relative_to(root).as_posix()
        for root in (left, right)
        for path in root.rglob("*.py")
    }
    _, changed, missing = filecmp.cmpfiles(left, right, names, shallow=False)
    return sorted([*changed, *missing])


def test_a_prior_is_its_class_an_export_and_one_row(tmp_path):
    """Then it can do whatever the others can, as CONTRIBUTING.md promises."""
    source = Path(pyro_vae.__file__).parent
    package = tmp_path / "pyro_vae"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source, package, ignore=ignored)
    (package / "parts/priors/toy.py").write_text(CAUCHY_PRIOR)
    for name, after, added in (
        (
            "parts/priors/__init__.py",
            '"""\n\n',
            "from pyro_vae.parts.priors.toy import CauchyPrior\n",
        ),
        ("config/variants.py", "PRIORS: Table = {\n", CAUCHY_ROW),
    ):
        text = (package / name).read_text()
        assert text.count(after) == 1
        (package / name).write_text(text.replace(after, after + added))
    assert list_changes(source, package) == [
        "config/variants.py",
        "parts/priors/__init__.py",
        "parts/priors/toy.py",
    ]
    result = subprocess.run(
        [sys.executable, "-c", CAUCHY_RUN],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "all of it"
