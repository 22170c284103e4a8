// What becomes of the values of a result: a kernel hands each one, or 16 bytes of them, to `finish`.
//
// Computed in float32, or in float64 for float64. Finish and activation are run-time switches, asked once for a vector.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/random.h"
#include "cuda/device/ptx.cuh"
#include "cuda/device/vector.cuh"
#include "cuda/kernels/result_epilogue.h"

namespace fastalign::cuda {

// What a kernel on tensors of T computes in.
template <typename T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

// The values in 16 bytes. Bit by bit, because the compiler splits a vector that it sees as an array.
template <typename T>
__device__ inline void widen(const uint4& vector, Wide<T> (&values)[vector_elements<T>]) {
  const uint32_t words[] = {vector.x, vector.y, vector.z, vector.w};
#pragma unroll
  for (int i = 0; i < vector_elements<T>; ++i) {
    if constexpr (sizeof(T) == 8) {
      const uint64_t bits = words[2 * i] | uint64_t(words[2 * i + 1]) << 32;
      memcpy(&values[i], &bits, sizeof(bits));
    } else if constexpr (sizeof(T) == 4) {
      values[i] = common::float_of(words[i]);
    } else {
      const uint16_t bits = static_cast<uint16_t>(words[i / 2] >> i % 2 * 16);
      T element;
      memcpy(static_cast<void*>(&element), &bits, sizeof(bits));
      values[i] = float(element);
    }
  }
}

template <typename T>
__device__ inline uint4 narrow(const Wide<T> (&values)[vector_elements<T>]) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 8) {
      uint64_t bits;
      memcpy(&bits, &values[i / 2], sizeof(bits));
      words[i] = static_cast<uint32_t>(bits >> i % 2 * 32);
    } else if constexpr (sizeof(T) == 4) {
      words[i] = common::bits_of(values[i]);
    } else if constexpr (std::is_same_v<T, __half>) {
      const __half2 pair = __floats2half2_rn(values[2 * i], values[2 * i + 1]);
      memcpy(&words[i], &pair, sizeof(pair));
    } else {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
      memcpy(&words[i], &pair, sizeof(pair));
    }
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// 16 bytes at an address that is a multiple of 16.
template <typename T>
__device__ inline uint4 vector_at(const T* address) {
  return *reinterpret_cast<const uint4*>(address);
}

