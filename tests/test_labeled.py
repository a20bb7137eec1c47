"""Semi-supervised fits: a mixture's component is the label, where known."""

from dataclasses import replace

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import TraceEnum_ELBO
from torch.nn.functional import softplus

from pyro_vae import Config, FitConfig, build, fit
from pyro_vae.objectives import make_objective
from pyro_vae.training.labeled import KnownLabels, choose_labels
from tests.models import (
    fit_until,
    keep_the_record,
    linear_vae,
    without_timing,
)

CLASSES = 3
CONFIG = Config(
    prior="mixture",
    num_components=CLASSES,
    labeled=2 * CLASSES,
    label_weight=1.0,
    latent_dim=2,
    hidden=(8,),
    dataset="digits",
    epochs=2,
    batch_size=50,
    device="cpu",
)
LABELS = torch.tensor([2, -1, 0, -1, 1])


@pytest.fixture
def few(digits):
    """Digits of three classes: two minibatches, and a smaller third one."""
    train, test = digits.train_labels < 3, digits.test_labels < 3
    return replace(
        digits,
        train=digits.train[train][:130],
        test=digits.test[test],
        train_labels=digits.train_labels[train][:130],
        test_labels=digits.test_labels[test],
    )


@pytest.fixture
def vae():
    return make(data_dim=6)


@pytest.fixture
def x():
    return torch.rand(5, 6)


def make(config=CONFIG, data_dim=64, seed=0):
    torch.manual_seed(seed)
    return build(config, data_dim)


def parameters_of_q(vae, x):
    """Returns log q(y | x), and the locs and scales of q(z | x, y)."""
    out = vae.guide.encoder(x).unflatten(1, (CLASSES, -1))
    loc, raw = out[..., 1:].chunk(2, dim=-1)
    return out[..., 0].log_softmax(1), loc, 1e-4 + softplus(raw)


def sum_by_hand(vae, x, labels, noise):
    """Returns each image's bound, by the formulas of Kingma et al. (2014).

    L(x, y) bounds log p(x, y), and U(x) = sum_y q(y | x) L(x, y) + H(q(y | x))
    bounds log p(x). The noise is `(K, B, P)`.
    """
    log_q_y, loc, scale = parameters_of_q(vae, x)
    bounds = []
    for image, label in enumerate(labels.tolist()):
        labeled = []
        for y in range(CLASSES):
            q = dist.Normal(loc[image, y], scale[image, y])
            z = loc[image, y] + scale[image, y] * noise[y, image]
            p = dist.Normal(vae.prior.loc[y], vae.prior.scale[y])
            labeled.append(
                vae.likelihood(z).log_prob(x[image])
                + p.log_prob(z).sum()
                - torch.tensor(CLASSES).log()
                - q.log_prob(z).sum()
            )
        if label >= 0:
            bounds.append(labeled[label])
            continue
        bounds.append(
            sum(
                log_q_y[image, y].exp() * (labeled[y] - log_q_y[image, y])
                for y in range(CLASSES)
            )
        )
    return torch.stack(bounds)


def differentiate(value, vae):
    return torch.autograd.grad(
        value, tuple(vae.parameters()), allow_unused=True
    )


def take_loss(vae, x, num_data=20, **given):
    """Runs Pyro's enumerating estimator; returns the loss and its gradients."""
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    torch.manual_seed(1)
    with pyro.validation_enabled(False):
        loss = elbo.differentiable_loss(
            vae.model, vae.guide, x, num_data, **given
        )
    return loss, differentiate(loss, vae)


@pytest.mark.parametrize(
    "labels", [LABELS, LABELS.clamp(max=-1), LABELS.clamp(min=0)]
)
def test_the_loss_is_the_sum_over_classes_by_hand(vae, x, labels):
    loss, gradients = take_loss(vae, x, labels=labels)
    torch.manual_seed(1)
    noise = torch.randn(CLASSES, 5, 2)
    expected = -4 * sum_by_hand(vae, x, labels, noise).sum()
    torch.testing.assert_close(loss, expected)
    for left, right in zip(
        gradients, differentiate(expected, vae), strict=True
    ):
        torch.testing.assert_close(left, right)


def test_without_a_label_nothing_changes(vae, x):
    loss, _ = take_loss(vae, x, labels=torch.full((5,), -1))
    plain, _ = take_loss(vae, x)
    torch.testing.assert_close(loss, plain)


def test_the_elbo_of_the_vae_takes_the_same_labels(vae, x):
    torch.manual_seed(1)
    found = vae.compute_elbo(x, labels=LABELS)
    torch.manual_seed(1)
    noise = torch.randn(1, 5, CLASSES, 2).squeeze(0).transpose(0, 1)
    torch.testing.assert_close(found, sum_by_hand(vae, x, LABELS, noise))
    labels = LABELS.clamp(min=0)
    assert torch.equal(vae.assign(x, labels), labels)


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_the_classifiers_loss_adds_its_gradient_and_no_value(vae, x, beta):
    labels, weight, num_data = LABELS.clamp(min=0), 0.7, 20
    objective = make_objective(vae, beta=beta)
    found = []
    for given in ({}, {"classified": (x, labels, weight)}):
        torch.manual_seed(1)
        with pyro.validation_enabled(False):
            loss = objective.loss_and_grads(
                vae.model, vae.guide, x, num_data, labels=LABELS, **given
            )
        grads = [p.grad.clone() for p in vae.parameters()]
        vae.zero_grad()
        found.append((loss, grads))
    (plain, before), (same, after) = found
    assert same == pytest.approx(plain)
    log_q, _, _ = parameters_of_q(vae, x)
    mean = log_q[torch.arange(5), labels].mean()
    expected = differentiate(-weight * num_data * mean, vae)
    for old, new, extra in zip(before, after, expected, strict=True):
        extra = torch.zeros_like(old) if extra is None else extra
        torch.testing.assert_close(new - old, extra)


