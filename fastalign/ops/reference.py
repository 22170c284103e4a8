"""The definition of correct: every kernel of fastalign in plain, readable PyTorch.

Each function has the name and the arguments of its op `torch.ops.fastalign.<name>`, and is that op's kernel wherever
there is no native one. Half-precision inputs are computed in float32; results come back in the dtype of the inputs.

Shapes: N samples, C classes (the width of the signal), H units of the layer, K inputs of the layer. A feature map of
shape (N, Co, Ho, Wo) has H = Co·Ho·Wo units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastalign.ops.activations import Activation
from fastalign.ops.descent import Descent, Settings


def _wide(tensor: Tensor) -> Tensor:
    """The tensor in the dtype that sums are taken in: float32, or float64 where it already is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def activate(a: Tensor, activation: int) -> Tensor:
    """h = f(a)."""
    match Activation(activation):
        case Activation.IDENTITY:
            return a
        case Activation.TANH:
            return torch.tanh(a)
        case Activation.LOGISTIC:
            return torch.sigmoid(a)
        case Activation.RELU:
            return torch.relu(a)
        case Activation.LEAKY_RELU:
            return F.leaky_relu(a, 0.01)
        case Activation.ELU:
            return F.elu(a)
        case Activation.SOFTPLUS:
            return F.softplus(a)
        case Activation.SILU:
            return F.silu(a)
        case Activation.GELU:
            return F.gelu(a)


def _derivative(a: Tensor, activation: int) -> Tensor:
    """f′(a), from the preactivation."""
    one = torch.ones_like(a)
    match Activation(activation):
        case Activation.IDENTITY:
            return one
        case Activation.TANH:
            return 1 - torch.tanh(a) ** 2
        case Activation.LOGISTIC:
            h = torch.sigmoid(a)
            return h * (1 - h)
        case Activation.RELU:
            return torch.where(a <= 0, 0 * one, one)
        case Activation.LEAKY_RELU:
            return torch.where(a > 0, one, 0.01 * one)
        case Activation.ELU:
            return torch.where(a <= 0, torch.exp(a), one)
        case Activation.SOFTPLUS:
            return torch.sigmoid(a)
        case Activation.SILU:
            logistic = torch.sigmoid(a)
            return logistic * (1 + a * (1 - logistic))
        case Activation.GELU:
            density = torch.exp(-0.5 * a * a) / math.sqrt(2 * math.pi)
            return 0.5 * (1 + torch.erf(a / math.sqrt(2))) + a * density


def _derivative_from_output(h: Tensor, activation: int) -> Tensor:
    """f′(a), from the output h = f(a)."""
    one = torch.ones_like(h)
    match Activation(activation):
        case Activation.IDENTITY:
            return one
        case Activation.TANH:
            return 1 - h * h
        case Activation.LOGISTIC:
            return h * (1 - h)
        case Activation.RELU:
            return torch.where(h <= 0, 0 * one, one)
        case Activation.LEAKY_RELU:
            return torch.where(h > 0, one, 0.01 * one)
        case Activation.ELU:
            return torch.where(h <= 0, h + 1, one)
        case Activation.SOFTPLUS:
            return -torch.expm1(-h)
    raise ValueError(f"activation: {Activation(activation).name.lower()} has no derivative in terms of its output")


