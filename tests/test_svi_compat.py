"""What the package relies on, name by name, of torch and of Pyro.

A failure here says which name no longer does what the package needs, and the
version that it was last seen to do it in.
"""

import contextlib
import functools
import math
import platform
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.infer.util import Dice
from pyro.optim import SGD, Adam, AdamW, ClippedAdam, clipped_adam
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from pyro_vae.svi import compat, compat_pyro, inductor
from pyro_vae.svi.record import record
from tests.models import record_graph

TORCH, PYRO = "torch 2.14.1", "Pyro 1.9.2"
CHECKED = set()


def checks(version, *names):
    """Marks a test of names of `compat`, last seen to pass in a version."""
    CHECKED.update(names)

    def mark(test):
        @functools.wraps(test)
        def run(*args, **kwargs):
            try:
                test(*args, **kwargs)
            except Exception as error:
                raise AssertionError(
                    f"compat.{', '.join(names)}: passed with {version}; here "
                    f"are torch {torch.__version__}, Pyro {pyro.__version__}"
                ) from error

        return run

    return mark


def test_a_failure_names_the_name_and_the_versions():
    def fail():
        raise TypeError

    with pytest.raises(AssertionError, match=r"aten: passed with torch"):
        checks(TORCH, "aten")(fail)()


@checks(TORCH, "get_hooks")
@checks(TORCH, "get_late_hooks")
@checks(TORCH, "have_hooks")
def test_hooks_on_gradients_are_where_autograd_looks():
    param, calls = nn.Parameter(torch.ones(1)), []
    assert compat.get_late_hooks(param) == compat.get_hooks(param) == {}
    other, later = param.detach().clone(), param.detach().clone()
    assert not compat.have_hooks([param, other])
    for tensor in (other, later):
        tensor.requires_grad_()
    other.register_hook(print)
    later.register_post_accumulate_grad_hook(print)
    assert compat.have_hooks([param, other])
    assert compat.have_hooks([later])
    param.register_hook(lambda grad: calls.append("hook"))
    param.register_post_accumulate_grad_hook(lambda p: calls.append("late"))
    for find in (compat.get_hooks, compat.get_late_hooks):
        live = find(param)
        kept = dict(live)
        live.clear()
        param.square().backward()
        assert len(calls) == 1
        live.update(kept)
        calls.clear()
    param.square().backward()
    assert calls == ["hook", "late"]


@checks(TORCH, "get_default_device")
def test_the_default_device_is_torchs():
    assert compat.get_default_device() == torch.device("cpu")
    with torch.device("meta"):
        assert compat.get_default_device() == torch.device("meta")
        with torch.device("cpu"):
            assert compat.get_default_device() == torch.device("cpu")
    torch.set_default_device("meta")
    try:
        assert compat.get_default_device() == torch.device("meta")
    finally:
        torch.set_default_device(None)


class Asked(TorchFunctionMode):
    """Notes what a function says of the frames that ask for a truth value."""

    def __init__(self, ask):
        super().__init__()
        self.ask, self.answers = ask, []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is Tensor.__bool__:
            self.answers.append(self.ask(sys._getframe(1)))
        return function(*args, **(kwargs or {}))


@checks(TORCH, "is_validation")
def test_the_frames_that_validate_are_known():
    asked = Asked(compat.is_validation)
    answers = asked.answers
    with asked:
        dist.Normal(torch.zeros(2), 1.0, validate_args=True).log_prob(
            torch.ones(2)
        )
        assert answers and all(answers)
        if torch.ones(1):
            assert answers[-1] is False


@pytest.mark.parametrize("is_reentrant", [False, True])
@checks(TORCH, "without_checkpoints")
def test_checkpoints_compute_once_where_they_are_switched_off(is_reentrant):
    calls = []

    def function(x):
        calls.append(1)
        return x * x

    x = torch.ones(2, requires_grad=True)
    for count in (2, 1):
        calls.clear()
        switch = compat.without_checkpoints()
        with switch if count == 1 else contextlib.nullcontext():
            y = checkpoint(function, x, use_reentrant=is_reentrant)
            y.sum().backward()
        assert len(calls) == count


