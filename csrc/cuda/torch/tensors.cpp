#include "cuda/torch/tensors.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "common/dropout.h"
#include "cuda/ops/library.h"

namespace fastalign {

namespace {

std::optional<Dtype> dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
      return Dtype::float64;
    case ScalarType::Float:
      return Dtype::float32;
    case ScalarType::BFloat16:
      return Dtype::bfloat16;
    case ScalarType::Half:
      return Dtype::float16;
    default:
      return std::nullopt;
  }
}

ScalarType scalar_type_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::float64:
      return ScalarType::Double;
    case Dtype::float32:
      return ScalarType::Float;
    case Dtype::bfloat16:
      return ScalarType::BFloat16;
    case Dtype::float16:
      break;
  }
  return ScalarType::Half;
}

bool on_one_device(const Tensor& one, const Tensor& other) { return one.device() == other.device(); }

cuda::View view_as(Dtype dtype, const Tensor& tensor) {
  cuda::View view{.data = tensor.data_ptr(), .dtype = dtype, .dimensions = static_cast<int>(tensor.dim())};
  std::copy_n(tensor.sizes().data(), view.dimensions, view.sizes);
  std::copy_n(tensor.strides().data(), view.dimensions, view.strides);
  return view;
}

}  // namespace

bool fit(std::initializer_list<const Tensor*> tensors) {
  const Tensor& first = **tensors.begin();
  return dtype_of(first) && cuda_usable(first.get_device_index()) &&
         std::all_of(tensors.begin(), tensors.end(), [&](const Tensor* tensor) {
           return tensor->scalar_type() == first.scalar_type() && on_one_device(*tensor, first);
         });
}

bool has_shape(const Tensor& tensor, std::initializer_list<int64_t> sizes) {
  const IntHeaderOnlyArrayRef actual = tensor.sizes();
  return actual.size() == sizes.size() && std::equal(sizes.begin(), sizes.end(), actual.begin(),
                                                     [](int64_t size, int64_t is) { return size < 0 || size == is; });
}

bool are_integers(const Tensor& tensor, const Tensor& beside) {
  return tensor.scalar_type() == ScalarType::Long && on_one_device(tensor, beside);
}

bool same_shape(const Tensor& one, const Tensor& other) { return one.sizes().equals(other.sizes()); }

bool are_pairs(std::initializer_list<const Integers*> lists) {
  return std::all_of(lists.begin(), lists.end(), [](const Integers* list) { return list->size() == 2; });
}

bool is_batch(const Tensor& tensor) { return tensor.dim() >= 1; }

int64_t sample_size(const Tensor& batch) {
  int64_t elements = 1;
  for (int64_t i = 1; i < batch.dim(); ++i) elements *= batch.size(i);
  return elements;
}

Tensor reshaped(const Tensor& tensor, IntHeaderOnlyArrayRef sizes) {
  if (tensor.sizes().equals(sizes)) return tensor;
  return torch::stable::view(torch::stable::contiguous(tensor), sizes);
}

Tensor layer(const Tensor& batch) {
  if (batch.dim() == 2 || batch.dim() == 4) return batch;
  const int64_t sizes[] = {batch.size(0), sample_size(batch)};
  return reshaped(batch, {sizes, 2});
}

Tensor empty(const Tensor& like, std::initializer_list<int64_t> sizes) {
  return torch::stable::new_empty(like, {sizes.begin(), sizes.size()});
}

Tensor empty_like(const Tensor& like) { return torch::stable::new_empty(like, like.sizes()); }

Tensor empty_sum(const Tensor& over) {
  const bool wide = over.scalar_type() == ScalarType::Double;
  return torch::stable::new_empty(over, {}, wide ? ScalarType::Double : ScalarType::Float);
}

cuda::View view(const Tensor& tensor) { return view_as(*dtype_of(tensor), tensor); }

cuda::View view(const MaybeTensor& tensor) { return tensor ? view(*tensor) : cuda::View{}; }

cuda::View flat_view(const Tensor& tensor) {
  return {.data = tensor.data_ptr(),
          .dtype = *dtype_of(tensor),
          .dimensions = 1,
          .sizes = {tensor.numel()},
          .strides = {1}};
}

cuda::View view_of_integers(const Tensor& tensor) { return view_as(Dtype::float64, tensor); }

Tensor tensor_of(const cuda::View& view, const Tensor& on) {
  const auto dimensions = static_cast<size_t>(view.dimensions);
  return torch::stable::from_blob(view.data, {view.sizes, dimensions}, {view.strides, dimensions}, on.device(),
                                  scalar_type_of(view.dtype));
}

std::optional<cuda::Activity> activity(const Tensor& tensor, int64_t activation, double dropout,
                                       const MaybeTensor& seed) {
  if (activation < 0 || activation > static_cast<int64_t>(Activation::gelu)) return std::nullopt;
  cuda::Activity activity{.activation = static_cast<Activation>(activation)};
  if (dropout == 0) return activity;
  const bool drawn = dropout > 0 && dropout <= 1 && seed && seed->numel() == 1 && are_integers(*seed, tensor);
  if (!drawn) return std::nullopt;
  activity.dropout = dropout_of(dropout);
  activity.seed = view_of_integers(reshaped(*seed, {1}));
  return activity;
}

}  // namespace fastalign
