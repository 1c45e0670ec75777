#!/usr/bin/env bash
# On a machine with a Hopper GPU, from the repository's root: the tests of the kernels, what the kernels and a step take,
# and stock diffusers beside them, in one run, so that ratios mean something. Under 9 minutes on an H200.
#
#   bench/run_device_checks.sh OUT [PART...]
#
# Writes into the folder OUT: PART.json or PART.log for every part, and summary.json with each one's exit status and
# seconds. Without PARTs runs all, in the order of the table below. Programs are taken from build/bin and build/tests, or
# else from PATH. A part that fails or passes its time does not stop the others; the exit status tells of it.
set -uo pipefail
[ $# -ge 1 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2; }
out=$1; shift
mkdir -p "$out"
PATH=$PWD/build/bin:$PWD/build/tests:$PATH
python=${PYTHON:-python3}
[ -n "${PYTHON:-}" ] || [ ! -x .deps/venv/bin/python3 ] || python=.deps/venv/bin/python3

# Runs a command for so many seconds at most; "bench" is patchflow-bench on the GPU, writing the part's numbers.
limit() {
  local seconds=$1; shift
  if [ "$1" = bench ]; then
    shift
    set -- patchflow-bench --device cuda --json "$out/$part.json" "$@"
  fi
  timeout --kill-after=5 "$seconds" "$@"
}

peer() { limit "$1" "$python" bench/peers/diffusers_step.py --json "$out/$part.json" "${@:2}"; }

# Name, seconds it may take, command.
run_part() {
  case $1 in
    test_norm) limit 60 test_engine_kernels_norm_modulate ;;
    test_residual) limit 60 test_engine_kernels_gated_residual ;;
    test_guided_step) limit 60 test_engine_kernels_guided_step ;;
    test_gemm) limit 90 test_engine_kernels_gemm_sm90 ;;
    test_attention) limit 90 test_engine_kernels_attention_sm90 ;;
    test_layers) limit 60 test_engine_models_pixart_layers_cuda ;;
    test_denoiser) limit 120 test_engine_denoiser_cuda ;;
    attention) limit 90 bench attention ;;
    gemm) limit 90 bench gemm ;;
    step) limit 120 bench step --sizes 512,1024,2048 --budget-s 12 --kernels ;;
    step_stock) limit 90 bench step --sizes 1024,2048 --budget-s 8 --attention stock ;;
    step_short) limit 60 bench step --sizes 1024,2048 --budget-s 5 --kernels ;;
    step_4096) limit 100 bench --repeats 3 --warm-up 1 step --sizes 4096 --budget-s 15 ;;
    text) limit 90 bench text ;;
    diffusers) peer 60 --sizes 1024,2048 ;;
    diffusers_compiled) peer 120 --sizes 1024 --compile ;;
    diffusers_compiled_2048) peer 240 --sizes 2048 --compile ;;
    diffusers_4096) peer 100 --sizes 4096 --repeats 3 --warm-up 1 ;;
    *) echo "no part $1" >&2; return 2 ;;
  esac
}
default_parts=(test_norm test_residual test_guided_step test_gemm test_attention test_layers test_denoiser attention gemm
  step step_stock diffusers_compiled diffusers_compiled_2048 step_4096 diffusers_4096 text)

[ $# -gt 0 ] || set -- "${default_parts[@]}"
failed=0
rows=()
for part in "$@"; do
  echo "== $part"
  begin=$(date +%s.%N)
  run_part "$part" > "$out/$part.log" 2>&1
  status=$?
  seconds=$(awk -v a="$begin" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
  case $part in
    test_*) grep -E '^\[  (PASSED|FAILED)' "$out/$part.log" | tail -n 20 ;;
    *) tail -n 60 "$out/$part.log" ;;
  esac
  [ $status -eq 0 ] || { failed=1; [[ $part == test_* ]] && tail -n 15 "$out/$part.log"; }
  echo "-- $part: status $status, $seconds s"
  rows+=("{\"part\": \"$part\", \"status\": $status, \"seconds\": $seconds}")
done
(IFS=,; echo "[${rows[*]}]") > "$out/summary.json"
exit $failed
