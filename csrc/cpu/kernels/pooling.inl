// Max-pooling, its way back, and pool(h + Δh) − pool(h), each in one pass over the windows, as many at a time as a
// vector has lanes.

// The places of a window along an axis that lie in the map: the first, and an end, by steps of the dilation.
struct Places {
  int64_t first, end;
};

inline Places places(const Pooling& p, int axis, int64_t size, int64_t window) {
  const int64_t dilation = p.dilation[axis], start = window * p.stride[axis] - p.padding[axis];
  const int64_t end = start + (p.kernel[axis] - 1) * dilation + 1;
  return {start < 0 ? start + (-start + dilation - 1) / dilation * dilation : start, end < size ? end : size};
}

// What is found in windows, in one or in a vector of them. By torch's rule the maximum is the first of equals, and the
// last NaN where there is one. Places are counted from the window's first one.
template <typename W, typename Value, typename Place>
struct Maxima {
  Value value = Value{} - W(INFINITY);
  Place place{};

  void offer(Value h, Value, Place at) {
    const auto moves = (h > value) | (h != h);
    value = moves ? h : value;
    place = moves ? at : place;
  }
  Value pooled() const { return value; }
};

template <typename W, typename Value, typename Place>
struct Differences {
  Value standard = Value{} - W(INFINITY), modulated = standard;
  Value h = standard, delta{};  // at the modulated one's place: where all are −∞, the result is as with those of any

  void offer(Value value, Value change, Place) {
    const Value sum = value + change;
    const auto moves = (sum > modulated) | (sum != sum);
    standard = ((value > standard) | (value != value)) ? value : standard;
    modulated = moves ? sum : modulated;
    h = moves ? value : h;
    delta = moves ? change : delta;
  }
  Value pooled() const { return h - standard + delta; }
};

// Every second element of two vectors that follow each other, from the first or the second one on.
template <int first, typename Vector, int... i>
inline Vector every_second(Vector low, Vector high, Indices<i...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(low, high, 2 * i + first...);
#else
  constexpr int side = sizeof...(i);
  return Vector{(2 * i < side ? low : high)[2 * i % side + first]...};
#endif
}

// Elements `stride` apart; `step` is the stride, or 0 where the compiler does not know it. Step 2 reads one more.
template <int step, typename W, int... i>
inline typename VectorOf<W>::type strided(const W* from, int64_t stride, Indices<i...>) {
  using Vector = typename VectorOf<W>::type;
  if constexpr (step == 0) return Vector{from[i * stride]...};
  constexpr int half = sizeof...(i) / 2;
  Vector low, high;
  memcpy(&low, from, sizeof(Vector));
  if constexpr (step == 1) return low;
  memcpy(&high, from + 2 * half, sizeof(Vector));
  return every_second<0>(low, high, Indices<i...>());
}

enum class Pool { forward, backward, difference };

template <Pool pool, typename W, typename Value, typename Place>
struct FoundBy {
  using type = Maxima<W, Value, Place>;
};

template <typename W, typename Value, typename Place>
struct FoundBy<Pool::difference, W, Value, Place> {
  using type = Differences<W, Value, Place>;
};

