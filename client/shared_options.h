// Options that several subcommands have, in the same words.
#pragma once

#include <CLI/App.hpp>
#include <string>

#include "patchflow/v1/image_generation.pb.h"

namespace patchflow {

// Each keeps what is given in its reference, which must outlive `command`.
void AddRequestIdOption(CLI::App& command, std::string& request_id);
// In this group of the help.
void AddModelOption(CLI::App& command, std::string& model, const std::string& group);
void AddPriorityOption(CLI::App& command, v1::Priority& priority, const std::string& group);
void AddFormatOption(CLI::App& command, v1::ImageFormat& format, const std::string& group,
                     const std::string& help);

}  // namespace patchflow
