#!/usr/bin/env bash
# On a machine with a Hopper GPU, from the repository's root: the tests of the VAE's kernels, a decode at 1024 to 8192 px,
# its passes one by one, and stock diffusers beside it, in one run, so that ratios mean something. Under 5 minutes on an
# H200. With two GPUs, "nccl" adds the decode by two ranks.
#
#   bench/run_vae_checks.sh OUT [PART...]
#
# Results lie in the folder OUT: PART.log, PART.json, summary.json. Without PARTs runs all but nccl.
source "$(dirname "$0")/checks.sh"

decode() { measure "$1" bench-vae "${@:2}"; }

run_part() {
  case $1 in
    test_rows) limit 120 test_engine_vae_row_ops_cuda --gtest_brief=1 ;;
    test_decoder) limit 120 test_engine_vae_decoder_cuda --gtest_brief=1 ;;
    bf16) decode 120 ;;
    fp16) decode 60 --dtype fp16 --sizes 1024,2048,4096 ;;
    tuned) decode 90 --dtype fp16 --sizes 1024,2048,4096 --tune-cudnn ;;
    large_slabs) decode 60 --sizes 1024,2048,4096 --workspace-mib 2048 ;;
    small_slabs) decode 60 --sizes 1024,2048,4096 --workspace-mib 256 ;;
    passes) decode 90 --sizes 1024 --parts 4096 ;;
    diffusers) peer 90 diffusers_vae.py ;;
    nccl)
      for test in neighbour_rows merged_moments split_queries vae_decode; do
        limit 120 "${test}_over_nccl" --gtest_brief=1 || return
      done
      decode 240 --ranks 2 ;;
    *) echo "no part $1" >&2; return 2 ;;
  esac
}
run_checks test_rows test_decoder bf16 fp16 diffusers passes large_slabs small_slabs tuned
