"""`set_rule` and `convert` change nothing of a user's modules, and refuse what a chain would leave out."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastalign
from fastalign.convert.tracing import NotAChainError
from fastalign.nn import Sequential

Forward = Callable[[Any, Tensor], Any]


class Net(nn.Module):
    """Two layers, and all that a forward might write to."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.norm = nn.Linear(12, 20), nn.Linear(20, 5), nn.BatchNorm1d(20)
        self.register_buffer("mean", torch.full((20,), 0.5))
        self.plain = torch.ones(20)
        self.seen: list[Tensor] = []
        self.calls = 0


def seed() -> None:
    torch.manual_seed(2)
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002


def network(forward: Forward, kind: type[nn.Module] = Net) -> Any:
    return type("Own", (kind,), {"forward": forward})()


def state(module: nn.Module) -> list[object]:
    """All that could have changed, to be compared by repr and to the last bit."""
    found: list[object] = [torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())]  # noqa: NPY002
    for name, inner in module.named_modules():
        own = {k: v for k, v in vars(inner).items() if k not in ("_parameters", "_buffers", "_modules")}
        found += [name, repr(own), list(inner._modules), list(inner._buffers), list(inner._parameters)]
        tensors = {**inner._parameters, **inner._buffers}
        found += [(k, id(t), t.data_ptr(), t.tolist()) for k, t in tensors.items() if t is not None]
    return found


# Modules that leave marks when they run


def assigns(self: Any, x: Tensor) -> Tensor:
    self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
    return x - self.mean


def writes(self: Any, x: Tensor) -> Tensor:
    self.mean.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
    return x - self.mean


def counts(self: Any, x: Tensor) -> Tensor:
    self.calls += 1
    self.seen.append(x)
    self.plain.add_(1)
    return x


def caches_a_tensor(self: Any, x: Tensor) -> Tensor:
    self.cache = x.detach()
    self.register_buffer("late", torch.zeros(1), persistent=False)
    return x * 2


def grows(self: Any, x: Tensor) -> Tensor:
    self.norm = nn.Identity()
    self.add_module("more", nn.ReLU())
    return x


def draws(self: Any, x: Tensor) -> Tensor:
    return x + 0.0 * torch.rand(20) * random.random() * np.random.rand()  # noqa: NPY002


def clips_its_weights(self: Any, x: Tensor) -> Tensor:
    self.norm.weight.data.clamp_(max=0.5)
    return self.norm(x)


def gives_a_weight_other_memory(self: Any, x: Tensor) -> Tensor:
    self.norm.weight.data = self.norm.weight.data * 0.5
    return self.norm(x)


def trains_a_norm(self: Any, x: Tensor) -> Tensor:
    self.norm.train()
    return self.norm(torch.cat((x, x + 1)))[: len(x)]


class Middle(Net):
    """What stands in the middle of a network has no matrices of its own."""

    def __init__(self) -> None:
        super().__init__()
        del self.a, self.b


MARKS = [
    *(assigns, writes, counts, caches_a_tensor, grows, draws, clips_its_weights, gives_a_weight_other_memory),
    trains_a_norm,
]


@pytest.mark.parametrize("forward", MARKS)
def test_the_dry_run_leaves_no_mark(forward: Forward) -> None:
    module = network(forward, Middle)
    layers = nn.Linear(12, 20), module, nn.Tanh(), nn.Linear(20, 5)
    net = Sequential(*layers)
    module.seen.append(torch.zeros(1))
    before = state(module)
    random_state = torch.get_rng_state()
    net._sizes(fastalign.rules.DFA(), net._stages()[1:], layers[0].weight)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert state(module) == before


@pytest.mark.parametrize("forward", MARKS)
def test_conversion_leaves_no_mark_and_what_it_cannot_follow_whole(forward: Forward) -> None:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(12, 20), network(forward, Middle), nn.Tanh(), nn.Linear(20, 5))
    before = state(module)
    net = fastalign.convert(module, rule="bp")
    assert state(module) == before
    if forward is gives_a_weight_other_memory:
        return  # under a rule it is a stand-in for the weight that gets it
    plain, x = copy.deepcopy(module), torch.randn(6, 12)
    for _ in range(3):
        seed()
        expected = plain(x)
        seed()
        torch.testing.assert_close(net(x), expected)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(dict(module.named_buffers())[name], buffer)


