"""`fastalign.convert`: existing networks keep their weights and outputs, and learn by a rule."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastalign
from fastalign import rules
from fastalign.nn import Block, Sequential


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(20, 32)
        self.fc2 = nn.Linear(32, 32)
        self.fc3 = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc1(x))
        x = torch.tanh(self.fc2(x))
        return self.fc3(x)


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 2 * 2, 40)
        self.fc2 = nn.Linear(40, 4)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.size(0)
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(batch, -1)
        x = F.dropout(F.relu(self.fc1(x)), 0.2, training=self.training)
        return self.fc2(x)


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        h += self.downsample(x)
        return self.relu(h)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(BasicBlock(8, 8, 1), BasicBlock(8, 16, 2))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.avgpool(self.layer1(x))
        return self.fc(torch.flatten(x, 1))


NETWORKS: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (MLP, (20,)),
    (LeNet, (1, 18, 18)),
    (ResNet, (3, 12, 12)),
]
networks = pytest.mark.parametrize(("make", "shape"), NETWORKS, ids=[make.__name__ for make, _ in NETWORKS])


def patterns(shape: tuple[int, ...], samples: int = 32) -> tuple[Tensor, Tensor]:
    """Noisy copies of four patterns, and which."""
    y = torch.arange(samples) % 4
    return torch.randn(4, *shape)[y] + 0.5 * torch.randn(samples, *shape), y


def losses(net: nn.Module, shape: tuple[int, ...], optimizer: torch.optim.Optimizer, steps: int = 40) -> list[float]:
    """The training loss at each step."""
    x, y = patterns(shape)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def names(net: nn.Module) -> list[str]:
    """The names of the modules without children, in order."""
    return [name for name, module in net.named_modules(remove_duplicate=False) if not list(module.children())]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class TestSameNetwork:
    @networks
    def test_outputs_are_the_module_s(self, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
        module = make()
        net = fastalign.convert(module, "bp", shape)
        assert isinstance(net, Sequential)
        x = torch.randn(5, *shape)
        for mode in (False,) if make is LeNet else (True, False):  # each draws its own dropout
            torch.testing.assert_close(net.train(mode)(x), module.train(mode)(x))

    @networks
    def test_parameters_are_the_same_objects_by_the_same_names(
        self, make: Callable[[], nn.Module], shape: tuple[int, ...]
    ) -> None:
        module = make()
        net = fastalign.convert(module, "dfa", shape)
        theirs, ours = dict(module.named_parameters()), dict(net.named_parameters())
        assert ours.keys() == theirs.keys()
        assert all(ours[name] is theirs[name] for name in theirs)
        checkpoint = make().state_dict()
        net.load_state_dict(checkpoint)
        assert all(torch.equal(net.state_dict()[name], value) for name, value in checkpoint.items())

    @networks
    def test_under_bp_gradients_are_autograd_s(self, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
        module = make().double()
        if make is LeNet:
            module.eval()
        x, y = torch.randn(6, *shape, dtype=torch.float64), torch.arange(6) % 4
        F.cross_entropy(module(x), y).backward()
        expected = {name: p.grad for name, p in module.named_parameters()}
        module.zero_grad()
        F.cross_entropy(fastalign.convert(module, "bp", shape)(x), y).backward()
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(parameter.grad, expected[name], msg=name)

    @networks
    @pytest.mark.parametrize("rule", ["bp", "fa", "dfa"])
    def test_it_learns(self, make: Callable[[], nn.Module], shape: tuple[int, ...], rule: str) -> None:
        net = fastalign.convert(make(), rule, shape)
        loss = losses(net, shape, torch.optim.Adam(net.parameters(), lr=0.01))
        assert loss[-1] < loss[0] / 4

    def test_lenet_under_pepita_is_the_network_written_by_hand(self) -> None:
        module = LeNet()
        net = fastalign.convert(module, "pepita", (1, 18, 18))
        c1, c2, l1, l2 = copy.deepcopy(list(module.children()))
        by_hand = Sequential(
            *(c1, nn.ReLU(), nn.MaxPool2d(2), c2, nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), l1, nn.ReLU(), nn.Dropout(0.2), l2),
            rule="pepita",
            input_shape=(1, 18, 18),
        )
        assert net.projection is not None
        assert by_hand.projection is not None
        by_hand.projection.copy_(net.projection)
        x, y = patterns((1, 18, 18))
        for network in (net, by_hand):
            torch.manual_seed(1)
            F.cross_entropy(network(x), y).backward()
        for ours, theirs in zip(net.parameters(), by_hand.parameters(), strict=True):
            assert ours.grad is not None
            assert ours.grad.any()
            assert theirs.grad is not None
            assert torch.equal(ours.grad, theirs.grad)
        loss = losses(net, (1, 18, 18), torch.optim.SGD(net.parameters(), lr=0.4), steps=200)
        assert loss[-1] < 0.8 * loss[0]

    @networks
    def test_it_is_pickled_and_copied(self, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
        net = fastalign.convert(make(), "dfa", shape).eval()
        x = torch.randn(2, *shape)
        assert torch.equal(pickle.loads(pickle.dumps(net))(x), net(x))
        assert torch.equal(copy.deepcopy(net)(x), net(x))

    @networks
    def test_the_module_stays_as_it_was(self, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
        module = make().eval()
        attributes, state = dict(vars(module)), copy.deepcopy(module.state_dict())
        assert not fastalign.convert(module, "dfa", shape).training
        assert vars(module) == attributes
        assert all(torch.equal(module.state_dict()[name], value) for name, value in state.items())
        assert not any(child.training for child in module.modules())


class TestPieces:
    def test_functions_become_modules(self) -> None:
        net = fastalign.convert(LeNet(), "bp")
        kinds = [type(child).__name__ for child in net]
        expected = "Conv2d ReLU MaxPool2d Conv2d ReLU MaxPool2d Flatten Linear ReLU Dropout Linear"
        assert kinds == expected.split()
        assert net[9].p == 0.2

    @pytest.mark.parametrize(
        "function",
        [
            F.relu,
            lambda x: x.sigmoid(),
            lambda x: F.leaky_relu(x, 0.3),
            lambda x: F.elu(x, alpha=0.5),
            lambda x: F.softplus(x, 2.0),
            lambda x: F.gelu(x, approximate="tanh"),
            lambda x: F.avg_pool2d(x, 3, 1, padding=1, count_include_pad=False),
            lambda x: F.max_pool2d(x, 3, stride=2, padding=1),
            lambda x: F.adaptive_avg_pool2d(x, (2, 3)),
            lambda x: x.flatten(2),
            lambda x: torch.flatten(x, start_dim=1, end_dim=2),
            lambda x: torch.flatten(x, end_dim=1),
            lambda x: F.log_softmax(x, dim=1),
            lambda x: x.view(-1, 4 * 6 * 6),
            lambda x: x.reshape((x.shape[0], 2, 72)),
            lambda x: x.reshape(x.size()[0], -1),
        ],
    )
    def test_each_function_does_what_it_did(self, function: Callable[[Tensor], Tensor]) -> None:
        class Network(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 3, padding=1)

            def forward(self, x: Tensor) -> Tensor:
                return function(self.conv(x))

        module = Network()
        net = fastalign.convert(module, "bp")
        assert not isinstance(net[-1], torch.fx.GraphModule)
        x = torch.randn(2, 3, 6, 6)
        torch.testing.assert_close(net(x), module(x))

    def test_a_residual_block_stays_whole(self) -> None:
        module = ResNet()
        net = fastalign.convert(module, "dfa", (3, 12, 12))
        assert net.get_submodule("layer1.0") is module.layer1[0]
        assert len(net.feedback) == 3  # the stem and two blocks

    def test_a_branch_in_the_network_itself_is_one_block(self) -> None:
        class Network(MLP):
            def forward(self, x: Tensor) -> Tensor:
                h = torch.tanh(self.fc1(x))
                h = h + F.relu(self.fc2(h))
                return self.fc3(h)

        module = Network()
        net = fastalign.convert(module, "dfa")
        assert [name for name, _ in net.named_children()] == ["fc1", "tanh", "add", "fc3"]
        assert net.get_submodule("add.fc2") is module.fc2
        x = torch.randn(3, 20)
        torch.testing.assert_close(net(x), module(x))
        assert torch.equal(pickle.loads(pickle.dumps(net))(x), net(x))
        loss = losses(net, (20,), torch.optim.Adam(net.parameters(), lr=0.01))
        assert loss[-1] < loss[0] / 4

    def test_dropout_in_a_branch_follows_the_mode(self) -> None:
        class Network(MLP):
            def forward(self, x: Tensor) -> Tensor:
                h = torch.tanh(self.fc1(x))
                return self.fc3(h + F.dropout(self.fc2(h), training=self.training))

        module = Network()
        net = fastalign.convert(module, "bp")
        x = torch.randn(3, 20)
        assert not torch.equal(net(x), net(x))
        torch.testing.assert_close(net.eval()(x), module.eval()(x))

    def test_chains_inside_are_opened(self) -> None:
        class Features(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(1, 3, 3)
                self.act = nn.ReLU()

            def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
                x = self.act(self.conv(x))
                return x if mask is None else x * mask

        module = nn.Sequential(nn.Sequential(Features(), nn.Flatten()), nn.Linear(48, 4))
        net = fastalign.convert(module, "dfa", (1, 6, 6))
        assert names(net) == ["0.0.conv", "0.0.act", "0.1", "1"]
        assert len(net.feedback) == 1
        x = torch.randn(2, 1, 6, 6)
        torch.testing.assert_close(net(x), module(x))

    def test_a_custom_layer_stays_whole(self) -> None:
        class Scaled(nn.Linear):
            def forward(self, input: Tensor) -> Tensor:
                return 2 * F.linear(input, self.weight, self.bias)

        module = nn.Sequential(Scaled(5, 6), nn.Tanh(), Block(nn.Linear(6, 6)), nn.Linear(6, 2))
        net = fastalign.convert(module, "dfa", (5,))
        assert list(net) == list(module)

    def test_a_module_list_with_one_activation_for_all(self) -> None:
        class Network(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layers = nn.ModuleList([nn.Linear(20, 20) for _ in range(3)])
                self.act = nn.Tanh()
                self.head = nn.Linear(20, 4)

            def forward(self, x: Tensor) -> Tensor:
                for layer in self.layers:
                    x = self.act(layer(x))
                return self.head(x)

        module = Network()
        net = fastalign.convert(module, "bp")
        assert net.state_dict().keys() == module.state_dict().keys()
        assert names(net) == ["layers.0", "layers.act", "layers.1", "layers.act_1", "layers.2", "act", "head"]
        x = torch.randn(3, 20)
        torch.testing.assert_close(net(x), module(x))

    def test_module_lists_in_turns_get_names_of_their_own(self) -> None:
        class Network(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layers = nn.ModuleList([nn.Linear(20, 20), nn.Linear(20, 20)])
                self.norms = nn.ModuleList([nn.LayerNorm(20), nn.LayerNorm(20)])
                self.projection = nn.Linear(20, 4)

            def forward(self, x: Tensor) -> Tensor:
                for layer, norm in zip(self.layers, self.norms, strict=True):
                    x = F.relu(norm(layer(x)))
                return self.projection(x)

        module = Network()
        net = fastalign.convert(module, "dfa")
        expected = ["layers_0", "norms_0", "relu", "layers_1", "norms_1", "relu_1", "projection_"]
        assert [name for name, _ in net.named_children()] == expected
        x = torch.randn(3, 20)
        torch.testing.assert_close(net.eval()(x), module.eval()(x))

    def test_a_batch_size_is_not_taken_over_a_change_of_batch(self) -> None:
        class Network(MLP):
            def forward(self, x: Tensor) -> Tensor:
                batch = x.size(0)
                h = torch.tanh(self.fc1(x.view(-1, 20)))
                return self.fc3(self.fc2(h).view(batch, -1)[:, :32])

        module = Network()
        net = fastalign.convert(module, "bp")
        x = torch.randn(3, 5, 20)
        torch.testing.assert_close(net(x), module(x))

    def test_in_place_writes_reach_nothing_else(self) -> None:
        class Network(MLP):
            def forward(self, x: Tensor) -> Tensor:
                h = self.fc1(x)
                h.mul_(2.0)
                h = self.fc2(F.relu(h, inplace=True))
                h.clamp_(max=0.1)
                return self.fc3(h)

        module = Network()
        x = torch.randn(3, 20)
        expected = module(x)
        expected.sum().backward()
        gradient = module.fc1.weight.grad
        module.zero_grad()
        net = fastalign.convert(module, "bp")
        torch.testing.assert_close(net(x), expected)
        net(x).sum().backward()
        torch.testing.assert_close(module.fc1.weight.grad, gradient)

    def test_a_block_that_begins_in_place(self) -> None:
        class PreActivation(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.relu = nn.ReLU(inplace=True)
                self.fc = nn.Linear(6, 6)

            def forward(self, x: Tensor) -> Tensor:
                h = self.relu(x)
                return h + self.fc(h)

        first = nn.Linear(5, 6)
        module = nn.Sequential(first, PreActivation(), nn.Linear(6, 2))
        x = torch.randn(3, 5)
        module(x).square().sum().backward()
        expected = first.weight.grad
        module.zero_grad()
        fastalign.convert(module, "bp")(x).square().sum().backward()
        torch.testing.assert_close(first.weight.grad, expected)

    def test_pepita_compares_with_what_an_in_place_module_received(self) -> None:
        layers = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        x = 4 * torch.randn(8, 5)
        gradients = []
        for inplace in (False, True):
            torch.manual_seed(0)
            first, second, last = copy.deepcopy(layers)
            chain = first, nn.Hardtanh(inplace=inplace), second, nn.Hardtanh(inplace=inplace), last
            net = fastalign.convert(nn.Sequential(*chain), rules.PEPITA(projection_scale=2.0))
            loss = F.cross_entropy(net(x), torch.arange(8) % 2)
            loss.backward(retain_graph=True)
            loss.backward()
            gradients.append([parameter.grad for parameter in net.parameters()])
        torch.testing.assert_close(gradients[1], gradients[0])

    def test_one_of_several_values(self) -> None:
        class Network(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc1 = nn.Linear(20, 6)
                self.lstm = nn.LSTM(6, 7, batch_first=True)
                self.fc2 = nn.Linear(7, 4)

            def forward(self, x: Tensor) -> Tensor:
                h, _ = self.lstm(torch.tanh(self.fc1(x)))
                return self.fc2(h[:, -1])

        module = Network()
        net = fastalign.convert(module, "dfa", (3, 20))
        assert len(net.feedback) == 2
        x = torch.randn(2, 3, 20)
        torch.testing.assert_close(net(x), module(x))
        F.cross_entropy(net(x), torch.tensor([0, 1])).backward()
        assert all(parameter.grad is not None for parameter in module.parameters())

    def test_a_network_of_this_library_gets_another_rule(self) -> None:
        first = Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2), rule="dfa")
        second = fastalign.convert(first, "fa")
        assert list(second) == list(first)
        assert second.feedback[0] is not None
        assert second.feedback[0].shape == (2, 6)


class TestRefusals:
    def refused(self, forward: Callable[..., object], reason: str) -> None:
        class Network(MLP):
            pass

        Network.forward = forward  # type: ignore[assignment, method-assign]
        module = Network()
        attributes = dict(vars(module))
        with pytest.raises(ValueError, match=f"^module: .*{reason}.*nn.Sequential.*nn.Block"):
            fastalign.convert(module, "bp")
        assert vars(module) == attributes

    def test_control_flow(self) -> None:
        self.refused(lambda self, x: self.fc1(x) if x.sum() > 0 else self.fc2(x), "cannot be traced.*control flow")

    def test_several_inputs(self) -> None:
        self.refused(lambda self, x, y: self.fc1(x) + y, r"one input, got \(x, y\)")

    def test_several_outputs(self) -> None:
        self.refused(lambda self, x: (x, self.fc1(x)), "returns one tensor, got tuple")

    def test_shared_weights(self) -> None:
        self.refused(lambda self, x: self.fc2(torch.tanh(self.fc2(x))), "Network uses weights twice, in 'fc2', 'fc2'")

    def test_no_place_to_cut(self) -> None:
        self.refused(
            lambda self, x: self.fc2(F.relu(self.fc1(x))) + x.sum(), "all weights of Network are in one block, 'add'"
        )

    def test_a_forward_that_depends_on_the_mode(self) -> None:
        self.refused(
            lambda self, x: self.fc1(x) if self.training else self.fc1(2 * x), "training and one in evaluation"
        )

    def test_a_forward_that_draws_numbers(self) -> None:
        self.refused(lambda self, x: self.fc1(x + torch.randn(20)), "differs between two calls")

    def test_dropout_that_ignores_the_mode(self) -> None:
        self.refused(lambda self, x: self.fc1(F.dropout(x)), "drops in evaluation too")

    def test_hooks(self) -> None:
        module = MLP()
        module.register_forward_hook(lambda *_: None)
        with pytest.raises(ValueError, match=r"^module: MLP has hooks"):
            fastalign.convert(module, "bp")
        outer = nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2))
        outer[0].register_forward_pre_hook(lambda *_: None)
        with pytest.raises(ValueError, match=r"^module: Sequential '0' has hooks"):
            fastalign.convert(outer, "bp")

    def test_no_module(self) -> None:
        with pytest.raises(TypeError, match=r"^module: expected a torch.nn.Module, got function"):
            fastalign.convert(lambda x: x, "bp")  # type: ignore[arg-type]

    def test_convolutions_without_an_input_shape(self) -> None:
        with pytest.raises(ValueError, match=r"^input_shape: "):
            fastalign.convert(LeNet(), "dfa")


def test_importing_fastalign_does_not_import_the_tracer() -> None:
    check = "import sys, fastalign; sys.exit('fastalign.convert.tracing' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


class Encoder(nn.Module):
    """A chain of its own, which is opened unless it is to be a unit."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(20, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))))


