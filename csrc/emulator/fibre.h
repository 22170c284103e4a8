// Fibres: threads of control that take turns by hand, each on a stack of its own.

#pragma once

#include <cstddef>
#include <cstdint>

namespace fastalign::emulator {

// Stacks side by side in one mapping, a page without access below each.
class Stacks {
 public:
  static constexpr size_t bytes = size_t{64} << 10;  // of one stack

  explicit Stacks(size_t number);
  ~Stacks();
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;

  // The end of a stack, from which it grows down.
  void* top(size_t index) const;

  bool contain(uintptr_t address, size_t size) const {
    return address - reinterpret_cast<uintptr_t>(memory_) < bytes_in_all_ - size;
  }

 private:
  size_t bytes_in_all_;
  unsigned char* memory_;
};

// What is to be switched to in order to run a function on a stack; the function must not return.
void* prepare(void* top, void (*function)());

}  // namespace fastalign::emulator

// Leaves the running fibre, keeping its stack pointer, for another one.
extern "C" void fastalign_emulator_switch(void** kept, void* next);
