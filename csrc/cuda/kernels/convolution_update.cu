#include "cuda/kernels/convolution_update.h"

#include <algorithm>
#include <vector>

#include "cuda/device/arithmetic.cuh"
#include "cuda/device/difference.cuh"
#include "cuda/device/dynamic_shared.cuh"
#include "cuda/device/launch.cuh"
#include "cuda/device/long_sum.cuh"
#include "cuda/device/patches.cuh"
#include "cuda/device/sink.cuh"
#include "cuda/kernels/second_stage.h"
#include "cuda/ops/operand.h"

// What bounds it, at a batch of 64, in the shapes of the papers (input, maps of 5 × 5):
//
// - 1 × 28 × 28, 32 maps: 25 columns and 32 rows are a quarter of one tile, which one warp of four multiplies; the
// other
//   quarters are left out. 36864 terms are shared out to two blocks for each multiprocessor, whose few steps, one after
//   the other, and the second stage take longer than 5 MB of post take to be read.
// - 3 × 32 × 32, 32 maps: 75 columns are two tiles, of which three quarters out of eight are multiplied. As before.
// - 96 × 15 × 15, 128 maps, padding 2: 76 tiles of 14400 terms, 9 GFLOP: by FMAs in float32. By the instructions that a
//   warp issues with tensor cores: to gather an element of a patch takes about nine, for 64 rows, so that in TF32 a
//   step has about as many of those as of the others, and in 16 bits more.

