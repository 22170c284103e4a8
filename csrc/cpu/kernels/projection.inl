// A matrix product with few terms per sum, and its epilogue: result = epilogue(signal · matrixᵀ).
//
// A block of columns is packed transposed, so that a vector holds neighbouring columns; a tile of rows × vectors then
// stays in registers while the terms are added in their order, and goes through the epilogue at once, so that the
// memory is read and written while the next tile is computed. Each sum is so the same whatever the blocks and the
// threads.

template <typename W>
struct VectorOf {
  typedef W type __attribute__((vector_size(FASTALIGN_VECTOR_BYTES)));
};

constexpr int strip = projection_columns;

template <typename W>
constexpr int lanes = FASTALIGN_VECTOR_BYTES / sizeof(W);

template <int... i>
struct Indices {};

template <int count, int... i>
struct IndicesUp : IndicesUp<count - 1, count - 1, i...> {};

template <int... i>
struct IndicesUp<0, i...> : Indices<i...> {};

// The signal of a tile, its rows beside each other: element (class, row).
template <typename W>
struct Signal {
  const W* data;
  int64_t class_stride;
};

// Sums of the terms first_class … last_class, in rows `stride` apart; the sums of the classes before, if there are any,
// are added.
template <typename W, int rows, int vectors>
inline void tile(Signal<W> signal, int64_t first_class, int64_t last_class, const W* packed, int64_t packed_columns,
                 W* sums, int64_t stride) {
  using Vector = typename VectorOf<W>::type;
  Vector sum[rows][vectors] = {};
  for (int64_t c = first_class; c < last_class; ++c) {
    Vector m[vectors];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) memcpy(&m[v], packed + c * packed_columns + v * lanes<W>, sizeof(Vector));
    const W* factors = signal.data + c * signal.class_stride;
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sum[r][v] += factors[r] * m[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      W* place = sums + r * stride + v * lanes<W>;
      if (first_class > 0) {
        Vector before;
        memcpy(&before, place, sizeof(Vector));
        sum[r][v] += before;
      }
      memcpy(place, &sum[r][v], sizeof(Vector));
    }
  }
}

// Some rows of tiles. Long sums are taken in parts, which keeps their rounding errors small.
template <typename W, int rows, int vectors>
inline void tile_in_parts(Signal<W> signal, int64_t classes, const W* packed, int64_t packed_columns, W* sums,
                          int64_t stride) {
  constexpr int64_t part = 64;
  int64_t first = 0;
  do {
    const int64_t last = first + part < classes ? first + part : classes;
    tile<W, rows, vectors>(signal, first, last, packed, packed_columns, sums, stride);
    first = last;
  } while (first < classes);
}

// The first `count` columns of a strip for some rows, and what fills the last vector up.
template <typename W, int rows>
void strip_of_tiles(Signal<W> signal, int64_t classes, const W* packed, int64_t packed_columns, int64_t count, W* sums,
                    int64_t stride = strip) {
  constexpr int vectors = FASTALIGN_TILE_VECTORS, columns = vectors * lanes<W>;
  static_assert(strip % columns == 0);
  int column = 0;
  for (; column + columns <= count; column += columns) {
    tile_in_parts<W, rows, vectors>(signal, classes, packed + column, packed_columns, sums + column, stride);
  }
  for (; column < count; column += lanes<W>) {
    tile_in_parts<W, rows, 1>(signal, classes, packed + column, packed_columns, sums + column, stride);
  }
}

// a[0] b[0] a[1] b[1] … in two vectors.
template <typename Vector, int... i>
inline void interleave(Vector a, Vector b, Vector& low, Vector& high, Indices<i...>) {
  constexpr int half = sizeof...(i) / 2;
  low = Vector{(i % 2 == 0 ? a : b)[i / 2]...};
  high = Vector{(i % 2 == 0 ? a : b)[half + i / 2]...};
}

// Transposes a square of as many rows as a vector has lanes, and writes its first `count` columns as rows.
template <typename W>
inline void transpose(const W* from, int64_t from_stride, W* to, int64_t to_stride, int64_t count) {
  using Vector = typename VectorOf<W>::type;
  constexpr int side = lanes<W>;
  Vector square[side], shuffled[side];
  for (int i = 0; i < side; ++i) memcpy(&square[i], from + i * from_stride, sizeof(Vector));
  for (int done = 1; done < side; done *= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < side / 2; ++i) {
      interleave(square[i], square[i + side / 2], shuffled[2 * i], shuffled[2 * i + 1], IndicesUp<side>());
    }
    memcpy(square, shuffled, sizeof(square));
  }
  for (int64_t i = 0; i < count; ++i) memcpy(to + i * to_stride, &square[i], sizeof(Vector));
}

