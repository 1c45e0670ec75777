#include "worker/listen_tls.h"

#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <ctime>

#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

constexpr unsigned kRefreshSeconds = 10;

struct FreeBio {
  void operator()(BIO* bio) const { BIO_free_all(bio); }
};
struct FreeCertificate {
  void operator()(X509* certificate) const { X509_free(certificate); }
};
struct FreeKey {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
using Bio = std::unique_ptr<BIO, FreeBio>;
using Certificate = std::unique_ptr<X509, FreeCertificate>;
using Key = std::unique_ptr<EVP_PKEY, FreeKey>;

int NoPassword(char* /*buffer*/, int /*size*/, int /*writing*/, void* /*user*/) { return -1; }

Certificate ReadCertificate(const std::string& file) {
  const Bio bio(BIO_new_file(file.c_str(), "r"));
  return Certificate(bio == nullptr ? nullptr
                                    : PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
}

Key ReadKey(const std::string& file) {
  const Bio bio(BIO_new_file(file.c_str(), "r"));
  return Key(bio == nullptr ? nullptr
                            : PEM_read_bio_PrivateKey(bio.get(), nullptr, NoPassword, nullptr));
}

absl::Time TimeOf(const ASN1_TIME* time) {
  std::tm broken{};
  ASN1_TIME_to_tm(time, &broken);
  return absl::FromTM(broken, absl::UTCTimeZone());
}

std::string Show(absl::Time time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", time, absl::UTCTimeZone());
}

bool IsThisHost(const std::string& address) {
  for (const char* prefix : {"127.", "localhost:", "[::1]:"}) {
    if (address.rfind(prefix, 0) == 0) return true;
  }
  return false;
}

std::optional<std::string> CheckFiles(const WorkerFlags& flags, absl::Time now) {
  const Certificate certificate = ReadCertificate(flags.tls_cert);
  const Key key = ReadKey(flags.tls_key);
  const bool authorities = ReadCertificate(flags.tls_ca) != nullptr;
  ERR_clear_error();
  if (certificate == nullptr) {
    return absl::StrCat("--tls-cert: ", flags.tls_cert, ": no PEM certificate can be read");
  }
  if (key == nullptr) {
    return absl::StrCat("--tls-key: ", flags.tls_key,
                        ": no PEM private key without a password can be read");
  }
  if (!authorities) {
    return absl::StrCat("--tls-ca: ", flags.tls_ca, ": no PEM certificate can be read");
  }
  const bool match = X509_check_private_key(certificate.get(), key.get()) == 1;
  ERR_clear_error();
  if (!match) {
    return absl::StrCat("--tls-key: ", flags.tls_key, ": does not belong to the certificate ",
                        flags.tls_cert);
  }
  const absl::Time begin = TimeOf(X509_get0_notBefore(certificate.get()));
  const absl::Time end = TimeOf(X509_get0_notAfter(certificate.get()));
  if (now < begin) {
    return absl::StrCat("--tls-cert: ", flags.tls_cert, ": valid from ", Show(begin));
  }
  if (now >= end) return absl::StrCat("--tls-cert: ", flags.tls_cert, ": expired ", Show(end));
  return std::nullopt;
}

}  // namespace

std::optional<std::string> CheckTls(const WorkerFlags& flags, absl::Time now) {
  const bool tls = !flags.tls_cert.empty();
  if (tls != !flags.tls_key.empty() || tls != !flags.tls_ca.empty()) {
    return "--tls-cert, --tls-key and --tls-ca go together";
  }
  if ((tls || flags.plaintext) && flags.listen.empty()) {
    return absl::StrCat(tls ? "--tls-cert" : "--plaintext", " has no meaning without --listen");
  }
  if (tls && flags.plaintext) return "--plaintext has no meaning with --tls-cert";
  if (tls) return CheckFiles(flags, now);
  if (!flags.listen.empty() && !flags.plaintext && !IsThisHost(flags.listen)) {
    return absl::StrCat("--listen: ", flags.listen,
                        " would be open to other hosts without encryption or authentication: add "
                        "--tls-cert, --tls-key and --tls-ca, or say --plaintext");
  }
  return std::nullopt;
}

std::shared_ptr<grpc::ServerCredentials> ListenCredentials(const WorkerFlags& flags) {
  if (flags.tls_cert.empty()) return grpc::InsecureServerCredentials();
  auto provider = std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
      flags.tls_key, flags.tls_cert, flags.tls_ca, kRefreshSeconds);
  grpc::experimental::TlsServerCredentialsOptions options(provider);
  options.watch_identity_key_cert_pairs();
  options.watch_root_certs();
  options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  return grpc::experimental::TlsServerCredentials(options);
}

}  // namespace patchflow
