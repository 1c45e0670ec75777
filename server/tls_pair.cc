#include "server/tls_pair.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <fstream>
#include <iterator>
#include <memory>

#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

constexpr size_t kMaxFileBytes = 1 << 20;

template <typename T, void (*Free)(T*)>
struct Freer {
  void operator()(T* object) const { Free(object); }
};
using Bio = std::unique_ptr<BIO, Freer<BIO, BIO_free_all>>;
using Certificate = std::unique_ptr<X509, Freer<X509, X509_free>>;
using PrivateKey = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY, EVP_PKEY_free>>;

// `key`: "security.tls.key".
absl::Status Fault(const std::string& key, const std::string& file, const std::string& text) {
  ERR_clear_error();
  return absl::InvalidArgumentError(absl::StrCat(key, ": ", file, ": ", text));
}

absl::StatusOr<std::string> ReadFile(const std::string& key, const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  std::string text(kMaxFileBytes + 1, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(stream.gcount()));
  if (text.empty()) {
    return Fault(key, file, "cannot be read, or is empty");
  }
  if (text.size() > kMaxFileBytes) {
    return Fault(key, file, absl::StrCat("more than ", kMaxFileBytes, " bytes"));
  }
  return text;
}

Bio ReaderOf(const std::string& pem) {
  return Bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

Certificate FirstCertificate(const std::string& pem) {
  return Certificate(PEM_read_bio_X509(ReaderOf(pem).get(), nullptr, nullptr, nullptr));
}

int NoPassword(char* /*buffer*/, int /*size*/, int /*writing*/, void* /*user*/) { return -1; }

absl::Time TimeOf(const ASN1_TIME* time) {
  std::tm broken{};
  ASN1_TIME_to_tm(time, &broken);
  return absl::FromTM(broken, absl::UTCTimeZone());
}

std::string SubjectOf(const X509& certificate) {
  Bio out(BIO_new(BIO_s_mem()));
  X509_NAME_print_ex(out.get(), X509_get_subject_name(&certificate), 0, XN_FLAG_ONELINE);
  char* text = nullptr;
  const long size = BIO_get_mem_data(out.get(), &text);
  return {text, static_cast<size_t>(size)};
}

std::string Show(absl::Time time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", time, absl::UTCTimeZone());
}

absl::Status CheckPair(const TlsConfig& config, absl::Time now, TlsPair& pair) {
  const Certificate certificate = FirstCertificate(pair.certificate);
  if (certificate == nullptr) {
    return Fault(config.name + ".certificate", config.certificate, "holds no PEM certificate");
  }
  const PrivateKey key(
      PEM_read_bio_PrivateKey(ReaderOf(pair.key).get(), nullptr, NoPassword, nullptr));
  if (key == nullptr) {
    return Fault(config.name + ".key", config.key,
                 "holds no PEM private key, or one with a password");
  }
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    return Fault(config.name + ".key", config.key,
                 absl::StrCat("does not belong to the certificate ", config.certificate));
  }
  pair.subject = SubjectOf(*certificate);
  pair.not_after = TimeOf(X509_get0_notAfter(certificate.get()));
  const absl::Time not_before = TimeOf(X509_get0_notBefore(certificate.get()));
  if (now < not_before) {
    return Fault(config.name + ".certificate", config.certificate,
                 absl::StrCat("valid from ", Show(not_before)));
  }
  if (now >= pair.not_after) {
    return Fault(config.name + ".certificate", config.certificate,
                 absl::StrCat("expired ", Show(pair.not_after)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TlsPair> ReadTlsPair(const TlsConfig& config, absl::Time now) {
  TlsPair pair;
  struct Source {
    const std::string& key;
    const std::string& file;
    std::string& text;
  };
  for (const Source& source : {Source{"certificate", config.certificate, pair.certificate},
                               Source{"key", config.key, pair.key},
                               Source{config.ca_name, config.client_ca, pair.client_ca}}) {
    if (source.file.empty()) {
      continue;
    }
    auto text = ReadFile(config.name + "." + source.key, source.file);
    if (!text.ok()) {
      return text.status();
    }
    source.text = *std::move(text);
  }
  if (absl::Status status = CheckPair(config, now, pair); !status.ok()) {
    return status;
  }
  if (!config.client_ca.empty() && FirstCertificate(pair.client_ca) == nullptr) {
    return Fault(config.name + "." + config.ca_name, config.client_ca, "holds no PEM certificate");
  }
  return pair;
}

}  // namespace patchflow
