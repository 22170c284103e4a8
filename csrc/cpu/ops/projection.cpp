#include "cpu/ops/projection.h"

#include <algorithm>

#include "cpu/dispatch.h"

namespace fastalign {

namespace {

int64_t multiplications(const ProjectionJob& job) {
  return job.signal.size(0) * job.signal.size(1) * job.matrix.size(0);
}

// Whether the own kernel is faster than the library's product and a pass over it.
bool own_kernel_takes(const ProjectionJob& job) {
  // Up to so many classes the own kernel, on float32, is ahead of bfloat16's product too.
  constexpr int64_t few = 48;
  const int64_t classes = job.signal.size(1);
  const bool halves = factor_dtype(job.signal, multiplications(job)) != wide_dtype(job.signal);
  return classes <= (halves ? few : cpu_kernels().most_classes);
}

// Whether the matrix unit takes both factors as they lie; what is packed of the samples stays in the second-level
// cache. Few terms leave most of a tile empty, which is worth while for one run of samples only.
bool matrix_unit_takes(const ProjectionJob& job) {
  constexpr int64_t most_terms = 8192;
  const int64_t samples = job.signal.size(0), terms = job.signal.size(1);
  const bool few = (samples <= cpu_kernels().most_samples && terms <= most_terms) || terms <= projection_classes;
  if (terms < tile_terms && samples > tile_samples) return false;
  return few && job.signal.scalar_type() == ScalarType::BFloat16 && cpu_kernels().tile_projection != nullptr &&
         (job.matrix.stride(1) == 1 || job.matrix.stride(0) == 1);
}

void run_by_matrix_unit(const ProjectionJob& job) {
  const Tensor signal = row_major(job.signal);
  const Projection projection{.signal = signal.const_data_ptr(),
                              .matrix = input(job.matrix),
                              .matrix_row_stride = job.matrix.stride(0),
                              .matrix_column_stride = job.matrix.stride(1),
                              .rows = signal.size(0),
                              .classes = signal.size(1)};
  const int64_t scratch_size = blocks(projection.classes, tile_terms) * tile_terms * tile_samples;
  // A result takes as long as so many terms of its sum.
  const int64_t of_task = projection.rows * tile_projection_columns * (projection.classes + 256);
  parallel(blocks(job.epilogue.columns, tile_projection_columns), 1 + 4 * worth_a_thread / (of_task + 1),
           [&](int64_t begin, int64_t end) {
             const Tensor scratch = empty({&scratch_size, 1}, ScalarType::BFloat16);
             cpu_kernels().tile_projection(projection, job.epilogue, scratch.mutable_data_ptr(), begin, end);
           });
}

// By the library's product, and one pass over it.
void run_by_library(const ProjectionJob& job) {
  const int64_t sizes[] = {job.signal.size(0), job.matrix.size(0)}, strides[] = {sizes[1], 1};
  const ScalarType dtype = factor_dtype(job.signal, multiplications(job));
  const bool is_operand = job.product.const_data_ptr() == job.epilogue.operand.data;
  const bool in_place = job.product.scalar_type() == dtype && !is_operand;
  const Tensor product = in_place ? view(job.product, {sizes, 2}, {strides, 2}) : empty({sizes, 2}, dtype);
  // NOTE: of bfloat16 rows that lie apart the library may read on, where NaN would count.
  multiply(product, row_major(in_dtype(job.signal, dtype)), transposed(in_dtype(job.matrix, dtype)));
  run_elementwise(product, job.epilogue);
}

// By the own kernel, all jobs in one parallel region.
void run_fused(const std::vector<const ProjectionJob*>& jobs) {
  const Kernels& kernels = cpu_kernels();
  std::vector<Tensor> signals, matrices;
  std::vector<Projection> projections;
  std::vector<int64_t> first_task{0};
  int64_t most_classes = 0;
  for (const ProjectionJob* job : jobs) {
    // Jobs in a row mostly share their signal, which then is prepared once.
    const bool shared = !signals.empty() && job->signal.get() == jobs[signals.size() - 1]->signal.get();
    signals.push_back(shared ? signals.back() : row_major(wide(job->signal)));
    matrices.push_back(wide(job->matrix));
    projections.push_back({.signal = signals.back().const_data_ptr(),
                           .matrix = input(matrices.back()),
                           .matrix_row_stride = matrices.back().stride(0),
                           .matrix_column_stride = matrices.back().stride(1),
                           .rows = job->signal.size(0),
                           .classes = job->signal.size(1)});
    first_task.push_back(first_task.back() + blocks(job->signal.size(0), projection_rows) *
                                                 blocks(job->epilogue.columns, projection_columns));
    most_classes = std::max(most_classes, job->signal.size(1));
  }
  const int64_t grain = std::max<int64_t>(1, 512 / (32 + most_classes));
  parallel(first_task.back(), grain, [&](int64_t begin, int64_t end) {
    size_t job = std::upper_bound(first_task.begin(), first_task.end(), begin) - first_task.begin() - 1;
    for (; begin < end; ++job) {
      const int64_t last = std::min(end, first_task[job + 1]);
      kernels.projection(projections[job], jobs[job]->epilogue, begin - first_task[job], last - first_task[job]);
      begin = last;
    }
  });
}

}  // namespace

void run_projections(const std::vector<ProjectionJob>& jobs) {
  std::vector<const ProjectionJob*> fused;
  for (const ProjectionJob& job : jobs) {
    if (matrix_unit_takes(job)) {
      run_by_matrix_unit(job);
    } else if (own_kernel_takes(job)) {
      fused.push_back(&job);
    } else {
      run_by_library(job);
    }
  }
  run_fused(fused);
}

}  // namespace fastalign
