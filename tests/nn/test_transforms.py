"""Transforms of torch.func, forward-mode derivatives, replicas and shards: torch's numbers under BP, else an error."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, stack_module_state, vmap

import fastalign
import fastalign.nn as nn
from fastalign import ops

OTHERS = ["fa", "dfa", "ifa", "drtp", "pepita"]
X = torch.rand(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
Y = torch.tensor([0, 3, 1, 1, 2, 0])
REFUSED = r"a rule's updates come from backward\(\), .* or set rule='bp'"


def network(rule: str, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Linear(8, 7), nn.Tanh(), torch.nn.Sequential(nn.Linear(7, 6, activation="tanh")), nn.Linear(6, 4)]
    return nn.Sequential(*layers, rule=rule).double()


def plain_of(net: nn.Sequential) -> torch.nn.Sequential:
    return torch.nn.Sequential(*copy.deepcopy(list(net)))


def loss_of(net: torch.nn.Module, parameters: Any, x: Tensor = X, y: Tensor = Y) -> Tensor:
    return F.cross_entropy(functional_call(net, parameters, (x,)), y)


def detached(net: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in net.named_parameters()}


def ensemble(net: torch.nn.Module) -> Any:
    """torch's own recipe: the gradients of three members, by one backward pass."""
    members = [copy.deepcopy(net) for _ in range(3)]
    for i, member in enumerate(members):
        with torch.no_grad():
            for p in member.parameters():
                p.mul_(i + 1)
    parameters, buffers = stack_module_state(members)
    base = copy.deepcopy(net).to("meta")
    outputs = vmap(lambda p, b: functional_call(base, (p, b), (X,)))(parameters, buffers)
    F.cross_entropy(outputs.flatten(0, 1), Y.repeat(3)).backward()
    return {name: p.grad for name, p in parameters.items()}


def of_samples(net: torch.nn.Module) -> Any:
    def loss(p: Any, x: Tensor, y: Tensor) -> Tensor:
        return loss_of(net, p, x[None], y[None])

    return vmap(grad(loss), (None, 0, 0))(detached(net), X, Y)


def dual(net: torch.nn.Module) -> Any:
    """Forward-mode without torch.func: of the parameters."""
    with forward_ad.dual_level():
        parameters = {name: forward_ad.make_dual(p, torch.ones_like(p)) for name, p in detached(net).items()}
        return forward_ad.unpack_dual(functional_call(net, parameters, (X,))).tangent


