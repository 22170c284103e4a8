"""A chain of modules that learns by a rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from fastalign.engine.compiler import uncompiled
from fastalign.engine.plan import ModuleLink, Stage, chains, flatten, make_plan, single_tensor
from fastalign.engine.recompute import RecomputingStep
from fastalign.engine.run import NetworkStep, StepFunction, one_hot_target
from fastalign.engine.watch import Watch
from fastalign.rules import BP, DFA, DRTP, FA, IFA, PEPITA, RULES, Rule, named
from fastalign.rules import feedback as feedback_matrices
from fastalign.rules.initialisation import draw_weight


class Sequential(torch.nn.Sequential):
    """torch.nn.Sequential that learns by a rule: `loss.backward()` runs it, any optimizer applies its updates.

    Without a rule it is torch.nn.Sequential. With one, the chain is seen as layers (linear, convolution, block),
    each with what follows it; nested chains are opened, and any other module with weight matrices counts as a `Block`.

    Args:
        modules: the modules, or one ordered mapping of them by name.
        rule: a rule or its name, for all layers that have none of their own; or one for each layer.
        input_shape: the shape of one sample, where the shape of a fixed matrix depends on it (convolutions, blocks).

    Raises:
        ValueError, TypeError: for an unknown rule, a network that the rule cannot train, or a missing input_shape.
    """

    # In the class, so that torch refuses these names for modules.
    rule: Rule | None = None
    input_shape: tuple[int, ...] | None = None

    def __init__(
        self,
        *modules: Any,
        rule: str | Rule | Sequence[str | Rule] | None = None,
        input_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(*modules)
        self.input_shape = None if input_shape is None else tuple(input_shape)
        self.layer_rules: tuple[Rule, ...] = ()
        """The rule of each layer."""
        self._units: tuple[int, ...] = ()
        self._classes = 0
        self._plan: tuple[tuple[torch.nn.Module, ...], list[Stage]] | None = None
        self.projection: Tensor | None
        self.register_buffer("projection", None)
        if rule is not None:
            self.set_rule(rule)

    # The rule and its fixed matrices

    def set_rule(self, rule: str | Rule | Sequence[str | Rule]) -> None:
        """Learn by another rule: parameters stay, fixed matrices are drawn anew.

        Raises:
            ValueError, TypeError: as the constructor.
        """
        self._plan = None
        layers = self._stages()[1:]
        if not layers:
            raise ValueError("rule: a network needs at least one layer with weights, got none")
        rules = _assign(rule, layers)
        _check(rules, layers)
        matrices = self._draw(rules, layers)
        for name in [name for name in self._buffers if name.startswith("feedback_")]:
            del self._buffers[name]
        self.register_buffer("projection", None)
        for name, matrix in matrices.items():
            self.register_buffer(name, matrix)
        self.rule, self.layer_rules = rules[-1], rules

    @property
    def feedback(self) -> tuple[Tensor | None, ...]:
        """The fixed matrix of each hidden layer that has one: B_l (H_l, C), for FA one of the shape of W_{l+1}."""
        shared = self._buffers.get("feedback_shared")
        return tuple(
            shared[: self._units[i]]
            if shared is not None and isinstance(rule, DFA) and rule.shared_feedback
            else self._buffers.get(f"feedback_{i}")
            for i, rule in enumerate(self.layer_rules[:-1])
        )

    @property
    def is_plain_chain(self) -> bool:
        """Whether it is only a chain of modules, which another network may open."""
        return type(self) is Sequential and self.rule is None

    def _stages(self) -> list[Stage]:
        """The plan, made again when the modules are others."""
        modules = tuple(flatten(self._modules.values()))
        if self._plan is None or self._plan[0] != modules:
            self._plan = modules, make_plan(modules)
        return self._plan[1]

    # The step

    def forward(self, input: Tensor, target: Tensor | None = None) -> Tensor:
        """The network's output; its backward is the rule's.

        Args:
            input: x, (N, ...).
            target: class indices (N) or one-hot rows (N, C); every rule takes it, DRTP needs it while training.

        Raises:
            ValueError: for an input or a target of the wrong shape, or none where the rule needs one.
            RuntimeError: if x requires grad under a rule that defines no gradient of the input.
        """
        if self.rule is None:
            return super().forward(input)
        return self._learn(input, target)

    @uncompiled
    def _learn(self, x: Tensor, target: Tensor | None) -> Tensor:
        step = self.new_step(x, target, training=self.training and torch.is_grad_enabled())
        parameters = step.parameters
        if not torch.is_grad_enabled() or not (x.requires_grad or any(p.requires_grad for p in parameters)):
            return step.forward(x, keep=False)
        if x.requires_grad and not all(rule.defines_input_gradient for rule in self.layer_rules):
            raise RuntimeError(
                f"input: it requires grad, but {self.rule} defines no gradient of the input; "
                "detach it, or ask input_gradient(x, loss_fn) for the true one"
            )
        return StepFunction.apply(step, x, *parameters)

    def new_step(
        self, x: Tensor, target: Tensor | None = None, training: bool = True, recompute: bool = False
    ) -> NetworkStep:
        """A step on a batch, its standard pass still to come: `forward` hands it to autograd, `TrainStep` runs it.

        recompute: activities again when the rule asks for them, in place of keeping them.

        Raises:
            ValueError: for an input or a target of the wrong shape, or none where the rule needs one.
            RuntimeError: without a rule, or if modules came or went since it was set.
        """
        if self.rule is None:
            raise RuntimeError("rule: expected one for a step (set_rule), got None")
        stages = self._stages()
        if len(stages) - 1 != len(self.layer_rules):
            raise RuntimeError(
                f"Sequential: its rules were set for {len(self.layer_rules)} layers, now it has {len(stages) - 1}; "
                "call set_rule again"
            )
        if x.dim() < 2:
            raise ValueError(f"input: expected a batch of samples (N, ...), got shape {tuple(x.shape)}")
        if self.projection is not None and x.shape[1:].numel() != self.projection.shape[0]:
            expected = self.projection.shape[0]
            raise ValueError(
                f"input: expected samples of {expected} numbers (projection F), got shape {tuple(x.shape)}"
            )
        if not any(rule.needs_target for rule in self.layer_rules):
            target = None
        elif target is not None:
            target = self.one_hot(target, x)
        elif training:
            raise ValueError("target: DRTP needs it while training, call net(x, target); got None")
        self._keep_out_of_broadcasts()
        kind = RecomputingStep if recompute else NetworkStep
        return kind(stages, self.layer_rules, self.feedback, self.projection, target)

    def watched(self, batch: int) -> Watch | None:
        """All that decides which kernels a step on a batch of this size calls, besides what x and the target are.

        None where modules run code of their own, which may do something else at every step.
        """
        watch = Watch()
        watch.note(attrgetter("layer_rules"), self)
        for rule in dict.fromkeys(self.layer_rules):
            if type(rule) not in RULES.values():
                return None
            watch.note(vars, rule, dict(vars(rule)))
            if callable(rule.error_scale):
                watch.note(lambda rule: rule.sample_error_scale(batch), rule)
        for chain in chains(self):
            watch.note_members(chain._modules)
            if chain is not self:
                watch.note_hooks(chain)
        if not all(stage.watched_by(watch) for stage in self._stages()):
            return None
        watch.note_members(self._buffers)
        watch.note_tensors(matrix for matrix in self._buffers.values() if matrix is not None)
        return watch if watch.begin() else None

    @property
    def classes(self) -> int:
        """How many classes its rules learn to tell apart; 0 without a rule."""
        return self._classes

    def one_hot(self, target: Tensor, x: Tensor) -> Tensor:
        """The target of a batch x as a rule takes it, (N, C).

        Raises:
            ValueError: for a target of the wrong shape, or an index that is no class.
        """
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        return one_hot_target(target, x.shape[0], self._classes, dtype, x.device)

    def one_hot_of_classes(self, x: Tensor) -> Tensor:
        """The target of each class, (C, C), for batches like x."""
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        return torch.eye(self._classes, dtype=dtype, device=x.device)

    def input_gradient(self, x: Tensor, loss_fn: Callable[[Tensor], Tensor]) -> Tensor:
        """∂loss/∂x by backpropagation, whatever the rule.

        Args:
            x: the input, (N, ...).
            loss_fn: takes the network's output and returns a scalar loss.

        Returns:
            The gradient, shaped like x. Parameters and their gradients stay as they are.
        """
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            loss = loss_fn(StepFunction.apply(self._backpropagation(), x))
            return torch.autograd.grad(loss, x)[0]

    def with_backpropagation(self, x: Tensor) -> Tensor:
        """The network's output for x, (N, ...); its backward is backpropagation, whatever the rule."""
        step = self._backpropagation()
        output: Tensor = StepFunction.apply(step, x, *step.parameters)
        return output

    def _backpropagation(self) -> NetworkStep:
        stages = self._stages()
        return NetworkStep(stages, [BP()] * (len(stages) - 1), (), None, None)

    def _keep_out_of_broadcasts(self) -> None:
        """Under DistributedDataParallel fixed matrices were synchronised when it was made, which is often enough."""
        parallel = DistributedDataParallel._get_active_ddp_module()
        if parallel is None:
            return
        fixed = {id(matrix) for matrix in self._buffers.values() if matrix is not None}
        if fixed.isdisjoint(map(id, parallel.modules_buffers)):
            return
        for name, module in parallel.module.named_modules():
            if module is self:
                prefix = f"{name}." if name else ""
                parallel.parameters_to_ignore.update(prefix + matrix for matrix in self._buffers)
        parallel._assign_modules_buffers()

    # Fixed matrices

    def _draw(self, rules: Sequence[Rule], layers: Sequence[Stage]) -> dict[str, Tensor]:
        """The buffers that the rules ask for, drawn; remembers the units of each layer and the classes."""
        like = next(p for stage in layers for p in stage.parameters()).detach()
        buffers: dict[str, Tensor] = {}
        if any(isinstance(rule, DFA | DRTP | IFA | PEPITA) for rule in rules):
            size, self._units, self._classes = self._sizes(rules[-1], layers, like)
        for i, (rule, above) in enumerate(zip(rules[:-1], layers[1:], strict=True)):
            if isinstance(rule, FA) and above.native is not None:
                buffers[f"feedback_{i}"] = _like_weight(rule.feedback, above)
            elif isinstance(rule, DFA) and rule.shared_feedback:
                sharing = [j for j, other in enumerate(rules[:-1]) if isinstance(other, DFA) and other.shared_feedback]
                most = max(self._units[j] for j in sharing)
                if "feedback_shared" not in buffers:
                    buffers["feedback_shared"] = feedback_matrices.draw(rule.feedback, most, self._classes, like)
            elif isinstance(rule, DFA | DRTP) or (isinstance(rule, IFA) and i == 0):
                buffers[f"feedback_{i}"] = feedback_matrices.draw(rule.feedback, self._units[i], self._classes, like)
        if isinstance(rules[-1], PEPITA):
            rule = rules[-1]
            projection = feedback_matrices.draw(rule.projection, size, self._classes, like, rule.projection_scale)
            # Every use of F multiplies by its rows of classes, which therefore lie in one piece.
            buffers["projection"] = projection.T.contiguous().T
        return buffers

    def _sizes(self, rule: Rule, layers: Sequence[Stage], like: Tensor) -> tuple[int, tuple[int, ...], int]:
        """The size of a sample, the units that each layer hands on and the size of a_L, found by a dry run."""
        shape = self.input_shape
        first = layers[0].layer
        if shape is None and isinstance(first, torch.nn.Linear):
            shape = (first.in_features,)
        if shape is None:
            raise ValueError(
                f"input_shape: {rule} has fixed matrices whose shape depends on it; expected the shape of one sample, "
                "for example (3, 32, 32), got None"
            )
        training = {module: module.training for module in self.modules()}
        self.eval()
        try:
            with torch.no_grad():
                dtype = torch.int64 if isinstance(first, torch.nn.Embedding | torch.nn.EmbeddingBag) else like.dtype
                h = like.new_zeros(1, *shape, dtype=dtype)
                units = []
                for stage in self._stages():
                    if stage.layer is not None:
                        classes = single_tensor(stage.layer, stage.layer(h))[0].numel()
                    h = stage.run(h)
                    units.append(h[0].numel())
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"input_shape: the network does not take samples of shape {shape}: {error}") from error
        finally:
            for module, mode in training.items():
                module.training = mode
        return math.prod(shape), tuple(units[1:]), classes

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """A state dict without fixed matrices (of a plain torch network) leaves them as they are."""
        for name, matrix in self._buffers.items():
            if matrix is not None:
                state_dict.setdefault(prefix + name, matrix)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plan": None}

    def extra_repr(self) -> str:
        return "" if self.rule is None else f"rule={self.rule!r}"


