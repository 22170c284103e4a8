"""The rules in plain loops over samples and positions, straight from the papers' equations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "identity": (lambda a: a, torch.ones_like),
    "tanh": (torch.tanh, lambda a: 1 / torch.cosh(a) ** 2),
    "logistic": (torch.sigmoid, lambda a: torch.sigmoid(a) * torch.sigmoid(-a)),
    "relu": (lambda a: a.clamp(min=0), lambda a: (a > 0).to(a.dtype)),
    "softplus": (lambda a: torch.log1p(torch.exp(a)), torch.sigmoid),
}
"""f and f′."""

Updates = list[tuple[Tensor, Tensor]]
"""ΔW and Δb of each layer."""


@dataclass
class PlainLayer:
    """A linear layer, or a convolution with padding, followed by f, dropout and perhaps max-pooling."""

    weight: Tensor
    bias: Tensor
    activation: str = "identity"
    padding: int = 0
    stride: int = 1
    pool: tuple[int, int] | None = None
    """Window and stride."""
    dropout: float = 0.0
    masks: list[Tensor | float] | None = None
    """The factor of dropout, one for each sample."""

    @property
    def is_convolution(self) -> bool:
        return self.weight.dim() == 4

    def patches(self, x: Tensor) -> Iterable[tuple[int, int, Tensor]]:
        """Each output position and a view of the padded input under the filter there."""
        kernel, step = self.weight.shape[2], self.stride
        for i in range((x.shape[1] - kernel) // step + 1):
            for j in range((x.shape[2] - kernel) // step + 1):
                yield i, j, x[:, i * step : i * step + kernel, j * step : j * step + kernel]

    def pad(self, x: Tensor) -> Tensor:
        padded = x.new_zeros(x.shape[0], x.shape[1] + 2 * self.padding, x.shape[2] + 2 * self.padding)
        padded[:, self.padding : self.padding + x.shape[1], self.padding : self.padding + x.shape[2]] = x
        return padded

    def preactivation(self, x: Tensor) -> Tensor:
        if not self.is_convolution:
            return self.weight @ x.flatten() + self.bias
        columns = {(i, j): (self.weight * patch).sum((1, 2, 3)) for i, j, patch in self.patches(self.pad(x))}
        height, width = (1 + max(position[k] for position in columns) for k in (0, 1))
        a = x.new_empty(len(self.weight), height, width)
        for (i, j), column in columns.items():
            a[:, i, j] = column + self.bias
        return a

    def windows(self, h: Tensor) -> Iterable[tuple[int, int, int, Tensor]]:
        """Each channel and pooled position, and a view of the activity under the window there."""
        assert self.pool is not None
        size, step = self.pool
        for c in range(h.shape[0]):
            for i in range((h.shape[1] - size) // step + 1):
                for j in range((h.shape[2] - size) // step + 1):
                    yield c, i, j, h[c, i * step : i * step + size, j * step : j * step + size]

    def pooled(self, h: Tensor) -> Tensor:
        if self.pool is None:
            return h
        size, step = self.pool
        out = h.new_empty(h.shape[0], *((extent - size) // step + 1 for extent in h.shape[1:]))
        for c, i, j, window in self.windows(h):
            out[c, i, j] = window.max()
        return out

    def unpooled(self, signal: Tensor, h: Tensor) -> Tensor:
        """The signal at the pooled map, taken back to the places of the maxima, where overlapping windows add."""
        signal = signal.reshape(self.pooled(h).shape)
        if self.pool is None:
            return signal
        back = torch.zeros_like(h)
        for (c, i, j, window), (_, _, _, into) in zip(self.windows(h), self.windows(back), strict=True):
            row, column = divmod(int(window.argmax()), window.shape[1])
            into[row, column] += signal[c, i, j]
        return back

    def input_signal(self, delta: Tensor, matrix: Tensor, input_shape: torch.Size) -> Tensor:
        """δ · matrix, at the layer's input."""
        if not self.is_convolution:
            return (matrix.T @ delta).reshape(input_shape)
        padded = self.pad(delta.new_zeros(input_shape))
        for i, j, patch in self.patches(padded):
            patch += (delta[:, i, j, None, None, None] * matrix).sum(0)
        edge = self.padding
        return padded[:, edge : padded.shape[1] - edge, edge : padded.shape[2] - edge]

    def update(self, post: Tensor, pre: Tensor) -> tuple[Tensor, Tensor]:
        """Post ⊗ pre of one sample, summed over positions; and Σ post."""
        if not self.is_convolution:
            return torch.outer(post, pre.flatten()), post
        update = torch.zeros_like(self.weight)
        for i, j, patch in self.patches(self.pad(pre)):
            update += post[:, i, j, None, None, None] * patch
        return update, post.sum((1, 2))


@dataclass
class Trace:
    """What a pass over a layer leaves: h_{l−1}, a_l, h_l (before pooling), the factor of dropout."""

    pre: Tensor
    a: Tensor
    h: Tensor
    mask: Tensor | float


