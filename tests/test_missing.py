"""Missing values: what was observed alone counts, and the rest is filled in."""

import copy
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from pyro.optim import Adam
from torch import nn
from torch.distributions import constraints

from pyro_vae import (
    MLP,
    VAE,
    CompiledSVI,
    Config,
    FitConfig,
    GaussianLikelihood,
    Likelihood,
    MaskedEncoder,
    MaskedLikelihood,
    NormalGuide,
    NormalPrior,
    PoissonLikelihood,
    build,
    fit,
    load_vae,
)
from pyro_vae.cli.drawing import draw_run
from pyro_vae.cli.evaluate import Flags, evaluate
from pyro_vae.config.variants import PRIORS
from pyro_vae.data import (
    DataError,
    Dataset,
    Options,
    Rows,
    draw_binary,
    draw_once,
    load,
    rows,
    to_dataset,
)
from pyro_vae.evaluation import log_marginal_likelihood, split_gap
from pyro_vae.explorer import Exhibit, render
from pyro_vae.objectives import make_objective
from pyro_vae.parts.contracts import pairwise_log_prob
from pyro_vae.parts.likelihoods import bits_per_dimension
from pyro_vae.runs.run import load_data, load_run
from tests.models import (
    NOISE,
    keep_the_record,
    linear_vae,
    without_timing,
)
from tests.statistics import assert_mean, z_limit
from tests.test_likelihoods_counts import MAKES, D

NAN = math.nan


def punch(x, share=0.4):
    """Returns x with holes at random."""
    return torch.where(torch.rand_like(x) < share, NAN, x)


def masked_linear_vae(data_dim=6):
    """Returns probabilistic PCA that takes missing values."""
    vae = linear_vae(data_dim=data_dim)
    vae.likelihood.decoder.weight.data.mul_(0.5)  # wide posteriors
    encoder = nn.Linear(2 * data_dim, 4)
    nn.init.normal_(encoder.weight, std=0.1)
    return VAE(
        vae.prior,
        MaskedLikelihood(vae.likelihood),
        NormalGuide(MaskedEncoder(encoder, data_dim)),
    )


def exact_observed(vae, x):
    """Returns log p of the observed part, and the mean of x given it."""
    weight, bias = (p.detach() for p in vae.likelihood.decoder.parameters())
    values, means = [], []
    for row in x:
        seen = ~row.isnan()
        w, b, count = weight[seen], bias[seen], int(seen.sum())
        covariance = w @ w.T + NOISE**2 * torch.eye(count)
        normal = dist.MultivariateNormal(b, covariance)
        values.append(normal.log_prob(row[seen]))
        precision = torch.eye(2) + w.T @ w / NOISE**2
        z = torch.linalg.solve(precision, w.T @ (row[seen] - b)) / NOISE**2
        means.append(torch.where(seen, row, weight @ z + bias))
    return torch.stack(values), torch.stack(means)


@pytest.fixture
def linear():
    vae = masked_linear_vae()
    with torch.no_grad():
        x = vae.likelihood(vae.prior().sample((40,))).sample()
    return vae, punch(x)


@pytest.mark.parametrize("method", ["quadrature", "importance"])
def test_log_p_of_the_observed_part_is_exact(linear, method):
    vae, x = linear
    whole, _ = exact_observed(vae, x.nan_to_num(0.0))
    exact, _ = exact_observed(vae, x)
    assert (exact - whole).abs().max() > 1  # holes are no zeros
    found = log_marginal_likelihood(vae, x, 20_000, method)
    if method == "quadrature":
        assert (found.value - exact).abs().max() < 1e-3
    else:
        # Where few samples carry the weight, the error is too small.
        many = found.effective_sample_size > 500
        z = ((found.value - exact) / found.error)[many]
        assert many.sum() > 20 and z.abs().max() < z_limit(len(z))


def test_the_elbo_bounds_it(linear):
    vae, x = linear
    gaps = split_gap(vae, x[:6], num_samples=2000)
    exact, _ = exact_observed(vae, x[:6])
    found = gaps.log_marginal_likelihood
    assert torch.allclose(found, exact, atol=1e-3)
    assert (gaps.amortization > 0.1).all()  # of an untrained encoder
    assert (gaps.approximation > -5 * gaps.best_elbo_error).all()