def _difference(a: Tensor, delta: Tensor, activation: int) -> Tensor:
    """f(a + Δ) − f(a), where it can by an identity that does not lose the digits that the two share."""
    b = a + delta
    direct = activate(b, activation) - activate(a, activation)
    above, below = (a > 0) & (b > 0), (a <= 0) & (b <= 0)
    match Activation(activation):
        case Activation.IDENTITY:
            exact = delta
        case Activation.TANH:  # tanh a = 2 σ(2a) − 1
            exact = 2 * _logistic_difference(2 * a, 2 * delta)
        case Activation.LOGISTIC:
            exact = _logistic_difference(a, delta)
        case Activation.RELU:
            exact = torch.where(above, delta, direct)
        case Activation.LEAKY_RELU:
            exact = torch.where(above, delta, torch.where(below, 0.01 * delta, direct))
        case Activation.ELU:
            exact = torch.where(above, delta, torch.where(below, torch.exp(a) * torch.expm1(delta), direct))
        case Activation.SOFTPLUS:
            exact = torch.where(delta.abs() <= 1, torch.log1p(torch.sigmoid(a) * torch.expm1(delta)), direct)
        case Activation.SILU:  # a σ(a)
            exact = delta * torch.sigmoid(b) + a * _logistic_difference(a, delta)
        case Activation.GELU:  # a Φ(a)
            exact = delta * _normal_cumulative(b) + a * _normal_difference(a, delta)
    return torch.where(exact.isfinite() & b.isfinite(), exact, direct)


def _logistic_difference(a: Tensor, delta: Tensor) -> Tensor:
    """σ(a + Δ) − σ(a) = (1 − exp(−Δ)) σ(a + Δ) σ(−a)."""
    return -torch.expm1(-delta) * torch.sigmoid(a + delta) * torch.sigmoid(-a)


def _normal_cumulative(a: Tensor) -> Tensor:
    """Φ(a), to all digits far below 0 too."""
    return 0.5 * torch.erfc(a * -math.sqrt(0.5))


def _normal_difference(a: Tensor, delta: Tensor) -> Tensor:
    """Φ(a + Δ) − Φ(a), Φ the normal distribution: for a small Δ by the Taylor series about the middle."""
    m2, d2 = (a + 0.5 * delta) ** 2, delta**2
    density = torch.exp(-0.5 * m2) / math.sqrt(2 * math.pi)
    series = delta * density * (1 + d2 * ((m2 - 1) / 24 + d2 * ((m2 - 6) * m2 + 3) / 1920))
    largest = 0.01 if a.dtype == torch.float64 else 0.25
    return torch.where(delta.abs() <= largest, series, _normal_cumulative(a + delta) - _normal_cumulative(a))


def random_words(count: int, seed: Tensor) -> Tensor:
    """`count` 32-bit words (as int64) of the counter-based generator Philox4x32-10: (count,).

    Word i is output i mod 4 of counter (i div 4, 0) under the 64-bit key `seed`: any element can be drawn alone.
    Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    low = 0xFFFFFFFF
    block = torch.arange((count + 3) // 4, dtype=torch.int64, device=seed.device)
    c0, c1 = block & low, block >> 32
    c2, c3 = torch.zeros_like(block), torch.zeros_like(block)
    key = seed.reshape(())
    k0, k1 = key & low, (key >> 32) & low
    for _ in range(10):
        product0, product1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            ((product1 >> 32) & low) ^ c1 ^ k0,
            product1 & low,
            ((product0 >> 32) & low) ^ c3 ^ k1,
            product0 & low,
        )
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return torch.stack((c0, c1, c2, c3), dim=1).reshape(-1)[:count]


def dropout_factor(like: Tensor, p: float, seed: Tensor) -> Tensor:
    """The factor of inverted dropout for each element, counted row-major: 0 with probability p, else 1/(1 − p)."""
    if p >= 1:
        return torch.zeros_like(like)
    kept = random_words(like.numel(), seed) >= round(p * 2**32)
    return kept.to(like.dtype).reshape(like.shape) / (1 - p)


def activation_forward(a: Tensor, activation: int, dropout: float, seed: Tensor | None) -> Tensor:
    """h = f(a), then inverted dropout: like a."""
    h = activate(_wide(a), activation)
    if dropout > 0 and seed is not None:
        h = h * dropout_factor(h, dropout, seed)
    return h.to(a.dtype, memory_format=torch.contiguous_format, copy=True)


def activation_backward(
    signal: Tensor, kept: Tensor, activation: int, given_output: bool, dropout: float, seed: Tensor | None
) -> Tensor:
    """δ = s ⊙ f′(a) ⊙ dropout: like `kept`.

    kept is the preactivation a, or with `given_output` what the layer put out: f(a) after dropout.
    """
    value, s = _wide(kept), _wide(signal).reshape(kept.shape)
    if given_output:
        if dropout > 0:
            value = value * (1 - dropout)
        delta = s * _derivative_from_output(value, activation)
    else:
        delta = s * _derivative(value, activation)
    if dropout > 0 and seed is not None:
        delta = delta * dropout_factor(delta, dropout, seed)
    return delta.to(kept.dtype, memory_format=torch.contiguous_format, copy=True)


def activation_difference(a: Tensor, delta_a: Tensor, activation: int, dropout: float, seed: Tensor | None) -> Tensor:
    """Δh = (f(a + Δa) − f(a)) ⊙ dropout: like a. The nonlinearity of PEPITA's second pass in the delta form."""
    difference = _difference(_wide(a), _wide(delta_a).reshape(a.shape), activation)
    if dropout > 0 and seed is not None:
        difference = difference * dropout_factor(difference, dropout, seed)
    return difference.to(a.dtype).contiguous()


