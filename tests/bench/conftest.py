import harness

# Built only where there is nvcc, since it links NCCL; tests/bench/CMakeLists.txt leaves the same test out.
collect_ignore = [] if (harness.BIN / "bench-parallel-steps").exists() else ["test_suite_on_cpus.py"]