def test_imputed_values_have_the_conditional_mean(linear):
    """The guide is untrained, so that the weights do all the work."""
    vae, x = linear
    _, exact = exact_observed(vae, x[:5])
    draws = torch.stack([vae.impute(x[:5], 5000) for _ in range(20)])
    hidden = x[:5].isnan()
    assert torch.equal(draws[0][~hidden], x[:5][~hidden])
    assert_mean(draws[:, hidden], exact[hidden])
    guess = vae.generate(vae.infer(x[:5]).mean)
    assert (guess - exact)[hidden].abs().max() > 0.1  # without weights


def test_imputation_in_parts(linear, monkeypatch):
    vae, x = linear
    monkeypatch.setattr("pyro_vae.vae.IMPUTED", 700)
    assert vae.impute(x, 50).isfinite().all()
    x = torch.full((3, 6), NAN)  # nothing observed: the prior's mean
    bias = vae.likelihood.decoder.bias.detach()
    draws = torch.stack([vae.impute(x, 5000) for _ in range(20)]).flatten(0, 1)
    assert_mean(draws, bias)
    assert vae.likelihood(torch.zeros(3, 2)).log_prob(x).eq(0).all()


@pytest.mark.parametrize(
    "name", [n for n in MAKES if n not in ("poisson", "negative binomial")]
)
@pytest.mark.parametrize("size", [5, 300])
def test_every_likelihood_sums_what_was_observed(name, size):
    make, draw = MAKES[name]
    whole, z, x = make(), torch.randn(7, 2), punch(draw(size, D))
    likelihood, seen = MaskedLikelihood(whole), ~x.isnan()
    p = whole(z.unsqueeze(1)).base_dist
    log_p = p.log_prob(torch.where(seen, x, torch.zeros_like(x)))
    expected = (log_p * seen).sum(-1)
    pairs = likelihood(z.unsqueeze(1)).log_prob(x)
    assert torch.allclose(pairs, expected, rtol=1e-11, atol=1e-10)
    for found in (
        likelihood.cross_log_prob(z, x),
        pairwise_log_prob(likelihood, z, x),
    ):
        assert torch.allclose(found, expected, rtol=1e-11, atol=1e-10)
    pairs.sum().backward()
    for parameter in likelihood.parameters():
        assert parameter.grad.isfinite().all()


def test_a_likelihood_of_ones_own_without_products():
    class LogNormal(Likelihood):
        support = constraints.positive

        def forward(self, z):
            return dist.LogNormal(self.decoder(z), 1.0).to_event(1)

    likelihood = MaskedLikelihood(LogNormal(MLP(2, D)))
    z, x = torch.randn(4, 2), punch(torch.rand(9, D))
    pairs = likelihood(z.unsqueeze(1)).log_prob(x)
    assert torch.equal(likelihood.cross_log_prob(z, x), pairs)
    pairs.sum().backward()
    assert all(p.grad.isfinite().all() for p in likelihood.parameters())


def test_the_masked_distribution_has_the_shapes_of_its_contract():
    likelihood = MaskedLikelihood(GaussianLikelihood(MLP(2, D)))
    p = likelihood(torch.randn(4, 5, 2))
    assert p.batch_shape == (4, 5) and p.event_shape == (D,)
    assert p.mean.shape == p.variance.shape == (4, 5, D)
    assert p.sample((2,)).isfinite().all()
    x = punch(torch.randn(5, D))
    wider = p.expand((3, 4, 5))
    assert torch.equal(wider.log_prob(x)[1], p.log_prob(x))


def test_the_encoder_sees_zeros_and_the_mask():
    network = nn.Linear(7, 7)
    encoder = MaskedEncoder(network, 3)
    network.forward = lambda inputs: inputs
    assert (encoder.in_features, encoder.out_features) == (4, 7)
    seen = encoder(torch.tensor([[1.0, NAN, 3.0, 9.0]]))
    assert seen.tolist() == [[1, 0, 3, 1, 0, 1, 9]]


SMALL = Config(
    missing=True,
    hidden=(8,),
    epochs=2,
    batch_size=16,
    device="cpu",
    engine="eager",
)


