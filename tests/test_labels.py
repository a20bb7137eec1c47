"""Conditional VAEs: every bound is one of log p(x | y)."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import nn

from pyro_vae import (
    MLP,
    VAE,
    Config,
    GaussianLikelihood,
    NormalGuide,
    NormalPrior,
    build,
    fit,
    load_vae,
    save_vae,
)
from pyro_vae.cli.drawing import draw_images, draw_latents
from pyro_vae.cli.drawing_evaluation import draw_posteriors
from pyro_vae.data import Dataset
from pyro_vae.evaluation import (
    by_label,
    check_aggregate,
    importance_bound,
    log_marginal_likelihood,
    posterior_kl,
    split_gap,
)
from pyro_vae.figures.questions import draw_samples
from pyro_vae.runs.files import FileError, pack_tensors
from pyro_vae.runs.models import WEIGHTS
from pyro_vae.runs.run import Run
from pyro_vae.training import best_epoch
from tests.commands import run
from tests.models import fit_until, keep_the_record, without_timing

CONFIG = Config(
    condition="labels",
    hidden=(8,),
    dataset="digits",
    epochs=2,
    batch_size=100,
    device="cpu",
)
NUM_LABELS = 3
NOISE = 0.5


@pytest.fixture
def few(digits):
    """Two minibatches, and a smaller third one."""
    return digits.first(240)


@pytest.fixture
def batch():
    return torch.rand(5, 6), torch.tensor([2, 0, 1, 2, 2])


def make(config=CONFIG, seed=0):
    torch.manual_seed(seed)
    return build(config, 64, (8, 8))


def linear_vae():
    """A conditional VAE whose p(x | y) is a normal."""
    decoder, encoder = nn.Linear(2 + NUM_LABELS, 6), MLP(6 + NUM_LABELS, 4, ())
    nn.init.normal_(decoder.weight)
    likelihood = GaussianLikelihood(decoder, "fixed", NOISE)
    guide = NormalGuide(encoder)
    return VAE(NormalPrior(2), likelihood, guide, num_labels=NUM_LABELS)


def exact_log_marginal(vae, x, labels):
    """Returns log p(x | y) of the linear VAE, in closed form."""
    weight, bias = vae.likelihood.decoder.parameters()
    loc = bias + weight[:, 2:].T[labels]
    covariance = weight[:, :2] @ weight[:, :2].T + NOISE**2 * torch.eye(6)
    return dist.MultivariateNormal(loc, covariance).log_prob(x).detach()


def synthetic(size=200):
    """Images whose class alone says where they are bright."""
    labels = torch.arange(2 * size) % NUM_LABELS
    images = 0.05 * torch.rand(2 * size, 6)
    images[:, ::2] += 0.9 * torch.eye(NUM_LABELS)[labels]
    return Dataset(
        "synthetic",
        images[:size],
        images[size:],
        labels[:size],
        labels[size:],
        (2, 3),
    )


def by_hand(vae, x, labels, noise):
    """Returns the conditional ELBO of each image, by the formula."""
    codes = torch.eye(vae.num_labels)[labels]
    loc, raw = vae.guide.encoder(torch.cat([x, codes], 1)).chunk(2, 1)
    scale = 1e-4 + nn.functional.softplus(raw)
    z = loc + scale * noise
    mean = vae.likelihood.decoder(torch.cat([z, codes], 1))
    log_likelihood = dist.Normal(mean, vae.likelihood.scale).log_prob(x).sum(1)
    log_p = dist.Normal(0.0, 1.0).log_prob(z).sum(1)
    return log_likelihood + log_p - dist.Normal(loc, scale).log_prob(z).sum(1)


def test_the_elbo_and_its_gradient_are_those_of_the_formula(batch):
    vae, (x, labels) = linear_vae(), batch
    torch.manual_seed(1)
    found = vae.compute_elbo(x, labels=labels)
    torch.manual_seed(1)
    noise = torch.randn(5, 2)
    expected = by_hand(vae, x, labels, noise)
    torch.testing.assert_close(found, expected)
    torch.manual_seed(1)
    with pyro.validation_enabled(False):
        loss = Trace_ELBO().differentiable_loss(
            vae.model, vae.guide, x, 20, labels=labels
        )
    torch.testing.assert_close(loss, -4 * expected.sum())
    gradients = [
        torch.autograd.grad(value, tuple(vae.parameters()))
        for value in (loss, -4 * expected.sum())
    ]
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right)


def test_pyros_svi_takes_the_labels(batch):
    vae, (x, labels) = linear_vae(), batch
    before = [p.detach().clone() for p in vae.parameters()]
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), Trace_ELBO())
    svi.step(x, labels=labels)
    for old, new in zip(before, vae.parameters(), strict=True):
        assert not torch.equal(old, new)


def test_one_label_makes_a_vae_without_labels(batch):
    vae, (x, _) = linear_vae(), batch
    member = vae.given(1)
    z = torch.randn(4, 2)
    labels = torch.ones(5, dtype=torch.long)
    for left, right in (
        (member.infer(x).mean, vae.infer(x, labels).mean),
        (member.generate(z), vae.generate(z, 1)),
        (member.reconstruct(x), vae.reconstruct(x, labels)),
        (
            member.likelihood.cross_log_prob(z, x),
            vae.model.decode(z.unsqueeze(1), labels=1).log_prob(x),
        ),
    ):
        torch.testing.assert_close(left, right)
    assert set(member.parameters()) == set(vae.parameters())


@pytest.mark.parametrize("method", ["quadrature", "importance"])
def test_log_p_of_x_given_y_is_exact_on_a_linear_model(batch, method):
    vae, (x, labels) = linear_vae(), batch
    found = log_marginal_likelihood(vae, x, 4000, method, labels=labels)
    exact = exact_log_marginal(vae, x, labels)
    limit = {"quadrature": 2e-3, "importance": 0.5}[method]
    assert (found.value - exact).abs().max() < limit
    others = exact_log_marginal(vae, x, labels.flip(0))
    assert (found.value - others).abs().max() > 2 * limit


def test_the_gaps_are_those_of_p_of_x_given_y(batch):
    vae, (x, labels) = linear_vae(), batch
    gaps = split_gap(vae, x, num_steps=30, num_samples=400, labels=labels)
    exact = exact_log_marginal(vae, x, labels)
    torch.testing.assert_close(
        gaps.log_marginal_likelihood, exact, atol=2e-3, rtol=0
    )
    elbo = vae.compute_elbo(x, 4000, labels=labels)
    assert (gaps.elbo - elbo).abs().max() < 0.2 * (exact - elbo).max()
    kl = posterior_kl(vae, x, exact, labels)
    assert ((exact - elbo) - kl).abs().max() < 0.05 * kl.max()
    assert check_aggregate(vae, x, labels=labels).kl.shape == (2,)
    some = Dataset("some", x, x, labels, labels, (2, 3))
    figure = draw_posteriors(Run(vae, CONFIG, some), x, labels, gaps)
    assert "gap" in figure.axes[0].get_title("right")


@pytest.mark.parametrize(
    "choices",
    [
        {"prior": "mixture", "num_components": 3},
        {"prior": "categorical", "num_components": 4},
        {"prior": "categorical", "gradient": "score-function-baseline"},
        {"prior": "summed-mixture", "guide": "full"},
        {"prior": "flow", "guide": "flow"},
        {"network": "conv", "channels": (4,)},
        {"objective": "iwae", "num_particles": 3},
        {"objective": "analytic-kl", "free_bits": 0.1},
        {"prior": "mixture", "beta": 2.0},
    ],
)
def test_priors_guides_and_objectives_take_labels(choices, few):
    config = replace(CONFIG, epochs=1, **choices)
    vae = make(config)
    *_, record = fit(vae, few, config)
    assert record["test_elbo"] < 0
    x, labels = few.test[:6], few.test_labels[:6]
    elbo = vae.compute_elbo(x, 50, labels=labels)
    bound = importance_bound(vae.given(int(labels[0])), x[:1], 500).value
    assert elbo.shape == (6,) and (elbo[0] - bound).abs() < 20
    assert vae.sample(4, labels[:4]).shape == (4, 64)


def test_conditional_fits_learn_from_the_labels():
    """Labels that a shuffle has put out of place cost many nats."""
    config = replace(CONFIG, latent_dim=1, learning_rate=1e-2, epochs=40)
    data = synthetic()

    def gain(vae):
        own, wrong = (
            vae.compute_elbo(data.test, 10, labels=labels).mean()
            for labels in (data.test_labels, data.test_labels.roll(1))
        )
        return (own - wrong).item()

    torch.manual_seed(0)
    vae = build(config, 6, num_labels=NUM_LABELS)
    assert abs(gain(vae)) < 1  # untrained, it knows no class
    records = list(fit(vae, data, config))
    assert gain(vae) > 10
    again = vae.compute_elbo(data.test, 100, labels=data.test_labels).mean()
    assert abs(records[-1]["test_elbo"] - again) < 0.5
    images = vae.sample(NUM_LABELS, torch.arange(NUM_LABELS))
    assert torch.equal(images[:, ::2] > 0.5, torch.eye(NUM_LABELS) > 0.5)


def test_a_compiled_fit_is_the_eager_one(few, monkeypatch):
    keep_the_record(monkeypatch)
    histories = []
    for engine in ("eager", "compiled"):
        config = replace(CONFIG, engine=engine)
        records = fit(make(config), few, config)
        histories.append(without_timing(records))
        assert records.engine == engine
    for left, right in zip(*histories, strict=True):
        assert left == pytest.approx(right)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_stopped_run_resumes_to_the_same(steps, few, tmp_path):
    reference = make()
    whole = without_timing(fit(reference, few, CONFIG))
    fit_until(steps, make(), few, CONFIG, tmp_path)
    vae = make(seed=9)
    rest = without_timing(fit(vae, few, CONFIG, tmp_path, resume=True))
    assert rest == whole[-len(rest) :]
    for left, right in zip(
        vae.parameters(), reference.parameters(), strict=True
    ):
        assert torch.equal(left, right)


def test_held_out_images_keep_their_labels():
    data, config = synthetic(), replace(CONFIG, early_stopping=1, epochs=1)
    labels = data.held_out_labels(0.1)
    _, images = data.hold_out(0.1)
    assert torch.equal(images[:, ::2].argmax(1), labels)
    torch.manual_seed(0)
    vae = build(config, 6, num_labels=NUM_LABELS)
    records = list(fit(vae, data, config))
    again = vae.compute_elbo(images, 1000, labels=labels).mean()
    assert abs(records[-1]["validation_elbo"] - again) < 3
    assert best_epoch(records) is not None


def test_a_saved_vae_keeps_its_number_of_labels(tmp_path):
    config = replace(CONFIG, dataset="auto")
    vae = build(config, 6, num_labels=NUM_LABELS)
    save_vae(vae, tmp_path)
    again = load_vae(tmp_path)
    z, labels = torch.randn(3, 2), torch.arange(3)
    assert torch.equal(again.generate(z, labels), vae.generate(z, labels))
    crafted = {**vae.recipe, "num_labels": "many"}
    content = pack_tensors(vae.state_dict(), crafted, "model")
    (tmp_path / WEIGHTS).write_bytes(content)
    (tmp_path / "manifest.json").unlink(missing_ok=True)
    with pytest.raises(FileError):
        load_vae(tmp_path)


def test_the_samples_show_a_class_in_each_row(few):
    vae = make()
    images = draw_samples(vae).view(10, 10, 64)
    torch.manual_seed(0)
    z = vae.prior().sample((10,))
    for label in (0, 7):
        torch.testing.assert_close(images[label], vae.generate(z, label))
    assert set(draw_latents(vae, few)) == {"latent"}
    sheet = draw_images(vae, few)["samples"]
    assert "a class a row" in sheet.axes[0].get_title()
    discrete = make(replace(CONFIG, prior="categorical"))
    assert set(draw_latents(discrete, few)) == {"usage"}


def test_the_results_come_back_in_the_images_order(batch):
    vae, (x, labels) = linear_vae(), batch
    found = by_label(
        lambda vae, x: importance_bound(vae, x, 10), vae, x, labels
    )
    for place, label in enumerate(labels.tolist()):
        alone = importance_bound(vae.given(label), x[labels == label], 10)
        rank = int((labels[:place] == label).sum())
        assert found.value[place] == alone.value[rank]


def test_what_makes_no_sense_is_refused_by_name(batch, few):
    vae, (x, labels) = linear_vae(), batch
    plain = make(replace(CONFIG, condition="none"))
    for refused, words in (
        (lambda: vae.infer(x), "conditional on 3 labels"),
        (lambda: vae.sample(2), "conditional on 3 labels"),
        (lambda: vae.infer(x, labels + 1), "from 1 to 3; expected integers"),
        (lambda: vae.infer(x, labels - 1), "from -1 to 1; expected integers"),
        (lambda: vae.infer(x, labels.double()), "expected integers"),
        (lambda: vae.infer(x, labels[:2]), r"shape \(2,\) for images"),
        (lambda: vae.given(3), "label is 3 of a VAE with 3 labels"),
        (lambda: plain.given(0), "label is 0 of a VAE with 0 labels"),
        (lambda: plain.infer(few.test, few.test_labels), "takes none"),
        (lambda: log_marginal_likelihood(vae, x), "none were given"),
        (
            lambda: log_marginal_likelihood(vae, x, labels=labels[:2]),
            r"shape \(2,\) for 5 images",
        ),
        (
            lambda: log_marginal_likelihood(plain, few.test, labels=labels),
            "takes none",
        ),
        (lambda: replace(CONFIG, prior="vamp"), "with condition=labels"),
        (lambda: replace(CONFIG, inference="local"), "with condition=labels"),
        (
            lambda: VAE(NormalPrior(2), vae.likelihood, vae.guide.distribution),
            "takes 5 numbers and the prior's z has 2; expected",
        ),
        (lambda: fit(make(), unlabeled(few), CONFIG), "no train_labels"),
        (
            lambda: fit(make(), replace_labels(few, 11), CONFIG),
            "go from 11 to 11; expected 0 to 9",
        ),
        (
            lambda: fit(make(), replace_labels(few, 0.5), CONFIG),
            "expected integers",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            refused()


def unlabeled(data):
    return replace(data, train_labels=None, test_labels=None)


def replace_labels(data, value):
    labels = torch.full(data.train_labels.shape, value)
    return replace(data, train_labels=labels)


def test_the_commands_fit_and_evaluate_a_conditional_vae(tmp_path):
    flags = (
        "--condition labels --dataset digits --limit 90 --epochs 1 --hidden 8 "
        "--latent-dim 1"
    )
    done = run(tmp_path, "fit.py", *flags.split(), "--output", "run")
    assert done.returncode == 0, done.stderr
    few = ["--limit", 4, "--gap-images", 2, "--num-samples", 20]
    done = run(tmp_path, "evaluate.py", "run", *few, "--per-image")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run"
    assert (folder / "figures" / "gaps.png").exists()
    table = pd.read_csv(folder / "evaluation.csv")
    values = table.loc[table["what"] == "elbo", "value"]
    assert len(values) == 5 and np.isfinite(values).all()
