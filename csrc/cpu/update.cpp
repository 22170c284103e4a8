#include "cpu/update.h"

#include "cpu/dispatch.h"

namespace fastalign {

Tensor wide_difference(const Tensor& h, const Tensor& h_mod) {
  const Tensor standard = row_major(h), modulated = row_major(h_mod);
  Tensor difference = empty(h.sizes(), wide_dtype(h));
  run_elementwise(modulated,
                  {.finish = Finish::add, .scale = -1, .operand = input(standard), .result = output(difference)});
  return difference;
}

Tensor bias_update(const Tensor& post, double scale, ScalarType dtype) {
  const Tensor values = row_major(post);
  const int64_t images = post.size(0), channels = post.size(1);
  const int64_t positions = post.dim() == 4 ? post.size(2) * post.size(3) : 1;
  Tensor result = empty({&channels, 1}, dtype);
  const Kernels& kernels = cpu_kernels();
  const int64_t block = positions == 1 ? 64 : 1;  // channels summed side by side
  const int64_t work = images * positions * block;
  parallel((channels + block - 1) / block, work < 32768 ? 32768 / (work + 1) + 1 : 1, [&](int64_t begin, int64_t end) {
    const int64_t last = end * block < channels ? end * block : channels;
    kernels.channel_sums(input(values), images, channels, positions, scale, output(result), begin * block, last);
  });
  return result;
}

Tensor no_bias_update(ScalarType dtype) {
  const int64_t none = 0;
  return empty({&none, 1}, dtype);
}

}  // namespace fastalign
