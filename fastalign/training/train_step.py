"""A whole training step in one call: standard pass, error, rule and optimizer, without autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fastalign.nn import Sequential
from fastalign.nn.passes import as_pass
from fastalign.nn.shapes import as_matrix
from fastalign.ops.autocast import autocasts
from fastalign.ops.schemas import kernels
from fastalign.rules import Update

Loss = Callable[[Tensor, Tensor], Tensor]


def _cross_entropy(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean softmax cross-entropy and its gradient (softmax(a_L) − y) / N, by autograd's own kernels."""
    # Autocast widens a cross-entropy.
    logits = outputs.float() if outputs.itemsize < 4 and autocasts(outputs.device) else outputs
    log_probabilities = torch.log_softmax(logits, 1)
    mean, ignored = 1, -100
    loss, weight = torch.ops.aten.nll_loss_forward(log_probabilities, labels, None, mean, ignored)
    one = torch.ones_like(loss)
    gradient = torch.ops.aten.nll_loss_backward(one, log_probabilities, labels, None, mean, ignored, weight)
    gradient = torch.ops.aten._log_softmax_backward_data(gradient, log_probabilities, 1, logits.dtype)
    return loss, gradient.to(outputs.dtype)


def _differentiated(loss: Loss) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Any loss, with its gradient by autograd."""

    def loss_and_gradient(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = outputs.detach().requires_grad_()
            value = loss(leaf, labels)
            (gradient,) = torch.autograd.grad(value, leaf)
        return value.detach(), gradient

    return loss_and_gradient


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

    Args:
        network: with a rule.
        loss: "cross_entropy" (mean over the batch), or a callable (outputs, labels) → scalar.
        optimizer: over the network's parameters.

    Raises:
        ValueError: for an unknown loss, or a network without a rule.
    """

    def __init__(self, network: Sequential, *, loss: str | Loss, optimizer: torch.optim.Optimizer) -> None:
        if network.rule is None:
            raise ValueError("network: expected one with a rule (set_rule), got None")
        if isinstance(loss, str) and loss != "cross_entropy":
            raise ValueError(f"loss: expected 'cross_entropy' or a callable, got {loss!r}")
        self.network = network
        self.optimizer = optimizer
        self._loss = _cross_entropy if isinstance(loss, str) else _differentiated(loss)

    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """Train on one batch: x (N, ...), y the labels that the loss takes. Returns the loss, a 0-d tensor.

        Raises:
            ValueError: as the network's forward.
        """
        run = self.network.new_step(x, y if any(r.needs_target for r in self.network.layer_rules) else None)
        loss, gradient = self._loss(run.forward(x), y)
        updates = run.updates(tuple(run.release()), gradient)
        # The parts of a weight that stands in several layers must come together before it moves.
        if _is_plain_sgd(self.optimizer) and not run.shares_parameters:
            self._apply_as_sgd(updates)
        else:
            self._store_gradients(updates)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss

    def _store_gradients(self, updates: Iterator[Update]) -> None:
        for layer, post, pre, scale, with_bias in updates:
            for parameter, gradient in as_pass(layer).gradients(post, pre, scale, with_bias).items():
                if parameter.requires_grad:
                    gradient = gradient.to(parameter.dtype)
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)

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
        self.optimizer._opt_called = True  # type: ignore[attr-defined]  # as its own step tells learning-rate schedulers


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
        # A kernel of our own writes unseen by autograd, which must notice weights that change before a backward pass.
        torch.autograd.graph.increment_version(weight if bias is None else (weight, bias))
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
