#include "cuda/update.h"

#include <algorithm>

#include "cuda/arithmetic.cuh"
#include "cuda/difference.cuh"
#include "cuda/dynamic_shared.cuh"
#include "cuda/epilogue.cuh"
#include "cuda/jobs.cuh"
#include "cuda/load.cuh"
#include "cuda/long_sum.cuh"
#include "cuda/second_stage.h"
#include "cuda/sink.cuh"

namespace fastalign::cuda {

namespace {

// A signal (samples, classes) and the feedback matrix (units, classes) that it goes through.
struct Signal {
  const void* data{};
  const void* feedback{};
  int64_t strides[2]{}, feedback_strides[2]{};
  int classes{};
  Activation activation{};
  bool given_output{};
};

// One update. Its blocks are the tiles of the result, row by row, once for each part of the sum. Where there are
// several parts the sinks write them, in the dtype of sums and a stride apart.
struct UpdateJob {
  int64_t first_block{}, blocks{};
  Operand post{};       // (units, samples): δ, h, or what the activation kept
  Operand modulated{};  // (units, samples): h_mod
  Operand pre{};        // (inputs, samples)
  Signal signal{};
  unsigned tiles{}, tiles_across{};
  int64_t part_samples{};
  bool split{};
  int64_t weight_stride{}, bias_stride{};
  SinkParameters weight{}, bias{};
};

// What a step loads; what is formed takes the place of `post`.
template <typename Tile, Post::Kind kind>
struct UpdateStage {
  Tile post, pre;
};
template <typename Tile>
struct UpdateStage<Tile, Post::Kind::difference> {
  Tile post, modulated, pre;
};

// Samples whose signals are in shared memory at once.
template <typename W>
constexpr int signal_samples = 256 / sizeof(W);

template <typename W>
struct SignalMemory {
  alignas(16) W signal[signal_samples<W>][most_fused_classes + 4];  // padded: two samples are read at once
  alignas(16) W feedback[most_fused_classes][tile_size];
};

template <Arithmetic arithmetic, Post::Kind kind>
struct UpdateTypes {
  using T = Element<arithmetic>;
  using W = Sum<arithmetic>;
  using Tile = OperandTile<T, Order::along_result>;
  using Stage = UpdateStage<Tile, kind>;
  using Sums = TileSums<arithmetic, Tile, Tile>;
  struct Memory {
    TileMemory<Stage, Sums> tiles;
    LongSum<W> bias[tile_size];
    std::conditional_t<kind == Post::Kind::feedback_term, SignalMemory<W>, NothingToForm> signal;
  };
};

// post = (signal · Bᵀ) ⊙ f′(kept), where kept is: step by step, for the units from `first_unit` on and the samples
// [first, end).
template <typename T>
class FeedbackTermForm {
 public:
  using W = Wide<T>;

  __device__ FeedbackTermForm(SignalMemory<W>& memory, const Signal& signal, int64_t first_unit, int64_t units,
                              int64_t first, int64_t end)
      : memory_(memory), signal_(signal), sample_(first), end_(end) {
    const int64_t unit = first_unit + threadIdx.x % tile_size;
#pragma unroll 4
    for (int c = threadIdx.x / tile_size; c < padded_classes(); c += tile_threads / tile_size) {
      W value = 0;
      if (unit < units && c < signal.classes) {
        value = W(
            static_cast<const T*>(signal.feedback)[unit * signal.feedback_strides[0] + c * signal.feedback_strides[1]]);
      }
      memory.feedback[c][threadIdx.x % tile_size] = value;
    }
  }

  template <typename Tile>
  __device__ void operator()(Tile& kept) {
    if (place_ == 0) load_signal();
    W values[samples][units];
    project(values);
    sample_ += tile_step<T>;
    place_ = (place_ + tile_step<T>) % signal_samples<W>;
    // Sample by sample, the others being moved up after it: all stay in registers, and the code stays short.
#pragma unroll 1
    for (int i = 0; i < samples; ++i) {
      apply_derivative(&kept.line[first_sample() + i * threads_down][first_unit()], values[0]);
#pragma unroll
      for (int j = 0; j + 1 < samples; ++j) {
#pragma unroll
        for (int u = 0; u < units; ++u) values[j][u] = values[j + 1][u];
      }
    }
  }

