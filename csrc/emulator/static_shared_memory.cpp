#include "emulator/static_shared_memory.h"

#include <dlfcn.h>
#include <elf.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace fastalign::emulator {

namespace {

// A library's symbols: functions by where they begin, and the bytes of its thread-local variables.
struct Symbols {
  explicit Symbols(const std::string& library) {
    std::ifstream stream(library, std::ios::binary);
    const std::vector<char> file{std::istreambuf_iterator<char>(stream), {}};
    const auto& header = *reinterpret_cast<const Elf64_Ehdr*>(file.data());
    const auto* sections = reinterpret_cast<const Elf64_Shdr*>(file.data() + header.e_shoff);
    const auto* table = std::find_if(sections, sections + header.e_shnum,
                                     [](const Elf64_Shdr& section) { return section.sh_type == SHT_SYMTAB; });
    if (table == sections + header.e_shnum) throw std::runtime_error("there are no symbols in " + library);
    const char* names = file.data() + sections[table->sh_link].sh_offset;
    const auto* symbols = reinterpret_cast<const Elf64_Sym*>(file.data() + table->sh_offset);
    for (size_t i = 0; i < table->sh_size / sizeof(Elf64_Sym); ++i) {
      const std::string name = names + symbols[i].st_name;
      const int type = ELF64_ST_TYPE(symbols[i].st_info);
      if (type == STT_FUNC && symbols[i].st_size > 0) functions[symbols[i].st_value] = name;
      if (type == STT_TLS) variables[name] = symbols[i].st_size;
    }
  }

  std::map<uintptr_t, std::string> functions;
  std::map<std::string, size_t> variables;
};

size_t look_up(const void* kernel) {
  static std::map<std::string, Symbols> libraries;
  Dl_info info{};
  if (dladdr(kernel, &info) == 0) throw std::runtime_error("a kernel is in no library");
  const Symbols& symbols = libraries.try_emplace(info.dli_fname, info.dli_fname).first->second;
  const auto place = reinterpret_cast<uintptr_t>(kernel) - reinterpret_cast<uintptr_t>(info.dli_fbase);
  // A variable of the function _Zf is called _ZZfE….
  const std::string prefix = "_ZZ" + symbols.functions.at(place).substr(2) + "E";
  size_t bytes = 0;
  for (auto found = symbols.variables.lower_bound(prefix); found != symbols.variables.end(); ++found) {
    if (found->first.compare(0, prefix.size(), prefix) != 0) break;
    bytes += found->second;
  }
  return bytes;
}

}  // namespace

size_t static_shared_memory(const void* kernel) {
  static std::map<const void*, size_t> known;
  const auto found = known.find(kernel);
  return found != known.end() ? found->second : known[kernel] = look_up(kernel);
}

}  // namespace fastalign::emulator