def update_by_kernel(kernel, params, gradients, skip):
    """Takes one step for each list of gradients."""
    averages, squares = ([torch.zeros_like(p) for p in params] for _ in "12")
    steps = list(torch.zeros(len(params), dtype=torch.float32))
    options = {"lr": 0.1, "beta1": 0.8, "beta2": 0.9, "eps": 1e-3}
    options |= {"weight_decay": 0.3, "amsgrad": False, "maximize": False}
    found_inf = torch.tensor(skip, dtype=torch.float32)
    for grads in gradients:
        for step in steps:
            step += 1 - skip
        lists = (params, grads, averages, squares, [], steps)
        kernel(*lists, **options, grad_scale=None, found_inf=found_inf)


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@checks(TORCH, "fused_adam_", "fused_adamw_")
def test_a_fused_kernel_is_the_optimizer(name):
    kernel = {"Adam": compat.fused_adam_, "AdamW": compat.fused_adamw_}[name]
    start = [torch.randn(3, 2), torch.randn(())]
    gradients = [[torch.randn_like(p) for p in start] for _ in range(3)]
    params = [p.clone() for p in start]
    update_by_kernel(kernel, params, gradients, skip=1)
    assert all(map(torch.equal, params, start))
    update_by_kernel(kernel, params, gradients, skip=0)
    expected = [nn.Parameter(p.clone()) for p in start]
    optim = getattr(torch.optim, name)(
        expected, lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.3
    )
    for grads in gradients:
        for param, grad in zip(expected, grads, strict=True):
            param.grad = grad.clone()
        optim.step()
    for left, right in zip(params, expected, strict=True):
        torch.testing.assert_close(left, right.detach(), rtol=1e-12, atol=0)


@checks(TORCH, "foreach_norm")
def test_norms_of_a_list():
    norms = compat.foreach_norm([torch.tensor([3.0, 4.0]), torch.tensor(-2.0)])
    assert [norm.item() for norm in norms] == [5.0, 2.0]


@checks(TORCH, "foreach_mul_", "foreach_clamp_min_", "foreach_clamp_max_")
def test_a_list_changes_in_place():
    tensors = [torch.tensor([3.0, -4.0]), torch.tensor(5.0)]
    compat.foreach_mul_(tensors, [torch.tensor(2.0), torch.tensor(3.0)])
    assert [t.tolist() for t in tensors] == [[6.0, -8.0], 15.0]
    compat.foreach_clamp_min_(tensors, -7.0)
    compat.foreach_clamp_max_(tensors, 10.0)
    assert [t.tolist() for t in tensors] == [[6.0, -7.0], 10.0]


@checks(TORCH, "writes_in_place", "aten")
def test_changes_in_place_are_known():
    targets = [compat.aten.add_.Tensor, compat.aten.exp.default]
    graph = fx.Graph()
    nodes = [graph.call_function(target) for target in targets]
    assert [compat.writes_in_place(node) for node in nodes] == [True, False]
    assert not compat.writes_in_place(graph.output(nodes[1]))


@checks(TORCH, "handles_operators")
def test_tensors_that_handle_operators_are_known():
    class Named(Tensor):
        pass

    class Handling(Tensor):
        @classmethod
        def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
            return NotImplemented

    for kind in (Tensor, nn.Parameter, Named):
        assert not compat.handles_operators(kind)
    assert compat.handles_operators(Handling)


@checks(TORCH, "WeakTensorKeys")
def test_tensors_are_keys_by_identity_and_not_kept():
    one, twin = torch.ones(2), torch.ones(2)
    names = compat.WeakTensorKeys()
    names[one], names[twin] = "one", "twin"
    assert (names[one], names[twin]) == ("one", "twin")
    del twin
    assert list(names.values()) == ["one"]


@checks(TORCH, "unrecorded")
def test_a_block_can_stay_unrecorded():
    def function(x):
        with compat.unrecorded():
            aside = torch.full((), float(x.sum() + 1))
        return [x * aside]

    recorded = record(function, [torch.ones(2)])
    targets = [node.target for node in recorded.graph.nodes]
    assert compat.aten.add.Tensor not in targets
    assert [c.item() for c in recorded.constants] == [3.0]


