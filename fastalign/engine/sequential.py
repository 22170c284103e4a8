"""A chain of modules that learns by a rule."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from fastalign.engine.as_set import NetworkAsSet, own_rules
from fastalign.engine.compiler import uncompiled
from fastalign.engine.links import why_not_modulated
from fastalign.engine.plan import ModuleLink, Stage, guards_of, has_own_forward, make_plan, single_tensor
from fastalign.engine.recompute import RecomputingStep
from fastalign.engine.run import NetworkStep, StepFunction, check_target, one_hot_target
from fastalign.engine.surroundings import REPLICA, obstacle
from fastalign.engine.untouched import untouched
from fastalign.engine.watch import Watch
from fastalign.ops import flops
from fastalign.rules import BP, DFA, DRTP, FA, IFA, PEPITA, RULES, Rule, named
from fastalign.rules import feedback as feedback_matrices
from fastalign.rules.initialisation import draw_weight


class _Sizes(NamedTuple):
    """The sizes of a sample on its way through a network."""

    sample: int
    takes_indices: bool
    """Whether the sample is of integers."""
    units: tuple[int, ...]
    """What each layer hands on, after all that follows it."""
    preactivations: int
    """The size of a_L."""


class Sequential(torch.nn.Sequential):
    """torch.nn.Sequential that learns by a rule: `loss.backward()` runs it, any optimizer applies its updates.

    Without a rule it is torch.nn.Sequential. With one, the chain is seen as layers (linear, convolution, block),
    each with what follows it; nested chains are opened, and any other module with weight matrices counts as a `Block`.
    Scales and shifts (normalization, a temperature) belong to the layer before them, whatever their shape. Classes are
    the units of the output, after pooling where the chain ends in that.

    Where all rules are BP and something looks on that kernels would not serve (hooks on modules, a transform of
    torch.func, replicas, shards), the modules are called as by torch.nn.Sequential. Under other rules hooks may look at
    values, and forward pre-hooks may change a layer's input and weights; the rest is refused.

    Args:
        modules: the modules, or one ordered mapping of them by name.
        rule: a rule or its name, for all layers that have none of their own; or one for each layer.
        input_shape: the shape of one sample, where the shape of a fixed matrix depends on it (convolutions, blocks);
            the network is tried on zeros of it, and on integers where it takes no floating-point numbers.

    Raises:
        ValueError, TypeError: for an unknown rule, a network that the rule cannot train, or a missing input_shape.
    """

    # In the class, so that torch refuses this name for modules.
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
        self._plan: tuple[Watch, list[Stage]] | None = None
        self._as_set = NetworkAsSet(None, [], [], frozenset())
        self._checked_plan: list[Stage] | None = None
        """The plan that was last found to have the layers that the rule was set for."""
        self.projection: Tensor | None
        self.register_buffer("projection", None)
        if rule is not None:
            self.set_rule(rule)

    # The rule and its fixed matrices

    @property
    def rule(self) -> Rule | None:
        """The rule, that of the output layer where each has its own; None without. Assigning one is `set_rule`."""
        rule: Rule | None = self.__dict__.get("rule")
        return rule

    @rule.setter
    def rule(self, rule: str | Rule | Sequence[str | Rule] | None) -> None:
        self.set_rule(rule)

    def set_rule(self, rule: str | Rule | Sequence[str | Rule] | None) -> None:
        """Learn by another rule: parameters stay, fixed matrices are drawn anew. None: by no rule, as in torch.

        Raises:
            ValueError, TypeError: as the constructor.
        """
        if rule is None:
            self._replace_matrices({})
            self.__dict__["rule"], self.layer_rules, self._classes = None, (), 0
            return
        if has_own_forward(self):
            raise TypeError(
                f"rule: {type(self).__name__} has a forward of its own, which a rule does not run; expected what it "
                "does in modules of the chain, or in a module that holds a Sequential with the rule"
            )
        _check_weights_are_there(self)
        self._plan = None
        layers = self._stages()[1:]
        if not layers:
            raise ValueError("rule: a network needs at least one layer with weights, got none")
        rules = _assign(rule, layers)
        _check(rules, layers)
        if isinstance(rules[-1], PEPITA):
            _check_modulated(self._stages()[:-1])
        self._replace_matrices(self._draw(rules, layers))
        self.__dict__["rule"], self.layer_rules = rules[-1], rules
        self._as_set, self._checked_plan = NetworkAsSet.of(self, self.input_shape, layers), self._stages()
        _warn_of_backpropagation(rules, layers)

    def _replace_matrices(self, matrices: dict[str, Tensor]) -> None:
        for name in [name for name in self._buffers if name.startswith("feedback_")]:
            del self._buffers[name]
        self.register_buffer("projection", None)
        for name, matrix in matrices.items():
            self.register_buffer(name, matrix)

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
        return type(self) is Sequential and self.rule is None and "forward" not in vars(self)

    def _guarded_plan(self) -> tuple[Watch, list[Stage]]:
        """The plan and what it depends on, made again when the modules or what it reads of them are others."""
        plan = self._plan
        if plan is None or not plan[0].values_hold():
            plan = self._plan = guards_of(self), make_plan(self._modules.values())
        return plan

    def _stages(self) -> list[Stage]:
        """The stages of the plan, with places for hooks if there are any."""
        guards, stages = self._guarded_plan()
        return make_plan(self._modules.values(), hooked=True) if guards.has_hooks() else stages

    # The step

    def forward(self, input: Tensor, target: Tensor | None = None) -> Tensor:
        """The network's output; its backward is the rule's.

        Args:
            input: x, (N, ...).
            target: class indices (N) or one-hot rows (N, C); every rule takes it, DRTP needs it while training. It is
                no second input of the modules, which get one each.

        Raises:
            ValueError: for an input or a target of the wrong shape, or none where the rule needs one.
            RuntimeError: if x requires grad under a rule that defines no gradient of the input.
        """
        output = super().forward(input) if self.rule is None else self._learn(input, target)
        if target is not None:
            check_target(target, output)
        return output

    @uncompiled
    def _learn(self, x: Tensor, target: Tensor | None) -> Tensor:
        if self.calls_modules(x, learns=torch.is_grad_enabled()):
            return super().forward(x)
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

    def calls_modules(self, x: Tensor, learns: bool = True) -> bool:
        """Whether the modules are called in place of kernels, because something looks on that these would not serve.

        learns: whether updates are asked for; if not, any rule's network may call its modules.

        Raises:
            RuntimeError: if a rule other than BP cannot learn with that.
        """
        reason, hooked = self._onlookers(x)
        if (hooked or reason is not None) and (not learns or all(type(rule) is BP for rule in self.layer_rules)):
            return True
        if reason is not None:
            raise RuntimeError(reason)
        return False

    def _onlookers(self, x: Tensor) -> tuple[str | None, bool]:
        """What keeps rules from a step, and whether there are hooks."""
        if "_is_replica" in vars(self):
            return REPLICA, False
        guards, stages = self._guarded_plan()
        hooked = guards.has_hooks()
        if hooked:
            flops.register()  # torch's counter looks on by hooks
        return obstacle(stages, x, hooked), hooked

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
        self._as_set.check_assigned(self.input_shape, stages[1:])
        if stages is not self._checked_plan:
            if any(not isinstance(rule, BP) for rule in self.layer_rules):
                self._as_set.check_replaced(stages[1:])
            self._checked_plan = stages
        check_is_tensor("input", x)
        if x.layout is not torch.strided and self.projection is not None:
            raise ValueError(f"input: PEPITA adds to it, expected a dense tensor (x.to_dense()), got layout {x.layout}")
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
        watch.include(self._guarded_plan()[0])
        watch.note(attrgetter("layer_rules"), self)
        watch.note(attrgetter("input_shape"), self)
        watch.note(own_rules, [stage.layer for stage in self._stages()[1:]])
        for rule in dict.fromkeys(self.layer_rules):
            if type(rule) not in RULES.values():
                return None
            watch.note(vars, rule, dict(vars(rule)))
            if callable(rule.error_scale):
                watch.note(lambda rule: rule.sample_error_scale(batch), rule)
        if not all(stage.watched_by(watch) for stage in self._stages()):
            return None
        watch.note_members(self._buffers)
        watch.note_tensors(matrix for matrix in self._buffers.values() if matrix is not None)
        return watch if watch.begin() else None

    @property
    def classes(self) -> int:
        """How many classes its rules learn to tell apart, the units of its output; 0 without a rule."""
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
            loss = loss_fn(self._by_backpropagation(x, learns=False))
            return torch.autograd.grad(loss, x)[0]

    def with_backpropagation(self, x: Tensor) -> Tensor:
        """The network's output for x, (N, ...); its backward is backpropagation, whatever the rule."""
        return self._by_backpropagation(x, learns=True)

    def _by_backpropagation(self, x: Tensor, learns: bool) -> Tensor:
        """Compute what `with_backpropagation` does; the parameters get gradients if it learns."""
        if self._onlookers(x) != (None, False):
            return super().forward(x)
        stages = self._stages()
        step = NetworkStep(stages, [BP()] * (len(stages) - 1), (), None, None)
        output: Tensor = StepFunction.apply(step, x, *(step.parameters if learns else ()))
        return output

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
            sizes = self._sizes(rules[-1], layers, like)
            self._units, self._classes = sizes.units, sizes.units[-1]
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
            if sizes.takes_indices:
                raise ValueError(
                    "rule: PEPITA adds F e to the input, and this network takes integers (indices of tokens); expected "
                    "one that takes floating-point numbers"
                )
            if rule.output_error == "modulated" and sizes.preactivations != self._classes:
                raise ValueError(
                    f"rule: PEPITA(output_error='modulated') takes {rule.output} of a_L, of which pooling follows here "
                    f"({sizes.preactivations} units become {self._classes}); expected output_error='standard'"
                )
            projection = feedback_matrices.draw(
                rule.projection, sizes.sample, self._classes, like, rule.projection_scale
            )
            buffers["projection"] = _classes_in_one_piece(projection)
        return buffers

    def _sizes(self, rule: Rule, layers: Sequence[Stage], like: Tensor) -> _Sizes:
        """The sizes in the network of a sample, found by a dry run."""
        shape = self.input_shape
        first = layers[0].layer
        if shape is None and isinstance(first, torch.nn.Linear):
            shape = (first.in_features,)
        if shape is None:
            raise ValueError(
                f"input_shape: {rule} has fixed matrices whose shape depends on it; expected the shape of one sample, "
                "for example (3, 32, 32), got None"
            )
        refusals = RuntimeError, ValueError, IndexError
        with untouched(self), torch.no_grad():
            self.eval()
            try:
                return self._dry_run(like.new_zeros(1, *shape))
            except refusals as of_numbers:
                try:
                    return self._dry_run(like.new_zeros(1, *shape, dtype=torch.int64))  # of tokens
                except refusals as of_integers:
                    raise ValueError(
                        f"input_shape: the network does not take samples of shape {shape}: {of_numbers}; nor, of "
                        f"integers: {of_integers}"
                    ) from of_numbers

    def _dry_run(self, h: Tensor) -> _Sizes:
        sample, takes_indices, units = h[0].numel(), not h.is_floating_point(), []
        for stage in self._stages():
            if stage.layer is not None:
                preactivations = single_tensor(stage.layer, stage.layer(h))[0].numel()
            h = stage.run(h)
            units.append(h[0].numel())
        return _Sizes(sample, takes_indices, tuple(units[1:]), preactivations)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Every tensor is contiguous, as safetensors asks: of F, which lies in memory otherwise, it is a copy."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.projection is not None:
            destination[prefix + "projection"] = destination[prefix + "projection"].contiguous()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """A state dict without fixed matrices (of a plain torch network) leaves them as they are."""
        for name, matrix in self._buffers.items():
            if matrix is not None:
                state_dict.setdefault(prefix + name, matrix)
        if self.projection is not None:  # which `assign=True` puts in the place of the buffer
            state_dict[prefix + "projection"] = _classes_in_one_piece(state_dict[prefix + "projection"])
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plan": None, "_checked_plan": None}

    def extra_repr(self) -> str:
        return "" if self.rule is None else f"rule={self.rule!r}"


