// Products of bfloat16 by the processor's matrix unit (AMX), for few samples.
//
// The unit multiplies tiles of 16 × 64 bytes into tiles of 16 × 16 sums in float32. Along a left tile's row lie 32
// terms of one row of the result; along a right tile's, 16 columns of the result, of each a pair of terms. A square of
// pairs transposed is so a tile of the other side. What does not fill a tile is filled up with zeros.

constexpr int tile_side = 16;

struct alignas(64) Tile {
  uint32_t pairs[tile_side][tile_side];
};

// All eight tiles, for this thread until it releases them.
inline void configure_tiles() {
  struct alignas(64) {
    uint8_t palette = 1, first_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } all;
  asm volatile("ldtilecfg %0" ::"m"(all));
}

inline void release_tiles() { asm volatile("tilerelease" ::); }

template <int number>
inline void zero_tile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(number));
}

template <int number>
inline void load_tile(const void* rows, int64_t bytes_apart) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(number), "r"(rows), "r"(bytes_apart) : "memory");
}

template <int number>
inline void store_tile(float* rows, int64_t apart) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(number), "r"(rows), "r"(apart * int64_t(sizeof(float)))
               : "memory");
}

template <int sums, int left, int right>
inline void add_product() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sums), "i"(left), "i"(right));
}

// A matrix of which some rows and columns are left; its rows are contiguous.
struct Halves {
  const uint16_t* data;
  int64_t stride, rows, columns;

  Halves from(int64_t row, int64_t column) const {
    return {data + row * stride + column, stride, rows - row, columns - column};
  }
};

// Rows of terms: a left tile of a matrix whose rows are the result's.
inline void copy_rows(const Halves& from, Tile& tile) {
  const int64_t rows = from.rows < tile_side ? from.rows : int64_t(tile_side);
  if (rows < tile_side || from.columns < tile_terms) memset(&tile, 0, sizeof(Tile));
  for (int64_t row = 0; row < rows; ++row) {
    const size_t bytes = sizeof(tile.pairs[row]);
    if (from.columns < tile_terms) {
      memcpy(tile.pairs[row], from.data + row * from.stride, size_t(from.columns) * sizeof(uint16_t));
    } else {
      memcpy(tile.pairs[row], from.data + row * from.stride, bytes);
    }
  }
}

// Pairs of rows: a right tile of a matrix whose rows are terms.
inline void pair_rows(const Halves& from, Tile& tile) {
  const bool is_whole = from.rows >= tile_terms && from.columns >= tile_side;
  const int64_t columns = from.columns < 0 ? 0 : from.columns < tile_side ? from.columns : int64_t(tile_side);
  for (int64_t row = 0; row < tile_terms; row += 2) {
    uint16_t terms[2][tile_side];
    for (int64_t i = 0; i < 2; ++i) {
      const uint16_t* data = from.data + (row + i) * from.stride;
      if (is_whole) {
        memcpy(terms[i], data, sizeof(terms[i]));
      } else {
        memset(terms[i], 0, sizeof(terms[i]));
        if (row + i < from.rows) memcpy(terms[i], data, size_t(columns) * sizeof(uint16_t));
      }
    }
    uint32_t* pairs = tile.pairs[row / 2];
    FASTALIGN_VECTORIZE for (int i = 0; i < tile_side; ++i) pairs[i] = terms[0][i] | uint32_t(terms[1][i]) << 16;
  }
}

inline void transpose(Tile& tile) {
  float* pairs = reinterpret_cast<float*>(tile.pairs);
  transpose(pairs, tile_side, pairs, tile_side, tile_side);
}

// sums = left · right for two by two tiles of some depth.
inline void multiply_tiles(const Tile* left, const Tile* right, int64_t depth, float* sums, int64_t stride) {
  zero_tile<0>(), zero_tile<1>(), zero_tile<2>(), zero_tile<3>();
  for (int64_t part = 0; part < depth; ++part) {
    load_tile<4>(left + part, 64), load_tile<6>(right + part, 64);
    add_product<0, 4, 6>();
    load_tile<7>(right + depth + part, 64);
    add_product<1, 4, 7>();
    load_tile<5>(left + depth + part, 64);
    add_product<2, 5, 6>(), add_product<3, 5, 7>();
  }
  store_tile<0>(sums, stride), store_tile<1>(sums + tile_side, stride);
  store_tile<2>(sums + tile_side * stride, stride), store_tile<3>(sums + tile_side * stride + tile_side, stride);
}

// The first or second 16 of 32 numbers.
template <int half>
inline __m512 widen(__m512i values) {
  // NOTE: masks of ones, because GCC 12 warns of uninitialised values in the functions without one.
  const __m256i numbers = _mm512_maskz_extracti64x4_epi64(0xff, values, half);
  return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, numbers), 16));
}

