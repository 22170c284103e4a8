#include "cpu/ops/tensors.h"

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <string>

#include "common/dropout.h"
#include "cpu/dispatch.h"

namespace fastalign {

namespace {

std::string shape_of(IntHeaderOnlyArrayRef sizes) {
  std::string text;
  for (const int64_t size : sizes) text += (text.empty() ? "" : ", ") + (size < 0 ? "*" : std::to_string(size));
  return "(" + text + ")";
}

}  // namespace

void check_shape(const char* name, const Tensor& tensor, std::initializer_list<int64_t> expected) {
  bool fits = tensor.dim() == static_cast<int64_t>(expected.size());
  int64_t dimension = 0;
  for (const int64_t size : expected) {
    fits = fits && (size < 0 || tensor.size(dimension) == size);
    ++dimension;
  }
  FASTALIGN_CHECK(fits, name, ": expected shape ", shape_of(expected), ", got ", shape_of(tensor.sizes()));
}

void check_same_shape(const char* name, const Tensor& tensor, const Tensor& other) {
  const auto got = tensor.sizes(), expected = other.sizes();
  FASTALIGN_CHECK(std::equal(got.begin(), got.end(), expected.begin(), expected.end()), name, ": expected shape ",
                  shape_of(expected), ", got ", shape_of(got));
}

void check_alike(std::initializer_list<const Tensor*> tensors) {
  const Tensor& first = **tensors.begin();
  dtype_of(first);
  for (const Tensor* tensor : tensors) {
    FASTALIGN_CHECK(tensor->scalar_type() == first.scalar_type(), "expected tensors of one dtype, got ",
                    toString(first.scalar_type()), " and ", toString(tensor->scalar_type()));
    FASTALIGN_CHECK(tensor->is_cpu(), "expected tensors on one device, got the CPU and another");
    check_memory(*tensor);
  }
}

void check_memory(const Tensor& tensor) {
  FASTALIGN_CHECK(tensor.const_data_ptr() != nullptr || tensor.numel() == 0,
                  "expected tensors in memory, got one of shape ", shape_of(tensor.sizes()),
                  " whose storage was freed");
}

void check_pairs(std::initializer_list<const std::vector<int64_t>*> lists) {
  for (const std::vector<int64_t>* list : lists) {
    FASTALIGN_CHECK(list->size() == 2, "expected two numbers for height and width, got ", list->size());
  }
}

Dtype dtype_of(const Tensor& tensor) {
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
      fail("expected dtype float64, float32, bfloat16 or float16, got ", toString(tensor.scalar_type()));
  }
}

bool is_half(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::BFloat16 || tensor.scalar_type() == ScalarType::Half;
}

ScalarType wide_dtype(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

ScalarType factor_dtype(const Tensor& tensor, int64_t multiplications) {
  constexpr int64_t worth = int64_t(1) << 21;
  const bool natively = tensor.scalar_type() == ScalarType::BFloat16 && multiplications >= worth;
  return natively && library_multiplies_bfloat16() ? ScalarType::BFloat16 : wide_dtype(tensor);
}

Tensor empty(IntHeaderOnlyArrayRef sizes, ScalarType dtype) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t i = sizes.size(); i-- > 1;) strides[i - 1] = strides[i] * (sizes[i] > 0 ? sizes[i] : 1);
  AtenTensorHandle handle = nullptr;
  const auto number = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  check_call("empty_strided", aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
                                                       number, aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

Tensor row_major(const Tensor& tensor) { return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor); }

Tensor in_dtype(const Tensor& tensor, ScalarType dtype) {
  if (tensor.scalar_type() == dtype) return tensor;
  if (tensor.scalar_type() == ScalarType::Double || dtype == ScalarType::Double || !tensor.is_contiguous()) {
    return torch::stable::to(tensor, dtype);
  }
  // The library's own way there takes longer than a small tensor.
  Tensor converted = empty(tensor.sizes(), dtype);
  run_elementwise(tensor, {.finish = Finish::scale, .scale = 1, .result = output(converted)});
  return converted;
}

Tensor wide(const Tensor& tensor) { return in_dtype(tensor, wide_dtype(tensor)); }

Tensor view(const Tensor& tensor, IntHeaderOnlyArrayRef sizes, IntHeaderOnlyArrayRef strides) {
  AtenTensorHandle handle = nullptr;
  check_call("as_strided", aoti_torch__reinterpret_tensor(tensor.get(), static_cast<int64_t>(sizes.size()),
                                                          sizes.data(), strides.data(), 0, &handle));
  return Tensor(handle);
}

Tensor transposed(const Tensor& matrix) {
  const int64_t sizes[] = {matrix.size(1), matrix.size(0)};
  const int64_t strides[] = {matrix.stride(1), matrix.stride(0)};
  return view(matrix, {sizes, 2}, {strides, 2});
}

Input input(const Tensor& tensor) { return {tensor.const_data_ptr(), dtype_of(tensor)}; }

Output output(const Tensor& tensor) { return {tensor.mutable_data_ptr(), dtype_of(tensor)}; }

Activation activation_of(int64_t number) {
  FASTALIGN_CHECK(number >= 0 && number <= static_cast<int64_t>(Activation::gelu),
                  "activation: expected a number of fastalign.ops.activations.Activation, got ", number);
  return static_cast<Activation>(number);
}

Dropout dropout_of(double p, const std::optional<Tensor>& seed) {
  FASTALIGN_CHECK(p >= 0 && p <= 1, "dropout: expected a probability, got ", p);
  if (p == 0) return {};
  FASTALIGN_CHECK(seed.has_value(), "seed: expected a tensor where dropout is positive, got none");
  FASTALIGN_CHECK(seed->scalar_type() == ScalarType::Long && seed->numel() == 1 && seed->is_cpu(),
                  "seed: expected one int64 on the CPU");
  check_memory(*seed);
  Dropout dropout = dropout_of(p);
  dropout.key = static_cast<uint64_t>(*static_cast<const int64_t*>(seed->const_data_ptr()));
  return dropout;
}

void multiply(const Tensor& result, const Tensor& left, const Tensor& right, double scale, double keep) {
  if (scale == 1 && keep == 0) {
    check_call("mm", aoti_torch_cpu_mm_out(result.get(), left.get(), right.get()));
  } else {
    check_call("addmm", aoti_torch_cpu_addmm_out(result.get(), result.get(), left.get(), right.get(), /*beta=*/keep,
                                                 /*alpha=*/scale));
  }
}

void run_elementwise(const Tensor& values, const Epilogue& epilogue) {
  const Kernels& kernels = cpu_kernels();
  const Input from = input(values);
  const int64_t count = values.numel();
  parallel(blocks(count, elementwise_block), 2, [&](int64_t begin, int64_t end) {
    const int64_t last = end * elementwise_block < count ? end * elementwise_block : count;
    kernels.elementwise(from, epilogue, begin * elementwise_block, last);
  });
}

}  // namespace fastalign
