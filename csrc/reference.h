// How a native kernel hands a call back to the reference, for what it does not handle itself.

#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <string>

namespace fastalign {

// The result of the reference kernel of an op with one tensor as result. The namespace fastalign_reference holds each
// op's twin, whose only kernel is the reference (fastalign/_native.py).
template <typename... Arguments>
torch::stable::Tensor call_reference(const char* op, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(Arguments)> stack{torch::stable::detail::from(arguments)...};
  const std::string name = std::string("fastalign_reference::") + op;
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name.c_str(), "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<torch::stable::Tensor>(stack[0]);
}

}  // namespace fastalign