TRANSFORMS: dict[str, Callable[[torch.nn.Module], Any]] = {
    "vmap over parameters": ensemble,
    "vmap over samples": lambda net: vmap(lambda x: net(x[None])[0])(X),
    "grad": lambda net: grad(lambda p: loss_of(net, p))(detached(net)),
    "gradients of samples": of_samples,
    "jacrev": lambda net: jacrev(net)(X),
    "jacfwd": lambda net: jacfwd(net)(X),
    "jvp of parameters": lambda net: jvp(
        lambda p: functional_call(net, p, (X,)), (detached(net),), ({n: p + 1 for n, p in detached(net).items()},)
    ),
    "jvp of the input": lambda net: jvp(net, (X,), (X.flip(0),)),
    "dual numbers": dual,
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_under_bp(transform: str) -> None:
    """Without a warning that a derivative was lost."""
    net = network("bp")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        torch.testing.assert_close(TRANSFORMS[transform](net), TRANSFORMS[transform](plain_of(net)))


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("rule", OTHERS)
def test_transforms_under_other_rules(rule: str, transform: str) -> None:
    with pytest.raises(RuntimeError, match=REFUSED):
        TRANSFORMS[transform](network(rule))


@pytest.mark.parametrize("rule", ["bp", *OTHERS])
def test_inference_under_transforms(rule: str) -> None:
    """Without grad, every network has the outputs of its modules, and their forward-mode derivatives."""
    net = network(rule)
    plain = plain_of(net)
    members = torch.stack([X, X + 1, -X])
    with torch.no_grad():
        torch.testing.assert_close(vmap(net)(members), vmap(plain)(members))
        torch.testing.assert_close(jvp(net, (X,), (X + 1,)), jvp(plain, (X,), (X + 1,)))


@pytest.mark.parametrize("rule", ["bp", *OTHERS])
def test_a_batch_of_output_gradients(rule: str) -> None:
    net = network(rule)
    output = net(X, Y)
    rows = torch.eye(4, dtype=X.dtype).unsqueeze(1).expand(4, 6, 4)

    def backward(gradient: Tensor) -> Any:
        return torch.autograd.grad(output, list(net.parameters()), gradient, retain_graph=True)

    for batched in (
        lambda: torch.autograd.grad(output, list(net.parameters()), rows, is_grads_batched=True, retain_graph=True),
        lambda: vmap(backward)(rows),
    ):
        if rule == "bp":
            torch.testing.assert_close(batched(), tuple(map(torch.stack, zip(*map(backward, rows), strict=True))))
        else:
            with pytest.raises(RuntimeError, match=rf"{rule.upper()}\(.*takes one gradient of the output at a time"):
                batched()


def test_a_network_with_backpropagation_on_request() -> None:
    net = network("dfa")
    plain = plain_of(net)
    torch.testing.assert_close(jacrev(net.with_backpropagation)(X), jacrev(plain)(X))
    torch.testing.assert_close(jvp(net.with_backpropagation, (X,), (X,)), jvp(plain, (X,), (X,)))


@pytest.mark.parametrize("rule", ["bp", "dfa"])
def test_a_training_step_takes_no_duals(rule: str) -> None:
    """Recorded or not."""
    net = network(rule)
    step = fastalign.TrainStep(net, loss="cross_entropy", optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
    for _ in range(3):
        before = [p.detach().clone() for p in net.parameters()]
        with pytest.raises(RuntimeError, match=r"x: a training step has .* no forward-mode derivative"):
            jvp(lambda x: step.step(x, Y), (X,), (X,))
        with forward_ad.dual_level(), pytest.raises(RuntimeError, match="no forward-mode derivative"):
            step.step(forward_ad.make_dual(X, X), Y)
        assert all(map(torch.equal, net.parameters(), before))
        step.step(X, Y)


# The public functions


def test_forward_mode_of_the_modulated_input() -> None:
    error, projection = torch.rand(6, 3, dtype=X.dtype), torch.rand(8, 3, dtype=X.dtype)

    def plain(x: Tensor, e: Tensor, f: Tensor) -> Tensor:
        return x - 0.5 * e @ f.T

    arguments = X, error, projection
    found = jvp(lambda x, e, f: ops.modulate_input(x, e, f, sign=-0.5), arguments, arguments)
    torch.testing.assert_close(found, jvp(plain, arguments, arguments))
    torch.testing.assert_close(
        jacfwd(lambda e: ops.modulate_input(X, e, projection))(error), jacfwd(lambda e: X + e @ projection.T)(error)
    )
    images = X[:, :8].reshape(6, 2, 2, 2)
    with forward_ad.dual_level():
        modulated = ops.modulate_input(forward_ad.make_dual(images, images + 1), error, projection)
        torch.testing.assert_close(forward_ad.unpack_dual(modulated).tangent, images + 1)


H, E, B = torch.rand(6, 7), torch.rand(6, 3), torch.rand(7, 3)
MAPS, K = torch.rand(2, 3, 4, 4), torch.rand(2, 2, 6, 6)
OPS: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "dfa_projection": (ops.dfa_projection, (E, B, H)),
    "dfa_linear_update": (ops.dfa_linear_update, (E, B, H, torch.rand(6, 5))),
    "dfa_conv2d_update": (
        lambda e, b, a, x: ops.dfa_conv2d_update(e, b, a, x, 3),
        (torch.rand(2, 3), torch.rand(48, 3), MAPS, K),
    ),
    "pepita_linear_update": (ops.pepita_linear_update, (H, H + 1, torch.rand(6, 5))),
    "pepita_conv2d_update": (lambda h, m, x: ops.pepita_conv2d_update(h, m, x, 3), (MAPS, MAPS + 1, K)),
}


@pytest.mark.parametrize("name", OPS)
def test_forward_mode_of_updates_is_refused(name: str) -> None:
    """Whichever argument carries the tangent."""
    op, arguments = OPS[name]
    op(*arguments)
    for i, tensor in enumerate(arguments):

        def of_one(value: Tensor, i: int = i) -> Any:
            return op(*arguments[:i], value, *arguments[i + 1 :])

        with pytest.raises(RuntimeError, match=f"{name}: .* has no derivative; take its primal"):
            jvp(of_one, (tensor,), (tensor,))
        with forward_ad.dual_level():
            of_one(tensor)
            with pytest.raises(RuntimeError, match=f"{name}: .* dual tensor of forward-mode"):
                of_one(forward_ad.make_dual(tensor, tensor))


# Replicas, shards and offloaded weights


def replica_of(module: torch.nn.Module) -> Any:
    """As torch.nn.parallel.replicate makes one on each device."""
    found = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        assert child is not None
        found._modules[name] = replica_of(child)
    for name, value in (*module._parameters.items(), *module._buffers.items()):
        if value is not None:
            setattr(found, name, value.view_as(value))
    return found


@pytest.mark.parametrize("rule", ["bp", *OTHERS])
def test_replicas_of_data_parallel(rule: str) -> None:
    net = network(rule)
    net(X, Y)
    with torch.no_grad():
        torch.testing.assert_close(replica_of(net)(X), net(X))
    if rule != "bp":
        with pytest.raises(RuntimeError, match=r"nn.DataParallel .* use DistributedDataParallel"):
            replica_of(net)(X, Y)
        return
    plain = plain_of(net)
    F.cross_entropy(replica_of(net)(X), Y).backward()
    F.cross_entropy(plain(X), Y).backward()
    torch.testing.assert_close([p.grad for p in net.parameters()], [p.grad for p in plain.parameters()])


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    store: Path = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def gradients(module: torch.nn.Module) -> list[Tensor]:
    found = [p.grad for p in module.parameters() if p.grad is not None]
    return [getattr(g, "_local_tensor", g) for g in found]


@pytest.mark.parametrize("rule", ["bp", *OTHERS])
def test_layers_that_are_sharded_one_by_one(rule: str, mesh: Any) -> None:
    net = network(rule)
    plain = plain_of(net)
    for layer in (net[0], net[2][0], net[3], net):  # type: ignore[index]
        fully_shard(layer, mesh=mesh)
    if rule != "bp":
        with pytest.raises(RuntimeError, match=r"its parameters are sharded; shard the whole network in one"):
            net(X, Y)
    else:
        F.cross_entropy(net(X), Y).backward()
        F.cross_entropy(plain(X), Y).backward()
        torch.testing.assert_close(gradients(net), gradients(plain))
    with torch.no_grad():
        torch.testing.assert_close(net(X), plain(X))


@pytest.mark.parametrize("rule", ["bp", *OTHERS])
def test_a_network_that_is_sharded_in_one(rule: str, mesh: Any) -> None:
    net = network(rule)
    expected = copy.deepcopy(net)
    fully_shard(net, mesh=mesh)
    F.cross_entropy(net(X, Y), Y).backward()
    F.cross_entropy(expected(X, Y), Y).backward()
    torch.testing.assert_close(gradients(net), gradients(expected))


@pytest.mark.parametrize("rule", ["bp", "dfa", "pepita"])
def test_fully_sharded_data_parallel(rule: str, mesh: Any) -> None:
    """The first kind, whose layers have views of one flat parameter in the place of theirs."""
    net = network(rule)
    plain = plain_of(net)
    wrapped = FullyShardedDataParallel(net, device_id=torch.device("cpu"))
    if rule != "bp":
        with pytest.raises(RuntimeError, match=r"Linear\(.*If a wrapper brings it .* \(FSDP1\), shard the whole"):
            wrapped(X)
        return
    F.cross_entropy(wrapped(X), Y).backward()
    F.cross_entropy(plain(X), Y).backward()
    (flat,) = gradients(wrapped)
    torch.testing.assert_close(flat, torch.cat([g.flatten() for g in gradients(plain)]))


def offload(net: nn.Sequential) -> None:
    """As accelerate.cpu_offload does: weights come in a patched forward, and go with it."""
    for layer in net.modules():
        if isinstance(layer, torch.nn.Linear):
            weights = {name: p.detach().clone() for name, p in layer.named_parameters()}
            own = layer.forward

            def forward(x: Tensor, layer: Any = layer, weights: Any = weights, own: Any = own) -> Tensor:
                for name, value in weights.items():
                    layer._parameters[name] = torch.nn.Parameter(value)
                output: Tensor = own(x)
                for name, value in weights.items():
                    layer._parameters[name] = torch.nn.Parameter(value.to("meta"))
                return output

            vars(layer)["forward"] = forward
            layer.to("meta")


@pytest.mark.parametrize("rule", ["bp", *OTHERS])
def test_offloaded_weights(rule: str) -> None:
    net = network(rule)
    plain = plain_of(net)
    offload(net)
    if rule == "bp":
        torch.testing.assert_close(net(X), plain(X))
    else:
        with pytest.raises(RuntimeError, match=r"its parameters are offloaded .* keep them in memory to train it"):
            net(X, Y)
    with torch.no_grad():
        torch.testing.assert_close(net(X), plain(X))