// Whether 16 bytes may be moved from there on; none at all, where there is no tensor.
__host__ __device__ inline bool starts_vector(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

// Whether rows can be finished by vectors that start at columns which are multiples of vector_elements<T>.
template <typename T>
__host__ __device__ inline bool takes_vectors(const ResultEpilogue& epilogue) {
  const int64_t* strides = epilogue.operand_strides;
  const int64_t channels = epilogue.columns / (epilogue.height * epilogue.width);
  const bool contiguous = (epilogue.width == 1 || strides[3] == 1) &&
                          (epilogue.height == 1 || strides[2] == epilogue.width) &&
                          (channels == 1 || strides[1] == epilogue.height * epilogue.width);
  const bool operand = epilogue.operand == nullptr || (contiguous && starts_vector(epilogue.operand) &&
                                                       (epilogue.rows == 1 || strides[0] % vector_elements<T> == 0));
  const bool bias = epilogue.bias == nullptr || (epilogue.bias_stride == 1 && starts_vector(epilogue.bias));
  return operand && bias && starts_vector(epilogue.result) && starts_vector(epilogue.preactivation) &&
         epilogue.columns % vector_elements<T> == 0;
}

// What stands at a place of the result in a tensor of its shape and any strides.
template <typename T>
__device__ inline Wide<T> element_at(const void* tensor, const int64_t* strides, const ResultEpilogue& epilogue,
                                     int64_t row, int64_t column) {
  const int64_t places = epilogue.height * epilogue.width;
  int64_t offset = row * strides[0];
  if (places == 1) {
    offset += column * strides[1];
  } else {
    const int64_t place = column % places;
    offset += column / places * strides[1] + place / epilogue.width * strides[2] + place % epilogue.width * strides[3];
  }
  return Wide<T>(static_cast<const T*>(tensor)[offset]);
}

// Where the operand of a vector lies; of an epilogue that takes vectors and has an operand.
template <typename T>
__device__ inline const T* operand_address(const ResultEpilogue& epilogue, int64_t row, int64_t column) {
  return static_cast<const T*>(epilogue.operand) + row * epilogue.operand_strides[0] + column;
}

// The operand of a vector, not yet widened, so that it can wait in few registers.
template <typename T>
__device__ inline uint4 operand_vector(const ResultEpilogue& epilogue, int64_t row, int64_t column) {
  if (epilogue.operand == nullptr) return {};
  return vector_at(operand_address<T>(epilogue, row, column));
}

// Calls a function with an activation that the compiler knows.
template <typename Function>
__device__ inline void with_known(Activation activation, const Function& function) {
  switch (activation) {
    case Activation::identity:
      return function(std::integral_constant<Activation, Activation::identity>());
    case Activation::tanh:
      return function(std::integral_constant<Activation, Activation::tanh>());
    case Activation::logistic:
      return function(std::integral_constant<Activation, Activation::logistic>());
    case Activation::relu:
      return function(std::integral_constant<Activation, Activation::relu>());
    case Activation::leaky_relu:
      return function(std::integral_constant<Activation, Activation::leaky_relu>());
    case Activation::elu:
      return function(std::integral_constant<Activation, Activation::elu>());
    case Activation::softplus:
      return function(std::integral_constant<Activation, Activation::softplus>());
    case Activation::silu:
      return function(std::integral_constant<Activation, Activation::silu>());
    case Activation::gelu:
      return function(std::integral_constant<Activation, Activation::gelu>());
  }
}

// Some at a time, the others being moved up after them: all stay in registers, and the code stays short.
template <int together, typename W, int count, typename Function>
__device__ inline void each(W (&values)[count], W (&operand)[count], const Function& function) {
  static_assert(count % together == 0);
#pragma unroll 1
  for (int done = 0; done < count; done += together) {
    W results[together];
#pragma unroll
    for (int i = 0; i < together; ++i) results[i] = function(values[i], operand[i]);
#pragma unroll
    for (int i = 0; i < count; ++i) {
      values[i] = i + together < count ? values[i + together] : results[i + together - count];
      operand[i] = i + together < count ? operand[i + together] : W(0);
    }
  }
}

template <typename W, int count>
__device__ inline void apply(const ResultEpilogue& epilogue, W (&values)[count], W (&operand)[count]) {
  const W scale = W(epilogue.scale);
  const W keep = W(epilogue.dropout.active ? epilogue.dropout.keep : 1);
  constexpr int some = count < 4 ? 1 : 2;
  switch (epilogue.finish) {
    case Finish::forward:
      return with_known(epilogue.activation, [&](auto f) {
        each<some>(values, operand, [](W v, W) { return common::activate(decltype(f)::value, v); });
      });
    case Finish::derivative:
      return with_known(epilogue.activation, [&](auto f) {
        each<some>(values, operand, [](W v, W a) { return v * common::derivative(decltype(f)::value, a); });
      });
    case Finish::derivative_from_output:
      return with_known(epilogue.activation, [&](auto f) {
        each<count>(values, operand,
                    [=](W v, W h) { return v * common::derivative_from_output(decltype(f)::value, keep * h); });
      });
    case Finish::difference:
      return with_known(epilogue.activation, [&](auto f) {
        each<some>(values, operand, [](W v, W a) { return common::difference(decltype(f)::value, a, v); });
      });
    case Finish::add:
      return each<count>(values, operand, [=](W v, W x) { return x + scale * v; });
    case Finish::scale:
      return each<count>(values, operand, [=](W v, W) { return scale * v; });
  }
}

// Inverted dropout of elements whose words are of one counter. A product, not a choice: NaN and infinities go through.
template <int count, typename W>
__device__ inline void drop(const ResultEpilogue& epilogue, int64_t index, W* values) {
  const common::RandomWords words =
      common::random_words(static_cast<uint64_t>(index) / 4, static_cast<uint64_t>(*epilogue.seed));
#pragma unroll
  for (int i = 0; i < count; ++i) {
    uint32_t word = words.word[i];
#pragma unroll
    for (int first = count; first + i < 4; first += count) {
      if (index % 4 == first) word = words.word[first + i];
    }
    values[i] *= word >= epilogue.dropout.threshold ? W(epilogue.dropout.factor) : W(0);
  }
}

// Finishes the value at a place.
template <typename T>
__device__ inline void finish(const ResultEpilogue& epilogue, int64_t row, int64_t column, Wide<T> value) {
  const int64_t index = row * epilogue.columns + column;
  if (epilogue.bias != nullptr) value += Wide<T>(static_cast<const T*>(epilogue.bias)[column * epilogue.bias_stride]);
  if (epilogue.preactivation != nullptr) static_cast<T*>(epilogue.preactivation)[index] = T(value);
  Wide<T> values[] = {value}, operand[] = {0};
  if (epilogue.operand != nullptr) {
    operand[0] = element_at<T>(epilogue.operand, epilogue.operand_strides, epilogue, row, column);
  }
  apply(epilogue, values, operand);
  if (epilogue.dropout.active) drop<1>(epilogue, index, values);
  static_cast<T*>(epilogue.result)[index] = T(values[0]);
}

// Finishes a vector of columns, where the epilogue takes vectors.
template <typename T>
__device__ inline void finish(const ResultEpilogue& epilogue, int64_t row, int64_t column,
                              Wide<T> (&values)[vector_elements<T>], const uint4& operand_vector) {
  const int64_t index = row * epilogue.columns + column;
  Wide<T> operand[vector_elements<T>];
  if (epilogue.bias != nullptr) {
    widen<T>(vector_at(static_cast<const T*>(epilogue.bias) + column), operand);
#pragma unroll
    for (int i = 0; i < vector_elements<T>; ++i) values[i] += operand[i];
  }
  if (epilogue.preactivation != nullptr)
    store_vector(static_cast<T*>(epilogue.preactivation) + index, narrow<T>(values));
  widen<T>(operand_vector, operand);
  apply(epilogue, values, operand);
  if (epilogue.dropout.active) {
    constexpr int count = vector_elements<T> < 4 ? vector_elements<T> : 4;
#pragma unroll
    for (int i = 0; i < vector_elements<T>; i += count) drop<count>(epilogue, index + i, values + i);
  }
  store_vector(static_cast<T*>(epilogue.result) + index, narrow<T>(values));
}

}  // namespace fastalign::cuda
