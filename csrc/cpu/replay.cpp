// Recorded steps: the calls of one step, made one after the other without Python and its dispatch between them.
//
// fastalign/step/replay.py writes a program as text, a line for each call: the op, its arguments, "=", the slots of
// its results, ";", the slots that nobody reads any more. The first slots are the program's inputs, then come the
// tensors that it keeps. An argument is a letter and integers: T a tensor's slot, O one where there may be none, N
// none, L slots of a list of tensors, i an integer, f the bits of a double, I and F a list of them. Among the results,
// L is a list.

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <bit>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>

#include "cpu/ops/register.h"
#include "cpu/ops/tensors.h"

namespace fastalign {

namespace {

using torch::stable::detail::from;
using torch::stable::detail::to;

using Slots = std::vector<std::optional<Tensor>>;

struct Argument {
  char kind;
  std::vector<int64_t> integers;
  std::vector<double> numbers;  // of F
};

struct Call {
  BoxedKernel kernel;
  std::vector<Argument> arguments, results;
  std::vector<int64_t> done;  // slots
};

// How a tensor lies in memory, and where; no place for an input, which may be anywhere but in memory that lasts.
struct Layout {
  explicit Layout(const Tensor& tensor, bool stays)
      : sizes(tensor.sizes().begin(), tensor.sizes().end()),
        strides(tensor.strides().begin(), tensor.strides().end()),
        dtype(tensor.scalar_type()),
        element_size(static_cast<int64_t>(tensor.element_size())),
        span(tensor.numel() > 0 ? element_size : 0),
        place(stays ? data_of(tensor) : nullptr) {
    for (size_t i = 0; span > 0 && i < sizes.size(); ++i) span += (sizes[i] - 1) * strides[i] * element_size;
  }

  static const char* data_of(const Tensor& tensor) { return static_cast<const char*>(tensor.const_data_ptr()); }

  bool fits(const Tensor& tensor) const {
    const auto same = [](const std::vector<int64_t>& noted, IntHeaderOnlyArrayRef found) {
      return std::equal(noted.begin(), noted.end(), found.begin(), found.end());
    };
    return tensor.is_cpu() && is_strided(tensor) && tensor.scalar_type() == dtype && same(sizes, tensor.sizes()) &&
           same(strides, tensor.strides()) && (span == 0 || lies_there(tensor));
  }

  static bool is_strided(const Tensor& tensor) {
    int32_t layout = 0;
    check_call("layout", aoti_torch_get_layout(tensor.get(), &layout));
    return layout == aoti_torch_layout_strided();
  }

  // In a storage as long as the tensor needs: it may have been freed or cut short.
  bool lies_there(const Tensor& tensor) const {
    const char* data = data_of(tensor);
    if (data == nullptr || (place != nullptr && place != data)) return false;
    int64_t stored = 0;
    check_call("storage_size", aoti_torch_get_storage_size(tensor.get(), &stored));
    return tensor.storage_offset() * element_size + span <= stored;
  }

  // Whether an input at `data` shares memory with what lasts.
  bool meets(const char* data, const Layout& lasting) const {
    return data < lasting.place + lasting.span && lasting.place < data + span;
  }

  std::vector<int64_t> sizes, strides;
  ScalarType dtype;
  int64_t element_size, span;  // span: bytes from the first element to the end of the last one
  const char* place;
};

// Torch records no derivatives while one of these is there.
class NoGradients {
 public:
  NoGradients() : before_(aoti_torch_grad_mode_is_enabled()) { aoti_torch_grad_mode_set_enabled(false); }
  ~NoGradients() { aoti_torch_grad_mode_set_enabled(before_); }

 private:
  bool before_;
};

struct Program {
  // Whether the slots begin with such inputs, and with what lasts where it was when the program was made.
  bool fits(const Slots& slots) const {
    if (slots.size() != layouts.size()) return false;
    for (size_t i = 0; i < slots.size(); ++i) {
      if (!layouts[i].fits(*slots[i])) return false;
    }
    const size_t inputs = slots.size() - lasting.size();
    for (size_t i = 0; i < inputs; ++i) {
      const char* data = Layout::data_of(*slots[i]);
      for (size_t j = inputs; j < layouts.size(); ++j) {
        if (layouts[i].meets(data, layouts[j])) return false;
      }
    }
    return true;
  }