namespace fastalign::cuda {

namespace {

// The blocks are the tiles of ΔK, once for each part of the sum. Where there are several parts the sinks write them, in
// the dtype of sums and a stride apart.
struct Parameters {
  PatchSums sums{};
  unsigned groups{}, row_tiles{}, column_tiles{};  // tiles of a group
  int64_t rows{}, columns{};                       // of a group's part of ΔK
  int64_t inputs{};                                // channels of a group's part of pre
  int64_t steps_of_part{};                         // those of the last one go on to terms of zero
  bool split{};
  int64_t weight_stride{}, bias_stride{};
  SinkParameters weight{}, bias{};
};

template <typename Tile, bool difference>
struct Stage {
  Tile post;
  Tile patches;
};
template <typename Tile>
struct Stage<Tile, true> {
  Tile post;
  Tile patches;
  Tile modulated;
};

template <Arithmetic arithmetic>
using Tile = OperandTile<Element<arithmetic>, Order::along_sum>;
template <Arithmetic arithmetic>
using Sums = TileSums<arithmetic, Tile<arithmetic>, Tile<arithmetic>>;
template <Arithmetic arithmetic, bool difference>
using Memory = TileMemory<Stage<Tile<arithmetic>, difference>, Sums<arithmetic>>;

// The sum of a row of a step.
template <typename W, typename Tile>
__device__ W sum_of_row(const Tile& tile, int row) {
  using T = typename Tile::Element;
  constexpr int width = vector_elements<T>;
  W sums[width] = {};
#pragma unroll
  for (int k = 0; k < Tile::length; k += width) {
    T elements[width];
    read_neighbours(&tile.line[row][k], elements);
#pragma unroll
    for (int j = 0; j < width; ++j) sums[j] += W(elements[j]);
  }
#pragma unroll
  for (int j = 1; j < width; ++j) sums[0] += sums[j];
  return sums[0];
}

// One tile of the result, of one part of the sum.
template <Arithmetic arithmetic, bool difference>
__global__ void __launch_bounds__(tile_threads, 2) convolution_update_kernel(const __grid_constant__ Parameters p) {
  using T = Element<arithmetic>;
  using W = Sum<arithmetic>;
  using Stage = typename Memory<arithmetic, difference>::Stage;
  auto& memory = *dynamic_shared_memory<Memory<arithmetic, difference>>();
  __shared__ Tap taps[tile_size];
  __shared__ Term terms[tile_stages][tile_step<T>];  // of the steps under way
  const int thread = static_cast<int>(threadIdx.x);
  const Maps& post = p.sums.post;
  const Maps& modulated = p.sums.modulated;
  const Maps& pre = p.sums.pre;

  unsigned block = blockIdx.x;  // those that read the same patches are neighbours
  const int64_t first_row = int64_t(block % p.row_tiles) * tile_size;
  block /= p.row_tiles;
  const int64_t first_column = int64_t(block % p.column_tiles) * tile_size;
  block /= p.column_tiles;
  const int64_t group = block % p.groups;
  const int64_t part = block / p.groups;
  const int64_t first_channel = group * p.rows + first_row;
  const int64_t rows = p.rows - first_row;
  const int64_t columns = p.columns - first_column;
  const int64_t first_step = part * p.steps_of_part;

  // The last threads work out the terms of a step, one step before they are loaded.
  const int term = thread - (tile_threads - tile_step<T>);
  Digits digits(first_step * tile_step<T> + term, post);
  const Digits step_in_digits(tile_step<T>, post);
  const auto work_out = [&](Term* step) {
    if (term < 0) return;
    step[term] = term_of(digits, p.sums);
    digits.add(step_in_digits, post);
  };
  if (thread < tile_size) {
    taps[thread] =
        thread < columns ? tap_of(first_column + thread, group * p.inputs, p.sums) : Tap{0, nowhere, nowhere};
  }
  for (Term* const step : terms) work_out(step);
  __syncthreads();

  const uintptr_t first_post = reinterpret_cast<uintptr_t>(post.data) + first_channel * post.strides[1];
  const uintptr_t first_modulated = reinterpret_cast<uintptr_t>(modulated.data) + first_channel * modulated.strides[1];
  const bool multiplies = warp_row() < rows && warp_column() < columns;
  const bool adds = p.bias.target != nullptr && first_column == 0 && thread < tile_size;
  Sums<arithmetic> sums;
  LongSum<W> bias;
  int number = 0;  // of the terms to be loaded
  const auto load = [&](Stage& stage, int64_t step) {
    const Term* const now = terms[number];
    number = number + 1 == tile_stages ? 0 : number + 1;
    load_maps(stage.post, post, first_post, rows, now, &Term::post);
    if constexpr (difference) load_maps(stage.modulated, modulated, first_modulated, rows, now, &Term::modulated);
    load_patches(stage.patches, pre, now, taps);
    if (step >= tile_stages - 1) work_out(terms[number]);
  };
  const auto multiply = [&](const Stage& stage) {
    if (adds) bias.add(sum_of_row<W>(stage.post, thread));
    if (!multiplies) return;
    if constexpr (arithmetic == Arithmetic::float64 || arithmetic == Arithmetic::float32) {  // a sum of short sums
      Sums<arithmetic> of_step;
      of_step.add(stage.post, stage.patches);
      sums.add(of_step);
    } else {
      sums.add(stage.post, stage.patches);
    }
  };
  if constexpr (difference) {
    const auto form = [](Stage& stage) { form_difference(stage.post, stage.modulated); };
    sum_steps(memory, p.steps_of_part, load, form, multiply);
  } else {
    sum_steps(memory, p.steps_of_part, load, NothingToForm(), multiply);
  }

  constexpr int width = vector_elements<T>;
  const SinkAtWork<T, W> weight(p.weight);
  visit_results<width>(memory, sums, [&](int row, int column, const W(&values)[width]) {
    const int64_t first = (first_channel + row) * p.columns + first_column + column;
    if (row < rows) weight.take_part(p.split, part * p.weight_stride, first, columns - column, values);
  });
  if (adds && thread < rows) {
    const W sum[1] = {bias.value()};
    const SinkAtWork<T, W> sink(p.bias);
    sink.take_part(p.split, part * p.bias_stride, first_channel + thread, 1, sum);
  }
}

template <Arithmetic arithmetic, bool difference>
void launch_tiles(Device& device, const Parameters& parameters, int64_t blocks) {
  launch(convolution_update_kernel<arithmetic, difference>,
         {dim3(static_cast<unsigned>(blocks)), dim3(tile_threads), sizeof(Memory<arithmetic, difference>)},
         device.stream, parameters);
}

template <Arithmetic arithmetic>
void launch_tiles(Device& device, const Parameters& parameters, int64_t blocks) {
  if (parameters.sums.modulated.data != nullptr) return launch_tiles<arithmetic, true>(device, parameters, blocks);
  launch_tiles<arithmetic, false>(device, parameters, blocks);
}

void launch_tiles(Device& device, Arithmetic arithmetic, const Parameters& parameters, int64_t blocks) {
  switch (arithmetic) {
    case Arithmetic::float64:
      return launch_tiles<Arithmetic::float64>(device, parameters, blocks);
    case Arithmetic::float32:
      return launch_tiles<Arithmetic::float32>(device, parameters, blocks);
    case Arithmetic::tf32:
      return launch_tiles<Arithmetic::tf32>(device, parameters, blocks);
    case Arithmetic::bfloat16:
      return launch_tiles<Arithmetic::bfloat16>(device, parameters, blocks);
    case Arithmetic::float16:
      return launch_tiles<Arithmetic::float16>(device, parameters, blocks);
  }
}

int64_t divide_up(int64_t number, int64_t by) { return (number + by - 1) / by; }

Parameters parameters_of(const ConvolutionUpdate& update) {
  const PatchSums sums = patch_sums(update);
  const Convolution& c = sums.convolution;
  const int64_t rows = sums.post.channels / c.groups;
  const int64_t inputs = sums.pre.channels / c.groups;
  const int64_t columns = inputs * c.kernel[0] * c.kernel[1];
  const int64_t column_tiles = std::max<int64_t>(divide_up(columns, tile_size), 1);  // the bias has a block anyhow
  return {.sums = sums,
          .groups = static_cast<unsigned>(c.groups),
          .row_tiles = static_cast<unsigned>(divide_up(rows, tile_size)),
          .column_tiles = static_cast<unsigned>(column_tiles),
          .rows = rows,
          .columns = columns,
          .inputs = inputs,
          .weight = {update.weight, update.scale},
          .bias = {update.bias, update.scale}};
}

}  // namespace

void fused_convolution_update(Device& device, const ConvolutionUpdate& update) {
  Parameters p = parameters_of(update);
  const Dtype dtype = update.pre.dtype;
  const int64_t tiles = int64_t(p.row_tiles) * p.column_tiles * p.groups;
  const Maps& post = p.sums.post;
  const int64_t terms = int64_t(post.samples) * post.height * post.width;
  const int64_t steps = divide_up(terms, tile_step<char> / bytes_of(dtype));
  p.steps_of_part = steps_of_part(tiles, steps, device.multiprocessors);
  const int64_t parts = divide_up(steps, p.steps_of_part);
  std::vector<SplitSum> sums;
  p.split = parts > 1;
  if (p.split) {
    const int64_t elements = post.channels * p.columns;
    p.weight = {sink_of_parts(device, update.weight, update.scale, elements, parts, dtype, sums), 1};
    p.weight_stride = part_stride(elements);
  }
  if (p.split && update.bias.target) {
    p.bias = {sink_of_parts(device, update.bias, update.scale, post.channels, parts, dtype, sums), 1};
    p.bias_stride = part_stride(post.channels);
  }
  launch_tiles(device, arithmetic_of(dtype, device.tf32_of_convolutions), p, tiles * parts);
  second_stage(device, sums, dtype);
}

}  // namespace fastalign::cuda
