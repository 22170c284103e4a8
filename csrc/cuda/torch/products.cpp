#include "cuda/torch/products.h"

#include "common/check.h"
#include "python/loaded.h"

namespace fastalign {

namespace {

using Product = AOTITorchError (*)(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle);
using ScaledProduct = AOTITorchError (*)(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle, AtenTensorHandle, double,
                                         double);

Product product() {
  static const auto function = find_loaded<Product>("libtorch_cuda", "aoti_torch_cuda_mm_out");
  return function;
}

ScaledProduct scaled_product() {
  static const auto function = find_loaded<ScaledProduct>("libtorch_cuda", "aoti_torch_cuda_addmm_out");
  return function;
}

}  // namespace

bool multiplies_on_cuda() { return product() != nullptr && scaled_product() != nullptr; }

bool multiply_on_cuda(const torch::stable::Tensor& result, const torch::stable::Tensor& left,
                      const torch::stable::Tensor& right, double scale, double keep) {
  if (!multiplies_on_cuda()) return false;
  if (scale == 1 && keep == 0) {
    check_call("mm", product()(result.get(), left.get(), right.get()));
  } else {
    check_call("addmm",
               scaled_product()(result.get(), result.get(), left.get(), right.get(), /*beta=*/keep, /*alpha=*/scale));
  }
  return true;
}

}  // namespace fastalign