class WithEncoder(nn.Module):
    def __init__(self, kind: type[nn.Module] = Encoder) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.stem = kind(), nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 4)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.stem(self.encoder(x))))


class Residual(Encoder):
    def __init__(self) -> None:
        super().__init__()
        self.skip = nn.Linear(20, 16)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.skip(x)


class TestUnits:
    @pytest.mark.parametrize(
        ("units", "layers"),
        [
            ((), ["Linear"] * 5),
            (["encoder"], ["Encoder", "Linear", "Linear", "Linear"]),
            ([Encoder], ["Encoder", "Linear", "Linear", "Linear"]),
            (["stem"], ["Linear", "Linear", "Block", "Linear"]),
            ([nn.Sequential, "encoder"], ["Encoder", "Block", "Linear"]),
            (["encoder.first"], ["Linear"] * 5),
        ],
    )
    @pytest.mark.parametrize("rule", ["bp", "dfa"])
    def test_a_unit_is_not_opened(self, rule: str, units: list[str | type], layers: list[str]) -> None:
        module = WithEncoder()
        expected, x = copy.deepcopy(module), torch.randn(5, 20)
        net = fastalign.convert(module, rule, (20,), units=units)
        assert [type(stage.layer).__name__ for stage in net._stages()[1:]] == layers
        torch.testing.assert_close(net(x), expected(x))
        net(x).sum().backward()
        assert all(p.grad is not None for p in net.parameters())

    def test_a_unit_may_be_given_itself(self) -> None:
        module = WithEncoder()
        net = fastalign.convert(module, "bp", units=[module.encoder, module.stem])
        assert len(net.layer_rules) == 3

    @pytest.mark.parametrize(
        ("units", "error", "told"),
        [
            (["decoder"], ValueError, "units: WithEncoder has no submodule 'decoder'"),
            ([nn.LSTM], ValueError, "units: WithEncoder has no submodule 'LSTM'"),
            ([nn.Linear(2, 2)], ValueError, "units: WithEncoder has no submodule 'Linear'"),
            (["encoder", "encoder.first"], ValueError, "units: 'encoder.first' is part of the block 'encoder'"),
            (["unused"], ValueError, "units: 'unused' is not called by the forward"),
            ("encoder", TypeError, "units: expected a list of modules, names and classes, got str"),
            ([3], TypeError, "units: expected modules, names and classes, got int"),
        ],
    )
    def test_what_is_no_unit_is_named(self, units: list[str], error: type[Exception], told: str) -> None:
        with pytest.raises(error, match=told):
            fastalign.convert(WithEncoder(), "bp", units=units)

    def test_a_block_with_most_of_the_weights_is_named_unless_it_is_asked_for(self) -> None:
        with pytest.warns(UserWarning, match=r"module: 'encoder' is one block and holds 68% of all weights.*units="):
            fastalign.convert(WithEncoder(Residual), "dfa", (20,))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fastalign.convert(WithEncoder(Residual), "dfa", (20,), units=["encoder"])
            fastalign.convert(WithEncoder(Residual), "bp")
            fastalign.convert(WithEncoder(), "dfa", (20,))

    def test_fa_through_blocks_alone_is_said_to_be_backpropagation(self) -> None:
        def network(last: nn.Module) -> nn.Module:
            return nn.Sequential(nn.Linear(16, 20), nn.Tanh(), Residual(), nn.Tanh(), last)

        with pytest.warns(
            UserWarning,
            match=r"under FA\(.* all of this network learns by backpropagation, because its units are blocks",
        ):
            fastalign.convert(network(Block(nn.Linear(16, 3))), "fa", units=[Residual])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fastalign.convert(network(nn.Linear(16, 3)), "fa", units=[Residual])
            fastalign.convert(nn.Sequential(nn.Linear(16, 3)), "fa")
