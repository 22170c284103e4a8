// The feedback term of the backward rules, and the modulated input of PEPITA: products with fixed matrices.

#include "cpu/ops/operators.h"
#include "cpu/ops/projection.h"
#include "cpu/ops/update.h"

namespace fastalign {

namespace {

struct FeedbackTerm {
  Tensor kept;  // contiguous
  ProjectionJob job;
};

FeedbackTerm prepared(const Tensor& signal, const Tensor& feedback, const Tensor& kept, int64_t activation,
                      bool given_output, const Dropout& dropout, ScalarType dtype) {
  check_alike({&kept, &signal, &feedback});
  FASTALIGN_CHECK(kept.dim() >= 1, "kept: expected a batch, got a number");
  int64_t units = 1;
  for (int64_t i = 1; i < kept.dim(); ++i) units *= kept.size(i);
  check_shape("signal", signal, {kept.size(0), -1});
  check_shape("feedback", feedback, {units, signal.size(1)});
  Tensor product = empty(kept.sizes(), dtype);
  // What has to be copied is where the term comes to lie.
  const bool in_place = !kept.is_contiguous() && kept.scalar_type() == dtype;
  FeedbackTerm term{in_place ? torch::stable::copy_(product, kept) : row_major(kept), {signal, feedback, product, {}}};
  term.job.epilogue = {.finish = given_output ? Finish::derivative_from_output : Finish::derivative,
                       .activation = activation_of(activation),
                       .dropout = dropout,
                       .operand = input(term.kept),
                       .result = output(term.job.product),
                       .columns = units};
  return term;
}

}  // namespace

Tensor feedback_term_cpu(const Tensor& signal, const Tensor& feedback, const Tensor& kept, int64_t activation,
                         bool given_output, double dropout, const MaybeTensor& seed) {
  const FeedbackTerm term =
      prepared(signal, feedback, kept, activation, given_output, dropout_of(dropout, seed), kept.scalar_type());
  run_projections({term.job});
  return term.job.product;
}

Tensor feedback_term(const Tensor& error, const Tensor& feedback, const Tensor& kept, int64_t activation,
                     bool given_output, ScalarType dtype) {
  const FeedbackTerm term = prepared(error, feedback, kept, activation, given_output, {}, dtype);
  run_projections({term.job});
  return term.job.product;
}

std::vector<Tensor> feedback_terms_cpu(const Tensor& signal, const std::vector<Tensor>& feedback,
                                       const std::vector<Tensor>& kept, int64_t activation, bool given_output) {
  FASTALIGN_CHECK(feedback.size() == kept.size(), "feedback: expected ", kept.size(), " tensors, as many as kept, got ",
                  feedback.size());
  std::vector<FeedbackTerm> terms;
  std::vector<ProjectionJob> jobs;
  std::vector<Tensor> deltas;
  for (size_t layer = 0; layer < kept.size(); ++layer) {
    terms.push_back(
        prepared(signal, feedback[layer], kept[layer], activation, given_output, {}, kept[layer].scalar_type()));
    jobs.push_back(terms.back().job);
    deltas.push_back(terms.back().job.product);
  }
  run_projections(jobs);
  return deltas;
}

Tensor modulate_input_cpu(const Tensor& x, const Tensor& error, const Tensor& projection, double sign) {
  check_alike({&x, &error, &projection});
  FASTALIGN_CHECK(x.dim() >= 1, "x: expected a batch, got a number");
  int64_t size = 1;
  for (int64_t i = 1; i < x.dim(); ++i) size *= x.size(i);
  check_shape("error", error, {x.size(0), -1});
  check_shape("projection", projection, {size, error.size(1)});
  const Tensor operand = row_major(x);
  Tensor modulated = empty(x.sizes(), x.scalar_type());
  run_projections({{error,
                    projection,
                    modulated,
                    {.finish = Finish::add,
                     .scale = sign,
                     .operand = input(operand),
                     .result = output(modulated),
                     .columns = size}}});
  return modulated;
}

}  // namespace fastalign
