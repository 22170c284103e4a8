// Several jobs in one launch: their table is the kernel's parameter, and each takes a run of blocks.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cuda/launch.cuh"

namespace fastalign::cuda {

// A job says in `blocks` how many it takes, at least one; `first_block` is found at launch.
template <typename Job>
struct Jobs {
  // As many as fit: a kernel's parameters have 32764 bytes.
  static constexpr int capacity = (32764 - alignof(Job)) / sizeof(Job);

  int number{};
  Job job[capacity];

  // The job of a block.
  __device__ const Job& of_block(int64_t block) const {
    int first = 0, behind = number;
    while (behind - first > 1) {
      const int middle = (first + behind) / 2;
      (job[middle].first_block <= block ? first : behind) = middle;
    }
    return job[first];
  }
};

// Runs a kernel on jobs: in one launch, unless they are too many for its parameters.
template <typename Job>
void launch_jobs(void (*kernel)(Jobs<Job>), const std::vector<Job>& all, unsigned threads, size_t dynamic_shared_memory,
                 void* stream) {
  constexpr size_t most = Jobs<Job>::capacity;
  for (size_t begin = 0; begin < all.size(); begin += most) {
    Jobs<Job> jobs;
    int64_t blocks = 0;
    for (size_t i = begin; i < std::min(begin + most, all.size()); ++i) {
      Job& job = jobs.job[jobs.number++];
      job = all[i];
      job.first_block = blocks;
      blocks += job.blocks;
    }
    launch(kernel, {dim3(static_cast<unsigned>(blocks)), dim3(threads), dynamic_shared_memory}, stream, jobs);
  }
}

}  // namespace fastalign::cuda
