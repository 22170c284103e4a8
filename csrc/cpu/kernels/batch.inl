// A layer's product for a batch of few samples, and its epilogue: result = epilogue(signal · matrixᵀ).
//
// The samples are packed as neighbouring lanes of vectors, and the matrix, which is the larger factor, is read once and
// as it lies: each of its numbers is a factor of all samples. The sums, a row for each of the result's columns, are
// transposed in the first-level cache. Each sum is that of `projection`, term by term.

// Sums of the terms first … last of some rows of the matrix; the sums of the terms before, if there are any, are added.
template <typename W, int rows, int vectors>
inline void batch_tile(const W* matrix, int64_t stride, int64_t first, int64_t last, const W* packed, W* sums) {
  using Vector = typename VectorOf<W>::type;
  Vector sum[rows][vectors] = {};
  for (int64_t term = first; term < last; ++term) {
    Vector samples[vectors];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) memcpy(&samples[v], packed + term * strip + v * lanes<W>, sizeof(Vector));
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sum[r][v] += matrix[r * stride + term] * samples[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      W* place = sums + r * strip + v * lanes<W>;
      if (first > 0) {
        Vector before;
        memcpy(&before, place, sizeof(Vector));
        sum[r][v] += before;
      }
      memcpy(place, &sum[r][v], sizeof(Vector));
    }
  }
}

// Asks for the terms first … last of some rows of the matrix.
template <typename W>
inline void fetch_rows(const W* matrix, int64_t stride, int64_t rows, int64_t first, int64_t last) {
  constexpr int64_t line = 64 / sizeof(W);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t term = first; term < last; term += line) __builtin_prefetch(matrix + row * stride + term);
  }
}

// Rows of sums over the samples 0 … count, from `row` on as far as they fill tiles; returns the first row left.
template <typename W, int rows>
int64_t batch_tiles(const W* matrix, int64_t stride, int64_t terms, const W* packed, int64_t count, int64_t row,
                    int64_t last_row, W* sums) {
  constexpr int vectors = FASTALIGN_TILE_VECTORS, columns = vectors * lanes<W>;
  constexpr int64_t part = 64;  // as in `tile_in_parts`
  for (; row + rows <= last_row; row += rows) {
    int64_t first = 0;
    do {
      const int64_t last = first + part < terms ? first + part : terms;
      const W* weights = matrix + row * stride;
      fetch_rows(weights + rows * stride, stride, rows, first, last);
      int column = 0;
      for (; column + columns <= count; column += columns) {
        batch_tile<W, rows, vectors>(weights, stride, first, last, packed + column, sums + row * strip + column);
      }
      for (; column + columns / 2 <= count; column += columns / 2) {
        batch_tile<W, rows, vectors / 2>(weights, stride, first, last, packed + column, sums + row * strip + column);
      }
      for (; column < count; column += lanes<W>) {
        batch_tile<W, rows, 1>(weights, stride, first, last, packed + column, sums + row * strip + column);
      }
      first = last;
    } while (first < terms);
  }
  return row;
}

template <typename W>
void batch_projection_in(const Projection& p, const Epilogue& epilogue, int64_t begin, int64_t end) {
  constexpr int64_t most_columns = 2 * batch_columns;
  alignas(64) W packed[projection_classes * strip], sums[most_columns * strip], values[strip * strip];
  const Unpacked<W> signal{static_cast<const W*>(p.signal), p.classes, 1, p.rows};
  const W* matrix = static_cast<const W*>(p.matrix.data);
  const int64_t stride = p.matrix_row_stride, last_column = end * batch_columns;
  const int64_t last = last_column < epilogue.columns ? last_column : epilogue.columns;
  for (int64_t first_row = 0; first_row < p.rows; first_row += strip) {
    const int64_t rows = p.rows - first_row < strip ? p.rows - first_row : int64_t(strip);
    fetch_rows(matrix + begin * batch_columns * stride, stride, 6, 0, p.classes);
    pack(signal, p.classes, first_row, rows, strip, packed);
    for (int64_t column = begin * batch_columns; column < last; column += most_columns) {
      const int64_t count = last - column < most_columns ? last - column : most_columns;
      const W* weights = matrix + column * stride;
      int64_t done = batch_tiles<W, 6>(weights, stride, p.classes, packed, rows, 0, count, sums);
      done = batch_tiles<W, 2>(weights, stride, p.classes, packed, rows, done, count, sums);
      batch_tiles<W, 1>(weights, stride, p.classes, packed, rows, done, count, sums);
      for (int64_t unit = 0; unit < count; unit += lanes<W>) {
        for (int64_t row = 0; row < rows; row += lanes<W>) {
          transpose(sums + unit * strip + row, strip, values + row * strip + unit, strip, lanes<W>);
        }
      }
      finish_tile(epilogue, values, rows, first_row * epilogue.columns + column, count);
    }
  }
}

void batch_projection(const Projection& p, const Epilogue& epilogue, int64_t begin, int64_t end) {
  if (p.matrix.dtype == Dtype::float64) return batch_projection_in<double>(p, epilogue, begin, end);
  batch_projection_in<float>(p, epilogue, begin, end);
}
