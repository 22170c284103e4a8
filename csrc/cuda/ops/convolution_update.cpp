#include "cuda/kernels/convolution_update.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "cuda/kernels/second_stage.h"

namespace fastalign::cuda {

namespace {

// The kernel's coordinates are 32-bit, with the padding around a map and the reach of a kernel.
int bounded(int64_t size, const char* what) {
  constexpr int64_t most = 1 << 28;
  if (size <= most) return static_cast<int>(size);
  throw std::invalid_argument(std::string(what) + " of a convolution: expected at most " + std::to_string(most) +
                              ", got " + std::to_string(size));
}

Maps maps_of(const View& view) {
  if (!view) return {};
  const int64_t bytes = bytes_of(view.dtype);
  Maps maps{
      .data = view.data,
      .channels = view.sizes[1],
      .samples = bounded(view.sizes[0], "samples"),
      .height = bounded(view.sizes[2], "height"),
      .width = bounded(view.sizes[3], "width"),
  };
  for (int i = 0; i < 4; ++i) maps.strides[i] = view.strides[i] * bytes;
  const bool side_by_side =
      (maps.width == 1 || view.strides[3] == 1) && (maps.height == 1 || view.strides[2] == view.sizes[3]);
  maps.vectors = side_by_side && reinterpret_cast<uintptr_t>(maps.data) % 16 == 0 &&
                 view.sizes[2] * view.sizes[3] * bytes % 16 == 0 && maps.strides[0] % 16 == 0 &&
                 maps.strides[1] % 16 == 0;
  return maps;
}

int64_t elements_of(const View& view) {
  int64_t elements = view ? 1 : 0;
  for (int i = 0; i < view.dimensions; ++i) elements *= view.sizes[i];
  return elements;
}

// δ of a feedback term, formed before the update: each sample reads all of B, which has as many rows as the map has
// elements, so that the tiles of ΔK, each of all samples and positions, would all read it again for every sample.
View feedback_term_of(Device& device, const Post& post) {
  View delta = post.values;
  delta.data = device.scratch(static_cast<size_t>(elements_of(delta) * bytes_of(delta.dtype)));
  int64_t stride = 1;
  for (int i = delta.dimensions - 1; i >= 0; --i) {
    delta.strides[i] = stride;
    stride *= delta.sizes[i];
  }
  feedback_terms(device, post.signal, {{post.feedback, post.values, delta}}, {.activation = post.activation},
                 post.given_output);
  return delta;
}

}  // namespace

PatchSums patch_sums(const ConvolutionUpdate& update) {
  PatchSums sums{maps_of(update.post.values), maps_of(update.post.modulated), maps_of(update.pre), update.convolution};
  // Both are read in one way.
  if (update.post.modulated) sums.post.vectors = sums.modulated.vectors = sums.post.vectors && sums.modulated.vectors;
  return sums;
}

// There is no product of the library to call: it would have to store the patches, kernel height · kernel width times
// the input.
void convolution_update(Device& device, const ConvolutionUpdate& update) {
  if (elements_of(update.post.values) == 0) {  // an update by zero, which momentum and decay do not leave at that
    const SplitSum weight{.elements = elements_of(update.weight.target), .sink = update.weight};
    const SplitSum bias{.elements = elements_of(update.bias.target), .sink = update.bias};
    return second_stage(device, {weight, bias}, update.pre.dtype);
  }
  ConvolutionUpdate formed = update;
  if (update.post.kind == Post::Kind::feedback_term) {
    formed.post = {.kind = Post::Kind::given, .values = feedback_term_of(device, update.post)};
  }
  fused_convolution_update(device, formed);
}

}  // namespace fastalign::cuda
