import itertools
import math
from dataclasses import replace

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyro_vae import VAE, CompiledSVI, Config, build, evaluation, fit, training
from pyro_vae.evaluation import compile_sums, evaluate
from pyro_vae.runs.files import CHECKPOINT, FileError
from pyro_vae.runs.history import HISTORY, read_history, write_history
from pyro_vae.svi import CompilationError, NonFiniteLossError, compile
from pyro_vae.svi.clipping import clip_gradients
from pyro_vae.training import resolve_device, resolve_engine

CONFIG = Config(
    hidden=(16,), dataset="digits", epochs=3, batch_size=100, device="cpu"
)
TIMING = ("seconds", "images_per_second")


def make(config=CONFIG):
    torch.manual_seed(config.seed)
    return build(config, data_dim=64)


def without_timing(records):
    return [
        {key: value for key, value in record.items() if key not in TIMING}
        for record in records
    ]


def fit_until(last_step, vae, data, config, folder):
    """Fits, and asks for a stop after that step."""
    steps = []
    list(
        fit(
            vae,
            data,
            config,
            folder,
            on_step=lambda step, elbo: steps.append(step),
            stop=lambda: last_step in steps,
        )
    )
    assert steps[-1] == last_step


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


def test_epoch_0_is_the_untrained_model(digits):
    vae = make()
    (record,) = fit(vae, digits, replace(CONFIG, epochs=0))
    expected = evaluate(make(), digits.test, CONFIG.seed)
    assert record["test_elbo"] == expected[0] - expected[1]
    assert record["noise_scale"] == pytest.approx(0.5)


def test_train_elbo_weighs_the_last_smaller_minibatch(digits):
    """At a negligible step size it is the ELBO of the whole training set."""
    config = replace(CONFIG, learning_rate=1e-12, epochs=1, num_particles=64)
    untrained, record = fit(make(), digits, config)
    exact = make().compute_elbo(digits.train, 64).mean().item()
    assert record["train_elbo"] == pytest.approx(exact, abs=0.05)
    assert untrained["train_elbo"] == pytest.approx(exact, abs=0.2)


def test_the_same_seed_gives_the_same_trace(digits):
    first = without_timing(fit(make(), digits, CONFIG))
    torch.manual_seed(99)  # nothing but the config's seed counts
    vae = make()
    torch.rand(7)
    state = torch.get_rng_state()
    second = without_timing(fit(vae, digits, CONFIG))
    assert first == second
    assert torch.equal(state, torch.get_rng_state())
    other = replace(CONFIG, seed=1)
    assert without_timing(fit(make(other), digits, other)) != first


@pytest.mark.parametrize("steps", [1, 7, 15, 16, 31, 44])
def test_stopped_and_resumed_anywhere_it_is_the_same_run(
    digits, tmp_path, steps
):
    whole = without_timing(fit(make(), digits, CONFIG, tmp_path / "whole"))
    part = tmp_path / "part"
    fit_until(steps, make(), digits, CONFIG, part)
    seen = read_history(part / HISTORY)
    assert len(seen) == 1 + steps // 15
    torch.manual_seed(99)
    vae = build(CONFIG, 64)  # other weights, to be replaced
    list(fit(vae, digits, CONFIG, part, resume=True))
    assert without_timing(read_history(part / HISTORY)) == whole
    reference = make()
    list(fit(reference, digits, CONFIG))
    for left, right in zip(
        vae.parameters(), reference.parameters(), strict=True
    ):
        assert torch.equal(left, right)


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
    ],
    ids=["mixture", "decaying", "learned"],
)
def test_discrete_runs_resume_exactly(digits, tmp_path, choices):
    """The baselines' state is part of the run."""
    config = replace(CONFIG, epochs=2, **choices)
    whole = without_timing(fit(make(config), digits, config, tmp_path / "a"))
    assert {"components_used", "purity"} <= set(whole[0])
    fit_until(22, make(config), digits, config, tmp_path / "b")
    list(fit(make(config), digits, config, tmp_path / "b", resume=True))
    again = without_timing(read_history(tmp_path / "b" / HISTORY))
    assert repr(again) == repr(
        without_timing(read_history(tmp_path / "a" / HISTORY))
    )


BINARY = replace(CONFIG, likelihood="bernoulli", binarize="dynamic")