@checks(TORCH, "OperatorMode")
def test_a_mode_sees_operators_below_autograd():
    seen = []

    class Seeing(compat.OperatorMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    x = torch.ones(2, requires_grad=True)
    with Seeing():
        x.exp().sum().backward()
    assert compat.aten.exp.default in seen
    assert compat.aten.mul.Tensor in seen  # of the backward pass


@checks(TORCH, "compile_by_inductor")
def test_inductor_takes_a_record():
    """With a change in place, and eager's random numbers."""

    def function(x, counter):
        counter.add_(1)
        return [x * counter + torch.randn(2)]

    inputs = [torch.ones(2), torch.zeros(2)]
    graph = record_graph(function, inputs)
    program = inductor.compile_by_inductor(graph, inputs)
    x, counter = torch.tensor([2.0, 3.0]), torch.tensor([4.0, 5.0])
    torch.manual_seed(3)
    (result,) = program(x, counter)
    assert counter.tolist() == [5.0, 6.0]
    torch.manual_seed(3)
    torch.testing.assert_close(result, x * counter + torch.randn(2))


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch without oneDNN"
)
@checks(TORCH, "multiply_by_onednn")
def test_onednn_multiplies():
    left, right = torch.randn(5, 3), torch.randn(3, 4)
    product = inductor.multiply_by_onednn(left.float(), right.float())
    exact = left.float().double() @ right.float().double()
    torch.testing.assert_close(product.double(), exact, rtol=1e-5, atol=1e-5)


@checks(TORCH, "describe_processor")
def test_the_processor_is_described():
    described = inductor.describe_processor()
    if platform.machine() != "x86_64" or not hasattr(
        torch.cpu, "get_capabilities"
    ):
        pytest.skip("the entries are those of x86-64, in newer versions")
    if not torch.backends.mkldnn.is_available():
        assert described == {}
        return
    assert isinstance(described["cpu_name"], str)
    assert isinstance(described["avx512_bf16"], bool)
    assert isinstance(described["amx_bf16"], bool)


@checks(TORCH, "get_module_tables")
def test_tables_are_where_a_module_looks():
    module = nn.BatchNorm1d(2)
    module.child = nn.Linear(1, 1)
    modules, params, buffers = compat.get_module_tables(module)
    assert modules == {"child": module.child}
    assert params == {"weight": module.weight, "bias": module.bias}
    assert buffers == dict(module.named_buffers(recurse=False))
    module.child, module.bias = nn.Tanh(), None
    module.running_mean = torch.ones(2)
    assert modules["child"] is module.child and params["bias"] is None
    assert buffers["running_mean"] is module.running_mean


@checks(TORCH, "get_hook_tables")
def test_each_hook_of_a_module_gets_a_key_of_its_own():
    module, keys = nn.Linear(1, 1), set()
    ways = (
        module.register_forward_hook,
        module.register_forward_pre_hook,
        module.register_full_backward_hook,
        module.register_full_backward_pre_hook,
    )
    for table, register in zip(
        compat.get_hook_tables(module), ways, strict=True
    ):
        for _ in range(2):
            hook = register(lambda *_: None)
            (key,) = table
            assert key not in keys
            keys.add(key)
            hook.remove()


@checks(TORCH, "is_written")
@pytest.mark.parametrize("is_training", [True, False])
def test_batch_norm_writes_what_its_schema_does_not_say(is_training):
    operator = compat.aten.native_batch_norm.default
    mean, var = torch.zeros(2), torch.ones(2)
    x = torch.randn(5, 2)
    operator(x, None, None, mean, var, is_training, 0.1, 1e-5)
    assert bool(mean.any()) == is_training
    assert not operator._schema.is_mutable
    written = [
        argument.name
        for argument in operator._schema.arguments
        if compat.is_written(operator._schema, argument)
    ]
    assert written == ["running_mean", "running_var"]


@checks(TORCH, "register_module_forward_pre_hook")
def test_every_call_of_a_module_is_seen():
    calls, network = [], nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    hook = compat.register_module_forward_pre_hook(
        lambda module, args: calls.append(module)
    )
    network(torch.ones(2))
    hook.remove()
    network(torch.ones(2))
    assert calls == [network, *network]


@checks(PYRO, "unchecked_sites")
@pytest.mark.parametrize("is_validating", [True, False])
def test_pyro_looks_for_no_nan_but_distributions_validate(is_validating):
    def look():
        value = torch.tensor(torch.nan)
        pyro.util.warn_if_nan(value, "a value")
        pyro.util.warn_if_inf(value, "a value")
        return dist.Normal(0.0, torch.tensor(1.0))._validate_args

    kind = torch.distributions.Distribution
    try:
        kind.set_default_validate_args(is_validating)
        with compat_pyro.unchecked_sites():
            assert look() == is_validating
        assert kind._validate_args == is_validating
    finally:
        kind.set_default_validate_args(True)
    with pytest.warns(UserWarning, match="Encountered NaN"):
        assert look()


