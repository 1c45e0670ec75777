// SHA-256 of bytes that come in pieces.
#pragma once

#include <memory>
#include <string>
#include <string_view>

struct evp_md_ctx_st;

namespace patchflow {

class Hasher {
 public:
  Hasher();
  ~Hasher();

  void Add(std::string_view bytes);
  // The 32 bytes of the hash; begins the next.
  std::string Finish();

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  void Begin();
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

}  // namespace patchflow
