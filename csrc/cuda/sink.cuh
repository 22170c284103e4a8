// What becomes of an update, element by element: computed in the dtype of its sums, and rounded once for each tensor
// that is stored. A parameter follows its state as that is stored.

#pragma once

#include "cuda/operations.h"
#include "cuda/vector.cuh"

namespace fastalign::cuda {

// A number in the dtype of the sums for tensors of a dtype: converted on the host, where that costs nothing.
class Coefficient {
 public:
  Coefficient() = default;
  Coefficient(double value, Dtype dtype) {
    if (dtype == Dtype::float64) {
      wide_ = value;
    } else {
      narrow_ = static_cast<float>(value);
    }
  }

  __device__ operator double() const { return wide_; }
  __device__ operator float() const { return narrow_; }

 private:
  union {
    double wide_{};
    float narrow_;
  };
};

// A Sink as kernels take it, with the factor of what comes to it.
struct SinkParameters {
  Sink::Kind kind{};
  void* target{};
  void* state{};
  Coefficient scale{}, learning_rate{}, momentum{}, rest_of_momentum{}, weight_decay{}, epsilon{};

  SinkParameters() = default;
  SinkParameters(const Sink& sink, double factor)
      : kind(sink.kind),
        target(sink.target.data),
        state(sink.state.data),
        scale(factor, sink.target.dtype),
        learning_rate(sink.learning_rate, sink.target.dtype),
        momentum(sink.momentum, sink.target.dtype),
        rest_of_momentum(1 - sink.momentum, sink.target.dtype),
        weight_decay(sink.weight_decay, sink.target.dtype),
        epsilon(sink.epsilon, sink.target.dtype) {}

  __host__ __device__ bool has_state() const { return kind == Sink::Kind::sgd || kind == Sink::Kind::rmsprop; }
};

// The elements of target and state after an update.
template <int count, typename T, typename W>
__device__ void change(const SinkParameters& sink, const W (&sums)[count], T (&target)[count], T (&state)[count]) {
  const W scale(sink.scale), rate(sink.learning_rate), momentum(sink.momentum), decay(sink.weight_decay);
  switch (sink.kind) {
    case Sink::Kind::write:
      for (int i = 0; i < count; ++i) target[i] = T(scale * sums[i]);
      return;
    case Sink::Kind::accumulate:
      for (int i = 0; i < count; ++i) target[i] = T(W(target[i]) + scale * sums[i]);
      return;
    case Sink::Kind::sgd:
      for (int i = 0; i < count; ++i) {
        const W weight(target[i]);
        state[i] = T(momentum * W(state[i]) + scale * sums[i] + decay * weight);
        target[i] = T(weight - rate * W(state[i]));
      }
      return;
    case Sink::Kind::rmsprop: {
      const W rest(sink.rest_of_momentum), epsilon(sink.epsilon);
      for (int i = 0; i < count; ++i) {
        const W weight(target[i]), gradient = scale * sums[i] + decay * weight;
        state[i] = T(momentum * W(state[i]) + rest * gradient * gradient);
        target[i] = T(weight - rate * gradient / (sqrt(W(state[i])) + epsilon));
      }
      return;
    }
  }
}

// Hands the sums of `count` neighbouring elements to a sink, in as few accesses as there can be.
template <typename T, int count, typename W>
__device__ void apply_at_once(const SinkParameters& sink, int64_t first, const W (&sums)[count]) {
  T* const target = static_cast<T*>(sink.target) + first;
  T* const state = static_cast<T*>(sink.state) + (sink.has_state() ? first : 0);
  T targets[count]{}, states[count]{};
  if (sink.kind != Sink::Kind::write) read_neighbours(target, targets);
  if (sink.has_state()) read_neighbours(state, states);
  change(sink, sums, targets, states);
  write_neighbours(target, targets);
  if (sink.has_state()) write_neighbours(state, states);
}

// Calls a function for each of the first `valid` sums, one after another: the others are moved up, so that all stay in
// registers and the code is there once.
template <int count, typename W, typename Function>
__device__ void one_by_one(int64_t valid, const W (&sums)[count], const Function& function) {
  W left[count];
#pragma unroll
  for (int i = 0; i < count; ++i) left[i] = sums[i];
#pragma unroll 1
  for (int i = 0; i < count && i < valid; ++i) {
    const W first[1] = {left[0]};
    function(i, first);
#pragma unroll
    for (int j = 0; j + 1 < count; ++j) left[j] = left[j + 1];
  }
}

// Hands the sums of the elements from `first` on to a sink of tensors of T, of which `valid` exist.
template <typename T, int count, typename W>
__device__ void apply_sink(const SinkParameters& sink, int64_t first, int64_t valid, const W (&sums)[count]) {
  const bool aligned = are_aligned<count>(static_cast<T*>(sink.target) + first) &&
                       (!sink.has_state() || are_aligned<count>(static_cast<T*>(sink.state) + first));
  if (aligned && valid >= count) return apply_at_once<T>(sink, first, sums);
  one_by_one(valid, sums, [&](int i, const W(&sum)[1]) { apply_at_once<T>(sink, first + i, sum); });
}

// The same of one part of a sum: where there are several, the sink's target takes them as they are, each from
// `first_of_part` on.
template <typename T, int count, typename W>
__device__ void hand_over(const SinkParameters& sink, bool split, int64_t first_of_part, int64_t first, int64_t valid,
                          const W (&sums)[count]) {
  if (!split) return apply_sink<T>(sink, first, valid, sums);
  W* const part = static_cast<W*>(sink.target) + first_of_part + first;
  if (are_aligned<count>(part) && valid >= count) return write_neighbours(part, sums);
  one_by_one(valid, sums, [&](int i, const W(&sum)[1]) { write_neighbours(part + i, sum); });
}

}  // namespace fastalign::cuda
