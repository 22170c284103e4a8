// From maps in global memory to the operands' tiles of a convolution's update: maps as they are, and the patches that a
// convolution takes of maps, which are stored nowhere.
//
// The sum goes over samples and output positions. The rows of one tile are channels of post; those of the other are
// columns of ΔK, which are taps (input channel, ky, kx): at the output position (oy, ox) a tap reads its channel at
// (oy · stride − padding + ky · dilation, likewise in x), and 0 in the padding. What a term of the sum adds to an
// address, and what a channel or a tap does, are worked out once for a whole tile; its elements only add the two.

#pragma once

#include "cuda/device/tile.cuh"
#include "cuda/device/vector.cuh"
#include "cuda/kernels/convolution_update.h"

namespace fastalign::cuda {

constexpr int nowhere = -(1 << 30);  // a row or column that no map has

// What a term of the sum adds to addresses, in bytes.
struct alignas(16) Term {
  int64_t patch;
  int row, column;  // of pre, where the patch begins; nowhere beyond the last term
  int64_t post, modulated;

  __device__ bool exists() const { return row != nowhere; }
};

// What a column of ΔK adds to an address, in bytes, and to the row and column of pre.
struct alignas(16) Tap {
  int64_t offset;
  int row, column;
};

// The number of a term in digits: going from one to another by theirs takes no division.
struct Digits {
  int sample, row, column;

  template <typename Number>
  __device__ Digits(Number term, const Maps& post) {
    const Number rows = term / post.width;
    const Number samples = rows / post.height;
    column = static_cast<int>(term - rows * post.width);
    row = static_cast<int>(rows - samples * post.height);
    sample = static_cast<int>(samples);
  }

  __device__ void add(const Digits& other, const Maps& post) {
    column += other.column;
    row += other.row;
    sample += other.sample;
    if (column >= post.width) column -= post.width, ++row;
    if (row >= post.height) row -= post.height, ++sample;
  }
};

__device__ inline int64_t offset_of(const Maps& maps, int sample, int row, int column) {
  return sample * maps.strides[0] + row * maps.strides[2] + column * maps.strides[3];
}

__device__ inline Term term_of(const Digits& digits, const PatchSums& sums) {
  const auto& [sample, post_row, post_column] = digits;
  const Convolution& c = sums.convolution;
  const int row = static_cast<int>(post_row * c.stride[0] - c.padding[0]);
  const int column = static_cast<int>(post_column * c.stride[1] - c.padding[1]);
  return {.patch = offset_of(sums.pre, sample, row, column),
          .row = sample < sums.post.samples ? row : nowhere,
          .column = column,
          .post = offset_of(sums.post, sample, post_row, post_column),
          .modulated = offset_of(sums.modulated, sample, post_row, post_column)};
}

// Of a group whose input channels begin at `first_channel`.
__device__ inline Tap tap_of(int64_t column, int64_t first_channel, const PatchSums& sums) {
  const Convolution& c = sums.convolution;
  const int64_t taps = c.kernel[0] * c.kernel[1];
  const int64_t channel = column / taps;
  const auto tap = static_cast<unsigned>(column - channel * taps);
  const auto width = static_cast<unsigned>(c.kernel[1]);
  const int down = static_cast<int>(tap / width * c.dilation[0]);
  const int right = static_cast<int>(tap % width * c.dilation[1]);
  return {(first_channel + channel) * sums.pre.strides[1] + offset_of(sums.pre, 0, down, right), down, right};
}

// An element's address, as a number: that of nothing, where the element is zero.
struct Source {
  uintptr_t address;
  bool inside;
};

// Starts to copy a tile element by element: each thread those of one term, whose sources are `source(row)`.
template <typename Tile, typename SourceOf>
__device__ void copy_elements(Tile& tile, const SourceOf& source) {
  using T = typename Tile::Element;
  constexpr int rows_apart = tile_threads / tile_step<T>;
  constexpr int number = tile_size / rows_apart;
  const int first_row = static_cast<int>(threadIdx.x) / tile_step<T>;
  const int term = static_cast<int>(threadIdx.x) % tile_step<T>;
  if constexpr (sizeof(T) >= 4) {
#pragma unroll
    for (int i = 0; i < number; ++i) {
      const int row = first_row + i * rows_apart;
      const Source from = source(row);
      cp_async<sizeof(T)>(&tile.line[row][term], reinterpret_cast<const void*>(from.address),
                          from.inside ? int(sizeof(T)) : 0);
    }
  } else {  // too small for asynchronous copies: all are read before the first is stored
    T elements[number];
#pragma unroll
    for (int i = 0; i < number; ++i) {
      const Source from = source(first_row + i * rows_apart);
      elements[i] = from.inside ? *reinterpret_cast<const T*>(from.address) : T(0.0f);
    }
#pragma unroll
    for (int i = 0; i < number; ++i) tile.line[first_row + i * rows_apart][term] = elements[i];
  }
}

// Starts to copy a step of maps, `channels` channels from the one at `data` on.
template <typename Tile>
__device__ void load_maps(Tile& tile, const Maps& maps, uintptr_t data, int64_t channels, const Term* terms,
                          int64_t Term::* offset) {
  using T = typename Tile::Element;
  constexpr int across = tile_step<T> / vector_elements<T>;
  constexpr int rows_apart = tile_threads / across;
  const int thread = static_cast<int>(threadIdx.x);
  const int number = maps.vectors ? thread % across * vector_elements<T> : thread % tile_step<T>;
  const uintptr_t first = data + terms[number].*offset;
  const int64_t rows = terms[number].exists() ? channels : 0;
  const auto source = [&](int row) -> Source { return {first + row * maps.strides[1], row < rows}; };
  if (!maps.vectors) return copy_elements(tile, source);
#pragma unroll
  for (int i = 0; i < tile_size / rows_apart; ++i) {
    const int row = thread / across + i * rows_apart;
    const Source from = source(row);
    cp_async<16>(&tile.line[row][number], reinterpret_cast<const void*>(from.address), from.inside ? 16 : 0);
  }
}

// Starts to copy a step of patches.
template <typename Tile>
__device__ void load_patches(Tile& tile, const Maps& pre, const Term* terms, const Tap* taps) {
  const Term term = terms[threadIdx.x % tile_step<typename Tile::Element>];
  const uintptr_t first = reinterpret_cast<uintptr_t>(pre.data) + term.patch;
  copy_elements(tile, [&](int row) -> Source {
    const Tap tap = taps[row];
    const bool in_column = static_cast<unsigned>(term.row + tap.row) < static_cast<unsigned>(pre.height);
    const bool in_row = static_cast<unsigned>(term.column + tap.column) < static_cast<unsigned>(pre.width);
    return {first + tap.offset, bool(in_column & in_row)};
  });
}

}  // namespace fastalign::cuda
