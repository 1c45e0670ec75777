#include "client/hasher.h"

#include <openssl/evp.h>

#include <stdexcept>

namespace patchflow {
namespace {

void Check(int done) {
  if (done != 1) throw std::runtime_error("libcrypto can't do SHA-256");
}

}  // namespace

void Hasher::Free::operator()(evp_md_ctx_st* context) const { EVP_MD_CTX_free(context); }

Hasher::Hasher() : context_(EVP_MD_CTX_new()) { Begin(); }
Hasher::~Hasher() = default;

void Hasher::Begin() { Check(EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr)); }

void Hasher::Add(std::string_view bytes) {
  Check(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()));
}

std::string Hasher::Finish() {
  std::string hash(static_cast<size_t>(EVP_MD_size(EVP_sha256())), '\0');
  Check(EVP_DigestFinal_ex(context_.get(), reinterpret_cast<unsigned char*>(hash.data()), nullptr));
  Begin();
  return hash;
}

}  // namespace patchflow