// As `step_row` has it, for whole vectors; returns how many elements those are. The instruction that rounds takes
// denormals for zeros, as the matrix unit does.
inline int64_t momentum_row(const Step<float>& n, const float* gradient, float scale, uint16_t* parameter,
                            uint16_t* velocity, int64_t count) {
  const auto step = [&](__m512 v, __m512 p, const float* g) {
    return n.momentum * v + (scale * _mm512_loadu_ps(g) + n.weight_decay * p);
  };
  int64_t i = 0;
  for (; i + tile_terms <= count; i += tile_terms) {
    const __m512i p = _mm512_loadu_si512(parameter + i), v = _mm512_loadu_si512(velocity + i);
    const __m512 low = step(widen<0>(v), widen<0>(p), gradient + i);
    const __m512 high = step(widen<1>(v), widen<1>(p), gradient + i + tile_side);
    const __m512i velocities = (__m512i)_mm512_cvtne2ps_pbh(high, low);
    const __m512 new_low = widen<0>(p) - n.learning_rate * widen<0>(velocities);
    const __m512 new_high = widen<1>(p) - n.learning_rate * widen<1>(velocities);
    _mm512_storeu_si512(velocity + i, velocities);
    _mm512_storeu_si512(parameter + i, (__m512i)_mm512_cvtne2ps_pbh(new_high, new_low));
  }
  return i;
}

// As `sink_rows`; the usual descent faster.
inline void sink_tiles(const Sink& sink, const Gradient<float>& gradient, int64_t place, int64_t stride) {
  const bool is_usual = sink.settings != nullptr && sink.descent == Descent::momentum;
  if (!is_usual || sink.target.dtype != Dtype::bfloat16) return sink_rows(sink, gradient, place, stride);
  const Step<float> numbers(*sink.settings);
  for (int64_t r = 0; r < gradient.rows; ++r, place += stride) {
    const float* row = gradient.data + r * gradient.stride;
    const int64_t done = momentum_row(numbers, row, gradient.scale, at<uint16_t>(sink.target.data, place),
                                      at<uint16_t>(sink.states[0], place), gradient.count);
    if (done == gradient.count) continue;
    sink_rows(sink, Gradient<float>{row + done, 0, 1, gradient.count - done, gradient.scale}, place + done, 0);
  }
}

// As `update_bias`, of terms as they lie.
inline void tile_bias(const LinearUpdate& u, int64_t first, int64_t rows) {
  double sums[tile_update_rows] = {};
  float values[tile_update_rows];
  for (int64_t sample = 0; sample < u.samples; ++sample) {
    const float* terms = load({u.post, Dtype::bfloat16}, sample * u.post_strides[0] + first, rows, values);
    for (int64_t i = 0; i < rows; ++i) sums[i] += double(terms[i]);
  }
  for (int64_t i = 0; i < rows; ++i) values[i] = float(u.scale * sums[i]);
  sink_rows(u.bias, Gradient<float>{values, 0, 1, rows, 1.0f}, first, 0);
}

void tile_update(const LinearUpdate& u, int64_t begin, int64_t end) {
  // The terms of a run of columns stay in the second-level cache. Rows of sums are long, so that the memory of what
  // they change is read and written in runs.
  constexpr int64_t room = 128, most_columns = 1024, rows_of = tile_update_rows;
  constexpr int64_t stride = most_columns + tile_side;  // no power of two, whose rows share a few lines of a cache
  static_assert(FASTALIGN_MOST_SAMPLES <= room);
  Tile left[rows_of / tile_side * (FASTALIGN_MOST_SAMPLES / tile_terms)], right[room];
  alignas(64) float sums[rows_of * stride];
  configure_tiles();
  const int64_t depth = u.samples > tile_terms ? (u.samples + tile_terms - 1) / tile_terms : 1;
  const int64_t run = most_columns < room / depth * tile_side ? most_columns : room / depth * tile_side;
  const Halves post{static_cast<const uint16_t*>(u.post), u.post_strides[0], u.samples, u.rows};
  const Halves pre{static_cast<const uint16_t*>(u.pre), u.pre_strides[0], u.samples, u.columns};
  const int64_t last_row = end * rows_of < u.rows ? end * rows_of : u.rows;
  for (int64_t row = begin * rows_of; u.bias.target.data != nullptr && row < last_row; row += rows_of) {
    tile_bias(u, row, last_row - row < rows_of ? last_row - row : rows_of);
  }
  for (int64_t column = 0; column < u.columns; column += run) {
    const int64_t count = u.columns - column < run ? u.columns - column : run;
    for (int64_t i = 0; i < count; i += 2 * tile_side) {
      for (int64_t part = 0; part < depth; ++part) {
        Tile* tile = right + i / tile_side * depth + part;
        pair_rows(pre.from(part * tile_terms, column + i), tile[0]);
        pair_rows(pre.from(part * tile_terms, column + i + tile_side), tile[depth]);
      }
    }
    for (int64_t row = begin * rows_of; row < last_row; row += rows_of) {
      const int64_t rows = last_row - row < rows_of ? last_row - row : rows_of;
      for (int64_t part = 0; part < depth; ++part) {
        for (int64_t i = 0; i < rows_of / tile_side; ++i) {
          Tile& tile = left[i * depth + part];
          pair_rows(post.from(part * tile_terms, row + i * tile_side), tile);
          transpose(tile);
        }
      }
      for (int64_t i = 0; i < count; i += 2 * tile_side) {
        multiply_tiles(left, right + i / tile_side * depth, depth, sums + i, stride);
      }
      sink_tiles(u.weight, Gradient<float>{sums, stride, rows, count, float(u.scale)}, row * u.columns + column,
                 u.columns);
    }
  }
  release_tiles();
}