def _like_weight(feedback: str, above: Stage) -> Tensor:
    assert above.layer is not None
    weight = above.layer.weight
    assert isinstance(weight, Tensor)
    if feedback == "weights":
        return weight.detach().clone()
    return draw_weight(feedback, weight.detach())


def _assign(rule: str | Rule | Sequence[str | Rule], layers: Sequence[Stage]) -> tuple[Rule, ...]:
    """A rule for each layer."""
    if isinstance(rule, str | Rule):
        network_rule = named(rule)
        return tuple(stage.rule or network_rule for stage in layers)
    if not isinstance(rule, Sequence):
        raise TypeError(f"rule: expected a rule, a name, or one for each layer, got {type(rule).__name__}")
    if len(rule) != len(layers):
        raise ValueError(f"rule: expected one for each of the {len(layers)} layers, got {len(rule)}")
    by_name = {name: named(name) for name in rule if isinstance(name, str)}
    return tuple(by_name[r] if isinstance(r, str) else named(r) for r in rule)


def _check(rules: Sequence[Rule], layers: Sequence[Stage]) -> None:
    """The rules can train these layers together."""
    for rule in rules:
        if rule.whole_network and any(other is not rule for other in rules):
            raise ValueError(f"rule: {rule} passes over the whole network and cannot be the rule of single layers")
    for stage, rule in zip(layers, rules, strict=True):
        kind = type(stage.layer).__name__
        if isinstance(rule, IFA) and not isinstance(stage.native, torch.nn.Linear):
            raise ValueError(
                f"rule: IFA sends its signal forward through weight matrices; expected linear layers, got {kind}"
            )
        if isinstance(rule, PEPITA) and stage.native is None:
            raise ValueError(
                f"rule: PEPITA needs the activities of every layer with weights, which {kind} hides inside; "
                "expected Linear and Conv2d layers"
            )
        if isinstance(rule, PEPITA):
            inner = [link.module for link in stage.links if isinstance(link, ModuleLink)]
            for module in inner:
                if any(p.requires_grad for p in module.parameters()) and not isinstance(
                    module, torch.nn.modules.batchnorm._BatchNorm
                ):
                    raise ValueError(f"rule: PEPITA defines no update for the weights of {type(module).__name__}")


def check_learns_by_rule(network: object) -> None:
    """Refuse what knows no rule.

    Raises:
        TypeError: it is no Sequential.
    """
    if not isinstance(network, Sequential):
        raise TypeError(f"network: expected a fastalign.nn.Sequential with a rule, got {described(network)}")


def described(network: object) -> str:
    """Return what kind of network this is, and how one comes to a Sequential from it."""
    kind = f"{type(network).__module__}.{type(network).__qualname__}"
    for name in ("module", "_orig_mod"):  # of DataParallel and its like, and of torch.compile
        if isinstance(getattr(network, name, None), Sequential):
            return f"{kind}, which wraps one: it is network.{name}"
    return f"{kind}: fastalign.convert(network, rule=...) makes one of it, with the same weights"
