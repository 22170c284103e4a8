// pool(h + Δh) − pool(h), in one pass over the windows, as many at a time as a vector has lanes.

// The places of a window along an axis that lie in the map: the first, and an end, by steps of the dilation.
struct Places {
  int64_t first, end;
};

inline Places places(const Pooling& p, int axis, int64_t size, int64_t window) {
  const int64_t dilation = p.dilation[axis], start = window * p.stride[axis] - p.padding[axis];
  const int64_t end = start + (p.kernel[axis] - 1) * dilation + 1;
  return {start < 0 ? start + (-start + dilation - 1) / dilation * dilation : start, end < size ? end : size};
}

// The maxima of windows, of one or of a vector of them. By torch's rule the maximum is the first of equals, and the
// last NaN where there is one. Of the places only what lies there is kept.
template <typename Value, typename W>
struct Maxima {
  Value standard = Value{} - W(INFINITY), modulated = standard;
  Value h = standard, delta{};  // at the modulated one's place: where all are −∞, the result is as with those of any

  void offer(Value value, Value change) {
    const Value sum = value + change;
    const auto moves = (sum > modulated) | (sum != sum);
    standard = (value > standard) | (value != value) ? value : standard;
    modulated = moves ? sum : modulated;
    h = moves ? value : h;
    delta = moves ? change : delta;
  }
  Value difference() const { return h - standard + delta; }
};

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
  return __builtin_shufflevector(low, high, 2 * i...);
}

// A row of the result, whose first element stands at `place`, from a plane that begins at element `plane`.
template <typename W, int step>
void pool_row(const Pooling& p, int64_t plane, Places rows, int64_t place) {
  using Vector = typename VectorOf<W>::type;
  constexpr int side = lanes<W>;
  constexpr int64_t room = 512;
  W h_buffer[room], delta_buffer[room], result_buffer[side];
  const int64_t stride = p.stride[1], reach = (p.kernel[1] - 1) * p.dilation[1] + 1;
  const int64_t span = (side - 1) * stride + reach + (step == 2);
  const int64_t last = (p.width - reach + p.padding[1]) / stride;  // the last window that ends in the map
  const int64_t inner = last < p.output_width ? last + 1 : p.output_width;
  // A vector of windows may reach beyond the row into those behind it, and what it finds there is not used.
  const int64_t readable = p.planes * p.height * p.width - plane - (rows.end - 1) * p.width;
  for (int64_t x = 0; x < p.output_width;) {
    const Places columns = places(p, 1, p.width, x);
    const int64_t here = plane + columns.first;
    int64_t count = x * stride < p.padding[1] ? 1 : inner - x;
    if (count > 1 && span <= room && columns.first + span <= readable) {
      Maxima<Vector, W> maxima;
      for (int64_t row = rows.first; row < rows.end; row += p.dilation[0]) {
        const W* h = load(p.h, here + row * p.width, span, h_buffer);
        const W* delta = load(p.delta, here + row * p.width, span, delta_buffer);
        for (int64_t column = 0; column < reach; column += p.dilation[1]) {
          maxima.offer(strided<step>(h + column, stride, IndicesUp<side>()),
                       strided<step>(delta + column, stride, IndicesUp<side>()));
        }
      }
      if (count > side) count = side;
      const Vector difference = maxima.difference();
      memcpy(result_buffer, &difference, sizeof(Vector));
    } else {
      count = 1;
      Maxima<W, W> maxima;
      for (int64_t row = rows.first; row < rows.end; row += p.dilation[0]) {
        for (int64_t column = columns.first; column < columns.end; column += p.dilation[1]) {
          const int64_t at = plane + row * p.width + column;
          maxima.offer(*load(p.h, at, 1, h_buffer), *load(p.delta, at, 1, delta_buffer));
        }
      }
      result_buffer[0] = maxima.difference();
    }
    store(p.difference, place + x, count, result_buffer);
    x += count;
  }
}

template <typename W>
void max_pool2d_difference_in(const Pooling& p, int64_t begin, int64_t end) {
  const auto row = p.stride[1] == 1 ? pool_row<W, 1> : p.stride[1] == 2 ? pool_row<W, 2> : pool_row<W, 0>;
  for (int64_t plane = begin; plane < end; ++plane) {
    for (int64_t y = 0; y < p.output_height; ++y) {
      row(p, plane * p.height * p.width, places(p, 0, p.height, y), (plane * p.output_height + y) * p.output_width);
    }
  }
}

void max_pool2d_difference(const Pooling& p, int64_t begin, int64_t end) {
  if (p.h.dtype == Dtype::float64) return max_pool2d_difference_in<double>(p, begin, end);
  max_pool2d_difference_in<float>(p, begin, end);
}
