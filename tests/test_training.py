"""fit(): what it records, how it resumes, and that its options are reached."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from pyro.infer import Trace_ELBO

from pyro_vae import (
    VAE,
    Amortized,
    Config,
    FitConfig,
    GaussianLikelihood,
    LocalInference,
    NormalGuide,
    NormalPrior,
    VAEConfig,
    build,
    fit,
    load_vae,
)
from pyro_vae.data import load
from pyro_vae.evaluation import compile_sums, mean_elbo_terms
from pyro_vae.inference import EStep
from pyro_vae.runs.files import CHECKPOINT, FileError
from pyro_vae.runs.history import HISTORY, read_history
from pyro_vae.svi import (
    CompilationError,
    NonFiniteLossError,
    clip_gradients,
    graphs,
)
from pyro_vae.training import resolve_device
from pyro_vae.training.loop import train
from pyro_vae.training.objective import AnnealedObjective
from pyro_vae.training.recorder import Recorder
from pyro_vae.training.setup import COMPILE_FROM, resolve_engine
from pyro_vae.training.trainer import Trainer
from tests.models import fit_until, keep_the_record, without_timing

CONFIG = Config(
    hidden=(16,), dataset="digits", epochs=3, batch_size=100, device="cpu"
)
EPOCH = 3  # steps on the few images, the last of them on 40
SLOW = pytest.mark.slow


@pytest.fixture
def few(digits):
    """Images enough for two minibatches and a smaller third one."""
    return digits.first(240)


@pytest.fixture(
    params=["eager", "recorded", pytest.param("compiled", marks=SLOW)]
)
def engine(request, monkeypatch):
    """Each engine; to compile takes seconds, what is recorded none."""
    if request.param == "recorded":
        keep_the_record(monkeypatch)
    return "eager" if request.param == "eager" else "compiled"


@pytest.fixture(params=["recorded", pytest.param("compiled", marks=SLOW)])
def backend(request, monkeypatch):
    """The compiled engine, and what it records alone."""
    if request.param == "recorded":
        keep_the_record(monkeypatch)


@pytest.fixture
def recorded(monkeypatch):
    keep_the_record(monkeypatch)


both_backends = pytest.mark.usefixtures("backend")


def make(config=CONFIG):
    torch.manual_seed(config.seed)
    return build(config, data_dim=64)


def make_trainer(data, config):
    return Trainer(make(config), data, config)


def train_all(trainer):
    return list(train(trainer, lambda step, elbo: None, lambda: False))


def see_images(vae):
    """Returns two lists, filled with what the encoder is given.

    The first is of the training minibatches, the second of the others.
    """
    trained, evaluated = [], []

    def see(encoder, inputs):
        seen = trained if encoder.training else evaluated
        seen.append(inputs[0].clone())

    vae.guide.encoder.register_forward_pre_hook(see)
    return trained, evaluated


def sort(images):
    return sorted(images.tolist())


def test_the_records(digits):
    records = list(fit(make(), digits, CONFIG))
    assert [record["epoch"] for record in records] == [0, 1, 2, 3]
    assert [record["step"] for record in records] == [0, 15, 30, 45]
    for record in records:
        terms = (record["test_expected_log_likelihood"], record["test_kl"])
        assert record["test_elbo"] == terms[0] - terms[1]
    assert records[-1]["test_elbo"] > records[0]["test_elbo"] + 2
    assert records[-1]["noise_scale"] != 0.5
    assert 0 < records[1]["seconds"] < records[2]["seconds"]


def test_epoch_0_is_the_untrained_model(few):
    (record,) = fit(make(), few, replace(CONFIG, epochs=0))
    expected = mean_elbo_terms(make(), few.test, CONFIG.seed)
    assert record["test_elbo"] == expected[0] - expected[1]
    assert record["noise_scale"] == pytest.approx(0.5)


def test_train_elbo_weighs_the_last_smaller_minibatch(digits):
    """At a negligible step size it is the ELBO of the whole training set."""
    config = replace(CONFIG, learning_rate=1e-12, epochs=1, num_particles=64)
    digits = digits.first(438)
    untrained, record = fit(make(), digits, config)
    exact = make().compute_elbo(digits.train, 64).mean().item()
    assert record["train_elbo"] == pytest.approx(exact, abs=0.05)
    assert untrained["train_elbo"] == pytest.approx(exact, abs=0.2)


def test_the_same_seed_gives_the_same_history(few):
    first = without_timing(fit(make(), few, CONFIG))
    torch.manual_seed(99)  # nothing but the config's seed counts
    vae = make()
    torch.rand(7)
    state = torch.get_rng_state()
    second = without_timing(fit(vae, few, CONFIG))
    assert first == second
    assert torch.equal(state, torch.get_rng_state())
    other = replace(CONFIG, seed=1)
    assert without_timing(fit(make(other), few, other)) != first


# In the first epoch, at its end, in the second, at its end, in the last.
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 8])
def test_stopped_and_resumed_anywhere_it_is_the_same_run(few, tmp_path, steps):
    reference = make()
    whole = without_timing(fit(reference, few, CONFIG))
    fit_until(steps, make(), few, CONFIG, tmp_path)
    seen = read_history(tmp_path / HISTORY)
    assert len(seen) == 1 + steps // EPOCH
    torch.manual_seed(99)
    vae = build(CONFIG, 64)  # other weights, to be replaced
    list(fit(vae, few, CONFIG, tmp_path, resume=True))
    assert without_timing(read_history(tmp_path / HISTORY)) == whole
    for left, right in zip(
        vae.parameters(), reference.parameters(), strict=True
    ):
        assert torch.equal(left, right)


BINARY = replace(CONFIG, likelihood="bernoulli", binarize="dynamic")


@pytest.mark.parametrize(
    "choices",
    [
        {"prior": "mixture", "prior_weights": "learned"},
        {"prior": "categorical", "gradient": "score-function-baseline"},
        {
            "prior": "categorical",
            "gradient": "score-function-baseline",
            "baseline": "learned",
        },
        {"prior": "vamp"},
        {"prior": "flow", "guide": "flow"},
        {"likelihood": "bernoulli", "binarize": "dynamic"},
    ],
    ids=["mixture", "decaying", "learned", "vamp", "flow", "binary"],
)
@pytest.mark.parametrize("steps", [EPOCH, EPOCH + 2])
def test_what_else_has_a_state_resumes_exactly(few, tmp_path, choices, steps):
    """Learned priors, baselines, and images that are drawn in each epoch."""
    config = replace(CONFIG, epochs=2, **choices)
    list(fit(make(config), few, config, tmp_path / "a"))
    fit_until(steps, make(config), few, config, tmp_path / "b")
    list(fit(make(config), few, config, tmp_path / "b", resume=True))
    whole, again = (
        without_timing(read_history(tmp_path / name / HISTORY)) for name in "ab"
    )
    assert len(whole) == 3 and repr(again) == repr(whole)  # NaN is not NaN
    if config.prior in ("mixture", "categorical"):
        assert {"components_used", "purity"} <= set(whole[0])


def test_dynamic_binarization_draws_anew_in_each_epoch(few):
    histories, epochs = [], []
    for seed in (0, 0, 1):
        config = replace(BINARY, seed=seed, epochs=2)
        vae = make(config)
        trained, _ = see_images(vae)
        histories.append(without_timing(fit(vae, few, config)))
        epochs += torch.cat(trained).split(len(few.train))
    assert repr(histories[0]) == repr(histories[1]) != repr(histories[2])
    assert len(epochs) == 6
    for images in epochs:
        assert set(images.unique().tolist()) == {0, 1}
    for first, second in itertools.combinations([*epochs[:2], epochs[4]], 2):
        assert sort(first) != sort(second)
    assert torch.equal(epochs[0], epochs[2])
    assert not any("noise_scale" in record for record in histories[0])


def test_static_binarization_draws_once_for_all_runs(few):
    drawn = few.binarize("static")
    for seed in (0, 1):
        config = replace(BINARY, binarize="static", seed=seed, epochs=2)
        vae = make(config)
        trained, _ = see_images(vae)
        untrained, *_ = fit(vae, few, config)
        terms = mean_elbo_terms(make(config), drawn.test, config.seed)
        assert untrained["test_elbo"] == terms[0] - terms[1]
        epochs = torch.cat(trained).split(len(few.train))
        assert len(epochs) == 2
        assert all(sort(images) == sort(drawn.train) for images in epochs)


@pytest.mark.parametrize("binarize", ["static", "dynamic"])
def test_validation_images_are_binary_and_stay_the_same(few, binarize):
    config = replace(BINARY, binarize=binarize, early_stopping=9, epochs=2)
    vae = make(config)
    _, evaluated = see_images(vae)
    list(fit(vae, few, config))
    held_out = [images for images in evaluated if len(images) == 24]
    assert len(held_out) == 3
    for images in held_out:
        assert set(images.unique().tolist()) == {0, 1}
        assert torch.equal(images, held_out[0])


def test_a_discrete_fit_learns_and_clusters(digits):
    config = replace(
        CONFIG,
        prior="categorical",
        hidden=(64,),
        epochs=20,
        learning_rate=5e-3,
    )
    first, *_, last = fit(make(config), digits, config)
    assert first["purity"] < 0.4 and first["test_elbo"] < -50
    assert last["purity"] > 0.5 and last["test_elbo"] > 0
    assert last["components_used"] >= 8


def test_a_finished_run_goes_on_for_more_epochs(few, tmp_path):
    longer = replace(CONFIG, epochs=5)
    whole = without_timing(fit(make(), few, longer))
    list(fit(make(), few, CONFIG, tmp_path))
    more = list(fit(make(), few, longer, tmp_path, resume=True))
    assert [record["epoch"] for record in more] == [4, 5]
    assert without_timing(read_history(tmp_path / HISTORY)) == whole
    assert not list(fit(make(), few, longer, tmp_path, resume=True))


def test_a_damaged_checkpoint_costs_an_epoch_and_no_more(few, tmp_path):
    whole = without_timing(fit(make(), few, CONFIG))
    list(fit(make(), few, CONFIG, tmp_path))
    (tmp_path / CHECKPOINT).write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="is damaged"):
        again = list(fit(make(), few, CONFIG, tmp_path, resume=True))
    assert [record["epoch"] for record in again] == [3]
    assert without_timing(read_history(tmp_path / HISTORY)) == whole


def test_the_checkpoint_of_another_vae_is_refused(few, tmp_path):
    list(fit(make(), few, CONFIG, tmp_path))
    other = replace(CONFIG, hidden=(8,))
    with pytest.raises(FileError, match="is not of this VAE"):
        fit(make(other), few, other, tmp_path, resume=True)


def test_a_loss_that_explodes_stops_and_keeps_the_checkpoint(few, tmp_path):
    config = replace(CONFIG, epochs=1)
    list(fit(make(), few, config, tmp_path))
    before = (tmp_path / CHECKPOINT).read_bytes()
    vae = make()
    config = replace(config, epochs=3)

    def poison(step, elbo):
        if step == EPOCH + 1:
            vae.likelihood.log_scale.data.fill_(math.nan)

    with (
        pytest.raises(
            NonFiniteLossError,
            match=r"log_scale' is not finite, in epoch 2, at step 5: try",
        ),
        pytest.warns(UserWarning, match="NaN"),
    ):
        list(fit(vae, few, config, tmp_path, resume=True, on_step=poison))
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_an_evaluation_that_is_not_finite_stops_too(few):
    vae = make()
    vae.likelihood.log_scale.data.fill_(math.nan)
    with pytest.raises(NonFiniteLossError, match="evaluation is not finite"):
        list(fit(vae, few, CONFIG))


def test_devices():
    assert resolve_device("auto").type in ("cpu", "cuda")
    for name in ("gpu", "cuda:99"):
        with pytest.raises(ValueError, match=f"'{name}', which torch cannot"):
            resolve_device(name)


@SLOW
def test_the_real_mnist_in_float32(mnist_dir):
    """4,000 digits: the untrained model is far below the bar."""
    torch.set_default_dtype(torch.float32)
    config = Config(epochs=5, batch_size=64, learning_rate=3e-3, device="cpu")
    data = load("mnist", mnist_dir).first(4000)
    torch.manual_seed(0)
    vae = build(config)
    records = list(fit(vae, data, config))
    assert records[0]["test_elbo"] < -400
    assert records[-1]["test_elbo"] > 0
    assert isinstance(vae, VAE)


def close(left, right):
    return all(
        value == pytest.approx(other[key], rel=1e-9)
        for one, other in zip(left, right, strict=True)
        for key, value in one.items()
    )


@both_backends
def test_the_engines_give_one_history_and_one_can_resume_the_other(
    few, tmp_path
):
    eager = replace(CONFIG, engine="eager")
    compiled = replace(CONFIG, engine="compiled")
    whole = without_timing(fit(make(), few, eager))
    for name, first, then, steps in (
        ("a", eager, compiled, 4),
        ("b", compiled, eager, 7),
    ):
        fit_until(steps, make(), few, first, tmp_path / name)
        list(fit(make(), few, then, tmp_path / name, resume=True))
        history = without_timing(read_history(tmp_path / name / HISTORY))
        assert close(history, whole)


@SLOW
def test_the_compiled_engine_resumes_to_its_own_history_bit_for_bit(
    few, tmp_path
):
    config = replace(CONFIG, engine="compiled")
    whole = without_timing(fit(make(), few, config))
    fit_until(4, make(), few, config, tmp_path)
    list(fit(make(), few, config, tmp_path, resume=True))
    assert without_timing(read_history(tmp_path / HISTORY)) == whole


def resolve(config, num_steps):
    vae = make(config)
    objective = AnnealedObjective(config, vae, num_data=240, epoch_steps=3)
    return resolve_engine(config, vae, objective, num_steps)


def test_which_engine_is_chosen():
    many, few = COMPILE_FROM, COMPILE_FROM - 1
    assert resolve(CONFIG, many) == "compiled"
    assert resolve(CONFIG, few) == "eager"
    baseline = replace(
        CONFIG, prior="categorical", gradient="score-function-baseline"
    )
    assert resolve(baseline, many) == "eager"
    for engine in ("eager", "compiled"):
        assert resolve(replace(CONFIG, engine=engine), 10**9) == engine
    refused = replace(baseline, engine="compiled")
    with pytest.raises(ValueError, match="'compiled'; expected auto or eager"):
        resolve(refused, many)


def test_the_number_of_steps_chooses_the_engine(few):
    trainer = make_trainer(few, replace(CONFIG, epochs=1))
    train_all(trainer)
    assert trainer.engine == trainer.stepper.engine == "eager"
    assert trainer.stepper.compiled is None
    long = fit(make(), few, replace(CONFIG, epochs=1000), stop=lambda: True)
    assert long.engine == "compiled" and not list(long)


@both_backends
def test_the_evaluation_is_compiled_and_is_the_same():
    vae, images = make(), torch.rand(2500, 64)
    sums = compile_sums(vae, images)
    expected = mean_elbo_terms(vae, images, 3)
    _, evaluated = see_images(vae)
    assert mean_elbo_terms(vae, images, 3, sums) == pytest.approx(
        expected, rel=1e-12
    )
    assert [len(x) for x in evaluated] == [500]  # the rest is no whole batch


def test_without_a_compiler_auto_goes_on_eagerly_and_says_so(few, monkeypatch):
    def fail(*_):
        raise OSError("no such compiler")

    def first_records(config):
        steps = []
        records = fit(
            make(),
            few,
            config,
            on_step=lambda step, elbo: steps.append(step),
            stop=lambda: len(steps) == EPOCH,
        )
        return without_timing(records)

    monkeypatch.setattr(graphs, "compile_record", fail)
    long = replace(CONFIG, epochs=1000)
    expected = first_records(replace(long, engine="eager"))
    with pytest.warns(UserWarning, match="no such compiler.*going on eagerly"):
        assert first_records(long) == expected
    assert len(expected) == 2
    config = replace(CONFIG, engine="compiled")
    with pytest.raises(CompilationError, match=r"expected a C\+\+ compiler"):
        list(fit(make(), few, config))


def test_the_matmul_precision_is_not_left_set(few, engine):
    config = replace(CONFIG, engine=engine, matmul_precision="medium", epochs=1)
    seen = []
    before = torch.get_float32_matmul_precision()
    list(
        fit(
            make(),
            few,
            config,
            on_step=lambda *_: seen.append(
                torch.get_float32_matmul_precision()
            ),
        )
    )
    # On the CPU a compiled graph has its own precision.
    assert set(seen) == {"medium" if engine == "eager" else before}
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.usefixtures("recorded")
def test_evaluations_run_in_evaluation_mode(digits):
    """A user's dropout and running statistics see training images only."""
    vae = make()
    encoder = vae.guide.encoder
    encoder.layers.insert(1, torch.nn.BatchNorm1d(16))
    encoder.layers.insert(2, torch.nn.Dropout(0.5))
    norm = encoder.layers[1]
    data = digits.first(200)
    first = mean_elbo_terms(vae, data.test, 0)
    assert mean_elbo_terms(vae, data.test, 0) == first
    assert norm.num_batches_tracked == 0 and norm.training
    compile_sums(vae, torch.rand(1000, 64))
    assert norm.num_batches_tracked == 0 and norm.training
    vae.eval()
    list(fit(vae, data, replace(CONFIG, epochs=1)))
    assert norm.num_batches_tracked == 2


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"batch_size": 50}, "batch_size is 50, but the run in .* has 100"),
        ({"seed": 1}, "seed is 1, but the run in .* has 0; expected"),
        ({"noise_scale": 0.3}, "noise_scale is 0.3, but the run in .* has Non"),
        ({"epochs": 1}, "^epochs is 1, but the run in .* has done 2"),
    ],
)
def test_resuming_with_other_choices_is_refused(
    few, tmp_path, choices, message
):
    fit_until(2 * EPOCH + 1, make(), few, CONFIG, tmp_path)
    other = replace(CONFIG, **choices)
    with pytest.raises(FileError, match=message):
        fit(make(other), few, other, tmp_path, resume=True)


