"""Every op's schema, its composite kernel (the reference) and its fake kernel, on one page.

Schemas are defined here and not in C++, so that an installation without a compiler has the same ops. The extension adds
native kernels to them (`csrc/`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastalign.ops import reference

_CONVOLUTION = "int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, int groups"
_WINDOW = "int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, bool ceil_mode"

SCHEMAS = {
    "activation_forward": "(Tensor a, int activation, float dropout, Tensor? seed) -> Tensor",
    "activation_backward": "(Tensor signal, Tensor kept, int activation, bool given_output, float dropout,"
    " Tensor? seed) -> Tensor",
    "activation_difference": "(Tensor a, Tensor delta_a, int activation, float dropout, Tensor? seed) -> Tensor",
    "feedback_term": "(Tensor signal, Tensor feedback, Tensor kept, int activation, bool given_output, float dropout,"
    " Tensor? seed) -> Tensor",
    "feedback_terms": "(Tensor signal, Tensor[] feedback, Tensor[] kept, int activation, bool given_output)"
    " -> Tensor[]",
    "linear_forward": "(Tensor x, Tensor weight, Tensor? bias, int activation, float dropout, Tensor? seed,"
    " bool keep_preactivation) -> (Tensor, Tensor)",
    "linear_difference": "(Tensor delta, Tensor weight, Tensor preactivation, int activation, float dropout,"
    " Tensor? seed) -> Tensor",
    "linear_update": "(Tensor post, Tensor pre, float scale, bool with_bias) -> (Tensor, Tensor)",
    "linear_updates": "(Tensor[] post, Tensor[] pre, float[] scale, bool with_bias) -> Tensor[]",
    "optimizer_steps_": "(Tensor(a!)[] parameter, Tensor(b!)[] state, Tensor[] gradient, int descent, Tensor settings)"
    " -> ()",
    "linear_steps_": "(Tensor(a!)[] weight, Tensor(b!)[] bias, Tensor(c!)[] weight_state, Tensor(d!)[] bias_state,"
    " Tensor[] post, Tensor[] pre, float[] scale, int descent, Tensor settings) -> ()",
    "feedback_steps_": "(Tensor(a!)[] weight, Tensor(b!)[] bias, Tensor(c!)[] weight_state, Tensor(d!)[] bias_state,"
    " Tensor signal, Tensor[] feedback, Tensor[] kept, Tensor[] pre, int activation, bool given_output, float[] scale,"
    " int descent, Tensor settings) -> ()",
    "dfa_linear_update": "(Tensor error, Tensor feedback, Tensor kept, Tensor x, int activation, bool given_output)"
    " -> (Tensor, Tensor)",
    "pepita_linear_update": "(Tensor h, Tensor h_mod, Tensor x_mod) -> (Tensor, Tensor)",
    "conv2d_update": f"(Tensor post, Tensor pre, {_CONVOLUTION}, float scale, bool with_bias) -> (Tensor, Tensor)",
    "dfa_conv2d_update": "(Tensor error, Tensor feedback, Tensor kept, Tensor x, int activation, bool given_output,"
    f" {_CONVOLUTION}) -> (Tensor, Tensor)",
    "pepita_conv2d_update": f"(Tensor h, Tensor h_mod, Tensor x_mod, {_CONVOLUTION}) -> (Tensor, Tensor)",
    "modulate_input": "(Tensor x, Tensor error, Tensor projection, float sign) -> Tensor",
    "cross_entropy": "(Tensor outputs, Tensor labels, bool mean) -> (Tensor, Tensor)",
    "max_pool2d_forward": f"(Tensor h, {_WINDOW}) -> Tensor",
    "max_pool2d_backward": "(Tensor signal, Tensor h, Tensor kept, int activation, bool given_output, float dropout,"
    f" Tensor? seed, {_WINDOW}) -> Tensor",
    "max_pool2d_difference": f"(Tensor h, Tensor delta_h, {_WINDOW}) -> Tensor",
}


def _like_first(first: Tensor, *_: object) -> Tensor:
    return first.new_empty(first.shape)


def _like_second(_first: Tensor, second: Tensor, *_: object) -> Tensor:
    return second.new_empty(second.shape)


def _like_third(_first: Tensor, _second: Tensor, third: Tensor, *_: object) -> Tensor:
    return third.new_empty(third.shape)


def _feedback_terms(_signal: Tensor, _feedback: Sequence[Tensor], kept: Sequence[Tensor], *_: object) -> list[Tensor]:
    return [k.new_empty(k.shape) for k in kept]


def _linear_forward(x: Tensor, weight: Tensor, *arguments: object) -> tuple[Tensor, Tensor]:
    output = x.new_empty(x.shape[0], weight.shape[0])
    return output, x.new_empty(output.shape if arguments[-1] else 0)


def _linear_update(post: Tensor, pre: Tensor, _scale: float, with_bias: bool) -> tuple[Tensor, Tensor]:
    return post.new_empty(post.shape[1], pre.shape[1]), post.new_empty(post.shape[1] if with_bias else 0)


def _linear_updates(
    post: Sequence[Tensor], pre: Sequence[Tensor], scale: Sequence[float], with_bias: bool
) -> list[Tensor]:
    return [update for layer in zip(post, pre, scale, strict=True) for update in _linear_update(*layer, with_bias)]


def _nothing(*_: object) -> None:
    return None


def _dfa_linear_update(_e: Tensor, _b: Tensor, kept: Tensor, x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return _linear_update(kept, x, 1.0, True)


def _pepita_linear_update(h: Tensor, _h_mod: Tensor, x_mod: Tensor) -> tuple[Tensor, Tensor]:
    return _linear_update(h, x_mod, 1.0, True)


def _kernel_update(
    post: Tensor, pre: Tensor, kernel_size: Sequence[int], groups: int, bias: bool
) -> tuple[Tensor, Tensor]:
    shape = (post.shape[1], pre.shape[1] // groups, *kernel_size)
    return post.new_empty(shape), post.new_empty(post.shape[1] if bias else 0)


def _conv2d_update(
    post: Tensor,
    pre: Tensor,
    kernel_size: Sequence[int],
    _stride: Sequence[int],
    _padding: Sequence[int],
    _dilation: Sequence[int],
    groups: int,
    _scale: float,
    with_bias: bool,
) -> tuple[Tensor, Tensor]:
    return _kernel_update(post, pre, kernel_size, groups, with_bias)


def _dfa_conv2d_update(
    _error: Tensor,
    _feedback: Tensor,
    kept: Tensor,
    x: Tensor,
    _activation: int,
    _given_output: bool,
    kernel_size: Sequence[int],
    _stride: Sequence[int],
    _padding: Sequence[int],
    _dilation: Sequence[int],
    groups: int,
) -> tuple[Tensor, Tensor]:
    return _kernel_update(kept, x, kernel_size, groups, True)


def _pepita_conv2d_update(
    h: Tensor,
    _h_mod: Tensor,
    x_mod: Tensor,
    kernel_size: Sequence[int],
    _stride: Sequence[int],
    _padding: Sequence[int],
    _dilation: Sequence[int],
    groups: int,
) -> tuple[Tensor, Tensor]:
    return _kernel_update(h, x_mod, kernel_size, groups, True)


def _cross_entropy(outputs: Tensor, _labels: Tensor, _mean: bool) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(outputs.dtype, torch.float32)
    return outputs.new_empty((), dtype=wide), outputs.new_empty(outputs.shape)


def _max_pool2d_forward(h: Tensor, *window: object) -> Tensor:
    return torch.ops.aten.max_pool2d_with_indices(h, *window)[0].contiguous()


def _max_pool2d_difference(h: Tensor, _delta_h: Tensor, *window: object) -> Tensor:
    return _max_pool2d_forward(h, *window)


_FAKES: dict[str, Callable[..., object]] = {
    "activation_forward": _like_first,
    "activation_backward": _like_second,
    "activation_difference": _like_first,
    "feedback_term": _like_third,
    "feedback_terms": _feedback_terms,
    "linear_forward": _linear_forward,
    "linear_difference": _like_third,
    "linear_update": _linear_update,
    "linear_updates": _linear_updates,
    "optimizer_steps_": _nothing,
    "linear_steps_": _nothing,
    "feedback_steps_": _nothing,
    "dfa_linear_update": _dfa_linear_update,
    "pepita_linear_update": _pepita_linear_update,
    "conv2d_update": _conv2d_update,
    "dfa_conv2d_update": _dfa_conv2d_update,
    "pepita_conv2d_update": _pepita_conv2d_update,
    "modulate_input": _like_first,
    "cross_entropy": _cross_entropy,
    "max_pool2d_forward": _max_pool2d_forward,
    "max_pool2d_backward": _like_second,
    "max_pool2d_difference": _max_pool2d_difference,
}


def _without_autocast(kernel: Callable[..., object]) -> Callable[..., object]:
    """The kernel with autocast off: the dtypes are those of its arguments, which the public functions have cast."""

    def run(*arguments: object) -> object:
        tensors = (t for a in arguments for t in (a if isinstance(a, list) else [a]) if isinstance(t, Tensor))
        device = next(tensors).device
        with torch.autocast(device.type, enabled=False):
            return kernel(*arguments)

    return run


_library = torch.library.Library("fastalign", "DEF")
for _name, _schema in SCHEMAS.items():
    _library.define(_name + _schema, tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(_name, _without_autocast(getattr(reference, _name)), "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastalign::{_name}", _FAKES[_name], lib=_library)

kernels = torch.ops.fastalign
