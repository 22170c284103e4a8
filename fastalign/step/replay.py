"""A step's kernel calls, recorded once and replayed without the Python around them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._C import _len_torch_dispatch_stack, _len_torch_function_stack
from torch.autograd import forward_ad
from torch.nn import Parameter
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode

from fastalign.ops.transforms import is_transformed
from fastalign.step.native_replay import native_program

Program = Callable[..., list[Tensor]]

_PLAIN = (Tensor, Parameter)


def are_plain(*tensors: Tensor) -> bool:
    """Whether the tensors are no more than their memory, and no mode or transform sees the calls on them.

    A replay reads and writes memory, and makes its calls unseen.
    """
    if _len_torch_dispatch_stack() or is_transformed() or forward_ad._current_level >= 0:
        return False
    if _len_torch_function_stack() and not _only_set_devices(_get_current_function_mode_stack()):
        return False
    for tensor in tensors:  # noqa: SIM110 (a generator would take longer than what it asks)
        if type(tensor) not in _PLAIN or tensor.is_neg():
            return False
    return True


def lies_in_memory(tensor: Tensor) -> bool:
    """Whether a tensor has all its elements in memory, by strides; programs of the extension look themselves."""
    return tensor.layout is torch.strided and (tensor.data_ptr() != 0 or tensor.numel() == 0)


def _only_set_devices(modes: Iterable[object]) -> bool:
    """Whether the modes are those of `torch.set_default_device`, which concern new tensors alone."""
    return all(type(mode) is DeviceContext for mode in modes)


def record(
    step: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], lasting: Iterable[Tensor]
) -> tuple[list[Tensor], Program | None]:
    """Run a step, and make the program of its calls.

    Args:
        step: takes the inputs, returns tensors. What it does must follow from its inputs, but for the values of the
            lasting tensors and random numbers.
        inputs: the tensors that a replay is given anew, of the same shapes, strides and dtypes.
        lasting: the tensors that stay where they are from replay to replay (parameters, buffers, momenta).

    Returns:
        What the step returned, and the program: called with other inputs it returns what the step would have.

        None in its place if there is none: a call took a tensor from elsewhere, or told Python the value of one, or an
        input lies where another one or a lasting tensor does.
    """
    recorder = _Recorder(inputs, lasting)
    with recorder:
        results = list(step(*inputs))
    return results, recorder.program(results)


class _Recorder(TorchDispatchMode):
    """Writes every call into a graph. A tensor is known by its place in memory, which all its views at it share."""

    def __init__(self, inputs: Sequence[Tensor], lasting: Iterable[Tensor]) -> None:
        super().__init__()
        self._graph = fx.Graph()
        self._inputs = inputs
        self._nodes: dict[object, fx.Node] = {}
        self._lasting = {_place(tensor): tensor for tensor in lasting}
        self._used: list[Tensor] = []
        # Memory that is given back would be known by the name of what lay there before.
        self._alive: list[Any] = []
        for i, tensor in enumerate(inputs):
            self._nodes[_place(tensor)] = self._graph.placeholder(f"input_{i}")
        # Two of one place could not be told apart.
        self._complete = len(self._nodes) == len(inputs) and self._lasting.keys().isdisjoint(self._nodes)
        self._last_placeholder = self._graph.placeholder("end_of_inputs", default_value=None)

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = op(*args, **kwargs)
        if self._complete:
            self._alive.append(result)
            self._write(op, args, kwargs, result)
        return result

    def _write(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        tensors = [value for value in _leaves((args, list(kwargs.values()))) if isinstance(value, Tensor)]
        if not tensors and not isinstance(result, Tensor):
            return  # of dtypes and the like
        views = [r.alias_info is not None and not r.alias_info.is_write for r in op._schema.returns]
        if isinstance(result, Tensor) and views == [True] and tensors and all(self._lasts(t) for t in tensors):
            self._lasting.setdefault(_place(result), result)
            return
        node = self._graph.call_function(op, self._named(args), self._named(kwargs))
        if isinstance(result, Tensor):
            self._nodes[_place(result)] = node
        elif isinstance(result, list | tuple):
            for i, part in enumerate(result):
                if isinstance(part, Tensor):
                    self._nodes[_place(part)] = self._graph.call_function(operator.getitem, (node, i))
                elif part is not None:
                    self._complete = False
        elif result is not None:
            self._complete = False  # Python has got a number

    def _lasts(self, tensor: Tensor) -> bool:
        return _place(tensor) in self._lasting

    def _named(self, value: Any) -> Any:
        """The argument with nodes in place of tensors."""
        if isinstance(value, Tensor):
            return self._node(value)
        if isinstance(value, list | tuple):
            return type(value)(map(self._named, value))
        if isinstance(value, dict):
            return {key: self._named(part) for key, part in value.items()}
        return value

    def _node(self, tensor: Tensor) -> fx.Node | None:
        place = _place(tensor)
        if place not in self._nodes:
            if place not in self._lasting:
                self._complete = False
                return None
            with self._graph.inserting_before(self._last_placeholder):
                self._nodes[place] = self._graph.placeholder(f"lasting_{len(self._used)}")
            self._used.append(self._lasting[place])
        return self._nodes[place]

    def program(self, results: Sequence[Tensor]) -> Program | None:
        """The recorded calls as one function of the inputs, None where they depend on more."""
        self._graph.output([self._node(tensor) for tensor in results])
        if not self._complete:
            return None
        self._graph.erase_node(self._last_placeholder)
        native = native_program(self._graph, self._inputs, self._used)
        if native is not None:
            return native
        run, lasting = fx.GraphModule(torch.nn.Module(), self._graph).forward, self._used
        return lambda *inputs: run(*inputs, *lasting)


def _place(tensor: Tensor) -> object:
    if tensor.numel() == 0:
        return id(tensor)
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _leaves(value: Any) -> Iterable[Any]:
    if isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    else:
        yield value