ANNEALED = replace(
    CONFIG,
    objective="dreg",
    num_particles=2,
    beta=0.5,
    warmup=2,
    schedule="cosine",
    gradient_clip=3.0,
    early_stopping=5,
)


@pytest.mark.parametrize(
    "engine", ["eager", pytest.param("compiled", marks=SLOW)]
)
def test_it_resumes_exactly_within_a_warm_up(few, tmp_path, engine):
    config = replace(ANNEALED, engine=engine)
    whole = without_timing(fit(make(), few, config, tmp_path / "a"))
    fit_until(4, make(), few, config, tmp_path / "b")
    list(fit(make(), few, config, tmp_path / "b", resume=True))
    assert without_timing(read_history(tmp_path / "b" / HISTORY)) == whole
    assert [record["beta"] for record in whole] == [0, 0.25, 0.5, 0.5]
    left, right = (
        load_vae(tmp_path / name, best=True).state_dict() for name in "ab"
    )
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.usefixtures("recorded")
def test_a_warm_up_compiles_no_more_than_a_fit_without(few):
    config = replace(ANNEALED, engine="compiled", matmul_precision="medium")
    trainer = make_trainer(few, config)
    records = without_timing(train_all(trainer))
    assert close(records, without_timing(fit(make(), few, ANNEALED)))
    assert trainer.engine == trainer.stepper.engine == "compiled"
    svi = trainer.stepper.compiled
    assert svi.num_compilations == 1 and svi.precision == "medium"
    assert svi.estimator.beta == ANNEALED.beta == 0.5
    assert svi.clip_norm == 3.0 * 216  # of the images not held out


