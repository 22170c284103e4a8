"""Steps with weights that share memory, losses with parameters, sparse gradients, and code that raises: as the loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import RULES
from torch import Tensor
from torch.optim import Optimizer

import fastalign.nn as nn
from fastalign import TrainStep
from fastalign.rules import BP, Layer, Rule, Step, Update
from fastalign.step.memory import share_memory
from fastalign.step.sink import OptimizerSink

CLASSES = 3
Network = nn.Sequential
Loss = Callable[[Tensor, Tensor], Tensor]
OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)


def batch(size: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, size, generator=generator), torch.randint(CLASSES, (8,), generator=generator)


def dense(rule: str | Rule = "dfa") -> Network:
    torch.manual_seed(0)
    layers = [nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, CLASSES)]
    return nn.Sequential(*layers, rule=copy.copy(RULES[rule]) if isinstance(rule, str) else rule)


def assert_as_the_loop(
    make: Callable[[], Network], optimizer: str, loss: Any, x: Any = None, y: Any = None, **settings: Any
) -> None:
    """Train twins for four steps, by the loop and by `TrainStep`, and compare all that they leave.

    loss, x and y may be functions of the network.
    """
    x, y = batch()[0] if x is None else x, batch()[1] if y is None else y
    trained = []
    for fused in (False, True):
        net = make()
        its_optimizer = OPTIMIZERS[optimizer](net.parameters())
        its_x, its_loss = x(net) if callable(x) else x, loss(net)
        step = TrainStep(net, loss=its_loss, optimizer=its_optimizer, **settings)
        function: Any = F.cross_entropy if its_loss == "cross_entropy" else its_loss
        losses = []
        for _ in range(4):
            if fused:
                losses.append(step.step(its_x, y))
            else:
                losses.append(function(net(its_x, y), y))
                losses[-1].backward()
                its_optimizer.step()
                its_optimizer.zero_grad()
        trained.append((list(net.state_dict().values()), [value.detach() for value in losses]))
    torch.testing.assert_close(trained[1], trained[0], rtol=1e-5, atol=1e-6)


# Weights that share memory


def weight(net: Network, layer: int) -> torch.nn.Parameter:
    return net.get_parameter(f"{layer}.weight")


def tied(rule: str) -> Network:
    """An autoencoder whose decoder has the encoder's weights, transposed."""
    net = dense(rule)
    weight(net, 4).data = weight(net, 2).data.t()
    return net


def overlapping(rule: str) -> Network:
    net = dense(rule)
    memory = torch.cat((weight(net, 2).data, weight(net, 4).data[4:]))
    weight(net, 2).data, weight(net, 4).data = memory[:8], memory[4:]
    return net


def bias_in_a_weight(rule: str) -> Network:
    net = dense(rule)
    net.get_parameter("2.bias").data = weight(net, 4).data[0]
    return net


def fixed_matrix_in_a_weight(rule: str) -> Network:
    net = dense(rule)
    net._buffers["feedback_0"] = weight(net, 2).data[:, :CLASSES]
    return net


def interleaved(rule: str) -> Network:
    net = dense(rule)
    memory = torch.stack((weight(net, 0).data, weight(net, 4).data), 1)
    weight(net, 0).data, weight(net, 4).data = memory[:, 0], memory[:, 1]
    return net


SHARING = [tied, overlapping, bias_in_a_weight, interleaved]


@every_optimizer
@pytest.mark.parametrize("make", SHARING)
@pytest.mark.parametrize("rule", ["bp", "fa", "dfa", "ifa", "pepita"])
def test_weights_that_share_memory(rule: str, make: Callable[[str], Network], optimizer: str) -> None:
    assert_as_the_loop(lambda: make(rule), optimizer, lambda net: "cross_entropy")


@every_optimizer
@pytest.mark.parametrize("make", [*SHARING, fixed_matrix_in_a_weight])
def test_weights_that_share_memory_in_recomputed_steps(make: Callable[[str], Network], optimizer: str) -> None:
    assert_as_the_loop(lambda: make("dfa"), optimizer, lambda net: "cross_entropy", memory="recompute")


