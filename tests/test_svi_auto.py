"""CompiledSVI's engine "auto": recorded graphs that are compiled later."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam

from pyro_vae.svi import CompiledSVI, CompiledTrace_ELBO, gradients, graphs

DATA = torch.linspace(-1.0, 2.0, 7, dtype=torch.float64)


def model(y):
    level = pyro.sample("level", dist.Normal(0.0, 2.0))
    with pyro.plate("points", len(y)):
        pyro.sample("y", dist.Normal(level, 0.3), obs=y)


@pytest.fixture
def compiled(monkeypatch):
    """The steps that were taken when a graph was compiled."""
    taken, when = [0], []

    def note(graph, inputs):
        when.append(taken[0])
        return graph

    monkeypatch.setitem(gradients.PATIENCE, "auto", 5)
    monkeypatch.setattr(graphs, "compile_record", note)
    return taken, when


def losses(make, taken, count=12):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    svi, found = make(AutoNormal(model)), []
    for taken[0] in range(1, count + 1):
        found.append(svi.step(DATA))
    return found


def make_auto(guide):
    return CompiledSVI(model, guide, Adam({"lr": 0.02}), engine="auto")


def make_eager(guide):
    return SVI(model, guide, Adam({"lr": 0.02}), Trace_ELBO())


def make_auto_elbo(guide):
    loss = CompiledTrace_ELBO(engine="auto")
    return SVI(model, guide, Adam({"lr": 0.02}), loss)


@pytest.mark.parametrize("make", [make_auto, make_auto_elbo])
def test_a_graph_is_compiled_at_a_fixed_step(make, compiled):
    """The first step makes the parameters, and is taken eagerly."""
    taken, when = compiled
    ours = losses(make, taken)
    assert when == [6]
    assert ours == pytest.approx(losses(make_eager, taken), rel=1e-9)


def test_without_a_compiler_it_goes_on(monkeypatch, compiled):
    def fail(graph, inputs):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(graphs, "compile_record", fail)
    expected = losses(make_eager, compiled[0])
    with pytest.warns(UserWarning, match="steps stay as they are"):
        ours = losses(make_auto, compiled[0])
    assert ours == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
def test_the_compiled_graph_goes_on_with_the_same_numbers(monkeypatch):
    monkeypatch.setitem(gradients.PATIENCE, "auto", 5)
    expected = losses(make_eager, [0])
    assert losses(make_auto, [0]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("options", [{"engine": "fast"}, {"compare": "no"}])
def test_other_options_are_named(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name} is '{value}'; expected"):
        CompiledSVI(model, AutoNormal(model), Adam({}), **options)
    with pytest.raises(ValueError, match=f"{name} is '{value}'; expected"):
        CompiledTrace_ELBO(**options)