@pytest.mark.filterwarnings("ignore:warmup is")
def test_the_records_hold_the_true_elbo_whatever_the_objective(digits):
    """At a negligible step size all estimate the untrained model's."""
    digits = digits.first(438)
    exact = make().compute_elbo(digits.train, 64).mean().item()
    kl = make().compute_elbo_terms(digits.train, 64)[1].mean().item()
    tiny = replace(CONFIG, learning_rate=1e-12, epochs=1, num_particles=16)
    for choices, gap in (
        ({"beta": 0.1}, 0.9 * kl),
        ({"objective": "analytic-kl", "beta": 3.0}, -2 * kl),
        ({"objective": "iwae"}, None),
        ({"objective": "stl", "warmup": 10**6}, kl),
        ({"free_bits": 9.0}, kl - 18),
    ):
        for record in fit(make(), digits, replace(tiny, **choices)):
            assert record["train_elbo"] == pytest.approx(exact, abs=0.3)
            difference = record["train_objective"] - exact
            if gap is None:
                assert difference > 0.1
            else:
                assert difference == pytest.approx(gap, abs=0.3)
        assert math.isfinite(record["train_objective"])


def test_early_stopping_stops_and_keeps_the_best_weights(few, tmp_path):
    """A step far too large gets worse after the warm-up, soon."""
    config = replace(
        CONFIG, epochs=40, learning_rate=0.2, warmup=2, early_stopping=2
    )
    records = list(fit(make(config), few, config, tmp_path))
    values = [record["validation_elbo"] for record in records]
    best = values.index(max(values[2:]))
    assert len(records) == best + 3 < 40
    _, validation = few.hold_out(config.validation_fraction)
    for is_best, value in ((True, values[best]), (False, values[-1])):
        loaded = load_vae(tmp_path, best=is_best)
        terms = mean_elbo_terms(loaded, validation, config.seed)
        assert terms[0] - terms[1] == value
    assert not list(fit(make(), few, config, tmp_path, resume=True))
    other = replace(config, early_stopping=9)
    with pytest.raises(FileError, match="early_stopping is 9, but the run"):
        fit(make(), few, other, tmp_path, resume=True)


