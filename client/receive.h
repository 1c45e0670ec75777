// Receives a generation, over again where that is right, and saves its images.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "client/connection.h"
#include "client/generation_result.h"
#include "client/generation_stream.h"
#include "client/interrupt.h"
#include "client/output_path.h"
#include "client/progress_view.h"

namespace patchflow {

// A stream just opened, of GenerateImages or FetchGeneration.
class GenerationReader {
 public:
  virtual ~GenerationReader() = default;
  virtual bool Read(v1::GenerateImagesResponse& message) = 0;  // False at the end.
  virtual grpc::Status Finish() = 0;
};
using OpenGeneration = std::function<std::unique_ptr<GenerationReader>(grpc::ClientContext&)>;

OpenGeneration OpenGenerate(const Connection& connection, const v1::GenerateImagesRequest& request);
OpenGeneration OpenFetch(const Connection& connection, const v1::FetchGenerationRequest& request);

struct ReceiveOptions {
  std::string request_id;  // Of the request.
  StreamContent content = StreamContent::kImages;
  OutputPattern out;
  int prompt_index = 0;
  std::string previews = {};  // A folder for the newest preview of each image; none if empty.
};

// What the receiving of a generation needs; outlives the call.
struct Receiving {
  const Connection& connection;
  Console& console;
  Interrupt& interrupt;
  ProgressView& view;
  bool image_lines = true;  // A line of console.out for each image (of console.err if the image
                            // itself goes to out).
};

// Opens the stream, follows it to its end and writes each image when it is whole. After
// UNAVAILABLE, or RESOURCE_EXHAUSTED with a RetryInfo, opens it again: images that are there
// already must come again with the same hash, else DATA_LOSS. Ends within the connection's timeout,
// and at once with CANCELLED when the interrupt comes. The outcome is in the result's status.
// Previews go to <previews>/preview-<prompt>-<image>.png, each in place of the one before.
GenerationResult Receive(const Receiving& receiving, const OpenGeneration& open,
                         const ReceiveOptions& options);

}  // namespace patchflow