def feedback_term(
    signal: Tensor,
    feedback: Tensor,
    kept: Tensor,
    activation: int,
    given_output: bool,
    dropout: float,
    seed: Tensor | None,
) -> Tensor:
    """δ = (s Bᵀ) ⊙ f′(a) ⊙ dropout, like `kept`: signal s (N, C), feedback B (H, C), kept (N, H) or (N, Co, Ho, Wo).

    DFA: s = e. DRTP: s = y*. BP: s = δ of the layer above and B its Wᵀ. FA: likewise with its fixed matrix. IFA: s = δ
    of the layer below and B = W.
    """
    projected = _wide(signal) @ _wide(feedback).T
    return activation_backward(projected.reshape(kept.shape), kept, activation, given_output, dropout, seed)


def feedback_terms(
    signal: Tensor, feedback: Sequence[Tensor], kept: Sequence[Tensor], activation: int, given_output: bool
) -> list[Tensor]:
    """`feedback_term` of several layers under one signal: δ_l = (s B_lᵀ) ⊙ f′(a_l)."""
    return [
        feedback_term(signal, b, k, activation, given_output, 0.0, None) for b, k in zip(feedback, kept, strict=True)
    ]


def linear_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: int,
    dropout: float,
    seed: Tensor | None,
    keep_preactivation: bool,
) -> tuple[Tensor, Tensor]:
    """a = x Wᵀ + b and h = f(a) after dropout: (h, a), each (N, H); a is empty unless it is to be kept."""
    wide_bias = None if bias is None else _wide(bias)
    a = F.linear(_wide(x), _wide(weight), wide_bias).to(x.dtype)
    h = activation_forward(a, activation, dropout, seed)
    return h, a if keep_preactivation else a.new_empty(0)


def linear_difference(
    delta: Tensor, weight: Tensor, preactivation: Tensor, activation: int, dropout: float, seed: Tensor | None
) -> Tensor:
    """Δh_l = (f(a_l + Δh_{l−1} Wᵀ) − f(a_l)) ⊙ dropout, (N, H): a layer of PEPITA's second pass in the delta form.

    delta Δh_{l−1} (N, K), weight (H, K). In the first layer delta = e (N, C) and weight = W_1 F (H, C).
    """
    delta_a = F.linear(_wide(delta), _wide(weight))
    return activation_difference(preactivation, delta_a, activation, dropout, seed)


def linear_update(post: Tensor, pre: Tensor, scale: float, with_bias: bool) -> tuple[Tensor, Tensor]:
    """ΔW = scale · postᵀ pre (H, K) and Δb = scale · Σ post (H), empty without bias: post (N, H), pre (N, K)."""
    wide_post = _wide(post)
    weight_update = (scale * (wide_post.T @ _wide(pre))).to(post.dtype)
    bias_update = (scale * wide_post.sum(0)).to(post.dtype) if with_bias else post.new_empty(0)
    return weight_update, bias_update