def test_the_validation_images_are_of_the_training_set_and_fixed(digits):
    rest, held_out = digits.hold_out(0.25)
    again, same = digits.hold_out(0.25)
    assert torch.equal(held_out, same) and torch.equal(rest.train, again.train)
    assert len(held_out) == round(0.25 * len(digits.train))
    whole = torch.cat([rest.train, held_out])
    assert sorted(whole.tolist()) == sorted(digits.train.tolist())
    assert torch.equal(rest.test, digits.test)
    where = (digits.train == rest.train[7]).all(1).nonzero()[0]
    assert rest.train_labels[7] == digits.train_labels[where]
    with pytest.raises(ValueError, match="1 training images; expected at le"):
        digits.first(1).hold_out(0.5)


def test_the_optimizers_options_are_reached(few, engine):
    config = replace(
        CONFIG, engine=engine, epochs=5, schedule="iwae-2015", adam_eps=1e-3
    )
    trainer = make_trainer(few, config)
    train_all(trainer)
    optimizers = trainer.state.optim.optim_objs.values()
    options = [optimizer.param_groups[0] for optimizer in optimizers]
    assert len(options) == 9
    for option in options:
        assert option["lr"] == 1e-3 * 10 ** (-2 / 7)
        assert option["eps"] == 1e-3 * len(few.train)