def spy_on_images(monkeypatch):
    """Collects the images that each epoch is trained on."""
    epochs = []

    def spy(data, config):
        images = training.choices.training_images(data, config)
        epochs.append(images.clone())
        return images

    monkeypatch.setattr(training.loop, "training_images", spy)
    return epochs


def test_dynamic_binarisation_draws_anew_in_each_epoch(digits, monkeypatch):
    epochs = spy_on_images(monkeypatch)
    traces = []
    for seed in (0, 0, 1):
        config = replace(BINARY, seed=seed)
        traces.append(without_timing(fit(make(config), digits, config)))
    assert repr(traces[0]) == repr(traces[1]) != repr(traces[2])
    assert len(epochs) == 9
    for images in epochs:
        assert set(images.unique().tolist()) == {0, 1}
    for first, second in itertools.combinations([*epochs[:3], epochs[6]], 2):
        assert not torch.equal(first, second)
    assert torch.equal(epochs[0], epochs[3])
    assert all(math.isnan(record["noise_scale"]) for record in traces[0])


def test_static_binarisation_draws_once_for_all_runs(digits, monkeypatch):
    epochs = spy_on_images(monkeypatch)
    drawn = digits.binarize("static")
    for seed in (0, 1):
        config = replace(BINARY, binarize="static", seed=seed, epochs=2)
        untrained, *_ = fit(make(config), digits, config)
        terms = evaluate(make(config), drawn.test, config.seed)
        assert untrained["test_elbo"] == terms[0] - terms[1]
    assert len(epochs) == 4
    assert all(torch.equal(images, drawn.train) for images in epochs)


@pytest.mark.parametrize("binarize", ["static", "dynamic"])
def test_validation_images_are_binary_and_stay_the_same(
    digits, monkeypatch, binarize
):
    seen = []

    def spy(vae, images, *args):
        seen.append(images.clone())
        return evaluate(vae, images, *args)

    monkeypatch.setattr(training.recorder, "evaluate", spy)
    config = replace(BINARY, binarize=binarize, early_stopping=9, epochs=2)
    list(fit(make(config), digits, config))
    size = round(config.validation_fraction * len(digits.train))
    held_out = [images for images in seen if len(images) == size]
    assert len(held_out) == 3
    for images in held_out:
        assert set(images.unique().tolist()) == {0, 1}
        assert torch.equal(images, held_out[0])


@pytest.mark.parametrize("steps", [7, 15, 22])
def test_a_run_on_binary_images_resumes_exactly(digits, tmp_path, steps):
    list(fit(make(BINARY), digits, BINARY, tmp_path / "a"))
    fit_until(steps, make(BINARY), digits, BINARY, tmp_path / "b")
    list(fit(make(BINARY), digits, BINARY, tmp_path / "b", resume=True))
    whole, again = (
        without_timing(read_history(tmp_path / name / HISTORY)) for name in "ab"
    )
    assert repr(again) == repr(whole) and len(whole) == 4
    static = replace(BINARY, binarize="static")
    with pytest.raises(FileError, match="binarize is static, but the run in"):
        list(fit(make(static), digits, static, tmp_path / "b", resume=True))


@pytest.mark.parametrize(
    "choices", [{"prior": "vamp"}, {"prior": "flow", "guide": "flow"}]
)
def test_runs_with_learned_priors_resume_exactly(digits, tmp_path, choices):
    config = replace(CONFIG, epochs=2, **choices)
    whole = without_timing(fit(make(config), digits, config))
    fit_until(22, make(config), digits, config, tmp_path)
    list(fit(make(config), digits, config, tmp_path, resume=True))
    assert without_timing(read_history(tmp_path / HISTORY)) == whole


def test_a_discrete_fit_learns_and_clusters(digits):
    config = replace(
        CONFIG,
        prior="categorical",
        hidden=(64,),
        epochs=40,
        learning_rate=3e-3,
    )
    first, *_, last = fit(make(config), digits, config)
    assert first["purity"] < 0.4 and first["test_elbo"] < -50
    assert last["purity"] > 0.5 and last["test_elbo"] > 0
    assert last["components_used"] >= 8


