import harness

# Built only where there is nvcc, since it links NCCL.
collect_ignore = (
    [] if (harness.BIN / "bench-parallel-steps").exists() else ["test_suite_on_cpus.py", "test_hidden_exchanges.py"]
)
