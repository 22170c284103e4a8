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

// Adds elements first … first + count to `sum_lanes` sums in turn, which stay in registers meanwhile.
constexpr int sum_lanes = 16;

template <typename W>
inline void add_to_lanes(Input values, int64_t first, int64_t count, W* buffer, double* sums) {
  constexpr int side = lanes<double>, vectors = sum_lanes / side;
  constexpr int64_t ahead = 1024;  // elements: beyond the page, at whose end the hardware stops fetching
  typedef W Narrow __attribute__((vector_size(side * sizeof(W))));
  using Vector = VectorOf<double>::type;
  Vector sum[vectors];
  for (int64_t done = 0; done < count; done += stretch) {
    const int64_t taken = count - done < stretch ? count - done : stretch;
    prefetch(values.data, values.dtype, first + done + ahead, taken);
    const W* line = load(values, first + done, taken, buffer);
    for (int v = 0; v < vectors; ++v) memcpy(&sum[v], sums + v * side, sizeof(Vector));
    int64_t i = 0;
    for (; i + sum_lanes <= taken; i += sum_lanes) {
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) {
        Narrow terms;
        memcpy(&terms, line + i + v * side, sizeof(terms));
        sum[v] += __builtin_convertvector(terms, Vector);
      }
    }
    for (int v = 0; v < vectors; ++v) memcpy(sums + v * side, &sum[v], sizeof(Vector));
    for (int lane = 0; i < taken; ++i, ++lane) sums[lane] += double(line[i]);
  }
}

// Each image's planes after each other, as they lie in memory.
template <typename W>
void plane_sums(Input values, int64_t images, int64_t channels, int64_t positions, double scale, Output result,
                int64_t begin, int64_t end) {
  constexpr int block = 64;
  W buffer[stretch];
  for (int64_t channel = begin; channel < end; channel += block) {
    const int64_t count = end - channel < block ? end - channel : block;
    double sums[block][sum_lanes] = {};
    for (int64_t image = 0; image < images; ++image) {
      const int64_t plane = (image * channels + channel) * positions;
      for (int64_t c = 0; c < count; ++c) add_to_lanes(values, plane + c * positions, positions, buffer, sums[c]);
    }
    for (int64_t c = 0; c < count; ++c) {
      double total = 0;
      for (double sum : sums[c]) total += sum;
      const W scaled = W(scale * total);
      store(result, channel + c, 1, &scaled);
    }
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
