#include "cuda/choice.h"

#include "cuda/ops/operand.h"

namespace fastalign::cuda {

// No device has measured these numbers yet; they follow from what each method has to do.
namespace {

// A projection sums by FMA. Up to some terms the bytes of operand and result take longer (on an H200: 24 terms of
// 16-bit elements, 48 of float32). Beyond, tensor cores are faster, which shows once their sums take as long as a
// launch.
constexpr int64_t most_projected_terms = 256;
constexpr int64_t terms_bound_by_bytes = 32;
constexpr double worth_a_launch = 1 << 27;  // multiplications

// Beyond so many multiplications (256 × 1024 × 1024) the library's larger tiles gain more than what the epilogue's own
// launch and pass over the result cost.
constexpr double most_fused_multiplications = 1 << 28;

double multiplications(int64_t rows, int64_t columns, int64_t terms) {
  return static_cast<double>(rows) * static_cast<double>(columns) * static_cast<double>(terms);
}

bool is_projected(Arithmetic arithmetic, int64_t rows, int64_t columns, int64_t terms) {
  if (terms <= terms_bound_by_bytes) return true;
  const bool tensor_cores = arithmetic != Arithmetic::float64 && arithmetic != Arithmetic::float32;
  return terms <= most_projected_terms && (!tensor_cores || multiplications(rows, columns, terms) < worth_a_launch);
}

}  // namespace

bool prefers_library(const Device& device, int64_t rows, int64_t columns, int64_t terms) {
  if (device.force != Force::nothing) return device.force == Force::library;
  return multiplications(rows, columns, terms) > most_fused_multiplications;
}

Method choose(const Device& device, Dtype dtype, int64_t rows, int64_t columns, int64_t terms) {
  if (device.force != Force::library && is_projected(arithmetic_of(dtype, device.tf32), rows, columns, terms)) {
    return Method::projection;
  }
  return prefers_library(device, rows, columns, terms) ? Method::library : Method::fused;
}

}  // namespace fastalign::cuda
