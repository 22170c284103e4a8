#include "cpu/ops/update.h"

#include "cpu/dispatch.h"

namespace fastalign {

namespace {

constexpr int64_t bias_block = 64;  // units whose sums are taken side by side

// A sink's tensor as the library takes it.
Tensor matrix(void* data, const LinearStep& step) {
  const int64_t sizes[] = {step.post.size(1), step.pre.size(1)}, strides[] = {sizes[1], 1};
  return torch::stable::from_blob(data, {sizes, 2}, {strides, 2}, step.post.device(), step.post.scalar_type());
}

// A sink takes a matrix as its gradient.
void sink(const Sink& sink, const Tensor& gradient, double scale) {
  const Kernels& kernels = cpu_kernels();
  const int64_t count = gradient.numel();
  parallel(blocks(count, elementwise_block), 4, [&](int64_t begin, int64_t end) {
    kernels.descend(sink, input(gradient), scale, begin * elementwise_block, std::min(end * elementwise_block, count));
  });
}

// By the library's product: written at once, or into the velocity; else with a pass over it. Into the parameter itself
// it would be rounded as often as the library takes its sums in parts.
void run_by_library(const LinearStep& step) {
  const auto& [post, pre, scale, weight, bias] = step;
  const bool in_place = weight.target.dtype == dtype_of(post);
  if (in_place && weight.settings == nullptr) {
    return multiply(matrix(weight.target.data, step), transposed(post), pre, scale);
  }
  if (in_place && weight.descent == Descent::momentum && weight.settings->weight_decay == 0) {
    const Tensor velocity = matrix(weight.states[0], step);
    multiply(velocity, transposed(post), pre, scale, weight.settings->momentum);
    return sink({.target = weight.target, .descent = Descent::sgd, .settings = weight.settings}, velocity, 1);
  }
  const int64_t sizes[] = {post.size(1), pre.size(1)};
  const Tensor product = empty({sizes, 2}, post.scalar_type());
  multiply(product, transposed(post), pre);
  sink(weight, product, scale);
}

// Whether the own kernel is faster than the library's product. Where parameters descend it saves a pass over them. Of
// an update that is only written it saves the library's preparations, if it is small; and if it is too large for a
// second-level cache, its tiles ask for their memory ahead, which counts where the sums are neither short nor long.
bool own_kernel_takes(const LinearStep& step) {
  constexpr int64_t small = int64_t(1) << 18;  // multiplications
  constexpr int64_t large = int64_t(3) << 18;  // elements
  const auto& [post, pre, scale, weight, bias] = step;
  const int64_t samples = post.size(0), elements = post.size(1) * pre.size(1);
  if (is_half(post) || samples > cpu_kernels().most_samples) return false;
  const bool only_written = weight.settings == nullptr && weight.target.dtype == dtype_of(post);
  return !only_written || samples * elements <= small || (samples > 32 && samples <= 64 && elements >= large);
}

void sum_into(Output result, const Tensor& post, double scale) {
  const Tensor values = row_major(post);
  const int64_t images = post.size(0), channels = post.size(1);
  const int64_t positions = post.dim() == 4 ? post.size(2) * post.size(3) : 1;
  const Kernels& kernels = cpu_kernels();
  const int64_t block = positions == 1 ? bias_block : 1;
  const int64_t work = images * positions * block;
  parallel(blocks(channels, block), work < 32768 ? 32768 / (work + 1) + 1 : 1, [&](int64_t begin, int64_t end) {
    const int64_t last = std::min(end * block, channels);
    kernels.channel_sums(input(values), images, channels, positions, scale, result, begin * block, last);
  });
}

bool matrix_unit_takes(const Tensor& term) {
  return term.scalar_type() == ScalarType::BFloat16 && term.size(0) <= cpu_kernels().most_samples &&
         cpu_kernels().tile_update != nullptr;
}

// The updates that one kernel takes, in tasks of so many rows.
struct Updates {
  explicit Updates(int64_t rows) : rows_of_task(rows) {}

  void add(const LinearStep& step) {
    const auto& [post, pre, scale, weight, bias] = step;
    updates.push_back({.post = post.const_data_ptr(),
                       .post_strides = {post.stride(0), post.stride(1)},
                       .pre = pre.const_data_ptr(),
                       .pre_strides = {pre.stride(0), pre.stride(1)},
                       .samples = post.size(0),
                       .rows = post.size(1),
                       .columns = pre.size(1),
                       .dtype = dtype_of(post),
                       .scale = scale,
                       .weight = weight,
                       .bias = bias});
    first_task.push_back(first_task.back() + blocks(post.size(1), rows_of_task));
    multiplications += post.numel() * pre.size(1);
  }

  // worth: multiplications from which on a thread is worth its waking.
  void run(decltype(Kernels::linear_update) kernel, int64_t worth) const {
    parallel(first_task, 1 + worth * first_task.back() / (multiplications + 1),
             [&](size_t i, int64_t begin, int64_t end) { kernel(updates[i], begin, end); });
  }

  int64_t rows_of_task, multiplications = 0;
  std::vector<LinearUpdate> updates{};
  std::vector<int64_t> first_task{0};
};

}  // namespace

Tensor difference(const Tensor& h, const Tensor& h_mod, ScalarType dtype) {
  const Tensor standard = row_major(h), modulated = row_major(h_mod);
  Tensor difference = empty(h.sizes(), dtype);
  run_elementwise(modulated,
                  {.finish = Finish::add, .scale = -1, .operand = input(standard), .result = output(difference)});
  return difference;
}

ScalarType update_dtype(const Tensor& pre, int64_t units, bool descends) {
  if (matrix_unit_takes(pre)) return ScalarType::BFloat16;
  const int64_t few = descends ? 32 : 4;  // samples, of which the own kernel is ahead of bfloat16's product too
  return pre.size(0) <= few ? wide_dtype(pre) : factor_dtype(pre, pre.numel() * units);
}

void run_linear_steps(const std::vector<LinearStep>& steps) {
  Updates by_vectors(update_rows), by_tiles(tile_update_rows);
  std::vector<Tensor> copies;
  for (const LinearStep& step : steps) {
    const auto& [post, pre, scale, weight, bias] = step;
    if (matrix_unit_takes(post)) {
      const Tensor left = row_major(post), right = row_major(pre);
      copies.insert(copies.end(), {left, right});
      by_tiles.add({left, right, scale, weight, bias});
    } else if (own_kernel_takes(step)) {
      by_vectors.add(step);
    } else {
      run_by_library(step);
      if (bias.target.data != nullptr && bias.settings == nullptr) {
        sum_into(bias.target, post, scale);
      } else if (bias.target.data != nullptr) {
        sink(bias, bias_update(post, scale, wide_dtype(post)), 1);
      }
    }
  }
  const Kernels& kernels = cpu_kernels();
  by_vectors.run(kernels.linear_update, worth_a_thread);
  by_tiles.run(kernels.tile_update, 2 * worth_a_thread);
}

Tensor bias_update(const Tensor& post, double scale, ScalarType dtype) {
  const int64_t channels = post.size(1);
  Tensor result = empty({&channels, 1}, dtype);
  sum_into(output(result), post, scale);
  return result;
}

Tensor no_bias_update(ScalarType dtype) {
  const int64_t none = 0;
  return empty({&none, 1}, dtype);
}

}  // namespace fastalign
