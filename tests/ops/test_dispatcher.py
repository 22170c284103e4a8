"""The ops as torch sees them: schemas, fake kernels, compilation, autocast, gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cases import CASES, DTYPES, SEED, WITH_DROPOUT, Options, Size, arguments, as_tuple, call
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from fastalign import ops
from fastalign.ops import reference
from fastalign.ops.schemas import SCHEMAS

SMALL = Size(samples=4, classes=3, units=5, inputs=6)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


PUBLIC: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "dfa_projection": (ops.dfa_projection, (draw(4, 3), draw(5, 3), draw(4, 5))),
    "dfa_linear_update": (ops.dfa_linear_update, (draw(4, 3), draw(5, 3), draw(4, 5), draw(4, 6))),
    "dfa_conv2d_update": (ops.dfa_conv2d_update, (draw(4, 3), draw(32, 3), draw(4, 2, 4, 4), draw(4, 1, 6, 6), 3)),
    "pepita_linear_update": (ops.pepita_linear_update, (draw(4, 5), draw(4, 5), draw(4, 6))),
    "pepita_conv2d_update": (ops.pepita_conv2d_update, (draw(4, 2, 4, 4), draw(4, 2, 4, 4), draw(4, 1, 6, 6), 3)),
    "modulate_input": (ops.modulate_input, (draw(4, 6), draw(4, 3), draw(6, 3))),
}


def kernel(op: str) -> Callable[..., Any]:
    def run(*values: Any) -> Any:
        return getattr(torch.ops.fastalign, op)(*values)

    return run


@pytest.fixture
def compiler() -> Iterator[None]:
    """Forgets what was compiled before, of which torch allows a function only so much."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def close(first: Any, second: Any) -> bool:
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(as_tuple(first), as_tuple(second), strict=True))


def test_every_op_has_a_case() -> None:
    assert set(CASES) == set(SCHEMAS)
    assert set(PUBLIC) == set(ops.__all__)


@pytest.mark.parametrize("op", CASES)
def test_opcheck(op: str) -> None:
    dropout = 0.3 if "dropout" in SCHEMAS[op] else 0.0
    torch.library.opcheck(
        getattr(torch.ops.fastalign, op).default, arguments(op, torch.float32, SMALL, Options(dropout=dropout))
    )


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("op", CASES)
def test_fake_kernel_foretells_the_result(op: str, dtype: torch.dtype, layout: str) -> None:
    for size in (SMALL, Size(samples=0)):
        values = arguments(op, dtype, size, layout=layout)
        with FakeTensorMode() as mode:

            def fake(value: Any) -> Any:
                if isinstance(value, list):
                    return [fake(v) for v in value]
                return mode.from_tensor(value) if isinstance(value, Tensor) else value

            foretold = call(kernel(op), op, [fake(value) for value in values])
        actual = call(kernel(op), op, values)
        for one, other in zip(foretold, actual, strict=True):
            assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())


def on_cuda(value: Any) -> Any:
    """A fake tensor on a GPU with the shape and strides of a tensor, within FakeTensorMode."""
    if isinstance(value, list):
        return [on_cuda(v) for v in value]
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")
    return value


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("op", CASES)
def test_traces_on_cuda(op: str, dropout: float) -> None:
    """The op, and the reference that it falls back to, as far as a torch without CUDA fakes its own functions."""
    values = arguments(op, torch.float32, SMALL, Options(dropout=dropout))
    if dropout and not any(value is SEED for value in values):
        pytest.skip("this op draws no dropout")
    expected = call(kernel(op), op, values)
    with FakeTensorMode():
        fakes = [on_cuda(value) for value in values]
        graph = make_fx(lambda *a: call(kernel(op), op, a))(*fakes).graph
        assert [str(node.target) for node in graph.nodes].count(f"fastalign.{op}.default") == 1
        in_place_or_random = op.endswith("_") or dropout > 0  # copy_, arange
        for kernel_of_op in (kernel(op),) if in_place_or_random else (kernel(op), getattr(reference, op)):
            for fake, actual in zip(call(kernel_of_op, op, fakes), expected, strict=True):
                assert fake.device.type == "cuda"
                assert (fake.shape, fake.dtype, fake.stride()) == (actual.shape, actual.dtype, actual.stride())


@pytest.mark.parametrize("op", WITH_DROPOUT)
def test_seed_of_another_device_is_refused(op: str) -> None:
    """Its CUDA kernel hands that to the reference, which names the devices."""
    values = arguments(op, torch.float32, SMALL, Options(dropout=0.3))
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(RuntimeError, match="cuda:0 and cpu"):
        getattr(reference, op)(*(value if value is SEED else on_cuda(value) for value in values))


@pytest.mark.parametrize("op", CASES)
def test_compiles_whole(op: str, compiler: None) -> None:
    values = arguments(op, torch.float32, SMALL)
    compiled = torch.compile(kernel(op), fullgraph=True, backend="aot_eager")
    assert close(call(compiled, op, values), call(kernel(op), op, values))


@pytest.mark.parametrize("name", PUBLIC)
def test_public_function_compiles_whole(name: str, compiler: None) -> None:
    function, values = PUBLIC[name]
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert close(compiled(*values), function(*values))


def test_inductor_compiles_all_ops_at_once(compiler: None) -> None:
    values = {op: arguments(op, torch.float32, SMALL) for op in CASES if not op.endswith("_")}

    def every() -> list[Tensor]:
        return [tensor.sum() for op in values for tensor in as_tuple(kernel(op)(*values[op]))]

    assert close(torch.compile(every, fullgraph=True)(), every())


@pytest.mark.parametrize("name", PUBLIC)
def test_autocast(name: str) -> None:
    """Under autocast the products are in its dtype, as torch's own are; float64 stays."""
    function, values = PUBLIC[name]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = as_tuple(function(*values))
        wide = as_tuple(function(*(v.double() if isinstance(v, Tensor) else v for v in values)))
    expected = as_tuple(function(*(v.bfloat16() if isinstance(v, Tensor) else v for v in values)))
    assert all(result.dtype == torch.bfloat16 for result in results)
    assert all(result.dtype == torch.float64 for result in wide)
    assert close(results, expected)


@pytest.mark.parametrize(
    ("name", "index"), [(n, i) for n in PUBLIC for i, v in enumerate(PUBLIC[n][1]) if isinstance(v, Tensor)]
)
def test_input_that_requires_grad(name: str, index: int) -> None:
    """It has a gradient, or it is refused, never a silent cut of the graph; without grad mode it is as any other."""
    function, values = PUBLIC[name]
    asking = [
        v.detach().double().requires_grad_(i == index) if isinstance(v, Tensor) else v for i, v in enumerate(values)
    ]
    if name == "modulate_input":
        assert torch.autograd.gradcheck(function, asking)
        return
    with pytest.raises(RuntimeError, match=f"{name}: .* requires grad"):
        function(*asking)
    with torch.no_grad():
        assert not any(result.requires_grad for result in as_tuple(function(*asking)))
