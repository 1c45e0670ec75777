#include "server/check_ports.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "tests/server/scratch_folder.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

// A socket that listens on a free port of 127.0.0.1.
class Taken {
 public:
  Taken() {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(bind(file_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(file_, 1), 0);
    EXPECT_EQ(getsockname(file_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = absl::StrCat(":", ntohs(address.sin_port));
  }
  ~Taken() { close(file_); }
  Taken(const Taken&) = delete;
  Taken& operator=(const Taken&) = delete;

  // ":51951"
  const std::string& port() const { return port_; }

 private:
  const int file_ = socket(AF_INET, SOCK_STREAM, 0);
  std::string port_;
};

std::string FreePort() { return Taken().port(); }

class CheckPortsTest : public ::testing::Test {
 protected:
  CheckPortsTest() { config_.listen = "127.0.0.1:0"; }
  CheckRow Row(const std::string& key) const {
    const auto rows = CheckPorts(config_);
    for (const CheckRow& row : rows) {
      if (row.what == key) {
        return row;
      }
    }
    ADD_FAILURE() << "no row " << key << " in\n" << CheckTable(rows);
    return {};
  }
  void ExpectOverlap(const std::string& listen, const std::string& metrics) {
    config_.listen = listen;
    config_.metrics = metrics;
    EXPECT_EQ(Row("server.listen").verdict, CheckRow::kGood) << Row("server.listen").text;
    EXPECT_EQ(Row("server.metrics").verdict, CheckRow::kBad);
    EXPECT_EQ(Row("server.metrics").text,
              absl::StrCat(metrics, " overlaps with server.listen, ", listen));
  }

  ServerConfig config_;
};

TEST_F(CheckPortsTest, FindsPortsThatOthersTake) {
  {
    const Taken taken;
    config_.metrics = "127.0.0.1" + taken.port();
    EXPECT_EQ(Row("server.metrics").verdict, CheckRow::kBad);
    EXPECT_EQ(Row("server.metrics").text, config_.metrics + ": Address already in use");
    config_.listen = "0.0.0.0" + taken.port();
    EXPECT_EQ(Row("server.listen").verdict, CheckRow::kBad);
  }
  EXPECT_EQ(Row("server.listen").verdict, CheckRow::kGood);
}

TEST_F(CheckPortsTest, FindsOurOwnThatOverlap) {
  const std::string port = FreePort();
  ExpectOverlap("127.0.0.1" + port, "127.0.0.1" + port);
  ExpectOverlap("0.0.0.0" + port, "127.0.0.1" + port);
  ExpectOverlap("127.0.0.1" + port, "0.0.0.0" + port);
  ExpectOverlap("127.0.0.1" + port, "localhost" + port);
  ExpectOverlap("localhost" + port, "127.0.0.1" + port);
  ExpectOverlap("[::]" + port, "127.0.0.1" + port);
}

TEST_F(CheckPortsTest, FindsOverlapsOfEveryTwo) {
  const std::string port = FreePort();
  config_.health = "0.0.0.0" + port;
  config_.admin = "127.0.0.1" + port;
  EXPECT_EQ(Row("server.health").verdict, CheckRow::kGood);
  EXPECT_THAT(Row("server.admin").text, HasSubstr("overlaps with server.health, 0.0.0.0:"));
}

TEST_F(CheckPortsTest, LetsOthersBeAndGivesThemBack) {
  const std::string port = FreePort();
  config_.listen = "127.0.0.1" + port;
  config_.health = "127.0.0.2" + port;
  config_.admin = "127.0.0.1:0";
  config_.metrics = "127.0.0.1:0";
  for (int round = 0; round < 2; ++round) {
    const auto rows = CheckPorts(config_);
    EXPECT_EQ(rows.size(), 4U);
    EXPECT_TRUE(CheckPassed(rows)) << CheckTable(rows);
  }
}

TEST_F(CheckPortsTest, NamesAHostThatIsNone) {
  config_.listen = "no-such-host.invalid:1";
  EXPECT_EQ(Row("server.listen").verdict, CheckRow::kBad);
  EXPECT_THAT(Row("server.listen").text, HasSubstr("no-such-host.invalid: "));
}

TEST_F(CheckPortsTest, LooksAtSockets) {
  const ScratchFolder folder;
  config_.listen = "unix:" + folder.path("a");
  EXPECT_EQ(Row("server.listen").verdict, CheckRow::kGood);
  config_.admin = "unix:" + folder.path("./a");
  EXPECT_THAT(Row("server.admin").text, HasSubstr("is the same socket as server.listen's"));
  config_.admin = "unix:" + folder.path("absent/a");
  EXPECT_THAT(Row("server.admin").text, HasSubstr("absent: No such file or directory"));
  config_.admin = "unix:" + folder.path(std::string(108, 'a'));
  EXPECT_THAT(Row("server.admin").text, HasSubstr("bytes, limit 107"));
  config_.metrics = "unix:" + folder.path("m");
  EXPECT_THAT(Row("server.metrics").text, HasSubstr("HTTP needs host:port"));
}

}  // namespace
}  // namespace patchflow