def linear_updates(
    post: Sequence[Tensor], pre: Sequence[Tensor], scale: Sequence[float], with_bias: bool
) -> list[Tensor]:
    """`linear_update` of several layers, one after the other: ΔW and Δb of the first, of the second."""
    layers = zip(post, pre, scale, strict=True)
    return [update for layer in layers for update in linear_update(*layer, with_bias)]


def optimizer_steps_(
    parameter: Sequence[Tensor], state: Sequence[Tensor], gradient: Sequence[Tensor], descent: int, settings: Tensor
) -> None:
    """One step of an optimizer (`fastalign.ops.descent`) on each parameter, in place.

    gradient: of each parameter, of its shape, in its dtype or a wider one. state: of each parameter as many tensors as
    the optimizer has, one after the other, of its shape and dtype. settings (7,) in float64, on their device.
    """
    kind = Descent(descent)
    for p in parameter:
        if settings.device != p.device:  # else 0-d tensors of the CPU would mix with any
            raise ValueError(f"settings: expected device {p.device}, that of the parameters, got {settings.device}")
    numbers = Settings(*settings.unbind())  # type: ignore[arg-type]  # 0-d tensors in place of floats
    for i, (p, g) in enumerate(zip(parameter, gradient, strict=True)):
        _descend(p, state[i * kind.states : (i + 1) * kind.states], _wide(g), kind, numbers)


def _descend(parameter: Tensor, state: Sequence[Tensor], gradient: Tensor, kind: Descent, settings: Settings) -> None:
    """A step on one parameter. It follows its state as that is stored."""
    rate, decay, momentum, square_decay, epsilon, momentum_correction, square_correction = settings
    weight = _wide(parameter)
    if kind is Descent.ADAMW:
        weight = weight - rate * decay * weight
    else:
        gradient = gradient + decay * weight
    if kind in (Descent.RMSPROP, Descent.ADAM, Descent.ADAMW):
        squares = state[-1]
        squares.copy_(square_decay * _wide(squares) + (1 - square_decay) * gradient * gradient)
    match kind:
        case Descent.SGD:
            step = gradient
        case Descent.MOMENTUM | Descent.NESTEROV:
            (velocity,) = state
            velocity.copy_(momentum * _wide(velocity) + gradient)
            step = _wide(velocity) if kind is Descent.MOMENTUM else gradient + momentum * _wide(velocity)
        case Descent.RMSPROP:
            step = gradient / (_wide(squares).sqrt() + epsilon)
        case _:
            mean = state[0]
            mean.copy_(momentum * _wide(mean) + (1 - momentum) * gradient)
            step = _wide(mean) / momentum_correction / ((_wide(squares) / square_correction).sqrt() + epsilon)
    parameter.copy_(weight - rate * step)


def linear_steps_(
    weight: Sequence[Tensor],
    bias: Sequence[Tensor],
    weight_state: Sequence[Tensor],
    bias_state: Sequence[Tensor],
    post: Sequence[Tensor],
    pre: Sequence[Tensor],
    scale: Sequence[float],
    descent: int,
    settings: Tensor,
) -> None:
    """`optimizer_steps_` on linear layers with the ΔW and Δb of `linear_update`, in place.

    weight (H, K) of each layer; bias (H) of each, or of none; post (N, H), pre (N, K), in the weights' dtype.
    """
    updates = [linear_update(_wide(t), _wide(h), s, bool(bias)) for t, h, s in zip(post, pre, scale, strict=True)]
    optimizer_steps_(weight, weight_state, [update for update, _ in updates], descent, settings)
    optimizer_steps_(bias, bias_state, [update for _, update in updates if bias], descent, settings)


