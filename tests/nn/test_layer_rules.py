"""A rule for each layer; blocks and other modules between layers; against autograd on each stage by itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input
from torch.nn.utils import parametrizations, prune

import fastalign
import fastalign.nn as nn
from fastalign import rules

CLASSES = 4
X = torch.rand(6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
X3 = torch.rand(6, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
IMAGES = torch.rand(6, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
TARGET = torch.tensor([0, 3, 1, 1, 2, 0])
Stage = list[torch.nn.Module]


class Residual(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Squared(torch.nn.BatchNorm1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).square()


class Rectified(torch.nn.AvgPool2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


class Padded(torch.nn.ZeroPad2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).exp()


class Scaled(torch.nn.Flatten):
    def forward(self, input: Tensor) -> Tensor:
        flat = super().forward(input)
        return flat * flat


def patched() -> torch.nn.Module:
    """Average pooling whose forward the instance has otherwise."""
    module = nn.AdaptiveAvgPool2d(2)
    vars(module)["forward"] = lambda x: F.adaptive_avg_pool2d(x.square(), 2)
    return module


def residual(width: int) -> Residual:
    return Residual(torch.nn.Sequential(nn.Linear(width, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, width)))


def stage_wise(stages: Sequence[Stage], net: nn.Sequential, x: Tensor, target: Tensor) -> list[Tensor | None]:
    """The gradients of copies of the stages: autograd within each, the rule's signal at the output of each.

    BP: the gradient at the input of the stage above. FA: its δ times B. DFA: e Bᵀ. DRTP: y* Bᵀ / N.
    """
    stages = copy.deepcopy(list(stages))
    inputs: list[Tensor] = []
    preactivations: list[Tensor] = []
    outputs: list[Tensor] = []
    h = x
    for layer, *rest in stages:
        inputs.append(h.detach().requires_grad_(h.is_floating_point()))
        h = layer(inputs[-1])
        h.retain_grad()
        preactivations.append(h)
        for module in rest:
            h = module(h)
        outputs.append(h)
    one_hot = F.one_hot(target, CLASSES).double()
    F.cross_entropy(outputs[-1], target).backward()
    error = preactivations[-1].grad
    assert error is not None
    for i in reversed(range(len(stages) - 1)):
        matrix = net.feedback[i]
        match net.layer_rules[i].name:
            case "fa" if matrix is not None:
                above = preactivations[i + 1].grad
                assert above is not None
                if matrix.dim() == 2:
                    signal = above @ matrix
                else:
                    convolution = stages[i + 1][0]
                    assert isinstance(convolution, torch.nn.Conv2d)
                    signal = conv2d_input(
                        inputs[i + 1].shape,
                        matrix,
                        above,
                        convolution.stride,
                        convolution.padding,
                    )
            case "dfa":
                assert matrix is not None
                signal = (error.flatten(1) @ matrix.T).reshape(outputs[i].shape)
            case "drtp":
                assert matrix is not None
                signal = (one_hot @ matrix.T / len(x)).reshape(outputs[i].shape)
            case _:
                below = inputs[i + 1].grad
                assert below is not None
                signal = below
        outputs[i].backward(signal)
    return [p.grad for stage in stages for module in stage for p in module.parameters()]


def check(stages: Sequence[Stage], rule: str | list[str], x: Tensor, target: Tensor = TARGET) -> nn.Sequential:
    modules = [module.double() for stage in stages for module in stage]
    net = nn.Sequential(*modules, rule=rule, input_shape=x.shape[1:])
    for i, matrix in enumerate(net.feedback):
        if matrix is not None and net.layer_rules[i].name == "fa":
            matrix.add_(torch.rand_like(matrix))  # FA's matrices begin as the weights
    expected = stage_wise(stages, net, x, target)
    F.cross_entropy(net(x, target), target).backward()
    torch.testing.assert_close([p.grad for p in net.parameters()], expected)
    assert all(gradient is not None and gradient.any() for gradient in expected)
    return net


def dense() -> list[Stage]:
    torch.manual_seed(0)
    return [
        [nn.Linear(8, 7), nn.Tanh()],
        [nn.Linear(7, 6), nn.ReLU()],
        [nn.Linear(6, 7), nn.LayerNorm(7), nn.Tanh()],
        [nn.Linear(7, 6), nn.Sigmoid()],
        [nn.Linear(6, CLASSES)],
    ]


def with_blocks() -> list[Stage]:
    torch.manual_seed(0)
    return [
        [nn.Block(torch.nn.Sequential(nn.Linear(8, 7), nn.BatchNorm1d(7))), nn.Tanh()],
        [residual(7)],
        [nn.Linear(7, 6), nn.BatchNorm1d(6), nn.Tanh()],
        [nn.Block(residual(6))],
        [nn.Block(nn.Linear(6, CLASSES))],
    ]


def convolutional() -> list[Stage]:
    torch.manual_seed(0)
    return [
        [nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(3, 2)],
        [nn.Conv2d(3, 4, 2), nn.Tanh(), nn.AvgPool2d(2, 1)],
        [Residual(nn.Conv2d(4, 4, 3, padding=1)), nn.ReLU(), nn.Flatten()],
        [nn.Linear(4, 6), nn.ELU()],
        [nn.Linear(6, CLASSES)],
    ]


RULES: list[str | list[str]] = [
    "bp",
    "fa",
    "dfa",
    "drtp",
    ["dfa", "bp", "fa", "drtp", "bp"],
    ["bp", "drtp", "bp", "dfa", "bp"],
    ["fa", "dfa", "drtp", "fa", "dfa"],
    ["drtp", "fa", "dfa", "bp", "drtp"],
    ["bp", "bp", "fa", "drtp", "fa"],
]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize(
    ("stages", "x"),
    [(dense, X), (with_blocks, X), (convolutional, IMAGES)],
    ids=["dense", "blocks", "conv"],
)
def test_each_layer_by_its_rule(stages: Callable[[], list[Stage]], x: Tensor, rule: str | list[str]) -> None:
    """The δ of the layer above is chained on, whichever rule made it."""
    check(stages(), rule, x)


@pytest.mark.parametrize("rule", ["bp", "fa", "dfa"])
def test_three_dimensional_inputs(rule: str) -> None:
    """With input_shape=(T, K) a linear layer acts at each of T places, and has T·H units."""
    torch.manual_seed(0)
    stages: list[Stage] = [[nn.Linear(8, 5), nn.Tanh()], [nn.Linear(5, 6), nn.ReLU()], [nn.Linear(6, 2), nn.Tanh()]]
    stages = [*stages, [nn.Block(torch.nn.Sequential(nn.Flatten(), nn.Linear(6, CLASSES)))]]
    net = check(stages, rule, X3)
    if rule == "dfa":
        assert [m.shape for m in net.feedback if m is not None] == [(15, 4), (18, 4), (6, 4)]


def test_rules_of_layers_by_argument() -> None:
    """A layer's own rule holds whatever the network's; a list gives every one."""
    layers = [
        nn.Linear(8, 7, activation="tanh", rule="dfa"),
        nn.Linear(7, 6, activation="tanh"),
        nn.Block(nn.Linear(6, 6), rule=rules.DRTP()),
        nn.Linear(6, CLASSES),
    ]
    net = nn.Sequential(*layers, rule="fa")
    assert [rule.name for rule in net.layer_rules] == ["dfa", "fa", "drtp", "fa"]
    assert "rule=DFA(" in repr(net[0])
    net.set_rule(["bp", rules.DFA(feedback="he-uniform"), "bp", "bp"])
    assert [rule.name for rule in net.layer_rules] == ["bp", "dfa", "bp", "bp"]


def test_rules_of_the_whole_network_do_not_mix() -> None:
    layers = [nn.Linear(8, 7), nn.Linear(7, 6), nn.Linear(6, CLASSES)]
    for name in ("pepita", "ifa"):
        for mixed in ([name, "bp", "bp"], ["dfa", "dfa", name]):
            with pytest.raises(ValueError, match=rf"rule: {name.upper()}\(.*cannot be the rule of single layers"):
                nn.Sequential(*layers, rule=mixed)
        with pytest.raises(ValueError, match="cannot be the rule of single layers"):
            nn.Sequential(nn.Linear(8, 7, rule=name), nn.Linear(7, CLASSES), rule="bp")
        nn.Sequential(*layers, rule=[name] * 3)


def test_networks_that_a_rule_cannot_train() -> None:
    convolution: Stage = [nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(108, CLASSES)]
    with pytest.raises(ValueError, match=r"rule: IFA .* expected linear layers, got Conv2d"):
        nn.Sequential(*convolution, rule="ifa", input_shape=(2, 8, 8))
    with pytest.raises(ValueError, match=r"rule: PEPITA .* which Block hides inside; expected Linear and Conv2d"):
        nn.Sequential(nn.Linear(8, 7), nn.Block(residual(7)), nn.Linear(7, CLASSES), rule="pepita")
    with pytest.raises(ValueError, match=r"rule: PEPITA .* which Residual hides inside"):
        nn.Sequential(nn.Linear(8, 7), residual(7), nn.Linear(7, CLASSES), rule="pepita")
    with pytest.raises(ValueError, match="rule: PEPITA defines no update for the weights of LayerNorm"):
        nn.Sequential(nn.Linear(8, 7), nn.LayerNorm(7), nn.Linear(7, CLASSES), rule="pepita")


class Quiet(torch.nn.BatchNorm1d):
    def forward(self, input: Tensor) -> Tensor:
        return input * 2


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.BatchNorm1d(7), r"BatchNorm1d in training mode takes its statistics from the batch"),
        (nn.Sequential(nn.Sequential(nn.BatchNorm1d(7)), nn.ReLU()), r"BatchNorm1d in training mode"),
        (nn.SyncBatchNorm(7), r"SyncBatchNorm in training mode"),
        (nn.AlphaDropout(0.5), r"AlphaDropout draws anew in the modulated pass"),
        (nn.RReLU(), r"RReLU draws anew in the modulated pass"),
    ],
)
def test_what_pepita_cannot_pass_twice_is_refused_with_the_rule(module: torch.nn.Module, reason: str) -> None:
    """And at a step, if it came into training mode since; after the output layer everything may stand."""
    layers = [nn.Linear(8, 7), module, nn.Linear(7, CLASSES)]
    with pytest.raises(ValueError, match=f"rule: PEPITA cannot train this network: {reason}"):
        nn.Sequential(*layers, rule="pepita")
    with pytest.raises(ValueError, match=f"rule: PEPITA cannot train this network: {reason}"):
        fastalign.convert(torch.nn.Sequential(*layers), "pepita", (8,))
    module.eval()
    net = nn.Sequential(*layers, rule="pepita").double()
    F.cross_entropy(net(X), TARGET).backward()
    with pytest.raises(RuntimeError, match=f"PEPITA: {reason}"):
        net.train()(X)
    net = nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 7), module.float(), rule="pepita").double()
    F.cross_entropy(net.train()(X), TARGET).backward()


def test_a_subclass_is_asked_at_a_step() -> None:
    """Its forward may do without what its parent does in training mode."""
    net = nn.Sequential(nn.Linear(8, 7), Quiet(7), nn.Linear(7, CLASSES), rule="pepita").double()
    with pytest.raises(RuntimeError, match="PEPITA: Quiet in training mode"):
        net(X)
    F.cross_entropy(net.eval()(X), TARGET).backward()


@pytest.mark.parametrize(
    ("stages", "x"),
    [
        ([[nn.Linear(8, 7), nn.BatchNorm1d(7).eval(), nn.ReLU()], [nn.Linear(7, CLASSES)]], X),
        ([[nn.Linear(8, 6), nn.LayerNorm(6, elementwise_affine=False), nn.Tanh()], [nn.Linear(6, CLASSES)]], X),
        ([[nn.Linear(8, 6), nn.ReLU6(inplace=True), nn.Hardtanh(0.1, 0.4, inplace=True)], [nn.Linear(6, CLASSES)]], X),
        ([[nn.Conv2d(2, 3, 3), nn.AvgPool2d(3, 2, 1), nn.Tanh(), nn.Flatten()], [nn.Linear(27, CLASSES)]], IMAGES),
        (
            [
                [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3).eval(), nn.ReLU(), nn.ZeroPad2d(1), nn.MaxPool2d(2)],
                [nn.Conv2d(3, 4, 2), nn.AdaptiveAvgPool2d(2), nn.Hardtanh(), nn.Flatten()],
                [nn.Linear(16, CLASSES)],
            ],
            IMAGES,
        ),
        ([[nn.Linear(8, 5), nn.ReLU6()], [nn.Linear(5, 2), nn.Flatten()], [nn.Linear(6, CLASSES)]], X3),
        ([[nn.Linear(8, 7), Squared(7).eval()], [nn.Linear(7, CLASSES)]], X),
        ([[nn.Conv2d(2, 3, 3), Rectified(3, 2, 1), nn.Flatten()], [nn.Linear(27, CLASSES)]], IMAGES),
        ([[nn.Conv2d(2, 3, 3), patched(), Padded(1), Scaled()], [nn.Linear(48, CLASSES)]], IMAGES),
    ],
    ids=["batch norm", "layer norm", "in place", "average pooling", "conv", "3-D", "squared", "rectified", "others"],
)
def test_pepita_through_other_modules(stages: list[Stage], x: Tensor) -> None:
    """Differences pass through whatever is between the layers as two passes would.

    The activity is what an activation that follows the layer directly gives, else a_l.
    """
    stages = copy.deepcopy(stages)
    torch.manual_seed(0)
    for stage in stages:
        for module in stage:
            module.double()
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.requires_grad_(False)
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.uniform_()
                module.running_var.uniform_(0.5, 1)
    net = nn.Sequential(
        *(m for s in stages for m in s), rule=rules.PEPITA(projection_scale=1.0), input_shape=x.shape[1:]
    )
    F.cross_entropy(net(x), TARGET).backward()
    assert net.projection is not None

    def run(h: Tensor) -> list[tuple[Tensor, Tensor]]:
        found = []
        for layer, *rest in stages:
            found.append((h, layer(h)))
            h = found[-1][1]
            for module in rest:
                h = module(h.clone())
                if module is rest[0] and isinstance(module, torch.nn.ReLU6):
                    found[-1] = (found[-1][0], h)
        return found

    with torch.no_grad():
        standard = run(x)
        error = torch.softmax(standard[-1][1], 1) - F.one_hot(TARGET, CLASSES)
        modulated = run(x + (error @ net.projection.T).reshape(x.shape))
    for (layer, *_), (_, h), (pre, h_mod) in zip(stages, standard, modulated, strict=True):
        post = error if layer is stages[-1][0] else h - h_mod
        positions = h.shape[2:].numel() if isinstance(layer, torch.nn.Conv2d) else 1
        copied = copy.deepcopy(layer)
        copied.zero_grad()
        copied(pre).backward(post / (len(x) * positions))
        found, expected = ([p.grad for p in of.parameters()] for of in (layer, copied))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-13)


def test_pepita_behind_a_first_module_that_only_seems_to_flatten() -> None:
    """F is multiplied by W_1 only where what lies between them is linear."""
    torch.manual_seed(0)
    layers = [Scaled(), nn.Linear(24, 7, bias=False), nn.Tanh(), nn.Linear(7, CLASSES)]
    net = nn.Sequential(*layers, rule=rules.PEPITA(projection_scale=1.0), input_shape=(3, 8)).double()
    assert net.projection is not None
    F.cross_entropy(net(X3), TARGET).backward()
    weight = net.get_parameter("1.weight")
    with torch.no_grad():
        error = torch.nn.Sequential(*net)(X3).softmax(1) - F.one_hot(TARGET, CLASSES)
        x, modulated = (h.flatten(1).square() for h in (X3, X3 + (error @ net.projection.T).reshape(X3.shape)))
        difference = torch.tanh(x @ weight.T) - torch.tanh(modulated @ weight.T)
    torch.testing.assert_close(weight.grad, difference.T @ modulated / len(X3), rtol=1e-9, atol=1e-13)


def test_a_network_within_a_network() -> None:
    """One with a rule of its own is a block, which must define a gradient of its input where a layer below asks."""

    def inner(rule: str | None) -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 8), rule=rule).double()

    for rule in ("bp", "fa", "dfa", "drtp"):
        check([[nn.Linear(8, 8), nn.Tanh()], [nn.Block(inner("bp"))], [nn.Linear(8, CLASSES)]], rule, X)
    net = nn.Sequential(nn.Linear(8, 8), nn.Block(inner("dfa")), nn.Linear(8, CLASSES), rule="bp").double()
    with pytest.raises(RuntimeError, match="input: it requires grad, but DFA"):
        net(X)
    net.set_rule(["dfa", "dfa", "bp"])
    F.cross_entropy(net(X), TARGET).backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


class Watched(torch.nn.Module):
    """Notes its name when a signal arrives at its input."""

    def __init__(self, name: str, seen: list[str]) -> None:
        super().__init__()
        self.name, self.seen = name, seen

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        if x.requires_grad:
            x.register_hook(lambda _: self.seen.append(self.name))
        return x


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("bp", ["third", "second"]), ("dfa", []), (["dfa", "fa", "bp"], ["third"]), (["bp", "drtp", "dfa"], ["second"])],
    ids=str,
)
def test_blocks_send_no_signal_that_nobody_asks_for(rule: str | list[str], expected: list[str]) -> None:
    seen: list[str] = []
    blocks = [nn.Block(torch.nn.Sequential(Watched(name, seen), nn.Linear(8, 8))) for name in ("first", "second")]
    last = nn.Block(torch.nn.Sequential(Watched("third", seen), nn.Linear(8, CLASSES)))
    net = nn.Sequential(*blocks, last, rule=rule, input_shape=(8,)).double()
    F.cross_entropy(net(X, TARGET), TARGET).backward()
    assert seen == expected
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


class Attention(torch.nn.Module):
    """A module that a chain takes as a block, though nobody said so."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize("rule", ["bp", "fa", "dfa", "drtp"])
