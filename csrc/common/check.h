// Errors as users read them: what was expected and what came, without a place in a source file.

#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <sstream>
#include <stdexcept>

#include "python/loaded.h"

namespace fastalign {

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

// Throws where a call of torch's C functions failed, in torch's words if it has a function that tells them (2.13).
inline void check_call(const char* name, AOTITorchError error) {
  if (error == AOTI_TORCH_SUCCESS) return;
  static const auto why = find_loaded<const char* (*)()>("libtorch_cpu", "torch_exception_get_what_without_backtrace");
  fail(name, " failed: ", why != nullptr ? why() : "standard error tells why");
}

}  // namespace fastalign

// Throws a std::runtime_error whose message is the other arguments, which are formed only then.
#define FASTALIGN_CHECK(condition, ...)               \
  do {                                                \
    if (!(condition)) ::fastalign::fail(__VA_ARGS__); \
  } while (false)
