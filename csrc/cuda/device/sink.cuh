// What becomes of an update, element by element: computed in the dtype of its sums, and rounded once for each tensor
// that is stored. A parameter follows its states as these are stored.

#pragma once

#include <type_traits>

#include "cuda/device/ptx.cuh"
#include "cuda/device/vector.cuh"
#include "cuda/ops/operations.h"

namespace fastalign::cuda {

// A Sink as kernels take it, with the factor of what comes to it.
struct SinkParameters {
  Sink::Kind kind{};
  void* target{};
  void* states[2]{};
  const Settings* settings{};
  double scale{};

  SinkParameters() = default;
  SinkParameters(const Sink& sink, double factor)
      : kind(sink.kind),
        target(sink.target.data),
        states{sink.states[0].data, sink.states[1].data},
        settings(sink.settings),
        scale(factor) {}
};

// The numbers of a sink in the dtype of the sums.
template <typename W>
struct SinkNumbers {
  W scale, learning_rate{}, weight_decay{}, momentum{}, rest_of_momentum{}, square_decay{}, rest_of_square_decay{},
      epsilon{}, momentum_correction{}, square_correction{};

  __device__ explicit SinkNumbers(const SinkParameters& sink) : scale(sink.scale) {
    if (sink.settings == nullptr) return;
    const Settings settings = *in_global(sink.settings);
    learning_rate = W(settings.learning_rate);
    weight_decay = W(settings.weight_decay);
    momentum = W(settings.momentum);
    rest_of_momentum = W(1 - settings.momentum);
    square_decay = W(settings.square_decay);
    rest_of_square_decay = W(1 - settings.square_decay);
    epsilon = W(settings.epsilon);
    momentum_correction = W(settings.momentum_correction);
    square_correction = W(settings.square_correction);
  }
};

// A parameter after a step of an optimizer.
template <Sink::Kind kind, typename T, typename W>
__device__ W descend(const SinkNumbers<W>& n, W weight, W gradient, T& first_state, T& second_state) {
  using Kind = Sink::Kind;
  if constexpr (kind == Kind::adamw) {
    weight -= n.learning_rate * n.weight_decay * weight;
  } else {
    gradient += n.weight_decay * weight;
  }
  if constexpr (kind == Kind::sgd) {
    return weight - n.learning_rate * gradient;
  } else if constexpr (kind == Kind::momentum || kind == Kind::nesterov) {
    first_state = T(n.momentum * W(first_state) + gradient);
    const W velocity(first_state);
    return weight - n.learning_rate * (kind == Kind::momentum ? velocity : gradient + n.momentum * velocity);
  } else if constexpr (kind == Kind::rmsprop) {
    first_state = T(n.square_decay * W(first_state) + n.rest_of_square_decay * gradient * gradient);
    return weight - n.learning_rate * (gradient / (sqrt(W(first_state)) + n.epsilon));
  } else {
    first_state = T(n.momentum * W(first_state) + n.rest_of_momentum * gradient);
    second_state = T(n.square_decay * W(second_state) + n.rest_of_square_decay * gradient * gradient);
    const W root = sqrt(W(second_state) / n.square_correction);
    return weight - n.learning_rate * (W(first_state) / n.momentum_correction / (root + n.epsilon));
  }
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

// A sink at work, of tensors of T.
template <typename T, typename W>
class SinkAtWork {
 public:
  __device__ explicit SinkAtWork(const SinkParameters& sink) : sink_(sink), numbers_(sink) {}

  // Takes the sums of the elements from `first` on, of which `valid` exist.
  template <int count>
  __device__ void take(int64_t first, int64_t valid, const W (&sums)[count]) const {
    const bool aligned = are_aligned<count>(target(first)) && (!has_state(0) || are_aligned<count>(state(0, first))) &&
                         (!has_state(1) || are_aligned<count>(state(1, first)));
    if (aligned && valid >= count) return take_at_once(first, sums);
    one_by_one(valid, sums, [&](int i, const W(&sum)[1]) { take_at_once(first + i, sum); });
  }

  // The same of one part of a sum: where there are several, the target takes them as they are, each from
  // `first_of_part` on.
  template <int count>
  __device__ void take_part(bool split, int64_t first_of_part, int64_t first, int64_t valid,
                            const W (&sums)[count]) const {
    if (!split) return take(first, valid, sums);
    W* const part = in_global(static_cast<W*>(sink_.target) + first_of_part + first);
    if (are_aligned<count>(part) && valid >= count) return write_neighbours(part, sums);
    one_by_one(valid, sums, [&](int i, const W(&sum)[1]) { write_neighbours(part + i, sum); });
  }

 private:
  using Kind = Sink::Kind;

  __device__ bool has_state(int i) const { return sink_.states[i] != nullptr; }
  __device__ T* target(int64_t first) const { return in_global(static_cast<T*>(sink_.target) + first); }
  __device__ T* state(int i, int64_t first) const { return in_global(static_cast<T*>(sink_.states[i]) + first); }

  // In as few accesses as there can be.
  template <int count>
  __device__ void take_at_once(int64_t first, const W (&sums)[count]) const {
    T targets[count]{}, first_states[count]{}, second_states[count]{};
    if (sink_.kind != Kind::write) read_neighbours(target(first), targets);
    if (has_state(0)) read_neighbours(state(0, first), first_states);
    if (has_state(1)) read_neighbours(state(1, first), second_states);
    change(sums, targets, first_states, second_states);
    write_neighbours(target(first), targets);
    if (has_state(0)) write_neighbours(state(0, first), first_states);
    if (has_state(1)) write_neighbours(state(1, first), second_states);
  }

  template <int count>
  __device__ void change(const W (&sums)[count], T (&targets)[count], T (&first_states)[count],
                         T (&second_states)[count]) const {
    const auto step = [&](auto kind) {
#pragma unroll
      for (int i = 0; i < count; ++i) {
        targets[i] = T(descend<decltype(kind)::value>(numbers_, W(targets[i]), numbers_.scale * sums[i],
                                                      first_states[i], second_states[i]));
      }
    };
    switch (sink_.kind) {
      case Kind::write:
        for (int i = 0; i < count; ++i) targets[i] = T(numbers_.scale * sums[i]);
        return;
      case Kind::accumulate:
        for (int i = 0; i < count; ++i) targets[i] = T(W(targets[i]) + numbers_.scale * sums[i]);
        return;
      case Kind::sgd:
        return step(std::integral_constant<Kind, Kind::sgd>());
      case Kind::momentum:
        return step(std::integral_constant<Kind, Kind::momentum>());
      case Kind::nesterov:
        return step(std::integral_constant<Kind, Kind::nesterov>());
      case Kind::rmsprop:
        return step(std::integral_constant<Kind, Kind::rmsprop>());
      case Kind::adam:
        return step(std::integral_constant<Kind, Kind::adam>());
      case Kind::adamw:
        return step(std::integral_constant<Kind, Kind::adamw>());
    }
  }

  const SinkParameters& sink_;
  SinkNumbers<W> numbers_;
};

}  // namespace fastalign::cuda