def test_a_finished_run_goes_on_for_more_epochs(digits, tmp_path):
    longer = replace(CONFIG, epochs=5)
    whole = without_timing(fit(make(), digits, longer))
    list(fit(make(), digits, CONFIG, tmp_path))
    more = list(fit(make(), digits, longer, tmp_path, resume=True))
    assert [record["epoch"] for record in more] == [4, 5]
    assert without_timing(read_history(tmp_path / HISTORY)) == whole
    assert not list(fit(make(), digits, longer, tmp_path, resume=True))


def test_a_damaged_checkpoint_costs_an_epoch_and_no_more(digits, tmp_path):
    whole = without_timing(fit(make(), digits, CONFIG))
    list(fit(make(), digits, CONFIG, tmp_path))
    (tmp_path / CHECKPOINT).write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="is damaged"):
        again = list(fit(make(), digits, CONFIG, tmp_path, resume=True))
    assert [record["epoch"] for record in again] == [3]
    assert without_timing(read_history(tmp_path / HISTORY)) == whole


def test_the_checkpoint_of_another_vae_is_refused(digits, tmp_path):
    list(fit(make(), digits, CONFIG, tmp_path))
    other = replace(CONFIG, hidden=(8,))
    with pytest.raises(FileError, match="is not of this VAE"):
        list(fit(make(other), digits, other, tmp_path, resume=True))


def test_a_loss_that_explodes_stops_and_keeps_the_checkpoint(digits, tmp_path):
    config = replace(CONFIG, epochs=1)
    list(fit(make(), digits, config, tmp_path))
    before = (tmp_path / CHECKPOINT).read_bytes()
    vae = make()
    config = replace(config, epochs=3)

    def poison(step, elbo):
        if step == 20:
            vae.likelihood.log_scale.data.fill_(math.nan)

    with (
        pytest.raises(
            NonFiniteLossError,
            match=r"log_scale' is not finite, in epoch 2, at step 21: try",
        ),
        pytest.warns(UserWarning, match="NaN"),
    ):
        list(fit(vae, digits, config, tmp_path, resume=True, on_step=poison))
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_an_evaluation_that_is_not_finite_stops_too(digits):
    vae = make()
    vae.likelihood.log_scale.data.fill_(math.nan)
    with pytest.raises(NonFiniteLossError, match="evaluation is not finite"):
        list(fit(vae, digits, CONFIG))


def test_a_trace_round_trips_exactly(tmp_path):
    records = [{"epoch": 0, "test_elbo": 1 / 3}, {"epoch": 1, "test_elbo": 2.0}]
    write_history(tmp_path / HISTORY, records)
    assert read_history(tmp_path / HISTORY) == records
    for text in ("", "a,b\n1,2\n", "epoch,test_elbo\n1,x\n"):
        (tmp_path / HISTORY).write_text(text)
        with pytest.raises(FileError, match=r"trace"):
            read_history(tmp_path / HISTORY)


def test_devices():
    assert resolve_device("auto").type in ("cpu", "cuda")
    for name in ("gpu", "cuda:99"):
        with pytest.raises(ValueError, match=f"'{name}', which torch cannot"):
            resolve_device(name)


def test_the_real_mnist_in_float32(mnist_dir):
    """5,000 digits: the untrained model is far below the bar."""
    from pyro_vae.data import load

    torch.set_default_dtype(torch.float32)
    config = Config(epochs=5, learning_rate=3e-3, device="cpu")
    data = load("mnist", mnist_dir).first(5000)
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


def test_the_engines_give_one_trace_and_one_can_resume_the_other(
    digits, tmp_path
):
    eager = replace(CONFIG, engine="eager")
    compiled = replace(CONFIG, engine="compiled")
    whole = without_timing(fit(make(), digits, eager))
    assert close(without_timing(fit(make(), digits, compiled)), whole)
    for name, first, then in (
        ("a", eager, compiled),
        ("b", compiled, eager),
    ):
        fit_until(20, make(), digits, first, tmp_path / name)
        list(fit(make(), digits, then, tmp_path / name, resume=True))
        trace = without_timing(read_history(tmp_path / name / HISTORY))
        assert close(trace, whole)


def test_the_compiled_engine_resumes_to_its_own_trace_bit_for_bit(
    digits, tmp_path
):
    config = replace(CONFIG, engine="compiled")
    whole = without_timing(fit(make(), digits, config))
    fit_until(20, make(), digits, config, tmp_path)
    list(fit(make(), digits, config, tmp_path, resume=True))
    assert without_timing(read_history(tmp_path / HISTORY)) == whole


