// The dtypes that the kernels know.

#pragma once

namespace fastalign {

enum class Dtype { float64, float32, bfloat16, float16 };

}  // namespace fastalign
