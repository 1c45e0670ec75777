// Compiled once so that its precompiled header can be reused by every target that includes ATen.
