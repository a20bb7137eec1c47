"""Wherever Python can hold state, a compiled step sees it, or refuses it."""

import collections
import copy
import dataclasses
import functools
import itertools
import operator
import types

import numpy as np
import pandas
import pyro
import pyro.distributions as dist
import pytest
import torch
import torchvision
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import (
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from pyro.optim import Adam
from torch import nn
from torch.nn import functional as F

from pyro_vae.svi import CompiledSVI, DynamicPairError
from pyro_vae.svi.reads import Reads
from tests.models import keep_the_record

X = torch.rand(12, 4, generator=torch.Generator().manual_seed(5)).double()
NOISE = 0.5
LEVELS = np.array([0.5, 0.6])


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    keep_the_record(monkeypatch)


class Mean(nn.Module):
    """A mean under noise, which subclasses read where they keep it."""

    def __init__(self):
        super().__init__()
        self.link = nn.Softplus()

    def model(self, x, *args):
        loc = pyro.param("loc", lambda: torch.zeros(4))
        loc = self.link(self.move(loc))
        with pyro.plate("data", len(x)):
            noise = self.noise(*args)
            pyro.sample("x", dist.Normal(loc, noise).to_event(1), obs=x)

    def guide(self, x, *args):
        pass

    def move(self, loc):
        return loc

    def noise(self):
        return 0.5


class OfClass(Mean):
    level = 0.5

    def noise(self):
        return self.level

    def change(self):
        OfClass.level += 0.1


class OfClassMethod(Mean):
    level = 0.5

    @classmethod
    def noise(cls):
        return cls.level

    def change(self):
        OfClassMethod.level += 0.1


class OfOtherClass(Mean):
    def noise(self):
        return OfClass.level

    def change(self):
        OfClass.level += 0.1


class Slots:
    __slots__ = ("level",)

    def __init__(self):
        self.level = 0.5

    def __call__(self):
        return self.level


class OfSlots(Mean):
    def __init__(self):
        super().__init__()
        self.slots = Slots()

    def noise(self):
        return self.slots()

    def change(self):
        self.slots.level += 0.1


class OfSlotsByName(OfSlots):
    def noise(self):
        return self.slots.level


class OfGetattr(Mean):
    def __init__(self):
        super().__init__()
        self.level1 = 0.5

    def noise(self):
        return getattr(self, f"level{1}")

    def change(self):
        self.level1 += 0.1


class OfVars(OfGetattr):
    def noise(self):
        return vars(self)["level1"]


class OfDict(OfGetattr):
    def noise(self):
        return self.__dict__["level1"]


class OfAttrgetter(OfGetattr):
    def noise(self):
        return operator.attrgetter("level1")(self)


class OfGlobals(Mean):
    def noise(self):
        return globals()["NOI" + "SE"]

    def change(self):
        global NOISE
        NOISE += 0.1


def default(level=0.5):
    return level


def keyword(*, level=0.5):
    return level


class OfDefault(Mean):
    def noise(self):
        return default()

    def change(self):
        default.__defaults__ = (default.__defaults__[0] + 0.1,)


class OfKeyword(Mean):
    def noise(self):
        return keyword()

    def change(self):
        keyword.__kwdefaults__["level"] += 0.1


def scaled(scale, level):
    return scale * level


class OfPartial(Mean):
    def __init__(self):
        super().__init__()
        self.function = functools.partial(scaled, 1.0, level=0.5)

    def noise(self):
        return self.function()

    def change(self):
        self.function.keywords["level"] += 0.1


def attributed():
    return attributed.level


attributed.level = 0.5


class OfFunction(Mean):
    def noise(self):
        return attributed()

    def change(self):
        attributed.level += 0.1


class OfLongList(Mean):
    def __init__(self):
        super().__init__()
        self.levels = [0.5] * 1000

    def noise(self):
        return self.levels[500]

    def change(self):
        self.levels[500] += 0.1


class OfDeepList(Mean):
    def __init__(self):
        super().__init__()
        self.levels = {"a": [{"b": ([{"c": [0.5]}],)}]}

    def noise(self):
        return self.levels["a"][0]["b"][0][0]["c"][0]

    def change(self):
        self.levels["a"][0]["b"][0][0]["c"][0] += 0.1


class OfTuple(Mean):
    def __init__(self):
        super().__init__()
        self.levels = ([0.5],)

    def noise(self):
        return self.levels[0][0]

    def change(self):
        self.levels[0][0] += 0.1


class OfDeque(Mean):
    def __init__(self):
        super().__init__()
        self.levels = collections.deque([0.5])

    def noise(self):
        return self.levels[0]

    def change(self):
        self.levels[0] += 0.1


class OfArray(Mean):
    def noise(self):
        return float(LEVELS[0])

    def change(self):
        LEVELS[0] += 0.1


class OfNamespace(Mean):
    def __init__(self):
        super().__init__()
        self.options = types.SimpleNamespace(level=torch.tensor(0.5))

    def noise(self):
        return self.options.level

    def change(self):
        self.options.level = self.options.level + 0.1


@dataclasses.dataclass
class Options:
    level: float = 0.5


class OfDataclasses(Mean):
    def __init__(self):
        super().__init__()
        self.options = [Options()]

    def noise(self):
        return self.options[0].level

    def change(self):
        self.options[0].level += 0.1


class OfDistribution(Mean):
    def __init__(self):
        super().__init__()
        self.level = dist.Delta(torch.tensor(0.5))

    def noise(self):
        return self.level.mean

    def change(self):
        self.level.v = self.level.v + 0.1


class OfHook(Mean):
    def change(self):
        self.link.register_forward_hook(lambda module, args, y: y + 0.1)


class OfForward(Mean):
    def change(self):
        self.link.forward = lambda x: F.softplus(x) + 0.1


class OfSetting(Mean):
    def change(self):
        self.link.beta += 1


class OfMethod(Mean):
    def change(self):
        self.noise = lambda: 0.6


class OfPatchedMethod(Mean):
    def change(self):
        type(self).noise = lambda self: 0.6


class OfPatchedFunction(Mean):
    def noise(self):
        return default()

    def change(self):
        globals()["default"] = lambda: 0.7


class Descriptor:
    def __init__(self, level):
        self.level = level

    def __get__(self, owner, kind=None):
        return self.level


class OfDescriptor(Mean):
    level = Descriptor(0.5)

    def noise(self):
        return self.level

    def change(self):
        vars(OfDescriptor)["level"].level += 0.1


class OfProperty(Mean):
    def __init__(self):
        super().__init__()
        self._level = 0.5

    @property
    def level(self):
        return self._level

    def noise(self):
        return self.level

    def change(self):
        self._level += 0.1


class OfCondition(Mean):
    """Its data are those of a handler around the model."""

    def __init__(self):
        super().__init__()
        self.data = {"level": torch.tensor(0.5)}
        self.model = poutine.condition(self._model, data=self.data)

    def _model(self, x):
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        Mean.model(self, x, level)

    def noise(self, level):
        return level

    def change(self):
        self.data["level"] = self.data["level"] + 0.1


def list_kinds(kind):
    """Yields the subclasses of a class, and theirs."""
    for subclass in kind.__subclasses__():
        yield subclass
        yield from list_kinds(subclass)


def run(svi, pair, args=()):
    torch.manual_seed(1)
    losses = [svi.step(X, *args) for _ in range(5)]
    pair.change()
    losses += [svi.step(X, *args) for _ in range(2)]
    pair.change()
    return [*losses, svi.step(X, *args), svi.evaluate_loss(X, *args)]


@pytest.mark.parametrize(
    "kind",
    [kind for kind in list_kinds(Mean) if hasattr(kind, "change")],
    ids=lambda kind: kind.__name__,
)
def test_a_change_of_state_is_seen(kind, monkeypatch):
    """Steps 6 and 7 are not compared with eager ones, and must see it."""
    results = []
    for engine in (SVI, CompiledSVI):
        with monkeypatch.context() as patches:
            keep_class_state(patches)
            pyro.clear_param_store()
            pair = kind()
            svi = engine(
                pair.model, pair.guide, Adam({"lr": 0.05}), Trace_ELBO()
            )
            results.append(run(svi, pair))
    assert svi.num_compilations >= 1
    torch.testing.assert_close(*map(torch.tensor, results), rtol=1e-6, atol=0)


def keep_class_state(patches):
    """Puts back what tests change in classes, functions and globals."""
    patches.setattr(OfClass, "level", 0.5)
    patches.setattr(OfClassMethod, "level", 0.5)
    patches.setattr(OfPatchedMethod, "noise", lambda self: 0.5, raising=False)
    patches.setattr(default, "__defaults__", (0.5,))
    patches.setattr(keyword, "__kwdefaults__", {"level": 0.5})
    patches.setattr(attributed, "level", 0.5)
    patches.setitem(globals(), "NOISE", 0.5)
    patches.setitem(globals(), "default", default)
    patches.setitem(globals(), "LEVELS", np.array([0.5, 0.6]))
    patches.setattr(vars(OfDescriptor)["level"], "level", 0.5)


class OfCount(Mean):
    def __init__(self):
        super().__init__()
        self.count = itertools.count()

    def noise(self):
        return 0.5 + next(self.count)


class OfIterator(OfCount):
    def __init__(self):
        super().__init__()
        self.count = iter(range(100))


class OfGenerator(OfCount):
    def __init__(self):
        super().__init__()
        self.count = (number for number in range(100))


class OfList(OfCount):
    def __init__(self):
        super().__init__()
        self.count = iter([1.0] * 100)


class OfNumpysGenerator(Mean):
    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(0)

    def noise(self):
        return 0.5 + self.rng.random()


class CountingArray(Mean):
    def __init__(self):
        super().__init__()
        self.counts = np.zeros(3)

    def noise(self):
        self.counts[1] += 1
        return 0.5


class CountingBytes(Mean):
    def __init__(self):
        super().__init__()
        self.counts = bytearray(3)

    def noise(self):
        self.counts[1] += 1
        return 0.5 + self.counts[1]


class CountingDeque(Mean):
    def __init__(self):
        super().__init__()
        self.last = collections.deque(maxlen=3)

    def noise(self):
        self.last.append(len(self.last))
        return 0.5


class CountingClass(Mean):
    count = 0

    def noise(self):
        type(self).count += 1
        return 0.5


class CountingSlots(OfSlots):
    change = None

    def noise(self):
        self.slots.level += 0.1
        return 0.5


class CountingFunction(Mean):
    def noise(self):
        attributed.level += 1
        return 0.5


def mutable(counts=[0]):  # noqa: B006
    counts[0] += 1
    return 0.5


class CountingDefault(Mean):
    def noise(self):
        return mutable()


class CountingNested(Mean):
    def __init__(self):
        super().__init__()
        self.log = {"runs": {"z": [], "x": [0]}}

    def noise(self):
        self.log["runs"]["x"].append(1)
        return 0.5


class Forking(Mean):
    def noise(self):
        with torch.random.fork_rng():
            return 0.5 + torch.rand(())


class Listing(Mean):
    """It appends to a list that it is given."""

    def noise(self, given):
        given.append(1)
        return 0.5


class Entering(Mean):
    """It keeps a tensor in a dictionary that it is given."""

    def noise(self, given):
        given["noise"] = torch.tensor(0.5)
        return given["noise"]


class Setting(Mean):
    """It sets an attribute of an object that it is given."""

    def noise(self, given):
        given.level += 0.1
        return 0.5


CHANGING = [
    (OfCount, ()),
    (OfIterator, ()),
    (OfGenerator, ()),
    (OfList, ()),
    (OfNumpysGenerator, ()),
    (CountingArray, ()),
    (CountingBytes, ()),
    (CountingDeque, ()),
    (CountingClass, ()),
    (CountingSlots, ()),
    (CountingFunction, ()),
    (CountingDefault, ()),
    (CountingNested, ()),
    (Forking, ()),
    (Listing, ([],)),
    (Entering, ({},)),
    (Setting, (types.SimpleNamespace(level=0.5),)),
    (Setting, (Options(),)),
]


@pytest.mark.parametrize(
    ("kind", "args"), CHANGING, ids=lambda part: getattr(part, "__name__", "")
)
def test_what_each_run_changes_is_refused_and_put_back(kind, args, monkeypatch):
    """Going on with Pyro's SVI is as if nothing had been tried."""
    results = []
    for is_tried in (False, True):
        with monkeypatch.context() as patches:
            keep_class_state(patches)
            patches.setattr(mutable, "__defaults__", ([0],))
            patches.setattr(CountingClass, "count", 0)
            pyro.clear_param_store()
            pair, given = kind(), copy.deepcopy(args)
            torch.manual_seed(1)
            if is_tried:
                before = describe(pair, given)
                svi = compiled(pair)
                with pytest.raises(DynamicPairError, match=r"pyro\.infer\.SVI"):
                    svi.step(X, *given)
                assert describe(pair, given) == before
            svi = SVI(pair.model, pair.guide, Adam({"lr": 0.05}), Trace_ELBO())
            results.append([svi.step(X, *given) for _ in range(4)])
    assert results[0] == results[1]


def compiled(pair):
    return CompiledSVI(pair.model, pair.guide, Adam({"lr": 0.05}))


def describe(pair, given):
    return str((vars(pair).keys(), given, dict(pyro.get_param_store())))


class Lazy(Mean):
    """It makes its layer at its first run, and then cannot be compiled."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.calls = 0

    def model(self, x):
        if not hasattr(self, "layer"):
            self.layer = nn.Linear(4, 4)
        self.eval()
        self.train()
        pyro.module("layer", self.layer)
        y = self.layer(self.norm.forward(x.to(self.norm.weight)))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        self.calls += 1
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(y, scale).to_event(1), obs=x)


class Failing(Lazy):
    """It makes its layer at its first run, and then fails, once."""

    def model(self, x):
        super().model(x)
        if not fails:
            return
        fails.clear()
        raise OSError("a file is missing")


fails = []


@pytest.mark.parametrize("kind", [Lazy, Failing])
@pytest.mark.parametrize(
    "make_guide",
    [AutoNormal, AutoMultivariateNormal, AutoLowRankMultivariateNormal],
)
def test_a_first_step_that_fails_leaves_nothing(kind, make_guide):
    results = []
    for is_tried in (False, True):
        pyro.clear_param_store()
        torch.manual_seed(1)
        pair = kind()
        guide = make_guide(pair.model)
        if is_tried:
            fails[:] = [kind is Failing]
            before = (set(vars(pair)), set(vars(guide)), torch.get_rng_state())
            svi = CompiledSVI(pair.model, guide, Adam({"lr": 0.05}))
            with pytest.raises((DynamicPairError, OSError)):
                svi.step(X)
            after = (set(vars(pair)), set(vars(guide)), torch.get_rng_state())
            assert before[:2] == after[:2] and torch.equal(before[2], after[2])
            assert not list(pyro.get_param_store()) and pair.training
            assert not pair.norm.num_batches_tracked
        fails.clear()
        svi = SVI(pair.model, guide, Adam({"lr": 0.05}), Trace_ELBO())
        results.append([svi.step(X) for _ in range(4)])
    assert results[0] == results[1]


def test_large_libraries_are_not_read():
    """Their code would give thousands of places to look at in every step."""
    frame, network = (
        pandas.DataFrame({"level": [0.5]}),
        torchvision.ops.MLP(4, [4]),
    )

    def model(x):
        pyro.module("network", network.double())
        level = float(frame["level"].mean())
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(network(x), level).to_event(1), obs=x)

    places = Reads(model).places.values()
    holders = {place.label.split(" of ")[-1] for place in places}
    assert holders >= {"frame", "network", "Linear"}
    assert len(places) < 40
    svi = CompiledSVI(model, lambda x: None, Adam({"lr": 0.05}))
    assert svi.step(X) != svi.step(X)
