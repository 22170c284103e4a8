#include "cuda/choice.h"

#include "cuda/operand.h"

namespace fastalign::cuda {

// No device has measured these numbers yet; they follow from what each method has to do.
namespace {

// A projection sums by FMA. Up to some terms the bytes of operand and result take longer (on an H200: 24 terms of
// 16-bit elements, 48 of float32). Beyond, tensor cores are faster, which shows once their sums take as long as a
// launch.
constexpr int64_t most_projected_terms = 256;
constexpr int64_t terms_bound_by_bytes = 32;
constexpr int64_t worth_a_launch = int64_t{1} << 27;  // multiplications

// Beyond so many multiplications (256 × 1024 × 1024) the library's larger tiles gain more than what the epilogue's own
// launch and pass over the result cost.
constexpr int64_t most_fused_multiplications = int64_t{1} << 28;

}  // namespace

Method choose(const Device& device, Dtype dtype, int64_t rows, int64_t columns, int64_t terms) {
  if (device.force == Force::library) return Method::library;
  const double multiplications = static_cast<double>(rows) * static_cast<double>(columns) * static_cast<double>(terms);
  const Arithmetic arithmetic = arithmetic_of(dtype, device.tf32);
  const bool tensor_cores = arithmetic != Arithmetic::float64 && arithmetic != Arithmetic::float32;
  const bool few_terms = terms <= terms_bound_by_bytes;
  if (few_terms || (terms <= most_projected_terms && (!tensor_cores || multiplications < worth_a_launch)))
    return Method::projection;
  if (device.force == Force::fused || multiplications <= most_fused_multiplications) return Method::fused;
  return Method::library;
}

}  // namespace fastalign::cuda