def test_which_engine_is_chosen(digits, monkeypatch):
    many = training.choices.COMPILE_FROM
    few = many - 1
    assert resolve_engine(CONFIG, make(), many) == "compiled"
    assert resolve_engine(CONFIG, make(), few) == "eager"
    baseline = replace(
        CONFIG, prior="categorical", gradient="score-function-baseline"
    )
    assert resolve_engine(baseline, make(baseline), many) == "eager"
    for engine in ("eager", "compiled"):
        config = replace(CONFIG, engine=engine)
        assert resolve_engine(config, make(), 10**9) == engine
    refused = replace(baseline, engine="compiled")
    with pytest.raises(ValueError, match="'compiled'; expected auto or eager"):
        resolve_engine(refused, make(refused), many)
    made = []

    class Spy(CompiledSVI):
        def __init__(self, *args, **options):
            made.append(args[-1])
            super().__init__(*args, **options)

    monkeypatch.setattr(training.stepper, "CompiledSVI", Spy)
    config = replace(CONFIG, epochs=1, matmul_precision="medium")
    list(fit(make(), digits, config))
    assert not made
    list(fit(make(), digits, replace(config, engine="compiled")))
    assert made == ["medium"]


def test_the_evaluation_is_compiled_and_is_the_same(monkeypatch):
    vae, images = make(), torch.rand(2500, 64)
    batches = []

    def spy(function, inputs, **options):
        compiled = compile(function, inputs, **options)
        return lambda x: batches.append(len(x)) or compiled(x)

    monkeypatch.setattr(evaluation.elbo, "compile", spy)
    compiled = evaluate(vae, images, 3, compile_sums(vae, images))
    assert batches == [1000, 1000]
    assert compiled == pytest.approx(evaluate(vae, images, 3), rel=1e-12)


def test_without_a_compiler_auto_goes_on_eagerly_and_says_so(
    digits, monkeypatch
):
    def fail(*_):
        raise OSError("no such compiler")

    whole = without_timing(fit(make(), digits, CONFIG))
    monkeypatch.setattr(torch._inductor, "compile", fail)
    monkeypatch.setattr(training.choices, "COMPILE_FROM", 1)
    with pytest.warns(UserWarning, match="no such compiler.*going on eagerly"):
        records = without_timing(fit(make(), digits, CONFIG))
    assert records == whole
    config = replace(CONFIG, engine="compiled")
    with pytest.raises(CompilationError, match=r"expected a C\+\+ compiler"):
        list(fit(make(), digits, config))


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_the_matmul_precision_is_not_left_set(digits, engine):
    config = replace(CONFIG, engine=engine, matmul_precision="medium")
    seen = []
    before = torch.get_float32_matmul_precision()
    list(
        fit(
            make(),
            digits,
            config,
            on_step=lambda *_: seen.append(
                torch.get_float32_matmul_precision()
            ),
        )
    )
    # On the CPU a compiled graph has its own precision.
    assert set(seen) == {"medium" if engine == "eager" else before}
    assert torch.get_float32_matmul_precision() == before


def test_evaluations_run_in_evaluation_mode(digits):
    """A user's dropout and running statistics see training images only."""
    vae = make()
    encoder = vae.guide.distribution.encoder
    encoder.layers.insert(1, torch.nn.BatchNorm1d(16))
    encoder.layers.insert(2, torch.nn.Dropout(0.5))
    norm = encoder.layers[1]
    data = digits.first(200)
    first = evaluate(vae, data.test, 0)
    assert evaluate(vae, data.test, 0) == first
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
        ({"epochs": 1}, "--epochs is 1, but the run in .* has done 2"),
    ],
)
def test_resuming_with_other_choices_is_refused(
    digits, tmp_path, choices, message
):
    fit_until(33, make(), digits, CONFIG, tmp_path)
    other = replace(CONFIG, **choices)
    with pytest.raises(FileError, match=message):
        list(fit(make(), digits, other, tmp_path, resume=True))
    few = digits.first(1000)
    with pytest.raises(FileError, match=r"num_train is 1000, but .* has 1438"):
        list(fit(make(), few, CONFIG, tmp_path, resume=True))


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


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_it_resumes_exactly_within_a_warm_up(digits, tmp_path, engine):
    config = replace(ANNEALED, engine=engine)
    whole = without_timing(fit(make(), digits, config, tmp_path / "a"))
    fit_until(17, make(), digits, config, tmp_path / "b")
    list(fit(make(), digits, config, tmp_path / "b", resume=True))
    assert without_timing(read_history(tmp_path / "b" / HISTORY)) == whole
    assert [record["beta"] for record in whole] == [0, 0.25, 0.5, 0.5]
    left, right = (
        load_vae(tmp_path / name, best=True).state_dict() for name in "ab"
    )
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_warm_up_compiles_no_more_than_a_fit_without(digits, monkeypatch):
    made = []

    class Spy(CompiledSVI):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(training.stepper, "CompiledSVI", Spy)
    list(fit(make(), digits, replace(ANNEALED, engine="compiled")))
    assert made[0].num_compilations == 1
    assert made[0].loss.beta == ANNEALED.beta == 0.5
    assert made[0].clip_norm == 3.0 * 1294  # of the images not held out


