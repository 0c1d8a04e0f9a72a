// The border of the C interface: what C++ throws becomes a message.
#pragma once

#include <c10/util/Exception.h>

#include <cstdlib>
#include <cstring>
#include <new>

namespace vmb {

inline char* copy_message(const char* text) {
  char* message = static_cast<char*>(std::malloc(std::strlen(text) + 1));
  return message ? std::strcpy(message, text) : nullptr;
}

// Runs f and turns whatever it throws into a message.
template <class F>
char* guarded(const F& f) {
  try {
    f();
    return nullptr;
  } catch (const c10::Error& error) {
    return copy_message(error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return copy_message("out of memory");
  } catch (const std::exception& error) {
    return copy_message(error.what());
  } catch (...) {
    return copy_message("unknown C++ exception");
  }
}

}  // namespace vmb
