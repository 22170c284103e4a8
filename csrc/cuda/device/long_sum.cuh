// Sums of many terms.

#pragma once

#include <cuda_runtime.h>

namespace fastalign::cuda {

// A sum that carries along what its additions lose: as exact as torch's, which sums pairwise.
template <typename W>
class LongSum {
 public:
  __device__ void add(W value) {
    const W corrected = value - lost_;
    const W next = sum_ + corrected;
    const W lost = (next - sum_) - corrected;
    lost_ = lost == lost ? lost : W(0);  // infinity has lost nothing
    sum_ = next;
  }

  __device__ void add(const LongSum& other) {
    add(other.sum_);
    add(-other.lost_);
  }

  __device__ W value() const { return sum_; }

 private:
  W sum_{}, lost_{};
};

}  // namespace fastalign::cuda