  std::vector<Tensor> lasting;
  std::vector<Layout> layouts;  // of the inputs, then of what lasts
  std::vector<Call> calls;
  std::vector<int64_t> results;  // slots
  size_t slots = 0;
};

// Torch's own ops, of which recorded steps of dense networks call a few.

// Few numbers by a kernel of our own: torch's way to its own takes longer than they do.
Tensor times(const Tensor& x, double factor) {
  const bool is_floating = x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double || is_half(x);
  if (is_floating && x.is_contiguous()) {
    const Tensor result = empty(x.sizes(), x.scalar_type());
    run_elementwise(x, {.finish = Finish::scale, .scale = factor, .result = output(result)});
    return result;
  }
  AtenTensorHandle result = nullptr;
  check_call("mul", aoti_torch_cpu_mul_Scalar(x.get(), factor, &result));
  return Tensor(result);
}

Tensor plus(const Tensor& x, const Tensor& y, double factor) {
  AtenTensorHandle result = nullptr;
  check_call("add", aoti_torch_cpu_add_Tensor(x.get(), y.get(), factor, &result));
  return Tensor(result);
}

Tensor product(const Tensor& left, const Tensor& right) {
  const int64_t sizes[] = {left.size(0), right.size(1)};
  const Tensor result = empty({sizes, 2}, left.scalar_type());
  multiply(result, left, right);
  return result;
}

Tensor permuted(const Tensor& x, const std::vector<int64_t>& dimensions) {
  AtenTensorHandle result = nullptr;
  check_call("permute",
             aoti_torch_cpu_permute(x.get(), dimensions.data(), static_cast<int64_t>(dimensions.size()), &result));
  return Tensor(result);
}

Tensor joined(const std::vector<Tensor>& parts, int64_t dimension) {
  std::vector<AtenTensorHandle> handles;
  for (const Tensor& part : parts) handles.push_back(part.get());
  AtenTensorHandle result = nullptr;
  check_call("cat", aoti_torch_cpu_cat(handles.data(), static_cast<int64_t>(handles.size()), dimension, &result));
  return Tensor(result);
}

Tensor part(const Tensor& x, int64_t dimension, int64_t first, int64_t last, int64_t step) {
  AtenTensorHandle result = nullptr;
  check_call("slice", aoti_torch_cpu_slice_Tensor(x.get(), dimension, &first, &last, step, &result));
  return Tensor(result);
}

// Rows of a matrix, of which only targets are taken.
Tensor selected(const Tensor& matrix, int64_t dimension, const Tensor& index) {
  check_shape("index", index, {-1});
  check_shape("classes", matrix, {-1, -1});
  FASTALIGN_CHECK(dimension == 0 && index.scalar_type() == ScalarType::Long, "expected rows by int64 indices");
  const Tensor from = row_major(matrix), numbers = row_major(index);
  const int64_t sizes[] = {index.size(0), matrix.size(1)};
  Tensor rows = empty({sizes, 2}, matrix.scalar_type());
  const int64_t bytes = sizes[1] * (is_half(from) ? 2 : dtype_of(from) == Dtype::float64 ? 8 : 4);
  const int64_t* number = numbers.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < sizes[0]; ++i) {
    FASTALIGN_CHECK(number[i] >= 0 && number[i] < from.size(0), "target: expected class indices from 0 to ",
                    from.size(0) - 1, ", got ", number[i]);
    std::memcpy(static_cast<char*>(rows.mutable_data_ptr()) + i * bytes,
                static_cast<const char*>(from.const_data_ptr()) + number[i] * bytes, bytes);
  }
  return rows;
}

// kinds: the letters of its arguments.
BoxedKernel kernel_of(const std::string& op, const std::string& kinds) {
  static const std::map<std::string, BoxedKernel> of_torch{
      {"aten::mul.Tensor Tf", TORCH_BOX(&times)},
      {"aten::add.Tensor TTf", TORCH_BOX(&plus)},
      {"aten::mm TT", TORCH_BOX(&product)},
      {"aten::permute TI", TORCH_BOX(&permuted)},
      {"aten::cat Li", TORCH_BOX(&joined)},
      {"aten::slice.Tensor Tiiii", TORCH_BOX(&part)},
      {"aten::index_select TiT", TORCH_BOX(&selected)},
  };
  const std::string own = "fastalign::";
  if (op.rfind(own, 0) == 0) return boxed_kernel(op.substr(own.size()));
  const auto found = of_torch.find(op + " " + kinds);
  return found == of_torch.end() ? nullptr : found->second;
}

Argument argument_of(const std::string& word) {
  Argument argument{word[0], {}, {}};
  std::istringstream integers(word.substr(1));
  for (std::string integer; std::getline(integers, integer, ',');) {
    argument.integers.push_back(std::stoll(integer));
    if (argument.kind == 'F') argument.numbers.push_back(std::bit_cast<double>(argument.integers.back()));
  }
  return argument;
}

const Tensor& tensor_in(const Slots& slots, int64_t slot) {
  FASTALIGN_CHECK(slot >= 0 && slot < static_cast<int64_t>(slots.size()) && slots[slot],
                  "program: expected a slot with a tensor, got ", slot);
  return *slots[slot];
}

StableIValue value_of(const Argument& argument, const Slots& slots) {
  switch (argument.kind) {
    case 'T':
      return from(tensor_in(slots, argument.integers[0]));
    case 'O':
      return from(std::optional(tensor_in(slots, argument.integers[0])));
    case 'N':
      return from(std::nullopt);
    case 'L': {
      std::vector<Tensor> tensors;
      for (const int64_t slot : argument.integers) tensors.push_back(tensor_in(slots, slot));
      return from(tensors);
    }
    case 'i':
    case 'f':
      return from(argument.integers[0]);
    case 'I':
      return from(argument.integers);
    case 'F':
      return from(argument.numbers);
    default:
      fail("expected an argument's kind, got ", argument.kind);
  }
}

std::mutex mutex;
std::map<int64_t, std::shared_ptr<const Program>> programs;

}  // namespace

