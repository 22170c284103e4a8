// A matrix product with few terms per sum, and its epilogue: result = epilogue(signal · matrixᵀ).
//
// A block of columns is packed transposed, so that a vector holds neighbouring columns; a tile of rows × vectors then
// stays in registers while the terms are added in their order. Each sum is so the same whatever the blocks and the
// threads.

template <typename W>
struct VectorOf {
  typedef W type __attribute__((vector_size(FASTALIGN_VECTOR_BYTES)));
};

constexpr int64_t block_columns = 5 * projection_columns;  // packed at a time, at most

template <typename W, int rows, int vectors>
inline void tile(const W* signal, int64_t classes, const W* packed, int64_t packed_columns, W* sums) {
  using Vector = typename VectorOf<W>::type;
  constexpr int lanes = sizeof(Vector) / sizeof(W);
  Vector sum[rows][vectors] = {};
  for (int64_t c = 0; c < classes; ++c) {
    Vector m[vectors];
    memcpy(m, packed + c * packed_columns, sizeof(m));
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sum[r][v] += signal[r * classes + c] * m[v];
    }
  }
  for (int r = 0; r < rows; ++r) {
    for (int v = 0; v < vectors; ++v) memcpy(sums + r * block_columns + v * lanes, &sum[r][v], sizeof(Vector));
  }
}

template <typename W, int rows>
void tiles(const W* signal, int64_t classes, const W* packed, int64_t packed_columns, W* sums) {
  constexpr int vectors = 3;
  constexpr int64_t columns = vectors * FASTALIGN_VECTOR_BYTES / int64_t(sizeof(W));
  static_assert(projection_columns % columns == 0);
  for (int64_t column = 0; column < packed_columns; column += columns) {
    tile<W, rows, vectors>(signal, classes, packed + column, packed_columns, sums + column);
  }
}

// Columns first … first + count, as (classes, columns), the columns filled up with zeros.
template <typename W>
void pack(const Projection& p, int64_t first, int64_t count, int64_t packed_columns, W* packed) {
  const int64_t row_stride = p.matrix_row_stride, column_stride = p.matrix_column_stride;
  if (p.matrix.dtype == Dtype::float64 || p.matrix.dtype == Dtype::float32) {
    const W* matrix = static_cast<const W*>(p.matrix.data) + first * row_stride;
    if (row_stride == 1) {
      for (int64_t c = 0; c < p.classes; ++c) {
        memcpy(packed + c * packed_columns, matrix + c * column_stride, size_t(count) * sizeof(W));
      }
    } else {
      for (int64_t u = 0; u < count; ++u) {
        for (int64_t c = 0; c < p.classes; ++c) {
          packed[c * packed_columns + u] = matrix[u * row_stride + c * column_stride];
        }
      }
    }
  } else {
    for (int64_t u = 0; u < count; ++u) {
      for (int64_t c = 0; c < p.classes; ++c) {
        packed[c * packed_columns + u] =
            *load(p.matrix, (first + u) * row_stride + c * column_stride, 1, packed + c * packed_columns + u);
      }
    }
  }
  if (count == packed_columns) return;
  for (int64_t c = 0; c < p.classes; ++c) {
    memset(packed + c * packed_columns + count, 0, size_t(packed_columns - count) * sizeof(W));
  }
}

template <typename W>
void projection_in(const Projection& p, const Epilogue& epilogue, int64_t begin, int64_t end) {
  constexpr int64_t capacity = projection_classes * 2 * projection_columns;
  alignas(64) W packed[capacity];
  alignas(64) W sums[FASTALIGN_TILE_ROWS * block_columns];
  const int64_t columns = epilogue.columns;
  const int64_t column_tasks = (columns + projection_columns - 1) / projection_columns;
  const int64_t room = p.classes == 0 ? block_columns : capacity / p.classes / projection_columns * projection_columns;
  const int64_t most_tasks = (room < block_columns ? room : block_columns) / projection_columns;
  while (begin < end) {
    const int64_t column_task = begin % column_tasks;
    int64_t tasks = column_tasks - column_task < end - begin ? column_tasks - column_task : end - begin;
    if (tasks > most_tasks) tasks = most_tasks;
    const int64_t first_row = begin / column_tasks * projection_rows;
    const int64_t last_row = first_row + projection_rows < p.rows ? first_row + projection_rows : p.rows;
    const int64_t first = column_task * projection_columns;
    const int64_t packed_columns = tasks * projection_columns;
    const int64_t count = columns - first < packed_columns ? columns - first : packed_columns;
    pack(p, first, count, packed_columns, packed);
    for (int64_t row = first_row; row < last_row;) {
      const W* signal = static_cast<const W*>(p.signal) + row * p.classes;
      const int64_t left = last_row - row;
      int64_t rows = 1;
      if (left >= FASTALIGN_TILE_ROWS) {
        rows = FASTALIGN_TILE_ROWS;
        tiles<W, FASTALIGN_TILE_ROWS>(signal, p.classes, packed, packed_columns, sums);
      } else if (left >= 2) {
        rows = 2;
        tiles<W, 2>(signal, p.classes, packed, packed_columns, sums);
      } else {
        tiles<W, 1>(signal, p.classes, packed, packed_columns, sums);
      }
      for (int64_t r = 0; r < rows; ++r) {
        finish(epilogue, sums + r * block_columns, (row + r) * columns + first, count);
      }
      row += rows;
    }
    begin += tasks;
  }
}

void projection(const Projection& p, const Epilogue& epilogue, int64_t begin, int64_t end) {
  if (p.matrix.dtype == Dtype::float64) return projection_in<double>(p, epilogue, begin, end);
  projection_in<float>(p, epilogue, begin, end);
}