def test_the_records_hold_the_true_elbo_whatever_the_objective(digits):
    """At a negligible step size all estimate the untrained model's."""
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


def test_early_stopping_stops_and_keeps_the_best_weights(digits, tmp_path):
    """A step far too large gets worse after the warm-up, soon."""
    config = replace(
        CONFIG, epochs=40, learning_rate=0.05, warmup=2, early_stopping=2
    )
    vae = make(config)
    vae.describe(config, 64)
    records = list(fit(vae, digits, config, tmp_path))
    vae.save(tmp_path)
    values = [record["validation_elbo"] for record in records]
    best = values.index(max(values[2:]))
    assert len(records) == best + 3 < 40
    _, validation = digits.hold_out(config.validation_fraction)
    for is_best, value in ((True, values[best]), (False, values[-1])):
        loaded = load_vae(tmp_path, best=is_best)
        terms = evaluate(loaded, validation, config.seed)
        assert terms[0] - terms[1] == value
    assert not list(fit(make(), digits, config, tmp_path, resume=True))
    other = replace(config, early_stopping=9)
    with pytest.raises(FileError, match="early_stopping is 9, but the run"):
        list(fit(make(), digits, other, tmp_path, resume=True))


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


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_the_optimisers_options_are_reached(digits, engine, monkeypatch):
    """Adam's first step moves each weight by its step size, nearly."""
    made = []
    adam = pyro.optim.Adam
    monkeypatch.setattr(
        pyro.optim, "Adam", lambda o: made.append(adam(o)) or made[-1]
    )
    config = replace(
        CONFIG, engine=engine, epochs=5, schedule="iwae-2015", adam_eps=1e-3
    )
    list(fit(make(), digits, config))
    options = [o.param_groups[0] for o in made[0].optim_objs.values()]
    assert len(options) == 9
    for option in options:
        assert option["lr"] == 1e-3 * 10 ** (-2 / 7)
        assert option["eps"] == 1e-3 * len(digits.train)


def test_a_clipped_gradient_keeps_its_direction(digits):
    vae, x = make(), digits.train[:8]
    Trace_ELBO()(vae.model, vae.guide)(x).backward()
    params = list(vae.parameters())
    before = torch.cat([p.grad.flatten() for p in params])
    for norm, factor in ((2 * before.norm().item(), 1.0), (3.0, None)):
        clip_gradients([*params, params[0]], norm)
        after = torch.cat([p.grad.flatten() for p in params])
        factor = factor or 3.0 / before.norm()
        assert torch.allclose(after, factor * before, rtol=1e-12)
    moved = []
    for limit in (None, 1e-9):  # within the reach of Adam's epsilon
        vae = make()
        start = [p.detach().clone() for p in vae.parameters()]
        config = replace(CONFIG, epochs=1, gradient_clip=limit, adam_eps=1e-3)
        list(fit(vae, digits, config))
        ends = zip(vae.parameters(), start, strict=True)
        moved.append(sum((p - s).abs().sum().item() for p, s in ends))
    assert moved[1] < 1e-3 * moved[0]


def test_schedules_that_need_the_epochs_keep_them(digits, tmp_path):
    config = replace(CONFIG, schedule="cosine", epochs=1)
    list(fit(make(), digits, config, tmp_path))
    longer = replace(config, epochs=2)
    with pytest.raises(FileError, match=r"epochs is 2, but the run .* has 1"):
        list(fit(make(), digits, longer, tmp_path, resume=True))
