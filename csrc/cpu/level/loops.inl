// One loop per activation, all of them behind three functions: the switch stands outside the loop.

template <typename W, Activation f>
struct Loops {
  static void forward(const W* a, W* result, int64_t count) {
    FASTALIGN_VECTORIZE for (int64_t i = 0; i < count; ++i) result[i] = activate(f, a[i]);
  }
  static void backward(const W* signal, const W* a, W* result, int64_t count) {
    FASTALIGN_VECTORIZE for (int64_t i = 0; i < count; ++i) result[i] = signal[i] * derivative(f, a[i]);
  }
  static void backward_from_output(const W* signal, const W* h, W* result, int64_t count, W keep) {
    FASTALIGN_VECTORIZE for (int64_t i = 0; i < count; ++i) result[i] =
        signal[i] * derivative_from_output(f, keep * h[i]);
  }
  static void differ(const W* delta, const W* a, W* result, int64_t count) {
    FASTALIGN_VECTORIZE for (int64_t i = 0; i < count; ++i) result[i] = difference(f, a[i], delta[i]);
  }

  static void finish(const Epilogue& epilogue, const W* values, const W* operand, W* result, int64_t count) {
    switch (epilogue.finish) {
      case Finish::forward:
        return forward(values, result, count);
      case Finish::derivative:
        return backward(values, operand, result, count);
      case Finish::derivative_from_output:
        return backward_from_output(values, operand, result, count,
                                    W(epilogue.dropout.active ? epilogue.dropout.keep : 1));
      case Finish::difference:
        return differ(values, operand, result, count);
      case Finish::add:
        return;
    }
  }
};

template <typename W>
void add(const W* values, const W* operand, W* result, int64_t count, W scale) {
  if (operand == nullptr) {
    FASTALIGN_VECTORIZE for (int64_t i = 0; i < count; ++i) result[i] = scale * values[i];
  } else {
    FASTALIGN_VECTORIZE for (int64_t i = 0; i < count; ++i) result[i] = operand[i] + scale * values[i];
  }
}

template <typename W>
void apply(const Epilogue& epilogue, const W* values, const W* operand, W* result, int64_t count) {
  if (epilogue.finish == Finish::add) return add(values, operand, result, count, W(epilogue.scale));
  switch (epilogue.activation) {
    case Activation::identity:
      return Loops<W, Activation::identity>::finish(epilogue, values, operand, result, count);
    case Activation::tanh:
      return Loops<W, Activation::tanh>::finish(epilogue, values, operand, result, count);
    case Activation::logistic:
      return Loops<W, Activation::logistic>::finish(epilogue, values, operand, result, count);
    case Activation::relu:
      return Loops<W, Activation::relu>::finish(epilogue, values, operand, result, count);
    case Activation::leaky_relu:
      return Loops<W, Activation::leaky_relu>::finish(epilogue, values, operand, result, count);
    case Activation::elu:
      return Loops<W, Activation::elu>::finish(epilogue, values, operand, result, count);
    case Activation::softplus:
      return Loops<W, Activation::softplus>::finish(epilogue, values, operand, result, count);
    case Activation::silu:
      return Loops<W, Activation::silu>::finish(epilogue, values, operand, result, count);
    case Activation::gelu:
      return Loops<W, Activation::gelu>::finish(epilogue, values, operand, result, count);
  }
}
