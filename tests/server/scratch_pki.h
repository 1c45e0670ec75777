// Certificates for tests, made with the openssl program.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "tests/server/scratch_folder.h"

namespace patchflow {

// A folder with an authority, ca.crt and ca.key, and pairs signed by it.
class ScratchPki : public ScratchFolder {
 public:
  ScratchPki() {
    Run("openssl req -x509 -newkey rsa:2048 -nodes -days 30 -keyout ca.key -out ca.crt "
        "-subj /CN=test-authority");
  }

  // NAME.crt and NAME.key for localhost with this common name. A negative number of days makes one
  // that has expired.
  void MakePair(const std::string& name, const std::string& common_name, int days = 30) {
    Run("openssl req -newkey rsa:2048 -nodes -keyout " + name + ".key -out " + name +
        ".csr -subj /CN=" + common_name);
    Write(name + ".ext", "subjectAltName=DNS:localhost,IP:127.0.0.1");
    Run("openssl x509 -req -in " + name + ".csr -CA ca.crt -CAkey ca.key -CAcreateserial -days " +
        std::to_string(days) + " -extfile " + name + ".ext -out " + name + ".crt");
  }

 private:
  void Run(const std::string& command) {
    ASSERT_EQ(std::system(("cd " + path() + " && " + command + " 2>openssl.log").c_str()), 0)
        << command << "\n"
        << Read("openssl.log");
  }
};

}  // namespace patchflow
