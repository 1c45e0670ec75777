#include "tests/server/fake_order.h"

#include <fcntl.h>
#include <unistd.h>

#include "absl/strings/numbers.h"

namespace patchflow {
namespace {

std::string WordAfter(const std::string& text, const std::string& key) {
  const size_t begin = text.find(key);
  if (begin == std::string::npos) {
    return "";
  }
  return text.substr(begin + key.size(), text.find(' ', begin) - begin - key.size());
}

}  // namespace

FakeOrder OrderOf(const std::string& prompt) {
  const std::string word = WordAfter(prompt, "fault:");
  FakeOrder order{word.substr(0, word.find('@')), 0};
  if (word.find('@') != std::string::npos) {
    (void)absl::SimpleAtoi(word.substr(word.find('@') + 1), &order.step);
  }
  const std::string once = WordAfter(prompt, "once:");
  if (!once.empty() && !order.fault.empty()) {
    const int file = open(once.c_str(), O_CREAT | O_EXCL | O_WRONLY, 0600);
    if (file < 0) {
      return {};
    }
    close(file);
  }
  return order;
}

}  // namespace patchflow
