// Functions of libraries that torch may have loaded, looked up by name: this binary also loads where they are missing.

#pragma once

#include <dlfcn.h>

#include <string>

namespace fastalign {

// Null where the library is not loaded or lacks the function.
template <typename Function>
Function find_loaded(const char* library, const char* name) {
#ifdef __APPLE__
  constexpr const char* suffix = ".dylib";
#else
  constexpr const char* suffix = ".so";
#endif
  void* handle = dlopen((std::string(library) + suffix).c_str(), RTLD_LAZY | RTLD_NOLOAD);
  if (handle == nullptr) return nullptr;
  auto function = reinterpret_cast<Function>(dlsym(handle, name));
  dlclose(handle);
  return function;
}

}  // namespace fastalign
