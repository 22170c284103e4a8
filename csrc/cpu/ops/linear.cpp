// Linear layers: forward with bias, activation and dropout; PEPITA's difference; the updates.

#include "cpu/dispatch.h"
#include "cpu/ops/operators.h"
#include "cpu/ops/projection.h"
#include "cpu/ops/update.h"

namespace fastalign {

namespace {

// Whether the kernel that packs samples is faster than the one that packs the matrix.
bool packs_samples(const ProjectionJob& job) {
  constexpr int64_t few = 128;
  return job.signal.scalar_type() == wide_dtype(job.signal) && job.signal.size(0) <= few &&
         job.signal.size(1) <= cpu_kernels().most_classes && job.matrix.stride(1) == 1;
}

void run_layer(const ProjectionJob& job) {
  if (!packs_samples(job)) return run_projections({job});
  const Tensor signal = row_major(job.signal);
  const Projection projection{.signal = signal.const_data_ptr(),
                              .matrix = input(job.matrix),
                              .matrix_row_stride = job.matrix.stride(0),
                              .matrix_column_stride = 1,
                              .rows = signal.size(0),
                              .classes = signal.size(1)};
  const Kernels& kernels = cpu_kernels();
  const int64_t of_task = projection.rows * projection.classes * batch_columns;
  parallel(blocks(job.epilogue.columns, batch_columns), 1 + worth_a_thread / (of_task + 1),
           [&](int64_t begin, int64_t end) { kernels.batch_projection(projection, job.epilogue, begin, end); });
}

}  // namespace

TwoTensors linear_forward_cpu(const Tensor& x, const Tensor& weight, const MaybeTensor& bias, int64_t activation,
                              double dropout, const MaybeTensor& seed, bool keep_preactivation) {
  check_alike({&x, &weight, bias ? &*bias : &x});
  check_shape("x", x, {-1, -1});
  check_shape("weight", weight, {-1, x.size(1)});
  if (bias) check_shape("bias", *bias, {weight.size(0)});
  const int64_t sizes[] = {x.size(0), weight.size(0)};
  Tensor h = empty({sizes, 2}, x.scalar_type());
  const int64_t none[] = {0};
  Tensor a = keep_preactivation ? empty({sizes, 2}, x.scalar_type()) : empty({none, 1}, x.scalar_type());
  const Tensor added = bias ? row_major(*bias) : x;
  run_layer({x,
             weight,
             keep_preactivation ? a : h,
             {.finish = Finish::forward,
              .activation = activation_of(activation),
              .dropout = dropout_of(dropout, seed),
              .bias = bias ? input(added) : Input{},
              .preactivation = keep_preactivation ? output(a) : Output{},
              .result = output(h),
              .columns = sizes[1]}});
  return {h, a};
}

Tensor linear_difference_cpu(const Tensor& delta, const Tensor& weight, const Tensor& preactivation, int64_t activation,
                             double dropout, const MaybeTensor& seed) {
  check_alike({&preactivation, &delta, &weight});
  check_shape("preactivation", preactivation, {-1, -1});
  check_shape("delta", delta, {preactivation.size(0), -1});
  check_shape("weight", weight, {preactivation.size(1), delta.size(1)});
  const Tensor operand = row_major(preactivation);
  Tensor delta_h = empty(preactivation.sizes(), preactivation.scalar_type());
  run_layer({delta,
             weight,
             delta_h,
             {.finish = Finish::difference,
              .activation = activation_of(activation),
              .dropout = dropout_of(dropout, seed),
              .operand = input(operand),
              .result = output(delta_h),
              .columns = preactivation.size(1)}});
  return delta_h;
}

namespace {

// ΔW = scale · postᵀ pre and Δb = scale · Σ post in pre's dtype; post in `update_dtype`.
TwoTensors update(const Tensor& post, const Tensor& pre, double scale, bool with_bias) {
  const ScalarType dtype = pre.scalar_type();
  const int64_t sizes[] = {post.size(1), pre.size(1)};
  const Tensor weight_update = empty({sizes, 2}, dtype);
  const Tensor bias_update = with_bias ? empty({sizes, 1}, dtype) : no_bias_update(dtype);
  run_linear_steps({{post,
                     in_dtype(pre, post.scalar_type()),
                     scale,
                     {.target = output(weight_update)},
                     {.target = with_bias ? output(bias_update) : Output{}}}});
  return {weight_update, bias_update};
}

}  // namespace

TwoTensors linear_update_cpu(const Tensor& post, const Tensor& pre, double scale, bool with_bias) {
  check_alike({&post, &pre});
  check_shape("post", post, {-1, -1});
  check_shape("pre", pre, {post.size(0), -1});
  return update(in_dtype(post, update_dtype(pre, post.size(1), /*descends=*/false)), pre, scale, with_bias);
}

std::vector<Tensor> linear_updates_cpu(const std::vector<Tensor>& post, const std::vector<Tensor>& pre,
                                       const std::vector<double>& scale, bool with_bias) {
  FASTALIGN_CHECK(post.size() == pre.size() && post.size() == scale.size(), "expected as many of post, pre and scale");
  std::vector<Tensor> updates;
  for (size_t layer = 0; layer < post.size(); ++layer) {
    const auto [weight, bias] = linear_update_cpu(post[layer], pre[layer], scale[layer], with_bias);
    updates.insert(updates.end(), {weight, bias});
  }
  return updates;
}

TwoTensors dfa_linear_update_cpu(const Tensor& error, const Tensor& feedback, const Tensor& kept, const Tensor& x,
                                 int64_t activation, bool given_output) {
  check_alike({&kept, &error, &feedback, &x});
  check_shape("preactivation", kept, {-1, -1});
  check_shape("x", x, {kept.size(0), -1});
  return update(
      feedback_term(error, feedback, kept, activation, given_output, update_dtype(x, kept.size(1), /*descends=*/false)),
      x, 1, true);
}

TwoTensors pepita_linear_update_cpu(const Tensor& h, const Tensor& h_mod, const Tensor& x_mod) {
  check_alike({&h, &h_mod, &x_mod});
  check_shape("h", h, {-1, -1});
  check_shape("h_mod", h_mod, {h.size(0), h.size(1)});
  check_shape("x_mod", x_mod, {h.size(0), -1});
  const double scale = 1.0 / static_cast<double>(h.size(0) > 0 ? h.size(0) : 1);
  return update(difference(h, h_mod, update_dtype(x_mod, h.size(1), /*descends=*/false)), x_mod, scale, true);
}

}  // namespace fastalign
