"""The parts of one minibatch in recorded graphs, without processes."""

import pyro
import pytest
import torch
from pyro.optim import SGD

from pyro_vae.svi import CompiledSVI, Shards, graphs
from pyro_vae.svi.joint import Joint
from pyro_vae.svi.pairs import Run
from tests.models import linear_vae


class Half(Shards):
    """One of two processes, which hears nothing of the other."""

    def __init__(self, rank):
        super().__init__()
        self.rank, self.world_size = rank, 2

    def first_of(self, value):
        return value

    def sum(self, tensors, means=(), has_failed=False):
        self.has_failure = has_failed
        return list(tensors), list(means)


@pytest.fixture
def records(monkeypatch):
    """The graphs that are compiled, which Python runs."""
    known = []
    monkeypatch.setattr(
        graphs,
        "compile_record",
        lambda graph, inputs: known.append(graph) or graph,
    )
    return known


def make_svi():
    """Returns a VAE, the first of two processes, and its steps."""
    vae, shards = linear_vae(), Half(0)
    pair = (vae.model, vae.guide, SGD({"lr": 1.0}))
    return vae, shards, CompiledSVI(*pair, shards=shards)


def step(shards, size, number=1):
    """Returns the loss and what parameters have become after some steps."""
    torch.manual_seed(0)
    x = torch.randn(size, 6)
    vae = linear_vae()
    pair = (vae.model, vae.guide, SGD({"lr": 1.0}))
    svi = CompiledSVI(*pair, shards=shards)
    before = torch.nn.utils.parameters_to_vector(vae.parameters()).detach()
    for _ in range(number):
        mine = x[shards.begin(size)]
        loss = svi.step(mine, shards.share(100))
    after = torch.nn.utils.parameters_to_vector(vae.parameters()).detach()
    return torch.cat([torch.tensor([loss]), before - after])


@pytest.mark.usefixtures("records")
@pytest.mark.parametrize("size", [4, 5])
def test_the_parts_of_a_step_sum_to_the_whole(size):
    parts = [step(Half(rank), size) for rank in (0, 1)]
    torch.testing.assert_close(sum(parts), step(Shards(), size))


def test_parts_of_as_many_rows_have_the_same_graph(records):
    for rank in (0, 1):
        step(Half(rank), 4)
    first, second = (record.code for record in records)
    assert first == second
    assert "all_reduce" not in first


def test_an_error_leaves_the_random_states(records):
    _, shards, svi = make_svi()
    x = torch.randn(4, 6)[shards.begin(4)]
    svi.step(x, shards.share(100))
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="an argument of the step is <obj"):
        svi.step(x, shards.share(100), object())
    assert torch.equal(torch.get_rng_state(), state)
    svi.step(x, shards.share(100))


@pytest.mark.usefixtures("records")
def test_rows_of_no_minibatch_are_refused():
    _, _, svi = make_svi()
    with pytest.raises(ValueError, match=r"expected rows = shards.begin\(B\)"):
        svi.step(torch.randn(2, 6), 100)
    with pytest.raises(ValueError, match="no minibatch was begun"):
        svi.evaluate_loss(torch.randn(2, 6), 100)


@pytest.mark.usefixtures("records")
def test_all_rows_in_each_process_are_refused():
    _, shards, svi = make_svi()
    shards.begin(4)
    with pytest.raises(ValueError, match="site 'z' of the guide is not of the"):
        svi.step(torch.randn(4, 6), 100)


@pytest.mark.usefixtures("records")
def test_a_gradient_given_beforehand_is_refused():
    vae, shards, svi = make_svi()
    x = torch.randn(4, 6)
    for param in vae.parameters():
        param.grad = torch.zeros_like(param)  # as Pyro's SVI leaves them
    svi.step(x[shards.begin(4)], shards.share(100))
    param.grad = torch.ones_like(param)
    with pytest.raises(ValueError, match="several processes share the"):
        svi.step(x[shards.begin(4)], shards.share(100))


def test_the_pair_is_learned_without_a_trace(records):
    def model(x, share):
        with pyro.plate("data", share, subsample=x):
            pyro.sample("z", pyro.distributions.Normal(x, 1.0))

    def guide(x, share):
        loc = pyro.param("loc", lambda: torch.randn(()))
        with pyro.plate("data", share, subsample=x):
            pyro.sample("z", pyro.distributions.Normal(loc + x, 1.0))

    found = []
    for shards in (Half(0), Shards()):
        with pyro.get_param_store().scope():
            torch.manual_seed(0)
            svi = CompiledSVI(model, guide, SGD({"lr": 0.0}), shards=shards)
            x = torch.ones(4)[shards.begin(4)]
            svi.step(x, shards.share(100))
            found.append((pyro.param("loc").item(), torch.rand(1).item()))
    assert found[0] == found[1]


@pytest.mark.usefixtures("records")
def test_a_gradient_given_beforehand_is_seen_before_the_sum():
    """Else one process raises, and the others wait for it, or go on."""
    vae, shards, svi = make_svi()
    x = torch.randn(4, 6)
    svi.step(x[shards.begin(4)], shards.share(100))
    for param in vae.parameters():
        param.grad = torch.ones_like(param)
    with pytest.raises(ValueError, match="gradient of their own"):
        svi.step(x[shards.begin(4)], shards.share(100))
    assert shards.has_failure  # the sum told the others


@pytest.mark.usefixtures("records")
def test_another_clip_norm_is_taken_up():
    vae, shards, svi = make_svi()
    flatten = torch.nn.utils.parameters_to_vector
    x = torch.randn(4, 6)
    svi.step(x[shards.begin(4)], shards.share(100))
    before = flatten(vae.parameters()).detach()
    svi.clip_norm = 1e-3
    svi.step(x[shards.begin(4)], shards.share(100))
    after = flatten(vae.parameters()).detach()
    assert (after - before).norm() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.usefixtures("records")
def test_a_global_factor_that_is_zero_at_first_is_refused():
    def model(x, share):
        loc = pyro.param("loc", torch.zeros(()))
        pyro.factor("penalty", -loc)
        with pyro.plate("data", share, subsample=x):
            pyro.sample("x", pyro.distributions.Normal(loc, 1.0), obs=x)

    shards = Half(0)
    with pyro.get_param_store().scope():
        svi = CompiledSVI(
            model, lambda x, share: None, SGD({"lr": 0.0}), shards=shards
        )
        rows = torch.ones(4)[shards.begin(4)]
        with pytest.raises(ValueError, match="'penalty' of the model is not"):
            svi.step(rows, shards.share(100))


def test_a_failed_run_leaves_the_means():
    mean = torch.zeros(())
    joint = Joint(Half(0), None, [mean])
    joint.shards.begin(2)
    param = torch.zeros((), requires_grad=True)

    def run(fails):
        mean.fill_(7.0 if fails else 1.0)
        if fails:
            raise ValueError("no")
        losses, grad = [torch.zeros(())], torch.ones(())
        return Run(losses, [param], [grad], [param], [], None)

    joint.run(lambda: run(fails=False))
    assert mean == 1.0
    with pytest.raises(ValueError, match="no"):
        joint.run(lambda: run(fails=True))
    assert mean == 1.0