// Sums of 16 columns of the result for up to 80 samples: rows of the matrix times what is packed of the samples.
inline void tile_columns(const Halves& matrix, bool is_transposed, const Tile* packed, int64_t terms, int64_t samples,
                         float* sums) {
  Tile buffer;
  const bool is_short = !is_transposed && matrix.rows < tile_side;
  zero_tile<0>(), zero_tile<1>(), zero_tile<2>(), zero_tile<3>(), zero_tile<4>();
  for (int64_t term = 0; term < terms; term += tile_terms, packed += tile_samples / tile_side) {
    if (is_transposed) {
      pair_rows(matrix.from(term, 0), buffer);
      transpose(buffer);
      load_tile<5>(&buffer, 64);
    } else if (is_short || terms - term < tile_terms) {
      copy_rows(matrix.from(0, term), buffer);
      load_tile<5>(&buffer, 64);
    } else {
      load_tile<5>(matrix.data + term, matrix.stride * int64_t(sizeof(uint16_t)));
    }
    load_tile<6>(packed, 64), add_product<0, 5, 6>();
    if (samples > tile_side) load_tile<7>(packed + 1, 64), add_product<1, 5, 7>();
    if (samples > 2 * tile_side) load_tile<6>(packed + 2, 64), add_product<2, 5, 6>();
    if (samples > 3 * tile_side) load_tile<7>(packed + 3, 64), add_product<3, 5, 7>();
    if (samples > 4 * tile_side) load_tile<6>(packed + 4, 64), add_product<4, 5, 6>();
  }
  store_tile<0>(sums, tile_samples), store_tile<1>(sums + tile_side, tile_samples);
  store_tile<2>(sums + 2 * tile_side, tile_samples), store_tile<3>(sums + 3 * tile_side, tile_samples);
  store_tile<4>(sums + 4 * tile_side, tile_samples);
}

void tile_projection(const Projection& p, const Epilogue& epilogue, void* scratch, int64_t begin, int64_t end) {
  alignas(64) float sums[tile_side * tile_samples], values[tile_samples * strip];
  configure_tiles();
  Tile* packed = static_cast<Tile*>(scratch);
  const Halves signal{static_cast<const uint16_t*>(p.signal), p.classes, p.rows, p.classes};
  const uint16_t* data = static_cast<const uint16_t*>(p.matrix.data);
  const bool is_transposed = p.matrix_column_stride != 1;
  const Halves matrix = is_transposed ? Halves{data, p.matrix_column_stride, p.classes, epilogue.columns}
                                      : Halves{data, p.matrix_row_stride, epilogue.columns, p.classes};
  const int64_t last_column = end * tile_projection_columns;
  const int64_t last = last_column < epilogue.columns ? last_column : epilogue.columns;
  for (int64_t first_row = 0; first_row < p.rows; first_row += tile_samples) {
    const int64_t rows = p.rows - first_row < tile_samples ? p.rows - first_row : tile_samples;
    for (int64_t term = 0; term < p.classes; term += tile_terms) {
      for (int64_t row = 0; row < rows; row += tile_side) {
        Tile& tile = packed[(term / tile_terms * tile_samples + row) / tile_side];
        copy_rows(signal.from(first_row + row, term), tile);
        transpose(tile);
      }
    }
    for (int64_t column = begin * tile_projection_columns; column < last; column += strip) {
      const int64_t count = last - column < strip ? last - column : int64_t(strip);
      for (int64_t unit = 0; unit < count; unit += tile_side) {
        const Halves of_tile = is_transposed ? matrix.from(0, column + unit) : matrix.from(column + unit, 0);
        tile_columns(of_tile, is_transposed, packed, p.classes, rows, sums);
        for (int64_t row = 0; row < rows; row += tile_side) {
          transpose(sums + row, tile_samples, values + row * strip + unit, strip, tile_side);
        }
      }
      finish_tile(epilogue, values, rows, first_row * epilogue.columns + column, count);
    }
  }
  release_tiles();
}