// A matrix (columns, classes) to pack.
template <typename W>
struct Unpacked {
  const W* data;
  int64_t row_stride;
  int64_t column_stride;
  int64_t columns;
};

// Its columns first … first + count, as (classes, columns), the columns filled up with zeros.
template <typename W>
void pack(Unpacked<W> from, int64_t classes, int64_t first, int64_t count, int64_t packed_columns, W* packed) {
  constexpr int side = lanes<W>;
  const int64_t row_stride = from.row_stride, column_stride = from.column_stride;
  const W* matrix = from.data + first * row_stride;
  int64_t done = 0;
  if (row_stride == 1) {
    for (int64_t c = 0; c < classes; ++c) {
      const W* row = matrix + c * column_stride;
      W* place = packed + c * packed_columns;
      int64_t i = 0;
      for (; i + side <= count; i += side) memcpy(place + i, row + i, FASTALIGN_VECTOR_BYTES);
      for (; i < count; ++i) place[i] = row[i];
    }
    done = count;
  } else if (column_stride == 1 && row_stride >= classes) {
    // A square may reach beyond its row, but not beyond the last one of the matrix.
    const int64_t readable = (from.columns - first - 1) * row_stride + classes;
    for (; done + side <= count; done += side) {
      const int64_t last_class = (classes - 1) / side * side;
      if ((done + side - 1) * row_stride + last_class + side > readable) break;
      for (int64_t c = 0; c < classes; c += side) {
        const int64_t left = classes - c < side ? classes - c : side;
        transpose(matrix + done * row_stride + c, row_stride, packed + c * packed_columns + done, packed_columns, left);
      }
    }
  }
  for (; done < count; ++done) {
    for (int64_t c = 0; c < classes; ++c) {
      packed[c * packed_columns + done] = matrix[done * row_stride + c * column_stride];
    }
  }
  if (count == packed_columns) return;
  for (int64_t c = 0; c < classes; ++c) {
    memset(packed + c * packed_columns + count, 0, size_t(packed_columns - count) * sizeof(W));
  }
}

// Rows of sums through an epilogue without a bias or dropout, where the operand or the result is in half precision.
template <typename W>
void finish_halves(const Epilogue& epilogue, const W* sums, int64_t rows, int64_t first, int64_t count) {
  constexpr int64_t most = 8;
  W operands[most * strip], results[most * strip];
  for (int64_t row = 0; row < rows; row += most) {
    const int64_t height = rows - row < most ? rows - row : most, place = first + row * epilogue.columns;
    for (int64_t r = 0; r < height; ++r) {
      W* values = operands + r * strip;
      const W* operand = load(epilogue.operand, place + r * epilogue.columns, count, values);
      if (operand != values) memcpy(values, operand, size_t(count) * sizeof(W));
    }
    apply(epilogue, Rows<W>{sums + row * strip, strip, operands, strip, results, strip, height, count / unit});
    for (int64_t r = 0; r < height; ++r) {
      store(epilogue.result, place + r * epilogue.columns, count, results + r * strip);
    }
  }
}

// The epilogue of a strip of `rows` sums whose first stands at element `first` of the result.
template <typename W>
void finish_tile(const Epilogue& epilogue, const W* sums, int64_t rows, int64_t first, int64_t count) {
  const Dtype wide = sizeof(W) == sizeof(double) ? Dtype::float64 : Dtype::float32;
  const bool is_plain = epilogue.operand.data != nullptr && epilogue.bias.data == nullptr &&
                        epilogue.preactivation.data == nullptr && !epilogue.dropout.active && count % unit == 0;
  if (!is_plain) {
    for (int64_t r = 0; r < rows; ++r) finish(epilogue, sums + r * strip, first + r * epilogue.columns, count);
  } else if (epilogue.result.dtype != wide || epilogue.operand.dtype != wide) {
    finish_halves(epilogue, sums, rows, first, count);
  } else {
    const int64_t columns = epilogue.columns;
    apply(epilogue, Rows<W>{sums, strip, static_cast<const W*>(epilogue.operand.data) + first, columns,
                            static_cast<W*>(epilogue.result.data) + first, columns, rows, count / unit});
  }
}