def test_any_module_with_matrices_is_a_block(rule: str) -> None:
    torch.manual_seed(0)
    check([[Attention()], [nn.Conv1d(3, 3, 3), nn.Flatten()], [nn.Linear(18, CLASSES)]], rule, X3)


@pytest.mark.parametrize("rule", ["bp", "fa", "dfa", "drtp"])
def test_an_embedding_is_a_block(rule: str) -> None:
    """Its input is integers, which have no gradient."""
    torch.manual_seed(0)
    tokens = torch.randint(10, (6, 3))
    check([[nn.Embedding(10, 4), nn.Flatten()], [nn.Linear(12, 6), nn.Tanh()], [nn.Linear(6, CLASSES)]], rule, tokens)


@pytest.mark.parametrize("rule", ["bp", "fa", "dfa"])
def test_weights_that_are_computed_learn(rule: str) -> None:
    """Pruned or reparametrised layers learn through what computes their weight."""
    torch.manual_seed(0)
    pruned = prune.random_unstructured(nn.Linear(8, 7), "weight", 0.5)
    normed = parametrizations.weight_norm(nn.Linear(7, 6))
    stages: list[Stage] = [[pruned, nn.Tanh()], [normed, nn.Tanh()], [nn.Linear(6, CLASSES)]]
    for stage in stages:
        for module in stage:
            module.double()
    net = check_in_place(stages, rule)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = net(X)
    optimizer.step()
    assert not torch.allclose(net(X), before)


