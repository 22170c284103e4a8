#include "cuda/kernels/update.h"

#include <algorithm>

#include "cuda/device/arithmetic.cuh"
#include "cuda/device/difference.cuh"
#include "cuda/device/dynamic_shared.cuh"
#include "cuda/device/epilogue.cuh"
#include "cuda/device/jobs.cuh"
#include "cuda/device/load.cuh"
#include "cuda/device/long_sum.cuh"
#include "cuda/device/sink.cuh"
#include "cuda/kernels/second_stage.h"

namespace fastalign::cuda {

namespace {

// A signal (samples, classes) and the feedback matrix (units, classes) that it goes through.
struct Signal {
  const void* data{};
  const void* feedback{};
  int64_t strides[2]{}, feedback_strides[2]{};
  int64_t classes{};
  Activation activation{};
  int given_output{};
};

// An operand without its sizes.
struct Term {
  const void* data{};
  int64_t row_stride{}, sum_stride{};

  __device__ Operand of(int64_t rows, int64_t samples, bool vectors) const {
    return {data, rows, samples, row_stride, sum_stride, vectors};
  }
};

// One update. Its blocks are the tiles of the result, row by row, once for each part of the sum. Where there are
// several parts the sinks write them, in the dtype of sums and a stride apart.
struct UpdateJob {
  int64_t first_block{};
  int64_t units{}, inputs{}, samples{}, part_samples{};
  Term post{};        // (units, samples): δ, h, or what the activation kept
  Term modulated{};   // (units, samples): h_mod
  Term pre{};         // (inputs, samples)
  int64_t vectors{};  // which may be read 16 bytes at a time: 1 post, 2 modulated, 4 pre
  Signal signal{};
  SinkParameters weight{}, bias{};

  // Those of a bias alone too; none where there is nothing to do.
  __host__ __device__ int64_t tiles_across() const {
    return inputs > 0 ? (inputs + tile_size - 1) / tile_size : int64_t(bias.target != nullptr);
  }
  __host__ __device__ int64_t tiles() const { return (units + tile_size - 1) / tile_size * tiles_across(); }
  int64_t parts() const { return samples > 0 ? (samples + part_samples - 1) / part_samples : 1; }
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
    JobWords<UpdateJob> job;
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
    return (static_cast<int>(signal_.classes) + classes_at_once - 1) / classes_at_once * classes_at_once;
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

  const UpdateJob& job = jobs.of_block(blockIdx.x, memory.job);
  const auto block = static_cast<unsigned>(blockIdx.x - job.first_block);
  const auto tiles = static_cast<unsigned>(job.tiles()), across = static_cast<unsigned>(job.tiles_across());
  const unsigned part = block / tiles, tile = block % tiles;
  const int64_t first_unit = int64_t(tile / across) * tile_size;
  const int64_t first_input = int64_t(tile % across) * tile_size;
  const int64_t first = part * job.part_samples;
  const int64_t end = min(first + job.part_samples, job.samples);
  const bool has_inputs = job.inputs > 0;
  const bool has_bias = job.bias.target != nullptr && first_input == 0;

  const MatrixLoader<typename Types::Tile> load_post(job.post.of(job.units, job.samples, job.vectors & 1), first_unit);
  const MatrixLoader<typename Types::Tile> load_modulated(job.modulated.of(job.units, job.samples, job.vectors & 2),
                                                          first_unit);
  const MatrixLoader<typename Types::Tile> load_pre(job.pre.of(job.inputs, job.samples, job.vectors & 4), first_input);
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
    FeedbackTermForm<T> form_post(memory.signal, job.signal, first_unit, job.units, first, end);
    const auto form = [&](Stage& stage) { form_post(stage.post); };
    sum_steps(memory.tiles, steps, load, form, multiply);
  }

