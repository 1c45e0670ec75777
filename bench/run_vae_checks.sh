#!/usr/bin/env bash
# On a machine with a Hopper GPU, from the repository's root: the tests of the VAE's kernels, a decode at 1024 to 8192 px,
# its passes one by one, and stock diffusers beside it, in one run, so that ratios mean something. Under 5 minutes on an
# H200. With two GPUs, "nccl" adds the decode by two ranks.
#
#   bench/run_vae_checks.sh OUT [PART...]
#
# Writes into the folder OUT: PART.log for every part, and the numbers in PART.json. Without PARTs runs all but nccl.
# Programs are taken from build/bin and build/tests, or else from PATH. A part that fails or passes its time does not stop
# the others; the exit status tells of it.
set -uo pipefail
[ $# -ge 1 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2; }
out=$1; shift
mkdir -p "$out"
PATH=$PWD/build/bin:$PWD/build/tests:$PATH
python=${PYTHON:-python3}
[ -n "${PYTHON:-}" ] || [ ! -x .deps/venv/bin/python3 ] || python=.deps/venv/bin/python3
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}  # Multicast needs rights that virtual machines lack.

limit() { timeout --kill-after=5 "$@"; }
decode() { limit "$1" bench-vae --json "$out/$part.json" "${@:2}"; }
peer() { limit "$1" "$python" bench/peers/diffusers_vae.py --json "$out/$part.json" "${@:2}"; }

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
    diffusers) peer 90 ;;
    nccl)
      for test in neighbour_rows merged_moments split_queries vae_decode; do
        limit 120 "${test}_over_nccl" --gtest_brief=1 || return
      done
      decode 240 --ranks 2 ;;
    *) echo "no part $1" >&2; return 2 ;;
  esac
}
default_parts=(test_rows test_decoder bf16 fp16 diffusers passes large_slabs small_slabs tuned)

[ $# -gt 0 ] || set -- "${default_parts[@]}"
failed=0
for part in "$@"; do
  begin=$SECONDS
  run_part "$part" > "$out/$part.log" 2>&1
  status=$?
  tail -n 40 "$out/$part.log" | grep -vE '^(Running|Note:)'
  echo "-- $part: status $status, $((SECONDS - begin)) s"
  [ $status -eq 0 ] || failed=1
done
exit $failed
