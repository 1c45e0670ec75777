#!/usr/bin/env bash
# On a machine with two GPUs, from the repository's root: the tests labelled gpu2, which run the parallel methods over
# NCCL, what a step takes by each layout beside one GPU, and how much of its exchanges hides.
#
#   bench/run_parallel_checks.sh OUT [PART...]
#
# Results lie in the folder OUT: PART.log, PART.json, summary.json. Without PARTs runs all, as listed at the end. For
# all sizes and methods there is bench/run.
source "$(dirname "$0")/checks.sh"

run_part() {
  case $1 in
    steps) measure 540 bench-parallel-steps --sizes 1024,2048 ;;
    hidden) measure 420 bench-hidden-exchanges --sizes 1024,2048 ;;
    steps_4096) measure 400 bench-parallel-steps --sizes 4096 --cuda-graphs on --image-steps 0 ;;
    *_float32) PATCHFLOW_TEST_DTYPE=float32 limit 240 "${1%_float32}" --gtest_brief=1 ;;
    *) limit 240 "$1" --gtest_brief=1 ;;
  esac
}
methods=(methods tensor_parallel ulysses ring guidance_split distrifusion pipefusion)
run_checks communicator_over_nccl mesh_edges_over_nccl nccl_communicator nccl_two_processes nccl_waits \
  "${methods[@]/%/_over_nccl}" "${methods[@]/%/_over_nccl_float32}" steps hidden
