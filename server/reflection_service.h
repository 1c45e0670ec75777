// grpc.reflection.v1.ServerReflection. gRPC 1.51 brings v1alpha alone.
#pragma once

#include <grpcpp/impl/server_builder_option.h>

#include <memory>
#include <string>
#include <vector>

#include "google/protobuf/descriptor.h"
#include "grpc/reflection/v1/reflection.pb.h"

namespace patchflow {

// The answer to one question: about `services`, by their full names, and the files of `pool`. What
// is not there is answered with an error_response of NOT_FOUND, a question of no known kind with
// one of UNIMPLEMENTED, as by gRPC's v1alpha. A file comes before those that it imports, each once.
// Thread-safe, costs a copy of the files. Source: the comments of grpc/reflection/v1/
// reflection.proto and gRPC's doc/server-reflection.md.
grpc::reflection::v1::ServerReflectionResponse Reflect(
    const google::protobuf::DescriptorPool& pool, const std::vector<std::string>& services,
    const grpc::reflection::v1::ServerReflectionRequest& request);

// Adds the service to the server that is built with this option, over the generated files and all
// services of that server. A stream holds one question and one answer at most: the next question is
// read when the answer is on its way. One that sends bytes that are no question is ended with OK,
// as by gRPC's v1alpha: gRPC does not tell them from the end of the questions. Guards nothing.
std::unique_ptr<grpc::ServerBuilderOption> MakeReflectionOption();

}  // namespace patchflow