// A row of windows, which is pooled from element `place` on, of a plane that begins at element `plane`.
template <Pool pool, typename W, int step>
void pool_row(const Pooling& p, int64_t plane, Places rows, int64_t place) {
  using Vector = typename VectorOf<W>::type;
  using Place = decltype(Vector{} < Vector{});
  using Lane = decltype(Place{}[0] + 0);
  constexpr int side = lanes<W>;
  constexpr int64_t room = 512;
  W h_buffer[room], delta_buffer[room], pooled[side], signal_buffer[side];
  Lane at[side];
  const int64_t stride = p.stride[1], reach = (p.kernel[1] - 1) * p.dilation[1] + 1;
  const int64_t span = (side - 1) * stride + reach + (step == 2);
  const int64_t last = (p.width - reach + p.padding[1]) / stride;  // the last window that ends in the map
  const int64_t inner = last < p.output_width ? last + 1 : p.output_width;
  // A vector of windows may reach beyond the row into those behind it, and what it finds there is not used.
  const int64_t readable = p.planes * p.height * p.width - plane - (rows.end - 1) * p.width;
  for (int64_t x = 0; x < p.output_width;) {
    const Places columns = places(p, 1, p.width, x);
    const int64_t first = plane + rows.first * p.width + columns.first;
    int64_t count = x * stride < p.padding[1] ? 1 : inner - x;
    if (count > 1 && span <= room && columns.first + span <= readable) {
      typename FoundBy<pool, W, Vector, Place>::type found;
      for (int64_t row = 0; row < rows.end - rows.first; row += p.dilation[0]) {
        const W* h = load(p.h, first + row * p.width, span, h_buffer);
        const W* delta = pool == Pool::difference ? load(p.delta, first + row * p.width, span, delta_buffer) : h;
        for (int64_t column = 0; column < reach; column += p.dilation[1]) {
          found.offer(strided<step>(h + column, stride, IndicesUp<side>()),
                      strided<step>(delta + column, stride, IndicesUp<side>()),
                      Place{} + static_cast<Lane>(row * p.width + column));
        }
      }
      if (count > side) count = side;
      if constexpr (pool == Pool::backward) {
        memcpy(at, &found.place, sizeof(Place));
      } else {
        const Vector values = found.pooled();
        memcpy(pooled, &values, sizeof(Vector));
      }
    } else {
      count = 1;
      typename FoundBy<pool, W, W, Lane>::type found;
      for (int64_t row = 0; row < rows.end - rows.first; row += p.dilation[0]) {
        for (int64_t column = 0; column < columns.end - columns.first; column += p.dilation[1]) {
          const int64_t here = row * p.width + column;
          const W* h = load(p.h, first + here, 1, h_buffer);
          const W* delta = pool == Pool::difference ? load(p.delta, first + here, 1, delta_buffer) : h;
          found.offer(*h, *delta, static_cast<Lane>(here));
        }
      }
      if constexpr (pool == Pool::backward) {
        at[0] = found.place;
      } else {
        pooled[0] = found.pooled();
      }
    }
    if constexpr (pool == Pool::backward) {
      const W* signal = load(p.signal, place + x, count, signal_buffer);
      W* result = static_cast<W*>(p.result.data) + first;
      for (int64_t i = 0; i < count; ++i) result[at[i] + i * stride] += signal[i];
    } else {
      store(p.result, place + x, count, pooled);
    }
    x += count;
  }
}

template <Pool pool, typename W>
void pool_plane(const Pooling& p, int64_t plane) {
  const auto row = p.stride[1] == 1   ? pool_row<pool, W, 1>
                   : p.stride[1] == 2 ? pool_row<pool, W, 2>
                                      : pool_row<pool, W, 0>;
  for (int64_t y = 0; y < p.output_height; ++y) {
    row(p, plane * p.height * p.width, places(p, 0, p.height, y), (plane * p.output_height + y) * p.output_width);
  }
}

#include "cpu/kernels/pooling_2x2.inl"

template <Pool pool, typename W>
void pool_planes(const Pooling& p, int64_t begin, int64_t end) {
  if (p.by_bands) return pool_by_bands<pool, W>(p, nullptr, begin, end);
  for (int64_t plane = begin; plane < end; ++plane) pool_plane<pool, W>(p, plane);
}

template <typename W>
void max_pool2d_backward_in(const Pooling& p, const Epilogue& epilogue, int64_t begin, int64_t end) {
  if (p.by_bands) return pool_by_bands<Pool::backward, W>(p, &epilogue, begin, end);
  const int64_t size = p.height * p.width;
  const Input values{p.result.data, p.result.dtype};
  for (int64_t plane = begin; plane < end; ++plane) {
    memset(static_cast<W*>(p.result.data) + plane * size, 0, size_t(size) * sizeof(W));
    pool_plane<Pool::backward, W>(p, plane);
    elementwise_in<W>(values, epilogue, plane * size, (plane + 1) * size);
  }
}

void max_pool2d_forward(const Pooling& p, int64_t begin, int64_t end) {
  if (p.h.dtype == Dtype::float64) return pool_planes<Pool::forward, double>(p, begin, end);
  pool_planes<Pool::forward, float>(p, begin, end);
}

void max_pool2d_backward(const Pooling& p, const Epilogue& epilogue, int64_t begin, int64_t end) {
  if (p.h.dtype == Dtype::float64) return max_pool2d_backward_in<double>(p, epilogue, begin, end);
  max_pool2d_backward_in<float>(p, epilogue, begin, end);
}

void max_pool2d_difference(const Pooling& p, int64_t begin, int64_t end) {
  if (p.h.dtype == Dtype::float64) return pool_planes<Pool::difference, double>(p, begin, end);
  pool_planes<Pool::difference, float>(p, begin, end);
}
