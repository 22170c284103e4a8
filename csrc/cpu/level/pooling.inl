// pool(h + Δh) − pool(h), in one pass over the windows.

// The place of a window's maximum by torch's rule: the first of equals, and the last NaN where there is one.
template <typename W>
struct Maximum {
  W value;
  int64_t place;
  void offer(W candidate, int64_t at) {
    const bool better = candidate > value || candidate != candidate;
    value = better ? candidate : value;
    place = better ? at : place;
  }
};

template <typename W>
void max_pool2d_difference_in(const Pooling& p, const W* h, const W* delta, W* difference) {
  for (int64_t y = 0; y < p.output_height; ++y) {
    const int64_t top = y * p.stride[0] - p.padding[0];
    const int64_t first_row = top < 0 ? top + (-top + p.dilation[0] - 1) / p.dilation[0] * p.dilation[0] : top;
    const int64_t bottom = top + (p.kernel[0] - 1) * p.dilation[0] + 1;
    const int64_t last_row = bottom < p.height ? bottom : p.height;
    for (int64_t x = 0; x < p.output_width; ++x) {
      const int64_t left = x * p.stride[1] - p.padding[1];
      const int64_t first_column = left < 0 ? left + (-left + p.dilation[1] - 1) / p.dilation[1] * p.dilation[1] : left;
      const int64_t right = left + (p.kernel[1] - 1) * p.dilation[1] + 1;
      const int64_t last_column = right < p.width ? right : p.width;
      const int64_t first = first_row * p.width + first_column;
      Maximum<W> standard{-W(INFINITY), first}, modulated{-W(INFINITY), first};
      for (int64_t row = first_row; row < last_row; row += p.dilation[0]) {
        for (int64_t column = first_column; column < last_column; column += p.dilation[1]) {
          const int64_t at = row * p.width + column;
          standard.offer(h[at], at);
          modulated.offer(h[at] + delta[at], at);
        }
      }
      difference[y * p.output_width + x] = h[modulated.place] - h[standard.place] + delta[modulated.place];
    }
  }
}

void max_pool2d_difference(const Pooling& p, int64_t begin, int64_t end) {
  const int64_t size = p.height * p.width, output_size = p.output_height * p.output_width;
  for (int64_t plane = begin; plane < end; ++plane) {
    if (p.h.dtype == Dtype::float64) {
      max_pool2d_difference_in(p, static_cast<const double*>(p.h.data) + plane * size,
                               static_cast<const double*>(p.delta.data) + plane * size,
                               static_cast<double*>(p.difference.data) + plane * output_size);
    } else {
      max_pool2d_difference_in(p, static_cast<const float*>(p.h.data) + plane * size,
                               static_cast<const float*>(p.delta.data) + plane * size,
                               static_cast<float*>(p.difference.data) + plane * output_size);
    }
  }
}
