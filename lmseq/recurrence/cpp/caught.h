// What C++ throws, as XLA's errors.
#pragma once

#include <exception>
#include <new>
#include <string>

#include "xla/ffi/api/ffi.h"

namespace lmseq {

// Does the work; what it throws becomes the error that is returned. needs: what memory is taken for.
template <class Work>
xla::ffi::Error caught(const char* needs, Work&& work) {
  try {
    work();
  } catch (const std::bad_alloc&) {
    return xla::ffi::Error(xla::ffi::ErrorCode::kResourceExhausted, std::string("no memory for ") + needs);
  } catch (const std::exception& error) {
    return xla::ffi::Error(xla::ffi::ErrorCode::kInternal, error.what());
  }
  return xla::ffi::Error::Success();
}

}  // namespace lmseq