class OwnNorm(nn.BatchNorm2d):
    """A norm with its activation, as libraries of image models have it."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        use_batch = self.training or self.running_mean is None
        h = F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, use_batch, 0.1, self.eps)
        return F.relu(h)


def test_norms_have_counted_no_batch_after_conversion() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), OwnNorm(4), nn.Flatten(), nn.Linear(144, 3))
    before = copy.deepcopy(module.state_dict())
    net = fastalign.convert(module, "dfa", (1, 8, 8))
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)
    plain, x = copy.deepcopy(module), torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(net(x), plain(x))
    torch.testing.assert_close(module.state_dict(), plain.state_dict())


# What the network's own forward does besides calculating


def no_grad(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        h = self.a(x)
    return self.b(h)


def inference(self: Any, x: Tensor) -> Tensor:
    with torch.inference_mode():
        h = self.a(x)
    return self.b(h)


def no_grad_by_function(self: Any, x: Tensor) -> Tensor:
    torch.set_grad_enabled(False)
    h = self.a(x)
    torch.set_grad_enabled(True)
    return self.b(h)


def autocast(self: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = self.b(self.a(x))
    return h.float()


def no_autocast(self: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return self.b(self.a(x))


def detached(self: Any, x: Tensor) -> Tensor:
    return self.b(torch.tanh(self.a(x)).detach())


def running_mean(self: Any, x: Tensor) -> Tensor:
    h = self.a(x)
    self.mean.lerp_(h.detach().mean(0), 0.1)
    return self.b(h - self.mean)


def part_of_a_buffer(self: Any, x: Tensor) -> Tensor:
    self.mean[:3].fill_(1)
    return self.b(self.a(x) - self.mean)


def by_out(self: Any, x: Tensor) -> Tensor:
    torch.add(self.mean, 1, out=self.mean)
    return self.b(self.a(x))


def of_a_submodule(self: Any, x: Tensor) -> Tensor:
    self.norm.num_batches_tracked.add_(1)
    return self.b(self.a(x))


def past_the_attribute(self: Any, x: Tensor) -> Tensor:
    self._buffers["mean"].add_(1)
    return self.b(self.a(x))


def clipped(self: Any, x: Tensor) -> Tensor:
    self.a.weight.data.clamp_(-0.1, 0.1)
    return self.b(self.a(x))


def normalized(self: Any, x: Tensor) -> Tensor:
    self.a.weight.data = F.normalize(self.a.weight.data)
    return self.b(self.a(x))


def kept(self: Any, x: Tensor) -> Tensor:
    self.h = self.a(x)
    return self.b(self.h)


def counted(self: Any, x: Tensor) -> Tensor:
    self.calls += 1
    return self.b(self.a(x))


def collected(self: Any, x: Tensor) -> Tensor:
    self.seen.append(self.a(x))
    return self.b(self.seen[-1])


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (no_grad, r"calculates without gradients; freeze layers by requires_grad_\(False\), at .*marks\.py, line \d+"),
        (inference, "calculates without gradients"),
        (no_grad_by_function, "calculates without gradients"),
        (torch.no_grad()(detached), "calculates without gradients"),
        (autocast, r"enters torch\.autocast, .*, at .*marks\.py, line \d+"),
        (no_autocast, r"enters torch\.autocast"),
        (detached, "detaches what the layers before give"),
        (running_mean, r"writes to 'mean' in place, .* at .*marks\.py, line \d+"),
        (part_of_a_buffer, "writes to 'mean' in place"),
        (by_out, "writes to 'mean' in place"),
        (of_a_submodule, r"writes to 'norm\.num_batches_tracked' in place"),
        (past_the_attribute, "changes its attribute 'mean'"),
        (clipped, r"writes to 'a\.weight' in place"),
        (normalized, "assigns to the data of a tensor"),
        (kept, "changes its attribute 'h'"),
        (counted, "changes its attribute 'calls'"),
        (collected, "changes its attribute 'seen'"),
    ],
)
def test_what_a_chain_would_leave_out_is_refused(forward: Forward, reason: str) -> None:
    module = network(forward)
    before = state(module)
    with pytest.raises(NotAChainError, match=f"^module: Own cannot be converted: .*{reason}"):
        fastalign.convert(module, rule="bp")
    assert state(module) == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("forward", [no_grad, autocast, detached, running_mean, kept])
@pytest.mark.parametrize("rule", ["bp", "dfa"])
def test_within_a_submodule_it_stays(rule: str, forward: Forward) -> None:
    """The submodule is one block, with torch's output, gradients and buffers."""
    module = nn.Sequential(nn.Linear(12, 12), nn.Tanh(), network(forward), nn.Tanh(), nn.Linear(5, 3))
    plain = copy.deepcopy(module)
    net = fastalign.convert(module, rule, (12,))
    x, y = torch.randn(8, 12), torch.arange(8) % 3
    for its in (plain, net):
        F.cross_entropy(its(x), y).backward()
    torch.testing.assert_close(net(x), plain(x))
    torch.testing.assert_close(list(module.buffers()), list(plain.buffers()))
    gradients = zip(module[2].parameters(), plain[2].parameters(), strict=True)
    if rule == "bp":
        for found, expected in gradients:
            torch.testing.assert_close(found.grad, expected.grad)
    else:
        assert all((found.grad is None) == (expected.grad is None) for found, expected in gradients)