def feedback_steps_(
    weight: Sequence[Tensor],
    bias: Sequence[Tensor],
    weight_state: Sequence[Tensor],
    bias_state: Sequence[Tensor],
    signal: Tensor,
    feedback: Sequence[Tensor],
    kept: Sequence[Tensor],
    pre: Sequence[Tensor],
    activation: int,
    given_output: bool,
    scale: Sequence[float],
    descent: int,
    settings: Tensor,
) -> None:
    """`linear_steps_` by the δ_l of `feedback_terms`, which a kernel need never hold in full. kept (N, H)."""
    post = feedback_terms(signal, feedback, kept, activation, given_output)
    linear_steps_(weight, bias, weight_state, bias_state, post, pre, scale, descent, settings)


def dfa_linear_update(
    error: Tensor, feedback: Tensor, kept: Tensor, x: Tensor, activation: int, given_output: bool
) -> tuple[Tensor, Tensor]:
    """ΔW = δᵀ x (H, K) and Δb = Σ δ (H) with δ = (e Bᵀ) ⊙ f′(a): error (N, C), feedback (H, C), x (N, K)."""
    delta = feedback_term(_wide(error), _wide(feedback), _wide(kept), activation, given_output, 0.0, None)
    weight_update, bias_update = linear_update(delta, _wide(x), 1.0, True)
    return weight_update.to(kept.dtype), bias_update.to(kept.dtype)


def pepita_linear_update(h: Tensor, h_mod: Tensor, x_mod: Tensor) -> tuple[Tensor, Tensor]:
    """ΔW = (h − h_mod)ᵀ x_mod / N (H, K) and Δb = Σ (h − h_mod) / N (H): h, h_mod (N, H), x_mod (N, K)."""
    difference = _wide(h) - _wide(h_mod)
    weight_update, bias_update = linear_update(difference, _wide(x_mod), 1 / max(h.shape[0], 1), True)
    return weight_update.to(h.dtype), bias_update.to(h.dtype)


