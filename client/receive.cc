#include "client/receive.h"

#include <ostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/retry.h"
#include "client/server_error.h"

namespace patchflow {
namespace {

class GenerateReader : public GenerationReader {
 public:
  GenerateReader(const Connection& connection, grpc::ClientContext& context,
                 const v1::GenerateImagesRequest& request)
      : reader_(connection.stub().GenerateImages(&context, request)) {}
  bool Read(v1::GenerateImagesResponse& message) override { return reader_->Read(&message); }
  grpc::Status Finish() override { return reader_->Finish(); }

 private:
  std::unique_ptr<grpc::ClientReader<v1::GenerateImagesResponse>> reader_;
};

class FetchReader : public GenerationReader {
 public:
  FetchReader(const Connection& connection, grpc::ClientContext& context,
              const v1::FetchGenerationRequest& request)
      : reader_(connection.stub().FetchGeneration(&context, request)) {}
  bool Read(v1::GenerateImagesResponse& message) override {
    if (!reader_->Read(&response_)) return false;
    message.Swap(response_.mutable_message());
    return true;
  }
  grpc::Status Finish() override { return reader_->Finish(); }

 private:
  std::unique_ptr<grpc::ClientReader<v1::FetchGenerationResponse>> reader_;
  v1::FetchGenerationResponse response_;
};

// Saves what the streams of one generation bring.
class Saver : public GenerationEvents {
 public:
  Saver(const Receiving& receiving, const ReceiveOptions& options, absl::Time start,
        GenerationResult& result)
      : receiving_(receiving), options_(options), start_(start), result_(result) {}

  void OnAccepted(const std::string& request_id, const v1::Accepted& accepted) override {
    result_.request_id = request_id;
    result_.accepted = accepted;
    receiving_.view.Accepted(accepted);
  }
  void OnProgress(const v1::Progress& progress) override { receiving_.view.Progress(progress); }
  void OnPreview(const v1::Preview& preview) override {
    if (options_.previews.empty()) return;
    const std::string path =
        absl::StrCat(options_.previews, "/preview-", options_.prompt_index, "-",
                     preview.image_index(), ".", FileExtension(preview.format()));
    if (const absl::Status status = WriteFile(path, preview.data()); !status.ok()) {
      receiving_.view.Note(absl::StrCat("no preview: ", std::string(status.message())));
    }
  }
  void OnCompleted(const v1::Completed& completed) override { result_.completed = completed; }

  absl::Status OnImage(const v1::ImageHeader& header, std::string bytes) override {
    const auto index = static_cast<size_t>(header.image_index());
    if (index < result_.images.size()) return CheckAgain(result_.images[index].header, header);
    SavedImage image{PathOf(header), header, absl::Now() - start_};
    receiving_.view.Clear();
    if (options_.out.is_stdout()) {
      receiving_.console.out << bytes << std::flush;
      if (!receiving_.console.out) return absl::UnknownError("can't write to the standard output");
    } else if (absl::Status status = WriteFile(image.path, bytes); !status.ok()) {
      return status;
    }
    if (receiving_.image_lines) {
      (options_.out.is_stdout() ? receiving_.console.err : receiving_.console.out)
          << ImageLine(image) << std::endl;
    }
    result_.images.push_back(std::move(image));
    return absl::OkStatus();
  }

 private:
  static absl::Status CheckAgain(const v1::ImageHeader& before, const v1::ImageHeader& now) {
    if (before.sha256() == now.sha256()) return absl::OkStatus();
    return absl::DataLossError(
        absl::StrCat("image ", now.image_index(), " came again with other bytes after a retry"));
  }

  std::string PathOf(const v1::ImageHeader& header) const {
    return options_.out.Expand({.prompt = options_.prompt_index,
                                .index = header.image_index(),
                                .seed = header.seed(),
                                .request_id = result_.request_id,
                                .model = result_.accepted->effective().model(),
                                .ext = FileExtension(header.format())});
  }

  const Receiving& receiving_;
  const ReceiveOptions& options_;
  const absl::Time start_;
  GenerationResult& result_;
};

absl::Status FollowOnce(const Receiving& receiving, const OpenGeneration& open,
                        const ReceiveOptions& options, absl::Time deadline, Saver& saver) {
  grpc::ClientContext context;
  receiving.connection.Prepare(context, deadline);
  const Interrupt::Guard guard(receiving.interrupt, [&context] { context.TryCancel(); });
  const std::unique_ptr<GenerationReader> reader = open(context);
  GenerationStream stream(options.request_id, options.content, saver);
  v1::GenerateImagesResponse message;
  while (reader->Read(message)) {
    if (absl::Status status = stream.Take(message); !status.ok()) {
      context.TryCancel();
      static_cast<void>(reader->Finish());
      return status;
    }
  }
  const grpc::Status end = reader->Finish();
  return end.ok() ? stream.Finish() : StatusOf(end);
}

}  // namespace

OpenGeneration OpenGenerate(const Connection& connection,
                            const v1::GenerateImagesRequest& request) {
  return [&connection, request](grpc::ClientContext& context) {
    return std::make_unique<GenerateReader>(connection, context, request);
  };
}

OpenGeneration OpenFetch(const Connection& connection, const v1::FetchGenerationRequest& request) {
  return [&connection, request](grpc::ClientContext& context) {
    return std::make_unique<FetchReader>(connection, context, request);
  };
}

GenerationResult Receive(const Receiving& receiving, const OpenGeneration& open,
                         const ReceiveOptions& options) {
  const absl::Time start = absl::Now();
  const absl::Time deadline = start + receiving.connection.timeout();
  GenerationResult result;
  result.request_id = options.request_id;
  Saver saver(receiving, options, start, result);
  Retrier retrier(receiving.connection.retry(), deadline);
  while (true) {
    result.status = FollowOnce(receiving, open, options, deadline, saver);
    if (result.status.ok()) break;
    if (receiving.interrupt.triggered()) {
      result.status = absl::CancelledError("interrupted");
      break;
    }
    const auto delay = retrier.NextDelay(result.status, absl::Now());
    if (!delay) break;
    receiving.view.Note(absl::StrFormat(
        "%s\n  retry %d of %d in %.1f s", RenderError(result.status), retrier.retries(),
        receiving.connection.retry().retries, absl::ToDoubleSeconds(*delay)));
    receiving.interrupt.WaitFor(*delay);
  }
  receiving.view.Clear();
  result.retries = retrier.retries();
  result.elapsed = absl::Now() - start;
  return result;
}

}  // namespace patchflow
