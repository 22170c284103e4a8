// Sums for the biases, in float64 and in a fixed order.

// The layout (images, channels, positions) with one position: neighbouring channels side by side.
template <typename W>
void column_sums(Input values, int64_t rows, int64_t columns, double scale, Output result, int64_t begin, int64_t end) {
  constexpr int64_t block = 64;
  for (int64_t first = begin; first < end; first += block) {
    const int64_t count = end - first < block ? end - first : block;
    double sums[block] = {};
    W buffer[block];
    for (int64_t row = 0; row < rows; ++row) {
      const W* line = load(values, row * columns + first, count, buffer);
      FASTALIGN_VECTORIZE for (int64_t i = 0; i < count; ++i) sums[i] += double(line[i]);
    }
    for (int64_t i = 0; i < count; ++i) buffer[i] = W(scale * sums[i]);
    store(result, first, count, buffer);
  }
}

template <typename W>
void plane_sums(Input values, int64_t images, int64_t channels, int64_t positions, double scale, Output result,
                int64_t begin, int64_t end) {
  constexpr int lanes = 16;
  for (int64_t channel = begin; channel < end; ++channel) {
    double sums[lanes] = {};
    W buffer[stretch];
    for (int64_t image = 0; image < images; ++image) {
      const int64_t plane = (image * channels + channel) * positions;
      for (int64_t first = 0; first < positions; first += stretch) {
        const int64_t count = positions - first < stretch ? positions - first : stretch;
        const W* line = load(values, plane + first, count, buffer);
        int64_t i = 0;
        for (; i + lanes <= count; i += lanes) {
          FASTALIGN_VECTORIZE for (int lane = 0; lane < lanes; ++lane) sums[lane] += double(line[i + lane]);
        }
        for (int lane = 0; i < count; ++i, ++lane) sums[lane] += double(line[i]);
      }
    }
    double total = 0;
    for (double sum : sums) total += sum;
    const W scaled = W(scale * total);
    store(result, channel, 1, &scaled);
  }
}

template <typename W>
void channel_sums_in(Input values, int64_t images, int64_t channels, int64_t positions, double scale, Output result,
                     int64_t begin, int64_t end) {
  if (positions == 1) return column_sums<W>(values, images, channels, scale, result, begin, end);
  plane_sums<W>(values, images, channels, positions, scale, result, begin, end);
}

void channel_sums(Input values, int64_t images, int64_t channels, int64_t positions, double scale, Output result,
                  int64_t begin, int64_t end) {
  if (values.dtype == Dtype::float64) {
    return channel_sums_in<double>(values, images, channels, positions, scale, result, begin, end);
  }
  channel_sums_in<float>(values, images, channels, positions, scale, result, begin, end);
}