@every_optimizer
def test_a_fixed_matrix_in_the_memory_of_a_weight(optimizer: str) -> None:
    assert_as_the_loop(lambda: fixed_matrix_in_a_weight("dfa"), optimizer, lambda net: "cross_entropy")


@every_optimizer
@pytest.mark.parametrize("loss", ["cross_entropy", F.cross_entropy], ids=["named", "callable"])
@pytest.mark.parametrize("rule", ["bp", "fa", "dfa"])
def test_an_input_in_the_memory_of_a_weight(rule: str, loss: Any, optimizer: str) -> None:
    assert_as_the_loop(lambda: dense(rule), optimizer, lambda net: loss, lambda net: weight(net, 2).detach())


def test_slices_of_one_memory_that_are_apart_step_as_they_are_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    net = dense()
    memory = torch.cat([p.data.flatten() for p in net.parameters()])
    for p, piece in zip(net.parameters(), memory.split([p.numel() for p in net.parameters()]), strict=True):
        p.data = piece.view_as(p)
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    monkeypatch.setattr(optimizer, "step", None)
    TrainStep(net, loss="cross_entropy", optimizer=optimizer).step(*batch())


def test_weights_that_come_to_share_memory_while_a_step_is_replayed() -> None:
    trained = []
    for fused in (False, True):
        net = dense("bp")
        optimizer = OPTIMIZERS["sgd"](net.parameters())
        step = TrainStep(net, loss="cross_entropy", optimizer=optimizer)
        for i in range(9):
            if i == 5:
                weight(net, 4).data = weight(net, 2).data.t()
            if fused:
                step.step(*batch())
            else:
                optimizer.zero_grad()
                F.cross_entropy(net(batch()[0]), batch()[1]).backward()
                optimizer.step()
        trained.append(list(net.state_dict().values()))
    torch.testing.assert_close(*trained, rtol=1e-5, atol=1e-6)


# Losses that depend on parameters


def penalty(net: Network) -> Loss:
    return lambda outputs, y: F.cross_entropy(outputs, y) + 0.1 * sum(p.square().sum() for p in net.parameters())


def consistency(net: Network) -> Loss:
    """A second pass of the network within its loss."""
    return lambda outputs, y: F.cross_entropy(outputs, y) + F.mse_loss(outputs, net(batch()[0].roll(1), y))


def weights_alone(net: Network) -> Loss:
    return lambda outputs, y: weight(net, 0).square().sum()


def orthogonality(net: Network) -> Loss:
    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        w = weight(net, 2)
        return F.cross_entropy(outputs, y) + (w @ w.T - torch.eye(8)).square().sum()

    return loss


@every_optimizer
@pytest.mark.parametrize("loss", [penalty, consistency, orthogonality, weights_alone])
@pytest.mark.parametrize("rule", ["bp", "dfa", "pepita"])
def test_a_loss_that_depends_on_weights(rule: str, loss: Callable[[Network], Loss], optimizer: str) -> None:
    assert_as_the_loop(lambda: dense(rule), optimizer, loss)


def test_a_loss_that_depends_on_weights_in_recomputed_steps() -> None:
    assert_as_the_loop(dense, "sgd", penalty, memory="recompute")


class Weighted(torch.nn.Module):
    """Learnable centers of classes, and a learnable weight of the loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.s = torch.nn.Parameter(torch.zeros(()))
        self.centers = torch.nn.Embedding(CLASSES, CLASSES, sparse=True)

    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        value = F.cross_entropy(outputs, y) + F.mse_loss(outputs, self.centers(y))
        return value * torch.exp(-self.s) + self.s


@pytest.mark.parametrize("own_optimizer", [False, True])
@pytest.mark.parametrize("rule", ["bp", "dfa"])
def test_a_loss_with_parameters(rule: str, own_optimizer: bool) -> None:
    """In the network's optimizer or in one of their own, which then finds their gradients."""
    trained = []
    for fused in (False, True):
        net, loss = dense(rule), Weighted()
        of_loss = torch.optim.SGD(loss.parameters(), lr=0.5)
        optimizer = torch.optim.SGD([*net.parameters(), *([] if own_optimizer else loss.parameters())], lr=0.1)
        step = TrainStep(net, loss=loss, optimizer=optimizer)
        x, y = batch()
        for _ in range(4):
            if fused:
                step.step(x, y)
            else:
                loss(net(x, y), y).backward()
                optimizer.step()
                optimizer.zero_grad()
            if own_optimizer:
                of_loss.step()
                of_loss.zero_grad()
        trained.append([*net.state_dict().values(), *loss.state_dict().values()])
    torch.testing.assert_close(*trained, rtol=1e-5, atol=1e-6)


