"""Networks on a device against the same networks on the CPU, under every rule."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable

import gpu
import pytest
import torch
import torch.nn.functional as F
from compare import Expected, assert_as_accurate
from torch import Tensor

import fastalign
from fastalign import nn, rules

RULES = ("bp", "fa", "dfa", "ifa", "drtp", "pepita")


def dense(rule: str) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(40, 64, activation="tanh"),
        nn.Linear(64, 48, activation="relu"),
        nn.Linear(48, 48, activation="tanh"),
        nn.Linear(48, 10),
        rule=rule,
        input_shape=(40,),
    )


def convolutional(rule: str) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, activation="relu"),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, activation="tanh"),
        nn.Flatten(),
        nn.Linear(12 * 6 * 6, 10),
        rule=rule,
        input_shape=(3, 16, 16),
    )


NETWORKS: dict[str, tuple[Callable[[str], nn.Sequential], tuple[int, ...]]] = {
    "dense": (dense, (40,)),
    "convolutional": (convolutional, (3, 16, 16)),
}
CASES = [(rule, name) for rule in RULES for name in NETWORKS if (rule, name) != ("ifa", "convolutional")]
cases = pytest.mark.parametrize(("rule", "name"), CASES)


def batch(name: str, samples: int = 33) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(samples, *NETWORKS[name][1], generator=generator),
        torch.randint(10, (samples,), generator=generator),
    )


def made(rule: str, name: str) -> nn.Sequential:
    torch.manual_seed(0)
    return NETWORKS[name][0](rule)


def gradients(network: nn.Sequential, x: Tensor, y: Tensor) -> list[Tensor]:
    network.zero_grad()
    F.cross_entropy(network(x, y), y).backward()
    return [parameter.grad.detach() for parameter in network.parameters() if parameter.grad is not None]


@pytest.fixture(autouse=True)
def full_precision() -> None:
    gpu.set_precision("ieee")


def run_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets networks take torch's own kernels."""
    for name, module in list(sys.modules.items()):
        if name.startswith("fastalign.") and getattr(module, "kernels", None) is torch.ops.fastalign:
            monkeypatch.setattr(module, "kernels", torch.ops.fastalign_reference)


@cases
def test_gradients(rule: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64 those of the CPU but for rounding; in float32 as accurate as by torch's kernels on the device."""
    network, (x, y) = made(rule, name), batch(name)
    exact = gradients(copy.deepcopy(network).double(), x.double(), y)
    double = gradients(copy.deepcopy(network).double().cuda(), x.double().cuda(), y.cuda())
    single = gradients(copy.deepcopy(network).cuda(), x.cuda(), y.cuda())
    run_the_reference(monkeypatch)
    plain = [gradient.cpu() for gradient in gradients(copy.deepcopy(network).cuda(), x.cuda(), y.cuda())]
    for s, d, p, e in zip(single, double, plain, exact, strict=True):
        assert_as_accurate(s.cpu(), Expected(e, p))
        assert torch.allclose(d.cpu(), e, rtol=1e-10, atol=1e-12)


@cases
def test_same_bits_at_every_run(rule: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    network, (x, y) = made(rule, name).cuda(), [tensor.cuda() for tensor in batch(name)]
    first = gradients(network, x, y)
    for _ in range(10):
        assert all(torch.equal(one, other) for one, other in zip(first, gradients(network, x, y), strict=True))


@cases
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.RMSprop])
def test_train_step_is_the_loop(rule: str, name: str, optimizer: type[torch.optim.Optimizer]) -> None:
    """Ten steps: by the plain loop on the CPU, and by TrainStep on the device."""
    settings = {"lr": 0.05, "momentum": 0.9} if optimizer is torch.optim.SGD else {"lr": 1e-3}
    network, (x, y) = made(rule, name).double(), batch(name)
    x = x.double()
    other = copy.deepcopy(network).cuda()
    loop = optimizer(network.parameters(), **settings)  # type: ignore[arg-type]
    step = fastalign.TrainStep(
        other,
        loss="cross_entropy",
        optimizer=optimizer(other.parameters(), **settings),  # type: ignore[arg-type]
    )
    for _ in range(10):
        F.cross_entropy(network(x, y), y).backward()
        loop.step()
        loop.zero_grad()
        step.step(x.cuda(), y.cuda())
    for one, another in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.allclose(one, another.cpu(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_graph_capture_of_a_training_step(rule: str) -> None:
    """A captured step, replayed, is as many steps of the loop."""
    network, (x, y) = made(rule, "dense").cuda(), [tensor.cuda() for tensor in batch("dense")]
    other = copy.deepcopy(network)

    def step_of(net: nn.Sequential) -> Callable[[], None]:
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(net(x, y), y).backward()
            optimizer.step()

        return step

    plain, captured = step_of(other), step_of(network)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            captured()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured()
    for _ in range(4):
        graph.replay()
    for _ in range(3 + 4):
        plain()
    for one, another in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.allclose(one, another, rtol=1e-5, atol=1e-6)


def test_dropout_draws_by_the_generator_of_the_device() -> None:
    def outputs() -> Tensor:
        torch.cuda.manual_seed(3)
        return network(x, y)

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(40, 500), nn.Tanh(), nn.Dropout(0.5), nn.Linear(500, 10), rule=rules.DFA()).cuda()
    x, y = (tensor.cuda() for tensor in batch("dense"))
    first = outputs()
    assert torch.equal(first, outputs())
    assert not torch.equal(first, network(x, y))


@pytest.mark.parametrize("rule", ["dfa", "pepita"])
def test_autocast(rule: str) -> None:
    network, (x, y) = made(rule, "dense").cuda(), [tensor.cuda() for tensor in batch("dense")]
    exact = gradients(network, x, y)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        half = gradients(network, x, y)
    for one, other in zip(half, exact, strict=True):
        assert one.dtype == torch.float32
        assert F.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.98
