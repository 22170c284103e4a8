// An epilogue applied to a stretch of a row-major result.

constexpr int64_t stretch = 32 * unit;  // elements that stay in the first-level cache with all their operands

// Multiplies `count` elements from `first` by inverted dropout's factors. A product, not a choice: what is dropped is
// 0 · value, so that NaN and infinities go through as in plain PyTorch.
template <typename W>
void drop(const Dropout& dropout, int64_t first, int64_t count, W* values) {
  W factors[stretch + 8];
  const int64_t counter = first / 4;
  const int64_t counters = (first + count + 3) / 4 - counter;
  const W factor = W(dropout.factor);
  for (int64_t i = 0; i < counters; ++i) {
    const RandomWords words = random_words(static_cast<uint64_t>(counter + i), dropout.key);
    for (int j = 0; j < 4; ++j) factors[4 * i + j] = words.word[j] >= dropout.threshold ? factor : W(0);
  }
  const W* aligned = factors + (first - 4 * counter);
  FASTALIGN_VECTORIZE for (int64_t i = 0; i < count; ++i) values[i] *= aligned[i];
}

// v + bias, the values being the elements from `first`.
template <typename W>
void add_bias(const Epilogue& epilogue, const W* values, int64_t first, int64_t count, W* biased) {
  W buffer[stretch];
  int64_t column = first % epilogue.columns;
  for (int64_t done = 0; done < count; column = 0) {
    const int64_t run = count - done < epilogue.columns - column ? count - done : epilogue.columns - column;
    const W* bias = load(epilogue.bias, column, run, buffer);
    FASTALIGN_VECTORIZE for (int64_t i = 0; i < run; ++i) biased[done + i] = values[done + i] + bias[i];
    done += run;
  }
}

// The result's elements first … first + count from their values v; at most `stretch` of them.
template <typename W>
void finish(const Epilogue& epilogue, const W* values, int64_t first, int64_t count) {
  W biased[stretch], operand_buffer[stretch], result_buffer[stretch];
  if (epilogue.bias.data != nullptr) {
    add_bias(epilogue, values, first, count, biased);
    values = biased;
  }
  if (epilogue.preactivation.data != nullptr) store(epilogue.preactivation, first, count, values);
  const W* operand = epilogue.operand.data ? load(epilogue.operand, first, count, operand_buffer) : values;
  W* result = target(epilogue.result, first, result_buffer);
  const int64_t whole = count / unit * unit;
  apply(epilogue, Rows<W>{values, 0, operand, 0, result, 0, 1, count / unit});
  if (whole < count) {
    const size_t rest = size_t(count - whole) * sizeof(W);
    W last_values[unit] = {}, last_operand[unit] = {}, last_result[unit];
    memcpy(last_values, values + whole, rest);
    memcpy(last_operand, operand + whole, rest);
    apply(epilogue, Rows<W>{last_values, 0, last_operand, 0, last_result, 0, 1, 1});
    memcpy(result + whole, last_result, rest);
  }
  if (epilogue.dropout.active) drop(epilogue.dropout, first, count, result);
  store(epilogue.result, first, count, result);
}

template <typename W>
void elementwise_in(Input values, const Epilogue& epilogue, int64_t begin, int64_t end) {
  W buffer[stretch];
  for (int64_t first = begin; first < end; first += stretch) {
    const int64_t count = end - first < stretch ? end - first : stretch;
    finish(epilogue, load(values, first, count, buffer), first, count);
  }
}

void elementwise(Input values, const Epilogue& epilogue, int64_t begin, int64_t end) {
  if (values.dtype == Dtype::float64) return elementwise_in<double>(values, epilogue, begin, end);
  elementwise_in<float>(values, epilogue, begin, end);
}
