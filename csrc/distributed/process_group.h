// The group that the functions of distributed.h take.
#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>

namespace vmb {

struct Group {
  c10::intrusive_ptr<c10d::Backend> backend;
  int size;
};

}  // namespace vmb
