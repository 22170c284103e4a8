#include "cuda/force.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace fastalign::cuda {

namespace {

Force read() {
  const char* variable = std::getenv("FASTALIGN_FORCE");
  if (variable == nullptr) return Force::nothing;
  for (const Force force : {Force::fused, Force::library}) {
    if (std::string(variable) == name_of(force)) return force;
  }
  throw std::invalid_argument("FASTALIGN_FORCE: expected fused or library, got '" + std::string(variable) + "'");
}

}  // namespace

Force force_of_environment() {
  static const Force force = read();
  return force;
}

const char* name_of(Force force) {
  switch (force) {
    case Force::fused:
      return "fused";
    case Force::library:
      return "library";
    case Force::nothing:
      break;
  }
  return nullptr;
}

}  // namespace fastalign::cuda