def test_labels_are_kept_in_equal_numbers_by_seed():
    labels = torch.arange(60) % CLASSES
    first, again, other = (
        choose_labels(labels, 12, CLASSES, seed) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    kept = first >= 0
    assert torch.equal(first[kept].bincount(), torch.full((CLASSES,), 4))
    assert torch.equal(first[kept], labels[kept])


def test_labels_of_the_data_that_are_not_known_are_never_kept():
    labels = torch.tensor([0, -1, 1, -1, 2, 0, 1, 2, -1])
    kept = choose_labels(labels, 6, CLASSES, 0)
    assert torch.equal(kept, labels)
    with pytest.raises(ValueError, match="class 0 has 2 training images"):
        choose_labels(labels, 9, CLASSES, 0)


def test_every_labeled_image_comes_once_before_any_comes_again(few, vae):
    config = replace(CONFIG, labeled=30, batch_size=10)
    known = KnownLabels(vae, few, config)
    drawn = torch.stack(list(known.draw(6)))
    assert drawn.shape == (6, 10)
    assert (known.labels[drawn] >= 0).all()
    for half in drawn.split(3):
        assert len(half.unique()) == 30
    given = known.given(few.train, torch.arange(4), drawn[0])
    images, labels, weight = given["classified"]
    assert torch.equal(images, few.train[drawn[0]]) and weight == 1
    assert torch.equal(labels, few.train_labels[drawn[0]])
    assert torch.equal(given["labels"], known.labels[:4])
    all_of_them = list(replace_known(few, vae).draw(2))
    assert torch.equal(*all_of_them) and len(all_of_them[0]) == 6


def replace_known(data, vae):
    return KnownLabels(vae, data, CONFIG)


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


@pytest.mark.parametrize("steps", [2, 4])
@pytest.mark.parametrize("labeled", [6, 90])
def test_a_stopped_run_resumes_to_the_same(steps, labeled, few, tmp_path):
    config = replace(CONFIG, labeled=labeled)
    reference = make(config)
    whole = without_timing(fit(reference, few, config))
    fit_until(steps, make(config), few, config, tmp_path)
    vae = make(config, seed=9)
    rest = without_timing(fit(vae, few, config, tmp_path, resume=True))
    assert rest == whole[-len(rest) :]
    for left, right in zip(
        vae.parameters(), reference.parameters(), strict=True
    ):
        assert torch.equal(left, right)
    other = replace(config, labeled=3)
    with pytest.raises(ValueError, match="labeled is 3"):
        fit(make(config), few, other, tmp_path, resume=True)


def test_labels_teach_which_component_is_which_class(few):
    """As many labels that are wrong teach as well, but something else."""
    config = replace(
        CONFIG, labeled=30, epochs=15, hidden=(32,), learning_rate=5e-3
    )
    wrong = replace(few, train_labels=(few.train_labels + 1) % CLASSES)
    *_, record = fit(make(config), few, config)
    assert record["test_accuracy"] > 0.9
    first, *_, record = fit(make(config), wrong, config)
    assert record["test_accuracy"] < 0.1
    assert first["test_accuracy"] < 0.8  # untrained


def test_what_makes_no_sense_is_refused_by_name(few, vae, x, digits):
    plain = Config(hidden=(8,))
    for refused, words in (
        (lambda: Config(labeled=10), "it goes with prior=mixture"),
        (lambda: replace(CONFIG, condition="labels"), "condition=labels"),
        (lambda: replace(CONFIG, inference="local"), "amortized with labeled"),
        (lambda: replace(CONFIG, labeled=None), "it goes with labeled"),
        (
            lambda: fit(build(plain, 64), few, FitConfig(labeled=6)),
            "it goes with prior=mixture",
        ),
        (
            lambda: fit(linear_vae(), few, FitConfig(labeled=6)),
            "type NormalPrior; expected None, or prior=mixture",
        ),
        (lambda: fit(make(), digits, CONFIG), "num_components is 3; expected"),
        (
            lambda: fit(make(), few, replace(CONFIG, labeled=7)),
            "labeled is 7; expected a multiple of the number of classes, 3",
        ),
        (
            lambda: fit(make(), few, replace(CONFIG, labeled=300)),
            "labeled is 300, 100 of each class, and class 0 has",
        ),
        (
            lambda: fit(make(), replace(few, train_labels=None), CONFIG),
            "has no labels",
        ),
        (lambda: vae.infer(x, LABELS + 1), "integers from 0 to 2, or -1"),
        (lambda: vae.infer(x, LABELS - 1), "integers from 0 to 2, or -1"),
        (
            lambda: build(plain, 6).infer(x, LABELS),
            "prior=mixture, whose component they are",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            refused()
