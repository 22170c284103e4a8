// Softmax and cross-entropy, with its gradient in the same call.

#include "cpu/dispatch.h"
#include "cpu/ops/operators.h"
#include "cpu/ops/tensors.h"

namespace fastalign {

namespace {

constexpr int64_t ignored = -100;  // as in torch

// How many samples count.
int64_t counted(const Tensor& labels, int64_t classes) {
  const int64_t* label = labels.const_data_ptr<int64_t>();
  int64_t count = 0;
  for (int64_t i = 0; i < labels.size(0); ++i) {
    FASTALIGN_CHECK(label[i] == ignored || (label[i] >= 0 && label[i] < classes),
                    "labels: expected class indices from 0 to ", classes - 1, ", got ", label[i]);
    count += label[i] != ignored;
  }
  return count;
}

}  // namespace

TwoTensors cross_entropy_cpu(const Tensor& outputs, const Tensor& labels, bool mean) {
  check_alike({&outputs});
  check_shape("outputs", outputs, {-1, -1});
  check_shape("labels", labels, {outputs.size(0)});
  FASTALIGN_CHECK(labels.scalar_type() == ScalarType::Long, "labels: expected the dtype int64");
  FASTALIGN_CHECK(labels.is_cpu(), "labels: expected a tensor on the CPU, as the outputs");
  check_memory(labels);
  const int64_t rows = outputs.size(0), classes = outputs.size(1);
  const Tensor logits = row_major(outputs), indices = row_major(labels);
  const int64_t count = counted(indices, classes);
  const Tensor losses = empty({&rows, 1}, ScalarType::Double), gradient = empty(outputs.sizes(), outputs.scalar_type());
  const CrossEntropy work{.outputs = input(logits),
                          .labels = indices.const_data_ptr<int64_t>(),
                          .classes = classes,
                          .weight = mean && count > 0 ? 1.0 / static_cast<double>(count) : 1.0,
                          .gradient = output(gradient),
                          .losses = losses.mutable_data_ptr<double>()};
  const Kernels& kernels = cpu_kernels();
  parallel(rows, 1 + 16384 / (classes + 1),
           [&](int64_t begin, int64_t end) { kernels.cross_entropy(work, begin, end); });
  // In pairs, so that the error hardly grows with the batch.
  for (int64_t left = rows; left > 1; left -= left / 2) {
    for (int64_t i = 0; i < left / 2; ++i) work.losses[i] += work.losses[left - 1 - i];
  }
  double total = rows > 0 ? work.losses[0] : 0;
  if (mean) total /= static_cast<double>(count);
  const Tensor loss = empty(IntHeaderOnlyArrayRef(), wide_dtype(outputs));
  if (wide_dtype(outputs) == ScalarType::Double) {
    *loss.mutable_data_ptr<double>() = total;
  } else {
    *loss.mutable_data_ptr<float>() = static_cast<float>(total);
  }
  return {loss, gradient};
}

}  // namespace fastalign
