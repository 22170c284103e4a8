"""The public functions on tensors: argument checks, autocast, dispatch.

`dfa_*` sum over the batch (the error of a mean-reduced loss already carries 1/N); `pepita_*` divide by N, and the
convolution by N·Ho·Wo. Updates have the sign of a gradient: W ← W − η ΔW.

Inputs are float64, float32, bfloat16 or float16, of any strides; sums are taken in float32 or wider; results have the
dtype of the inputs. An empty batch gives a zero update. Wrong shapes and devices raise ValueError, wrong dtypes
TypeError, an input that requires grad or a forward-mode derivative RuntimeError (only `modulate_input` has those).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastalign.ops import checks, flops
from fastalign.ops import native as native  # registers the native kernels
from fastalign.ops import schemas as schemas  # defines the ops
from fastalign.ops.activations import Activation
from fastalign.ops.autocast import autocast
from fastalign.ops.transforms import have_tangents

__all__ = [
    "dfa_conv2d_update",
    "dfa_linear_update",
    "dfa_projection",
    "modulate_input",
    "pepita_conv2d_update",
    "pepita_linear_update",
]

_kernels = torch.ops.fastalign
flops.register()


def _autocast(*arguments: Tensor) -> tuple[Tensor, ...]:
    """The arguments under autocast; what is no tensor is left for the checks to name."""
    return tuple(autocast(tensor) if isinstance(tensor, Tensor) else tensor for tensor in arguments)


def _feedback_arguments(
    op: str, error: Tensor, feedback: Tensor, preactivation: Tensor, activation: str | Activation, given: str
) -> tuple[Activation, bool]:
    """The activation and whether the third argument is the output, after the checks that all `dfa_*` share."""
    if given not in ("preactivation", "output"):
        raise ValueError(f"given: expected 'preactivation' or 'output', got {given!r}")
    function = Activation.named(activation)
    if given == "output" and not function.derivative_follows_from_output:
        raise ValueError(f"given: the derivative of {function.name.lower()} needs the preactivation, got 'output'")
    checks.tensors(preactivation=preactivation, error=error, feedback=feedback)
    checks.no_gradient(op, error=error, feedback=feedback, preactivation=preactivation)
    checks.rank("preactivation", preactivation, (2, 4), "(N, H) or (N, Co, Ho, Wo)")
    checks.shape("error", error, (preactivation.shape[0], None), "(N, C)")
    checks.shape("feedback", feedback, (preactivation.shape[1:].numel(), error.shape[1]), "(H, C)")
    return function, given == "output"


def dfa_projection(
    error: Tensor,
    feedback: Tensor,
    preactivation: Tensor,
    activation: str | Activation = "tanh",
    given: str = "preactivation",
) -> Tensor:
    """The DFA error of a hidden layer, δ = (B e) ⊙ f′(a) (Nøkland 2016, eq. 8).

    Args:
        error: e, (N, C).
        feedback: B, (H, C); for a feature map H = Co·Ho·Wo.
        preactivation: a, (N, H) or (N, Co, Ho, Wo); with given="output" the output h = f(a) instead.
        activation: the name of f.
        given: "preactivation" or "output"; silu and gelu need the preactivation.

    Returns:
        δ, shaped like `preactivation`.

    Raises:
        ValueError, TypeError, RuntimeError: as the module says.
    """
    error, feedback, preactivation = _autocast(error, feedback, preactivation)
    function, given_output = _feedback_arguments("dfa_projection", error, feedback, preactivation, activation, given)
    return _kernels.feedback_term(error, feedback, preactivation, int(function), given_output, 0.0, None)


def dfa_linear_update(
    error: Tensor,
    feedback: Tensor,
    preactivation: Tensor,
    x: Tensor,
    activation: str | Activation = "tanh",
    given: str = "preactivation",
) -> tuple[Tensor, Tensor]:
    """The DFA update of a linear layer, ΔW = δᵀ x and Δb = Σ δ with δ = (B e) ⊙ f′(a) (Nøkland 2016, eq. 8).

    Args:
        error, feedback, preactivation, activation, given: as for `dfa_projection`, preactivation (N, H).
        x: the layer's input, (N, K).

    Returns:
        The weight update (H, K) and the bias update (H), summed over the batch.

    Raises:
        ValueError, TypeError, RuntimeError: as the module says.
    """
    error, feedback, preactivation, x = _autocast(error, feedback, preactivation, x)
    op = "dfa_linear_update"
    function, given_output = _feedback_arguments(op, error, feedback, preactivation, activation, given)
    checks.rank("preactivation", preactivation, (2,), "(N, H)")
    checks.tensors(preactivation=preactivation, x=x)
    checks.no_gradient(op, x=x)
    checks.shape("x", x, (preactivation.shape[0], None), "(N, K)")
    weight_update, bias_update = _kernels.dfa_linear_update(
        error, feedback, preactivation, x, int(function), given_output
    )
    return weight_update, bias_update


def _convolution(
    post: Tensor,
    pre: Tensor,
    pre_name: str,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int], int]:
    """The convolution's arguments as pairs, checked against the shapes of its output and its input."""
    kernel = checks.pair("kernel_size", kernel_size, 1)
    steps = checks.pair("stride", stride, 1)
    pads = checks.pair("padding", padding, 0)
    holes = checks.pair("dilation", dilation, 1)
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"groups: expected an int of at least 1, got {groups!r}")
    checks.rank(pre_name, pre, (4,), "(N, Ci, Hi, Wi)")
    for channels, name in ((pre.shape[1], pre_name), (post.shape[1], "output")):
        if channels % groups:
            raise ValueError(f"groups: expected a divisor of the {channels} channels of {name}, got {groups}")
    size = [(pre.shape[2 + i] + 2 * pads[i] - holes[i] * (kernel[i] - 1) - 1) // steps[i] + 1 for i in range(2)]
    meaning = "(N, Ci, Hi, Wi)"
    if pre.shape[0] != post.shape[0]:
        checks.shape(pre_name, pre, (post.shape[0], *pre.shape[1:]), meaning)
    if size != list(post.shape[2:]):
        raise ValueError(
            f"{pre_name}: a convolution of its {tuple(pre.shape[2:])} gives maps of {tuple(size)}, "
            f"expected {tuple(post.shape[2:])}, those of the output"
        )
    return kernel, steps, pads, holes, groups


def dfa_conv2d_update(
    error: Tensor,
    feedback: Tensor,
    preactivation: Tensor,
    x: Tensor,
    kernel_size: int | Sequence[int],
    activation: str | Activation = "tanh",
    given: str = "preactivation",
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor]:
    """The DFA update of a convolution, ΔK = Σ δ ⊗ patch and Δb = Σ δ with δ = (B e) ⊙ f′(a) (Nøkland 2016, eq. 8).

    Args:
        error, feedback, preactivation, activation, given: as for `dfa_projection`, preactivation (N, Co, Ho, Wo).
        x: the layer's input, (N, Ci, Hi, Wi).
        kernel_size, stride, padding, dilation, groups: as for torch.nn.Conv2d.

    Returns:
        The kernel update (Co, Ci / groups, kh, kw) and the bias update (Co), summed over batch and positions.

    Raises:
        ValueError, TypeError, RuntimeError: as the module says.
    """
    error, feedback, preactivation, x = _autocast(error, feedback, preactivation, x)
    op = "dfa_conv2d_update"
    function, given_output = _feedback_arguments(op, error, feedback, preactivation, activation, given)
    checks.rank("preactivation", preactivation, (4,), "(N, Co, Ho, Wo)")
    checks.tensors(preactivation=preactivation, x=x)
    checks.no_gradient(op, x=x)
    convolution = _convolution(preactivation, x, "x", kernel_size, stride, padding, dilation, groups)
    update, bias_update = _kernels.dfa_conv2d_update(
        error, feedback, preactivation, x, int(function), given_output, *convolution
    )
    return update, bias_update


def pepita_linear_update(h: Tensor, h_mod: Tensor, x_mod: Tensor) -> tuple[Tensor, Tensor]:
    """PEPITA's update of a linear layer, ΔW = (h − h_mod)ᵀ x_mod / N (Dellaferrera & Kreiman 2022, eqs 1–6).

    Args:
        h, h_mod: the layer's activities in the standard and the modulated pass, (N, H).
        x_mod: its input in the modulated pass, (N, K).

    Returns:
        The weight update (H, K) and the bias update Σ (h − h_mod) / N (H).

    Raises:
        ValueError, TypeError, RuntimeError: as the module says.
    """
    h, h_mod, x_mod = _autocast(h, h_mod, x_mod)
    checks.tensors(h=h, h_mod=h_mod, x_mod=x_mod)
    checks.no_gradient("pepita_linear_update", h=h, h_mod=h_mod, x_mod=x_mod)
    checks.rank("h", h, (2,), "(N, H)")
    checks.shape("h_mod", h_mod, h.shape, "(N, H), that of h")
    checks.shape("x_mod", x_mod, (h.shape[0], None), "(N, K)")
    weight_update, bias_update = _kernels.pepita_linear_update(h, h_mod, x_mod)
    return weight_update, bias_update


def pepita_conv2d_update(
    h: Tensor,
    h_mod: Tensor,
    x_mod: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor]:
    """PEPITA's update of a convolution: activity difference times input patch, averaged over samples and positions.

    ΔK = Σ (h − h_mod) ⊗ patch of x_mod / (N·Ho·Wo) (Dellaferrera & Kreiman 2022, §3.3).

    Args:
        h, h_mod: activities of the standard and the modulated pass before pooling, (N, Co, Ho, Wo).
        x_mod: the layer's input in the modulated pass, (N, Ci, Hi, Wi).
        kernel_size, stride, padding, dilation, groups: as for torch.nn.Conv2d.

    Returns:
        The kernel update (Co, Ci / groups, kh, kw) and the bias update Σ (h − h_mod) / (N·Ho·Wo) (Co).

    Raises:
        ValueError, TypeError, RuntimeError: as the module says.
    """
    h, h_mod, x_mod = _autocast(h, h_mod, x_mod)
    checks.tensors(h=h, h_mod=h_mod, x_mod=x_mod)
    checks.no_gradient("pepita_conv2d_update", h=h, h_mod=h_mod, x_mod=x_mod)
    checks.rank("h", h, (4,), "(N, Co, Ho, Wo)")
    checks.shape("h_mod", h_mod, h.shape, "(N, Co, Ho, Wo), that of h")
    convolution = _convolution(h, x_mod, "x_mod", kernel_size, stride, padding, dilation, groups)
    update, bias_update = _kernels.pepita_conv2d_update(h, h_mod, x_mod, *convolution)
    return update, bias_update


def modulate_input(x: Tensor, error: Tensor, projection: Tensor, sign: float = 1.0) -> Tensor:
    """The input of PEPITA's modulated pass, x + sign · F e (Dellaferrera & Kreiman 2022, eq. 3).

    Args:
        x: the input, (N, K) or (N, Ci, Hi, Wi).
        error: e, (N, C).
        projection: F, (D, C), D the size of one sample.
        sign: the factor of the modulation.

    Returns:
        The modulated input, shaped like x; differentiable.

    Raises:
        ValueError, TypeError: as the module says.
    """
    x, error, projection = _autocast(x, error, projection)
    factor = checks.number("sign", sign)
    checks.tensors(x=x, error=error, projection=projection)
    checks.rank("x", x, (2, 4), "(N, K) or (N, Ci, Hi, Wi)")
    checks.shape("error", error, (x.shape[0], None), "(N, C)")
    checks.shape("projection", projection, (x.shape[1:].numel(), error.shape[1]), "(D, C)")
    tensors = x, error, projection
    if have_tangents(tensors) or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
        return x + factor * (error @ projection.T).reshape(x.shape)
    return _kernels.modulate_input(x, error, projection, factor)
