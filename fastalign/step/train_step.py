"""A whole training step in one call: standard pass, error, rule and optimizer, without autograd."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from fastalign.engine.sequential import check_is_tensor, check_learns_by_rule
from fastalign.engine.watch import Watch
from fastalign.nn import Sequential
from fastalign.ops.autocast import autocasts
from fastalign.ops.transforms import have_tangents, is_transformed
from fastalign.step.graphs import CapturedProgram, graphs_of
from fastalign.step.losses import REDUCTIONS, Loss, loss_and_gradients
from fastalign.step.memory import addresses, share_memory, storages
from fastalign.step.native_replay import NativeProgram
from fastalign.step.optimizer_state import Companions
from fastalign.step.replay import Program, are_plain, lies_in_memory, record
from fastalign.step.sink import OptimizerSink

MEMORY = ("store", "recompute")
_MOST_REPLAYS = 8
_MOST_CLASSES = 1024  # of a recording that holds the target of each class


@dataclass(frozen=True)
class _Replay:
    """A recorded step, which returns loss, outputs and the gradients of `parameters`."""

    program: Program
    parameters: list[Tensor]
    stepping: list[Companions]
    """Those whose steps it makes itself."""
    watch: Watch
    changes: int
    """Of the sink, when this was recorded."""


class TrainStep:
    """Trains a network by one call per batch: the numbers of the plain loop, with less work around them.

    With SGD (momentum, Nesterov, weight decay), RMSprop, Adam and AdamW no gradient of a linear layer is stored: its
    weights step as ΔW is formed. Any other optimizer, and any option beyond, gets `.grad` and its own `step()`. The
    state lives in the optimizer, in torch's own forms, so that checkpoints, learning-rate schedules and a change to the
    plain loop and back work in mid-training. Hooks on parameters are not called: there is no backward pass.

    Where a module's own code or a rule of one's own takes part, weights that share memory, or a loss that depends on
    parameters, all gradients are formed before a weight moves, so an exception leaves everything as it was. Elsewhere
    memory that gives out in the middle of a step leaves the upper layers a step ahead.

    Where nothing but the numbers changes from step to step (layers, activations and dropout of this library, a loss by
    name), the kernels that a step calls are recorded and then replayed without the Python around them; a replay follows
    the optimizer's settings, and whatever else changes, a mode, the size of a batch, is noticed. On CUDA a replay is
    one graph, captured at the fourth step of a kind.

    Args:
        network: with a rule.
        loss: the name of one in `fastalign.step.losses`, or a callable (outputs, labels) → scalar. Rules that need
            the error of a sample then know its `error_scale`; of a callable they take it to be N, a mean's, if they
            have none of their own.
        optimizer: over the network's parameters.
        reduction: of a loss by name over the batch, "mean" or "sum". Rules that need the error of a sample take s = N
            or 1 for it; where labels of −100 leave samples out of a mean, give the rule an `error_scale` of its own.
        memory: "store" the activities for the updates, or "recompute" them layer by layer once the error is known, in
            a memory that does not grow with depth (DFA, DRTP, IFA, PEPITA; not recorded).

    Raises:
        TypeError: for another network than a Sequential of `fastalign.nn`.
        ValueError: for an unknown loss, reduction or memory, a network without a rule, or an optimizer that calls a
            closure.
    """

    def __init__(
        self,
        network: Sequential,
        *,
        loss: str | Loss,
        optimizer: torch.optim.Optimizer,
        reduction: str = "mean",
        memory: str = "store",
    ) -> None:
        check_learns_by_rule(network)
        if network.rule is None:
            raise ValueError("network: expected one with a rule (set_rule), got None")
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction: expected one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        closure = inspect.signature(type(optimizer).step).parameters.get("closure")
        if closure is not None and closure.default is closure.empty:
            raise ValueError(
                f"optimizer: {type(optimizer).__name__} calculates the loss anew within its step, which a TrainStep "
                "does once; expected another optimizer, or the plain loop, whose closure can do that"
            )
        if memory not in MEMORY:
            raise ValueError(f"memory: expected one of {', '.join(MEMORY)}, got {memory!r}")
        self.network = network
        self.optimizer = optimizer
        self.outputs: Tensor | None = None
        """The network's output for the last batch."""
        self._recomputes = memory == "recompute"
        self._loss_is_known = isinstance(loss, str)
        self._loss = loss_and_gradients(loss, reduction)
        self._error_scale = REDUCTIONS[reduction] if self._loss_is_known else None
        self._sink = OptimizerSink(optimizer)
        self._fuses = False
        self._places: list[int] = []
        self._shares = False
        """Whether the tensors at these places share memory."""
        self._storages: frozenset[int] = frozenset()
        """Those of the parameters among them."""
        self._replays: dict[object, _Replay | None] = {}
        self._last_kind: object = None
        self._last_native: _Replay | None = None
        """The last step's replay, if that looks at its inputs itself and leaves no gradients."""

    def __getstate__(self) -> dict[str, Any]:
        """For copies, whose replays and numbers of a step must be those of their own tensors."""
        return {**self.__dict__, "_replays": {}, "_last_kind": None, "_last_native": None, "_sink": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _sink=OptimizerSink(state["optimizer"]))

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """Train on one batch: x (N, ...), y the labels that the loss takes. Returns the loss, a 0-d tensor.

        Raises:
            TypeError: for an x or y that is no tensor.
            ValueError: as the network's forward; to recompute, for a rule or module that has to store.
        """
        self._fuses = self._sink.begin()
        loss = self._repeat(x, y)
        return self._step_of_any_kind(x, y) if loss is None else loss

    def _repeat(self, x: Tensor, y: Tensor) -> Tensor | None:
        """A step like the last one, by its replay; None where it is not like that, or its inputs are to be compared."""
        replay = self._last_native
        if replay is None or replay.changes != self._sink.changes or torch.is_autocast_enabled("cpu"):
            return None
        if not replay.watch.holds(places=False) or not are_plain(x, y):
            return None
        found = replay.program(x, y)
        if not found:
            return None
        loss, self.outputs = found
        self._finish((), (), replay.stepping)
        return loss

    @torch.no_grad()
    def _step_of_any_kind(self, x: Tensor, y: Tensor) -> Tensor:
        check_is_tensor("x", x)
        if self._loss_is_known:  # one of the user's own may take other things
            check_is_tensor("y", y)
        inputs = (x, y)
        kind = self._kind_of(inputs)
        replay = None
        self._last_native = None
        if kind in self._replays:
            replay = self._replays[kind] = self._replays.pop(kind)  # in the order of their use
        if replay is not None:
            still_holds = replay.changes == self._sink.changes and replay.watch.holds()
            found = replay.program(x, y) if still_holds else []
            if found:
                loss, self.outputs, *gradients = found
                self._finish(replay.parameters, gradients, replay.stepping)
                if self._fuses and isinstance(replay.program, NativeProgram):
                    self._last_native = replay
                return loss
            del self._replays[kind]
        # Once may be once: what changes with every step is not worth a recording.
        again = kind is not None and kind == self._last_kind and kind not in self._replays
        self._last_kind = kind
        return self._record(kind, inputs) if again else self._step(inputs)

    @property
    def _needs_target(self) -> bool:
        return any(rule.needs_target for rule in self.network.layer_rules)

    def _share_memory(self, parameters: Sequence[Tensor], fixed: Sequence[Tensor], inputs: Sequence[Tensor]) -> bool:
        """Whether parameters are views of the same memory, or of that of fixed matrices or inputs."""
        places = addresses(chain(parameters, fixed))
        if places != self._places:
            self._places, self._shares = places, share_memory(parameters, fixed)
            self._storages = storages(parameters)
        return self._shares or not self._storages.isdisjoint(storages(inputs))

    @property
    def _lag(self) -> int | None:
        """Of the sink: rules that go upward need none of a layer's weights once they have given its update."""
        if not self._recomputes:
            return None
        return int(any(rule.updates_in_parts for rule in self.network.layer_rules))

    def _kind_of(self, inputs: Sequence[Tensor]) -> object:
        """What all inputs of a replay have in common; None where a step is neither to be recorded nor replayed."""
        # A recording holds on to every tensor of the step.
        if not self._loss_is_known or self._recomputes or autocasts(inputs[0].device) or inputs[1].requires_grad:
            return None
        if not are_plain(*inputs) or not all(map(lies_in_memory, inputs)):
            return None
        return tuple([(t.shape, t.stride(), t.dtype, t.device) for t in inputs])

    def _step(self, inputs: Sequence[Tensor]) -> Tensor:
        x, y = inputs
        target = self.network.one_hot(y, x) if self._needs_target else None
        loss, self.outputs, gradients = self._calculate(x, y, target)
        self._finish(list(gradients), list(gradients.values()), self._sink.end())
        return loss

    def _record(self, kind: object, inputs: Sequence[Tensor]) -> Tensor:
        """A step like any other, which leaves its replay behind."""
        watch = self.network.watched(inputs[0].shape[0])
        parameters: list[Tensor] = list(self.network.parameters())
        buffers = list(self.network.buffers())
        if not are_plain(*parameters, *buffers) or self._share_memory(parameters, buffers, inputs):
            watch = None
        if watch is None or (self._needs_target and self.network.classes > _MOST_CLASSES):
            self._remember(kind, None)
            return self._step(inputs)
        left: list[Tensor] = []

        def calculate(x: Tensor, y: Tensor) -> list[Tensor]:
            # The rows of a matrix, in place of what would tell Python whether the labels are classes.
            target = None
            if targets:
                target = y if y.dim() > 1 else targets[0].index_select(0, y.long())
            loss, outputs, gradients = self._calculate(x, y, target)
            left.extend(gradients)
            return [loss, outputs, *gradients.values()]

        changes = self._sink.changes
        targets = [self.network.one_hot_of_classes(inputs[0])] if self._needs_target else []
        lasting = (*parameters, *buffers, *self._sink.lasting(), *targets)
        (loss, self.outputs, *gradients), program = record(calculate, inputs, lasting)
        stepping = self._sink.end()
        graphs = graphs_of(inputs[0].device)
        if program is not None and graphs is not None:
            program = CapturedProgram(program, graphs)
        if self._sink.changes == changes:  # else the step made state, which a replay would not keep
            self._remember(kind, program and _Replay(program, left, stepping, watch, changes))
        self._finish(left, gradients, stepping)
        return loss

    def _remember(self, kind: object, replay: _Replay | None) -> None:
        """The replay of a new kind, None where it has none; the kind that has not come for longest makes room."""
        if len(self._replays) == _MOST_REPLAYS:
            del self._replays[next(iter(self._replays))]
        self._replays[kind] = replay

    def _calculate(self, x: Tensor, y: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor, dict[Tensor, Tensor]]:
        """Loss, outputs and the gradients that are left to the optimizer. target: what the rules take of y."""
        if is_transformed() or have_tangents(chain([x], self.network.parameters())):
            raise RuntimeError(
                "x: a training step has no transform of torch.func (vmap, grad, jvp) and no forward-mode derivative; "
                "expected plain tensors, or the network's own forward and backward under rule='bp'"
            )
        if self.network.calls_modules(x):
            return self._calculate_by_autograd(x, y)
        run = self.network.new_step(x, target, recompute=self._recomputes)
        run.loss_error_scale = self._error_scale
        outputs = run.forward(x)
        loss, gradient, others = self._loss(outputs, y)
        # A loss may have parameters that no kernel steps, and weights in shared memory move in the optimizer's order.
        self._fuses = self._fuses and not others and not self._share_memory(run.parameters, run.fixed_matrices, (x, y))
        # The parts of a weight that stands in several layers must come together before it moves; and nothing may have
        # moved when a module's own code, or a rule's, raises.
        if self._fuses and gradient is not None and not run.shares_parameters and not run.runs_own_code:
            run.forms_delta, run.adds_up = self._sink.forms_delta, self._sink.adds_up
            self._sink.apply(run.updates(tuple(run.release()), gradient), self._lag)
            return loss, outputs, {}
        kept = tuple(run.release())
        found = {} if gradient is None else run.gradients(kept, gradient)
        gradients = {p: g for p, g in found.items() if p.requires_grad}
        for parameter, of_loss in others.items():
            gradients[parameter] = gradients[parameter] + of_loss if parameter in gradients else of_loss
        self._fuses = self._fuses and not any(gradient.is_sparse for gradient in gradients.values())
        if not self._fuses:
            return loss, outputs, gradients
        self._sink.apply_gradients(gradients)
        return loss, outputs, {}

    def _calculate_by_autograd(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, dict[Tensor, Tensor]]:
        """As `_calculate`, for a network under BP whose modules are called, as in the plain loop."""
        parameters: list[Tensor] = [p for p in self.network.parameters() if p.requires_grad]
        with torch.enable_grad():
            outputs = self.network(x)
        loss, gradient, gradients = self._loss(outputs.detach(), y)
        self._fuses = self._fuses and not gradients and not self._share_memory(parameters, (), (x, y))
        found = [] if gradient is None else torch.autograd.grad(outputs, parameters, gradient, allow_unused=True)
        for parameter, part in zip(parameters, found, strict=False):
            if part is not None:
                gradients[parameter] = gradients[parameter] + part if parameter in gradients else part
        self._fuses = self._fuses and not any(gradient.is_sparse for gradient in gradients.values())
        if not self._fuses:
            return loss, outputs.detach(), gradients
        self._sink.apply_gradients(gradients)
        return loss, outputs.detach(), {}

    def _finish(
        self, parameters: Sequence[Tensor], gradients: Sequence[Tensor], stepping: Sequence[Companions]
    ) -> None:
        """The optimizer's own step if gradients are left to it, else what its users look for after one."""
        if self._fuses:
            self.optimizer._opt_called = True  # type: ignore[attr-defined]  # as schedulers of learning rates ask
            # Kernels of our own write unseen by autograd, which must notice weights that change before a backward pass.
            for companions in stepping:
                companions.count()
                torch.autograd.graph.increment_version(companions.parameters)
            return
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        self.optimizer.step()
        self.optimizer.zero_grad()