 private:
  // A thread forms four units, side by side, of every eighth sample.
  static constexpr int units = 4;
  static constexpr int threads_across = tile_size / units;
  static constexpr int threads_down = tile_threads / threads_across;
  static constexpr int samples = tile_step<T> / threads_down;
  static constexpr int classes_at_once = 4;

  static __device__ int first_unit() { return static_cast<int>(threadIdx.x) % threads_across * units; }
  static __device__ int first_sample() { return static_cast<int>(threadIdx.x) / threads_across; }

  __device__ int padded_classes() const {
    return (signal_.classes + classes_at_once - 1) / classes_at_once * classes_at_once;
  }

  // The signals of the next samples, zero beyond the last one and beyond the last class.
  __device__ void load_signal() {
    const int64_t sample = sample_ + threadIdx.x % signal_samples<W>;
#pragma unroll 4
    for (int c = threadIdx.x / signal_samples<W>; c < padded_classes(); c += tile_threads / signal_samples<W>) {
      W value = 0;
      if (sample < end_ && c < signal_.classes) {
        value = W(static_cast<const T*>(signal_.data)[sample * signal_.strides[0] + c * signal_.strides[1]]);
      }
      memory_.signal[threadIdx.x % signal_samples<W>][c] = value;
    }
    __syncthreads();
  }

  __device__ void project(W (&values)[samples][units]) const {
#pragma unroll
    for (int i = 0; i < samples; ++i) {
#pragma unroll
      for (int u = 0; u < units; ++u) values[i][u] = 0;
    }
#pragma unroll 1
    for (int c = 0; c < signal_.classes; c += classes_at_once) {
      W feedback[classes_at_once][units];
#pragma unroll
      for (int j = 0; j < classes_at_once; ++j) read_neighbours(&memory_.feedback[c + j][first_unit()], feedback[j]);
#pragma unroll
      for (int i = 0; i < samples; ++i) {
        W signal[classes_at_once];
        read_neighbours(&memory_.signal[place_ + first_sample() + i * threads_down][c], signal);
#pragma unroll
        for (int j = 0; j < classes_at_once; ++j) {
#pragma unroll
          for (int u = 0; u < units; ++u) values[i][u] += signal[j] * feedback[j][u];
        }
      }
    }
  }

  __device__ void apply_derivative(T* kept, const W (&values)[units]) const {
    T elements[units];
    read_neighbours(kept, elements);
    with_known(signal_.activation, [&](auto f) {
      constexpr Activation activation = decltype(f)::value;
#pragma unroll
      for (int u = 0; u < units; ++u) {
        const W value(elements[u]);
        const W slope = signal_.given_output ? common::derivative_from_output(activation, value)
                                             : common::derivative(activation, value);
        elements[u] = T(values[u] * slope);
      }
    });
    write_neighbours(kept, elements);
  }