def make(data_dim=16, **choices):
    torch.manual_seed(0)
    config = replace(SMALL, **choices)
    return build(config, data_dim, num_labels=3), config


@pytest.mark.parametrize("prior", PRIORS)
def test_every_prior_takes_them(prior):
    vae, config = make(prior=prior)
    x = punch(torch.rand(50, 16))
    first, *_, last = (record["test_elbo"] for record in fit(vae, x, config))
    assert last > first
    assert vae.impute(x[:5], 10).isfinite().all()
    assert vae.reconstruct(x[:5]).isfinite().all()


@pytest.mark.parametrize(
    "choices",
    [
        {"network": "conv", "channels": (4,)},
        {"inference": "local"},
        {"inference": "semi-amortized"},
        {"objective": "dreg", "num_particles": 2},
        {"likelihood": "bernoulli", "binarize": "dynamic"},
    ],
    ids=lambda choices: next(iter(choices)),
)
def test_every_way_takes_them(choices):
    vae, config = make(**choices)
    x = punch(torch.rand(50, 16))
    records = list(fit(vae, x, config))
    assert records[-1]["test_elbo"] > records[0]["test_elbo"]


@pytest.mark.parametrize(
    "is_compiled", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_the_compiled_step_is_pyros(is_compiled, monkeypatch):
    if not is_compiled:
        keep_the_record(monkeypatch)
    vae, _ = make(hidden=())
    twin, x = copy.deepcopy(vae), punch(torch.rand(20, 16))
    losses = []
    for one, engine in ((vae, SVI), (twin, CompiledSVI)):
        optim, loss = Adam({"lr": 1e-2}), make_objective(one)
        svi = engine(one.model, one.guide, optim, loss)
        torch.manual_seed(1)
        losses.append([svi.step(x) for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    for left, right in zip(twin.parameters(), vae.parameters(), strict=True):
        assert torch.allclose(left, right, rtol=1e-9, atol=1e-9)


def test_with_labels():
    vae, config = make(condition="labels")
    x, labels = punch(torch.rand(30, 16)), torch.arange(30) % 3
    data = Dataset("own", x, x, labels, labels, missing=True)
    list(fit(vae, data, config))
    some, known = x[:1], labels[:1]
    found = log_marginal_likelihood(vae, some, 0, "quadrature", labels=known)
    bound = log_marginal_likelihood(vae, some, 4000, labels=known)
    z = (found.value - bound.value) / bound.error
    assert z.abs().max() < z_limit(1)
    assert vae.impute(x, 10, labels).isfinite().all()


@pytest.mark.parametrize("binarize", ["none", "dynamic"])
def test_a_run_resumes_and_is_read_back(tmp_path, binarize, monkeypatch):
    x = punch(torch.rand(60, 16)).numpy()
    np.save(tmp_path / "own.npy", x)
    monkeypatch.setattr(rows, "IN_MEMORY", 1000)  # and read as asked for
    likelihood = "gaussian" if binarize == "none" else "bernoulli"
    vae, config = make(
        dataset=str(tmp_path / "own.npy"),
        binarize=binarize,
        likelihood=likelihood,
    )
    data = load_data(config)
    assert isinstance(data.train, Rows)
    whole = without_timing(fit(copy.deepcopy(vae), data, config))
    steps = []
    first = fit(
        copy.deepcopy(vae),
        data,
        config,
        tmp_path / "run",
        on_step=lambda step, elbo: steps.append(step),
        stop=lambda: len(steps) == 4,  # in the second epoch
    )
    begun = without_timing(first)
    rest = fit(vae, data, config, tmp_path / "run", resume=True)
    assert begun + without_timing(rest) == whole
    run = load_run(tmp_path / "run")
    assert 0.5 < run.data.describe()["observed"] < 0.7
    assert run.data.describe() == data.describe()
    part = data.test[:3]
    assert torch.equal(run.vae.infer(part).mean, vae.infer(part).mean)
    assert isinstance(load_vae(tmp_path / "run").likelihood, MaskedLikelihood)


def test_binary_draws_keep_the_holes():
    x = punch(torch.rand(50, 16))
    for drawn in (draw_binary(x), draw_once(x, 0)):
        assert torch.equal(drawn.isnan(), x.isnan())
        assert set(drawn[~x.isnan()].tolist()) == {0, 1}
    data = Dataset("own", x, x, missing=True)
    assert data.binarize("static").is_binary and not data.is_binary
    with pytest.raises(DataError, match="to draw binary ones from"):
        Dataset("own", 3 * x, x, missing=True).binarize("static")


def write(name, x, folder):
    path, table = folder / name, pd.DataFrame(x)
    table.columns = [f"c{i}" for i in table.columns]
    if name.endswith("csv"):
        table.to_csv(path, index=False)
    elif name.endswith("parquet"):
        table.to_parquet(path)
    elif name.endswith("npy"):
        np.save(path, x)
    elif name.endswith("npz"):
        np.savez(path, images=x)
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            file["images"] = x
    return path


@pytest.mark.parametrize(
    "name", ["x.csv", "x.parquet", "x.npy", "x.npz", "x.h5"]
)
def test_every_reader_lets_them_through_if_asked_to(tmp_path, name):
    x = punch(torch.rand(20, 6)).numpy()
    path = write(name, x, tmp_path)
    with pytest.raises(DataError, match=r"expected none: .* give missing=True"):
        load(path)
    data = load(path, options=Options(missing=True))
    found = torch.cat([data.train, data.test])
    key = torch.as_tensor(x).nan_to_num(-1).sort(0).values
    assert torch.allclose(found.nan_to_num(-1).sort(0).values, key)
    assert f"{np.isnan(x).sum()} of them NaN, not observed" in data.reading
    assert data.missing and 0 < data.describe()["observed"] < 1


def test_a_table_of_whole_numbers_with_holes(tmp_path):
    table = pd.DataFrame({"a": range(9), "b": range(9)}, dtype="Int64")
    table.loc[2, "b"] = pd.NA
    table.to_parquet(tmp_path / "x.parquet")
    options = Options(missing=True, values="counts")
    data = load(tmp_path / "x.parquet", options=options)
    assert torch.cat([data.train, data.test]).isnan().sum() == 1
    with pytest.raises(DataError, match="1 cells without a number, in b"):
        load(tmp_path / "x.parquet", options=Options(values="counts"))
    table["b"] = np.nan
    table.to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(DataError, match="has no value in b; expected some"):
        load(tmp_path / "x.csv", options=Options(missing=True))


def test_a_mask_of_numpys_is_taken():
    x = np.random.default_rng(0).random((10, 4))
    mask = np.zeros_like(x, bool)
    mask[3, 2] = True
    data = to_dataset(np.ma.array(x, mask=mask), Options(missing=True))
    found = torch.cat([data.train, data.test])
    assert found.isnan().sum() == 1 and not (found == x[3, 2]).any()
    with pytest.raises(DataError, match="hold 1 NaN; expected none"):
        to_dataset(np.ma.array(x, mask=mask))
    whole = to_dataset(np.ma.array((255 * x).astype(np.uint8)))
    assert "uint8 values divided by 255" in whole.reading


def test_holes_and_infinities_that_come_late(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "IN_MEMORY", 100)
    monkeypatch.setattr("pyro_vae.data.ranges.SAMPLE", 2)
    x = np.random.default_rng(0).random((30, 4))
    x[5, 1] = NAN
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(DataError, match="hold NaN in rows that were not"):
        load(tmp_path / "x.npy").train.to_tensor()
    options = Options(missing=True, values="real")
    load(tmp_path / "x.npy", options=options).train.to_tensor()
    x[6, 1] = math.inf
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(DataError, match="expected finite ones"):
        load(tmp_path / "x.npy", options=options).train.to_tensor()


def test_a_vae_that_takes_none_names_the_choice():
    vae = linear_vae()
    x = punch(torch.randn(10, 6))
    for ask in (
        lambda: vae.impute(x),
        lambda: log_marginal_likelihood(vae, x),
        lambda: split_gap(vae, x),
        lambda: list(fit(vae, Dataset("own", x, x, missing=True), FitConfig())),
    ):
        with pytest.raises(ValueError, match=r"has NaN in .*missing=True"):
            ask()
    with pytest.raises(DataError, match=r"expected none: .* missing=True"):
        list(fit(vae, x, FitConfig()))
    with pytest.raises(DataError, match=r"has NaN or inf.* missing=True"):
        Dataset("own", x, x)


def test_an_encoder_that_takes_none_is_refused():
    vae, x = linear_vae(), punch(torch.randn(10, 6))
    vae = VAE(
        vae.prior, MaskedLikelihood(vae.likelihood), vae.guide.distribution
    )
    with pytest.raises(ValueError, match="the encoder Linear makes NaN; exp"):
        list(fit(vae, x, FitConfig()))


def test_data_outside_the_support_are_refused_in_evaluations():
    decoder = MLP(2, D)
    vae = VAE(
        NormalPrior(2), PoissonLikelihood(decoder), NormalGuide(MLP(D, 4))
    )
    x = torch.full((3, D), 0.5)
    for ask in (log_marginal_likelihood, split_gap):
        with pytest.raises(ValueError, match=r"x holds 0.5, outside"):
            ask(vae, x)
    member = build(Config(likelihood="poisson", condition="labels"), D)
    with pytest.raises(ValueError, match=r"x holds 0.5, outside"):
        log_marginal_likelihood(member.given(1), x)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (
            lambda: MaskedLikelihood(PoissonLikelihood(MLP(2, D))),
            "library is 'observed' with missing values; expected learned",
        ),
        (
            lambda: Config(missing=True, likelihood="poisson"),
            "library is 'observed'; expected learned with missing=True",
        ),
        (lambda: MaskedEncoder(MLP(5, 2), 3), "takes 5 numbers; expected at"),
        (
            lambda: MaskedLikelihood(Far(MLP(2, D))),
            "expected one that has 0, 0.5 or 1 in it",
        ),
        (
            lambda: MaskedLikelihood(Full(MLP(2, D)))(
                torch.zeros(1, 2)
            ).log_prob(torch.zeros(1, D)),
            "is MultivariateNormal, whose dimensions are not independent",
        ),
    ],
)
def test_what_cannot_be_masked_is_refused(ask, words):
    with pytest.raises(ValueError, match=words):
        ask()


class Far(Likelihood):
    support = constraints.greater_than(3.0)

    def forward(self, z):
        raise NotImplementedError


class Full(Likelihood):
    def forward(self, z):
        return dist.MultivariateNormal(self.decoder(z), torch.eye(D))


@pytest.mark.parametrize("channels", [(), (3,)])
def test_figures_show_the_holes_and_the_page_refuses(tmp_path, channels):
    size = 16 * len(channels or (1,)) * (channels or (1,))[0]
    x = punch(torch.rand(30, size))
    data = Dataset("own", x, x, image_shape=(*channels, 4, 4), missing=True)
    vae, config = make(size, epochs=1)
    list(fit(vae, data, config, tmp_path / "run"))
    drawn = draw_run(vae, data, tmp_path / "run")
    for name, is_blue in (("data", 1), ("imputations", 1), ("samples", 0)):
        sheet = drawn[name].axes[0].get_images()[0].get_array()
        colors = np.asarray(sheet).reshape(-1, sheet.shape[-1])
        found = (np.abs(colors[:, :3] - [0.55, 0.68, 0.85]) < 1e-6).all(-1)
        assert found.any() == is_blue if colors.shape[1] == 3 else not is_blue
    with pytest.raises(ValueError, match="missing values, for which the page"):
        render([Exhibit("own", vae, data)])


def test_bits_are_of_the_observed_pixels(tmp_path):
    vae, _ = make(6, likelihood="discretized-logistic")
    x = (punch(torch.rand(40, 6)) * 255).round() / 255
    (row,) = evaluate("elbo", vae, x, None, Flags(tmp_path))
    observed = (~x.isnan()).sum() / 40
    bits = -row["value"] / observed.item() / math.log(2)
    assert row["bits_per_dimension"] == pytest.approx(bits)
    whole = torch.zeros(4, 6)
    assert bits_per_dimension(vae.likelihood, -12.0, whole) == pytest.approx(
        2 / math.log(2)
    )
    vae, _ = make(6)  # of a density there are none
    (row,) = evaluate("elbo", vae, punch(torch.rand(40, 6)), None, Flags("."))
    assert "bits_per_dimension" not in row
