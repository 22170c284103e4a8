#include "emulator/device.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstring>

#include "emulator/memory.h"
#include "emulator/runtime.h"

namespace fastalign::emulator {

namespace {

size_t bytes_of(Dtype dtype) { return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2; }

// The memory from a tensor's first element to its last one.
Region region(const cuda::View& view) {
  int64_t last = 0;
  for (int i = 0; i < view.dimensions; ++i) {
    if (view.sizes[i] == 0) return {view.data, 0};
    last += (view.sizes[i] - 1) * view.strides[i];
  }
  return {view.data, static_cast<size_t>(last + 1) * bytes_of(view.dtype)};
}

template <typename T>
T& at(const cuda::View& view, int64_t row, int64_t column) {
  return static_cast<T*>(view.data)[row * view.strides[0] + column * view.strides[1]];
}

template <typename T>
void product(const cuda::View& result, const cuda::View& left, const cuda::View& right, double scale, double keep) {
  using Sum = std::conditional_t<std::is_same_v<T, double>, long double, double>;
  for (int64_t m = 0; m < result.sizes[0]; ++m) {
    for (int64_t n = 0; n < result.sizes[1]; ++n) {
      Sum sum = 0;  // as a good library's: what is tested is what is made of it
      for (int64_t k = 0; k < left.sizes[1]; ++k) sum += Sum(at<T>(left, m, k)) * Sum(at<T>(right, k, n));
      T& kept = at<T>(result, m, n);
      const Sum before = keep == 0 ? 0 : keep * Sum(kept);
      kept = T(double(scale * sum + before));
    }
  }
}

}  // namespace

void EmulatedDevice::begin() {
  start(schedule);
  clear_buffers();
  launches -= launches_of_kernels();
}

void EmulatedDevice::end() {
  launches += launches_of_kernels();
  scratch_.clear();
  throw_fault();
}

const cuda::View& EmulatedDevice::reads(const std::string& name, const cuda::View& view) {
  if (view) add_buffer({name, region(view), false});
  return view;
}

const cuda::View& EmulatedDevice::writes(const std::string& name, const cuda::View& view) {
  if (view) add_buffer({name, region(view), true});
  return view;
}

void* EmulatedDevice::scratch(size_t bytes) {
  constexpr unsigned char poison = 0xFF;  // NaN in every floating-point dtype
  scratch_.push_back(std::make_unique<unsigned char[]>(bytes));
  std::memset(scratch_.back().get(), poison, bytes);
  add_buffer({"scratch", {scratch_.back().get(), bytes}, true});
  return scratch_.back().get();
}

namespace {

void check_operand(const cuda::View& view, bool writable, const std::string& name) {
  if (!is_in_a_buffer(region(view), writable)) fault("a product by the library " + name + " memory it may not touch");
}

}  // namespace

bool EmulatedDevice::multiply(const cuda::View& result, const cuda::View& left, const cuda::View& right, double scale,
                              double keep) {
  if (!library) return false;
  ++products;
  check_operand(result, true, "writes");
  check_operand(left, false, "reads");
  check_operand(right, false, "reads");
  switch (result.dtype) {
    case Dtype::float64:
      product<double>(result, left, right, scale, keep);
      break;
    case Dtype::float32:
      product<float>(result, left, right, scale, keep);
      break;
    case Dtype::bfloat16:
      product<__nv_bfloat16>(result, left, right, scale, keep);
      break;
    case Dtype::float16:
      product<__half>(result, left, right, scale, keep);
      break;
  }
  return true;
}

}  // namespace fastalign::emulator
