// The order to fail that a prompt may hold; fake_worker.h has the list.
#pragma once

#include <string>

namespace patchflow {

struct FakeOrder {
  std::string fault;
  int step = 0;
};

// None: an empty fault. Of an order that is obeyed once, in the one call that creates its file.
FakeOrder OrderOf(const std::string& prompt);

}  // namespace patchflow