@checks(TORCH, "is_shortcut")
def test_stable_distributions_ask_whether_they_may_take_a_shortcut():
    asked = Asked(compat.is_shortcut)
    answers = asked.answers
    q = dist.Stable(torch.tensor(1.5), 0.0, validate_args=False)
    with asked:
        q.sample()
        assert answers and all(answers)
        if torch.ones(1):
            assert answers[-1] is False


class Seen(TorchFunctionMode):
    """Counts the calls of what `_MaskedSums` replaces, in a list."""

    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (Tensor.all, Tensor.masked_select):
            self.calls.append(function)
        return function(*args, **(kwargs or {}))


@checks(PYRO, "within_expectations")
def test_states_are_selected_within_expectations_alone():
    def model():
        logits = pyro.param("logits", torch.tensor([0.0, 1.0]))
        pyro.sample("z", dist.Categorical(logits=logits))

    def guide():
        logits = torch.tensor([0.0, -math.inf])  # a state that never comes
        q = dist.Categorical(logits=logits)
        pyro.sample("z", q, infer={"enumerate": "parallel"})

    within, everywhere, before = [], [], Dice.compute_expectation
    with (
        pyro.validation_enabled(False),
        Seen(everywhere),
        compat_pyro.within_expectations(lambda: Seen(within)),
    ):
        TraceEnum_ELBO(max_plate_nesting=0).loss_and_grads(model, guide)
    assert Tensor.masked_select in within
    assert within == everywhere
    assert Dice.compute_expectation is before


@checks(PYRO, "get_unconstrained")
def test_parameters_are_as_optimizers_see_them():
    weight = nn.Parameter(torch.ones(2))

    def model():
        pyro.param("scale", torch.tensor(2.0), dist.constraints.positive)
        pyro.param("weight", weight)
        pyro.param("twin", weight)
        pyro.sample("z", dist.Normal(0.0, 1.0))

    trace = poutine.trace(model).get_trace()
    scale, *twins = compat_pyro.get_unconstrained(trace)
    assert scale.item() == pytest.approx(math.log(2.0))
    assert twins[0] is weight and twins[1] is weight


@checks(PYRO, "get_constructor")
def test_an_optimizer_tells_its_class():
    for optim, kind in (
        (Adam, torch.optim.Adam),
        (AdamW, torch.optim.AdamW),
        (SGD, torch.optim.SGD),
        (ClippedAdam, clipped_adam.ClippedAdam),
    ):
        assert compat_pyro.get_constructor(optim({"lr": 0.1})) is kind


def announce(**values):
    """Makes parameters in Pyro's store."""
    params = {name: nn.Parameter(value) for name, value in values.items()}
    for name, param in params.items():
        pyro.param(name, param)
    return params.values()


def step(optim, params):
    for param in params:
        param.grad = torch.full_like(param, 3.0)
    optim(params)


@checks(PYRO, "get_torch_optimizers")
def test_options_and_state_are_pyros_own():
    first, second = params = announce(a=torch.ones(2), b=torch.zeros(()))
    optim = Adam({"lr": 0.1})
    step(optim, params)
    optimizers = compat_pyro.get_torch_optimizers(optim)
    assert list(optimizers) == [first, second]
    state = optimizers[first].state[first]
    assert set(state) == {"step", "exp_avg", "exp_avg_sq"}
    assert state["step"] == 1 and state["exp_avg"].shape == (2,)
    before = [param.detach().clone() for param in params]
    optimizers[first].param_groups[0]["lr"] = 0.0
    step(optim, params)
    assert torch.equal(first, before[0])
    assert not torch.equal(second, before[1])


@checks(PYRO, "get_clip_options")
def test_clipping_is_asked_for_by_name():
    first, second = announce(a=torch.ones(2), b=torch.zeros(()))
    optim = Adam({}, {"clip_value": 0.5})
    assert compat_pyro.get_clip_options(optim, first) == {"clip_value": 0.5}
    assert compat_pyro.get_clip_options(Adam({}), first) == {}
    bounds = {"a": {}, "b": {"clip_norm": 2.0}}
    optim = Adam({}, lambda module, name: bounds[name])
    assert compat_pyro.get_clip_options(optim, first) == {}
    assert compat_pyro.get_clip_options(optim, second) == {"clip_norm": 2.0}


