// How the worker process ends.
#pragma once

namespace patchflow {

inline constexpr int kExitOk = 0;  // Stopped by a signal.
inline constexpr int kExitFailed =
    1;  // A rank failed, hung, or ran out of memory: another start may help.
inline constexpr int kExitRefused =
    2;  // Command line, model, layout, devices or address can't work.

}  // namespace patchflow