def test_a_target_with_a_graph() -> None:
    """A teacher that learns along."""
    gradients = []
    for fused in (False, True):
        net, teacher = dense("bp"), torch.nn.Linear(8, CLASSES)
        teacher.load_state_dict(dense("bp")[6].state_dict())
        optimizer = OPTIMIZERS["sgd"](net.parameters())
        x, _ = batch()
        if fused:
            TrainStep(net, loss=F.mse_loss, optimizer=optimizer).step(x, teacher(x))
        else:
            F.mse_loss(net(x), teacher(x)).backward()
        gradients.append([p.grad for p in teacher.parameters()])
    torch.testing.assert_close(*gradients)


# Sparse gradients


def embedding(rule: str) -> Network:
    torch.manual_seed(0)
    layers = [nn.Embedding(20, 4, sparse=True), nn.Flatten(), nn.Linear(24, CLASSES)]
    return nn.Sequential(*layers, rule=rule, input_shape=(6,))


TOKENS = torch.arange(48).view(8, 6) % 20


@pytest.mark.parametrize("rule", ["bp", "fa", "dfa", "drtp"])
def test_sparse_gradients_of_an_embedding(rule: str) -> None:
    trained = []
    for fused in (False, True):
        net, (_, y) = embedding(rule), batch()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        step = TrainStep(net, loss="cross_entropy", optimizer=optimizer)
        for _ in range(4):
            if fused:
                step.step(TOKENS, y)
            else:
                F.cross_entropy(net(TOKENS, y), y).backward()
                optimizer.step()
                optimizer.zero_grad()
        trained.append(list(net.state_dict().values()))
    torch.testing.assert_close(*trained)


def test_an_optimizer_that_takes_no_sparse_gradients_says_so_before_anything_moves() -> None:
    net, (_, y) = embedding("bp"), batch()
    before = copy.deepcopy(net.state_dict())
    step = TrainStep(net, loss="cross_entropy", optimizer=torch.optim.Adam(net.parameters()))
    with pytest.raises(RuntimeError, match="Adam does not support sparse gradients, please consider SparseAdam"):
        step.step(TOKENS, y)
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("rule", ["bp", "fa", "dfa", "ifa", "drtp"])
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr], ids=str)
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_sparse_inputs(layout: torch.layout, rule: str) -> None:
    x, y = batch()
    x = x.relu()
    trained = []
    for its_x in (x, x.to_sparse(layout=layout)):
        net = dense(rule)
        step = TrainStep(net, loss="cross_entropy", optimizer=OPTIMIZERS["sgd"](net.parameters()))
        for _ in range(4):
            step.step(its_x, y)
        trained.append(list(net.state_dict().values()))
    torch.testing.assert_close(*trained)


def test_pepita_adds_to_its_input_which_must_be_dense() -> None:
    x, y = batch()
    net = dense("pepita")
    told = r"input: PEPITA adds to it, expected a dense tensor \(x\.to_dense\(\)\), got layout torch\.sparse_coo"
    with pytest.raises(ValueError, match=told):
        net(x.to_sparse())
    with pytest.raises(ValueError, match=told):
        TrainStep(net, loss="cross_entropy", optimizer=OPTIMIZERS["sgd"](net.parameters())).step(x.to_sparse(), y)


# Code that raises


