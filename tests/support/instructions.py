"""Known answers of the instructions that kernels use, by the fragment tables of the PTX manual.

Words in, words out, bit for bit, so that the emulator and a device can be held to the same. The tables are written out
here element by element, as the manual gives them, and not as csrc/emulator computes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

LANES = 32
Run = Callable[[str, Tensor, int], Tensor]  # an instruction's name, its words, the number of words that it gives


def check(name: str, run: Run) -> None:
    """Raises AssertionError where an instruction gives anything but the known answer."""
    for words, expected in ANSWERS[name]():
        actual = run(name, words, expected.numel())
        wrong = (actual != expected.flatten()).nonzero().flatten().tolist()
        assert not wrong, f"{name}: other words than expected at {wrong[:8]}"


def fragment_of_a(lane: int, i: int) -> tuple[int, int]:
    """Row and column of a_i of mma.m16n8k16 with 16-bit operands, i of 8."""
    group, member = lane >> 2, lane % 4
    row = group if 0 <= i < 2 or 4 <= i < 6 else group + 8
    column = member * 2 + (i & 1) if i < 4 else member * 2 + (i & 1) + 8
    return row, column


def fragment_of_b(lane: int, i: int) -> tuple[int, int]:
    """Row and column of b_i of mma.m16n8k16 with 16-bit operands, i of 4."""
    group, member = lane >> 2, lane % 4
    return (member * 2 + (i & 1) if i < 2 else member * 2 + (i & 1) + 8), group


def fragment_of_a_tf32(lane: int, i: int) -> tuple[int, int]:
    """Row and column of a_i of mma.m16n8k8 with TF32 operands, i of 4."""
    group, member = lane >> 2, lane % 4
    return (group if i in (0, 2) else group + 8), (member if i in (0, 1) else member + 4)


def fragment_of_b_tf32(lane: int, i: int) -> tuple[int, int]:
    """Row and column of b_i of mma.m16n8k8 with TF32 operands, i of 2."""
    group, member = lane >> 2, lane % 4
    return (member if i == 0 else member + 4), group


def fragment_of_d(lane: int, i: int) -> tuple[int, int]:
    """Row and column of c_i and d_i of mma.m16n8k16 and mma.m16n8k8, i of 4."""
    group, member = lane >> 2, lane % 4
    return (group if i < 2 else group + 8), member * 2 + (i & 1)


Table = Callable[[int, int], tuple[int, int]]


def fragments(matrix: Tensor, table: Table) -> Tensor:
    """The elements of a matrix as the lanes hold them: (32, elements of a lane)."""
    each = matrix.numel() // LANES
    return torch.stack([torch.stack([matrix[table(lane, i)] for i in range(each)]) for lane in range(LANES)])


def words_of(values: Tensor) -> Tensor:
    """Memory as 32-bit words."""
    return values.contiguous().view(torch.int32).flatten()


def mma(dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    """Of small whole numbers, so that every order of the sum gives the same; each element of a and b alone, too."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        a, b, d = (torch.randint(-8, 9, shape, generator=generator) for shape in ((16, 16), (16, 8), (16, 8)))
        held = fragments(a, fragment_of_a).to(dtype), fragments(b, fragment_of_b).to(dtype)
        words = [*map(words_of, held), words_of(fragments(d, fragment_of_d).float())]
        yield torch.cat(words), words_of(fragments(a @ b + d, fragment_of_d).float())


def mma_tf32() -> Iterator[tuple[Tensor, Tensor]]:
    """The same, with low 13 bits in the operands that must not count."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        a, b, d = (torch.randint(-8, 9, shape, generator=generator) for shape in ((16, 8), (8, 8), (16, 8)))
        held = fragments(a, fragment_of_a_tf32).float(), fragments(b, fragment_of_b_tf32).float()
        noisy = [words_of(h) | torch.randint(0, 1 << 13, (h.numel(),), generator=generator).int() for h in held]
        words = [*noisy, words_of(fragments(d, fragment_of_d).float())]
        yield torch.cat(words), words_of(fragments(a @ b + d, fragment_of_d).float())


def ldmatrix(transposed: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Lane 8 m + i brings row i of matrix m; lane l gets elements 2 (l mod 4) and the next of row l div 4 of each."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(-(1 << 15), 1 << 15, (LANES, 8), generator=generator).to(torch.int16)
    for _ in range(4):
        brought = torch.randperm(LANES, generator=generator)
        matrices = rows[brought].view(4, 8, 8)
        held = torch.empty(LANES, 4, 2, dtype=torch.int16)
        for lane in range(LANES):
            for m in range(4):
                for i in range(2):
                    row, column = lane // 4, 2 * (lane % 4) + i
                    held[lane, m, i] = matrices[m, column, row] if transposed else matrices[m, row, column]
        yield torch.cat([brought.int(), words_of(rows)]), words_of(held)


def round_to_tf32() -> Iterator[tuple[Tensor, Tensor]]:
    """To the nearest of 10 bits after the point, ties away from zero."""
    pairs = {
        0x3F800000: 0x3F800000,  # 1
        0x3F800FFF: 0x3F800000,  # just below a tie
        0x3F801000: 0x3F802000,  # a tie, away from zero
        0x3F801001: 0x3F802000,
        0x3F802FFF: 0x3F802000,
        0x3F803000: 0x3F804000,  # another tie, which rounding to even would take the other way
        0xBF801000: 0xBF802000,  # −(1 + 2⁻¹¹)
        0xBF800FFF: 0xBF800000,
        0x3FFFF000: 0x40000000,  # into the next power of two
        0x00000000: 0x00000000,
        0x80000000: 0x80000000,
        0x7F800000: 0x7F800000,  # ∞
        0xFF800000: 0xFF800000,
        0x00801000: 0x00802000,  # near the smallest normal number
        0x42F6E979: 0x42F6E000,  # 123.456
        0xC2F6F979: 0xC2F70000,
    }
    values = torch.tensor([*pairs] * 2, dtype=torch.int64).to(torch.uint32).view(torch.int32)
    expected = torch.tensor([*pairs.values()] * 2, dtype=torch.int64).to(torch.uint32).view(torch.int32)
    yield values, expected


def cp_async(size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`size` bytes for each of 128 threads, of which the first few are read and the others are zeros."""
    threads = 128
    source = torch.arange(1, 1 + threads * size, dtype=torch.int64).to(torch.uint8).view(threads, size)
    for number in (torch.arange(threads) % (size + 1), torch.full((threads,), size)):
        expected = source.where(torch.arange(size) < number[:, None], 0)
        yield torch.cat([number.int(), words_of(source)]), words_of(expected)


def cp_async_groups() -> Iterator[tuple[Tensor, Tensor]]:
    """Three rows of 128 words in three groups of copies."""
    words = torch.arange(1, 1 + 3 * 128).int()
    yield words, words


ANSWERS: dict[str, Callable[[], Iterator[tuple[Tensor, Tensor]]]] = {
    "ldmatrix": lambda: ldmatrix(transposed=False),
    "ldmatrix transposed": lambda: ldmatrix(transposed=True),
    "mma bfloat16": lambda: mma(torch.bfloat16),
    "mma float16": lambda: mma(torch.float16),
    "mma tf32": mma_tf32,
    "round to tf32": round_to_tf32,
    "cp.async 4": lambda: cp_async(4),
    "cp.async 8": lambda: cp_async(8),
    "cp.async 16": lambda: cp_async(16),
    "cp.async groups": cp_async_groups,
}
