// One loop per activation, all of them behind one function: the switch stands outside the loop.
//
// Every loop runs over whole units, so that each element is computed by the same instructions wherever it stands.

constexpr int unit = 16;  // elements: one vector or a few

// Rows of units, each at a stride from the one before.
template <typename W>
struct Rows {
  const W* values;
  int64_t values_stride;
  const W* operand;
  int64_t operand_stride;
  W* result;
  int64_t result_stride;
  int64_t rows;
  int64_t units;
};

template <typename W, typename Function>
inline void each(const Rows<W>& rows, const Function& function) {
  for (int64_t row = 0; row < rows.rows; ++row) {
    const W* values = rows.values + row * rows.values_stride;
    const W* operand = rows.operand + row * rows.operand_stride;
    W* result = rows.result + row * rows.result_stride;
    const int64_t count = rows.units * unit;
    FASTALIGN_VECTORIZE for (int64_t i = 0; i < count; ++i) result[i] = function(values[i], operand[i]);
  }
}

// `keep` is what dropout has divided the output by.
template <typename W, Activation f>
void apply_activation(Finish finish, const Rows<W>& rows, W keep) {
  switch (finish) {
    case Finish::forward:
      return each(rows, [](W v, W) { return activate(f, v); });
    case Finish::derivative:
      return each(rows, [](W v, W a) { return v * derivative(f, a); });
    case Finish::derivative_from_output:
      return each(rows, [keep](W v, W h) { return v * derivative_from_output(f, keep * h); });
    case Finish::difference:
      return each(rows, [](W v, W a) { return difference(f, a, v); });
    case Finish::add:
    case Finish::scale:
      return;
  }
}

template <typename W>
void apply(const Epilogue& epilogue, const Rows<W>& rows) {
  const W scale = W(epilogue.scale);
  if (epilogue.finish == Finish::add) return each(rows, [scale](W v, W x) { return x + scale * v; });
  if (epilogue.finish == Finish::scale) return each(rows, [scale](W v, W) { return scale * v; });
  const W keep = W(epilogue.dropout.active ? epilogue.dropout.keep : 1);
  switch (epilogue.activation) {
    case Activation::identity:
      return apply_activation<W, Activation::identity>(epilogue.finish, rows, keep);
    case Activation::tanh:
      return apply_activation<W, Activation::tanh>(epilogue.finish, rows, keep);
    case Activation::logistic:
      return apply_activation<W, Activation::logistic>(epilogue.finish, rows, keep);
    case Activation::relu:
      return apply_activation<W, Activation::relu>(epilogue.finish, rows, keep);
    case Activation::leaky_relu:
      return apply_activation<W, Activation::leaky_relu>(epilogue.finish, rows, keep);
    case Activation::elu:
      return apply_activation<W, Activation::elu>(epilogue.finish, rows, keep);
    case Activation::softplus:
      return apply_activation<W, Activation::softplus>(epilogue.finish, rows, keep);
    case Activation::silu:
      return apply_activation<W, Activation::silu>(epilogue.finish, rows, keep);
    case Activation::gelu:
      return apply_activation<W, Activation::gelu>(epilogue.finish, rows, keep);
  }
}