// A program's number; −1 where it calls an op that has no kernel here. The text comes as bytes in a tensor, because
// torch's header (2.13) leaks each std::string that it converts.
int64_t new_program(const Tensor& text, const std::vector<Tensor>& inputs, const std::vector<Tensor>& lasting) {
  auto program = std::make_shared<Program>();
  program->lasting = lasting;
  for (const Tensor& input : inputs) program->layouts.emplace_back(input, false);
  for (const Tensor& tensor : lasting) program->layouts.emplace_back(tensor, true);
  std::istringstream lines(std::string(static_cast<const char*>(text.const_data_ptr()), text.numel()));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string word;
    words >> word;
    if (word == "return") {
      for (int64_t slot = 0; words >> slot;) program->results.push_back(slot);
      break;
    }
    Call& call = program->calls.emplace_back();
    const std::string op = word;
    std::string kinds;
    while (words >> word && word != "=") kinds += call.arguments.emplace_back(argument_of(word)).kind;
    call.kernel = kernel_of(op, kinds);
    if (call.kernel == nullptr) return -1;
    while (words >> word && word != ";") {
      const Argument& result = call.results.emplace_back(argument_of(word));
      for (const int64_t slot : result.integers) program->slots = std::max<size_t>(program->slots, slot + 1);
    }
    for (int64_t slot = 0; words >> slot;) call.done.push_back(slot);
  }
  static int64_t last = 0;
  const std::lock_guard<std::mutex> lock(mutex);
  programs[++last] = std::move(program);
  return last;
}

void forget_program(int64_t number) {
  const std::lock_guard<std::mutex> lock(mutex);
  programs.erase(number);
}

// The results; none where an input, or what lasts, is not as it was when the program was made.
std::vector<Tensor> run_program(int64_t number, const std::vector<Tensor>& inputs) {
  std::shared_ptr<const Program> program;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = programs.find(number);
    FASTALIGN_CHECK(found != programs.end(), "program: expected one that was made, got ", number);
    program = found->second;
  }
  Slots slots(inputs.begin(), inputs.end());
  slots.insert(slots.end(), program->lasting.begin(), program->lasting.end());
  if (!program->fits(slots)) return {};
  const NoGradients guard;
  slots.resize(std::max(program->slots, slots.size()));
  std::vector<StableIValue> stack;
  for (const Call& call : program->calls) {
    stack.assign(std::max(call.arguments.size(), call.results.size()), 0);
    for (size_t i = 0; i < call.arguments.size(); ++i) stack[i] = value_of(call.arguments[i], slots);
    call.kernel(stack.data(), call.arguments.size(), call.results.size());
    for (size_t i = 0; i < call.results.size(); ++i) {
      const Argument& result = call.results[i];
      if (result.kind == 'T') {
        slots.at(result.integers.at(0)) = to<Tensor>(stack[i]);
        continue;
      }
      const auto tensors = to<std::vector<Tensor>>(stack[i]);
      for (size_t j = 0; j < tensors.size(); ++j) slots.at(result.integers.at(j)) = tensors[j];
    }
    for (const int64_t slot : call.done) slots.at(slot).reset();
  }
  std::vector<Tensor> results;
  for (const int64_t slot : program->results) results.push_back(tensor_in(slots, slot));
  return results;
}

STABLE_TORCH_LIBRARY_FRAGMENT(fastalign, library) {
  library.def("new_program(Tensor text, Tensor[] inputs, Tensor[] lasting) -> int");
  library.def("run_program(int program, Tensor[] inputs) -> Tensor[]");
  library.def("forget_program(int program) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(fastalign, CompositeImplicitAutograd, library) {
  library.impl("new_program", TORCH_BOX(&new_program));
  library.impl("run_program", TORCH_BOX(&run_program));
  library.impl("forget_program", TORCH_BOX(&forget_program));
}

}  // namespace fastalign