def conv2d_update(
    post: Tensor,
    pre: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    scale: float,
    with_bias: bool,
) -> tuple[Tensor, Tensor]:
    """ΔK = scale · Σ post ⊗ patch of pre, over samples and positions, and Δb = scale · Σ post (empty without bias).

    post (N, Co, Ho, Wo), pre (N, Ci, Hi, Wi) → (Co, Ci / groups, kh, kw) and (Co).
    """
    wide_post, wide_pre = _wide(post), _wide(pre)
    shape = (post.shape[1], pre.shape[1] // groups, *kernel_size)
    if post.numel() == 0:
        update = wide_post.new_zeros(shape)
    else:
        _, update, _ = torch.ops.aten.convolution_backward(
            wide_post,
            wide_pre,
            wide_post.new_empty(1).expand(shape),
            None,
            stride,
            padding,
            dilation,
            False,
            [0, 0],
            groups,
            [False, True, False],
        )
    bias_update = (scale * wide_post.sum((0, 2, 3))).to(post.dtype) if with_bias else post.new_empty(0)
    update = (scale * update).to(post.dtype, memory_format=torch.contiguous_format, copy=True)
    return update, bias_update


def dfa_conv2d_update(
    error: Tensor,
    feedback: Tensor,
    kept: Tensor,
    x: Tensor,
    activation: int,
    given_output: bool,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> tuple[Tensor, Tensor]:
    """`conv2d_update` of δ = (e Bᵀ) ⊙ f′(a) and x: error (N, C), feedback (Co·Ho·Wo, C), kept (N, Co, Ho, Wo)."""
    delta = feedback_term(_wide(error), _wide(feedback), _wide(kept), activation, given_output, 0.0, None)
    update, bias_update = conv2d_update(delta, _wide(x), kernel_size, stride, padding, dilation, groups, 1.0, True)
    return update.to(kept.dtype), bias_update.to(kept.dtype)


def pepita_conv2d_update(
    h: Tensor,
    h_mod: Tensor,
    x_mod: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> tuple[Tensor, Tensor]:
    """`conv2d_update` of h − h_mod and x_mod, divided by N·Ho·Wo, the number of summed products."""
    scale = 1 / max(h.shape[0] * h.shape[2] * h.shape[3], 1)
    difference = _wide(h) - _wide(h_mod)
    update, bias_update = conv2d_update(
        difference, _wide(x_mod), kernel_size, stride, padding, dilation, groups, scale, True
    )
    return update.to(h.dtype), bias_update.to(h.dtype)


def modulate_input(x: Tensor, error: Tensor, projection: Tensor, sign: float) -> Tensor:
    """x + sign · F e, like x: error e (N, C), projection F (D, C) with D the size of one sample."""
    modulation = (_wide(error) @ _wide(projection).T).reshape(x.shape)
    return (_wide(x) + sign * modulation).to(x.dtype).contiguous()


def max_pool2d_forward(
    h: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Tensor:
    """pool(h), the maxima of windows: (N, C, Hi, Wi) → (N, C, Ho, Wo)."""
    return torch.ops.aten.max_pool2d_with_indices(h, kernel_size, stride, padding, dilation, ceil_mode)[0].contiguous()


def max_pool2d_backward(
    signal: Tensor,
    h: Tensor,
    kept: Tensor,
    activation: int,
    given_output: bool,
    dropout: float,
    seed: Tensor | None,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Tensor:
    """δ = pool′(s) ⊙ f′(a) ⊙ dropout of an activation before max-pooling: like h.

    A window hands its signal to the place of its maximum; those of windows that overlap add. signal: shaped like
    pool(h). kept: the preactivation a, or with `given_output` f(a) after dropout, which may be h.
    """
    arguments = (kernel_size, stride, padding, dilation, ceil_mode)
    places = torch.ops.aten.max_pool2d_with_indices(_wide(h), *arguments)[1]
    spread = torch.zeros_like(_wide(h), memory_format=torch.contiguous_format).flatten(2)
    spread = spread.scatter_add(2, places.flatten(2), _wide(signal).flatten(2)).reshape(h.shape)
    return activation_backward(spread, _wide(kept), activation, given_output, dropout, seed).to(kept.dtype)


def max_pool2d_difference(
    h: Tensor,
    delta_h: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Tensor:
    """pool(h + Δh) − pool(h) without forming h + Δh in the storage dtype: (N, C, Hi, Wi) twice → (N, C, Ho, Wo).

    Where the maximum stays at its place the difference is Δh there, exactly.
    """
    wide_h, wide_delta = _wide(h), _wide(delta_h)
    arguments = (kernel_size, stride, padding, dilation, ceil_mode)
    _, standard = torch.ops.aten.max_pool2d_with_indices(wide_h, *arguments)
    _, modulated = torch.ops.aten.max_pool2d_with_indices(wide_h + wide_delta, *arguments)

    def at(values: Tensor, places: Tensor) -> Tensor:
        return values.flatten(2).gather(2, places.flatten(2)).reshape(places.shape)

    difference = at(wide_h, modulated) - at(wide_h, standard) + at(wide_delta, modulated)
    return difference.to(h.dtype)


def cross_entropy(outputs: Tensor, labels: Tensor, mean: bool) -> tuple[Tensor, Tensor]:
    """Softmax and cross-entropy −Σ_n log ŷ_n[label_n], and its gradient ŷ − y; with `mean` both divided by N.

    outputs a_L (N, C); labels (N), class indices, of which −100 leaves its sample out, of N too. The loss is a 0-d
    tensor in float32 or wider.
    """
    logits = _wide(outputs)
    log_probabilities = F.log_softmax(logits, 1)
    loss = F.nll_loss(log_probabilities, labels, reduction="mean" if mean else "sum")
    counted = (labels != -100).unsqueeze(1)
    one_hot = labels.unsqueeze(1) == torch.arange(outputs.shape[1], device=labels.device)
    gradient = (log_probabilities.exp() - one_hot.to(logits.dtype)).where(counted, 0)
    return loss, (gradient / counted.sum().clamp(min=1) if mean else gradient).to(outputs.dtype)
