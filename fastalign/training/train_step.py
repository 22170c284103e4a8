"""A whole training step in one call: standard pass, error, rule and optimizer, without autograd."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastalign.nn import Sequential
from fastalign.nn.passes import as_pass
from fastalign.nn.shapes import as_matrix
from fastalign.ops.autocast import autocasts
from fastalign.ops.schemas import kernels
from fastalign.rules import Update
from fastalign.training.losses import REDUCTIONS, Loss, loss_and_gradient
from fastalign.training.replay import Program, record

_MOST_REPLAYS = 8


@dataclass(frozen=True)
class _Replay:
    """A recorded step, which returns loss, outputs, and the gradients of these parameters."""

    program: Program
    parameters: list[Tensor]


def _is_plain_sgd(optimizer: torch.optim.Optimizer) -> bool:
    """Whether its step is V ← μV + G + λW, W ← W − ηV and nothing else."""
    watched = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return (
        type(optimizer) is torch.optim.SGD
        and not watched
        and all(
            not group["nesterov"] and not group["maximize"] and group["dampening"] == 0
            for group in optimizer.param_groups
        )
    )


class TrainStep:
    """Trains a network by one call per batch: the numbers of the plain loop, with less work around them.

    With plain SGD (momentum, weight decay) the rule's updates go into the momentum as they are formed, ΔW riding on
    the matrix product: V ← μV + ΔW + λW, W ← W − ηV, and no gradient is stored. Any other optimizer gets `.grad` and
    its own `step()`. The state lives in the optimizer, so that checkpoints, learning-rate schedules and a change to
    the plain loop and back work in mid-training. Hooks on parameters are not called: there is no backward pass.

    Where nothing but the numbers changes from step to step (layers, activations and dropout of this library, a loss by
    name), the kernels that a step calls are recorded and then replayed without the Python around them. Whatever else
    changes, a learning rate, a mode, the size of a batch, is noticed.

    Args:
        network: with a rule.
        loss: the name of one in `fastalign.training.losses`, or a callable (outputs, labels) → scalar.
        optimizer: over the network's parameters.
        reduction: of a loss by name over the batch, "mean" or "sum".

    Raises:
        ValueError: for an unknown loss or reduction, or a network without a rule.
    """

    def __init__(
        self, network: Sequential, *, loss: str | Loss, optimizer: torch.optim.Optimizer, reduction: str = "mean"
    ) -> None:
        if network.rule is None:
            raise ValueError("network: expected one with a rule (set_rule), got None")
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction: expected one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        self.network = network
        self.optimizer = optimizer
        self.outputs: Tensor | None = None
        """The network's output for the last batch."""
        self._loss_is_known = isinstance(loss, str)
        self._loss = loss_and_gradient(loss, reduction)
        self._replays: dict[object, _Replay | None] = {}
        self._last_signature: object = None

    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """Train on one batch: x (N, ...), y the labels that the loss takes. Returns the loss, a 0-d tensor.

        Raises:
            ValueError: as the network's forward.
        """
        signature = self._signature(x, y) if self._loss_is_known else None
        replay = self._replays.get(signature)
        if replay is not None:
            loss, self.outputs, *gradients = replay.program(x, y)
            self._finish(replay.parameters, gradients)
            return loss
        # Once may be once: a learning rate that changes with every step is not worth a recording.
        again = signature is not None and signature == self._last_signature and signature not in self._replays
        self._last_signature = signature
        return self._record(signature, x, y) if again else self._step(x, y)

    def _signature(self, x: Tensor, y: Tensor) -> object:
        """What decides which kernels a step calls; None where it cannot be told."""
        network = self.network.signature(x.shape[0]) if x.dim() else None
        if network is None or autocasts(x.device):
            return None
        fuses_sgd = _is_plain_sgd(self.optimizer)
        found: list[object] = [*network, fuses_sgd]
        for tensor in (x, y):
            found += (tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if fuses_sgd:
            state = self.optimizer.state
            for group in self.optimizer.param_groups:
                found += (group["lr"], group["momentum"], group["weight_decay"])
                for parameter in group["params"]:
                    velocity = state[parameter].get("momentum_buffer") if parameter in state else None
                    found += (id(parameter), None if velocity is None else velocity.data_ptr())
        return tuple(found)

    def _record(self, signature: object, x: Tensor, y: Tensor) -> Tensor:
        """A step like any other, which leaves its replay behind."""
        states = (value for state in self.optimizer.state.values() for value in state.values())
        lasting = (*self.network.parameters(), *self.network.buffers(), *(v for v in states if isinstance(v, Tensor)))
        parameters: list[Tensor] = []

        def calculate(x: Tensor, y: Tensor) -> list[Tensor]:
            loss, outputs, gradients = self._calculate(x, y)
            parameters.extend(gradients)
            return [loss, outputs, *gradients.values()]

        (loss, self.outputs, *gradients), program = record(calculate, (x, y), lasting)
        if self._signature(x, y) != signature:  # the step made a momentum, which a replay would not keep
            program = None
        if len(self._replays) == _MOST_REPLAYS:
            self._replays.clear()
        self._replays[signature] = None if program is None else _Replay(program, parameters)
        self._finish(parameters, gradients)
        return loss

    def _step(self, x: Tensor, y: Tensor) -> Tensor:
        loss, self.outputs, gradients = self._calculate(x, y)
        self._finish(list(gradients), list(gradients.values()))
        return loss

    def _calculate(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, dict[Tensor, Tensor]]:
        """Loss, outputs and the gradients that are left to the optimizer."""
        run = self.network.new_step(x, y if any(r.needs_target for r in self.network.layer_rules) else None)
        outputs = run.forward(x)
        loss, gradient = self._loss(outputs, y)
        kept = tuple(run.release())
        # The parts of a weight that stands in several layers must come together before it moves.
        if not _is_plain_sgd(self.optimizer) or run.shares_parameters:
            return loss, outputs, {p: g for p, g in run.gradients(kept, gradient).items() if p.requires_grad}
        self._apply_as_sgd(run.updates(kept, gradient))
        return loss, outputs, {}

    def _finish(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """The optimizer's own step if gradients are left to it, else what its users look for after one."""
        if not gradients and _is_plain_sgd(self.optimizer):
            self.optimizer._opt_called = True  # type: ignore[attr-defined]  # as schedulers of learning rates ask
            # Kernels of our own write unseen by autograd, which must notice weights that change before a backward pass.
            torch.autograd.graph.increment_version(
                [p for group in self.optimizer.param_groups for p in group["params"]]
            )
            return
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _apply_as_sgd(self, updates: Iterator[Update]) -> None:
        sgd = _PlainSGD(self.optimizer)
        waiting: list[Update] = []
        for update in updates:
            # NOTE: a layer's weights may still carry the signal of the next layer, so its updates wait for that one's.
            if waiting and waiting[0].layer is not update.layer:
                sgd.apply(waiting)
                waiting = []
            waiting.append(update)
        sgd.apply(waiting)


class _PlainSGD:
    """SGD with momentum and weight decay as a sink of updates, on the state of torch's optimizer.

    V ← μV + ΔW + λW, W ← W − ηV: each part of ΔW adds itself to V, the first one decaying it on the way.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._state = optimizer.state
        self._groups = {p: group for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
        self._velocities: dict[Tensor, Tensor] = {}

    def apply(self, updates: Sequence[Update]) -> None:
        """All updates of one layer."""
        if len(updates) == 1 and self._apply_fused(updates[0]):
            return
        for layer, post, pre, scale, with_bias in updates:
            for parameter, gradient in as_pass(layer).gradients(post, pre, scale, with_bias).items():
                if parameter in self._groups:
                    velocity, decay = self._velocity(parameter)
                    velocity.mul_(decay).add_(gradient)
        for parameter, velocity in self._velocities.items():
            group = self._groups[parameter]
            if group["weight_decay"] != 0:
                velocity.add_(parameter, alpha=group["weight_decay"])
            parameter.add_(velocity, alpha=-group["lr"])
        self._velocities = {}

    def _apply_fused(self, update: Update) -> bool:
        """The update of a linear layer and nothing else, in one kernel; False where it is not that."""
        run = as_pass(update.layer)
        if not run.is_linear or run.has_local_gradients or not update.with_bias:
            return False
        weight, bias = run.native.weight, run.native.bias
        group = self._groups.get(weight)
        if group is None or update.pre.dtype != weight.dtype or not weight.is_contiguous():
            return False
        if bias is not None and self._groups.get(bias) is not group:
            return False
        kernels.linear_sgd_step_(
            weight,
            bias,
            self._stored_velocity(weight, group),
            None if bias is None else self._stored_velocity(bias, group),
            as_matrix(update.post),
            as_matrix(update.pre),
            update.scale,
            group["momentum"],
            group["weight_decay"],
            group["lr"],
        )
        return True

    def _velocity(self, parameter: Tensor) -> tuple[Tensor, float]:
        """V and the factor that the next part to be added to it decays it by."""
        if parameter in self._velocities:
            return self._velocities[parameter], 1.0
        group = self._groups[parameter]
        self._velocities[parameter] = self._stored_velocity(parameter, group)
        return self._velocities[parameter], group["momentum"]

    def _stored_velocity(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """The momentum buffer of torch's optimizer, made where it is not there; scratch memory without momentum."""
        if group["momentum"] == 0:
            return torch.zeros_like(parameter)
        state = self._state[parameter]
        velocity = state.get("momentum_buffer")
        if velocity is None:
            velocity = state["momentum_buffer"] = torch.zeros_like(parameter)
        return velocity
