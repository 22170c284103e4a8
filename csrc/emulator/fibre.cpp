#include "emulator/fibre.h"

#include <sys/mman.h>

#include <new>

#if !defined(__x86_64__) || !defined(__linux__)
#error "the emulator switches fibres on x86-64 Linux only"
#endif

// The registers that a function has to preserve go onto the stack that is left, and come from the one that is entered.
asm(R"(
  .text
  .globl fastalign_emulator_switch
  .type fastalign_emulator_switch, @function
fastalign_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size fastalign_emulator_switch, . - fastalign_emulator_switch
)");

namespace fastalign::emulator {

namespace {

constexpr size_t page = 4096;
constexpr size_t stride = page + Stacks::bytes;

}  // namespace

Stacks::Stacks(size_t number) : bytes_in_all_(number * stride) {
  void* memory =
      mmap(nullptr, bytes_in_all_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<unsigned char*>(memory);
  for (size_t i = 0; i < number; ++i) mprotect(memory_ + i * stride, page, PROT_NONE);
}

Stacks::~Stacks() { munmap(memory_, bytes_in_all_); }

void* Stacks::top(size_t index) const { return memory_ + (index + 1) * stride; }

void* prepare(void* top, void (*function)()) {
  constexpr int registers = 6;
  auto* words = static_cast<void**>(top);
  *--words = nullptr;  // where a return address would be, which puts the stack pointer where a call leaves it
  *--words = reinterpret_cast<void*>(function);
  for (int i = 0; i < registers; ++i) *--words = nullptr;
  return words;
}

}  // namespace fastalign::emulator
