// The elementary functions under the activations: branch-free in float32 on the host, so that loops over them are
// vectorised, with errors of about two units in the last place; the platform's own in float64 and on a GPU.

#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define FASTALIGN_HOST_DEVICE __host__ __device__
#else
#define FASTALIGN_HOST_DEVICE
#endif

#ifndef FASTALIGN_LEVEL_NAMESPACE
#define FASTALIGN_LEVEL_NAMESPACE common
#endif

namespace fastalign {
namespace FASTALIGN_LEVEL_NAMESPACE {

FASTALIGN_HOST_DEVICE inline float absolute(float x) { return ::fabsf(x); }
FASTALIGN_HOST_DEVICE inline double absolute(double x) { return ::fabs(x); }

FASTALIGN_HOST_DEVICE inline double exponential(double x) { return ::exp(x); }
FASTALIGN_HOST_DEVICE inline double exponential_of_negative(double x) { return ::exp(x); }
FASTALIGN_HOST_DEVICE inline double exponential_minus_one(double x) { return ::expm1(x); }
FASTALIGN_HOST_DEVICE inline double logarithm_of_one_plus(double x) { return ::log1p(x); }
FASTALIGN_HOST_DEVICE inline double hyperbolic_tangent(double x) { return ::tanh(x); }

// φ(x), the density of the normal distribution
FASTALIGN_HOST_DEVICE inline double normal_density(double x) { return 0.39894228040143268 * ::exp(-0.5 * x * x); }

// Φ(x), its cumulative distribution
FASTALIGN_HOST_DEVICE inline double normal_cumulative(double x) { return 0.5 * ::erfc(-0.70710678118654752 * x); }

FASTALIGN_HOST_DEVICE inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}

FASTALIGN_HOST_DEVICE inline float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

// x = n ln 2 + r with |r| ≤ ln 2 / 2, and exp(r) − 1 = r + r² q(r)
struct ExponentialParts {
  int32_t n;
  float exp_r_minus_one;
};

FASTALIGN_HOST_DEVICE inline ExponentialParts exponential_parts(float x) {
  const float magic = 12582912.0f;  // 1.5 · 2²³: adding it rounds to an integer, which then stands in the low bits
  const float shifted = x * 1.44269504f + magic;
  const float n = shifted - magic;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts, the first short, its product exact
  // The polynomial is the minimax one for exp(r) − 1 on |r| ≤ 0.347, relative error 2.4e-10.
  const float q =
      0.5f + r * (0.166666672f + r * (0.0416663513f + r * (0.0083332723f + r * (0.00139412074f + r * 1.99199144e-4f))));
  return {static_cast<int32_t>(bits_of(shifted) - bits_of(magic)), r + r * r * q};
}

FASTALIGN_HOST_DEVICE inline float power_of_two(int32_t n) { return float_of(static_cast<uint32_t>(n + 127) << 23); }

FASTALIGN_HOST_DEVICE inline float exponential(float x) {
#ifdef __CUDA_ARCH__
  return ::expf(x);
#else
  const float above = x > 89.0f ? 89.0f : x;  // a NaN stays: it fails both comparisons
  const float bounded = above < -104.0f ? -104.0f : above;
  const ExponentialParts parts = exponential_parts(bounded);
  const int32_t half = parts.n >> 1;  // in two steps, to reach denormals and overflow
  return (1.0f + parts.exp_r_minus_one) * power_of_two(half) * power_of_two(parts.n - half);
#endif
}

// exp(x) for x ≤ 0, and 0 for what would be denormal: in fewer steps
FASTALIGN_HOST_DEVICE inline float exponential_of_negative(float x) {
#ifdef __CUDA_ARCH__
  return ::expf(x);
#else
  const float magic = 12583039.0f;                // 1.5 · 2²³ + 127: the low bits then are the exponent of 2ⁿ
  const float bounded = x < -88.0f ? -88.0f : x;  // there n is −127, and 2ⁿ stands as 0
  const float shifted = bounded * 1.44269504f + magic;
  const float n = shifted - magic;
  const float r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
  // The minimax polynomial for exp(r) on |r| ≤ 0.347, relative error 3.1e-9.
  const float exp_r =
      1.0f +
      r * (1.0f + r * (0.49999993f + r * (0.16666521f + r * (0.04166839f + r * (0.00836871f + r * 0.00138146f)))));
  return exp_r * float_of(bits_of(shifted) << 23);
#endif
}

FASTALIGN_HOST_DEVICE inline float exponential_minus_one(float x) {
#ifdef __CUDA_ARCH__
  return ::expm1f(x);
#else
  const float above = x > 89.0f ? 89.0f : x;
  const float bounded = above < -20.0f ? -20.0f : above;
  const ExponentialParts parts = exponential_parts(bounded);
  const float half = power_of_two(parts.n - 1);
  return 2.0f * (half * parts.exp_r_minus_one + (half - 0.5f));
#endif
}

// log(1 + x) for x in (−0.7, 2¹²⁶)
FASTALIGN_HOST_DEVICE inline float logarithm_of_one_plus(float x) {
#ifdef __CUDA_ARCH__
  return ::log1pf(x);
#else
  const float u = 1.0f + x;
  const float lost = x - (u - 1.0f);
  // u = 2ᵏ m with m in [√½, √2)
  const int32_t k = static_cast<int32_t>(bits_of(u) - 0x3f3504f3u) >> 23;
  const float scale = power_of_two(-k);
  const float f = (u * scale - 1.0f) + lost * scale;
  // The minimax polynomial for log(1 + f) on [√½ − 1, √2 − 1], relative error 7.5e-10.
  const float p =
      0.333333313f +
      f * (-0.250000089f +
           f * (0.200021192f +
                f * (-0.166679859f +
                     f * (0.142195195f +
                          f * (-0.124057561f + f * (0.118886031f + f * (-0.116748072f + f * 0.0674454272f)))))));
  const float log_m = f - f * f * (0.5f - f * p);
  const float n = static_cast<float>(k);
  return n * 0.693359375f + (log_m - n * 2.12194440e-4f);
#endif
}

// numerator / denominator for a denominator in [⅞, 1¾]. Where products take less time than a division: the minimax
// polynomial for 1 / d has the relative error 1/99, a step of Newton's leaves its square, and the remainder's part the
// square of that.
FASTALIGN_HOST_DEVICE inline float quotient(float numerator, float denominator) {
#ifdef __AVX512F__
  const float guess = 2.42424242f + denominator * (-1.89981447f + denominator * 0.482492564f);
  const float reciprocal = guess + guess * (1.0f - denominator * guess);
  const float close = numerator * reciprocal;
  return close + (numerator - denominator * close) * reciprocal;  // the remainder is exact, as products are fused
#else
  return numerator / denominator;
#endif
}

FASTALIGN_HOST_DEVICE inline float hyperbolic_tangent(float x) {
#ifdef __CUDA_ARCH__
  return ::tanhf(x);
#else
  // (1 − e) / (1 + e) with e = exp(−2|x|), where −|x| = n ln 2 / 2 + r with |r| ≤ ln 2 / 4
  const float magic = 12583039.0f;  // as in `exponential_of_negative`
  const float size = absolute(x);
  const float bounded = size > 9.5f ? 9.5f : size;  // beyond 9.02 it is 1
  const float shifted = magic - bounded * 2.88539004f;
  const float n = shifted - magic;
  const float r = (-bounded - n * 0.346679688f) + n * 1.06097220e-4f;
  // The minimax polynomial for (exp(2r) − 1) / 2 = r + r² q(r), relative error 1.4e-8.
  const float q = 0.99999994f + r * (0.666661739f + r * (0.333337605f + r * (0.13386406f + r * 0.0444240794f)));
  const float power = float_of(bits_of(shifted) << 23);  // 2ⁿ
  // Both times ⅞, so that a denominator of a little more than 1, which is rounded coarsely, is a little less.
  const float change = 1.75f * power * (r + r * r * q);
  const float numerator = (0.875f - 0.875f * power) - change;
  const float denominator = (0.875f + 0.875f * power) + change;
  return ::copysignf(quotient(numerator, denominator), x);
#endif
}

FASTALIGN_HOST_DEVICE inline float normal_density(float x) { return 0.398942280f * exponential(-0.5f * x * x); }

FASTALIGN_HOST_DEVICE inline float normal_cumulative(float x) {
#ifdef __CUDA_ARCH__
  return ::normcdff(x);
#else
  // The tail 1 − Φ(z) of z ≥ 0 is exp(−z²/2) times a polynomial in t = 1 / (1 + z/4), minimax, relative error 1.5e-8.
  const float z = absolute(x);
  const float t = 1.0f / (1.0f + 0.25f * z);
  const float g =
      -2.15999990e-5f +
      t * (0.100228995f +
           t * (0.0948202685f +
                t * (0.121567868f +
                     t * (-0.020383833f +
                          t * (0.304486453f +
                               t * (-0.333468705f + t * (0.395000994f + t * (-0.19617714f + t * 0.0339466855f))))))));
  const float tail = g * exponential(-0.5f * z * z);
  return x < 0.0f ? tail : 1.0f - tail;
#endif
}

}  // namespace FASTALIGN_LEVEL_NAMESPACE
}  // namespace fastalign