inline void prefetch(const void* data, Dtype dtype, int64_t first, int64_t count) {
  if (data == nullptr) return;
  const int64_t size = dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2;
  const char* place = static_cast<const char*>(data) + first * size;
  for (int64_t byte = 0; byte < count * size; byte += 64) __builtin_prefetch(place + byte);
}

// A block of the result, from packed factors.
template <typename W>
struct Block {
  const W* signal;   // (classes, projection_rows)
  const W* columns;  // (classes, packed_columns)
  int64_t classes, packed_columns;
  int64_t first_row, rows, first_column, count;
};

// Its rows from `row` on, as far as they fill tiles; returns the first row that is left.
template <typename W, int height>
int64_t tiles(const Block<W>& block, const Epilogue& epilogue, int64_t row) {
  alignas(64) W sums[height * strip];
  for (; row + height <= block.rows; row += height) {
    const Signal<W> signal{block.signal + row, projection_rows};
    for (int64_t column = 0; column < block.count; column += strip) {
      const int64_t width = block.count - column < strip ? block.count - column : int64_t(strip);
      const int64_t place = (block.first_row + row) * epilogue.columns + block.first_column + column;
      // The rows of a large result lie in pages of their own, which the hardware does not foresee; few sums take less
      // time than asking for them.
      for (int64_t r = 0; block.classes >= 32 && r < height; ++r) {
        prefetch(epilogue.operand.data, epilogue.operand.dtype, place + r * epilogue.columns, width);
        prefetch(epilogue.result.data, epilogue.result.dtype, place + r * epilogue.columns, width);
      }
      strip_of_tiles<W, height>(signal, block.classes, block.columns + column, block.packed_columns, width, sums);
      finish_tile(epilogue, sums, height, place, width);
    }
  }
  return row;
}

template <typename W>
void projection_in(const Projection& p, const Epilogue& epilogue, int64_t begin, int64_t end) {
  // As many strips as stay in the first-level cache together, so that rows are read and written in long runs.
  constexpr int64_t cached = (32 << 10) / sizeof(W) / strip, most_strips = 16;
  alignas(64) W packed[projection_classes * strip], packed_signal[projection_classes * projection_rows];
  const int64_t room = cached / (p.classes + 1);
  const int64_t most_tasks = room < 1 ? 1 : room < most_strips ? room : most_strips;
  const int64_t column_tasks = (epilogue.columns + strip - 1) / strip;
  const Unpacked<W> matrix{static_cast<const W*>(p.matrix.data), p.matrix_row_stride, p.matrix_column_stride,
                           epilogue.columns};
  const Unpacked<W> signal{static_cast<const W*>(p.signal), p.classes, 1, p.rows};
  int64_t packed_row = -1;
  while (begin < end) {
    const int64_t task = begin % column_tasks;
    int64_t tasks = column_tasks - task < end - begin ? column_tasks - task : end - begin;
    if (tasks > most_tasks) tasks = most_tasks;
    const int64_t first_row = begin / column_tasks * projection_rows, first = task * strip;
    const int64_t rows = p.rows - first_row < projection_rows ? p.rows - first_row : projection_rows;
    const int64_t count = epilogue.columns - first < tasks * strip ? epilogue.columns - first : tasks * strip;
    if (packed_row != first_row) pack(signal, p.classes, first_row, rows, projection_rows, packed_signal);
    packed_row = first_row;
    pack(matrix, p.classes, first, count, tasks * strip, packed);
    const Block<W> block{packed_signal, packed, p.classes, tasks * strip, first_row, rows, first, count};
    int64_t row = tiles<W, 6>(block, epilogue, 0);
    row = tiles<W, 2>(block, epilogue, row);
    tiles<W, 1>(block, epilogue, row);
    begin += tasks;
  }
}

void projection(const Projection& p, const Epilogue& epilogue, int64_t begin, int64_t end) {
  if (p.matrix.dtype == Dtype::float64) return projection_in<double>(p, epilogue, begin, end);
  projection_in<float>(p, epilogue, begin, end);
}
