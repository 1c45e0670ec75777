#include "server/write_all.h"

#include <unistd.h>

#include <cerrno>

namespace patchflow {

size_t WriteAll(int file, std::string_view bytes) {
  size_t written = 0;
  while (written < bytes.size()) {
    const ssize_t count = write(file, bytes.data() + written, bytes.size() - written);
    if (count > 0) {
      written += static_cast<size_t>(count);
    } else if (count == 0) {
      errno = ENOSPC;
      break;
    } else if (errno != EINTR) {
      break;
    }
  }
  return written;
}

}  // namespace patchflow
