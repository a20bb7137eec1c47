"""What is recorded and compiled, and what is refused."""

import random
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam

from pyro_vae.svi import (
    CompilationError,
    CompiledSVI,
    DynamicPairError,
    backend,
    compile_graph,
)
from pyro_vae.svi.options import MANY
from tests.models import keep_the_record, use_inductor


def chance():
    return random.choice([1.0, 2.0]) + random.random()


def dynamic_model(kind):
    state = {"runs": 0}

    def model(x):
        loc = pyro.param("loc", torch.tensor(0.5))
        scale = 1.0
        if kind == "branch":
            scale = 1.0 if x.sum() > 0 else 2.0
        elif kind == "item":
            scale = 1.0 if x.sum().item() > 0 else 2.0
        elif kind == "float":
            scale = abs(float(x[0])) + 1.0
        elif kind == "list":
            scale = abs(x.tolist()[0]) + 1.0
        elif kind == "numpy":
            scale = abs(x.numpy()[0]) + 1.0
        elif kind == "size":
            scale = torch.ones(int((x > -9).sum()))
        elif kind == "parameter":
            scale = 1.0 if loc > 0 else 2.0
        elif kind == "draw":
            scale = 1.0 if torch.randn(()) > 0 else 2.0
        elif kind == "equal":
            scale = 1.0 if torch.equal(x, x + loc) else 2.0
        elif kind == "format":
            scale = abs(float(f"{x[0]:.2f}")) + 1.0
        elif kind == "random":
            scale = chance()
        elif kind == "numpy random":
            scale = float(np.random.rand()) + 1.0
        elif kind == "made tensor":
            scale = torch.tensor(chance())
        elif kind == "state":
            state["runs"] += 1
            scale = float(state["runs"])
        elif kind == "new parameter":
            state["runs"] += 1
            pyro.param(f"extra {state['runs']}", torch.tensor(1.0))
            scale = float(state["runs"])
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, scale), obs=x)

    return model


@pytest.mark.parametrize(
    "kind",
    [
        "parameter",
        "draw",
        "equal",
        "random",
        "numpy random",
        "made tensor",
        "state",
        "new parameter",
    ],
)
def test_a_pair_that_is_not_static_is_refused(kind):
    """Never frozen in silence; no random number goes, and nothing stays."""
    model, x = dynamic_model(kind), torch.rand(4)
    svi = CompiledSVI(model, lambda x: None, Adam({"lr": 1e-2}))
    state = torch.get_rng_state()
    with pytest.raises(DynamicPairError, match=r"use .*pyro.infer.SVI"):
        svi.step(x)
    store = pyro.get_param_store()
    assert "loc" not in store or store["loc"].item() == 0.5
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("kind", "graphs"),
    [
        ("branch", 2),
        ("item", 2),
        ("size", 1),
        ("float", MANY),
        ("list", MANY),
        ("numpy", MANY),
        ("format", MANY),
    ],
)
def test_what_python_reads_makes_another_graph(kind, graphs, monkeypatch):
    """As pyro.infer.SVI, or refused, where there are too many of them."""
    keep_the_record(monkeypatch)
    model, x = dynamic_model(kind), torch.rand(4)
    batches = [(-1) ** k * (x + k / 10) for k in range(MANY)]
    results = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        optim = Adam({"lr": 1e-2})
        svi = engine(model, lambda x: None, optim, Trace_ELBO())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # so many graphs
            results.append([svi.step(x) for x in [x, *batches]])
    assert results[0] == pytest.approx(results[1], rel=1e-9)
    assert svi.num_compilations == graphs
    if graphs == MANY:
        before, state = pyro.param("loc").item(), torch.get_rng_state()
        place = r"in model\(\) at line \d+: it was .* and is "
        with pytest.raises(DynamicPairError, match=place):
            svi.step(x - 10)
        assert pyro.param("loc").item() == before
        assert torch.equal(torch.get_rng_state(), state)


def test_arithmetic_with_item_is_not_frozen():
    def model(x):
        loc = pyro.param("loc", torch.tensor(0.5))
        scale = x.abs().mean().item() + 0.1
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, scale), obs=x)

    def losses(engine):
        with pyro.get_param_store().scope():
            svi = engine(model, lambda x: None, Adam({"lr": 0.1}), Trace_ELBO())
            return [svi.step(x) for x in torch.arange(1.0, 13.0).split(3)]

    assert losses(CompiledSVI) == pytest.approx(losses(SVI), rel=1e-9)


