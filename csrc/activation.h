// The activation functions f and their derivatives f′, once for the CPU kernels and the CUDA kernels.
//
// Sources that are compiled for an instruction set of their own define FASTALIGN_LEVEL_NAMESPACE, so that no two copies of
// these functions share a symbol, of which the linker would keep one for everybody.

#pragma once

#include <cmath>

#ifdef __CUDACC__
#define FASTALIGN_HOST_DEVICE __host__ __device__
#else
#define FASTALIGN_HOST_DEVICE
#endif

#ifndef FASTALIGN_LEVEL_NAMESPACE
#define FASTALIGN_LEVEL_NAMESPACE common
#endif

namespace fastalign {

// The numbers are those of fastalign.activations.Activation.
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

// 1 / (1 + exp(−a))
template <typename T>
FASTALIGN_HOST_DEVICE inline T logistic(T a) {
  return T(1) / (T(1) + std::exp(-a));
}

// h = f(a)
template <typename T>
FASTALIGN_HOST_DEVICE inline T activate(Activation activation, T a) {
  switch (activation) {
    case Activation::identity:
      return a;
    case Activation::tanh:
      return std::tanh(a);
    case Activation::logistic:
      return logistic(a);
    case Activation::relu:
      return a <= T(0) ? T(0) : a;
    case Activation::leaky_relu:
      return a > T(0) ? a : T(0.01) * a;
    case Activation::elu:
      return a > T(0) ? a : std::expm1(a);
    case Activation::softplus:
      return a > T(20) ? a : std::log1p(std::exp(a));
    case Activation::silu:
      return a * logistic(a);
    case Activation::gelu:
      return T(0.5) * a * (T(1) + std::erf(a * T(0.70710678118654752440)));
  }
  return a;
}

// f′(a), from the preactivation a
template <typename T>
FASTALIGN_HOST_DEVICE inline T derivative(Activation activation, T a) {
  switch (activation) {
    case Activation::identity:
      return T(1);
    case Activation::tanh: {
      const T h = std::tanh(a);
      return T(1) - h * h;
    }
    case Activation::logistic: {
      const T h = logistic(a);
      return h * (T(1) - h);
    }
    case Activation::relu:
      return a <= T(0) ? T(0) : T(1);
    case Activation::leaky_relu:
      return a > T(0) ? T(1) : T(0.01);
    case Activation::elu:
      return a <= T(0) ? std::exp(a) : T(1);
    case Activation::softplus:
      return logistic(a);
    case Activation::silu: {
      const T s = logistic(a);
      return s * (T(1) + a * (T(1) - s));
    }
    case Activation::gelu: {
      const T density = T(0.39894228040143267794) * std::exp(T(-0.5) * a * a);
      return T(0.5) * (T(1) + std::erf(a * T(0.70710678118654752440))) + a * density;
    }
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
      return -std::expm1(-h);
    case Activation::identity:
    case Activation::silu:
    case Activation::gelu:
      break;
  }
  return T(1);
}

}  // namespace FASTALIGN_LEVEL_NAMESPACE
}  // namespace fastalign
