// How a native kernel hands a call back to the reference, for what it does not handle itself.

#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <tuple>

#include "common/check.h"

namespace fastalign {

// A result as it lies on the dispatcher's stack.
template <typename Result>
struct OnStack {
  static Result take(StableIValue* stack) { return torch::stable::detail::to<Result>(stack[0]); }
};
template <typename... Results>
struct OnStack<std::tuple<Results...>> {
  static std::tuple<Results...> take(StableIValue* stack) {
    return torch::stable::detail::unbox_to_tuple<Results...>(stack);
  }
};
template <>
struct OnStack<void> {
  static void take(StableIValue*) {}
};

// What the reference kernel of an op gives. The namespace fastalign_reference holds each op's twin, whose only kernel
// is the reference (fastalign/ops/native.py).
template <typename Result, typename... Arguments>
Result call_reference(const char* op, const Arguments&... arguments) {
  constexpr size_t most_results = 2;
  std::array<StableIValue, std::max(sizeof...(Arguments), most_results)> stack{
      torch::stable::detail::from(arguments)...};
  const std::string name = std::string("fastalign_reference::") + op;
  check_call(op, torch_call_dispatcher(name.c_str(), "", stack.data(), TORCH_ABI_VERSION));
  return OnStack<Result>::take(stack.data());
}

// A name as a template's argument.
template <size_t length>
struct Name {
  char text[length];
  constexpr Name(const char (&name)[length]) { std::copy_n(name, length, text); }
};

// An op whose kernel gives nothing (or false, where it has no result) for what it does not handle: the reference does.
template <Name name, auto kernel, typename Kernel = decltype(kernel)>
struct Operator;
template <Name name, auto kernel, typename Result, typename... Arguments>
struct Operator<name, kernel, std::optional<Result> (*)(Arguments...)> {
  static Result run(Arguments... arguments) {
    std::optional<Result> result = kernel(arguments...);
    return result ? *std::move(result) : call_reference<Result>(name.text, arguments...);
  }
};
template <Name name, auto kernel, typename... Arguments>
struct Operator<name, kernel, bool (*)(Arguments...)> {
  static void run(Arguments... arguments) {
    if (!kernel(arguments...)) call_reference<void>(name.text, arguments...);
  }
};

// Registers a kernel under its op's name.
template <Name name, auto kernel>
void add_operator(torch::stable::detail::StableLibrary& library) {
  using Run = Operator<name, kernel>;
  library.impl(name.text, TORCH_BOX(&Run::run));
}

}  // namespace fastalign
