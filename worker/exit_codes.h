// How the worker process ends. The front end knows these numbers: server/worker_process.h.
#pragma once

namespace patchflow {

inline constexpr int kExitOk = 0;  // Stopped by a signal.
inline constexpr int kExitFailed =
    1;  // A rank failed, hung, or ran out of memory: another start may help.
inline constexpr int kExitRefused =
    2;  // Command line, model, layout, devices or address can't work.
inline constexpr int kExitSickDevice = 3;     // A device is broken: another start won't help.
inline constexpr int kExitStickyError = 100;  // 100 + N: a device gives CUDA error 700 + N.
inline constexpr int kFirstStickyError = 700;

}  // namespace patchflow
