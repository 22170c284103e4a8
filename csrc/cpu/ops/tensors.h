// What the CPU operators need of torch, on LibTorch's stable ABI: tensors to read, write and multiply, and threads.

#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <vector>

#include "common/check.h"
#include "cpu/kernels/kernels.h"

namespace fastalign {

using torch::headeronly::IntHeaderOnlyArrayRef;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Throws std::runtime_error where the shape is another; −1 stands for any size.
void check_shape(const char* name, const Tensor& tensor, std::initializer_list<int64_t> expected);
void check_same_shape(const char* name, const Tensor& tensor, const Tensor& other);
// Throws std::runtime_error where the tensors are not of one floating-point dtype, not on the CPU, or not in memory.
void check_alike(std::initializer_list<const Tensor*> tensors);
// Throws std::runtime_error where one is not of two numbers, height and width.
void check_pairs(std::initializer_list<const std::vector<int64_t>*> lists);

// Throws std::runtime_error where a tensor's storage was freed.
void check_memory(const Tensor& tensor);

Dtype dtype_of(const Tensor& tensor);
bool is_half(const Tensor& tensor);
// float64 for float64, else float32: the dtype that sums are taken in.
ScalarType wide_dtype(const Tensor& tensor);
// The dtype of the factors of torch's products, for that many multiplications: the wide one, or bfloat16 where the
// machine multiplies it (and sums in float32), and a product is worth the library's preparations.
ScalarType factor_dtype(const Tensor& tensor, int64_t multiplications);

Tensor empty(IntHeaderOnlyArrayRef sizes, ScalarType dtype);
// The tensor itself where it is contiguous, else a copy.
Tensor row_major(const Tensor& tensor);
// The tensor itself where it is of that dtype, else a copy; strides as they come.
Tensor in_dtype(const Tensor& tensor, ScalarType dtype);
// The tensor itself where its dtype is wide, else a copy; strides as they come.
Tensor wide(const Tensor& tensor);
// Another view of a tensor's memory.
Tensor view(const Tensor& tensor, IntHeaderOnlyArrayRef sizes, IntHeaderOnlyArrayRef strides);
Tensor transposed(const Tensor& matrix);

// A contiguous tensor as the kernels take it.
Input input(const Tensor& tensor);
Output output(const Tensor& tensor);

Activation activation_of(int64_t number);
// Throws std::runtime_error where p is no probability, or positive without a seed.
Dropout dropout_of(double p, const std::optional<Tensor>& seed);

// result = scale · left · right + keep · result, by torch's matrix product.
void multiply(const Tensor& result, const Tensor& left, const Tensor& right, double scale = 1, double keep = 0);

// Multiplications from which on a thread is worth its waking.
constexpr int64_t worth_a_thread = int64_t(1) << 19;

// How many blocks of some size there are, the last one being shorter where they do not come out even.
inline int64_t blocks(int64_t size, int64_t block) { return (size + block - 1) / block; }

// Runs a function of (begin, end) over ranges of the tasks 0 … count, of at least `grain` tasks each, on torch's
// threads.
template <typename Function>
void parallel(int64_t count, int64_t grain, const Function& function) {
  if (count > 0) torch::stable::parallel_for(0, count, grain, function);
}

// Runs a function of (job, begin, end) over ranges of the tasks of several jobs in one go; job j has the tasks
// first_task[j] … first_task[j + 1], counted to the function from 0.
template <typename Function>
void parallel(const std::vector<int64_t>& first_task, int64_t grain, const Function& function) {
  parallel(first_task.back(), grain, [&](int64_t begin, int64_t end) {
    size_t job = std::upper_bound(first_task.begin(), first_task.end(), begin) - first_task.begin() - 1;
    for (; begin < end; ++job) {
      const int64_t last = std::min(end, first_task[job + 1]);
      function(job, begin - first_task[job], last - first_task[job]);
      begin = last;
    }
  });
}

// result = epilogue(values), element by element.
void run_elementwise(const Tensor& values, const Epilogue& epilogue);

}  // namespace fastalign