class Raises(torch.autograd.Function):
    """The identity, which raises in its backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise ArithmeticError("raised below")


class Failing(torch.nn.Module):
    """A module with a layer or without, which fails on its way back once it is told to."""

    def __init__(self, with_layer: bool) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 8) if with_layer else torch.nn.Identity()
        self.fails = False

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        return Raises.apply(h) if self.fails else h


class FailingRule(BP):
    """Backpropagation that fails below the topmost hidden layer."""

    fails = False

    def updates(self, step: Step, layers: Sequence[Layer], above: Update) -> Iterator[Update]:
        for update in super().updates(step, layers, above):
            yield update
            if self.fails:
                raise ArithmeticError("raised below")


def failing_block(rule: str) -> tuple[Network, Any]:
    torch.manual_seed(0)
    module = Failing(with_layer=True)
    layers = [
        nn.Linear(8, 8),
        nn.Tanh(),
        nn.Block(module),
        nn.Tanh(),
        nn.Linear(8, 8),
        nn.Tanh(),
        nn.Linear(8, CLASSES),
    ]
    return nn.Sequential(*layers, rule=rule, input_shape=(8,)), module


def failing_link(rule: str) -> tuple[Network, Any]:
    torch.manual_seed(0)
    module = Failing(with_layer=False)
    layers = [nn.Linear(8, 8), module, nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, CLASSES)]
    return nn.Sequential(*layers, rule=rule, input_shape=(8,)), module


def failing_hook(rule: str) -> tuple[Network, Any]:
    """A hook on a tensor within torch's own module."""
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm1d(8)

    def fail(gradient: Tensor) -> Tensor:
        if vars(norm).get("fails"):
            raise ArithmeticError("raised below")
        return gradient

    def watch(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(fail)

    norm.register_forward_hook(watch)
    layers = [nn.Linear(8, 8), norm, nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, CLASSES)]
    return nn.Sequential(*layers, rule=rule, input_shape=(8,)), norm


def failing_rule(rule: str) -> tuple[Network, Any]:
    net = dense(FailingRule())
    return net, net.rule


@every_optimizer
@pytest.mark.parametrize("rule", ["bp", "fa", "dfa"])
@pytest.mark.parametrize("make", [failing_block, failing_link, failing_hook, failing_rule])
def test_a_step_that_raises_leaves_all_as_it_was(
    make: Callable[[str], tuple[Network, Any]], rule: str, optimizer: str
) -> None:
    trained = []
    for fails in (False, True):
        net, failing = make(rule)
        its_optimizer = OPTIMIZERS[optimizer](net.parameters())
        step = TrainStep(net, loss="cross_entropy", optimizer=its_optimizer)
        for i in range(6):
            if fails and i == 4:
                before = copy.deepcopy((list(net.parameters()), its_optimizer.state_dict()))
                failing.fails = True
                with pytest.raises(ArithmeticError, match="raised below"):
                    step.step(*batch())
                failing.fails = False
                now = list(net.parameters()), its_optimizer.state_dict()
                torch.testing.assert_close(now, before, rtol=0, atol=0)
            step.step(*batch())
        trained.append(list(net.parameters()))
    torch.testing.assert_close(*trained, rtol=0, atol=0)


def test_networks_of_torchs_modules_still_step_as_updates_are_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(8, 8), nn.BatchNorm1d(8), nn.PReLU(), nn.Linear(8, CLASSES)]
    net = nn.Sequential(*layers, rule="bp")
    monkeypatch.setattr(OptimizerSink, "apply_gradients", None)
    TrainStep(net, loss="cross_entropy", optimizer=OPTIMIZERS["sgd"](net.parameters())).step(*batch())


def test_memory_is_shared() -> None:
    flat = torch.zeros(10)
    assert share_memory([flat[:6], flat[5:]])
    assert not share_memory([flat[:5], flat[5:]])
    assert share_memory([flat, torch.zeros(3), flat.view(2, 5).t()])
    assert not share_memory([flat[:0], flat, torch.zeros(10)])
    assert share_memory([flat[2:4]], [flat])
    assert share_memory([flat[8:]], [torch.zeros(3), flat[:9], flat[:2]])
    assert not share_memory([torch.zeros(3)], [flat, flat[2:]])
