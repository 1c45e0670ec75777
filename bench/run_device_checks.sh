#!/usr/bin/env bash
# On a machine with a Hopper GPU, from the repository's root: the tests of the kernels, what the kernels and a step take,
# and stock diffusers beside them, in one run, so that ratios mean something. Under 11 minutes on an H100.
#
#   bench/run_device_checks.sh OUT [PART...]
#
# Results lie in the folder OUT: PART.log, PART.json, summary.json. Without PARTs runs all, as listed at the end.
source "$(dirname "$0")/checks.sh"

tests_of() { limit "$1" "$2" --gtest_brief=1; }
bench() { measure "$1" patchflow-bench --device cuda "${@:2}"; }

# Name, seconds it may take, command.
run_part() {
  case $1 in
    test_norm) tests_of 60 test_engine_kernels_norm_modulate ;;
    test_residual) tests_of 60 test_engine_kernels_gated_residual ;;
    test_guided_step) tests_of 60 test_engine_kernels_guided_step ;;
    test_gemm) tests_of 90 test_engine_kernels_gemm_sm90 ;;
    test_fp8_rows) tests_of 60 test_engine_kernels_fp8_rows ;;
    test_gemm_fp8) tests_of 90 test_engine_kernels_gemm_fp8_sm90 ;;
    test_attention) tests_of 90 test_engine_kernels_attention_sm90 ;;
    test_layers) tests_of 60 test_engine_models_pixart_layers_cuda ;;
    test_layers_fp8) tests_of 60 test_engine_models_pixart_layers_fp8 ;;
    test_transformer_fp8) tests_of 60 test_engine_transformer_fp8 ;;
    test_denoiser) tests_of 120 test_engine_denoiser_cuda ;;
    attention) bench 90 attention ;;
    gemm) bench 90 gemm ;;
    step) bench 120 step --sizes 512,1024,2048 --budget-s 12 --kernels ;;
    step_fp8) bench 90 step --sizes 512,1024,2048 --budget-s 8 --kernels --fp8 ;;
    step_stock) bench 90 step --sizes 1024,2048 --budget-s 8 --attention stock ;;
    step_short) bench 60 step --sizes 1024,2048 --budget-s 5 --kernels ;;
    step_4096) bench 100 --repeats 3 --warm-up 1 step --sizes 4096 --budget-s 15 ;;
    text) bench 90 text ;;
    diffusers) peer 60 diffusers_step.py --sizes 1024,2048 ;;
    diffusers_compiled) peer 120 diffusers_step.py --sizes 1024 --compile ;;
    diffusers_compiled_2048) peer 240 diffusers_step.py --sizes 2048 --compile ;;
    diffusers_4096) peer 100 diffusers_step.py --sizes 4096 --repeats 3 --warm-up 1 ;;
    *) echo "no part $1" >&2; return 2 ;;
  esac
}
run_checks test_norm test_residual test_guided_step test_gemm test_fp8_rows test_gemm_fp8 test_attention test_layers \
  test_layers_fp8 test_denoiser test_transformer_fp8 attention gemm step step_fp8 step_stock diffusers_compiled \
  diffusers_compiled_2048 step_4096 diffusers_4096 text