  const int unit = static_cast<int>(threadIdx.x) % tile_size;
  const bool second_half = threadIdx.x >= tile_size;
  if (second_half) memory.bias[unit] = bias;
  constexpr int width = vector_elements<T>;
  const bool split = job.part_samples < job.samples;
  const SinkAtWork<T, W> weight(job.weight);
  visit_results<width>(memory.tiles, sums, [&](int row, int column, const W(&values)[width]) {
    const int64_t valid = job.inputs - (first_input + column);
    if (first_unit + row >= job.units || valid <= 0) return;
    weight.take_part(split, part * part_stride(job.units * job.inputs),
                     (first_unit + row) * job.inputs + first_input + column, valid, values);
  });
  if (has_bias && !second_half && first_unit + unit < job.units) {
    bias.add(memory.bias[unit]);
    const W values[1] = {bias.value()};
    const SinkAtWork<T, W> sink(job.bias);
    sink.take_part(split, part * part_stride(job.units), first_unit + unit, 1, values);
  }
}

template <Arithmetic arithmetic, Post::Kind kind>
void launch_updates(Device& device, std::vector<UpdateJob>& jobs) {
  using Memory = typename UpdateTypes<arithmetic, kind>::Memory;
  static_assert(sizeof(Memory) <= 64 << 10, "sm_75 has no more for a block");
  const auto blocks_of = [](const UpdateJob& job) { return job.parts() * job.tiles(); };
  launch_jobs(update_kernel<arithmetic, kind>, jobs, blocks_of, tile_threads, sizeof(Memory), device.stream);
}

template <Arithmetic arithmetic>
void launch_updates(Device& device, Post::Kind kind, std::vector<UpdateJob>& jobs) {
  switch (kind) {
    case Post::Kind::given:
      return launch_updates<arithmetic, Post::Kind::given>(device, jobs);
    case Post::Kind::difference:
      return launch_updates<arithmetic, Post::Kind::difference>(device, jobs);
    case Post::Kind::feedback_term:
      return launch_updates<arithmetic, Post::Kind::feedback_term>(device, jobs);
  }
}

void launch_updates(Device& device, Arithmetic arithmetic, Post::Kind kind, std::vector<UpdateJob>& jobs) {
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

// A matrix (samples, rows) as the operand (rows, samples).
Operand operand(const View& matrix) {
  View transposed = matrix;
  std::swap(transposed.sizes[0], transposed.sizes[1]);
  std::swap(transposed.strides[0], transposed.strides[1]);
  return operand_of(transposed, Order::along_result);
}

Term term_of(const Operand& operand) { return {operand.data, operand.row_stride, operand.sum_stride}; }

Signal signal_of(const Post& post) {
  return {.data = post.signal.data,
          .feedback = post.feedback.data,
          .strides = {post.signal.strides[0], post.signal.strides[1]},
          .feedback_strides = {post.feedback.strides[0], post.feedback.strides[1]},
          .classes = post.signal.sizes[1],
          .activation = post.activation,
          .given_output = post.given_output};
}

// The job of an update, its sum not split.
UpdateJob job_of(const LinearUpdate& update) {
  const Operand post = operand(update.post.values), modulated = operand(update.post.modulated);
  const Operand pre = operand(update.pre);
  return {.units = post.rows,
          .inputs = pre.rows,
          .samples = pre.sums,
          .part_samples = pre.sums,
          .post = term_of(post),
          .modulated = term_of(modulated),
          .pre = term_of(pre),
          .vectors = post.vectors * 1 + modulated.vectors * 2 + pre.vectors * 4,
          .signal = signal_of(update.post),
          .weight = {update.weight, update.scale},
          .bias = {update.bias, update.scale}};
}

}  // namespace

void fused_updates(Device& device, Post::Kind kind, const std::vector<LinearUpdate>& updates) {
  std::vector<UpdateJob> jobs;
  std::vector<const LinearUpdate*> of_jobs;
  int64_t tiles = 0;
  for (const LinearUpdate& update : updates) {
    const UpdateJob job = job_of(update);
    if (job.tiles() == 0) continue;
    tiles += job.tiles();
    jobs.push_back(job);
    of_jobs.push_back(&update);
  }
  if (jobs.empty()) return;
  const Dtype dtype = updates.front().pre.dtype;
  const int64_t step = tile_step<char> / bytes_of(dtype);  // in samples
  std::vector<SplitSum> sums;
  for (size_t i = 0; i < jobs.size(); ++i) {
    UpdateJob& job = jobs[i];
    const LinearUpdate& update = *of_jobs[i];
    job.part_samples = steps_of_part(tiles, (job.samples + step - 1) / step, device.multiprocessors) * step;
    if (job.parts() == 1) continue;
    job.weight = {sink_of_parts(device, update.weight, update.scale, job.units * job.inputs, job.parts(), dtype, sums),
                  1};
    if (!update.bias.target) continue;
    job.bias = {sink_of_parts(device, update.bias, update.scale, job.units, job.parts(), dtype, sums), 1};
  }
  launch_updates(device, arithmetic_of(dtype, device.tf32), kind, jobs);
  second_stage(device, sums, dtype);
}

}  // namespace fastalign::cuda