def forward(layers: list[PlainLayer], x: Tensor, sample: int) -> list[Trace]:
    traces = []
    for layer in layers:
        a = layer.preactivation(x)
        mask = 1.0 if layer.masks is None else layer.masks[sample]
        h = ACTIVATIONS[layer.activation][0](a) * mask
        traces.append(Trace(x, a, h, mask))
        x = layer.pooled(h)
    return traces


def _delta(layer: PlainLayer, trace: Trace, signal: Tensor) -> Tensor:
    return layer.unpooled(signal, trace.h) * ACTIVATIONS[layer.activation][1](trace.a) * trace.mask


def _sum(parts: list[Updates], scales: list[float]) -> Updates:
    return [
        (scale * sum(w for w, _ in layer), scale * sum(b for _, b in layer))
        for layer, scale in zip(zip(*parts, strict=True), scales, strict=True)
    ]


def softmax_error(a: Tensor, target: int) -> Tensor:
    error = torch.exp(a) / torch.exp(a).sum()
    error[target] -= 1
    return error


def learn(
    rule: str,
    layers: list[PlainLayer],
    x: Tensor,
    target: Tensor,
    matrices: list[Tensor],
    sign_of_error: bool = False,
    error: Callable[[Tensor, int], Tensor] = softmax_error,
) -> Updates:
    """The updates of BP, FA, DFA, IFA and DRTP, averaged over the batch; matrices[l] is the hidden layer l's."""
    parts = []
    for n, sample in enumerate(x):
        traces = forward(layers, sample, n)
        e = error(traces[-1].a, int(target[n]))
        deltas = [torch.empty(0)] * len(layers)
        deltas[-1] = e
        order = range(len(layers) - 1) if rule == "ifa" else reversed(range(len(layers) - 1))
        for i in order:
            above = layers[i + 1]
            if rule in ("bp", "fa"):
                matrix = above.weight if rule == "bp" else matrices[i]
                signal = above.input_signal(deltas[i + 1], matrix, traces[i + 1].pre.shape)
            elif rule == "dfa":
                signal = matrices[i] @ (torch.sign(e) if sign_of_error else e)
            elif rule == "drtp":
                signal = matrices[i][:, int(target[n])]
            else:
                signal = matrices[0] @ e if i == 0 else layers[i].weight @ deltas[i - 1]
            deltas[i] = _delta(layers[i], traces[i], signal)
        parts.append([layer.update(d, t.pre) for layer, d, t in zip(layers, deltas, traces, strict=True)])
    return _sum(parts, [1 / len(x)] * len(layers))


def pepita(
    layers: list[PlainLayer],
    x: Tensor,
    target: Tensor,
    projection: Tensor,
    input_masks: list[Tensor | float] | None = None,
    presynaptic: str = "modulated",
    output_error: str = "standard",
    output: str = "softmax",
    sign: float = 1.0,
    divisor: str = "mean",
    update: str = "difference",
    sign_of_error: bool = False,
    frozen_filters: bool = False,
    error: Callable[[Tensor, int], Tensor] = softmax_error,
) -> Updates:
    """PEPITA in its two-pass form: a pass on x, a pass on x + F e, and the difference of their activities."""
    squash: dict[str, Callable[[Tensor], Tensor]] = {
        "softmax": lambda a: torch.softmax(a, 0),
        "logistic": torch.sigmoid,
        "identity": lambda a: a,
    }
    parts = []
    for n, sample in enumerate(x):
        input_mask = 1.0 if input_masks is None else input_masks[n]
        standard = forward(layers, sample * input_mask, n)
        e = error(standard[-1].a, int(target[n]))
        signal = 0.1 * torch.sign(e) if sign_of_error else e
        modulated = forward(layers, (sample + sign * (projection @ signal).reshape(sample.shape)) * input_mask, n)
        part = []
        for layer, s, m in zip(layers[:-1], standard[:-1], modulated[:-1], strict=True):
            if update == "hebbian":
                weight = layer.update(s.h, s.pre)[0] - layer.update(m.h, m.pre)[0]
                part.append((weight, layer.update(s.h - m.h, m.pre)[1]))
            else:
                part.append(layer.update(s.h - m.h, m.pre if presynaptic == "modulated" else s.pre))
        if output_error == "modulated":
            e = e + squash[output](modulated[-1].a) - squash[output](standard[-1].a)
        last = modulated if presynaptic == "modulated" else standard
        part.append(layers[-1].update(e, last[-1].pre))
        parts.append(part)

    scales = []
    for layer, trace in zip(layers, standard, strict=True):
        positions = trace.a[0].numel() if layer.is_convolution else 1
        divisors = {"mean": positions, "sqrt": math.sqrt(positions), "authors": -positions * len(x)}
        scales.append(0.0 if frozen_filters and layer.is_convolution else 1 / len(x))
        if layer.is_convolution:
            scales[-1] /= divisors[divisor]
    return _sum(parts, scales)
