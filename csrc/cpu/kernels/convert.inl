// Reading and writing of dtypes: kernels compute on W, which is double for float64 tensors and float for all others.

inline float widen_bfloat16(uint16_t value) { return float_of(static_cast<uint32_t>(value) << 16); }

inline uint16_t narrow_bfloat16(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>(value != value ? 0x7fc0u : rounded);
}

// Exponents are moved by a multiplication, which also normalises denormals.
inline float widen_float16(uint16_t value) {
  const uint32_t magnitude = static_cast<uint32_t>(value & 0x7fffu) << 13;
  const uint32_t scaled = bits_of(float_of(magnitude) * float_of(0x77800000u));  // 2¹¹²
  const uint32_t bits = magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : scaled;
  return float_of(bits | static_cast<uint32_t>(value & 0x8000u) << 16);
}

inline uint16_t narrow_float16(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Adding ½ rounds to a multiple of 2⁻²⁴, the step of float16's denormals, and leaves the multiple in the low bits.
  const uint32_t denormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t finite = magnitude < 0x38800000u ? denormal : normal;
  const uint32_t bounded = magnitude >= 0x477ff000u ? 0x7c00u : finite;
  return static_cast<uint16_t>(sign | (magnitude > 0x7f800000u ? 0x7e00u : bounded));
}

// A number as it lies in memory.
struct Bfloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

inline double widen(double value) { return value; }
inline float widen(float value) { return value; }
inline float widen(Bfloat16 value) { return widen_bfloat16(value.bits); }
inline float widen(Float16 value) { return widen_float16(value.bits); }

inline void narrow(double value, double& place) { place = value; }
inline void narrow(float value, float& place) { place = value; }
inline void narrow(float value, Bfloat16& place) { place.bits = narrow_bfloat16(value); }
inline void narrow(float value, Float16& place) { place.bits = narrow_float16(value); }

// Elements first … first + count; in place where they are of type W, else through the buffer.
inline const double* load(Input input, int64_t first, int64_t, double*) {
  return static_cast<const double*>(input.data) + first;
}

inline const float* load(Input input, int64_t first, int64_t count, float* buffer) {
  if (input.dtype == Dtype::float32) return static_cast<const float*>(input.data) + first;
  const uint16_t* values = static_cast<const uint16_t*>(input.data) + first;
  if (input.dtype == Dtype::bfloat16) {
    FASTALIGN_VECTORIZE for (int64_t i = 0; i < count; ++i) buffer[i] = widen_bfloat16(values[i]);
  } else {
    FASTALIGN_VECTORIZE for (int64_t i = 0; i < count; ++i) buffer[i] = widen_float16(values[i]);
  }
  return buffer;
}

// Where to compute the elements from `first`: in place where they are of type W, else in the buffer.
inline double* target(Output output, int64_t first, double*) { return static_cast<double*>(output.data) + first; }

inline float* target(Output output, int64_t first, float* buffer) {
  return output.dtype == Dtype::float32 ? static_cast<float*>(output.data) + first : buffer;
}

// Writes what was computed elsewhere than in place.
inline void store(Output output, int64_t first, int64_t count, const double* values) {
  double* result = static_cast<double*>(output.data) + first;
  if (values == result) return;
  FASTALIGN_VECTORIZE for (int64_t i = 0; i < count; ++i) result[i] = values[i];
}

inline void store(Output output, int64_t first, int64_t count, const float* values) {
  if (output.dtype == Dtype::float32) {
    float* result = static_cast<float*>(output.data) + first;
    if (values == result) return;
    FASTALIGN_VECTORIZE for (int64_t i = 0; i < count; ++i) result[i] = values[i];
    return;
  }
  uint16_t* result = static_cast<uint16_t*>(output.data) + first;
  if (output.dtype == Dtype::bfloat16) {
    FASTALIGN_VECTORIZE for (int64_t i = 0; i < count; ++i) result[i] = narrow_bfloat16(values[i]);
  } else {
    FASTALIGN_VECTORIZE for (int64_t i = 0; i < count; ++i) result[i] = narrow_float16(values[i]);
  }
}
