// Max-pooling by windows of 2 × 2 side by side, as nearly all networks have them.
//
// Bands of rows are read, pooled and finished in the first-level cache, all windows of a vector at once. What a vector
// reaches beyond a row that is shorter is written over by the next one, or lies behind the band.

constexpr int64_t band = 4 * pooling_width;  // elements

template <typename W>
constexpr int64_t behind = 2 * lanes<W>;  // elements that may be read or written behind a band

// Elements first … first + count of a tensor of so many in all, with readable ones behind them.
template <typename W>
const W* load_band(Input input, int64_t first, int64_t count, int64_t all, W* buffer) {
  const W* values = load(input, first, count, buffer);
  if (values == buffer || first + count + behind<W> <= all) return values;
  memcpy(buffer, values, size_t(count) * sizeof(W));
  return buffer;
}

// a[0] a[2] … and a[1] a[3] … of two vectors that follow each other.
template <typename W, typename Vector, int... i>
inline void deinterleave(const W* from, Vector& even, Vector& odd, Indices<i...>) {
  Vector low, high;
  memcpy(&low, from, sizeof(Vector));
  memcpy(&high, from + lanes<W>, sizeof(Vector));
  even = every_second<0>(low, high, Indices<i...>());
  odd = every_second<1>(low, high, Indices<i...>());
}

// Rows of windows. `other` is Δh in the difference, the signal on the way back.
template <Pool pool, typename W>
void pool_band(const W* h, const W* other, int64_t rows, int64_t width, W* result) {
  using Vector = typename VectorOf<W>::type;
  using Place = decltype(Vector{} < Vector{});
  constexpr int side = lanes<W>;
  constexpr IndicesUp<side> indices{};
  const int64_t windows = width / 2;
  for (int64_t y = 0; y < rows; ++y) {
    for (int64_t x = 0; x < windows; x += side) {
      // The last vector of a long row ends with it.
      const int64_t window = windows - x < side && windows > side ? windows - side : x;
      const int64_t place = 2 * (y * width + window);
      typename FoundBy<pool, W, Vector, Place>::type found;
#pragma GCC unroll 2
      for (int row = 0; row < 2; ++row) {
        Vector value[2], change[2];
        deinterleave(h + place + row * width, value[0], value[1], indices);
        if constexpr (pool == Pool::difference) {
          deinterleave(other + place + row * width, change[0], change[1], indices);
        } else {
          change[0] = change[1] = value[0];
        }
        found.offer(value[0], change[0], Place{} + 2 * row);
        found.offer(value[1], change[1], Place{} + 2 * row + 1);
      }
      if constexpr (pool == Pool::backward) {
        Vector signal, low, high;
        memcpy(&signal, other + y * windows + window, sizeof(signal));
        for (int row = 0; row < 2; ++row) {
          const Vector even = found.place == Place{} + 2 * row ? signal : Vector{};
          const Vector odd = found.place == Place{} + 2 * row + 1 ? signal : Vector{};
          interleave(even, odd, low, high, indices);
          memcpy(result + place + row * width, &low, sizeof(low));
          if (2 * windows > side) memcpy(result + place + row * width + side, &high, sizeof(high));
        }
      } else {
        const Vector pooled = found.pooled();
        memcpy(result + y * windows + window, &pooled, sizeof(pooled));
      }
    }
    if (pool == Pool::backward && width % 2 == 1) {
      for (int64_t row = 2 * y; row < 2 * y + 2; ++row) result[(row + 1) * width - 1] = 0;  // in no window
    }
  }
}

template <typename W>
void finish_band(const Epilogue& epilogue, const W* values, int64_t first, int64_t count) {
  for (int64_t done = 0; done < count; done += stretch) {
    finish(epilogue, values + done, first + done, count - done < stretch ? count - done : stretch);
  }
}

// Planes begin … end; the epilogue is of the way back alone.
template <Pool pool, typename W>
void pool_by_bands(const Pooling& p, const Epilogue* epilogue, int64_t begin, int64_t end) {
  alignas(64) W h_buffer[band + behind<W>], other_buffer[band + behind<W>], result[band + behind<W>];
  const int64_t size = p.height * p.width, pooled_size = p.output_height * p.output_width;
  const int64_t joined = p.height % 2 == 0 ? end - begin : 1;  // planes whose rows follow each other as those of one
  const int64_t most_rows = (band - p.width) / (2 * p.width), rows = joined * p.output_height;
  int64_t held = 0;  // elements of the way back that are still to be finished, in which small planes gather
  for (int64_t plane = begin; plane < end; plane += joined) {
    for (int64_t y = 0; y < rows; y += most_rows) {
      const int64_t taken = rows - y < most_rows ? rows - y : most_rows;
      const int64_t first = plane * size + 2 * y * p.width, count = 2 * taken * p.width;
      const int64_t place = plane * pooled_size + y * p.output_width, windows = taken * p.output_width;
      const W* h = load_band(p.h, first, count, p.planes * size, h_buffer);
      if constexpr (pool == Pool::backward) {
        const int64_t in_no_window = y + taken == rows ? joined * size - (y + taken) * 2 * p.width : 0;  // the last row
        if (held + count + in_no_window > band) {
          finish_band(*epilogue, result, first - held, held);
          held = 0;
        }
        const W* signal = load_band(p.signal, place, windows, p.planes * pooled_size, other_buffer);
        pool_band<pool>(h, signal, taken, p.width, result + held);
        memset(result + held + count, 0, size_t(in_no_window) * sizeof(W));
        held += count + in_no_window;
      } else {
        const W* delta = h;
        if (pool == Pool::difference) delta = load_band(p.delta, first, count, p.planes * size, other_buffer);
        pool_band<pool>(h, delta, taken, p.width, result);
        store(p.result, place, windows, result);
      }
    }
  }
  if constexpr (pool == Pool::backward) finish_band(*epilogue, result, end * size - held, held);
}