def unit_model(x):
    loc = pyro.param("loc", torch.tensor(0.5))
    pyro.sample("x", dist.Normal(loc, 1.0).expand([3]).to_event(1), obs=x)


def test_an_argument_that_is_no_plain_value_is_refused():
    def model(x):
        pyro.param("loc", torch.tensor(0.5))

    svi = CompiledSVI(model, lambda x: None, Adam({"lr": 0.1}))
    for value in (np.ones(1 << 18), object()):
        with pytest.raises(ValueError, match="expected tensors, numbers, str"):
            svi.step(value)


def test_without_a_compiler_a_sentence(monkeypatch):
    def fail(*_):
        raise OSError("no such compiler")

    monkeypatch.setattr(backend, "fuse", fail)
    monkeypatch.setattr(torch._inductor, "compile", fail)
    svi = CompiledSVI(unit_model, lambda x: None, Adam({"lr": 0.1}))
    with pytest.raises(
        CompilationError, match=r"\(no such compiler\); expected a C\+\+"
    ):
        svi.step(torch.ones(3))


# Those that Inductor would draw in its own way, and one of its usual ones.
KEPT = {
    "Bernoulli": lambda p: dist.Bernoulli(p).sample(),
    "Exponential": lambda p: dist.Exponential(p).sample(),
    "Cauchy": lambda p: dist.Cauchy(p, 1.0).sample(),
    "Geometric": lambda p: p.new_empty(4).geometric_(0.3),
    "LogNormal": lambda p: p.new_empty(4).log_normal_(0.3, 1.0),
    "Normal": lambda p: dist.Normal(p, 1.0).sample(),
}
DRAWS = {
    **KEPT,
    "Geometric of uniforms": lambda p: dist.Geometric(p).sample(),
    "LogNormal of normals": lambda p: dist.LogNormal(p, 1.0).sample(),
    "Categorical": lambda p: dist.Categorical(p.expand(4, 3)).sample(),
    "Gamma": lambda p: dist.Gamma(p, 1.0).sample(),
    "Beta": lambda p: dist.Beta(p, p).sample(),
    "Dirichlet": lambda p: dist.Dirichlet(p.expand(4, 3)).sample(),
    "Poisson": lambda p: dist.Poisson(p).sample(),
    "StudentT": lambda p: dist.StudentT(p + 3).sample(),
    "Uniform": lambda p: dist.Uniform(0.0, p).sample(),
    "Gumbel": lambda p: dist.Gumbel(p, 1.0).sample(),
    "MultivariateNormal": lambda p: dist.MultivariateNormal(
        p.expand(2), torch.eye(2)
    ).sample(),
}


@pytest.mark.parametrize("by", ["loops", "Inductor"])
@pytest.mark.parametrize(
    "draws", [KEPT, pytest.param(DRAWS, marks=pytest.mark.slow)]
)
def test_every_distribution_draws_as_in_torch(draws, by, monkeypatch):
    if by == "Inductor":
        use_inductor(monkeypatch)

    def draw(p):
        return [make(p).double() for make in draws.values()]

    p = torch.tensor([0.3])
    program = compile_graph(draw, [p])
    for seed in range(3):
        torch.manual_seed(seed)
        expected = draw(p)
        torch.manual_seed(seed)
        for name, one, other in zip(draws, program(p), expected, strict=True):
            torch.testing.assert_close(one, other, msg=name)


def test_recording_puts_random_states_back():
    states = random.getstate(), np.random.get_state()[1], torch.get_rng_state()
    compile_graph(lambda x: [x + torch.randn(3)], [torch.ones(3)])
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_matrix_that_cannot_be_factorized_is_an_error(
    is_compiled, monkeypatch
):
    """As in torch, but not in the graph: Inductor cannot compile some."""
    if not is_compiled:

        def keep(graph, inputs):
            assert "check_errors" not in graph.code
            return graph

        monkeypatch.setattr("pyro_vae.svi.graphs.compile_record", keep)

    def factorize(x, y):
        return [torch.linalg.solve(y, x), torch.linalg.cholesky(x)]

    x, y, zeros = 2 * torch.eye(2), torch.eye(2), torch.zeros(2, 2)
    program = compile_graph(factorize, [x, y])
    for bad, name in (((-x, x), "cholesky"), ((x, zeros), "solve")):
        for function in (factorize, program):
            with pytest.raises(torch.linalg.LinAlgError, match=name):
                function(*bad)
    for got, want in zip(program(x, y), factorize(x, y), strict=True):
        assert torch.equal(got, want)
