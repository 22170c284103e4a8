// Several jobs in one launch: their table is the kernel's parameter, and each takes a run of blocks.

#pragma once

#include <bitset>
#include <cstdint>
#include <cstring>
#include <vector>

#include "cuda/device/launch.cuh"

namespace fastalign::cuda {

// A job as 64-bit words, the first of them its `first_block`, which is found at launch. Jobs are made without padding,
// in which those that are alike could differ.
template <typename Job>
struct JobWords {
  static constexpr int number = sizeof(Job) / 8;
  static_assert(sizeof(Job) % 8 == 0);

  uint64_t word[number];

  static JobWords of(const Job& job) {
    JobWords words;
    std::memcpy(&words, &job, sizeof(words));
    return words;
  }
};

// A word that is the same in all jobs stands here once, the others job by job: the more alike the jobs, the more there
// is room for, and no number has to be narrow for it.
template <typename Job>
class Jobs {
 public:
  using Words = JobWords<Job>;

  // A table for the jobs from `begin` on, of which it has room for those before `end`.
  Jobs(const std::vector<Job>& all, size_t begin, size_t& end) {
    const Words first = Words::of(all[begin]);
    std::bitset<Words::number> differing;
    for (end = begin + 1; end < all.size(); ++end) {
      const Words job = Words::of(all[end]);
      std::bitset<Words::number> with_it = differing;
      with_it.set(0);
      for (int i = 0; i < Words::number; ++i) with_it[i] = with_it[i] || job.word[i] != first.word[i];
      if (with_it.count() * (end + 1 - begin) > room) break;
      differing = with_it;
    }
    uint16_t own = Words::number;
    for (int i = 0; i < Words::number; ++i) {
      place_[i] = differing[i] ? Place{own++, static_cast<uint16_t>(differing.count())} : Place{uint16_t(i), 0};
    }
  }

  void add(const Job& job) {
    const Words words = Words::of(job);
    for (int i = 0; i < Words::number; ++i) words_[place_[i].first + number_ * place_[i].step] = words.word[i];
    ++number_;
  }

  // The job of a block, which its threads put into shared memory.
  __device__ const Job& of_block(int64_t block, Words& memory) const {
    int job = 0, behind = number_;
    while (behind - job > 1) {
      const int middle = (job + behind) / 2;
      (static_cast<int64_t>(word(middle, 0)) <= block ? job : behind) = middle;
    }
    for (int i = threadIdx.x; i < Words::number; i += blockDim.x) memory.word[i] = word(job, i);
    __syncthreads();
    return reinterpret_cast<const Job&>(memory);
  }

 private:
  static constexpr size_t parameters = 32764;  // bytes that a kernel's may have
  static constexpr size_t room = (parameters - 12 * Words::number - 12) / 8;

  // Of a word of the first job, and from there to the next job's.
  struct Place {
    uint16_t first, step;
  };

  __device__ uint64_t word(int job, int i) const { return words_[place_[i].first + job * place_[i].step]; }

  int number_{};
  Place place_[Words::number];
  uint64_t words_[Words::number + room];
};

// Runs a kernel on jobs, of which each takes `blocks_of(job)`, at least one: in one launch, unless they are too many
// for its parameters.
template <typename Job, typename BlocksOf>
void launch_jobs(void (*kernel)(Jobs<Job>), std::vector<Job>& all, const BlocksOf& blocks_of, unsigned threads,
                 size_t dynamic_shared_memory, void* stream) {
  static_assert(sizeof(Jobs<Job>) <= 32764);
  for (size_t begin = 0, end; begin < all.size(); begin = end) {
    Jobs<Job> jobs(all, begin, end);
    int64_t blocks = 0;
    for (size_t i = begin; i < end; ++i) {
      all[i].first_block = blocks;
      blocks += blocks_of(all[i]);
      jobs.add(all[i]);
    }
    launch(kernel, {dim3(static_cast<unsigned>(blocks)), dim3(threads), dynamic_shared_memory}, stream, jobs);
  }
}

}  // namespace fastalign::cuda
