// The updates of linear layers: which are own kernels', and which are the library's products.

#include <algorithm>
#include <utility>

#include "cuda/choice.h"
#include "cuda/kernels/elementwise.h"
#include "cuda/kernels/second_stage.h"
#include "cuda/kernels/update.h"
#include "cuda/ops/operations.h"

namespace fastalign::cuda {

namespace {

using Kind = Post::Kind;

int64_t samples_of(const LinearUpdate& update) { return update.pre.sizes[0]; }
int64_t units_of(const LinearUpdate& update) { return update.post.values.sizes[1]; }
int64_t inputs_of(const LinearUpdate& update) { return update.pre.sizes[1]; }

// The library takes a launch for the product and others for the post, the sink and the bias.
bool is_the_librarys(const Device& device, const LinearUpdate& update) {
  const int64_t samples = samples_of(update), units = units_of(update), inputs = inputs_of(update);
  if (samples == 0 || units == 0 || inputs == 0) return false;
  return prefers_library(device, units, inputs, samples);
}

// An update forms its feedback term again for every column of tiles: at some number of terms a launch that stores them
// is faster.
bool forms_feedback_term(const Device& device, const LinearUpdate& update) {
  constexpr int64_t most_terms = 1 << 15;  // of a multiprocessor
  if (update.post.signal.sizes[1] > most_fused_classes || is_the_librarys(device, update)) return false;
  const int64_t times = (inputs_of(update) + 63) / 64;
  return device.force == Force::fused ||
         samples_of(update) * units_of(update) * times <= most_terms * device.multiprocessors;
}

bool same(const View& one, const View& other) {
  return one.data == other.data && std::equal(one.sizes, one.sizes + 4, other.sizes) &&
         std::equal(one.strides, one.strides + 4, other.strides);
}

bool same_signal(const Post& one, const Post& other) {
  return same(one.signal, other.signal) && one.activation == other.activation && one.given_output == other.given_output;
}

// Room for the postsynaptic term of an update (samples, units), which takes its place; returns what is to be stored.
Post store_post(Device& device, LinearUpdate& update) {
  View stored = update.post.values;
  stored.strides[0] = units_of(update);
  stored.strides[1] = 1;
  stored.data = device.scratch(static_cast<size_t>(samples_of(update) * units_of(update) * bytes_of(stored.dtype)));
  return std::exchange(update.post, {.kind = Kind::given, .values = stored});
}

// Stores the differences that the library is to multiply.
void store_differences(Device& device, std::vector<LinearUpdate>& updates) {
  for (LinearUpdate& update : updates) {
    if (update.post.kind != Kind::difference || !is_the_librarys(device, update)) continue;
    const Post post = store_post(device, update);
    ResultEpilogue epilogue = epilogue_of(Finish::add, {}, post.values, update.post.values);
    epilogue.scale = -1;
    elementwise(device, post.modulated, epilogue);
  }
}

// Stores the feedback terms that their updates do not form: those of one signal in one launch.
void store_feedback_terms(Device& device, std::vector<LinearUpdate>& updates) {
  const auto is_to_store = [&](const LinearUpdate& update) {
    return update.post.kind == Kind::feedback_term && !forms_feedback_term(device, update);
  };
  for (auto first = updates.begin(); first != updates.end(); ++first) {
    if (!is_to_store(*first)) continue;
    const Post post = first->post;
    std::vector<FeedbackTerm> terms;
    for (auto update = first; update != updates.end(); ++update) {
      if (!is_to_store(*update) || !same_signal(update->post, post)) continue;
      const Post term = store_post(device, *update);
      terms.push_back({term.feedback, term.values, update->post.values});
    }
    feedback_terms(device, post.signal, terms, {.activation = post.activation}, post.given_output);
  }
}

View transposed(View matrix) {
  std::swap(matrix.sizes[0], matrix.sizes[1]);
  std::swap(matrix.strides[0], matrix.strides[1]);
  return matrix;
}

// The update of a weight by the library; false where there is none. The step of an optimizer is left to a pass.
bool multiply(Device& device, const LinearUpdate& update, std::vector<SplitSum>& passes) {
  const View post = transposed(update.post.values);
  View product = update.weight.target;
  if (update.weight.kind == Sink::Kind::write || update.weight.kind == Sink::Kind::accumulate) {
    return device.multiply(product, post, update.pre, update.scale, update.weight.kind == Sink::Kind::accumulate);
  }
  const int64_t elements = units_of(update) * inputs_of(update);
  product.data = device.scratch(static_cast<size_t>(elements * bytes_of(product.dtype)));
  if (!device.multiply(product, post, update.pre, update.scale, 0)) return false;
  passes.push_back(
      {.parts = product.data, .number = 1, .elements = elements, .scale = 1, .sink = update.weight, .narrow = true});
  return true;
}

}  // namespace

void linear_updates(Device& device, const std::vector<LinearUpdate>& updates) {
  if (updates.empty()) return;
  std::vector<LinearUpdate> all = updates;
  store_differences(device, all);
  store_feedback_terms(device, all);
  std::vector<SplitSum> passes;
  for (LinearUpdate& update : all) {
    if (is_the_librarys(device, update) && multiply(device, update, passes)) {
      update.pre.sizes[1] = 0;  // what is left is the bias
    }
  }
  second_stage(device, passes, all.front().pre.dtype);
  for (const Kind kind : {Kind::given, Kind::difference, Kind::feedback_term}) {
    std::vector<LinearUpdate> of_kind;
    std::copy_if(all.begin(), all.end(), std::back_inserter(of_kind),
                 [&](const LinearUpdate& update) { return update.post.kind == kind; });
    fused_updates(device, kind, of_kind);
  }
}

}  // namespace fastalign::cuda
