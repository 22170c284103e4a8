// What the CUDA kernels' bindings share: which tensors a kernel takes, and how it sees them.

#pragma once

#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <optional>
#include <tuple>
#include <vector>

#include "cuda/ops/operations.h"

namespace fastalign {

using torch::headeronly::IntHeaderOnlyArrayRef;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

using MaybeTensor = std::optional<Tensor>;
using TwoTensors = std::tuple<Tensor, Tensor>;
using Tensors = std::vector<Tensor>;
using Integers = std::vector<int64_t>;

// Whether kernels take them: tensors of one dtype that the kernels know, on one device that runs them.
bool fit(std::initializer_list<const Tensor*> tensors);
// Whether the shape is this one; −1 stands for any size.
bool has_shape(const Tensor& tensor, std::initializer_list<int64_t> sizes);
// Whether it is of whole numbers, on the device of another tensor.
bool are_integers(const Tensor& tensor, const Tensor& beside);
bool same_shape(const Tensor& one, const Tensor& other);
// Whether each is of two numbers, height and width.
bool are_pairs(std::initializer_list<const Integers*> lists);
// Whether it is a batch (N, …), whose samples have some number of elements.
bool is_batch(const Tensor& tensor);
int64_t sample_size(const Tensor& batch);

// The tensor itself where it has the shape, else a view or a copy that does.
Tensor reshaped(const Tensor& tensor, IntHeaderOnlyArrayRef sizes);
// A batch as (N, H), unless it is a map (N, C, H, W).
Tensor layer(const Tensor& batch);

// A contiguous tensor of the dtype of another one, for a result.
Tensor empty(const Tensor& like, std::initializer_list<int64_t> sizes);
Tensor empty_like(const Tensor& like);
// A number in the dtype of the sums over a tensor.
Tensor empty_sum(const Tensor& over);

cuda::View view(const Tensor& tensor);
// None where there is no tensor.
cuda::View view(const MaybeTensor& tensor);
// A contiguous tensor of any number of dimensions, as one of one.
cuda::View flat_view(const Tensor& tensor);
// Of int64, which is no dtype of the kernels; float64 has its size.
cuda::View view_of_integers(const Tensor& tensor);

// A view as a tensor again, on the device of another one.
Tensor tensor_of(const cuda::View& view, const Tensor& on);

// None where the activation or the dropout is not one that the kernels know.
std::optional<cuda::Activity> activity(const Tensor& tensor, int64_t activation, double dropout = 0,
                                       const MaybeTensor& seed = std::nullopt);

}  // namespace fastalign
