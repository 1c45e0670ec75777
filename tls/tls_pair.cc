#include "tls/tls_pair.h"

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

absl::Status Fault(const TlsFiles::File& file, const std::string& text) {
  ERR_clear_error();
  return absl::InvalidArgumentError(absl::StrCat(file.name, ": ", file.path, ": ", text));
}

absl::StatusOr<std::string> ReadFile(const TlsFiles::File& file) {
  std::ifstream stream(file.path, std::ios::binary);
  std::string text(kMaxFileBytes + 1, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(stream.gcount()));
  if (text.empty()) {
    return Fault(file, "cannot be read, or is empty");
  }
  if (text.size() > kMaxFileBytes) {
    return Fault(file, absl::StrCat("more than ", kMaxFileBytes, " bytes"));
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

absl::Status CheckPair(const TlsFiles& files, absl::Time now, TlsPair& pair) {
  const Certificate certificate = FirstCertificate(pair.certificate);
  if (certificate == nullptr) {
    return Fault(files.certificate, "holds no PEM certificate");
  }
  const PrivateKey key(
      PEM_read_bio_PrivateKey(ReaderOf(pair.key).get(), nullptr, NoPassword, nullptr));
  if (key == nullptr) {
    return Fault(files.key, "holds no PEM private key, or one with a password");
  }
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    return Fault(files.key,
                 absl::StrCat("does not belong to the certificate ", files.certificate.path));
  }
  pair.subject = SubjectOf(*certificate);
  pair.not_after = TimeOf(X509_get0_notAfter(certificate.get()));
  const absl::Time not_before = TimeOf(X509_get0_notBefore(certificate.get()));
  if (now < not_before) {
    return Fault(files.certificate, absl::StrCat("valid from ", Show(not_before)));
  }
  if (now >= pair.not_after) {
    return Fault(files.certificate, absl::StrCat("expired ", Show(pair.not_after)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TlsPair> ReadTlsPair(const TlsFiles& files, absl::Time now) {
  TlsPair pair;
  struct Source {
    const TlsFiles::File& file;
    std::string& text;
  };
  for (const Source& source :
       {Source{files.certificate, pair.certificate}, Source{files.key, pair.key},
        Source{files.authorities, pair.authorities}}) {
    if (&source.file == &files.authorities && source.file.path.empty()) {
      continue;
    }
    auto text = ReadFile(source.file);
    if (!text.ok()) {
      return text.status();
    }
    source.text = *std::move(text);
  }
  if (absl::Status status = CheckPair(files, now, pair); !status.ok()) {
    return status;
  }
  if (!files.authorities.path.empty() && FirstCertificate(pair.authorities) == nullptr) {
    return Fault(files.authorities, "holds no PEM certificate");
  }
  return pair;
}

}  // namespace patchflow