@checks(PYRO, "adopt_parameters")
def test_an_adopted_parameter_is_stepped_as_any_other():
    """Its options and its clipping, and the state that waits for it."""

    def make():
        return Adam(
            lambda name: {"lr": 0.1 if name == "a" else 0.2, "eps": 1.0},
            lambda module, name: {"clip_value": 0.5},
        )

    ends = []
    for is_adopted in (False, True):
        with pyro.get_param_store().scope():
            params = announce(a=torch.ones(2), b=torch.zeros(()))
            before = make()
            step(before, params)
            optim = make()
            optim.set_state(before.get_state())
            if is_adopted:
                compat_pyro.adopt_parameters(optim, params)
                compat_pyro.adopt_parameters(optim, params)  # nothing more
                kept = optim.optim_objs[next(iter(params))].state_dict()
                assert kept["state"][0]["step"] == 1
            step(optim, params)
            ends.append([p.detach() for p in params])
    assert all(map(torch.equal, *ends))


@checks(PYRO, "get_importance_trace")
def test_a_pair_of_traces_shares_its_draws():
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(x, 0.1))

    x = torch.tensor(2.0)
    model_trace, guide_trace = compat_pyro.get_importance_trace(
        "flat", math.inf, model, guide, (x,), {}
    )
    z = guide_trace.nodes["z"]["value"]
    assert model_trace.nodes["z"]["value"] is z
    log_prob = dist.Normal(z, 1.0).log_prob(x)
    assert torch.equal(model_trace.nodes["x"]["log_prob"], log_prob)
    log_prob = dist.Normal(x, 0.1).log_prob(z)
    assert torch.equal(guide_trace.nodes["z"]["log_prob"], log_prob)
    assert "score_parts" in guide_trace.nodes["z"]


@checks(PYRO, "am_i_wrapped")
def test_a_handler_around_is_noticed():
    assert not compat_pyro.am_i_wrapped()
    with poutine.scale(scale=2.0):
        assert compat_pyro.am_i_wrapped()
    assert not compat_pyro.am_i_wrapped()


@checks(PYRO, "is_subsample")
def test_a_plate_s_own_draw_is_told_from_other_sites():
    def model():
        with pyro.plate("rows", 5, 2):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    nodes = poutine.trace(model).get_trace().nodes
    draws = {
        name: compat_pyro.is_subsample(site) for name, site in nodes.items()
    }
    assert draws["rows"] and not draws["z"]
    assert nodes["rows"]["fn"].size == 5
    assert nodes["rows"]["fn"].subsample_size == 2


@checks(PYRO, "list_baselines")
@checks(PYRO, "get_stored")
@checks(PYRO, "put_stored")
def test_the_running_averages_of_baselines_are_entries_of_the_store():
    def model():
        pyro.sample("z", dist.Bernoulli(0.5))

    def guide():
        baseline = {"use_decaying_avg_baseline": True}
        probs = pyro.param("probs", torch.tensor(0.3))
        pyro.sample("z", dist.Bernoulli(probs), infer={"baseline": baseline})

    pyro.infer.TraceGraph_ELBO().loss_and_grads(model, guide)
    (name,) = compat_pyro.list_baselines()
    first = compat_pyro.get_stored(name)
    assert type(first) is Tensor and first is compat_pyro.get_stored(name)
    pyro.infer.TraceGraph_ELBO().loss_and_grads(model, guide)
    assert compat_pyro.get_stored(name) is not first
    compat_pyro.put_stored(name, first)
    assert compat_pyro.get_stored(name) is first
    assert pyro.param(name).item() == first.item()
    compat_pyro.put_stored(name, None)
    assert compat_pyro.list_baselines() == []


@checks(PYRO, "outside_traces")
def test_the_traces_of_svi_are_left():
    with poutine.trace(param_only=True) as trace, compat_pyro.outside_traces():
        assert not compat_pyro.am_i_wrapped()
        pyro.param("inside", torch.ones(()))
    assert list(trace.trace.nodes) == []
    with poutine.block(), pytest.raises(ValueError, match="BlockMessenger"):
        compat_pyro.outside_traces().__enter__()


def test_every_name_has_a_test():
    modules = (compat, compat_pyro, inductor)
    assert {name for m in modules for name in m.__all__} == CHECKED