  SignalMemory<W>& memory_;
  const Signal& signal_;
  int64_t sample_, end_;
  int place_{};  // of the step's first sample among the signals in shared memory
};

// Adds every second sample's postsynaptic term of a unit, in a step. One after another where the result has the digits
// to show it.
template <typename W, typename Tile>
__device__ void add_post(LongSum<W>& sum, const Tile& post) {
  constexpr bool exact = std::is_same_v<typename Tile::Element, W>;
  W sum_of_step = 0;
#pragma unroll
  for (int k = 0; k < Tile::lines; k += tile_threads / tile_size) {
    const W value(post.line[k + threadIdx.x / tile_size][threadIdx.x % tile_size]);
    if (exact) {
      sum.add(value);
    } else {
      sum_of_step += value;
    }
  }
  if (!exact) sum.add(sum_of_step);
}

template <Arithmetic arithmetic, Post::Kind kind>
__global__ void __launch_bounds__(tile_threads, 2) update_kernel(const __grid_constant__ Jobs<UpdateJob> jobs) {
  using Types = UpdateTypes<arithmetic, kind>;
  using T = typename Types::T;
  using W = typename Types::W;
  using Stage = typename Types::Stage;
  auto& memory = *dynamic_shared_memory<typename Types::Memory>();

  const UpdateJob& job = jobs.of_block(blockIdx.x);
  const unsigned block = blockIdx.x - static_cast<unsigned>(job.first_block);
  const unsigned part = block / job.tiles, tile = block % job.tiles;
  const int64_t first_unit = int64_t(tile / job.tiles_across) * tile_size;
  const int64_t first_input = int64_t(tile % job.tiles_across) * tile_size;
  const int64_t first = part * job.part_samples;
  const int64_t end = min(first + job.part_samples, job.post.sums);
  const bool has_inputs = job.pre.rows > 0;
  const bool has_bias = job.bias.target != nullptr && first_input == 0;

  const MatrixLoader<typename Types::Tile> load_post(job.post, first_unit);
  const MatrixLoader<typename Types::Tile> load_modulated(job.modulated, first_unit);
  const MatrixLoader<typename Types::Tile> load_pre(job.pre, first_input);
  const auto load = [&](Stage& stage, int64_t step) {
    const int64_t sample = first + step * tile_step<T>;
    load_post(stage.post, sample, end);
    if constexpr (kind == Post::Kind::difference) load_modulated(stage.modulated, sample, end);
    if (has_inputs) load_pre(stage.pre, sample, end);
  };
  typename Types::Sums sums;
  LongSum<W> bias;
  const auto multiply = [&](const Stage& stage) {
    if (has_inputs) sums.add(stage.post, stage.pre);
    if (has_bias) add_post(bias, stage.post);
  };
  const int64_t steps = steps_of<T>(end - first);
  if constexpr (kind == Post::Kind::given) {
    sum_steps(memory.tiles, steps, load, NothingToForm(), multiply);
  } else if constexpr (kind == Post::Kind::difference) {
    const auto form = [](Stage& stage) { form_difference(stage.post, stage.modulated); };
    sum_steps(memory.tiles, steps, load, form, multiply);
  } else {
    FeedbackTermForm<T> form_post(memory.signal, job.signal, first_unit, job.post.rows, first, end);
    const auto form = [&](Stage& stage) { form_post(stage.post); };
    sum_steps(memory.tiles, steps, load, form, multiply);
  }

  const int unit = static_cast<int>(threadIdx.x) % tile_size;
  const bool second_half = threadIdx.x >= tile_size;
  if (second_half) memory.bias[unit] = bias;
  constexpr int width = vector_elements<T>;
  visit_results<width>(memory.tiles, sums, [&](int row, int column, const W(&values)[width]) {
    const int64_t valid = job.pre.rows - (first_input + column);
    if (first_unit + row >= job.post.rows || valid <= 0) return;
    hand_over<T>(job.weight, job.split, part * job.weight_stride,
                 (first_unit + row) * job.pre.rows + first_input + column, valid, values);
  });
  if (has_bias && !second_half && first_unit + unit < job.post.rows) {
    bias.add(memory.bias[unit]);
    const W values[1] = {bias.value()};
    hand_over<T>(job.bias, job.split, part * job.bias_stride, first_unit + unit, 1, values);
  }
}

template <Arithmetic arithmetic, Post::Kind kind>
void launch_updates(Device& device, const std::vector<UpdateJob>& jobs) {
  using Memory = typename UpdateTypes<arithmetic, kind>::Memory;
  static_assert(sizeof(Memory) <= 64 << 10, "sm_75 has no more for a block");
  launch_jobs(update_kernel<arithmetic, kind>, jobs, tile_threads, sizeof(Memory), device.stream);
}

template <Arithmetic arithmetic>
void launch_updates(Device& device, Post::Kind kind, const std::vector<UpdateJob>& jobs) {
  switch (kind) {
    case Post::Kind::given:
      return launch_updates<arithmetic, Post::Kind::given>(device, jobs);
    case Post::Kind::difference:
      return launch_updates<arithmetic, Post::Kind::difference>(device, jobs);
    case Post::Kind::feedback_term:
      return launch_updates<arithmetic, Post::Kind::feedback_term>(device, jobs);
  }
}

void launch_updates(Device& device, Arithmetic arithmetic, Post::Kind kind, const std::vector<UpdateJob>& jobs) {
  switch (arithmetic) {
    case Arithmetic::float64:
      return launch_updates<Arithmetic::float64>(device, kind, jobs);
    case Arithmetic::float32:
      return launch_updates<Arithmetic::float32>(device, kind, jobs);
    case Arithmetic::tf32:
      return launch_updates<Arithmetic::tf32>(device, kind, jobs);
    case Arithmetic::bfloat16:
      return launch_updates<Arithmetic::bfloat16>(device, kind, jobs);
    case Arithmetic::float16:
      return launch_updates<Arithmetic::float16>(device, kind, jobs);
  }
}

int64_t divide_up(int64_t number, int64_t by) { return (number + by - 1) / by; }

// A matrix (samples, rows) as the operand (rows, samples).
Operand operand(const View& matrix) {
  View transposed = matrix;
  std::swap(transposed.sizes[0], transposed.sizes[1]);
  std::swap(transposed.strides[0], transposed.strides[1]);
  return operand_of(transposed, Order::along_result);
}

Signal signal_of(const Post& post) {
  return {.data = post.signal.data,
          .feedback = post.feedback.data,
          .strides = {post.signal.strides[0], post.signal.strides[1]},
          .feedback_strides = {post.feedback.strides[0], post.feedback.strides[1]},
          .classes = static_cast<int>(post.signal.sizes[1]),
          .activation = post.activation,
          .given_output = post.given_output};
}

// The job of an update, its sum not split. It has no tiles where there is nothing to do.
UpdateJob job_of(const LinearUpdate& update) {
  const int64_t units = update.post.values.sizes[1], inputs = update.pre.sizes[1];
  const int64_t across = std::max(divide_up(inputs, tile_size), int64_t(update.bias.target ? 1 : 0));
  return {.post = operand(update.post.values),
          .modulated = operand(update.post.modulated),
          .pre = operand(update.pre),
          .signal = signal_of(update.post),
          .tiles = static_cast<unsigned>(divide_up(units, tile_size) * across),
          .tiles_across = static_cast<unsigned>(across),
          .weight = {update.weight, update.scale},
          .bias = {update.bias, update.scale}};
}

}  // namespace

void fused_updates(Device& device, Post::Kind kind, const std::vector<LinearUpdate>& updates) {
  std::vector<UpdateJob> jobs;
  int64_t tiles = 0;
  for (const LinearUpdate& update : updates) {
    const UpdateJob& job = jobs.emplace_back(job_of(update));
    tiles += job.tiles;
  }
  if (tiles == 0) return;
  const Dtype dtype = updates.front().pre.dtype;
  const int64_t step = tile_step<char> / bytes_of(dtype);  // in samples
  std::vector<SplitSum> sums;
  for (size_t i = 0; i < jobs.size(); ++i) {
    UpdateJob& job = jobs[i];
    const LinearUpdate& update = updates[i];
    const int64_t units = job.post.rows, inputs = job.pre.rows, steps = divide_up(job.post.sums, step);
    const int64_t part_steps = steps_of_part(tiles, steps, device.multiprocessors);
    const int64_t parts = std::max(divide_up(steps, part_steps), int64_t(1));
    job.part_samples = part_steps * step;
    job.blocks = parts * job.tiles;
    job.split = parts > 1;
    if (!job.split) continue;
    job.weight = {sink_of_parts(device, update.weight, update.scale, units * inputs, parts, dtype, sums), 1};
    job.weight_stride = part_stride(units * inputs);
    if (!update.bias.target) continue;
    job.bias = {sink_of_parts(device, update.bias, update.scale, units, parts, dtype, sums), 1};
    job.bias_stride = part_stride(units);
  }
  jobs.erase(std::remove_if(jobs.begin(), jobs.end(), [](const UpdateJob& job) { return job.tiles == 0; }), jobs.end());
  launch_updates(device, arithmetic_of(dtype, device.tf32), kind, jobs);
  second_stage(device, sums, dtype);
}

}  // namespace fastalign::cuda
