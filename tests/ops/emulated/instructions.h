#pragma once

#include <cstdint>
#include <string>

namespace fastalign {

// Runs the kernel of an instruction, which reads and writes words: tests/ops/instructions.py says which.
void instruction(const std::string& name, const uint32_t* input, uint32_t* output, void* stream);

}  // namespace fastalign
