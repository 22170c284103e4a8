"""Torch's optimizers as the kernels take them: which step a group makes, its numbers, its state in torch's forms."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim import optimizer as torch_optimizer

from fastalign.ops.descent import Descent, Settings

STATE_NAMES = {
    Descent.SGD: (),
    Descent.MOMENTUM: ("momentum_buffer",),
    Descent.NESTEROV: ("momentum_buffer",),
    Descent.RMSPROP: ("square_avg",),
    Descent.ADAM: ("exp_avg", "exp_avg_sq"),
    Descent.ADAMW: ("exp_avg", "exp_avg_sq"),
}
"""Torch's names of a parameter's state, in the kernels' order."""
_COUNTING = (Descent.RMSPROP, Descent.ADAM, Descent.ADAMW)
_OPTIONS = (
    *("lr", "weight_decay", "momentum", "dampening", "nesterov", "alpha", "betas", "eps", "centered", "amsgrad"),
    *("decoupled_weight_decay", "maximize", "differentiable", "capturable", "fused"),
)


def options_of(group: dict[str, Any]) -> tuple[object, ...]:
    """All that torch's optimizers have in a parameter group but the parameters."""
    return tuple(map(group.get, _OPTIONS))


def hooks_of(optimizer: Optimizer) -> tuple[dict[int, Any], ...]:
    """Those that are called before or after its steps."""
    return (
        optimizer._optimizer_step_pre_hooks,
        optimizer._optimizer_step_post_hooks,
        torch_optimizer._global_optimizer_pre_hooks,
        torch_optimizer._global_optimizer_post_hooks,
    )


def has_hooks(optimizer: Optimizer) -> bool:
    """Whether somebody is called before or after its steps."""
    return any(hooks_of(optimizer))


def descents_of(optimizer: Optimizer) -> list[Descent] | None:
    """The step that kernels can make on each parameter group in the optimizer's place; None if it must be its own."""
    if type(optimizer) not in (SGD, RMSprop, Adam, AdamW) or has_hooks(optimizer):
        return None
    found = [_descent_of(optimizer, group) for group in optimizer.param_groups]
    return None if None in found else [descent for descent in found if descent is not None]


def _descent_of(optimizer: Optimizer, group: dict[str, Any]) -> Descent | None:
    if group["maximize"] or group["differentiable"] or any(isinstance(option, Tensor) for option in options_of(group)):
        return None
    if isinstance(optimizer, SGD):
        if group["dampening"] != 0:
            return None
        if group["momentum"] == 0:
            return Descent.SGD
        return Descent.NESTEROV if group["nesterov"] else Descent.MOMENTUM
    if isinstance(optimizer, RMSprop):
        return None if group["centered"] or group["momentum"] != 0 else Descent.RMSPROP
    if group["amsgrad"]:
        return None
    return Descent.ADAMW if group["decoupled_weight_decay"] else Descent.ADAM


def settings_of(group: dict[str, Any], descent: Descent, step: int) -> Settings:
    """The numbers of a group's step, which is the step-th of its parameters."""
    rate, decay = group["lr"], group["weight_decay"]
    if descent <= Descent.NESTEROV:
        return Settings(rate, decay, group["momentum"])
    if descent is Descent.RMSPROP:
        return Settings(rate, decay, 0.0, group["alpha"], group["eps"])
    first, second = group["betas"]
    return Settings(rate, decay, first, second, group["eps"], 1 - first**step, 1 - second**step)


def prepare_state(optimizer: Optimizer, group: dict[str, Any], descent: Descent, parameter: Tensor) -> None:
    """Make what is missing of a parameter's state, as the optimizer's own first step would."""
    if descent is Descent.SGD:
        return
    state = optimizer.state[parameter]
    for name in STATE_NAMES[descent]:
        if state.get(name) is None:
            state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    if descent in _COUNTING and "step" not in state:
        on_device = group.get("capturable") or group.get("fused")
        dtype = torch_optimizer._get_scalar_dtype(is_fused=group.get("fused"))
        state["step"] = torch.zeros((), dtype=dtype, device=parameter.device if on_device else "cpu")


def steps_made(optimizer: Optimizer, descent: Descent, parameter: Tensor) -> int:
    """How many steps the parameter has made, where the optimizer counts them."""
    return int(optimizer.state[parameter]["step"]) if descent in _COUNTING else 0


class Companions:
    """Parameters of one group and device that make their steps together, with the numbers of the next one.

    Their counts of steps, a 0-d tensor each in the optimizer's state, become views of one tensor: one addition counts
    for all, and its version tells whether somebody else has counted.
    """

    def __init__(self, group: int, descent: Descent, device: torch.device, steps: int) -> None:
        self.group, self.descent, self.device, self.steps = group, descent, device, steps
        self.parameters: tuple[Tensor, ...] = ()
        self.state: list[Tensor] = []
        """All tensors that the optimizer has of them."""
        self.counts_steps = descent in _COUNTING
        self._counts: Tensor | None = None
        self._version = 0
        self.numbers = Settings(0.0)
        self._host = array("d", self.numbers)
        on_host = torch.frombuffer(self._host, dtype=torch.float64)
        self.settings = on_host if device.type == "cpu" else on_host.to(device)
        """The numbers of the step, as kernels read them."""

    def could_be(self, others: Companions) -> bool:
        """Whether they are of the same group, place and count."""
        return (self.group, self.device, self.steps) == (others.group, others.device, others.steps)

    def join(self, optimizer: Optimizer, parameters: Iterable[Tensor]) -> None:
        """Let these be the parameters, all of which have made the same number of steps."""
        self.parameters = tuple(parameters)
        entries = [optimizer.state[p] for p in self.parameters] if self.descent is not Descent.SGD else []
        if self.counts_steps:
            like = entries[0]["step"]
            self._counts = torch.full((len(entries),), float(self.steps), dtype=like.dtype, device=like.device)
            self._version = self._counts._version
            for entry, count in zip(entries, self._counts.unbind(), strict=True):
                entry["step"] = count
        self.state = [value for entry in entries for value in entry.values()]

    def have_counted(self) -> bool:
        """Whether all steps were counted here."""
        return self._counts is None or self._counts._version == self._version

    def set_numbers(self, group: dict[str, Any]) -> None:
        """Let kernels read the numbers of the step to come."""
        numbers = settings_of(group, self.descent, self.steps + 1)
        if numbers == self.numbers:
            return
        self.numbers = numbers
        if self.device.type == "cpu":
            self._host[:] = array("d", numbers)
        else:
            # Torch keeps pinned memory until the copy is over, so that the next step's numbers lie elsewhere.
            pinned = torch.tensor(numbers, dtype=torch.float64, pin_memory=True)
            self.settings.copy_(pinned, non_blocking=True)

    def count(self) -> None:
        """They have made a step."""
        if self._counts is not None:
            self.steps += 1
            self._counts.add_(1)
            self._version = self._counts._version
