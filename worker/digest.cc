#include "worker/digest.h"

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"

namespace patchflow {
namespace {

constexpr int64_t kRunBytes = int64_t{64} << 20;
constexpr size_t kBufferBytes = size_t{1} << 20;

std::string Hex(const std::string& bytes) { return absl::BytesToHexString(bytes); }

class Hasher {
 public:
  Hasher() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr);
  }
  void Add(const void* bytes, size_t size) { EVP_DigestUpdate(context_.get(), bytes, size); }
  std::string Finish() {
    std::string digest(32, '\0');
    EVP_DigestFinal_ex(context_.get(), reinterpret_cast<unsigned char*>(digest.data()), nullptr);
    return digest;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
};

struct File {
  std::string path;  // In the checkpoint.
  int64_t size_bytes = 0;
  std::vector<std::string> runs = {};  // Digest of each run of kRunBytes, hexadecimal.
};

struct Run {
  File* file = nullptr;
  size_t index = 0;
};

bool IsRead(const std::filesystem::path& file) {
  const std::string extension = file.extension().string();
  return extension == ".json" || extension == ".model" || extension == ".safetensors";
}

std::vector<File> FilesOf(const std::filesystem::path& model_dir) {
  std::vector<File> files = {{.path = "model_index.json"}};
  for (const char* folder : {"scheduler", "text_encoder", "tokenizer", "transformer", "vae"}) {
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator(model_dir / folder, none)) {
      if (entry.is_regular_file() && IsRead(entry.path())) {
        files.push_back({.path = absl::StrCat(folder, "/", entry.path().filename().string())});
      }
    }
  }
  std::sort(files.begin(), files.end(),
            [](const File& a, const File& b) { return a.path < b.path; });
  return files;
}

absl::Status DigestRun(const std::filesystem::path& path, int64_t begin, int64_t size,
                       std::string& digest) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    return absl::UnavailableError(absl::StrCat(path.string(), ": ", std::strerror(errno)));
  }
  Hasher hasher;
  std::vector<char> buffer(kBufferBytes);
  absl::Status status;
  for (int64_t done = 0; done < size && status.ok();) {
    const auto wanted = static_cast<size_t>(std::min<int64_t>(size - done, kBufferBytes));
    const ssize_t got = pread(descriptor, buffer.data(), wanted, begin + done);
    if (got <= 0) {
      status = absl::UnavailableError(
          absl::StrCat(path.string(), ": ", got < 0 ? std::strerror(errno) : "became shorter"));
    } else {
      hasher.Add(buffer.data(), static_cast<size_t>(got));
      done += got;
    }
  }
  close(descriptor);
  digest = Hex(hasher.Finish());
  return status;
}

absl::Status DigestRuns(const std::filesystem::path& model_dir, const std::vector<Run>& runs,
                        int threads) {
  std::atomic<size_t> next = 0;
  std::vector<absl::Status> statuses(runs.size());
  const auto work = [&] {
    for (size_t i = next++; i < runs.size(); i = next++) {
      File& file = *runs[i].file;
      const int64_t begin = static_cast<int64_t>(runs[i].index) * kRunBytes;
      statuses[i] =
          DigestRun(model_dir / file.path, begin, std::min(kRunBytes, file.size_bytes - begin),
                    file.runs[runs[i].index]);
    }
  };
  {
    std::vector<std::jthread> helpers;
    for (int i = 1; i < threads; ++i) helpers.emplace_back(work);
    work();
  }
  const auto bad = std::find_if(statuses.begin(), statuses.end(),
                                [](const absl::Status& status) { return !status.ok(); });
  return bad == statuses.end() ? absl::OkStatus() : *bad;
}

// The note that --build-id writes, from the headers of the running program.
int FindBuildId(dl_phdr_info* info, size_t /*size*/, void* found) {
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr)& header = info->dlpi_phdr[i];
    if (header.p_type != PT_NOTE) continue;
    const char* note = reinterpret_cast<const char*>(info->dlpi_addr + header.p_vaddr);
    const char* end = note + header.p_memsz;
    while (note + sizeof(ElfW(Nhdr)) <= end) {
      ElfW(Nhdr) head;
      std::memcpy(&head, note, sizeof(head));
      const char* name = note + sizeof(head);
      const char* body = name + (head.n_namesz + 3) / 4 * 4;
      if (head.n_type == NT_GNU_BUILD_ID && head.n_namesz == 4 &&
          std::memcmp(name, "GNU", 4) == 0) {
        static_cast<std::string*>(found)->assign(body, head.n_descsz);
        return 1;
      }
      note = body + (head.n_descsz + 3) / 4 * 4;
    }
  }
  return 1;  // The first object is the program itself.
}

}  // namespace

std::string Sha256(std::string_view bytes) {
  Hasher hasher;
  hasher.Add(bytes.data(), bytes.size());
  return hasher.Finish();
}

absl::StatusOr<std::string> ModelDigest(const std::filesystem::path& model_dir, int threads) {
  if (!std::filesystem::is_regular_file(model_dir / "model_index.json")) {
    return absl::NotFoundError(absl::StrCat(model_dir.string(), ": no model_index.json"));
  }
  std::vector<File> files = FilesOf(model_dir);
  std::vector<Run> runs;
  for (File& file : files) {
    std::error_code error;
    file.size_bytes =
        static_cast<int64_t>(std::filesystem::file_size(model_dir / file.path, error));
    if (error) {
      return absl::UnavailableError(absl::StrCat(file.path, ": ", error.message()));
    }
    file.runs.resize(static_cast<size_t>((file.size_bytes + kRunBytes - 1) / kRunBytes));
    for (size_t i = 0; i < file.runs.size(); ++i) runs.push_back({.file = &file, .index = i});
  }
  if (const absl::Status status = DigestRuns(model_dir, runs, threads); !status.ok()) return status;
  std::string list;
  for (const File& file : files) {
    absl::StrAppend(&list, file.path, " ", file.size_bytes, " ", absl::StrJoin(file.runs, ","),
                    "\n");
  }
  return Hex(Sha256(list));
}

std::string BuildId() {
  std::string id;
  dl_iterate_phdr(FindBuildId, &id);
  return absl::StrCat(PATCHFLOW_VERSION, "+", id.empty() ? "unknown" : Hex(id));
}

std::string PlanDigest(const Plan& plan) {
  return Hex(Sha256(absl::StrCat("model ", plan.model_digest, "\nbuild ", plan.build,
                                 "\narithmetic ", plan.arithmetic, "\ndtype ", plan.dtype,
                                 "\nlayout ", plan.layout, "\nbatch ", plan.batch_size, "\n")));
}

std::vector<std::pair<std::string, std::string>> PlanFacts(const Plan& plan) {
  return {{"arithmetic", plan.arithmetic},
          {"batch", absl::StrCat(plan.batch_size)},
          {"build", plan.build}};
}

}  // namespace patchflow