def test_a_clipped_gradient_keeps_its_direction(few):
    vae, x = make(), few.train[:8]
    Trace_ELBO()(vae.model, vae.guide)(x).backward()
    params = list(vae.parameters())
    before = torch.cat([p.grad.flatten() for p in params])
    for norm, factor in ((2 * before.norm().item(), 1.0), (3.0, None)):
        clip_gradients([*params, params[0]], norm)
        after = torch.cat([p.grad.flatten() for p in params])
        factor = factor or 3.0 / before.norm()
        assert torch.allclose(after, factor * before, rtol=1e-6)
    moved = []
    for limit in (None, 1e-9):  # within the reach of Adam's epsilon
        vae = make()
        start = [p.detach().clone() for p in vae.parameters()]
        config = replace(CONFIG, epochs=1, gradient_clip=limit, adam_eps=1e-3)
        list(fit(vae, few, config))
        ends = zip(vae.parameters(), start, strict=True)
        moved.append(sum((p - s).abs().sum().item() for p, s in ends))
    assert moved[1] < 1e-3 * moved[0]


def test_schedules_that_need_the_epochs_keep_them(few, tmp_path):
    config = replace(CONFIG, schedule="cosine", epochs=1)
    list(fit(make(), few, config, tmp_path))
    longer = replace(config, epochs=2)
    with pytest.raises(FileError, match=r"epochs is 2, but the run .* has 1"):
        fit(make(), few, longer, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("built", "fitted", "message"),
    [
        (
            {},
            {"binarize": "dynamic"},
            "binarize is 'dynamic'; expected none .leave it out.: it goes wit",
        ),
        (
            {"inference": "local"},
            {"beta": 2.0},
            "beta is 2.0; expected 1 with inference=local",
        ),
        (
            {"prior": "mixture"},
            {"objective": "stl"},
            "objective is 'stl'; expected elbo with gradient=enumerated",
        ),
    ],
)
def test_what_does_not_go_with_the_vae_is_refused(
    few, tmp_path, built, fitted, message
):
    """A FitConfig knows nothing of the VAE; fit() does, and writes nothing."""
    vae = build(VAEConfig(hidden=(16,), **built), 64)
    with pytest.raises(ValueError, match=f"^{message}"):
        fit(vae, few, FitConfig(device="cpu", **fitted), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore:warmup is")
@pytest.mark.parametrize(
    "choices",
    [{"beta": 2.0}, {"warmup": 1}, {"free_bits": 0.1}, {"objective": "iwae"}],
)
def test_e_steps_of_ones_own_vae_climb_the_elbo_alone(digits, choices):
    few = digits.first(20)

    def make_by_hand(inference):
        return VAE(
            NormalPrior(2),
            GaussianLikelihood(torch.nn.Linear(2, 64)),
            NormalGuide(torch.nn.Linear(64, 4)),
            inference=inference,
        )

    config = FitConfig(device="cpu", epochs=0, **choices)
    assert list(fit(make_by_hand(Amortized()), few, config))
    vae = make_by_hand(LocalInference(EStep(1, 0.1), 1))
    with pytest.raises(ValueError, match="LocalInference, whose E-steps climb"):
        fit(vae, few, config)
    plain = FitConfig(device="cpu", epochs=0, num_particles=2)
    assert list(fit(vae, few, plain))


def test_a_warmup_longer_than_the_run_is_said(few):
    config = replace(CONFIG, epochs=1, warmup=4)
    with pytest.warns(UserWarning, match="warmup is 4, but the run ends after"):
        list(fit(make(), few, config))


@pytest.mark.parametrize("diverges", ["record", "weights"])
def test_a_record_that_is_not_finite_is_not_written(
    few, tmp_path, monkeypatch, diverges
):
    vae = make()
    records = fit(vae, few, replace(CONFIG, epochs=3), tmp_path)
    next(records)
    before = (tmp_path / HISTORY).read_bytes()
    if diverges == "record":
        monkeypatch.setattr(
            Recorder, "_terms", lambda self, *images: (math.nan, 0.0)
        )
    else:
        with torch.no_grad():
            next(vae.parameters()).fill_(math.inf)
    with pytest.raises(NonFiniteLossError):
        next(records)
    assert (tmp_path / HISTORY).read_bytes() == before
    load_vae(tmp_path)


def test_states_beyond_all_numbers_have_no_scores(few):
    config = replace(
        CONFIG,
        prior="categorical",
        num_variables=70,
        num_components=2,
        gradient="score-function",
        epochs=0,
    )
    (record,) = fit(make(config), few, config)
    assert "components_used" not in record and math.isfinite(record["test_kl"])
