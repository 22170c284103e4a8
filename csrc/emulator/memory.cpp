#include "emulator/memory.h"

#include <link.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "emulator/grid.h"

namespace fastalign::emulator {

namespace {

constexpr unsigned char poison = 0xFF;

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

struct Library {
  const void* inside;  // an address in it
  Region image;
  Region thread_local_storage;
};

struct Launch {
  std::unique_ptr<void, Free> dynamic;
  size_t dynamic_bytes;
  Region arguments;
  Library kernel;    // its thread-local storage is the static shared memory
  Library emulator;  // where threadIdx and its like are
  const Stacks* stacks;
};

Launch launch;
bool checking = false;

std::vector<Buffer>& buffers() {
  static std::vector<Buffer> all;
  return all;
}

bool holds(const Region& region, uintptr_t address, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(region.begin);
  return address >= begin && address + bytes <= begin + region.bytes;
}

int look_at(dl_phdr_info* info, size_t, void* result) {
  Library& library = *static_cast<Library*>(result);
  library.thread_local_storage = {info->dlpi_tls_data, 0};
  uintptr_t end = 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    if (segment.p_type == PT_LOAD) end = info->dlpi_addr + segment.p_vaddr + segment.p_memsz;
    if (segment.p_type == PT_TLS) library.thread_local_storage.bytes = segment.p_memsz;
  }
  library.image = {reinterpret_cast<const void*>(info->dlpi_addr), end - info->dlpi_addr};
  return holds(library.image, reinterpret_cast<uintptr_t>(library.inside), 1) ? 1 : 0;
}

Library find_library(const void* inside) {
  Library library{inside, {}, {}};
  dl_iterate_phdr(look_at, &library);
  return library;
}

// Where an address stands, seen from the nearest memory that may be touched.
std::string nearest(uintptr_t address) {
  std::string text = "outside all memory that the kernel may touch";
  size_t least = size_t{1} << 20;
  std::vector<Buffer> all = buffers();
  all.push_back({"dynamic shared memory", {launch.dynamic.get(), launch.dynamic_bytes}, true});
  for (const Buffer& buffer : all) {
    const auto begin = reinterpret_cast<uintptr_t>(buffer.region.begin);
    const uintptr_t end = begin + buffer.region.bytes;
    const size_t distance = address < begin ? begin - address : address - end;
    if (holds(buffer.region, address, 1) || distance >= least) continue;
    least = distance;
    text = std::to_string(distance) + " bytes " + (address < begin ? "before " : "after the end of ") + buffer.name;
  }
  return text;
}

void check(uintptr_t address, size_t bytes, bool write) {
  if (!checking) return;
  if (launch.stacks->contain(address, bytes) || holds(launch.kernel.thread_local_storage, address, bytes)) return;
  if (holds({launch.dynamic.get(), launch.dynamic_bytes}, address, bytes)) return;
  const Buffer* only_read = nullptr;
  for (const Buffer& buffer : buffers()) {
    if (!holds(buffer.region, address, bytes)) continue;
    if (!write || buffer.writable) return;
    only_read = &buffer;
  }
  if (only_read != nullptr) return fault("a write to " + only_read->name + ", which is for reading");
  for (const Region& readable : {launch.arguments, launch.kernel.image, launch.emulator.image}) {
    if (!write && holds(readable, address, bytes)) return;
  }
  fault((write ? "a write of " : "a read of ") + std::to_string(bytes) + " bytes, " + nearest(address));
}

}  // namespace

void clear_buffers() { buffers().clear(); }

void add_buffer(Buffer buffer) { buffers().push_back(std::move(buffer)); }

void check_access(const void* address, size_t bytes, bool write) {
  check(reinterpret_cast<uintptr_t>(address), bytes, write);
}

MemoryOfLaunch::MemoryOfLaunch(const void* kernel, Region arguments, size_t dynamic_shared_memory,
                               const Stacks& stacks) {
  constexpr size_t alignment = 128;
  const size_t rounded = (dynamic_shared_memory + alignment) / alignment * alignment;
  launch.dynamic.reset(std::aligned_alloc(alignment, rounded));
  if (launch.dynamic == nullptr) throw std::bad_alloc();
  launch.dynamic_bytes = dynamic_shared_memory;
  launch.arguments = arguments;
  launch.stacks = &stacks;
  launch.kernel = find_library(kernel);
  launch.emulator = find_library(reinterpret_cast<const void*>(&fault));
  checking = true;
}

MemoryOfLaunch::~MemoryOfLaunch() { checking = false; }

void poison_shared_memory() {
  std::memset(const_cast<void*>(launch.kernel.thread_local_storage.begin), poison,
              launch.kernel.thread_local_storage.bytes);
  std::memset(launch.dynamic.get(), poison, launch.dynamic_bytes);
}

void* dynamic_shared_memory() { return launch.dynamic.get(); }

}  // namespace fastalign::emulator

// The compiler calls these before every access of an instrumented source (-fsanitize=kernel-address).
#define FASTALIGN_ACCESSES(bytes)                                   \
  extern "C" void __asan_load##bytes##_noabort(uintptr_t address) { \
    fastalign::emulator::check(address, bytes, false);              \
  }                                                                 \
  extern "C" void __asan_store##bytes##_noabort(uintptr_t address) { fastalign::emulator::check(address, bytes, true); }

FASTALIGN_ACCESSES(1)
FASTALIGN_ACCESSES(2)
FASTALIGN_ACCESSES(4)
FASTALIGN_ACCESSES(8)
FASTALIGN_ACCESSES(16)

extern "C" void __asan_loadN_noabort(uintptr_t address, size_t bytes) {
  fastalign::emulator::check(address, bytes, false);
}
extern "C" void __asan_storeN_noabort(uintptr_t address, size_t bytes) {
  fastalign::emulator::check(address, bytes, true);
}
extern "C" void __asan_handle_no_return() {}
