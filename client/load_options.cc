#include "client/load_options.h"

#include "client/shared_options.h"

namespace patchflow {
namespace {

void AddLevels(CLI::App& command, LoadOptions& options) {
  const std::string group = "Load";
  command
      .add_option("-c,--concurrency", options.concurrencies,
                  "Closed loop: so many clients, each sends the next request when the last has "
                  "ended (100 ms after UNAVAILABLE); several numbers make several levels")
      ->type_name("N,...")
      ->delimiter(',')
      ->group(group);
  command
      .add_option("-r,--rate", options.rates,
                  "Open loop: so many requests a second arrive (Poisson), whatever the server "
                  "does; several rates make several levels")
      ->type_name("R,...")
      ->delimiter(',')
      ->group(group);
  command.add_option("-d,--duration", options.duration, "Of each level, after its warm-up")
      ->type_name("TIME")
      ->group(group);
  command.add_option("-n,--requests", options.requests, "Of each level, instead of --duration")
      ->type_name("N")
      ->group(group);
  command
      .add_option("--warm-up", options.warm_up,
                  "Requests of this time at the beginning of a level don't count")
      ->type_name("TIME")
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--max-in-flight", options.max_in_flight,
                  "Open loop: arrivals beyond so many calls are counted as not sent")
      ->type_name("N")
      ->capture_default_str()
      ->group(group);
  command.add_option("--connections", options.connections, "TCP connections to the server")
      ->type_name("N")
      ->capture_default_str()
      ->group(group);
}

void AddRequests(CLI::App& command, LoadOptions& options) {
  const std::string group = "Requests (what is not given is the model's default)";
  AddModelOption(command, options.model, group);
  command
      .add_option("--mix", options.mix,
                  "A size and a number of steps, in a share of WEIGHT (1) of all; again for more")
      ->type_name("WxH:STEPS[:WEIGHT]")
      ->group(group);
  command.add_option("--images", options.images, "Of each request")
      ->type_name("N")
      ->capture_default_str()
      ->group(group);
  AddFormatOption(command, options.format, group, "png (the default), jpeg, webp or raw");
  AddPriorityOption(command, options.priority, group);
  command.add_option("--prompts", options.prompts, "Take the prompts from the lines of this file")
      ->type_name("FILE")
      ->group(group);
  command.add_option("--seed", options.seed, "Of all that is random")
      ->type_name("N")
      ->capture_default_str()
      ->group(group);
}

void AddEndings(CLI::App& command, LoadOptions& options) {
  const std::string group = "Clients that don't wait (shares of the requests, 0 to 1)";
  const auto share = [&](const char* name, double& value, const char* what) {
    command.add_option(name, value, what)->type_name("SHARE")->group(group);
  };
  share("--cancels", options.cancels, "Cancel the call");
  share("--cancel-calls", options.cancel_calls, "Call CancelGeneration");
  share("--disconnects", options.disconnects,
        "Cut the TCP connection, which then is the request's own");
  share("--deadlines", options.deadlines, "Have a short deadline");
  command
      .add_option("--within", options.within,
                  "When: after a time between 0 and this, all equally likely")
      ->type_name("TIME")
      ->capture_default_str()
      ->group(group);
}

}  // namespace

void AddLoadOptions(CLI::App& command, LoadOptions& options) {
  AddLevels(command, options);
  AddRequests(command, options);
  AddEndings(command, options);
  const std::string group = "Report";
  command
      .add_option("--limit", options.limit,
                  "Goodput counts the requests that succeed within this time")
      ->type_name("TIME")
      ->capture_default_str()
      ->group(group);
  command.add_option("--records", options.records, "Write a line of JSON for each request")
      ->type_name("FILE")
      ->group(group);
  command.add_flag("--json", options.json, "Print the report as one line of JSON")->group(group);
  command.add_flag("-q,--quiet", options.quiet, "No progress")->group(group);
}

}  // namespace patchflow
