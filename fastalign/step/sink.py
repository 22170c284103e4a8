"""An optimizer as a sink of updates: no gradient is stored where a kernel can take its step from the two terms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from fastalign.engine.passes import FeedbackTerm, LayerPass, as_pass, is_half
from fastalign.engine.run import CACHED
from fastalign.engine.shapes import as_matrix
from fastalign.engine.watch import Container, are_the_same, hold_the_same, members_of
from fastalign.ops.descent import Descent
from fastalign.ops.schemas import kernels
from fastalign.rules import Update
from fastalign.step.optimizer_state import (
    STATE_NAMES,
    Companions,
    descents_of,
    has_hooks,
    hooks_of,
    options_of,
    prepare_state,
    steps_made,
)


class _LinearStep(NamedTuple):
    """A layer's weight and bias with the two terms of its update."""

    weight: Tensor
    bias: Tensor | None
    post: Tensor
    pre: Tensor
    scale: float

    def bias_gradient(self) -> Tensor:
        """scale · Σ post."""
        return self.scale * self.post.sum(0, dtype=torch.promote_types(self.post.dtype, torch.float32))


class OptimizerSink:
    """Makes the steps of torch's SGD, RMSprop, Adam and AdamW on the state that they keep, from a rule's updates.

    A linear layer's weights step by ΔW = scale · Σ post ⊗ pre as it is formed (`linear_steps_`, or `feedback_steps_`
    where δ is formed with it), other parameters by their gradients (`optimizer_steps_`).
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._descents: list[Descent] | None = None
        self._groups: dict[Tensor, int] = {}
        self._companions: dict[Tensor, Companions] = {}
        self._all: list[Companions] = []
        self._stepping: dict[Companions, dict[Tensor, None]] = {}
        self._seen: list[object] = []
        self._containers: list[Container] = [vars(optimizer)]  # not yet looked at
        self._members: list[object] = []
        self._options: list[tuple[object, ...]] = []
        self._watched = False
        self.changes = 0
        """How often it was others that step together, or with other state, than before."""

    def begin(self) -> bool:
        """Before a step: its numbers, from the groups as they are now. False if the optimizer must make it itself."""
        is_other = not hold_the_same(self._containers, self._members)
        if is_other:
            self._look_closely()
        elif not all(c.have_counted() for c in self._all):
            self._part()
        if self._descents is None:
            return False
        for companions in self._all:
            if is_other or companions.counts_steps:
                companions.set_numbers(self._optimizer.param_groups[companions.group])
        return True

    def _look_closely(self) -> None:
        """Some object of the optimizer is another one than at the last step, maybe just a rate."""
        optimizer = self._optimizer
        options, watched = list(map(options_of, optimizer.param_groups)), has_hooks(optimizer)
        if options != self._options or watched != self._watched:
            self._options, self._watched = options, watched
            descents = descents_of(optimizer)
            if descents != self._descents:
                self._descents = descents
                self._part()
        if self._descents is not None and not (
            are_the_same(self._look(), self._seen) and all(c.have_counted() for c in self._all)
        ):
            self._part()
        groups, entries = optimizer.param_groups, optimizer.state
        self._containers = [vars(optimizer), *hooks_of(optimizer), groups, *groups, *(g["params"] for g in groups)]
        self._containers += [entries, *entries.values()]
        self._members = members_of(self._containers)

    def _look(self) -> list[object]:
        """The groups, their parameters, and all state."""
        found: list[object] = []
        for group in self._optimizer.param_groups:
            found.append(group)
            found += group["params"]
        entries = self._optimizer.state.values()
        return [*found, *entries, *chain.from_iterable(map(dict.values, entries))]

    def _part(self) -> None:
        self.changes += 1
        self._companions, self._all, self._seen = {}, [], self._look()

    def lasting(self) -> Iterator[Tensor]:
        """The tensors that stay where they are from step to step."""
        for companions in self._all:
            yield companions.settings
            yield from companions.state

    def apply(self, updates: Iterator[Update], lag: int | None = None) -> None:
        """The updates of a step; a layer's weights may still carry the signal of the next layer, so they wait for it.

        Where several are known at once, one call is for as many layers of a kind as stay in the cache; where calls are
        dear (CUDA), for all.

        lag: 1 if the updates of one layer only may wait, 0 if none need to.
        """
        self._find_groups()
        waiting: list[Update] = []
        for update in updates:
            together = lag is None and (as_pass(update.layer).updates_at_once or update.pre.is_cuda)
            if waiting and not together and waiting[-1].layer is not update.layer:
                self._apply(waiting)
                waiting = []
            waiting.append(update)
            del update  # so that its tensors go with those that waited
            if lag == 0 or (together and _fill_the_cache(waiting)):
                self._apply(waiting)
                waiting = []
        self._apply(waiting)

    def apply_gradients(self, gradients: Mapping[Tensor, Tensor]) -> None:
        """The gradients of a step."""
        self._find_groups()
        self._step_by(gradients)

    def end(self) -> list[Companions]:
        """After a step: returns those who made it."""
        stepping, self._stepping = self._stepping, {}
        for companions, parameters in stepping.items():
            if set(companions.parameters) != parameters.keys():
                self.changes += 1
                for parameter in companions.parameters:
                    del self._companions[parameter]
                companions.join(self._optimizer, parameters)
                self._companions.update(dict.fromkeys(parameters, companions))
                self._all = list(dict.fromkeys(self._companions.values()))
                self._seen, self._members = self._look(), []  # there is new state, to be looked at closely
        return list(stepping)

    def _find_groups(self) -> None:
        groups = enumerate(self._optimizer.param_groups)
        self._groups = {p: i for i, group in groups for p in group["params"] if p.requires_grad}
        self._stepping = {}

    def _companions_of(self, parameter: Tensor) -> Companions:
        """Those with whom the parameter makes this step."""
        found = self._companions.get(parameter)
        if found is None:
            assert self._descents is not None
            index = self._groups[parameter]
            group, descent = self._optimizer.param_groups[index], self._descents[index]
            prepare_state(self._optimizer, group, descent, parameter)
            steps = steps_made(self._optimizer, descent, parameter)
            new = Companions(index, descent, parameter.device, steps)
            found = next((c for c in (*self._all, *self._stepping) if c.could_be(new)), new)
            found.set_numbers(group)
        self._stepping.setdefault(found, {})[parameter] = None
        return found

    def _apply(self, updates: Sequence[Update]) -> None:
        kinds: dict[tuple[Companions, torch.dtype, bool], list[_LinearStep]] = {}
        gradients: dict[Tensor, Tensor] = {}
        for _, group in groupby(updates, key=lambda update: id(update.layer)):
            of_layer = list(group)
            post: object = of_layer[0].post
            if isinstance(post, FeedbackTerm):
                self._feedback_step(of_layer[0], post)
                continue
            step = self._linear_step(of_layer[0]) if len(of_layer) == 1 else None
            if step is None:
                for layer, post, pre, scale, with_bias in of_layer:
                    for p, gradient in as_pass(layer).gradients(post, pre, scale, with_bias).items():
                        gradients[p] = gradients[p] + gradient if p in gradients else gradient
                continue
            companions = self._companions_of(step.weight)
            if step.bias is not None and self._companions_of(step.bias) is not companions:
                gradients[step.bias] = step.bias_gradient()
                step = step._replace(bias=None)
            of_slice = as_pass(of_layer[0].layer).slice
            if of_slice is not None:
                self._add_slice(step, companions, *of_slice)
                continue
            kinds.setdefault((companions, step.weight.dtype, step.bias is not None), []).append(step)
        for (companions, _, _), steps in kinds.items():
            weights, biases = [s.weight for s in steps], [s.bias for s in steps if s.bias is not None]
            kernels.linear_steps_(
                weights,
                biases,
                self._state(companions, weights),
                self._state(companions, biases),
                [s.post for s in steps],
                [s.pre for s in steps],
                [s.scale for s in steps],
                int(companions.descent),
                companions.settings,
            )
        self._step_by(gradients)

    def _add_slice(self, step: _LinearStep, companions: Companions, first: bool, last: bool) -> None:
        """V ← μV + ΔW + λW by the first slice, V ← V + ΔW by the others; with the last, W ← W − ηV."""
        rate, decay, momentum, *_ = companions.numbers
        parameters = [step.weight] if step.bias is None else [step.weight, step.bias]
        velocities = self._state(companions, parameters)
        kept = momentum if first else 1.0
        velocities[0].addmm_(step.post.T, step.pre, beta=kept, alpha=step.scale)
        if step.bias is not None:
            velocities[1].mul_(kept).add_(step.bias_gradient())
        for parameter, velocity in zip(parameters, velocities, strict=True):
            if first and decay:
                velocity.add_(parameter, alpha=decay)
            if last:
                parameter.sub_(velocity, alpha=rate)

    def _linear_step(self, update: Update) -> _LinearStep | None:
        """The update as the step of a linear layer and nothing else; None where it is not that."""
        parameters = self._linear_parameters(as_pass(update.layer), update.pre) if update.with_bias else None
        if parameters is None:
            return None
        weight, bias = parameters
        post = as_matrix(update.post.to(weight.dtype))
        return _LinearStep(weight, bias, post, as_matrix(update.pre), update.scale)

    def _linear_parameters(self, layer: LayerPass, pre: Tensor) -> tuple[Tensor, Tensor | None] | None:
        """What of a layer steps as its ΔW is formed, if it is a linear layer and nothing else."""
        if not layer.is_linear or layer.has_local_gradients:
            return None
        weight, bias = layer.own_parameters
        if weight not in self._groups or pre.dtype != weight.dtype or not weight.is_contiguous():
            return None
        if bias is not None and bias not in self._groups:
            bias = None
        if bias is not None and bias.dtype != weight.dtype:
            return None
        return weight, bias

    def forms_delta(self, layer: LayerPass) -> bool:
        """Whether a layer steps by a `FeedbackTerm`: in one call, on a CPU."""
        return self._companions_on_cpu(layer, layer.input) is not None

    def adds_up(self, layer: LayerPass, pre: Tensor) -> bool:
        """Whether the updates of slices of the samples, with terms like `pre`, add up in a layer's momentum."""
        companions = self._companions_on_cpu(layer, pre)
        # NOTE: a momentum of halves would round with every slice.
        return companions is not None and companions.descent is Descent.MOMENTUM and not is_half(pre)

    def _companions_on_cpu(self, layer: LayerPass, pre: Tensor) -> Companions | None:
        """Those with whom all of a layer steps in one call, on a CPU."""
        parameters = self._linear_parameters(layer, pre) if pre.is_cpu else None
        if parameters is None:
            return None
        weight, bias = parameters
        companions = self._companions_of(weight)
        return companions if bias is None or self._companions_of(bias) is companions else None

    def _feedback_step(self, update: Update, term: FeedbackTerm) -> None:
        weight, bias = as_pass(update.layer).own_parameters
        companions = self._companions_of(weight)
        weights, biases = [weight], [bias] if bias in self._groups else []
        kernels.feedback_steps_(
            weights,
            biases,
            self._state(companions, weights),
            self._state(companions, biases),
            term.signal,
            [term.matrix],
            [term.kept],
            [update.pre],
            term.activation,
            term.given_output,
            [update.scale],
            int(companions.descent),
            companions.settings,
        )

    def _step_by(self, gradients: Mapping[Tensor, Tensor]) -> None:
        kinds: dict[tuple[Companions, torch.dtype], list[Tensor]] = {}
        for parameter in gradients:
            if parameter in self._groups:
                kinds.setdefault((self._companions_of(parameter), parameter.dtype), []).append(parameter)
        for (companions, dtype), parameters in kinds.items():
            found = [gradients[p].to(torch.promote_types(gradients[p].dtype, dtype)) for p in parameters]
            state = self._state(companions, parameters)
            kernels.optimizer_steps_(parameters, state, found, int(companions.descent), companions.settings)

    def _state(self, companions: Companions, parameters: Iterable[Tensor]) -> list[Tensor]:
        names = STATE_NAMES[companions.descent]
        return [self._optimizer.state[p][name] for p in parameters for name in names] if names else []


def _fill_the_cache(updates: Sequence[Update]) -> bool:
    """Whether the updates had better be made now: those of a CPU, whose layers' weights take no signal further down."""
    if updates[-1].pre.is_cuda or sum(update.post.nbytes for update in updates) < CACHED:
        return False
    return not any(as_pass(update.layer).sends_signal for update in updates)