def test_what_writes_to_tensors_of_its_own_is_still_opened() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        scale = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
        scale.mul_(2)
        h = self.a(x).mul_(2)
        return self.b(h - h.detach().mean()) * scale - self.mean[: scale.shape[0]] * self.mean.shape[0]

    module, x = network(forward), torch.randn(4, 12)
    net = fastalign.convert(module, rule="bp")
    torch.testing.assert_close(net(x), module(x))
    assert len(net.layer_rules) == 2


# What cannot be traced: where, and what to do


def asserts(self: Any, x: Tensor) -> Tensor:
    assert x.shape[1] == 12
    return self.b(self.a(x))


def asks_for_a_device(self: Any, x: Tensor) -> Tensor:
    if x.is_cuda:
        x = x.half()
    return self.b(self.a(x))


def assigns_elements(self: Any, x: Tensor) -> Tensor:
    h = self.a(x)
    h[:, 0] = 0
    return self.b(h)


def a_dictionary(self: Any, x: Tensor) -> dict[str, Tensor]:
    return {"out": self.b(self.a(x))}


def two_inputs(self: Any, x: Tensor, mask: Tensor) -> Tensor:
    return self.b(self.a(x) * mask)


def calls_what_is_not_there(self: Any, x: Tensor) -> Tensor:
    return self.b(self.c(x))


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (asserts, r"decides by its input, whose values, shape and device are not known"),
        (asks_for_a_device, r"decides by its input, whose values, shape and device are not known"),
        (assigns_elements, r"assigns to elements of a tensor"),
        (a_dictionary, r"returns one tensor, got dict.*wrap it in a module whose forward takes one tensor"),
        (two_inputs, r"one input, got \(x.*, mask.*\).*wrap it in a module whose forward takes one tensor"),
        (calls_what_is_not_there, r"cannot be traced \(.*has no attribute 'c'\)"),
    ],
)
def test_an_error_of_tracing_names_the_place_and_what_to_do(forward: Forward, reason: str) -> None:
    first = forward.__code__.co_firstlineno
    with pytest.raises(NotAChainError, match=reason) as refused:
        fastalign.convert(network(forward), rule="bp")
    told = str(refused.value)
    assert any(f"at {__file__}, line {line};" in told for line in (first, first + 1, first + 2))
    assert "move that part into a module of its own, which stays whole" in told
