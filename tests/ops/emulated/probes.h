#pragma once

#include <cstdint>
#include <string>

namespace fastalign {

// Runs the kernel of a name.
void probe(const std::string& name, float* result, int64_t argument);

}  // namespace fastalign
