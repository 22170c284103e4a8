"""A step that keeps the activities of one layer at a time, and computes them again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from itertools import cycle, islice
from typing import cast

import torch
from torch import Tensor

from fastalign.engine.hooks import has_hooks
from fastalign.engine.links import is_stochastic
from fastalign.engine.passes import FeedbackTerm, LayerPass, as_pass
from fastalign.engine.plan import ActivationLink, Stage
from fastalign.engine.run import NetworkStep, runs_of
from fastalign.engine.tape import Keep, Tape
from fastalign.rules import RULES, Layer, Rule, Update

_SLICES = 8
"""Of the samples, at most; one at a time has the terms of two layers."""
_FEWEST_SAMPLES = 32
"""Of a slice: products of fewer are slow."""


class RecomputingStep(NetworkStep):
    """The same numbers in a memory that does not grow with depth, for a second run of the hidden layers.

    Once e is known, rules that do not pass through layers go over them from the input on. Each layer's forward runs
    again when it is reached, with the seeds of its dropout, before its weights move. Where the sink
    `forms_delta`, there is never all of δ_l; it then rounds as the library rounds narrower products. Where it `adds_up`
    updates of slices of the samples, a rule that `takes_slices` goes over a layer slice by slice, and each takes the
    place of what the layer before has of those samples; it then rounds as sums of sums do.

    Raises:
        ValueError: for a rule that passes back through layers, or a module that a second run would change or draw for.
    """

    _is_slice = False

    def forward(self, x: Tensor, keep: bool = True) -> Tensor:
        for rule in self._rules[:-1]:
            if rule.passes_through_layers:
                raise ValueError(
                    f"memory: {rule} takes δ from the output back through every layer, whose activities have to wait "
                    "for it; expected 'store', or a rule that goes over the layers from the input on"
                )
        for stage in (self._prelude.stage, *(layer.stage for layer in self.layers[:-1])):
            _check(stage)
        self._x = x
        return super().forward(x, keep)

    def _keep(self, layer: LayerPass, rule: Rule) -> Keep:
        return super()._keep(layer, rule) if layer is self.layers[-1] else Keep.NOTHING

    def _keep_prelude(self) -> Keep:
        return Keep.NOTHING

    def updates(self, kept: tuple[Tensor, ...], output_gradient: Tensor) -> Iterator[Update]:
        self._tape.restore(kept)
        del kept
        *hidden, output = self.layers
        self._sent, self._gradient = output.take_error_back(output_gradient)
        rule = self._rules[-1]
        self._scale_error(rule)
        slices = self._slices(rule)
        if slices:
            output.drop_input()
            yield from _in_turn([step._updates_of_slice(rule) for step in slices])
            return
        layers = cast(Sequence[Layer], self._run_again())
        if rule.whole_network:
            yield from rule.updates(self, layers, self._output_update(output.input))
            return
        yield Update(output, self._gradient, output.input)
        above = Update(output, self._gradient, self._gradient)  # whose input is not asked for, and may go
        for rule, run in runs_of(self._rules[:-1], hidden):
            self._scale_error(rule)
            yield from rule.updates(self, cast(Sequence[Layer], islice(layers, len(run))), above)

    def _slices(self, rule: Rule) -> list[RecomputingStep]:
        """The step from the second run on, cut along the samples; none where it has to be in one piece."""
        samples = self._x.shape[0]
        count = min(_SLICES, samples // _FEWEST_SAMPLES)
        if count < 2 or not rule.takes_slices or self._tape.seeds or self.adds_up is None:
            return []
        stages = [layer.stage for layer in (self._prelude, *self.layers)]
        if not all(map(_keeps_samples_apart, stages)) or stages[-1].hooked:
            return []
        if not all(self.adds_up(layer, self._gradient) for layer in self.layers):
            return []
        return [self._slice(slice(samples * i // count, samples * (i + 1) // count)) for i in range(count)]

    def _slice(self, samples: slice) -> RecomputingStep:
        """The step of these samples, whose hidden layers and output are still to be run."""
        step = copy(self)
        step._x, step._is_slice = self._x[samples], True
        step._sent = step._gradient = self._gradient[samples]
        step.input_shape = step._x.shape
        step.layers = [*self.layers[:-1], LayerPass(self.layers[-1].stage, Tape())]
        return step

    def _updates_of_slice(self, rule: Rule) -> Iterator[Update]:
        """The updates of a step that `_slice` gave."""
        above = self._output_update(self._gradient)  # whose input is not asked for
        return rule.updates(self, cast(Sequence[Layer], self._run_again()), above)

    def _run_again(self) -> Iterator[LayerPass]:
        """The hidden layers in order, each with what its rule asks of it until the next one is asked for.

        Then the output layer has its input again; that of a slice runs again too.
        """
        output, seeds = self.layers[-1], iter(self._tape.seeds)
        if not self._is_slice:
            output.drop_input()
        self._prelude = LayerPass(self._prelude.stage, Tape(seeds))
        h, owns_input = self._prelude.forward(self._x, super()._keep_prelude()), False
        for i, (before, rule) in enumerate(zip(self.layers[:-1], self._rules, strict=False)):
            layer = LayerPass(before.stage, Tape(seeds))
            layer.rows_beside = before.rows_beside
            layer.owns_input, layer.defers_output = owns_input, True
            layer.hands_on_delta = type(rule) in RULES.values()  # others may compute with it
            h = layer.forward(h, super()._keep(layer, rule))
            recalls_output = layer.recalls_output
            if recalls_output:
                h = layer.preactivation()  # not both at a time
            layer.keep_feedback(self._feedback[i])
            self.layers[i] = layer
            yield layer
            self.layers[i] = before
            if recalls_output:
                layer.drop_input()
                h = layer.activity()
            layer.release()
            # One part of an update may have the activity itself, and wait for the others.
            owns_input = recalls_output or not rule.updates_in_parts
        output.owns_input = owns_input
        if self._is_slice:
            output.forward(h, super()._keep(output, self._rules[-1]))
        else:
            output.input = h

    def feedback_terms(self, signal: Tensor, layers: Iterable[Layer]) -> Iterable[tuple[Layer, Tensor]]:
        for layer in cast(Iterable[LayerPass], layers):
            plain = layer.plain_feedback() if layer.hands_on_delta else None
            if plain is None or plain[1].dim() != 2 or self.forms_delta is None or not self.forms_delta(layer):
                yield layer, layer.delta(signal, layer.feedback)
            else:
                yield layer, cast(Tensor, FeedbackTerm(signal.to(plain[1].dtype), *plain))
            del plain  # before the next layer is there


def _in_turn(runs: Sequence[Iterator[Update]]) -> Iterator[Update]:
    """The next update of each slice, then those after it. Who takes one is the last to have its terms."""
    for run in cycle(runs):
        update = next(run, None)
        if update is None:
            return
        layer = as_pass(update.layer)
        layer.slice = run is runs[0], run is runs[-1]
        yield update
        del update
        layer.drop_input()


def _keeps_samples_apart(stage: Stage) -> bool:
    """Whether all that follows the layer is known to see each sample by itself."""
    return all(isinstance(link, ActivationLink) or type(link.module) is torch.nn.Flatten for link in stage.links)


def _check(stage: Stage) -> None:
    """A second run of the stage gives what the first one gave, and leaves nothing else behind."""
    if stage.layer is not stage.native:
        raise ValueError(
            f"memory: {type(stage.layer).__name__} is a block, which may draw or remember; expected 'store'"
        )
    if stage.hooked:
        hooked = next((module for module in stage.modules() if has_hooks(module)), "a nested Sequential")
        raise ValueError(f"memory: {hooked} has a hook, which would see two passes; expected 'store'")
    for link in stage.links:
        if isinstance(link, ActivationLink):
            continue
        name = type(link.module).__name__
        if not type(link.module).__module__.startswith("torch.nn.") or "forward" in vars(link.module):
            raise ValueError(f"memory: {name} runs code of its own, which may draw or remember; expected 'store'")
        if is_stochastic(link.module):
            raise ValueError(f"memory: {name} draws anew in a second pass; expected 'store', or Dropout in its place")
        if link.module.training and getattr(link.module, "running_mean", None) is not None:
            raise ValueError(
                f"memory: {name} in training mode changes its running statistics in every pass; "
                "expected 'store', or it in eval mode"
            )
