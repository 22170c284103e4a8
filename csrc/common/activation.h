// The activation functions f, their derivatives f′ and their differences f(a + Δ) − f(a), once for CPU and CUDA.
//
// `activation` is a compile-time constant wherever speed matters: the switch then folds, and what is left has no
// branch, so that a loop over it is vectorised. Sources that are compiled for an instruction set of their own define
// FASTALIGN_LEVEL_NAMESPACE, so that no two copies share a symbol, of which the linker would keep one for everybody.

#pragma once

#include "common/elementary.h"

namespace fastalign {

// The numbers are those of fastalign.ops.activations.Activation.
enum class Activation {
  identity = 0,
  tanh = 1,
  logistic = 2,
  relu = 3,
  leaky_relu = 4,
  elu = 5,
  softplus = 6,
  silu = 7,
  gelu = 8,
};

namespace FASTALIGN_LEVEL_NAMESPACE {

// σ(a) = 1 / (1 + exp(−a))
template <typename T>
FASTALIGN_HOST_DEVICE inline T logistic(T a) {
  return T(1) / (T(1) + exponential(-a));
}

// h = f(a)
template <typename T>
FASTALIGN_HOST_DEVICE inline T activate(Activation activation, T a) {
  switch (activation) {
    case Activation::identity:
      return a;
    case Activation::tanh:
      return hyperbolic_tangent(a);
    case Activation::logistic:
      return logistic(a);
    case Activation::relu:
      return a <= T(0) ? T(0) : a;
    case Activation::leaky_relu:
      return a > T(0) ? a : T(0.01) * a;
    case Activation::elu: {
      const T below = exponential_minus_one(a);
      return a > T(0) ? a : below;
    }
    case Activation::softplus: {
      const T below = logarithm_of_one_plus(exponential(a));
      return a > T(20) ? a : below;
    }
    case Activation::silu:
      return a / (T(1) + exponential(-a));
    case Activation::gelu:
      return a * normal_cumulative(a);
  }
  return a;
}

// f′(a), from the preactivation
template <typename T>
FASTALIGN_HOST_DEVICE inline T derivative(Activation activation, T a) {
  switch (activation) {
    case Activation::identity:
      return T(1);
    case Activation::tanh: {  // 1 − tanh² a without the cancellation
      const T e = exponential_of_negative(T(-2) * absolute(a));
      return T(4) * e / ((T(1) + e) * (T(1) + e));
    }
    case Activation::logistic: {
      const T e = exponential_of_negative(-absolute(a));
      return e / ((T(1) + e) * (T(1) + e));
    }
    case Activation::relu:
      return a <= T(0) ? T(0) : T(1);
    case Activation::leaky_relu:
      return a > T(0) ? T(1) : T(0.01);
    case Activation::elu: {
      const T below = exponential(a);
      return a <= T(0) ? below : T(1);
    }
    case Activation::softplus:
      return logistic(a);
    case Activation::silu: {
      const T h = logistic(a);
      return h * (T(1) + a * (T(1) - h));
    }
    case Activation::gelu:
      return normal_cumulative(a) + a * normal_density(a);
  }
  return T(1);
}

// f′(a), from the output h = f(a); silu and gelu have none and need `derivative`
template <typename T>
FASTALIGN_HOST_DEVICE inline T derivative_from_output(Activation activation, T h) {
  switch (activation) {
    case Activation::tanh:
      return T(1) - h * h;
    case Activation::logistic:
      return h * (T(1) - h);
    case Activation::relu:
      return h <= T(0) ? T(0) : T(1);
    case Activation::leaky_relu:
      return h > T(0) ? T(1) : T(0.01);
    case Activation::elu:
      return h <= T(0) ? h + T(1) : T(1);
    case Activation::softplus:
      return -exponential_minus_one(-h);
    case Activation::identity:
    case Activation::silu:
    case Activation::gelu:
      break;
  }
  return T(1);
}

// b − a for b = a + Δ: exactly Δ, except where b is no finite number
template <typename T>
FASTALIGN_HOST_DEVICE inline T step(T a, T b, T delta) {
  const T direct = b - a;
  return b - b == T(0) ? delta : direct;
}

// σ(b) − σ(a) for b = a + Δ, as (1 − exp(−|Δ|)) σ(max) σ(−min), which neither cancels nor overflows
template <typename T>
FASTALIGN_HOST_DEVICE inline T logistic_difference(T a, T b, T delta) {
  const bool up = delta > T(0);
  const T high = up ? b : a;
  const T low = up ? a : b;
  const T size = -exponential_minus_one(-absolute(delta)) / ((T(1) + exponential(-high)) * (T(1) + exponential(low)));
  return up ? size : -size;
}

// Φ(b) − Φ(a) for b = a + Δ, Φ the normal distribution: for a small Δ by the Taylor series about the middle
template <typename T>
FASTALIGN_HOST_DEVICE inline T normal_difference(T a, T b, T delta) {
  const T m = a + T(0.5) * delta;
  const T m2 = m * m > T(1e4) ? T(1e4) : m * m;  // beyond, the density is 0, and infinity times it would not be
  const T d2 = delta * delta;
  const T series = T(1) + d2 * ((m2 - T(1)) * T(1.0 / 24) + d2 * ((m2 - T(6)) * m2 + T(3)) * T(1.0 / 1920));
  const T small = delta * normal_density(m) * series;
  const T large = normal_cumulative(b) - normal_cumulative(a);
  return absolute(delta) <= T(sizeof(T) == sizeof(float) ? 0.25 : 0.01) ? small : large;
}

// f(a + Δ) − f(a) by identities that do not cancel; infinities and NaN come out as if it were computed as it stands
template <typename T>
FASTALIGN_HOST_DEVICE inline T difference(Activation activation, T a, T delta) {
  const T b = a + delta;
  switch (activation) {
    case Activation::identity:
      return step(a, b, delta);
    case Activation::tanh:  // tanh a = 2 σ(2a) − 1
      return T(2) * logistic_difference(T(2) * a, T(2) * b, T(2) * delta);
    case Activation::logistic:
      return logistic_difference(a, b, delta);
    case Activation::relu: {
      const T direct = (b <= T(0) ? T(0) : b) - (a <= T(0) ? T(0) : a);
      const T both = step(a, b, delta);
      return a > T(0) && b > T(0) ? both : direct;
    }
    case Activation::leaky_relu: {
      const T direct = activate(activation, b) - activate(activation, a);
      const T both = step(a, b, delta);
      const T one_side = a > T(0) && b > T(0) ? both : T(0.01) * both;
      return (a > T(0) && b > T(0)) || (a <= T(0) && b <= T(0)) ? one_side : direct;
    }
    case Activation::elu: {
      const bool up = delta > T(0);
      const T high = up ? b : a;
      const T low = up ? a : b;
      const T below = -exponential_minus_one(-absolute(delta)) * exponential(high);
      const T across = high - exponential_minus_one(low);
      const T above = step(a, b, delta);
      const T size = high <= T(0) ? below : across;
      return a > T(0) && b > T(0) ? above : (up ? size : -size);
    }
    case Activation::softplus: {
      const T direct = activate(activation, b) - activate(activation, a);
      const T small = logarithm_of_one_plus(logistic(a) * exponential_minus_one(delta));
      const T above = step(a, b, delta);
      return absolute(delta) <= T(1) ? (a > T(20) ? above : small) : direct;
    }
    case Activation::silu:
    case Activation::gelu: {
      const bool silu = activation == Activation::silu;
      const T slope = silu ? logistic_difference(a, b, delta) : normal_difference(a, b, delta);
      const T finite = delta * (silu ? logistic(b) : normal_cumulative(b)) + a * slope;
      const T direct = b > T(0) ? b - a : b * T(0);
      return b - b == T(0) ? finite : direct;
    }
  }
  return delta;
}

}  // namespace FASTALIGN_LEVEL_NAMESPACE
}  // namespace fastalign