def _classes_in_one_piece(projection: Tensor) -> Tensor:
    """Return F with the numbers of a class in one piece of memory, as every use of it multiplies by those."""
    return projection.T.contiguous().T


def _check_weights_are_there(network: torch.nn.Module) -> None:
    """Refuse modules whose weights wait for their first input."""
    for name, module in network.named_modules():
        if any(map(is_lazy, (*module.parameters(recurse=False), *module.buffers(recurse=False)))):
            raise ValueError(
                f"rule: {type(module).__name__} {name!r} has no weights before its first input; "
                "expected one batch to have gone through the network before set_rule"
            )


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


def _check_modulated(stages: Sequence[Stage]) -> None:
    """PEPITA's modulated pass can go through these stages; what runs code of its own is asked at each step."""
    for link in (link for stage in stages for link in stage.links if isinstance(link, ModuleLink)):
        for module in link.module.modules():
            if not has_own_forward(module) and (reason := why_not_modulated(module)) is not None:
                raise ValueError(f"rule: PEPITA cannot train this network: {reason}")


def _warn_of_backpropagation(rules: Sequence[Rule], layers: Sequence[Stage]) -> None:
    """Say that the whole network learns by backpropagation although a rule is another."""
    if all(isinstance(rule, BP) for rule in rules):
        return
    # FA has a matrix in the place of the weights of a linear layer or convolution above, and none in that of a block.
    hidden = zip(rules[:-1], layers[1:], strict=True)
    true = [isinstance(rule, BP) or (isinstance(rule, FA) and above.native is None) for rule, above in hidden]
    if all(true) if true else layers[0].native is None:
        warnings.warn(
            f"rule: under {rules[-1]} all of this network learns by backpropagation, because its units are blocks "
            f"({', '.join(type(stage.layer).__name__ for stage in layers)}); a rule needs Linear or Conv2d layers "
            "in the chain itself, or another rule between the blocks",
            stacklevel=3,
        )


def check_is_tensor(argument: str, value: object) -> None:
    """Refuse what is no tensor, such as an array of NumPy.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, Tensor):
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        raise TypeError(f"{argument}: expected a torch.Tensor (torch.as_tensor makes one), got {kind}")


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
