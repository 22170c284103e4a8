// The feedback term of the backward rules, and the modulated input of PEPITA: products with fixed matrices.

#include "cuda/choice.h"
#include "cuda/kernels/product.h"
#include "cuda/kernels/projection.h"
#include "cuda/ops/operations.h"

namespace fastalign::cuda {

namespace {

// Few classes are projected, all layers in one launch; of a large signal each is a matrix product.
void run(Device& device, const std::vector<Projection>& all) {
  std::vector<Projection> few;
  for (const Projection& p : all) {
    if (choose(device, p.signal.dtype, p.epilogue.rows, p.epilogue.columns, p.signal.sizes[1]) == Method::projection) {
      few.push_back(p);
    } else {
      product(device, p.signal, p.matrix, p.epilogue);
    }
  }
  project(device, few);
}

}  // namespace

void feedback_terms(Device& device, const View& signal, const std::vector<FeedbackTerm>& terms,
                    const Activity& activity, bool given_output) {
  const Finish finish = given_output ? Finish::derivative_from_output : Finish::derivative;
  std::vector<Projection> projections;
  for (const FeedbackTerm& term : terms) {
    projections.push_back({signal, term.feedback, epilogue_of(finish, activity, term.kept, term.delta)});
  }
  run(device, projections);
}

void modulate_input(Device& device, const View& x, const View& error, const View& projection, double sign,
                    const View& modulated) {
  ResultEpilogue epilogue = epilogue_of(Finish::add, {}, x, modulated);
  epilogue.scale = sign;
  run(device, {{error, projection, epilogue}});
}

}  // namespace fastalign::cuda
