#include "server/metrics_http.h"

#include <httplib.h>

#include <cstdlib>
#include <thread>

#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

constexpr char kPrometheusText[] = "text/plain; version=0.0.4; charset=utf-8";
constexpr int kThreads = 2;

class HttplibListener final : public MetricsHttp {
 public:
  explicit HttplibListener(Answers answers) : answers_(std::move(answers)) {
    server_.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
    server_.set_socket_options([](socket_t socket) {
      const int yes = 1;  // Not SO_REUSEPORT, httplib's choice: a port in use must be refused.
      setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    });
    server_.set_read_timeout(5);
    server_.set_write_timeout(5);
    server_.set_keep_alive_timeout(2);
    server_.set_payload_max_length(0);
    server_.Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
      response.set_content(answers_.metrics(), kPrometheusText);
    });
    Probe("/healthz", answers_.live);
    Probe("/readyz", answers_.ready);
  }

  ~HttplibListener() override {
    server_.stop();
    if (thread_.joinable()) {
      thread_.join();
    }
  }

  absl::Status Bind(const std::string& address) {
    const size_t colon = address.rfind(':');
    host_ = address.substr(0, colon);
    port_ = std::atoi(address.c_str() + colon + 1);
    std::string host = host_;
    if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
      host = host.substr(1, host.size() - 2);
    }
    if (port_ == 0) {
      port_ = server_.bind_to_any_port(host);
    } else if (!server_.bind_to_port(host, port_)) {
      port_ = -1;
    }
    if (port_ <= 0) {
      return absl::UnavailableError(
          absl::StrCat("server.metrics: cannot listen on ", address, ": is it in use?"));
    }
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    while (!server_.is_running()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return absl::OkStatus();
  }

  std::string address() const override { return absl::StrCat(host_, ":", port_); }

 private:
  void Probe(const char* path, const std::function<bool()>& good) {
    server_.Get(path, [&good](const httplib::Request&, httplib::Response& response) {
      const bool ok = good();
      response.status = ok ? 200 : 503;
      response.set_content(ok ? "ok\n" : "not ok\n", "text/plain");
    });
  }

  const Answers answers_;
  httplib::Server server_;
  std::string host_;
  int port_ = 0;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsHttp>> MetricsHttp::Start(const std::string& address,
                                                                Answers answers) {
  auto listener = std::make_unique<HttplibListener>(std::move(answers));
  if (absl::Status status = listener->Bind(address); !status.ok()) {
    return status;
  }
  return std::unique_ptr<MetricsHttp>(std::move(listener));
}

}  // namespace patchflow