def check_in_place(stages: list[Stage], rule: str) -> nn.Sequential:
    """As `check`, for modules that cannot be copied."""
    net = nn.Sequential(*(module for stage in stages for module in stage), rule=rule)
    F.cross_entropy(net(X), TARGET).backward()
    found = [p.grad for p in net.parameters()]
    assert all(gradient is not None and gradient.any() for gradient in found)
    if rule == "bp":
        net.zero_grad()
        F.cross_entropy(torch.nn.Sequential(*net)(X), TARGET).backward()
        torch.testing.assert_close(found, [p.grad for p in net.parameters()])
    return net


@pytest.mark.parametrize("rule", ["bp", "fa", "dfa"])
def test_modules_that_return_no_tensor_are_named(rule: str) -> None:
    with pytest.raises(TypeError, match="LSTM: expected a module that returns one tensor, got tuple"):
        nn.Sequential(nn.LSTM(8, 5, batch_first=True), nn.Linear(5, CLASSES), rule=rule, input_shape=(3, 8))(X3.float())


def test_a_subclass_that_computes_something_else_is_a_block() -> None:
    class Doubled(torch.nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    torch.manual_seed(0)
    for rule in ("bp", "dfa"):
        check([[Doubled(8, 7), nn.Tanh()], [nn.Linear(7, CLASSES)]], rule, X)
    with pytest.raises(ValueError, match=r"rule: IFA .* expected linear layers, got Doubled"):
        nn.Sequential(Doubled(8, 7), nn.Linear(7, CLASSES), rule="ifa")
