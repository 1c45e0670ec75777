#include "tls/tls_credentials.h"

#include <fcntl.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>
#include <string>

#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

constexpr unsigned kWatchSeconds = 1;

// A file in memory, with a path by which this process alone can read it.
class MemoryFile {
 public:
  MemoryFile() = default;
  ~MemoryFile() {
    if (file_ >= 0) {
      close(file_);
    }
  }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  // A reader sees the old text or the new one, and a later modification time.
  absl::Status Write(const std::string& text) {
    const int fresh = memfd_create("patchflow-tls", MFD_CLOEXEC);
    if (fresh < 0 || write(fresh, text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
      const std::string why = std::strerror(errno);
      close(fresh);
      return absl::UnavailableError(absl::StrCat("cannot hold TLS files in memory: ", why));
    }
    const timespec time{++version_, 0};
    const timespec times[] = {time, time};
    futimens(fresh, times);
    if (file_ < 0) {
      file_ = fresh;
    } else {
      dup3(fresh, file_, O_CLOEXEC);
      close(fresh);
    }
    return absl::OkStatus();
  }
  std::string path() const { return absl::StrCat("/proc/self/fd/", file_); }

 private:
  int file_ = -1;
  time_t version_ = 0;
};

class WatchedCredentials final : public TlsCredentials {
 public:
  absl::Status Replace(const TlsPair& pair) override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!pair.authorities.empty()) {
      if (absl::Status status = authorities_.Write(pair.authorities); !status.ok()) {
        return status;
      }
    }
    return pair_.Write(absl::StrCat(pair.key, "\n", pair.certificate));
  }

  void Open(bool authorities) {
    // PEM readers skip what they don't look for, so one file serves as key and as certificate.
    const auto provider = std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
        pair_.path(), pair_.path(), authorities ? authorities_.path() : "", kWatchSeconds);
    grpc::experimental::TlsServerCredentialsOptions listener(provider);
    listener.watch_identity_key_cert_pairs();
    if (authorities) {
      listener.watch_root_certs();
      listener.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
      grpc::experimental::TlsChannelCredentialsOptions channels;
      channels.set_certificate_provider(provider);
      channels.watch_identity_key_cert_pairs();
      channels.watch_root_certs();
      of_channels_ = grpc::experimental::TlsCredentials(channels);
    }
    of_listener_ = grpc::experimental::TlsServerCredentials(listener);
  }

  std::shared_ptr<grpc::ServerCredentials> of_listener() const override { return of_listener_; }
  std::shared_ptr<grpc::ChannelCredentials> of_channels() const override { return of_channels_; }

 private:
  std::mutex mutex_;
  MemoryFile pair_;
  MemoryFile authorities_;
  std::shared_ptr<grpc::ServerCredentials> of_listener_;
  std::shared_ptr<grpc::ChannelCredentials> of_channels_;  // Null without authorities.
};

}  // namespace

absl::StatusOr<std::unique_ptr<TlsCredentials>> TlsCredentials::Make(const TlsPair& pair) {
  auto made = std::make_unique<WatchedCredentials>();
  if (absl::Status status = made->Replace(pair); !status.ok()) {
    return status;
  }
  made->Open(!pair.authorities.empty());
  return std::unique_ptr<TlsCredentials>(std::move(made));
}

}  // namespace patchflow
