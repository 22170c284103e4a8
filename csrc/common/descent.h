// The optimizers that every kernel knows: fastalign/ops/descent.py has their equations.

#pragma once

namespace fastalign {

enum class Descent { sgd, momentum, nesterov, rmsprop, adam, adamw };

// How many tensors of state a parameter has.
constexpr int states_of[] = {0, 1, 1, 1, 2, 2};

// The numbers of a step, in the order in which they lie in their tensor.
struct Settings {
  double learning_rate, weight_decay, momentum, square_decay, epsilon, momentum_correction, square_correction;
};
constexpr int number_of_settings = sizeof(Settings) / sizeof(double);

}  // namespace fastalign
