// The border of the C interface: converts pointers to tensors, names to operators, and exceptions
// to messages.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/Exception.h>

#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

namespace vmb {

inline const at::Tensor& tensor(const void* pointer) {
  return *static_cast<const at::Tensor*>(pointer);
}

// An undefined tensor for null.
inline at::Tensor tensor_or_undefined(const void* pointer) {
  return pointer ? tensor(pointer) : at::Tensor();
}

inline std::vector<at::Tensor> tensors(void* const* pointers, int64_t count) {
  std::vector<at::Tensor> list;
  list.reserve(count);
  for (int64_t i = 0; i < count; ++i) list.push_back(tensor(pointers[i]));
  return list;
}

// Finds a registered operator by its name.
template <class Signature>
auto op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

inline char* copy_message(const char* text) {
  char* message = static_cast<char*>(std::malloc(std::strlen(text) + 1));
  return message ? std::strcpy(message, text) : nullptr;
}

// Runs f and converts an exception to a message.
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
